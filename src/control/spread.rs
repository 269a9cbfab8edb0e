//! Keeps every pool's tier in use and panic up to date, as backends change.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::pool::Registry;
use crate::proxy::snapshot::Published;

/// Between two looks, so that thousands of backends that change at once cost a few looks and not thousands.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks at the pools in which a backend has changed, at once and then again after [`PAUSE`]. A publication does it by itself.
pub(super) async fn follow(published: Arc<Published>, registry: Arc<Registry>) {
    loop {
        registry.changed().await;
        for pool in &published.load().pools {
            if pool.state.take_change() {
                pool.state.follow(&pool.members, pool.settings.panic_below.fraction());
            }
        }
        sleep(PAUSE).await;
    }
}
