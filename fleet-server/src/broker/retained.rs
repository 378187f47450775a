//! Retained messages in memory. If power dies they are gone: the server publishes desired state again from its database,
//! devices announce themselves again. rmqtt's own store keeps nothing (it leaves that to a plugin) and would expire each
//! message after the listener's default.

use std::str::FromStr;
use std::time::Duration;

use rmqtt::retain::{RetainStorage, RetainTree};
use rmqtt::topic::Topic;
use rmqtt::types::{Retain, TimedValue, TopicFilter, TopicName};
use tokio::sync::RwLock;

pub(crate) struct Retained {
    max: usize,
    kept: RwLock<Kept>,
}

#[derive(Default)]
struct Kept {
    tree: RetainTree<TimedValue<Retain>>,
    count: usize,
}

impl Retained {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, kept: RwLock::default() }
    }
}

#[async_trait::async_trait]
impl RetainStorage for Retained {
    fn enable(&self) -> bool {
        true
    }

    async fn set(&self, topic: &TopicName, retain: Retain, _default: Option<Duration>) -> rmqtt::Result<()> {
        let topic = Topic::from_str(topic)?;
        let expiry = retain.publish.properties.as_ref().and_then(|p| p.message_expiry_interval);
        let expiry = expiry.map(|seconds| Duration::from_secs(seconds.get().into()));
        let mut kept = self.kept.write().await;
        if kept.tree.remove(&topic).is_some() {
            kept.count -= 1;
        }
        if retain.publish.payload.is_empty() {
            return Ok(());
        }
        if kept.count >= self.max {
            kept.count -= kept.tree.retain(usize::MAX, |value| !value.is_expired());
        }
        // An error here would close the publisher's connection; it is delivered, not kept.
        if kept.count < self.max {
            kept.tree.insert(&topic, TimedValue::new(retain, expiry));
            kept.count += 1;
        }
        Ok(())
    }

    async fn get(&self, filter: &TopicFilter) -> rmqtt::Result<Vec<(TopicName, Retain)>> {
        let filter = Topic::from_str(filter)?;
        let kept = self.kept.read().await;
        let live = kept.tree.matches(&filter).into_iter().filter(|(_, value)| !value.is_expired());
        Ok(live.map(|(topic, value)| (TopicName::from(topic.to_string()), value.into_value())).collect())
    }

    async fn count(&self) -> isize {
        self.kept.read().await.count as isize
    }

    async fn max(&self) -> isize {
        self.max as isize
    }
}
