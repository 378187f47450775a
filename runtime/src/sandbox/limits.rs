//! What a guest may use.

use sedge_protocol::manifest::{Grant, Limits as BundleLimits};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// Linear memory that the tight profile reserves for each guest, and so the most that one can have there.
pub(crate) const TIGHT_MEMORY_BYTES_MAX: u64 = 64 << 20;

/// How the engine lays out a guest's memory. It is part of the compiled code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemoryProfile {
    /// 4 GiB of address space per guest: accesses need no bounds checks. For 64-bit systems that grant it.
    Roomy,
    /// Address space for the guest's cap only: explicit checks, slower. For small and 32-bit systems.
    Tight,
}

impl MemoryProfile {
    /// Roomy where the system grants the address space for two guests, else tight.
    pub fn probe() -> Self {
        // Some 64-bit boards refuse large reservations (overcommit or few address bits), so ask rather than assume.
        if cfg!(target_pointer_width = "64") && reserve(10 << 30) { Self::Roomy } else { Self::Tight }
    }

    /// Name in settings and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Roomy => "roomy",
            Self::Tight => "tight",
        }
    }
}

impl fmt::Display for MemoryProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn reserve(bytes: u64) -> bool {
    let Ok(length) = usize::try_from(bytes) else { return false };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory, and it is unmapped
    // with the same address and length before anything can refer to it.
    unsafe {
        let address = libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0);
        address != libc::MAP_FAILED && libc::munmap(address, length) == 0
    }
}

/// Host interfaces that a guest may import beside `log` and `trace`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants(BTreeSet<Grant>);

impl Grants {
    /// What the manifest asks for and the device's policy allows.
    pub fn agreed(asked: &BTreeSet<Grant>, allowed: &BTreeSet<Grant>) -> Self {
        Self(asked & allowed)
    }

    /// Whether `grant` is given.
    pub fn has(&self, grant: Grant) -> bool {
        self.0.contains(&grant)
    }
}

/// Bounds of one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory.
    pub memory_bytes: u64,
    /// One call of `process`.
    pub process: Duration,
    /// One call of `configure`, with the instantiation before it.
    pub configure: Duration,
}

impl Limits {
    /// The limits that a manifest sets.
    pub fn of(bundle: &BundleLimits) -> Self {
        Self {
            memory_bytes: u64::from(bundle.sandbox_memory_mib) << 20,
            process: Duration::from_millis(bundle.sandbox_ms.into()),
            ..Self::default()
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_bytes: 32 << 20, process: Duration::from_millis(250), configure: Duration::from_secs(2) }
    }
}

/// Elements of all tables of a guest: enough for any module's functions, too few to matter.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Core instances, memories and tables inside one component.
pub(crate) const INSTANCES_MAX: usize = 16;
pub(crate) const MEMORIES_MAX: usize = 2;
pub(crate) const TABLES_MAX: usize = 8;
/// Bytes that one call may hand to the host.
pub(crate) const HOSTCALL_BYTES_MAX: usize = 16 << 20;
/// Bytes of a sample that are handed to a guest.
pub(crate) const INPUT_BYTES_MAX: usize = 16 << 20;
/// Length of the note from preprocessor to postprocessor.
pub(crate) const CONTEXT_BYTES_MAX: usize = 4 << 10;
