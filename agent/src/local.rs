//! What somebody at the device may ask the running agent: one question per connection to a Unix socket in the state
//! directory, which belongs to the agent's user alone. Question and answer are one line of JSON each.

use crate::control::{Local, StatusFile};
use crate::logs::LogRing;
use sedge_protocol::id::ComponentName;
use sedge_protocol::message::LogLevel;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

/// Longest question.
const QUESTION_BYTES_MAX: u64 = 4096;
/// Longest answer: the whole log ring, escaped.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// How long an exchange may take.
const EXCHANGE: Duration = Duration::from_secs(10);
/// Exchanges at once.
const EXCHANGES_MAX: usize = 8;

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Question {
    /// How the device fares.
    Status,
    /// Back to the bundle from before.
    RollBack {
        /// Which component.
        component: ComponentName,
    },
    /// The newest log lines, oldest first.
    Logs {
        /// How many at most.
        lines_max: u32,
        /// This severe or more.
        level: LogLevel,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer<T> {
    Ok(T),
    Error(String),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Nobody listens.
    #[error("no agent runs with the state directory {}; start it with `sedge-agent run`", .0.display())]
    NotRunning(PathBuf),
    /// The socket may not be used by this user.
    #[error("the agent's socket in {} is for the user that runs it; become that user", .0.display())]
    NotAllowed(PathBuf),
    /// The exchange broke.
    #[error("asking the agent")]
    Io(#[source] io::Error),
    /// The agent said no.
    #[error("the agent refuses: {0}")]
    Refused(String),
    /// The answer is of another version.
    #[error("the agent's answer is not understood; is it of another version than this command?")]
    Malformed(#[source] serde_json::Error),
}

/// The directory under a name that is short enough for a socket's address, whatever its own is. Both must be kept.
fn short_name(state_dir: &Path) -> io::Result<(std::fs::File, PathBuf)> {
    let dir = std::fs::File::open(state_dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/agent.sock", dir.as_raw_fd()));
    Ok((dir, path))
}

/// Takes questions until it is aborted.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(state_dir: &Path, ask: mpsc::Sender<Local>, logs: LogRing) -> io::Result<JoinHandle<()>> {
    let (_dir, path) = short_name(state_dir)?;
    // The state directory's lock says that whoever made it is gone.
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // The directory is closed to others before the socket is there, and it for itself.
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let places = Arc::new(Semaphore::new(EXCHANGES_MAX));
    Ok(tokio::spawn(async move {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (ask, logs) = (ask.clone(), logs.clone());
                    tokio::spawn(async move {
                        let _place = place;
                        // Whoever is too slow or gone asks again.
                        let _ = tokio::time::timeout(EXCHANGE, exchange(stream, ask, logs)).await;
                    });
                }
                Err(e) => {
                    tracing::warn!(error = %e, "the agent's socket takes no connection");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }))
}

async fn exchange(stream: UnixStream, ask: mpsc::Sender<Local>, logs: LogRing) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(QUESTION_BYTES_MAX)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(question) => answer(question, &ask, &logs).await,
        Err(e) => Err(format!("the question is not understood: {e}")),
    };
    let answer = answer.map_or_else(Answer::Error, Answer::Ok);
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await
}

async fn answer(question: Question, ask: &mpsc::Sender<Local>, logs: &LogRing) -> Result<serde_json::Value, String> {
    let stopping = || "the agent is stopping".to_owned();
    match question {
        Question::Status => {
            let (to, answer) = oneshot::channel();
            ask.send(Local::Status { answer: to }).await.map_err(|_| stopping())?;
            let status: StatusFile = answer.await.map_err(|_| stopping())?;
            serde_json::to_value(status).map_err(|e| e.to_string())
        }
        Question::RollBack { component } => {
            let (to, answer) = oneshot::channel();
            ask.send(Local::RollBack { component, answer: to }).await.map_err(|_| stopping())?;
            answer.await.map_err(|_| stopping())?.map(|()| serde_json::Value::Null)
        }
        Question::Logs { lines_max, level } => {
            Ok(logs.newest(usize::try_from(lines_max).unwrap_or(usize::MAX), level, 0).into())
        }
    }
}

/// Asks the agent that runs with this state directory.
///
/// # Errors
/// [`LocalError`].
pub fn ask<T: DeserializeOwned>(state_dir: &Path, question: &Question) -> Result<T, LocalError> {
    let unreachable = |e: io::Error| match e.kind() {
        io::ErrorKind::PermissionDenied => LocalError::NotAllowed(state_dir.to_owned()),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => LocalError::NotRunning(state_dir.to_owned()),
        _ => LocalError::Io(e),
    };
    let (_dir, path) = short_name(state_dir).map_err(unreachable)?;
    let mut stream = BlockingStream::connect(path).map_err(unreachable)?;
    let limits = stream.set_read_timeout(Some(EXCHANGE)).and_then(|()| stream.set_write_timeout(Some(EXCHANGE)));
    limits.map_err(LocalError::Io)?;
    let mut line = serde_json::to_vec(question).map_err(LocalError::Malformed)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(LocalError::Io)?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut answer).map_err(LocalError::Io)?;
    match serde_json::from_str(&answer).map_err(LocalError::Malformed)? {
        Answer::Ok(answer) => Ok(answer),
        Answer::Error(why) => Err(LocalError::Refused(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn questions_are_answered_and_nonsense_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep = dir.path().join("x".repeat(120));
        std::fs::create_dir(&deep).expect("made");
        let (asked, mut asks) = mpsc::channel(4);
        let logs = LogRing::default();
        logs.push(1, LogLevel::Warn, "the line is down");
        assert!(matches!(ask::<()>(&deep, &Question::Status), Err(LocalError::NotRunning(_))));
        let task = listen(&deep, asked, logs).expect("listens");
        let answered = tokio::spawn(async move {
            while let Some(Local::RollBack { component, answer }) = asks.recv().await {
                let known = component.as_str() == "digits";
                let _ = answer.send(if known { Ok(()) } else { Err("no such component".to_owned()) });
            }
        });
        let asked = |question: Question| {
            let deep = deep.clone();
            tokio::task::spawn_blocking(move || ask::<serde_json::Value>(&deep, &question))
        };
        let roll_back = |name: &str| Question::RollBack { component: name.parse().expect("a name") };
        assert!(asked(roll_back("digits")).await.expect("ran").expect("done").is_null());
        let refused = asked(roll_back("camera")).await.expect("ran").expect_err("refused");
        assert_eq!(refused.to_string(), "the agent refuses: no such component");
        let lines = asked(Question::Logs { lines_max: 9, level: LogLevel::Info }).await.expect("ran").expect("lines");
        assert_eq!(lines, serde_json::json!(["the line is down"]));
        let (_dir, path) = short_name(&deep).expect("there");
        let mut stream = UnixStream::connect(path).await.expect("connected");
        stream.write_all(b"{\"ask\":\"reboot\"}\n").await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(
            answer.starts_with("{\"error\":\"the question is not understood: unknown variant `reboot`"),
            "{answer}"
        );
        task.abort();
        answered.abort();
    }
}
