//! Mosquitto, started for one test.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A broker that ends with this. It keeps nothing.
pub(crate) struct Mosquitto {
    pub(crate) port: u16,
    config: PathBuf,
    child: Child,
    _directory: tempfile::TempDir,
}

fn program() -> Option<&'static str> {
    ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
}

impl Mosquitto {
    /// `None`, with the reason on standard error, where there is none to be had.
    #[allow(clippy::print_stderr, reason = "a skipped test says why")]
    pub(crate) async fn start() -> Option<Self> {
        let Some(program) = program() else {
            assert!(std::env::var_os("SEDGE_REQUIRE_ALL").is_none(), "mosquitto is missing: apt-get install mosquitto");
            eprintln!("skipped: mosquitto is missing; apt-get install mosquitto");
            return None;
        };
        let directory = tempfile::tempdir().expect("a directory");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let config = directory.path().join("mosquitto.conf");
        let text =
            format!("listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_packet_size 122880\n");
        std::fs::write(&config, text).expect("written");
        let child = run(program, &config);
        let broker = Self { port, config, child, _directory: directory };
        broker.ready().await;
        Some(broker)
    }

    async fn ready(&self) {
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("mosquitto does not listen on {}", self.port);
    }

    /// Ends it and begins anew: everything it knew is lost.
    pub(crate) async fn restart(&mut self) {
        self.stop();
        self.child = run(program().expect("it was there"), &self.config);
        self.ready().await;
    }

    fn stop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn run(program: &str, config: &std::path::Path) -> Child {
    Command::new(program)
        .arg("-c")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto starts")
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.stop();
    }
}
