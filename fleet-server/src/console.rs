//! The console: pages for people, drawn here and live in the browser, readable without a script.
//!
//! What it shows comes through [`ConsoleData`] as plain values, so that it knows neither tables nor the fleet. Nobody
//! sees more than the login page without a session ([`login`]). Pages come from this host alone: no script or style
//! stands in them, and a policy forbids the browser to run or fetch anything else.

mod assets;
mod cache;
mod events;
mod live;
pub mod login;
mod page;
mod picture;
mod records;
mod rollout_part;
mod routes;
mod scan;
mod standing;
pub mod view;
mod words;

pub use live::{LiveData, RolloutSource, Rollouts, Told};
pub use login::{Login, LoginError, LoginLink};
pub use records::StoredData;
pub(crate) use routes::routes;
pub use view::ConsoleData;

use crate::http::RateLimiter;
use crate::store::EdgeStore;
use assets::Assets;
use std::sync::Arc;
use tokio::sync::watch;

/// Login links of one address that are looked at or used.
const LOGINS_PER_MINUTE_MAX: u32 = 20;

/// What pages are made with.
#[derive(Clone)]
pub(crate) struct Console {
    data: Arc<dyn ConsoleData>,
    login: Arc<Login>,
    store: Arc<dyn EdgeStore>,
    limiter: Arc<RateLimiter>,
    assets: Arc<Assets>,
    /// True when streams must end; a page that listens would else hold up the server's end.
    closing: watch::Receiver<bool>,
}

impl Console {
    pub(crate) fn new(
        data: Arc<dyn ConsoleData>,
        login: Arc<Login>,
        store: Arc<dyn EdgeStore>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        let limiter = Arc::new(RateLimiter::new(LOGINS_PER_MINUTE_MAX));
        Self { data, login, store, limiter, assets: Arc::new(Assets::new()), closing }
    }
}
