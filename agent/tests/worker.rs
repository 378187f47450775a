//! Real worker processes: what they answer, how they fail, and what they cannot do.
#![allow(clippy::print_stdout, reason = "figures are printed")]

mod common;

use common::{digits, image, load, pack, sample, signal, start};
use sedge_agent::worker::{
    Answer, Caches, Deadlines, Limits, Stage, Worker, WorkerError, confine, memory_bytes, restrict,
};

#[tokio::test]
async fn a_worker_answers_and_its_memory_is_known() {
    let directory = tempfile::tempdir().expect("directory");
    let bundle = digits(directory.path(), "v1");
    let mut worker = start(Deadlines::default()).await;
    println!("memory of a worker without a model: {} KiB", memory_bytes(worker.pid()).expect("known") >> 10);
    let began = std::time::Instant::now();
    let loaded = worker.load(load(&bundle), &Caches::default()).await.expect("loaded");
    println!("loading the digits bundle: {} ms", began.elapsed().as_millis());
    assert_eq!((loaded.name.as_str(), loaded.version.to_string().as_str()), ("digits", "1.0.0"));
    assert_eq!(loaded.filtered, cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))));
    assert_eq!(worker.golden().await.expect("passed"), 12);

    let answer = worker.process(&sample(1, "0000.png", image("0000.png")), "p-1").await.expect("answered");
    let Answer::Outcome(outcome) = answer else { panic!("{answer:?}") };
    assert_eq!(outcome.predictions[0].id, "p-1");
    assert!(!outcome.predictions[0].labels.is_empty() && outcome.timings.total_us > 0);

    let mut times = Vec::new();
    for seq in 0..500 {
        let began = std::time::Instant::now();
        worker.process(&sample(seq, "0000.png", image("0000.png")), "p").await.expect("answered");
        times.push(began.elapsed());
    }
    times.sort();
    println!("a sample there and back: p50 {} us, p95 {} us", times[250].as_micros(), times[475].as_micros());
    println!("memory of a worker with the digits bundle: {} KiB", memory_bytes(worker.pid()).expect("known") >> 10);
    worker.ping().await.expect("there");
    worker.kill().await;
}

#[tokio::test]
async fn a_large_sample_travels_in_shared_memory_and_a_bad_one_fails_alone() {
    let directory = tempfile::tempdir().expect("directory");
    let bundle = digits(directory.path(), "v1");
    let mut worker = start(Deadlines::default()).await;
    worker.load(load(&bundle), &Caches::default()).await.expect("loaded");
    let small = image("0000.png");
    // What follows the end of a PNG is ignored by decoders.
    let mut large = small.clone();
    large.resize(5 << 20, 0);
    let of = |answer: Answer| match answer {
        Answer::Outcome(outcome) => outcome.predictions,
        other => panic!("{other:?}"),
    };
    let expected = of(worker.process(&sample(1, "a.png", small.clone()), "p").await.expect("answered"));
    let found = of(worker.process(&sample(2, "a.png", large), "p").await.expect("answered"));
    assert_eq!(found, expected);

    for (name, bytes) in [("broken.png", vec![7; 100]), ("huge.png", vec![0; (16 << 20) + 1]), ("empty.png", vec![])] {
        let answer = worker.process(&sample(3, name, bytes), "p").await.expect("answered");
        let Answer::Failed { detail } = answer else { panic!("{name}: {answer:?}") };
        println!("{name}: {detail}");
    }
    assert_eq!(of(worker.process(&sample(4, "a.png", small), "p").await.expect("answered")), expected);
}

