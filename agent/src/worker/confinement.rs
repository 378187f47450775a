//! What a worker gives up, in three stages, each before it touches what it might be betrayed by.
//!
//! 1. [`Stage::Prepare`], before it reads anything: no network, no file is changed, no other process is looked into.
//!    The bundle is read and verified, and its WebAssembly compiled by a child process, which inherits all of this and
//!    bounds itself further. Code goes to the agent, for its cache, and comes from there, in this stage only.
//! 2. [`Stage::Load`], before the model is parsed and a guest runs: no program and no process is started any more.
//!    Files can still be read: tract measures the caches of the processor through `/sys`.
//! 3. [`Stage::Serve`], before the first sample: a short list of calls remains (memory, threads, time, and reading and
//!    writing what is open); nothing is opened, and no new memory becomes executable.
//!
//! A call that is taken away fails with EPERM rather than ending the process: libraries probe, and get along without.

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
mod filter;

use super::message::Limits;
use std::io;

/// What is taken away next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Network, changing files, other processes.
    Prepare,
    /// Starting programs.
    Load,
    /// All but a short list.
    Serve,
}

/// A right could not be given up. A worker that fails to shed one must not go on.
#[derive(Debug, thiserror::Error)]
#[error("cannot give up {right}")]
pub struct ConfinementError {
    right: &'static str,
    #[source]
    source: io::Error,
}

impl ConfinementError {
    fn last(right: &'static str) -> Self {
        Self { right, source: io::Error::last_os_error() }
    }
}

/// Sheds what needs no filter: new privileges, core dumps, inspection by others, and every inherited descriptor but the
/// first three. The process ends with the thread that started it, and is the first to go when memory is short.
///
/// # Errors
/// [`ConfinementError`] naming the right.
pub fn confine() -> Result<(), ConfinementError> {
    limit("core dumps", libc::RLIMIT_CORE, 0)?;
    #[cfg(target_os = "linux")]
    {
        let set = |right, option: i32, value: libc::c_ulong| {
            let zero: libc::c_ulong = 0;
            // SAFETY: these options take numbers and touch no memory.
            match unsafe { libc::prctl(option, value, zero, zero, zero) } {
                0 => Ok(()),
                _ => Err(ConfinementError::last(right)),
            }
        };
        // Not everywhere may a process say so; it is for the device's sake, not against the worker.
        let _ = std::fs::write("/proc/self/oom_score_adj", "500");
        set("life without the agent", libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
        set("new privileges", libc::PR_SET_NO_NEW_PRIVS, 1)?;
        set("inspection by others", libc::PR_SET_DUMPABLE, 0)?;
    }
    close_others();
    Ok(())
}

/// Bounds memory and open files. Address space is not bounded: the sandbox reserves 4 GiB for each guest.
///
/// # Errors
/// [`ConfinementError`] naming the resource.
pub(super) fn bound(limits: &Limits) -> Result<(), ConfinementError> {
    limit("more memory", libc::RLIMIT_DATA, limits.memory_bytes)?;
    limit("more open files", libc::RLIMIT_NOFILE, limits.files)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
type Resource = libc::c_int;

fn limit(right: &'static str, resource: Resource, value: u64) -> Result<(), ConfinementError> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `old` is a valid rlimit to write to, and outlives the call.
    if unsafe { libc::getrlimit(resource, &raw mut old) } != 0 {
        return Err(ConfinementError::last(right));
    }
    // Whoever started this process may have set a lower limit, which cannot be raised.
    let value = old.rlim_max.min(libc::rlim_t::try_from(value).unwrap_or(libc::RLIM_INFINITY));
    let new = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `new` is a valid rlimit that outlives the call.
    match unsafe { libc::setrlimit(resource, &raw const new) } {
        0 => Ok(()),
        _ => Err(ConfinementError::last(right)),
    }
}

fn close_others() {
    #[cfg(target_os = "linux")]
    // SAFETY: at the start of a process no descriptor above the first three belongs to anything in it.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } == 0 {
        return;
    }
    for fd in 3..1024 {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
}

/// Gives up what the stage says, for all threads and children. Whether the system can: not every architecture's.
///
/// # Errors
/// [`ConfinementError`] when the kernel refuses.
pub fn restrict(stage: Stage) -> Result<bool, ConfinementError> {
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
    return filter::apply(stage).map(|()| true);
    #[allow(unreachable_code)]
    {
        let _ = stage;
        Ok(false)
    }
}
