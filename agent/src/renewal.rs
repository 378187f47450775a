//! The certificate's next life: renewed at two thirds of the present one, tried again with pauses until it works.

use crate::clock::Clock;
use crate::enrol;
use crate::identity::{Identity, IdentityStore};
use std::time::Duration;
use tokio::time::sleep;
use tracing::{info, warn};

/// Between two looks at the date; a clock may be set meanwhile.
const LOOK: Duration = Duration::from_secs(3600);
const PAUSE_FIRST: Duration = Duration::from_secs(60);

/// Renews for ever; `renewed` hears of each new identity, to use it from the next connection on.
pub async fn keep(store: &IdentityStore, clock: &Clock, mut renewed: impl FnMut(&Identity) + Send) {
    let mut pause = PAUSE_FIRST;
    loop {
        let due = store.load().ok().and_then(|identity| identity.renew_at());
        if due.is_none_or(|due| clock.now() < due) {
            sleep(LOOK).await;
            continue;
        }
        match enrol::renew(store, clock).await {
            Ok(identity) => {
                info!(device = %identity.principal, "the certificate is renewed");
                renewed(&identity);
                pause = PAUSE_FIRST;
            }
            Err(e) => {
                warn!(error = crate::error::chain(&e), "the certificate could not be renewed; it is tried again");
                sleep(pause).await;
                pause = (pause * 2).min(LOOK);
            }
        }
    }
}
