//! Keeps one worker process: starts it, passes jobs on, pings it when idle, and tells when and why it ended.

use super::config::WorkerConfig;
use super::flow::Dispatch;
use crate::source::Sample;
use crate::worker::{Answer, Caches, Load, Loaded, Worker, WorkerError, WorkerProgram};
use sedge_protocol::deployment::{Slot, Ticket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// Jobs that wait for a worker; more than ever wait at once.
const JOBS_MAX: usize = 8;

/// Something for a worker to do.
#[derive(Debug)]
pub(super) enum Job {
    Golden(Ticket),
    Process { dispatch: Dispatch, sample: Arc<Sample>, prediction_id: String },
}

/// Something that a worker's keeper tells, and which worker it is about.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) slot: Slot,
    /// Tells the workers of one slot apart.
    pub(super) incarnation: u64,
    pub(super) event: Event,
}

#[derive(Debug)]
pub(super) enum Event {
    Ready {
        loaded: Loaded,
        pid: u32,
    },
    /// It did not start, or refused its bundle; it is gone.
    NotStarted {
        detail: String,
    },
    Golden {
        ticket: Ticket,
        result: Result<u32, String>,
    },
    Answered {
        dispatch: Dispatch,
        seq: u64,
        answer: Answer,
        latency_us: u64,
    },
    Ponged,
    /// It ended, or was killed because it hung; it is gone.
    Ended {
        reason: String,
    },
}

/// What a worker is started with.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) program: WorkerProgram,
    pub(super) config: WorkerConfig,
    pub(super) load: Load,
    pub(super) caches: Caches,
    /// For the log.
    pub(super) name: String,
}

/// The component's hold on a keeper. Dropping it kills the worker.
#[derive(Debug)]
pub(super) struct Keeper {
    jobs: mpsc::Sender<Job>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Starts a worker when all of `after` are gone, so that a device needs memory for no more of them than are wanted.
    pub(super) fn start(
        start: Start,
        slot: Slot,
        incarnation: u64,
        tell: mpsc::Sender<Told>,
        after: Vec<JoinHandle<()>>,
    ) -> Self {
        let (jobs, waiting) = mpsc::channel(JOBS_MAX);
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            for ended in after {
                // A task that panicked has dropped its worker.
                let _ = ended.await;
            }
            let tell = move |event| {
                let told = Told { slot, incarnation, event };
                let tell = tell.clone();
                async move {
                    // Without a listener the component is gone, and this task about to be stopped.
                    let _ = tell.send(told).await;
                }
            };
            let worker = tokio::select! {
                _ = stopped.wait_for(|&stop| stop) => return,
                worker = begin(&start) => worker,
            };
            match worker {
                Err(error) => tell(Event::NotStarted { detail: describe(&error) }).await,
                Ok((mut worker, loaded)) => {
                    tell(Event::Ready { loaded, pid: worker.pid() }).await;
                    let ended = tokio::select! {
                        _ = stopped.wait_for(|&stop| stop) => None,
                        error = keep(&mut worker, waiting, &start.config, &tell) => Some(error),
                    };
                    worker.kill().await;
                    if let Some(error) = ended {
                        tell(Event::Ended { reason: describe(&error) }).await;
                    }
                }
            }
        });
        Self { jobs, stop, task }
    }

    /// Passes a job on; `false` when the worker is gone.
    pub(super) fn give(&self, job: Job) -> bool {
        self.jobs.try_send(job).is_ok()
    }

    /// Kills the worker; the handle ends when it is gone.
    pub(super) fn stop(self) -> JoinHandle<()> {
        let _ = self.stop.send(true);
        self.task
    }
}

async fn begin(start: &Start) -> Result<(Worker, Loaded), WorkerError> {
    let config = &start.config;
    let mut worker = Worker::start(&start.program, config.limits, config.deadlines, start.name.clone()).await?;
    let loaded = worker.load(start.load.clone(), &start.caches).await?;
    Ok((worker, loaded))
}

/// Does jobs until the worker ends.
async fn keep<F: Future<Output = ()>>(
    worker: &mut Worker,
    mut jobs: mpsc::Receiver<Job>,
    config: &WorkerConfig,
    tell: &impl Fn(Event) -> F,
) -> WorkerError {
    let mut pings = interval(Duration::from_millis(config.ping_interval_ms.clamp(10, 600_000)));
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let job = tokio::select! {
            biased;
            exit = worker.ended() => return WorkerError::Ended(exit),
            job = jobs.recv() => job,
            _ = pings.tick() => match worker.ping().await {
                Ok(()) => {
                    tell(Event::Ponged).await;
                    continue;
                }
                Err(error) => return error,
            },
        };
        match job {
            // The component is gone, or stops this worker.
            None => return std::future::pending().await,
            Some(Job::Golden(ticket)) => {
                let result = match worker.golden().await {
                    Ok(samples) => Ok(samples),
                    Err(WorkerError::Refused(detail)) => Err(detail),
                    Err(error) => return error,
                };
                tell(Event::Golden { ticket, result }).await;
            }
            Some(Job::Process { dispatch, sample, prediction_id }) => {
                let began = Instant::now();
                let answer = match worker.process(&sample, &prediction_id).await {
                    Ok(answer) => answer,
                    Err(error) => return error,
                };
                let latency_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                tell(Event::Answered { dispatch, seq: sample.seq, answer, latency_us }).await;
            }
        }
        pings.reset();
    }
}

/// The error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    sedge_protocol::text::one_line(&crate::error::chain(error))
}
