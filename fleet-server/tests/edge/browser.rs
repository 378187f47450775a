//! The console in a real browser: narrow and wide, light and dark, with scripts and without.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sedge_fleet_server::console::view::{DeviceState, RolloutState};
use sedge_fleet_server::store::Scope;
use serde_json::json;
use sqlx::SqlitePool;

use crate::support::browser::Browser;
use crate::support::fleet_shown::{FleetShown, bundle};
use crate::support::live_shown::LiveShown;
use crate::support::server::Server;

/// Where pictures are left for people to look at.
fn pictures() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console");
    std::fs::create_dir_all(&place).unwrap();
    place
}

/// What went wrong in the page, and what it asked of other hosts.
fn complaints(browser: &Browser, base: &str) -> Vec<String> {
    let of = |event: &serde_json::Value| {
        let parameters = &event["params"];
        match event["method"].as_str()? {
            "Log.entryAdded" => Some(parameters["entry"].to_string()),
            "Runtime.exceptionThrown" => Some(parameters["exceptionDetails"].to_string()),
            "Network.requestWillBeSent" => {
                let url = parameters["request"]["url"].as_str().unwrap();
                (!url.starts_with(base)).then(|| url.to_owned())
            }
            _ => None,
        }
    };
    browser.events.iter().filter_map(of).collect()
}

