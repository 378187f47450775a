//! The data plane with real worker processes, under load.
#![allow(clippy::print_stdout, reason = "figures are printed")]

mod common;

use common::{PATIENCE, Packed, digits, images, pack, program, signal};
use sedge_agent::dataplane::config::{Config, HttpConfig};
use sedge_agent::dataplane::feedback::Listeners;
use sedge_agent::dataplane::{DataPlane, Identity, Setup};
use sedge_agent::endpoint;
use sedge_agent::plane::{Command, Happening};
use sedge_agent::source::{Feed, Incoming, Labels, feed};
use sedge_agent::worker::Caches;
use sedge_protocol::deployment::{Answer, ShadowLimits, Slot, Ticket};
use sedge_protocol::id::ComponentName;
use sedge_protocol::message::Telemetry;
use sedge_runtime::model::ModelCache;
use sedge_runtime::sandbox::CodeCache;
use serde_json::Value;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// A data plane with the component `digits`, fed by hand, whose results go to a file.
struct Bench {
    plane: DataPlane,
    feed: Feed,
    results: PathBuf,
    tickets: u64,
    fed: u64,
}

fn component() -> ComponentName {
    "digits".parse().expect("a name")
}

fn loopback() -> HttpConfig {
    HttpConfig { listen: "127.0.0.1:0".parse().expect("an address"), allow_remote: false, labels: false }
}

async fn ask(address: SocketAddr, request: String) -> String {
    let mut tcp = tokio::net::TcpStream::connect(address).await.expect("connected");
    tcp.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    tcp.read_to_string(&mut text).await.expect("read");
    text
}

