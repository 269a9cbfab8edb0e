//! The pin store.

use std::time::Duration;

use super::non_zero;
use crate::config::read::Report;
use crate::config::tree::Path;
use crate::config::units::FilePath;
use crate::config::{PinStore, RedisStore, yaml};

pub(super) fn pin_store(report: &Report<'_>, at: &Path<'_>, yaml: yaml::PinStore) -> PinStore {
    let bound_known = !yaml.max_pins.is_wrong();
    let max_pins = yaml.max_pins.option().map_or(1_000_000, |most| most.get() as usize);
    // The default is never above the bound of all clients.
    let max_pins_per_client =
        yaml.max_pins_per_client.option().map_or(max_pins.min(10_000), |most| most.get() as usize);
    if bound_known && max_pins_per_client > max_pins {
        report.expected(&at.key("max_pins_per_client"), format!("at most max_pins, which is {max_pins}"));
    }
    let redis = yaml.redis.option().and_then(|yaml| redis(report, &at.key("redis"), yaml));
    PinStore { max_pins, max_pins_per_client, redis }
}

fn redis(report: &Report<'_>, at: &Path<'_>, yaml: yaml::Redis) -> Option<RedisStore> {
    let path = at.key("url");
    let url = report.required(&path, yaml.url, "the URL of a Redis or Valkey, such as redis://127.0.0.1:6379/0")?;
    if url.has_password {
        // Messages go to logs, so this one does not show what was found.
        report.wrong(&path, "expected a URL without a password, found one; give it in password_file".to_owned());
    }
    Some(RedisStore {
        url: url.url,
        password_file: yaml.password_file.option().map(|FilePath(path)| path),
        lookup_timeout: non_zero(yaml.lookup_timeout, Duration::from_millis(20)),
    })
}
