//! The two calls that every host grants: [`log`] and [`mark`].
//!
//! In a component they are imports. Natively they go to the [`HostCalls`] that [`with_host`] put in place for the
//! current thread, or nowhere, so processors can be tested without a host.

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Where in a call the processor is. The host attributes latency by these marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Arguments have arrived; the SDK marks this.
    Entered,
    /// The encoded input (JPEG, PNG) is decoded; the processor marks this.
    Decoded,
    /// The work is done and the results leave; the SDK marks this.
    Leaving,
}

/// Writes one line to the host's log. The host keeps at most 20 lines of 1 KiB a second.
#[cfg(target_arch = "wasm32")]
pub fn log(level: Level, message: &str) {
    crate::guest::log(level, message);
}

/// Tells the host where in the call the processor is.
#[cfg(target_arch = "wasm32")]
pub fn mark(phase: Phase) {
    crate::guest::mark(phase);
}

#[cfg(not(target_arch = "wasm32"))]
pub use native::{HostCalls, log, mark, with_host};

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use super::{Level, Phase};
    use std::cell::RefCell;
    use std::rc::Rc;

    /// What a native host does with [`log`] and [`mark`].
    pub trait HostCalls {
        /// A line that the processor logged.
        fn log(&self, level: Level, message: &str);
        /// A mark that the processor set.
        fn mark(&self, phase: Phase);
    }

    thread_local! {
        static HOST: RefCell<Option<Rc<dyn HostCalls>>> = const { RefCell::new(None) };
    }

    /// Puts the previous host back, also when the processor panics.
    struct Restore(Option<Rc<dyn HostCalls>>);

    impl Drop for Restore {
        fn drop(&mut self) {
            let previous = self.0.take();
            HOST.with(|slot| *slot.borrow_mut() = previous);
        }
    }

    /// Runs `call` with `host` receiving this thread's [`log`] and [`mark`].
    pub fn with_host<R>(host: Rc<dyn HostCalls>, call: impl FnOnce() -> R) -> R {
        let _restore = Restore(HOST.with(|slot| slot.borrow_mut().replace(host)));
        call()
    }

    /// Writes one line to the host's log. The host keeps at most 20 lines of 1 KiB a second.
    pub fn log(level: Level, message: &str) {
        HOST.with(|slot| {
            if let Some(host) = slot.borrow().as_ref() {
                host.log(level, message);
            }
        });
    }

    /// Tells the host where in the call the processor is.
    pub fn mark(phase: Phase) {
        HOST.with(|slot| {
            if let Some(host) = slot.borrow().as_ref() {
                host.mark(phase);
            }
        });
    }
}
