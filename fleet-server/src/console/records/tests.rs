use super::super::view::{DeviceState, Facet, Members};
use super::*;

const OLD: &str = "0101010101010101010101010101010101010101010101010101010101010101";
const NEW: &str = "0202020202020202020202020202020202020202020202020202020202020202";

struct Fixture {
    _dir: tempfile::TempDir,
    store: Store,
    project: ProjectId,
}

async fn run(store: &Store, sql: &'static str) {
    sqlx::query(sql).execute(store.pool()).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

async fn fixture(devices: u32) -> Fixture {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("sedge.db")).await.expect("opens");
    run(&store, "INSERT INTO project VALUES ('acme', 1), ('other', 1)").await;
    run(&store, "INSERT INTO fleet_project (project) VALUES ('acme')").await;
    sqlx::query(
        "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?) \
         INSERT INTO device SELECT 'acme', printf('cam-%05d', i), 1, '01', 2, 100, NULL FROM n",
    )
    .bind(devices)
    .execute(store.pool())
    .await
    .expect("inserts");
    run(
        &store,
        "INSERT INTO device VALUES ('acme', 'cam-gone', 1, '01', 2, NULL, 3), ('other', 'x', 1, '01', 2, 4, NULL)",
    )
    .await;
    Fixture { _dir: dir, store, project: "acme".parse().expect("a name") }
}

impl Fixture {
    async fn bundle(&self, digest: &str, version: &str, at: i64) {
        sqlx::query("INSERT INTO artifact VALUES ('acme', ?, 'digits', ?, 'model', 1, 1, 1, x'', ?)")
            .bind(digest)
            .bind(version)
            .bind(at)
            .execute(self.store.pool())
            .await
            .expect("inserts");
    }

