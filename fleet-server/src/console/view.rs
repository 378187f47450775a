//! What the console shows, as plain values, and where it comes from.
//!
//! Nothing here is markup. Texts may hold whatever a device said: they are escaped when they are shown.

mod query;
mod state;

pub use query::{DeviceQuery, DevicesPage, Facet};
pub use state::{DeviceState, Online, RolloutState, Tone, Verdict, WaveState};

use crate::service::AnyError;
use async_trait::async_trait;
use sedge_protocol::id::ProjectId;
use sedge_protocol::time::UnixSeconds;
use tokio::sync::watch;

/// Rows of one page of devices.
pub const ROWS_MAX: u32 = 100;
/// Devices that are drawn one by one; a larger fleet is drawn as shares.
pub const DOTS_MAX: usize = 480;
/// Bundles that get a colour of their own; a source adds the rest up under `None`.
pub const BUNDLES_MAX: usize = 5;
/// Longest text to search for, in characters; no id is longer.
pub const SEARCH_MAX: usize = 64;

/// Where the console's figures come from.
#[async_trait]
pub trait ConsoleData: Send + Sync {
    /// The projects, by name.
    ///
    /// # Errors
    /// When they cannot be read; the page says that the server failed and the log says why. So everywhere here.
    async fn projects(&self) -> Result<Vec<ProjectId>, AnyError>;

    /// A project's devices as a whole; none when there is no such project.
    ///
    /// # Errors
    /// As above.
    async fn fleet(&self, project: &ProjectId) -> Result<Option<FleetView>, AnyError>;

    /// The rollout that runs, or the last one.
    ///
    /// # Errors
    /// As above.
    async fn rollout(&self, project: &ProjectId) -> Result<Option<RolloutView>, AnyError>;

    /// Devices by id, at most [`ROWS_MAX`] of those that `query` asks for.
    ///
    /// # Errors
    /// As above.
    async fn devices(&self, project: &ProjectId, query: &DeviceQuery) -> Result<DevicesPage, AnyError>;

    /// A number that changes when anything that is shown may have changed.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// A bundle as people know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BundleLabel {
    /// Its name; empty when the server knows only the digest.
    pub name: String,
    /// Its version; empty as above.
    pub version: String,
    /// The digest, hexadecimal.
    pub digest: String,
}

impl BundleLabel {
    /// The first digits of the digest.
    pub fn short(&self) -> String {
        self.digest.chars().take(8).collect()
    }
}

/// A project's devices as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetView {
    /// Devices that belong to it.
    pub devices: u64,
    /// Of them, connected.
    pub online: u64,
    /// Of them, running what they should.
    pub settled: u64,
    /// Of them, in a state that went wrong.
    pub bad: u64,
    /// Which bundles they really run; at most [`BUNDLES_MAX`], then the rest. Oldest first, so that a bundle keeps its
    /// place, and with it its colour, while its share grows.
    pub runs: Vec<RunsShare>,
    /// The same devices for the picture: by wave while there is a rollout, else one group.
    pub groups: Vec<DeviceGroup>,
}

/// Devices that run the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunsShare {
    /// What; none for devices that run nothing, or that nothing is known of.
    pub bundle: Option<BundleLabel>,
    /// How many.
    pub devices: u64,
    /// Number of its colour, below [`BUNDLES_MAX`]: the same for as long as the bundle is shown.
    pub colour: usize,
}

/// Devices that are drawn together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceGroup {
    /// A wave's name; empty for one group of all.
    pub name: String,
    /// Who is in it.
    pub members: Members,
}

/// Devices of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// One by one.
    Dots(Vec<Dot>),
    /// How many for each of [`FleetView::runs`], in its order.
    Shares(Vec<u64>),
}

/// A device in the picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dot {
    /// Its id.
    pub id: String,
    /// What it runs: a place in [`FleetView::runs`].
    pub runs: usize,
    /// Whether it is connected.
    pub online: bool,
    /// Where it stands.
    pub state: DeviceState,
}

/// A rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutView {
    /// Its name.
    pub id: String,
    /// What it brings.
    pub bundle: BundleLabel,
    /// Where it stands.
    pub state: RolloutState,
    /// Where it stands, why and with which figures, in one sentence.
    pub sentence: String,
    /// When it began.
    pub started_at: Option<UnixSeconds>,
    /// When it ended.
    pub ended_at: Option<UnixSeconds>,
    /// Its waves in order.
    pub waves: Vec<WaveView>,
    /// Its gates.
    pub gates: Vec<GateView>,
    /// How many devices are in which state; each device counts once.
    pub histogram: Vec<(DeviceState, u64)>,
    /// Why devices failed, the most frequent first.
    pub failures: Vec<FailureView>,
    /// What does not move, and why.
    pub waiting: Vec<WaitingView>,
    /// What happened, newest first.
    pub timeline: Vec<Moment>,
}

/// A wave of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaveView {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: WaveState,
    /// Devices in it.
    pub devices: u64,
    /// How many of them are in which state; each counts once.
    pub states: Vec<(DeviceState, u64)>,
    /// How long it has been watched, and how long it is to be; seconds.
    pub soak: Option<(u64, u64)>,
}

/// A gate with its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateView {
    /// What it measures.
    pub name: String,
    /// In which wave.
    pub wave: String,
    /// Its limit, with unit.
    pub limit: String,
    /// What was measured, with unit; none before the first.
    pub measured: Option<String>,
    /// Samples or devices behind it.
    pub sample: u64,
    /// How many it needs.
    pub minimum: u64,
    /// What it says.
    pub verdict: Verdict,
}

/// Devices that failed alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureView {
    /// How: a stable code, or words.
    pub code: String,
    /// How many.
    pub devices: u64,
    /// Some of them.
    pub named: Vec<String>,
}

/// Something that does not move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingView {
    /// A rollout, wave or device.
    pub what: String,
    /// Why, and what ends it.
    pub reason: String,
    /// When that ends by itself.
    pub until: Option<UnixSeconds>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// When.
    pub at: UnixSeconds,
    /// What.
    pub text: String,
    /// Who did it; empty for the server.
    pub actor: String,
    /// How good or bad it is.
    pub tone: Tone,
}

/// Samples that a bundle answered on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// How many.
    pub samples: u64,
    /// Of them, failed.
    pub errors: u64,
    /// Of them, with a known right answer.
    pub labelled: u64,
    /// Of those, answered right.
    pub right: u64,
}

/// A device in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRow {
    /// Its id.
    pub id: String,
    /// Whether it is connected.
    pub online: Online,
    /// What it runs: measured where it sends heartbeats, else what it says.
    pub runs: Option<BundleLabel>,
    /// What became of its samples with that.
    pub served: Option<Served>,
    /// What it should run.
    pub wanted: Option<BundleLabel>,
    /// Where it stands.
    pub state: DeviceState,
    /// Why it stands there.
    pub reason: String,
    /// When it was last heard of.
    pub heard_at: Option<UnixSeconds>,
}