#[tokio::test]
async fn a_bundle_that_is_not_what_was_ordered_is_refused() {
    let directory = tempfile::tempdir().expect("directory");
    let (one, two) = (digits(directory.path(), "v1"), digits(directory.path(), "v2"));
    let mut worker = start(Deadlines::default()).await;
    let mut wrong = load(&one);
    wrong.digest = two.digest;
    let Err(WorkerError::Refused(detail)) = worker.load(wrong, &Caches::default()).await else { panic!("loaded") };
    assert!(detail.contains(&two.digest.to_string()), "{detail}");

    let mut wrong = load(&one);
    wrong.settings = serde_json::json!({ "thread": 2 });
    let Err(WorkerError::Refused(detail)) = start(Deadlines::default()).await.load(wrong, &Caches::default()).await
    else {
        panic!("loaded")
    };
    assert!(detail.contains("`thread`"), "{detail}");
}

#[tokio::test]
async fn a_golden_sample_that_comes_out_wrong_is_named() {
    let directory = tempfile::tempdir().expect("directory");
    let change = |manifest: String| manifest.replace("golden/3.png\"\nlabel = \"3\"", "golden/3.png\"\nlabel = \"4\"");
    let bundle = pack(directory.path(), "v1", "wrong-golden", change);
    let mut worker = start(Deadlines::default()).await;
    worker.load(load(&bundle), &Caches::default()).await.expect("loaded");
    let Err(WorkerError::Refused(detail)) = worker.golden().await else { panic!("passed") };
    assert!(detail.contains("golden/3.png") && detail.contains("`4`"), "{detail}");
}

#[tokio::test]
async fn death_and_hanging_are_told_apart() {
    let directory = tempfile::tempdir().expect("directory");
    let bundle = digits(directory.path(), "v1");
    let mut worker = start(Deadlines::default()).await;
    worker.load(load(&bundle), &Caches::default()).await.expect("loaded");
    signal(worker.pid(), libc::SIGKILL);
    let error = worker.ping().await.expect_err("dead");
    assert!(matches!(error, WorkerError::Ended(_)) && error.to_string().contains("signal: 9"), "{error}");

    let mut worker = start(Deadlines { ping_ms: 100, ..Deadlines::default() }).await;
    signal(worker.pid(), libc::SIGSTOP);
    let error = worker.ping().await.expect_err("hanging");
    assert!(matches!(error, WorkerError::Hung { request: "ping", .. }), "{error}");
    worker.kill().await;
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn the_kernel_says_that_a_worker_is_confined() {
    let directory = tempfile::tempdir().expect("directory");
    let bundle = digits(directory.path(), "v1");
    let mut worker = start(Deadlines::default()).await;
    worker.load(load(&bundle), &Caches::default()).await.expect("loaded");
    let of = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", worker.pid())).expect("read");
    let status = of("status");
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.lines().any(|l| l == line), "{line}: {status}");
    }
    assert_eq!(of("environ"), "");
    let limits = of("limits");
    assert!(limits.contains("Max core file size        0                    0"), "{limits}");
    // The socket, the log twice, and memory that guests are made from.
    let open = std::fs::read_dir(format!("/proc/{}/fd", worker.pid())).expect("listed").flatten();
    let open: Vec<String> =
        open.filter_map(|e| std::fs::read_link(e.path()).ok()).map(|to| to.display().to_string()).collect();
    println!("open in a worker: {open:?}");
    assert_eq!(open.iter().filter(|to| to.starts_with("socket:")).count(), 1, "{open:?}");
    assert!(open.iter().all(|to| ["socket:", "pipe:", "/memfd:"].iter().any(|kind| to.starts_with(kind))), "{open:?}");
}