fn look(browser: &mut Browser, base: &str, shown: &FleetShown) {
    assert_eq!(browser.text("h1"), "Sign in to Sedge");
    browser.size(390, 844, false);
    browser.picture(&pictures().join("login-390-light.png"));
    browser.loads(|browser| drop(browser.value("document.querySelector('button').click()")));
    let sentence = "23 of 24 devices run digits 1.4.0, 1 runs digits 1.5.0; 23 are online, 1 failed.";
    assert_eq!(browser.text("h1"), sentence);
    assert_eq!(browser.value("document.title"), json!(format!("{sentence} · default · Sedge")));
    for (width, height) in [(1440, 1000), (390, 844)] {
        for dark in [false, true] {
            browser.size(width, height, dark);
            let name = format!("fleet-{width}-{}.png", if dark { "dark" } else { "light" });
            browser.picture(&pictures().join(name));
            let wide = browser.value("document.documentElement.scrollWidth");
            assert_eq!(wide, json!(width), "it scrolls sideways");
            let small = browser.value(
                "[...document.querySelectorAll('a, button, input:not([type=hidden]), select, summary')].filter(e => \
                 e.getClientRects().length && e.className !== 'skip' && e.getBoundingClientRect().height < 24) \
                 .map(e => e.outerHTML)",
            );
            assert_eq!(small, json!([]), "too small to hit at {width}");
        }
    }
    // A change arrives by itself; what is focused stays so, and what is open stays open.
    browser.until("document.getElementById('live').textContent === 'Live'");
    browser.value("document.getElementById('twin').open = true");
    browser.value("document.getElementById('twin-summary').focus()");
    let settle = |state, rollout_state| {
        shown.change(|shown| {
            for row in shown.devices.iter_mut().take(3) {
                (row.runs, row.state, row.reason) = (Some(bundle("1.4.0")), state, String::new());
            }
            shown.rollout.as_mut().unwrap().state = rollout_state;
        });
    };
    settle(DeviceState::Back, RolloutState::RolledBack);
    browser.until("document.querySelector('h1').textContent.startsWith('All 24 devices run digits 1.4.0')");
    browser.until("document.querySelector('#rollout .meta').textContent.includes('rolled back')");
    assert_eq!(browser.value("document.activeElement.id"), json!("twin-summary"));
    assert_eq!(browser.value("document.getElementById('twin').open"), json!(true));
    // Nothing moves while updates are paused, and then everything at once.
    browser.value("document.getElementById('pause').click()");
    assert_eq!(browser.value("document.getElementById('pause').getAttribute('aria-pressed')"), json!("true"));
    let before = browser.value("document.body.dataset.version");
    settle(DeviceState::Failed, RolloutState::RollbackFailed);
    browser.until(&format!("document.body.dataset.version !== {before}"));
    assert!(browser.text("#rollout .meta").contains("rolled back"));
    browser.value("document.getElementById('pause').click()");
    browser.until("document.querySelector('#rollout .meta').textContent.includes('rollback failed')");
    // Names and reasons of any length stay within the page.
    for (width, height) in [(1440, 1000), (320, 800), (390, 844)] {
        browser.size(width, height, true);
        shown.change(|shown| {
            shown.devices[5].id = format!("{width}{}", "W".repeat(61));
            shown.devices[5].reason = "W".repeat(300);
            shown.devices[5].wanted.as_mut().unwrap().name = "w".repeat(64);
        });
        browser.until(&format!("document.getElementById('results').textContent.includes('{width}WW')"));
        assert_eq!(browser.value("document.documentElement.scrollWidth"), json!(width), "it scrolls sideways");
    }
    // A search narrows the table and stands in the address.
    browser.value(
        "(() => { const q = document.getElementById('q'); q.focus(); q.value = 'cam-02'; \
         q.dispatchEvent(new Event('input', { bubbles: true })); })()",
    );
    browser.until("document.querySelectorAll('#results tbody tr').length === 1");
    browser.until("location.search.includes('q=cam-02')");
    assert_eq!(browser.value("document.activeElement.id"), json!("q"));
    assert_eq!(complaints(browser, base), Vec::<String>::new());
    // Without scripts it is a page with a form and links.
    browser.call("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
    browser.open(&format!("{base}/projects/default?state=bad"));
    assert_eq!(browser.value("document.querySelectorAll('#results tbody tr').length"), json!(3));
    assert!(browser.text("#live").contains("reload"));
    assert_eq!(browser.value("document.getElementById('pause').hidden"), json!(true));
    browser.value("document.getElementById('q').value = 'dock'");
    browser.loads(|browser| drop(browser.value("document.querySelector('#search button').click()")));
    assert_eq!(browser.value("document.querySelectorAll('#results tbody tr').length"), json!(1));
    browser.picture(&pictures().join("search-390-dark.png"));
    browser.loads(|browser| drop(browser.value("document.querySelector('form[action=\"/logout\"]').submit()")));
    assert_eq!(browser.text("h1"), "Sign in");
    assert_eq!(complaints(browser, base), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_whole_in_a_browser() {
    let shown = Arc::new(FleetShown::halted());
    let server = Server::start_showing(shown.clone()).await;
    let link = server.running.login_link("test", Scope::Read).await.unwrap();
    let base = format!("https://localhost:{}", server.running.http_addr.port());
    let url = link.reveal().to_owned();
    assert!(url.starts_with(&base));
    let looked = tokio::task::spawn_blocking(move || {
        let Some(mut browser) = Browser::start() else { return };
        browser.open(&url);
        look(&mut browser, &base, &shown);
    });
    looked.await.unwrap();
    server.running.shutdown().await;
}

/// From the second wave that is watched to the end, as the machine, the database and heartbeats tell it.
fn watch(browser: &mut Browser, base: &str, live: &LiveShown, on_failure: &str, pool: &SqlitePool) {
    let wait = tokio::runtime::Handle::current();
    browser.size(1440, 1000, false);
    browser.loads(|browser| drop(browser.value("document.querySelector('button').click()")));
    browser.until("document.getElementById('live').textContent === 'Live'");
    let both = "15 of 24 devices run digits 1.0.0, 9 run digits 1.1.0; 23 are online.";
    browser.until(&format!("document.querySelector('h1').textContent === '{both}'"));
    assert!(browser.text("#rollout .waves").contains("watched"));
    let colour = |browser: &mut Browser| browser.value("document.querySelector('.bundles .key').getAttribute('class')");
    let old = colour(browser);
    live.fails();
    let (word, name) = if on_failure == "halt" { ("halted", "halted") } else { ("rolling back", "rolling-back") };
    browser.until(&format!("document.querySelector('#rollout .meta').textContent.includes('{word}')"));
    let shoot = |browser: &mut Browser, state: &str| {
        for (width, height) in [(1440, 1260), (390, 1180)] {
            browser.size(width, height, false);
            assert_eq!(browser.value("document.documentElement.scrollWidth"), json!(width), "it scrolls sideways");
            browser.picture(&pictures().join(format!("rollout-{state}-{width}.png")));
            browser.view(&pictures().join(format!("rollout-{state}-{width}-top.png")));
        }
        browser.size(1440, 1000, false);
    };
    shoot(browser, name);
    let accuracy = "[...document.querySelectorAll('.gates tr')].find(row => row.textContent.includes('accuracy'))";
    let row = browser.value(&format!("{accuracy}.textContent"));
    assert!(row.as_str().unwrap().contains("≥ 90 %") && row.as_str().unwrap().contains("fail"), "{row}");
    if on_failure != "halt" {
        wait.block_on(live.goes_back(pool));
        browser.until("document.querySelector('#rollout .meta').textContent.includes('rolled back')");
        browser.until("document.querySelector('h1').textContent.startsWith('All 24 devices run digits 1.0.0')");
        assert_eq!(colour(browser), old, "a bundle keeps its colour");
        assert!(browser.text("#rollout .sentence").starts_with("Rolled back in wave 2 of 3 by the accuracy gate"));
        assert!(browser.text("#results tbody").contains("went back from digits 1.1.0"));
        shoot(browser, "rolled-back");
    }
    assert_eq!(complaints(browser, base), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_rollout_is_followed_to_its_end() {
    for on_failure in ["halt", "roll-back-all"] {
        let live = Arc::new(LiveShown::new(on_failure));
        let server = Server::start_live(live.clone()).await;
        let link = server.running.login_link("test", Scope::Read).await.unwrap();
        let base = format!("https://localhost:{}", server.running.http_addr.port());
        let (url, pool) = (link.reveal().to_owned(), server.fleet.site.get().unwrap().store.pool().clone());
        let watched = tokio::task::spawn_blocking(move || {
            let Some(mut browser) = Browser::start() else { return };
            browser.open(&url);
            watch(&mut browser, &base, &live, on_failure, &pool);
        });
        watched.await.unwrap();
        server.running.shutdown().await;
    }
}
