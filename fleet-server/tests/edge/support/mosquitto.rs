//! Mosquitto as a process of the test's own, with the access table that the protocol crate writes.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sedge_protocol::topic::{Tenancy, mosquitto_acl};

pub struct Mosquitto {
    child: Child,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says why a test does not run, or fails where everything must run.
pub fn is_missing() -> bool {
    let missing = Command::new("mosquitto").arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err();
    if missing {
        let reason = "mosquitto is not installed; `apt-get install mosquitto`";
        assert!(std::env::var_os("SEDGE_REQUIRE_ALL").is_none(), "{reason}");
        eprintln!("skipped: {reason}");
    }
    missing
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Mosquitto {
    /// Serves with the server's certificate, to clients of its authority.
    pub async fn start(dir: &Path, port: u16, pki: &Path, tenancy: Tenancy) -> Self {
        std::fs::write(dir.join("acl"), mosquitto_acl(&["main".parse().unwrap()], tenancy)).unwrap();
        let server = pki.join("server.pem");
        let config = format!(
            "listener {port} 127.0.0.1\ncafile {root}\ncertfile {server}\nkeyfile {server}\nrequire_certificate true\n\
             use_identity_as_username true\nallow_anonymous false\nacl_file {acl}\npersistence false\n\
             log_dest file {log}\n{user}",
            root = pki.join("root.pem").display(),
            server = server.display(),
            acl = dir.join("acl").display(),
            log = dir.join("log").display(),
            // As root it would become a user who cannot read the files above.
            user = "user root\n",
        );
        std::fs::write(dir.join("conf"), config).unwrap();
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(dir.join("conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let broker = Self { child };
        for _ in 0..100 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return broker;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("mosquitto does not listen: {}", std::fs::read_to_string(dir.join("log")).unwrap_or_default());
    }
}