/// Run in a process of its own by the test below.
#[test]
#[ignore = "confines the process it runs in"]
fn tries_what_a_worker_must_not() {
    use std::io::ErrorKind::PermissionDenied;
    let denied = |what: &str, result: std::io::Result<()>| {
        let kind = result.map_err(|e| e.kind());
        assert_eq!(kind, Err(PermissionDenied), "{what}");
        println!("denied: {what}");
    };
    let file = std::env::temp_dir().join("sedge-must-not-exist");
    let readable = std::env::current_exe().expect("known");
    confine().expect("confined");
    let connect = || std::net::TcpStream::connect("127.0.0.1:9").map(drop);
    let write = || std::fs::write(&file, "x");
    let run = || std::process::Command::new("/bin/true").status().map(drop);
    let read = || std::fs::File::open(&readable).map(drop);
    let executable = || {
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        match unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) } {
            libc::MAP_FAILED => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    let trace = || {
        // SAFETY: without a process to trace it touches nothing.
        match unsafe { libc::ptrace(libc::PTRACE_ATTACH, 1, 0, 0) } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    assert!(restrict(Stage::Prepare).expect("restricted"));
    for (what, result) in [("connect", connect()), ("write a file", write()), ("ptrace", trace())] {
        denied(&format!("{what}, while preparing"), result);
    }
    run().expect("the compiling child is started");
    read().expect("the bundle is read");

    restrict(Stage::Load).expect("restricted");
    denied("execve, while loading", run());
    read().expect("files of the system are read");
    executable().expect("code is made executable");
    std::thread::spawn(|| ()).join().expect("threads are started");

    restrict(Stage::Serve).expect("restricted");
    for (what, result) in [
        ("connect", connect()),
        ("write a file", write()),
        ("read a file", read()),
        ("execve", run()),
        ("ptrace", trace()),
        ("executable memory", executable()),
    ] {
        denied(&format!("{what}, while serving"), result);
    }
    std::thread::spawn(|| vec![0u8; 1 << 20].len()).join().expect("threads and memory remain");
}

#[test]
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
fn a_worker_can_neither_connect_nor_run_nor_write() {
    let this = std::env::current_exe().expect("known");
    let arguments = ["--exact", "tries_what_a_worker_must_not", "--ignored", "--nocapture", "--test-threads=1"];
    // Standard streams stay; all else is closed.
    let output = std::process::Command::new(this).args(arguments).output().expect("run");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.matches("denied: ").count(), 10, "{text}");
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_worker_that_wants_too_much_memory_ends_and_says_why() {
    let directory = tempfile::tempdir().expect("directory");
    let bundle = digits(directory.path(), "v1");
    let limits = Limits { memory_bytes: 3 << 20, ..Limits::default() };
    let worker = Worker::start(&common::program(), limits, Deadlines::default(), "test".to_owned()).await;
    let error = worker.expect("started").load(load(&bundle), &Caches::default()).await.expect_err("too little memory");
    let WorkerError::Ended(exit) = error else { panic!("{error}") };
    println!("with 3 MiB, the worker {exit}");
    assert!(exit.status.is_some_and(|s| !s.success()) && exit.last_words.is_some(), "{exit}");
}

/// Run in a process of its own by the test below: starts a worker, stops it so that it can't see its socket close, and
/// ends without tidying up.
#[tokio::test]
#[ignore = "ends the process it runs in"]
async fn leaves_a_stopped_worker_behind() {
    let worker = start(Deadlines::default()).await;
    signal(worker.pid(), libc::SIGSTOP);
    println!("left: {}", worker.pid());
    std::process::abort();
}

#[test]
#[cfg(target_os = "linux")]
fn a_worker_does_not_outlive_the_agent() {
    let this = std::env::current_exe().expect("known");
    let arguments = ["--exact", "leaves_a_stopped_worker_behind", "--ignored", "--nocapture"];
    let output = std::process::Command::new(this).args(arguments).output().expect("run");
    let text = String::from_utf8_lossy(&output.stdout);
    let left = text.lines().find_map(|l| l.split_once("left: ")).map(|(_, pid)| pid.to_owned()).expect("a pid");
    let lives = || {
        let status = std::fs::read_to_string(format!("/proc/{left}/status")).unwrap_or_default();
        // Whoever adopts it may not have collected it yet.
        status.contains("State:") && !status.contains("State:\tZ")
    };
    let until = std::time::Instant::now() + common::PATIENCE;
    while lives() {
        assert!(std::time::Instant::now() < until, "worker {left} lives on");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
