//! What a client asks of the broker, answered by the one table of topics, [`sedge_protocol::topic::RULES`].

use sedge_protocol::topic::{Caller, may_publish, may_retain, may_subscribe, may_use_client_id};

/// What a client asks to do. `Retain` is asked besides `Publish`; a will counts as both at CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Open a session; the topic is the client identifier.
    Connect,
    /// The topic is a topic name.
    Publish,
    /// Keep the message for later subscribers. Otherwise `t/<anything>` would let one device fill the retained store.
    Retain,
    /// The topic is a filter; `$share/…` reaches here unchanged.
    Subscribe,
}

/// Whether the table of topics lets `caller` do this. Everything that is not listed is refused.
pub fn allows(caller: &Caller, action: Action, topic: &str) -> bool {
    match action {
        Action::Connect => may_use_client_id(caller, topic),
        Action::Publish => may_publish(caller, topic),
        Action::Retain => may_retain(caller, topic),
        Action::Subscribe => may_subscribe(caller, topic),
    }
}
