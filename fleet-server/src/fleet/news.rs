//! What has changed of a device, told after it was stored.

use super::session::Record;
use sedge_protocol::id::{ComponentName, Generation, Principal, RolloutId};

/// News that wait for a slow listener before it misses some.
pub(super) const NEWS_MAX: usize = 4096;

/// Something that is stored now.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// What a device said.
    Said(Record),
    /// A component of a device is to run something else.
    Desired {
        /// The device.
        device: Principal,
        /// The component.
        component: ComponentName,
        /// The generation that says so.
        generation: Generation,
        /// The rollout that did it; none for everybody else.
        by: Option<RolloutId>,
    },
}
