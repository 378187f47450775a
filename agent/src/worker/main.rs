//! What a worker process does: it gives up its rights, loads one bundle, and answers samples until its socket closes.
//!
//! Standard input is the socket, standard output the shared window (or nothing), standard error the log. It is started
//! with an empty environment.

use super::confinement::{ConfinementError, Stage, bound, confine, restrict};
use super::frame::{self, FrameError};
use super::message::{
    Load, Loaded, PIECE_BYTES, Prediction, Process, Reply, Request, Timings, WireOutcome, WirePayload,
};
use super::preparation::{Preparation, Prepared, WithModel};
use super::window::{View, WINDOW_BYTES};
use crate::error::chain_once;
use sedge_protocol::message::{Quantity, Region, ScoredLabel};
use sedge_protocol::text::one_line;
use sedge_runtime::api::Meta;
use sedge_runtime::sandbox::LogLine;
use sedge_runtime::{Outcome, Pipeline, Sample, VerifiedBundle, golden};
use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::FromRawFd as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Runs a worker: all that a program has to do which is started as one. Call it first thing in `main`, while the process
/// has one thread and nothing open.
pub fn run_worker() -> ExitCode {
    match Session::begin().and_then(|mut session| session.serve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Ended::Frame(FrameError::Closed)) => ExitCode::SUCCESS,
        Err(error) => {
            say(&describe(&error));
            ExitCode::FAILURE
        }
    }
}

