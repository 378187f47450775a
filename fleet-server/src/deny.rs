//! Which certificates the broker and the renewal refuse, in memory, because the broker asks on its packet path.
//!
//! The database is the truth and is read at start; a withdrawal enters here before it is written there, so that at no
//! moment a device that is gone is let in.

use crate::pki::Serial;
use crate::store::Denied;
use sedge_protocol::id::Principal;
use sedge_protocol::topic::Caller;
use std::collections::HashSet;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What must not connect.
#[derive(Debug, Default)]
pub struct DenyList(RwLock<Entries>);

#[derive(Debug, Default)]
struct Entries {
    devices: HashSet<Principal>,
    serials: HashSet<Serial>,
}

impl DenyList {
    /// With what the database says.
    pub fn new(denied: Denied) -> Self {
        let entries =
            Entries { devices: denied.devices.into_iter().collect(), serials: denied.serials.into_iter().collect() };
        Self(RwLock::new(entries))
    }

    /// Whether a certificate is still good.
    pub fn admits(&self, caller: &Caller, serial: &Serial) -> bool {
        let entries = self.read();
        let is_gone = matches!(caller, Caller::Device(device) if entries.devices.contains(device));
        !is_gone && !entries.serials.contains(serial)
    }

    /// Refuses a device, whatever its certificate.
    pub fn deny_device(&self, device: &Principal) {
        self.write().devices.insert(device.clone());
    }

    /// Refuses certificates.
    pub fn deny_serials(&self, serials: &[Serial]) {
        self.write().serials.extend(serials.iter().cloned());
    }

    /// Takes a device back; its old certificates stay refused.
    pub fn readmit(&self, device: &Principal) {
        self.write().devices.remove(device);
    }

    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_taken_back_needs_a_new_certificate() {
        let list = DenyList::default();
        let device: Principal = "acme:cam-1".parse().expect("a name");
        let caller = Caller::Device(device.clone());
        let (old, new) = (Serial::from_hex("0a"), Serial::from_hex("b"));
        assert!(list.admits(&caller, &old));
        list.deny_device(&device);
        list.deny_serials(std::slice::from_ref(&old));
        assert!(!list.admits(&caller, &old) && !list.admits(&caller, &new));
        list.readmit(&device);
        assert!(!list.admits(&caller, &old) && list.admits(&caller, &new));
        assert!(!list.admits(&Caller::Server("main".parse().expect("a name")), &Serial::from_hex("A")));
    }
}
