//! The hooks that ask the rule table, at CONNECT (with the will), PUBLISH and SUBSCRIBE, and report
//! every refusal. The name comes from the verified certificate only: what the client writes into
//! the user name field is overwritten by rmqtt, and a certificate without a name is refused.

use std::net::SocketAddr;
use std::sync::Arc;

use rmqtt::codec::v5::SubscribeAckReason;
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType};
use rmqtt::types::{AuthResult, ConnectInfo, Id, PublishAclResult, SubscribeAclResult};

use sedge_protocol::topic::Caller;

use super::backlog::Backlog;
use super::rights::{Action, allows};
use super::{Admit, Audit};

/// One refusal, for the audit log. Client-supplied text may hold any character: escape it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Empty when the certificate carries no usable name.
    pub name: String,
    /// As the client wrote it.
    pub client_id: String,
    /// The peer's socket.
    pub remote_addr: Option<SocketAddr>,
    /// What it asked to do.
    pub action: Action,
    /// Topic name, filter or client identifier, by `action`.
    pub topic: String,
}

pub(crate) struct Gate {
    pub(crate) admit: Arc<Admit>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) backlog: Arc<Backlog>,
}

impl Gate {
    fn ask(&self, id: &Id, name: &str, action: Action, topic: &str) -> bool {
        Caller::from_common_name(name).is_ok_and(|caller| allows(&caller, action, topic))
            || self.refuse(id, name, action, topic)
    }

    /// Always false.
    fn refuse(&self, id: &Id, name: &str, action: Action, topic: &str) -> bool {
        (self.audit)(&Denied {
            name: name.to_owned(),
            client_id: id.client_id.to_string(),
            remote_addr: id.remote_addr,
            action,
            topic: topic.to_owned(),
        });
        false
    }

    fn connect(&self, info: &ConnectInfo) -> bool {
        let ConnectInfo::V5(id, connect) = info else {
            // MQTT 3 has no reason codes; devices and server speak 5.
            return self.refuse(info.id(), "", Action::Connect, "");
        };
        let certificate = connect.cert.as_ref();
        let name = certificate.and_then(|c| c.common_name.as_deref()).unwrap_or_default();
        let serial = certificate.and_then(|c| c.serial.as_deref());
        // Later hooks read the name from the session's user name: it must be the certificate's.
        let (Ok(caller), Some(serial)) = (Caller::from_common_name(name), serial) else {
            return self.refuse(id, name, Action::Connect, &connect.client_id);
        };
        if id.username.as_deref() != Some(name) || !(self.admit)(&caller, serial) {
            return self.refuse(id, name, Action::Connect, &connect.client_id);
        }
        self.ask(id, name, Action::Connect, &connect.client_id)
            && connect.last_will.as_ref().is_none_or(|will| {
                self.ask(id, name, Action::Publish, &will.topic)
                    && (!will.retain || self.ask(id, name, Action::Retain, &will.topic))
            })
    }
}

#[async_trait::async_trait]
impl Handler for Gate {
    async fn hook(&self, parameter: &Parameter, acc: Option<HookResult>) -> ReturnType {
        match parameter {
            Parameter::ClientAuthenticate(info) => {
                let result =
                    if self.connect(info) { AuthResult::Allow(false, None) } else { AuthResult::NotAuthorized };
                (false, Some(HookResult::AuthResult(result)))
            }
            Parameter::MessagePublishCheckAcl(session, publish) => {
                let name = name_of(&session.id);
                let allowed = self.ask(&session.id, name, Action::Publish, &publish.topic)
                    && (!publish.retain || self.ask(&session.id, name, Action::Retain, &publish.topic));
                let result = if allowed { PublishAclResult::allow() } else { PublishAclResult::rejected(false, None) };
                (false, Some(HookResult::PublishAclResult(result)))
            }
            Parameter::ClientSubscribeCheckAcl(session, subscribe) => {
                let name = name_of(&session.id);
                let result = if self.ask(&session.id, name, Action::Subscribe, &subscribe.topic_filter) {
                    SubscribeAclResult::new_success(subscribe.opts.qos(), None)
                } else {
                    SubscribeAclResult::new_failure(SubscribeAckReason::NotAuthorized)
                };
                (false, Some(HookResult::SubscribeAclResult(result)))
            }
            Parameter::ClientConnected(session) => {
                self.backlog.start(&session.id);
                (true, acc)
            }
            Parameter::SessionTerminated(session, _) => {
                self.backlog.forget(&session.id);
                (true, acc)
            }
            // A redelivery did not pass the router, so it was not counted there.
            Parameter::MessageDelivered(session, _, publish) if !publish.dup => {
                self.backlog.leave(&session.id.client_id);
                (true, acc)
            }
            Parameter::MessageDropped(Some(to), ..) => {
                self.backlog.leave(&to.client_id);
                (true, acc)
            }
            _ => (true, acc),
        }
    }
}

fn name_of(id: &Id) -> &str {
    id.username.as_deref().unwrap_or_default()
}