/// Why a worker ends by itself.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Confinement(#[from] ConfinementError),
    #[error("talking with the agent")]
    Frame(#[from] FrameError),
    #[error("the agent speaks versions {theirs:?} of the worker protocol, this worker {ours}", ours = frame::VERSION)]
    Versions { theirs: Vec<u8> },
    #[error("the agent asked for `{0}` where it cannot")]
    Order(&'static str),
}

struct Session {
    socket: File,
    window: Option<View>,
    /// Until it is loaded: only as long can code be compiled and taken.
    opened: Option<Preparation>,
    /// Between that and `loaded`, where the agent asks for the model by itself.
    modelled: Option<WithModel>,
    loaded: Option<(VerifiedBundle, Pipeline)>,
}

impl Session {
    fn begin() -> Result<Self, Ended> {
        confine()?;
        let window = View::inherited(1).ok();
        // SAFETY: descriptors 1 and 2 are open; what is written to standard output from here on is a log line.
        unsafe { libc::dup2(2, 1) };
        restrict(Stage::Prepare)?;
        // SAFETY: standard input is the socket, and nothing else in this process uses it.
        let socket = unsafe { File::from_raw_fd(0) };
        let mut session = Self { socket, window, opened: None, modelled: None, loaded: None };
        let (request, _) = frame::read(&mut session.socket)?;
        let Request::Hello { versions, limits } = request else { return Err(Ended::Order("something before hello")) };
        if !versions.contains(&frame::VERSION) {
            return Err(Ended::Versions { theirs: versions });
        }
        bound(&limits)?;
        let shared_bytes = session.window.as_ref().map_or(0, |_| WINDOW_BYTES);
        session.answer(&Reply::Hello { version: frame::VERSION, shared_bytes }, &[])?;
        Ok(session)
    }

    fn serve(&mut self) -> Result<(), Ended> {
        loop {
            let (request, payload) = frame::read(&mut self.socket)?;
            let (reply, bytes) = match request {
                Request::Hello { .. } => return Err(Ended::Order("hello")),
                Request::Open(_) if self.opened.is_some() || self.modelled.is_some() || self.loaded.is_some() => {
                    return Err(Ended::Order("open"));
                }
                Request::Open(load) => (self.open(&load), Vec::new()),
                Request::Compile { component } => {
                    let opened = self.opened.as_mut().ok_or(Ended::Order("compile"))?;
                    match opened.compile(component) {
                        Ok(code) => (Reply::Compiled {}, code),
                        Err(e) => (failed(&e), Vec::new()),
                    }
                }
                Request::Code { component, recorded } => {
                    let opened = self.opened.as_mut().ok_or(Ended::Order("code"))?;
                    let taken = opened.take(component, recorded, payload);
                    (taken.map_or_else(|e| failed(&e), |()| Reply::Taken {}), Vec::new())
                }
                Request::Model { saved } => {
                    let opened = self.opened.take().ok_or(Ended::Order("model"))?;
                    (self.model_to_keep(opened, saved.as_deref())?, Vec::new())
                }
                Request::Piece { offset } => (Reply::Piece {}, self.piece(offset)?),
                Request::Load {} => (self.load()?, Vec::new()),
                Request::Golden {} => (self.golden(), Vec::new()),
                Request::Process(process) => self.process(&process, payload),
                Request::Ping {} => (Reply::Pong {}, Vec::new()),
            };
            self.answer(&reply, &bytes)?;
        }
    }

    fn answer(&mut self, reply: &Reply, payload: &[u8]) -> Result<(), Ended> {
        Ok(frame::write(&mut self.socket, reply, payload)?)
    }

    fn open(&mut self, load: &Load) -> Reply {
        let opened = Preparation::of(load).and_then(|p| Ok((p.components()?, p.model()?, p)));
        match opened {
            Ok((components, model, preparation)) => {
                self.opened = Some(preparation);
                Reply::Opened { components, model }
            }
            Err(e) => failed(&e),
        }
    }

    fn model(&mut self, opened: Preparation, saved: Option<&Path>) -> Result<Reply, Ended> {
        let prepared = match opened.finish() {
            Ok(prepared) => prepared,
            Err(e) => return Ok(failed(&e)),
        };
        restrict(Stage::Load)?;
        let modelled = match prepared.with_model(saved) {
            Ok(modelled) => modelled,
            Err(e) => return Ok(failed(&e)),
        };
        self.modelled = Some(modelled);
        Ok(Reply::Model { problem: None, bytes: None })
    }

    /// As [`Session::model`], for an agent that keeps what the model is saved as.
    fn model_to_keep(&mut self, opened: Preparation, saved: Option<&Path>) -> Result<Reply, Ended> {
        let reply = self.model(opened, saved)?;
        let Some(modelled) = &mut self.modelled else { return Ok(reply) };
        modelled.save();
        let bytes = modelled.form.as_ref().map(|form| form.bytes() as u64);
        Ok(Reply::Model { problem: modelled.problem.clone(), bytes })
    }

    fn piece(&self, offset: u64) -> Result<Vec<u8>, Ended> {
        let Some(WithModel { model, form: Some(form), .. }) = &self.modelled else {
            return Err(Ended::Order("piece"));
        };
        let mut piece = vec![0; PIECE_BYTES];
        let length = form.read_at(model, usize::try_from(offset).unwrap_or(usize::MAX), &mut piece);
        piece.truncate(length);
        Ok(piece)
    }

    fn load(&mut self) -> Result<Reply, Ended> {
        if let Some(opened) = self.opened.take()
            && let failed @ Reply::Failed { .. } = self.model(opened, None)?
        {
            return Ok(failed);
        }
        let WithModel { prepared, model, from_saved, .. } = self.modelled.take().ok_or(Ended::Order("load"))?;
        let Prepared { bundle, options, compiled } = prepared;
        let pipeline = match Pipeline::load_with(&bundle, &options, model) {
            Ok(pipeline) => pipeline,
            Err(e) => return Ok(failed(&describe(&e))),
        };
        let filtered = restrict(Stage::Serve)?;
        let model = pipeline.model_digest();
        let header = &bundle.manifest().bundle;
        let (name, version) = (header.name.to_string(), header.version.clone());
        self.loaded = Some((bundle, pipeline));
        Ok(Reply::Ready(Loaded { name, version, model, filtered, compiled, from_saved }))
    }

    fn golden(&mut self) -> Reply {
        let Some((bundle, pipeline)) = &mut self.loaded else { return failed("no bundle is loaded") };
        let checked = golden::check(pipeline, bundle);
        let reset = pipeline.reset();
        match (checked, reset) {
            (Ok(results), Ok(())) => Reply::GoldenPassed { samples: u32::try_from(results.len()).unwrap_or(u32::MAX) },
            (Err(e), _) => failed(&describe(&e)),
            (_, Err(e)) => failed(&describe(&e)),
        }
    }

    fn process(&mut self, process: &Process, payload: Vec<u8>) -> (Reply, Vec<u8>) {
        let Some((_, pipeline)) = &mut self.loaded else { return (failed("no bundle is loaded"), Vec::new()) };
        let bytes = match process.shared_bytes {
            None => Some(payload),
            Some(bytes) => self.window.as_ref().and_then(|window| window.read(bytes)),
        };
        let Some(bytes) = bytes else { return (failed("the sample is not in the shared window"), Vec::new()) };
        let sample = Sample::new(&process.name, bytes);
        let meta = Meta {
            seq: process.seq,
            timestamp_ns: process.timestamp_ns,
            source: process.source.clone(),
            prediction_id: process.prediction_id.clone(),
            ..Meta::default()
        };
        match pipeline.process(&meta, &sample.input()) {
            Ok(Some(outcome)) => wire(outcome),
            Ok(None) => (Reply::NotYet {}, Vec::new()),
            Err(e) => (failed(&describe(&e)), Vec::new()),
        }
    }
}

fn wire(outcome: Outcome) -> (Reply, Vec<u8>) {
    let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    let t = outcome.timings;
    let timings = Timings {
        decode_us: us(t.decode),
        pre_us: us(t.pre),
        inference_us: us(t.inference),
        post_us: us(t.post),
        crossing_us: us(t.crossing),
        total_us: us(t.total),
    };
    let prediction = |p: sedge_runtime::Prediction| Prediction {
        id: p.id,
        labels: p.labels.into_iter().map(|l| ScoredLabel { index: l.index, label: l.label, score: l.score }).collect(),
        quantities: (p.quantities.into_iter())
            .map(|q| Quantity { name: q.name, value: q.value, unit: q.unit })
            .collect(),
        confidence: p.confidence,
        region: p.region.map(|r| Region { x: r.x, y: r.y, width: r.width, height: r.height }),
    };
    let payload = |p: &sedge_runtime::api::Payload| WirePayload {
        content_type: p.content_type.clone(),
        topic_suffix: p.topic_suffix.clone(),
        bytes: p.body.len(),
    };
    let payloads = outcome.payloads.iter().map(payload).collect();
    let bytes = outcome.payloads.into_iter().flat_map(|p| p.body).collect();
    let predictions = outcome.predictions.into_iter().map(prediction).collect();
    (Reply::Outcome(WireOutcome { predictions, payloads, timings }), bytes)
}

fn failed(detail: &str) -> Reply {
    Reply::Failed { detail: detail.to_owned() }
}

pub(super) fn show(line: &LogLine) {
    say(&format!("{} {:?}: {}", line.stage, line.level, line.text));
}

fn say(text: &str) {
    // Nobody to tell when this fails.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The error and its causes, in one line. Some errors already quote their cause.
pub(super) fn describe(error: &dyn Error) -> String {
    one_line(&chain_once(error))
}
