//! What the database knows, as the console shows it. It knows no rollout.

use super::standing::{self, Known};
use super::view::{
    BUNDLES_MAX, BundleLabel, ConsoleData, DOTS_MAX, DeviceGroup, DeviceQuery, DeviceRow, DevicesPage, Dot, FleetView,
    Members, Online, ROWS_MAX, RolloutView, RunsShare, Tone,
};
use crate::service::AnyError;
use crate::store::{Store, StoreError, query};
use async_trait::async_trait;
use sedge_protocol::Sha256Digest;
use sedge_protocol::id::ProjectId;
use sedge_protocol::message::ComponentReport;
use sedge_protocol::time::UnixSeconds;
use sqlx::{ConnectOptions as _, SqliteConnection};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often the database is asked whether anything changed.
const LOOK_STEP: Duration = Duration::from_secs(1);
/// Rows that are read at once.
const BATCH: u32 = 1_000;
/// Rows that one search looks through; then the page says so by its next page.
const SEARCHED_MAX: u32 = 20_000;
const PROJECTS_MAX: u32 = 100;

/// Devices with their first component: what it should run and what was last said of it. Parameters: 1 project, 2 the
/// last id before, 3 part of the id in lower case, 4 whether it is connected, 5 rows.
const DEVICES: &str = "\
    SELECT id, online, heard_s, generation, json_extract(assignments, '$.\"' || component || '\".digest') AS wanted, \
        (SELECT r.generation || ' ' || r.report FROM reported r WHERE r.project = ?1 AND r.device = id \
         AND r.component = first.component ORDER BY r.generation DESC, r.attempt DESC, r.seq DESC LIMIT 1) AS report \
    FROM (SELECT d.id, s.online, a.assignments, coalesce(a.generation, 0) AS generation, \
            nullif(max(coalesce(d.last_seen, 0), coalesce(s.received_ms, 0) / 1000), 0) AS heard_s, \
            coalesce((SELECT min(key) FROM json_each(a.assignments)), (SELECT min(r.component) FROM reported r \
                WHERE r.project = d.project AND r.device = d.id)) AS component \
        FROM device d \
        LEFT JOIN status s ON s.project = d.project AND s.device = d.id \
        LEFT JOIN director_device a ON a.project = d.project AND a.device = d.id \
        WHERE d.project = ?1 AND d.decommissioned_at IS NULL AND d.id > ?2 \
            AND (?3 = '' OR instr(lower(d.id), ?3) > 0) \
            AND (?4 IS NULL OR coalesce(s.online, 0) = ?4) \
        ORDER BY d.id LIMIT ?5) AS first \
    ORDER BY id";

type Row = (String, Option<bool>, Option<i64>, i64, Option<String>, Option<String>);
type Bundles = HashMap<String, (usize, BundleLabel)>;

/// The console's figures out of the database.
#[derive(Debug)]
pub struct StoredData {
    store: Store,
    changes: watch::Receiver<u64>,
    looking: JoinHandle<()>,
}