/// Tells the right answer to a prediction.
async fn post(address: SocketAddr, kind: &str, body: &str) -> String {
    let head = format!("POST /labels HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: {kind}");
    ask(address, format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await
}

impl Bench {
    async fn start(directory: &Path, more: &str) -> Self {
        Self::start_with(directory, more, Caches::default()).await
    }

    async fn start_with(directory: &Path, more: &str, caches: Caches) -> Self {
        let results = directory.join("results.jsonl");
        let text = format!(
            "[component.digits.source.hand]\nkind = 'mqtt'\nurl = 'mqtt://site'\ntopic = 'digits'\n\
             [component.digits.sink.file]\nkind = 'file'\npath = '{}'\nbytes_max = 1000000000\n{more}",
            results.display()
        );
        let mut config: Config = toml::from_str(&text).expect("valid");
        config.http = Some(HttpConfig { labels: true, ..loopback() });
        let (feed, source) = feed(1);
        let identity = Identity { dev: "acme:cam-7".parse().expect("valid"), boot: "boot-1".parse().expect("valid") };
        let sources = HashMap::from([((component(), "hand".to_owned()), Box::new(source) as _)]);
        let setup = Setup { config, program: program(), caches, identity, sources };
        let plane = DataPlane::start(setup).await.expect("started");
        Self { plane, feed, results, tickets: 0, fed: 0 }
    }

    async fn give(&mut self, command: Command) {
        self.plane.commands.send((component(), command)).await.expect("taken");
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Waits for a happening; others are let pass.
    async fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(&Happening) -> Option<T>) -> T {
        let found = timeout(PATIENCE, async {
            loop {
                let (_, happening) = self.plane.happenings.recv().await.expect("running");
                if let Some(found) = wanted(&happening) {
                    return found;
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("no {what}"))
    }

    async fn answer(&mut self, to: Ticket) -> Answer {
        let wanted = |h: &Happening| match h {
            Happening::Answer { ticket, answer } if *ticket == to => Some(answer.clone()),
            _ => None,
        };
        self.wait("answer", wanted).await
    }

    async fn start_worker(&mut self, slot: Slot, packed: &Packed) -> Answer {
        let ticket = self.ticket();
        let (bundle, digest, settings) = (packed.path.clone(), packed.digest, Value::Null);
        self.give(Command::StartWorker { ticket, slot, bundle, digest, settings }).await;
        self.answer(ticket).await
    }

    async fn serve(&mut self, slot: Slot, packed: &Packed) -> Answer {
        let ticket = self.ticket();
        let (bundle, digest, settings) = (packed.path.clone(), packed.digest, Value::Null);
        self.give(Command::Serve { ticket, slot, bundle, digest, settings }).await;
        self.answer(ticket).await
    }

    async fn golden(&mut self, slot: Slot) -> Answer {
        let ticket = self.ticket();
        self.give(Command::RunGolden { ticket, slot }).await;
        self.answer(ticket).await
    }

    async fn take_over(&mut self, slot: Slot) -> Answer {
        let ticket = self.ticket();
        self.give(Command::TakeOver { ticket, slot }).await;
        self.answer(ticket).await
    }

    /// Stops the worker that serves, and waits until that was done: commands and samples take different ways.
    async fn stop_serving(&mut self, slot: Slot) {
        self.give(Command::StopWorker { slot }).await;
        let done = timeout(PATIENCE, async {
            while self.plane.board.view(&component()).is_some_and(|v| v.serving.is_some()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        done.await.expect("nothing serves");
    }

    /// Feeds samples as fast as they are taken, until told to stop; then tells how many.
    fn load(&self) -> (tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<u64>) {
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let feed = self.feed.clone();
        let names = names();
        let task = tokio::spawn(async move {
            let mut fed = 0;
            while stopped.try_recv().is_err() {
                let name = &names[fed as usize % names.len()];
                assert!(feed.push(incoming(name)).await);
                fed += 1;
            }
            fed
        });
        (stop, task)
    }

    async fn push(&mut self, count: u64) {
        let names = names();
        for _ in 0..count {
            assert!(self.feed.push(incoming(&names[self.fed as usize % names.len()])).await);
            self.fed += 1;
        }
    }

    /// Waits until the results of so many samples are written, and returns them.
    async fn results(&self, count: u64) -> Vec<Value> {
        let complete = timeout(PATIENCE, async {
            loop {
                let text = std::fs::read_to_string(&self.results).unwrap_or_default();
                let lines: Vec<&str> = text.split_inclusive('\n').filter(|l| l.ends_with('\n')).collect();
                if lines.len() as u64 >= count {
                    return lines.iter().map(|l| serde_json::from_str(l).expect("json")).collect();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        complete.await.expect("every sample is answered")
    }

    /// The process of the slot's worker, from the list of this process's children.
    fn pid_serving(&self) -> u32 {
        let view = self.plane.board.view(&component()).expect("announced");
        assert!(view.running.is_some());
        view.pid.expect("known")
    }
}

fn names() -> Vec<String> {
    let entries = std::fs::read_dir(images()).expect("listed").flatten();
    let names = entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.ends_with(".png"));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn incoming(name: &str) -> Incoming {
    Incoming { ts_ms: 1, name: name.to_owned(), data: common::image(name), label: None }
}

/// Each sample once, in order.
fn assert_each_once(results: &[Value], count: u64) {
    let seqs: Vec<u64> = results.iter().filter_map(|r| r["seq"].as_u64()).collect();
    assert_eq!(seqs, (1..=count).collect::<Vec<_>>());
    assert!(results.iter().all(|r| r["result"] == "ok"), "{results:?}");
}

fn slots(results: &[Value]) -> String {
    results.iter().filter_map(|r| r["slot"].as_str()).collect::<Vec<_>>().join("")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_takes_over_under_load_and_the_old_one_comes_back() {
    let directory = tempfile::tempdir().expect("directory");
    let (one, two) = (digits(directory.path(), "v1"), digits(directory.path(), "v2"));
    let mut bench = Bench::start(directory.path(), "").await;
    assert_eq!(bench.serve(Slot::A, &one).await, Answer::TookOver);
    let (stop, load) = bench.load();

    assert_eq!(bench.start_worker(Slot::B, &two).await, Answer::WorkerReady);
    assert_eq!(bench.start_worker(Slot::B, &two).await, Answer::WorkerReady, "given twice");
    assert_eq!(bench.golden(Slot::B).await, Answer::GoldenPassed);
    let ticket = bench.ticket();
    let limits = ShadowLimits { samples_min: 300, ..ShadowLimits::default() };
    bench.give(Command::BeginShadow { ticket, slot: Slot::B, limits }).await;
    let verdict = loop {
        match bench.answer(ticket).await {
            Answer::Shadow(verdict) if verdict.samples >= 300 => break verdict,
            Answer::Shadow(_) => {}
            other => panic!("{other:?}"),
        }
    };
    println!("shadow: {verdict:?}");
    assert_eq!(verdict.errors, 0);
    assert!(verdict.latency_p95_us > 0);

    assert_eq!(bench.take_over(Slot::B).await, Answer::TookOver);
    bench.give(Command::WatchHealth { slot: Slot::B }).await;
    let ok = |h: &Happening| matches!(h, Happening::HealthOk { slot: Slot::B }).then_some(());
    bench.wait("good health", ok).await;

    // Back to the warm old worker, several times, each while samples flow.
    let mut times = Vec::new();
    for slot in [Slot::A, Slot::B, Slot::A, Slot::B, Slot::A] {
        let began = Instant::now();
        assert_eq!(bench.take_over(slot).await, Answer::TookOver);
        let answered = began.elapsed();
        let result = timeout(PATIENCE, async {
            while bench.plane.board.view(&component()).and_then(|v| v.latest).is_none_or(|r| r.slot != slot) {
                tokio::task::yield_now().await;
            }
        });
        result.await.expect("it answers samples");
        times.push((answered, began.elapsed()));
    }
    println!("going back to a warm worker, until told and until its first result: {times:?}");
    let seen = bench.plane.board.view(&component()).and_then(|v| v.latest).map_or(0, |r| r.seq);
    let later = timeout(PATIENCE, async {
        while bench.plane.board.view(&component()).and_then(|v| v.latest).is_none_or(|r| r.seq < seen + 20) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    later.await.expect("samples flow");

    stop.send(()).expect("running");
    let count = load.await.expect("fed");
    let results = bench.results(count).await;
    assert_each_once(&results, count);
    let slots = slots(&results);
    println!("{count} samples; served by slot in turn: {}", runs(&slots));
    assert!(slots.starts_with('a') && slots.ends_with('a') && slots.contains('b'));
    let model = |slot: &str| results.iter().find(|r| r["slot"] == slot).map(|r| r["model"].clone());
    assert_ne!(model("a"), model("b"));
}

/// `a12 b3 a4`
fn runs(slots: &str) -> String {
    let mut runs: Vec<(char, u32)> = Vec::new();
    for c in slots.chars() {
        match runs.last_mut() {
            Some((last, n)) if *last == c => *n += 1,
            _ => runs.push((c, 1)),
        }
    }
    runs.iter().map(|(c, n)| format!("{c}{n}")).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_or_hangs_is_told_and_started_again_and_no_sample_is_lost() {
    let directory = tempfile::tempdir().expect("directory");
    let one = digits(directory.path(), "v1");
    let quick = "[component.digits.worker]\nping_interval_ms = 50\ndeadlines = { ping_ms = 1000, sample_ms = 2000 }\n";
    let mut bench = Bench::start(directory.path(), quick).await;
    assert_eq!(bench.serve(Slot::A, &one).await, Answer::TookOver);
    bench.give(Command::WatchHealth { slot: Slot::A }).await;
    let died = |h: &Happening| matches!(h, Happening::WorkerDied { slot: Slot::A }).then_some(());
    let ok = |h: &Happening| matches!(h, Happening::HealthOk { slot: Slot::A }).then_some(());
    let mut fed = 0;
    for how in [libc::SIGKILL, libc::SIGSTOP] {
        bench.push(10).await;
        fed += 10;
        bench.results(fed).await;
        let pid = bench.pid_serving();
        signal(pid, how);
        bench.push(10).await;
        fed += 10;
        bench.wait("death", died).await;
        bench.wait("good health after it", ok).await;
        let results = bench.results(fed).await;
        assert_each_once(&results, fed);
        assert_ne!(bench.pid_serving(), pid);
    }
    let health = bench.plane.board.health().remove(&component()).expect("served");
    assert_eq!((health.worker_restarts, health.samples, health.errors, health.dropped), (2, fed, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn going_back_does_not_wait_for_a_worker_that_hangs() {
    let directory = tempfile::tempdir().expect("directory");
    let (one, two) = (digits(directory.path(), "v1"), digits(directory.path(), "v2"));
    let mut bench = Bench::start(directory.path(), "").await;
    assert_eq!(bench.serve(Slot::A, &one).await, Answer::TookOver);
    assert_eq!(bench.serve(Slot::B, &two).await, Answer::TookOver);
    bench.push(5).await;
    bench.results(5).await;
    signal(bench.pid_serving(), libc::SIGSTOP);
    // One is stuck with the worker, one waits for it, one in the feed.
    bench.push(3).await;
    let began = Instant::now();
    assert_eq!(bench.take_over(Slot::A).await, Answer::TookOver);
    let took_over = began.elapsed();
    let results = bench.results(8).await;
    println!("from a hanging worker back to a warm one: {took_over:?}; all answered after {:?}", began.elapsed());
    assert_each_once(&results, 8);
    assert_eq!(slots(&results), "bbbbbaaa");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_bundle_changes_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let (one, two) = (digits(directory.path(), "v1"), digits(directory.path(), "v2"));
    let change = |manifest: String| manifest.replace("golden/3.png\"\nlabel = \"3\"", "golden/3.png\"\nlabel = \"4\"");
    let wrong = pack(directory.path(), "v1", "wrong-golden", change);
    let mut bench = Bench::start(directory.path(), "").await;
    assert_eq!(bench.serve(Slot::A, &one).await, Answer::TookOver);

    let swapped = Packed { path: two.path.clone(), digest: one.digest };
    let Answer::WorkerFailed { detail } = bench.start_worker(Slot::B, &swapped).await else { panic!("started") };
    assert!(detail.contains(&two.digest.to_string()), "{detail}");
    let Answer::WorkerFailed { detail } = bench.take_over(Slot::B).await else { panic!("took over") };
    assert!(detail.contains("slot B"), "{detail}");
    assert_eq!(bench.start_worker(Slot::B, &wrong).await, Answer::WorkerReady);
    let Answer::GoldenFailed { detail } = bench.golden(Slot::B).await else { panic!("passed") };
    assert!(detail.contains("golden/3.png"), "{detail}");
    bench.give(Command::StopWorker { slot: Slot::B }).await;

    bench.push(3).await;
    let results = bench.results(3).await;
    assert_each_once(&results, 3);
    assert_eq!(slots(&results), "aaa");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_swap_keeps_samples_within_its_budget() {
    let directory = tempfile::tempdir().expect("directory");
    let (one, two) = (digits(directory.path(), "v1"), digits(directory.path(), "v2"));
    let mut bench = Bench::start(directory.path(), "").await;
    assert_eq!(bench.serve(Slot::A, &one).await, Answer::TookOver);
    bench.push(3).await;
    bench.results(3).await;

    let began = Instant::now();
    bench.give(Command::HoldSamples { bytes_max: 8 << 20 }).await;
    bench.stop_serving(Slot::A).await;
    bench.push(40).await;
    assert_eq!(bench.serve(Slot::B, &two).await, Answer::TookOver);
    println!("cold swap: {:?}", began.elapsed());
    let results = bench.results(43).await;
    assert_each_once(&results, 43);
    assert_eq!(runs(&slots(&results)), "a3 b40");

    // With room for two only, the newest two remain.
    let bytes = common::image(&names()[0]).len() as u64;
    bench.give(Command::HoldSamples { bytes_max: 2 * bytes }).await;
    bench.stop_serving(Slot::B).await;
    for _ in 0..10 {
        assert!(bench.feed.push(incoming(&names()[0])).await);
    }
    let held = timeout(PATIENCE, async {
        // The two in the channels may still be on their way.
        while bench.plane.board.health().get(&component()).is_none_or(|h| h.samples < 53) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    held.await.expect("all are taken");
    assert_eq!(bench.serve(Slot::A, &one).await, Answer::TookOver);
    let results = bench.results(45).await;
    let last: Vec<u64> = results[43..].iter().filter_map(|r| r["seq"].as_u64()).collect();
    assert_eq!(last, [52, 53]);
    let health = bench.plane.board.health().remove(&component()).expect("served");
    assert_eq!((health.samples, health.dropped), (53, 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_http_endpoint_tells_what_there_is() {
    let directory = tempfile::tempdir().expect("directory");
    let one = digits(directory.path(), "v1");
    let mut bench = Bench::start(directory.path(), "").await;
    let address = bench.plane.http.expect("configured");
    let get = async |path: &str, host: &str| -> String {
        ask(address, format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await
    };
    assert!(get("/health", "localhost").await.starts_with("HTTP/1.1 503"));
    assert!(get("/latest/digits", "localhost").await.starts_with("HTTP/1.1 404"));
    assert_eq!(bench.serve(Slot::A, &one).await, Answer::TookOver);
    bench.push(2).await;
    bench.results(2).await;
    assert!(get("/health", &format!("127.0.0.1:{}", address.port())).await.starts_with("HTTP/1.1 200"));
    let latest = get("/latest", "localhost:80").await;
    assert!(latest.contains("\"labels\"") && latest.contains("digits-boot-1-2"), "{latest}");
    let metrics = get("/metrics", "localhost").await;
    assert!(metrics.contains("sedge_samples_total{component=\"digits\"} 2"), "{metrics}");
    assert!(get("/latest", "evil.example").await.starts_with("HTTP/1.1 421"));

    let everywhere = HttpConfig { listen: "0.0.0.0:0".parse().expect("an address"), ..loopback() };
    let start = async |config| endpoint::start(&config, bench.plane.board.clone(), Listeners::default()).await;
    let refused = start(everywhere).await.expect_err("refused");
    assert!(refused.to_string().contains("allow_remote"), "{refused}");
    let refused = start(HttpConfig { allow_remote: true, labels: true, ..everywhere }).await.expect_err("refused");
    assert!(refused.to_string().contains("leave out `labels`"), "{refused}");
    let without = start(loopback()).await.expect("started");
    assert!(post(without, "application/json", "{}").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn right_answers_from_outside_count_for_the_bundle_that_predicted() {
    let directory = tempfile::tempdir().expect("directory");
    let (one, two) = (digits(directory.path(), "v1"), digits(directory.path(), "v2"));
    let mut bench = Bench::start(directory.path(), "").await;
    let address = bench.plane.http.expect("configured");
    assert_eq!(bench.serve(Slot::A, &one).await, Answer::TookOver);
    bench.push(2).await;
    let results = bench.results(2).await;
    assert_eq!(bench.serve(Slot::B, &two).await, Answer::TookOver);
    let best = results[0]["predictions"][0]["labels"][0]["label"].as_str().expect("a label");
    let told = |id: &str, label: &str| serde_json::json!({ "id": id, "label": label }).to_string();
    let json = "application/json; charset=utf-8";
    let right = post(address, json, &told("digits-boot-1-1", best)).await;
    assert!(right.starts_with("HTTP/1.1 200") && right.contains(&one.digest.to_string()), "{right}");
    assert!(right.contains("\"right\":true"), "{right}");
    let wrong = post(address, json, &told("digits-boot-1-2", "no digit")).await;
    assert!(wrong.contains("\"right\":false"), "{wrong}");
    let long = "x".repeat(5000);
    for (kind, body, expected) in [
        (json, told("digits-boot-1-1", best), "HTTP/1.1 409"),
        (json, told("digits-boot-1-3", best), "HTTP/1.1 404"),
        (json, told("digits-boot-0-1", best), "HTTP/1.1 404"),
        (json, told("camera-boot-1-1", best), "HTTP/1.1 404"),
        (json, told("digits-boot-1-1", ""), "`label` has 0 bytes"),
        (json, told(&long[..129], "7"), "`id` has 129 bytes"),
        (json, told(&long, "7"), "HTTP/1.1 413"),
        (json, "{\"id\": \"digits-boot-1-1\"}".to_owned(), "missing field `label`"),
        ("text/plain", told("digits-boot-1-1", best), "HTTP/1.1 415"),
    ] {
        let answer = post(address, kind, &body).await;
        assert!(answer.contains(expected), "{body}: {answer}");
    }
    let health = bench.plane.board.health().remove(&component()).expect("served");
    assert_eq!((health.running, health.past[0].bundle), (two.digest, one.digest));
    assert_eq!((health.past[0].samples, health.past[0].labelled, health.past[0].right), (2, 2, 1));
    assert_eq!(health.serving.map(|b| (b.samples, b.labelled)), Some((0, 0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn right_answers_that_come_after_a_switch_count_for_the_old_bundle() {
    let directory = tempfile::tempdir().expect("directory");
    let (one, two) = (digits(directory.path(), "v1"), digits(directory.path(), "v2"));
    // Longer than the switch takes.
    let source = format!(
        "[component.digits.source.conveyor]\nkind = 'replay'\ndirectory = '{}'\nrate_per_s = 200.0\n\
         looped = false\nlabel_delay_ms = 2000\n",
        images().display()
    );
    let mut bench = Bench::start(directory.path(), &source).await;
    assert_eq!(bench.start_worker(Slot::A, &one).await, Answer::WorkerReady);
    assert_eq!(bench.start_worker(Slot::B, &two).await, Answer::WorkerReady);
    assert_eq!(bench.take_over(Slot::A).await, Answer::TookOver);
    bench.results(50).await;
    let ticket = bench.ticket();
    bench.give(Command::TakeOver { ticket, slot: Slot::B }).await;
    let mut counters = None;
    let took_over = |h: &Happening| match h {
        Happening::Telemetry(Telemetry::Health(health)) => {
            counters = health.components.get(&component()).cloned();
            None
        }
        Happening::Answer { ticket: of, answer: Answer::TookOver } if *of == ticket => Some(()),
        _ => None,
    };
    bench.wait("take-over", took_over).await;
    let counters = counters.expect("told before the switch is");
    assert_eq!((counters.running, counters.past[0].bundle), (two.digest, one.digest));
    let (samples, labelled) = (counters.past[0].samples, counters.past[0].labelled);
    assert!(samples > 0 && labelled < samples, "{labelled} of {samples}: most answers are still to come");

    let count = names().len() as u64;
    let results = bench.results(count).await;
    let all_labelled = timeout(PATIENCE, async {
        while bench.plane.board.view(&component()).is_none_or(|v| v.labelled < count) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    all_labelled.await.expect("every answer is joined");
    let health = bench.plane.board.health().remove(&component()).expect("served");
    let labels = Labels::read(&images()).expect("labels");
    for (fares, bundle) in [(&health.past[0], one.digest), (health.serving.as_ref().expect("serves"), two.digest)] {
        let of_it: Vec<&Value> = results.iter().filter(|r| r["bundle"] == bundle.to_string()).collect();
        assert!(of_it.iter().all(|r| r["expected"].is_null()), "nobody knew it then");
        let is_right = |r: &&&Value| {
            let best = r["predictions"][0]["labels"][0]["label"].as_str();
            best == labels.of(r["name"].as_str().unwrap_or_default()).as_deref()
        };
        let right = of_it.iter().filter(is_right).count() as u64;
        println!("{bundle}: {right} of {} right", of_it.len());
        let told = (fares.bundle, fares.samples, fares.labelled, fares.right);
        assert_eq!(told, (bundle, of_it.len() as u64, of_it.len() as u64, right));
        assert!(fares.first_result_ts_ms.is_some_and(|first| first >= fares.serving_since_ts_ms));
    }
    assert_eq!(health.labels_late, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_nobody_commands_any_more_all_workers_end() {
    let directory = tempfile::tempdir().expect("directory");
    let one = digits(directory.path(), "v1");
    let mut bench = Bench::start(directory.path(), "[component.digits.sink.server]\nkind = 'mqtt'\n").await;
    assert_eq!(bench.serve(Slot::A, &one).await, Answer::TookOver);
    bench.push(1).await;
    let telemetry = |h: &Happening| match h {
        Happening::Telemetry(t) => Some(sedge_protocol::message::Message::to_cbor(t)),
        _ => None,
    };
    bench.wait("telemetry", telemetry).await.expect("a valid message");
    let pid = bench.pid_serving();
    let Bench { plane, .. } = bench;
    let DataPlane { commands, mut happenings, .. } = plane;
    drop(commands);
    let ended = timeout(PATIENCE, async { while happenings.recv().await.is_some() {} });
    ended.await.expect("the channel is closed");
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_starts_faster_with_what_an_earlier_one_has_made() {
    let directory = tempfile::tempdir().expect("directory");
    let one = digits(directory.path(), "v1");
    let code = CodeCache::new(directory.path().join("code"));
    let models = ModelCache::new(directory.path().join("models"));
    let caches = Caches { code: Some(code.clone()), models: Some(models.clone()) };
    let mut bench = Bench::start_with(directory.path(), "", caches).await;
    let mut cold = Vec::new();
    let mut cached = Vec::new();
    for _ in 0..5 {
        let _ = std::fs::remove_dir_all(code.dir());
        let _ = std::fs::remove_dir_all(models.dir());
        for times in [&mut cold, &mut cached] {
            let began = Instant::now();
            let ready = bench.start_worker(Slot::A, &one).await;
            times.push(began.elapsed());
            assert_eq!(ready, Answer::WorkerReady);
            bench.give(Command::StopWorker { slot: Slot::A }).await;
            assert_eq!(std::fs::read_dir(code.dir()).expect("listed").count(), 2);
            assert_eq!(std::fs::read_dir(models.dir()).expect("listed").count(), 1);
        }
    }
    for (what, times) in [("cold", &mut cold), ("cached", &mut cached)] {
        times.sort();
        let ms: Vec<_> = times.iter().map(Duration::as_millis).collect();
        println!("from StartWorker to ready, {what}: p50 {} ms of {ms:?}", ms[ms.len() / 2]);
    }
}
