//! Bounds what rmqtt does not: the unbounded channel from the router to a session. While a session
//! waits in a socket write nothing drains that channel; at 50,000 messages of 4 KiB it grew to
//! 415 MiB (measured). The router asks here before it forwards, and the hooks count down.
//!
//! The count may run low (redeliveries, retained messages and a resumed session's queue are not
//! counted in, yet counted out), by at most the queue and in-flight bounds; it never stays high,
//! because each new connection starts at zero.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use rmqtt::router::{DefaultRouter, Router};
use rmqtt::types::{
    AllRelationsMap, ClientId, HashMap, Id, NodeId, Route, SubRelationsMap, SubsSearchParams, SubsSearchResult,
    SubscriptionOptions, TopicName,
};
use rmqtt::utils::Counter;

use super::bounds::Bounds;

pub(crate) struct Backlog {
    bounds: Arc<Bounds>,
    clients: DashMap<ClientId, Waiting>,
    shed: AtomicU64,
}

struct Waiting {
    id: Id,
    messages: AtomicUsize,
    limit: usize,
}

impl Backlog {
    pub(crate) fn new(bounds: Arc<Bounds>) -> Self {
        Self { bounds, clients: DashMap::new(), shed: AtomicU64::new(0) }
    }

    pub(crate) fn start(&self, id: &Id) {
        let queue = self.bounds.queue_messages(id.username.as_deref().unwrap_or_default());
        let limit = queue + self.bounds.backlog_messages;
        let waiting = Waiting { id: id.clone(), messages: AtomicUsize::new(0), limit };
        self.clients.insert(id.client_id.clone(), waiting);
    }

    /// An old session of the same client may end after the new one has begun.
    pub(crate) fn forget(&self, id: &Id) {
        self.clients.remove_if(&id.client_id, |_, waiting| waiting.id == *id);
    }

    /// False when the client has enough waiting; the message is then not forwarded to it.
    fn enter(&self, client: &ClientId) -> bool {
        let Some(waiting) = self.clients.get(client) else { return true };
        let entered = waiting
            .messages
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < waiting.limit).then_some(n + 1))
            .is_ok();
        if !entered {
            self.shed.fetch_add(1, Ordering::Relaxed);
        }
        entered
    }

    pub(crate) fn leave(&self, client: &ClientId) {
        if let Some(waiting) = self.clients.get(client) {
            let _ = waiting.messages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        }
    }

    /// Messages not forwarded to a client that did not keep up, since start.
    pub(crate) fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }
}

/// rmqtt's router, which leaves out the clients that have enough waiting.
pub(crate) struct BoundedRouter {
    pub(crate) inner: DefaultRouter,
    pub(crate) backlog: Arc<Backlog>,
}

#[async_trait::async_trait]
impl Router for BoundedRouter {
    async fn matches(&self, id: Id, topic: &TopicName) -> rmqtt::Result<SubRelationsMap> {
        let mut relations = self.inner.matches(id, topic).await?;
        for node in relations.values_mut() {
            node.retain(|(_, client, ..)| self.backlog.enter(client));
        }
        Ok(relations)
    }

    async fn add(&self, filter: &str, id: Id, opts: SubscriptionOptions) -> rmqtt::Result<()> {
        self.inner.add(filter, id, opts).await
    }
    async fn remove(&self, filter: &str, id: Id) -> rmqtt::Result<bool> {
        self.inner.remove(filter, id).await
    }
    async fn is_online(&self, node: NodeId, client: &str) -> bool {
        self.inner.is_online(node, client).await
    }
    async fn gets(&self, limit: usize) -> Vec<Route> {
        self.inner.gets(limit).await
    }
    async fn get(&self, topic: &str) -> rmqtt::Result<Vec<Route>> {
        self.inner.get(topic).await
    }
    async fn query_subscriptions(&self, query: &SubsSearchParams) -> Vec<SubsSearchResult> {
        self.inner.query_subscriptions(query).await
    }
    async fn topics_tree(&self) -> usize {
        self.inner.topics_tree().await
    }
    fn topics(&self) -> Counter {
        self.inner.topics()
    }
    fn routes(&self) -> Counter {
        self.inner.routes()
    }
    fn merge_topics(&self, topics: &HashMap<NodeId, Counter>) -> Counter {
        self.inner.merge_topics(topics)
    }
    fn merge_routes(&self, routes: &HashMap<NodeId, Counter>) -> Counter {
        self.inner.merge_routes(routes)
    }
    async fn list_topics(&self, top: usize) -> Vec<String> {
        self.inner.list_topics(top).await
    }
    async fn list_relations(&self, top: usize) -> Vec<serde_json::Value> {
        self.inner.list_relations(top).await
    }
    fn relations(&self) -> &AllRelationsMap {
        self.inner.relations()
    }
}