impl Drop for StoredData {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl StoredData {
    /// Begins to watch the database.
    ///
    /// # Errors
    /// When there is no further connection to it.
    pub async fn open(store: Store) -> Result<Self, StoreError> {
        const WHAT: &str = "watch for changes";
        // SQLite gives each connection a number that grows when another one has committed; so this one writes nothing.
        let mut connection = store.pool().connect_options().connect().await.map_err(query(WHAT))?;
        let mut seen = data_version(&mut connection).await?;
        // A number of an earlier start must not look like one of this.
        let first = u64::try_from(crate::clock::now().0).unwrap_or(0) * 1_000_000;
        let (sender, changes) = watch::channel(first);
        let looking = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_STEP).await;
                match data_version(&mut connection).await {
                    Ok(version) if version == seen => {}
                    Ok(version) => {
                        seen = version;
                        sender.send_modify(|number| *number += 1);
                    }
                    Err(e) => tracing::error!(error = &e as &dyn std::error::Error, "pages are not told of changes"),
                }
            }
        });
        Ok(Self { store, changes, looking })
    }

    /// A project's bundles by digest, with their place in order of upload.
    async fn bundles(&self, project: &ProjectId) -> Result<Bundles, StoreError> {
        let rows: Vec<(String, String, String)> =
            sqlx::query_as("SELECT digest, name, version FROM artifact WHERE project = ? ORDER BY at, digest")
                .bind(project.as_str())
                .fetch_all(self.store.pool())
                .await
                .map_err(query("list bundles"))?;
        let label = |(place, (digest, name, version)): (usize, (String, String, String))| {
            (digest.clone(), (place, BundleLabel { name, version, digest }))
        };
        Ok(rows.into_iter().enumerate().map(label).collect())
    }

    async fn batch(
        &self,
        project: &ProjectId,
        after: &str,
        asked: &DeviceQuery,
        bundles: &Bundles,
        rows_max: u32,
    ) -> Result<Vec<DeviceRow>, StoreError> {
        use super::view::Facet;
        let online = match asked.facet {
            Some(Facet::Online) => Some(true),
            Some(Facet::Offline) => Some(false),
            _ => None,
        };
        let rows: Vec<Row> = sqlx::query_as(DEVICES)
            .bind(project.as_str())
            .bind(after)
            .bind(asked.search.to_lowercase())
            .bind(online)
            .bind(rows_max)
            .fetch_all(self.store.pool())
            .await
            .map_err(query("list devices"))?;
        rows.into_iter().map(|row| device(row, bundles)).collect()
    }
}

async fn data_version(connection: &mut SqliteConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await.map_err(query("look for changes"))
}

fn device(row: Row, bundles: &Bundles) -> Result<DeviceRow, StoreError> {
    let (id, connected, heard, generation, wanted, report) = row;
    let damaged = |_| StoreError::Damaged { what: "report" };
    let report = match &report {
        None => None,
        Some(text) => {
            let (answers, report) = text.split_once(' ').ok_or(StoreError::Damaged { what: "report" })?;
            let report: ComponentReport = serde_json::from_str(report).map_err(damaged)?;
            Some((report, answers.parse().unwrap_or(0)))
        }
    };
    // The director writes digests with the name of the hash before them.
    let wanted = wanted.map(|digest| digest.strip_prefix("sha256:").unwrap_or(&digest).to_owned());
    let (state, reason) = standing::of(&Known {
        online: connected == Some(true),
        wanted: wanted.as_deref(),
        generation: u64::try_from(generation).unwrap_or(0),
        report: report.as_ref().map(|(report, answers)| (report, *answers)),
    });
    let label = |digest: String| match bundles.get(&digest) {
        Some((_, label)) => label.clone(),
        None => BundleLabel { name: String::new(), version: String::new(), digest },
    };
    let running = report.and_then(|(report, _)| report.running).as_ref().map(Sha256Digest::hex);
    Ok(DeviceRow {
        id,
        online: match connected {
            Some(true) => Online::Online,
            Some(false) => Online::Offline,
            None => Online::Never,
        },
        runs: running.map(label),
        wanted: wanted.map(label),
        state,
        reason,
        heard_at: heard.map(UnixSeconds),
    })
}

#[async_trait]
impl ConsoleData for StoredData {
    async fn projects(&self) -> Result<Vec<ProjectId>, AnyError> {
        Ok(crate::store::EdgeStore::projects(&self.store, None, PROJECTS_MAX).await?)
    }

    async fn fleet(&self, project: &ProjectId) -> Result<Option<FleetView>, AnyError> {
        let known: Option<i64> = sqlx::query_scalar("SELECT 1 FROM project WHERE name = ?")
            .bind(project.as_str())
            .fetch_optional(self.store.pool())
            .await
            .map_err(query("look up a project"))?;
        if known.is_none() {
            return Ok(None);
        }
        let bundles = self.bundles(project).await?;
        let mut tally = Tally::default();
        let (all, mut after) = (DeviceQuery::default(), String::new());
        loop {
            let rows = self.batch(project, &after, &all, &bundles, BATCH).await?;
            let is_last = rows.len() < BATCH as usize;
            after = rows.last().map(|row| row.id.clone()).unwrap_or_default();
            rows.into_iter().for_each(|row| tally.add(row));
            if is_last {
                return Ok(Some(tally.view(&bundles)));
            }
        }
    }

