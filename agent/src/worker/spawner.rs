//! One thread that starts every worker. The kernel kills a worker when *the thread that started it* ends
//! (`PR_SET_PDEATHSIG`), and a runtime's own threads come and go; this one lasts as long as the process.

use std::io;
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

struct Start {
    command: Command,
    runtime: Handle,
    started: oneshot::Sender<io::Result<Child>>,
}

static STARTS: LazyLock<Mutex<Option<mpsc::Sender<Start>>>> = LazyLock::new(|| {
    let (send, starts) = mpsc::channel::<Start>();
    let thread = std::thread::Builder::new().name("sedge-spawn".into()).stack_size(256 << 10);
    let running = thread.spawn(move || {
        for Start { mut command, runtime, started } in starts {
            let _context = runtime.enter();
            // Whoever asked may be gone; a child that nobody takes is killed when it is dropped.
            let _ = started.send(command.spawn());
        }
    });
    Mutex::new(running.ok().map(|_| send))
});

/// Starts a program as a child of the lasting thread.
pub(super) async fn spawn(command: Command) -> io::Result<Child> {
    let gone = || io::Error::other("the thread that starts workers does not run");
    let (started, answer) = oneshot::channel();
    let start = Start { command, runtime: Handle::current(), started };
    {
        let starts = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
        starts.as_ref().ok_or_else(gone)?.send(start).map_err(|_| gone())?;
    }
    answer.await.map_err(|_| gone())?
}
