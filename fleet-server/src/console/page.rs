//! The page of a project: views become the texts that its template shows.

use super::assets::Assets;
use super::picture::{self, Mark};
use super::view::{
    BundleLabel, DeviceGroup, DeviceQuery, DeviceRow, DevicesPage, Dot, Facet, FleetView, Members, RolloutView,
};
use super::{rollout_part, words};
use askama::Template;
use sedge_protocol::id::ProjectId;
use sedge_protocol::time::UnixSeconds;

/// What a project's page is made of.
pub(super) struct Parts<'a> {
    pub(super) project: &'a ProjectId,
    pub(super) projects: &'a [ProjectId],
    pub(super) fleet: &'a FleetView,
    pub(super) rollout: Option<&'a RolloutView>,
    pub(super) query: &'a DeviceQuery,
    pub(super) devices: &'a DevicesPage,
    pub(super) form_token: &'a str,
    pub(super) version: u64,
    pub(super) now: UnixSeconds,
}

#[derive(Template)]
#[template(path = "fleet.html")]
struct FleetPage<'a> {
    assets: &'a Assets,
    project: &'a ProjectId,
    projects: &'a [ProjectId],
    form_token: &'a str,
    version: u64,
    time: String,
    sentence: String,
    fleet: &'a FleetView,
    runs: Vec<Run>,
    groups: Vec<Group>,
    has_away: bool,
    marks: Vec<Mark>,
    rollout: Option<rollout_part::RolloutPart>,
    search: &'a str,
    facets: Vec<Choice>,
    found: String,
    rows: Vec<Row>,
    first_page: Option<String>,
    next_page: Option<String>,
}

struct Run {
    class: String,
    name: String,
    digest: String,
    devices: String,
}

struct Group {
    name: String,
    devices: String,
    svg: String,
    shares: Vec<String>,
}

struct Choice {
    key: &'static str,
    word: &'static str,
    chosen: bool,
}

struct Label {
    name: String,
    digest: String,
}

struct Row {
    id: String,
    online_tone: &'static str,
    online_icon: &'static str,
    online_word: &'static str,
    runs: Option<Label>,
    served: String,
    wanted: Option<Label>,
    /// Whether it runs what it should; then that is not said twice.
    same: bool,
    tone: &'static str,
    icon: &'static str,
    word: &'static str,
    reason: String,
    heard: Option<(String, String)>,
}

/// The page of a project.
pub(super) fn fleet(parts: &Parts<'_>, assets: &Assets) -> Result<String, askama::Error> {
    let Parts { project, fleet, query, devices, now, .. } = *parts;
    let runs = fleet.runs.iter().enumerate().map(|(i, share)| Run {
        class: picture::run_class(i, &fleet.runs),
        name: share.bundle.as_ref().map_or_else(|| "nothing known".into(), words::bundle),
        digest: share.bundle.as_ref().map(BundleLabel::short).unwrap_or_default(),
        devices: words::count(share.devices),
    });
    let page = FleetPage {
        assets,
        project,
        projects: parts.projects,
        form_token: parts.form_token,
        version: parts.version,
        time: words::clock(now, now),
        sentence: words::fleet(fleet),
        fleet,
        runs: runs.collect(),
        groups: groups(fleet),
        has_away: dots(fleet).any(|dot| !dot.online),
        marks: Mark::ALL.into_iter().filter(|mark| dots(fleet).any(|dot| Mark::of(dot) == Some(*mark))).collect(),
        rollout: parts.rollout.map(|rollout| rollout_part::RolloutPart::new(rollout, now)),
        search: &query.search,
        facets: Facet::ALL
            .iter()
            .map(|&facet| Choice { key: facet.key(), word: facet.word(), chosen: query.facet == Some(facet) })
            .collect(),
        found: found(fleet, query, devices),
        rows: devices.rows.iter().map(|row| Row::new(row, now)).collect(),
        first_page: query.after.is_some().then(|| address(project, query, None)),
        next_page: devices.next.as_ref().map(|after| address(project, query, Some(after))),
    };
    page.render()
}