    async fn rollout(&self, _: &ProjectId) -> Result<Option<RolloutView>, AnyError> {
        Ok(None)
    }

    async fn devices(&self, project: &ProjectId, asked: &DeviceQuery) -> Result<DevicesPage, AnyError> {
        let bundles = self.bundles(project).await?;
        let (mut page, mut searched) = (DevicesPage::default(), 0);
        let mut after = asked.after.clone().unwrap_or_default();
        // One row more than is shown tells whether there is a next page.
        let batch = if asked.facet.is_some() { BATCH } else { ROWS_MAX + 1 };
        loop {
            let rows = self.batch(project, &after, asked, &bundles, batch).await?;
            let is_last = rows.len() < batch as usize;
            searched += batch;
            for row in rows {
                if asked.facet.is_some_and(|facet| !facet.holds(row.online, row.state)) {
                    after = row.id;
                    continue;
                }
                if page.rows.len() == ROWS_MAX as usize {
                    page.next = page.rows.last().map(|row| row.id.clone());
                    return Ok(page);
                }
                after = row.id.clone();
                page.rows.push(row);
            }
            if is_last {
                return Ok(page);
            }
            if searched >= SEARCHED_MAX {
                page.next = Some(after);
                return Ok(page);
            }
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}

/// Counts devices as they are read.
#[derive(Default)]
struct Tally {
    devices: u64,
    online: u64,
    settled: u64,
    bad: u64,
    runs: HashMap<Option<BundleLabel>, u64>,
    /// The first of them; a fleet that outgrows them is drawn as shares.
    seen: Vec<DeviceRow>,
}

impl Tally {
    fn add(&mut self, row: DeviceRow) {
        self.devices += 1;
        self.online += u64::from(row.online == Online::Online);
        self.settled += u64::from(row.state.tone() == Tone::Good);
        self.bad += u64::from(row.state.tone() == Tone::Bad);
        *self.runs.entry(row.runs.clone()).or_default() += 1;
        if self.seen.len() <= DOTS_MAX {
            self.seen.push(row);
        }
    }

    fn view(self, bundles: &Bundles) -> FleetView {
        // The bundles that most devices run get colours; the rest and those that run nothing share one.
        let mut named: Vec<(BundleLabel, u64)> =
            self.runs.into_iter().filter_map(|(bundle, n)| Some((bundle?, n))).collect();
        let place = |label: &BundleLabel| bundles.get(&label.digest).map_or(usize::MAX, |(place, _)| *place);
        named.sort_by(|(a, n), (b, m)| m.cmp(n).then_with(|| (place(a), &a.digest).cmp(&(place(b), &b.digest))));
        named.truncate(BUNDLES_MAX);
        named.sort_by(|(a, _), (b, _)| (place(a), &a.digest).cmp(&(place(b), &b.digest)));
        let rest = self.devices - named.iter().map(|(_, n)| n).sum::<u64>();
        let mut runs: Vec<_> =
            named.into_iter().map(|(bundle, devices)| RunsShare { bundle: Some(bundle), devices }).collect();
        if rest > 0 {
            runs.push(RunsShare { bundle: None, devices: rest });
        }
        let members = if self.seen.len() <= DOTS_MAX {
            let run = |row: &DeviceRow| {
                runs.iter()
                    .position(|share| share.bundle.is_some() && share.bundle == row.runs)
                    .unwrap_or(runs.len() - 1)
            };
            let dot = |row: &DeviceRow| Dot {
                id: row.id.clone(),
                runs: run(row),
                online: row.online == Online::Online,
                state: row.state,
            };
            Members::Dots(self.seen.iter().map(dot).collect())
        } else {
            Members::Shares(runs.iter().map(|share| share.devices).collect())
        };
        let groups = vec![DeviceGroup { name: String::new(), members }];
        let Self { devices, online, settled, bad, .. } = self;
        FleetView { devices, online, settled, bad, runs, groups }
    }
}

#[cfg(test)]
mod tests;