    async fn wants(&self, device: &str, digest: &str, generation: i64) {
        let assignments = format!(r#"{{"model":{{"digest":"sha256:{digest}"}},"zoom":{{"digest":"sha256:00"}}}}"#);
        sqlx::query("INSERT INTO director_device VALUES ('acme', ?, ?, ?, 1, 1, 1, 1, x'', x'', x'')")
            .bind(device)
            .bind(generation)
            .bind(assignments)
            .execute(self.store.pool())
            .await
            .expect("inserts");
    }

    async fn says(&self, device: &str, generation: i64, seq: i64, report: &str) {
        sqlx::query("INSERT INTO reported VALUES ('acme', ?, 'model', ?, 1, ?, ?, 1)")
            .bind(device)
            .bind(generation)
            .bind(seq)
            .bind(report)
            .execute(self.store.pool())
            .await
            .expect("inserts");
        sqlx::query("INSERT OR REPLACE INTO status VALUES ('acme', ?, '{}', 1, 0, 200000)")
            .bind(device)
            .execute(self.store.pool())
            .await
            .expect("inserts");
    }

    async fn page(&self, data: &StoredData, search: &str, facet: Option<Facet>, after: Option<&str>) -> DevicesPage {
        let query = DeviceQuery { search: search.into(), facet, after: after.map(Into::into) };
        data.devices(&self.project, &query).await.expect("reads")
    }
}

fn report(state: &str, running: &str) -> String {
    format!(r#"{{"kind":"model","state":"{state}","attempt":1,"running":"sha256:{running}"}}"#)
}

#[tokio::test]
async fn a_device_is_what_it_last_said() {
    let fixture = fixture(4).await;
    let data = StoredData::open(fixture.store.clone()).await.expect("opens");
    fixture.bundle(NEW, "2.0.0", 20).await;
    fixture.bundle(OLD, "1.0.0", 10).await;
    for device in ["cam-00000", "cam-00001", "cam-00002"] {
        fixture.wants(device, NEW, 3).await;
    }
    fixture.says("cam-00000", 2, 9, &report("reported", OLD)).await;
    fixture.says("cam-00000", 3, 1, &report("reported", NEW)).await;
    fixture.says("cam-00001", 3, 2, &report("downloading", OLD)).await;
    fixture.says("cam-00001", 3, 1, &report("received", OLD)).await;
    let rows = fixture.page(&data, "", None, None).await.rows;
    let said: Vec<_> = rows
        .iter()
        .map(|row| {
            let version = |label: &Option<BundleLabel>| label.as_ref().map(|label| label.version.clone());
            (row.id.as_str(), row.online, version(&row.runs), version(&row.wanted), row.state, row.heard_at)
        })
        .collect();
    let (one, two) = (Some("1.0.0".to_owned()), Some("2.0.0".to_owned()));
    let (online, never) = (Online::Online, Online::Never);
    let expected = [
        ("cam-00000", online, two.clone(), two.clone(), DeviceState::Settled, Some(UnixSeconds(200))),
        ("cam-00001", online, one, two.clone(), DeviceState::Progress, Some(UnixSeconds(200))),
        ("cam-00002", never, None, two, DeviceState::Unreachable, Some(UnixSeconds(100))),
        ("cam-00003", never, None, None, DeviceState::Idle, Some(UnixSeconds(100))),
    ];
    assert_eq!(said, expected);
    let fleet = data.fleet(&fixture.project).await.expect("reads").expect("there");
    assert_eq!((fleet.devices, fleet.online, fleet.settled, fleet.bad), (4, 2, 1, 0));
    // In the order of upload, whatever their shares.
    let runs: Vec<_> =
        fleet.runs.iter().map(|run| (run.bundle.as_ref().map(|b| b.version.as_str()), run.devices)).collect();
    assert_eq!(runs, [(Some("1.0.0"), 1), (Some("2.0.0"), 1), (None, 2)]);
    let Members::Dots(dots) = &fleet.groups[0].members else { panic!("not drawn one by one") };
    assert_eq!(dots.iter().map(|dot| dot.runs).collect::<Vec<_>>(), [1, 0, 2, 2]);
    assert_eq!(data.fleet(&"ghost".parse().expect("a name")).await.expect("reads"), None);
}

#[tokio::test]
async fn a_large_fleet_is_searched_in_pages() {
    let fixture = fixture(2_500).await;
    let data = StoredData::open(fixture.store.clone()).await.expect("opens");
    for device in ["cam-01999", "cam-02400"] {
        fixture.says(device, 1, 1, &report("reported", OLD)).await;
        fixture.wants(device, OLD, 1).await;
    }
    let (mut after, mut seen, mut pages) = (None, 0, 0);
    loop {
        let page = fixture.page(&data, "", None, after.as_deref()).await;
        assert!(page.rows.first().is_some_and(|row| Some(&row.id) > after.as_ref()));
        (seen, pages) = (seen + page.rows.len(), pages + 1);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((seen, pages), (2_500, 25));
    let found = fixture.page(&data, "", Some(Facet::Good), None).await;
    assert_eq!(found.rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["cam-01999", "cam-02400"]);
    assert_eq!((found.next, fixture.page(&data, "CAM-024", Some(Facet::Good), None).await.rows.len()), (None, 1));
    assert_eq!(fixture.page(&data, "%", None, None).await.rows.len(), 0, "a search is no pattern");
    let others = fixture.page(&data, "", Some(Facet::Quiet), None).await;
    assert_eq!((others.rows.len(), others.next.as_deref()), (100, Some("cam-00099")));
    let fleet = data.fleet(&fixture.project).await.expect("reads").expect("there");
    assert_eq!(fleet.groups[0].members, Members::Shares(vec![2, 2_498]));
}

#[tokio::test]
async fn whoever_listens_is_told_of_every_commit() {
    let fixture = fixture(1).await;
    let data = StoredData::open(fixture.store.clone()).await.expect("opens");
    let mut changes = data.changes();
    run(&fixture.store, "UPDATE device SET last_seen = last_seen + 1").await;
    tokio::time::timeout(Duration::from_secs(20), changes.changed()).await.expect("told").expect("still watched");
    assert!(!changes.has_changed().expect("still watched"));
}

#[tokio::test]
async fn a_bundle_keeps_its_colour_when_another_goes() {
    let fixture = fixture(1).await;
    let data = StoredData::open(fixture.store.clone()).await.expect("opens");
    fixture.bundle(OLD, "1.0.0", 10).await;
    fixture.bundle(NEW, "2.0.0", 20).await;
    fixture.says("cam-00000", 1, 1, &report("reported", NEW)).await;
    let fleet = data.fleet(&fixture.project).await.expect("reads").expect("there");
    let runs: Vec<_> = fleet.runs.iter().map(|run| (run.devices, run.colour)).collect();
    assert_eq!(runs, [(1, 1)], "the first colour is that of 1.0.0");
}
