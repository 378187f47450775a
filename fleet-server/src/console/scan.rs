//! Devices read in parts: the fleet as a whole, and the pages of a search.

use super::view::{
    BUNDLES_MAX, BundleLabel, DOTS_MAX, DeviceGroup, DeviceQuery, DeviceRow, DevicesPage, Dot, FleetView, Members,
    Online, ROWS_MAX, RunsShare, Tone,
};
use crate::service::AnyError;
use async_trait::async_trait;
use std::collections::HashMap;

/// Rows that are read at once.
const BATCH: u32 = 1_000;
/// Rows that one search looks through; then the page says so by its next page.
const SEARCHED_MAX: u32 = 20_000;

/// A device, and the number of the group that it is drawn in.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) row: DeviceRow,
    pub(super) group: usize,
}

/// Where devices are read.
#[async_trait]
pub(super) trait DeviceRows: Send + Sync {
    /// At most `rows_max` devices by id, after this one, of those that `asked` searches for. Its facet may be left to
    /// the caller.
    async fn rows(&self, after: &str, asked: &DeviceQuery, rows_max: u32) -> Result<Vec<Placed>, AnyError>;
}

/// A project's bundles by digest.
#[derive(Debug, Default)]
pub(super) struct Bundles(HashMap<String, (usize, BundleLabel)>);

impl Bundles {
    /// In order of their upload.
    pub(super) fn new(bundles: impl IntoIterator<Item = BundleLabel>) -> Self {
        let place = |(place, label): (usize, BundleLabel)| (label.digest.clone(), (place, label));
        Self(bundles.into_iter().enumerate().map(place).collect())
    }

    /// What is known of the bundle of this digest.
    pub(super) fn label(&self, digest: String) -> BundleLabel {
        match self.0.get(&digest) {
            Some((_, label)) => label.clone(),
            None => BundleLabel { name: String::new(), version: String::new(), digest },
        }
    }

    /// Unknown ones come last.
    fn place(&self, label: &BundleLabel) -> usize {
        self.0.get(&label.digest).map_or(usize::MAX, |(place, _)| *place)
    }
}

/// One page of those that are asked for.
pub(super) async fn page(devices: &impl DeviceRows, asked: &DeviceQuery) -> Result<DevicesPage, AnyError> {
    let (mut page, mut searched) = (DevicesPage::default(), 0);
    let mut after = asked.after.clone().unwrap_or_default();
    // One row more than is shown tells whether there is a next page.
    let batch = if asked.facet.is_some() { BATCH } else { ROWS_MAX + 1 };
    loop {
        let rows = devices.rows(&after, asked, batch).await?;
        let is_last = rows.len() < batch as usize;
        searched += batch;
        for Placed { row, .. } in rows {
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

/// All devices together, drawn in groups of these names; one without devices is left out.
pub(super) async fn fleet(
    devices: &impl DeviceRows,
    groups: &[String],
    bundles: &Bundles,
) -> Result<FleetView, AnyError> {
    let mut tally = Tally::default();
    tally.groups.resize_with(groups.len(), HashMap::new);
    let (all, mut after) = (DeviceQuery::default(), String::new());
    loop {
        let rows = devices.rows(&after, &all, BATCH).await?;
        let is_last = rows.len() < BATCH as usize;
        after = rows.last().map(|placed| placed.row.id.clone()).unwrap_or_default();
        rows.into_iter().for_each(|placed| tally.add(placed));
        if is_last {
            return Ok(tally.view(groups, bundles));
        }
    }
}

/// Counts devices as they are read.
#[derive(Default)]
struct Tally {
    devices: u64,
    online: u64,
    settled: u64,
    bad: u64,
    /// Of each group, how many run what.
    groups: Vec<HashMap<Option<BundleLabel>, u64>>,
    /// The first of them; a fleet that outgrows them is drawn as shares.
    seen: Vec<Placed>,
}

impl Tally {
    fn add(&mut self, placed: Placed) {
        let row = &placed.row;
        self.devices += 1;
        self.online += u64::from(row.online == Online::Online);
        self.settled += u64::from(row.state.tone() == Tone::Good);
        self.bad += u64::from(row.state.tone() == Tone::Bad);
        let group = placed.group.min(self.groups.len().saturating_sub(1));
        if let Some(runs) = self.groups.get_mut(group) {
            *runs.entry(row.runs.clone()).or_default() += 1;
        }
        if self.seen.len() <= DOTS_MAX {
            self.seen.push(Placed { group, ..placed });
        }
    }

    fn view(self, names: &[String], bundles: &Bundles) -> FleetView {
        let runs = self.runs(bundles);
        let place = |bundle: Option<&BundleLabel>| {
            let found = runs.iter().position(|share| share.bundle.is_some() && share.bundle.as_ref() == bundle);
            found.unwrap_or(runs.len().saturating_sub(1))
        };
        let dot = |row: &DeviceRow| Dot {
            id: row.id.clone(),
            runs: place(row.runs.as_ref()),
            online: row.online == Online::Online,
            state: row.state,
        };
        let members = |number: usize, counts: &HashMap<Option<BundleLabel>, u64>| {
            if self.seen.len() <= DOTS_MAX {
                let mine = self.seen.iter().filter(|placed| placed.group == number);
                return Members::Dots(mine.map(|placed| dot(&placed.row)).collect());
            }
            let mut shares = vec![0; runs.len()];
            for (bundle, devices) in counts {
                if let Some(share) = shares.get_mut(place(bundle.as_ref())) {
                    *share += devices;
                }
            }
            Members::Shares(shares)
        };
        let groups = names.iter().zip(&self.groups).enumerate().filter(|(_, (_, counts))| !counts.is_empty());
        let groups =
            groups.map(|(number, (name, counts))| DeviceGroup { name: name.clone(), members: members(number, counts) });
        let groups = groups.collect();
        let Self { devices, online, settled, bad, .. } = self;
        FleetView { devices, online, settled, bad, runs, groups }
    }

    /// The bundles that most devices run get colours; the rest and those that run nothing share one.
    fn runs(&self, bundles: &Bundles) -> Vec<RunsShare> {
        let mut sums: HashMap<&BundleLabel, u64> = HashMap::new();
        for (bundle, devices) in self.groups.iter().flatten() {
            if let Some(bundle) = bundle {
                *sums.entry(bundle).or_default() += devices;
            }
        }
        let mut named: Vec<_> = sums.into_iter().collect();
        let order = |label: &BundleLabel| (bundles.place(label), label.digest.clone());
        named.sort_by_key(|(label, devices)| (std::cmp::Reverse(*devices), order(label)));
        named.truncate(BUNDLES_MAX);
        named.sort_by_key(|(label, _)| order(label));
        let rest = self.devices - named.iter().map(|(_, devices)| devices).sum::<u64>();
        let mut free: Vec<usize> = (0..BUNDLES_MAX).collect();
        let mut runs = Vec::with_capacity(named.len() + 1);
        for (label, devices) in named {
            // By its place among all bundles, so that it keeps its colour when another comes or goes.
            let wished = bundles.place(label) % BUNDLES_MAX;
            let colour = free.iter().position(|colour| *colour == wished).unwrap_or(0);
            let colour = if free.is_empty() { wished } else { free.remove(colour) };
            runs.push(RunsShare { bundle: Some(label.clone()), devices, colour });
        }
        if rest > 0 {
            runs.push(RunsShare { bundle: None, devices: rest, colour: 0 });
        }
        runs
    }
}