/// Every device that is drawn.
fn dots(fleet: &FleetView) -> impl Iterator<Item = &Dot> {
    fleet.groups.iter().flat_map(|group| match &group.members {
        Members::Dots(dots) => dots.as_slice(),
        Members::Shares(_) => &[],
    })
}

fn groups(fleet: &FleetView) -> Vec<Group> {
    let size = |members: &Members| match members {
        Members::Dots(dots) => dots.len() as u64,
        Members::Shares(shares) => shares.iter().sum(),
    };
    let rows = picture::rows(usize::try_from(fleet.devices).unwrap_or(usize::MAX));
    let group = |group: &DeviceGroup| Group {
        name: group.name.clone(),
        devices: words::devices(size(&group.members)),
        svg: picture::group(group, &fleet.runs, rows),
        shares: picture::shares(group, &fleet.runs).into_iter().map(words::count).collect(),
    };
    fleet.groups.iter().map(group).collect()
}

fn found(fleet: &FleetView, query: &DeviceQuery, page: &DevicesPage) -> String {
    let all = query.search.is_empty() && query.facet.is_none();
    match (page.rows.is_empty(), all, page.total) {
        (true, true, _) if query.after.is_none() => "No device yet.".into(),
        (true, ..) => "No device matches.".into(),
        (false, true, None) => format!("{}, by id.", words::devices(fleet.devices)),
        (false, true, Some(total)) => format!("{}, by id.", words::devices(total)),
        (false, false, Some(1)) => "1 device matches.".into(),
        (false, false, Some(total)) => format!("{} match, by id.", words::devices(total)),
        (false, false, None) => "Those that match, by id.".into(),
    }
}

/// The address of a page of devices: everything that makes it is in there.
fn address(project: &ProjectId, query: &DeviceQuery, after: Option<&str>) -> String {
    let mut address = format!("/projects/{project}");
    let parameters =
        [("q", query.search.as_str()), ("state", query.facet.map_or("", Facet::key)), ("after", after.unwrap_or(""))];
    for (i, (name, value)) in parameters.into_iter().filter(|(_, value)| !value.is_empty()).enumerate() {
        address.push(if i == 0 { '?' } else { '&' });
        address.push_str(name);
        address.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => address.push(byte.into()),
                _ => address.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    address + "#devices-title"
}

impl Row {
    fn new(row: &DeviceRow, now: UnixSeconds) -> Self {
        let label = |bundle: &BundleLabel| Label { name: words::bundle(bundle), digest: bundle.short() };
        Self {
            id: row.id.clone(),
            online_tone: row.online.tone().class(),
            online_icon: row.online.icon(),
            online_word: row.online.word(),
            runs: row.runs.as_ref().map(label),
            served: row.served.as_ref().map(words::served).unwrap_or_default(),
            wanted: row.wanted.as_ref().map(label),
            same: row.wanted.is_some()
                && row.runs.as_ref().map(|b| &b.digest) == row.wanted.as_ref().map(|b| &b.digest),
            tone: row.state.tone().class(),
            icon: row.state.icon(),
            word: row.state.word(),
            reason: row.reason.clone(),
            heard: row.heard_at.map(|at| (at.to_string(), words::ago(at, now))),
        }
    }
}

/// A page for people who are not in, or are where nothing is.
#[derive(Template)]
#[template(path = "login.html")]
pub(super) struct DoorPage<'a> {
    pub(super) assets: &'a Assets,
    pub(super) heading: &'a str,
    pub(super) texts: &'a [&'a str],
    pub(super) command: Option<&'a str>,
    /// Where the one button goes.
    pub(super) action: Option<String>,
    pub(super) link: Option<(&'a str, &'a str)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_the_whole_state() {
        let project = "acme".parse().expect("a name");
        let mut query = DeviceQuery::default();
        assert_eq!(address(&project, &query, None), "/projects/acme#devices-title");
        query.search = "cam &\"<é".into();
        query.facet = Some(Facet::Bad);
        let expected = "/projects/acme?q=cam%20%26%22%3C%C3%A9&state=bad&after=cam-9#devices-title";
        assert_eq!(address(&project, &query, Some("cam-9")), expected);
    }
}
