//! The text of `/metrics`: names, labels and help of every metric, made from the counters when somebody scrapes.
//!
//! Counters of the request path are sharded by worker and know nothing of names; they meet their names here. Whatever
//! stands right of `telemetry` in the import rule comes in as plain words and numbers in a [`Scrape`].

mod scrape;

mod sample;

use std::fmt;
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::counters::DURATION_BOUNDS_US;
use super::words::{PinVerdict, Placement, RetryReason};
use sample::{Escaped, counter, gauge};
pub use scrape::{
    BackendScrape, ListenerScrape, PinStoreScrape, PoolScrape, Scrape, SharedStoreScrape, SourceScrape, TlsScrape,
};

/// Media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PREFIX: &str = "stickpin";

impl Scrape {
    /// The text, of media type [`CONTENT_TYPE`].
    pub fn into_text(self) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("writing to a string does not fail, and every gauge fits an i64");
        text
    }

    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests answered, by the backend that did; without one when Stickpin answered itself.";
        let mut metric = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
        for pool in &self.pools {
            for (code, count) in pool.counters.own_replies() {
                let code = code.to_string();
                counter(&mut metric, [("pool", &*pool.name), ("backend", ""), ("code", &*code)], count)?;
            }
            for backend in &pool.backends {
                for (code, count) in &backend.replies {
                    let labels = [("pool", &*pool.name), ("backend", &*backend.name), ("code", &**code)];
                    counter(&mut metric, labels, *count)?;
                }
            }
        }
        Ok(())
    }

    fn durations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "From the request's head to the last byte of its reply.";
        let mut metric =
            encoder.encode_descriptor("request_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for pool in &self.pools {
            let counts = pool.counters.durations();
            // The encoder adds up the counts itself, and takes the largest number for infinity.
            let bounds = DURATION_BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::MAX]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            let sum = pool.counters.duration_sum().as_secs_f64();
            let labels = [("pool", Escaped(&pool.name))];
            let mut series = metric.encode_family(&labels)?;
            series.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)?;
        }
        Ok(())
    }

    /// Every placement of every pool, zero or not: a series that appears with its first count hides that count.
    fn placements(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests by what was decided for them, and why.";
        let mut metric = encoder.encode_descriptor("placements", help, None, MetricType::Counter)?;
        for pool in &self.pools {
            for (placement, count) in Placement::ALL.into_iter().zip(pool.counters.placements()) {
                let (word, reason) = (placement.as_str(), placement.reason());
                counter(&mut metric, [("pool", &*pool.name), ("placement", word), ("reason", reason)], count)?;
            }
        }
        Ok(())
    }

    fn rehomes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Pins that moved to another backend.";
        let mut metric = encoder.encode_descriptor("rehomes", help, None, MetricType::Counter)?;
        for pool in &self.pools {
            let mut rehomes = pool.counters.rehomes();
            rehomes.sort_unstable_by(|((from, to, why), _), ((from2, to2, why2), _)| {
                (from, to, why.as_str()).cmp(&(from2, to2, why2.as_str()))
            });
            for ((from, to, reason), count) in rehomes {
                let labels = [("pool", &*pool.name), ("from", &*from), ("to", &*to), ("reason", reason.as_str())];
                counter(&mut metric, labels, count)?;
            }
        }
        Ok(())
    }

    fn verdicts(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests by what the presented pin turned out to be.";
        let mut metric = encoder.encode_descriptor("pin_verdicts", help, None, MetricType::Counter)?;
        for pool in &self.pools {
            for (verdict, count) in PinVerdict::ALL.into_iter().zip(pool.counters.verdicts()) {
                counter(&mut metric, [("pool", &*pool.name), ("verdict", verdict.as_str())], count)?;
            }
        }
        Ok(())
    }

    fn retries(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Attempts after the first.";
        let mut metric = encoder.encode_descriptor("retries", help, None, MetricType::Counter)?;
        for pool in &self.pools {
            for (reason, count) in RetryReason::ALL.into_iter().zip(pool.counters.retries()) {
                counter(&mut metric, [("pool", &*pool.name), ("reason", reason.as_str())], count)?;
            }
        }
        Ok(())
    }

    fn sessions_lost(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Pins whose session was lost with their home.";
        let mut metric = encoder.encode_descriptor("sessions_lost", help, None, MetricType::Counter)?;
        for pool in &self.pools {
            counter(&mut metric, [("pool", &*pool.name)], pool.counters.sessions_lost())?;
        }
        Ok(())
    }

    fn panicking(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Whether too few backends are available, so that health is ignored for spreading new clients.";
        let mut metric = encoder.encode_descriptor("pool_panicking", help, None, MetricType::Gauge)?;
        for pool in &self.pools {
            gauge(&mut metric, [("pool", &*pool.name)], &u64::from(pool.panicking))?;
        }
        Ok(())
    }

    fn pin_stores(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let stores = || self.pools.iter().filter_map(|pool| Some((&*pool.name, pool.pin_store.as_ref()?)));
        let shared = || stores().filter_map(|(pool, store)| Some((pool, store.shared.as_ref()?)));
        let mut metric =
            encoder.encode_descriptor("pin_store_pins", "Learned pins in memory.", None, MetricType::Gauge)?;
        for (pool, store) in stores() {
            gauge(&mut metric, [("pool", pool)], &(store.pins as u64))?;
        }
        let help = "Learned pins that had to go from memory for want of room.";
        let mut metric = encoder.encode_descriptor("pin_store_evictions", help, None, MetricType::Counter)?;
        for (pool, store) in stores() {
            counter(&mut metric, [("pool", pool)], store.evictions)?;
        }
        let help = "Whether the store that replicas share is there.";
        let mut metric = encoder.encode_descriptor("pin_store_connected", help, None, MetricType::Gauge)?;
        for (pool, store) in shared() {
            gauge(&mut metric, [("pool", pool)], &u64::from(store.connected))?;
        }
        let help = "Changes that the store that replicas share has not got yet.";
        let mut metric = encoder.encode_descriptor("pin_store_pending", help, None, MetricType::Gauge)?;
        for (pool, store) in shared() {
            gauge(&mut metric, [("pool", pool)], &(store.pending as u64))?;
        }
        let help = "Changes that the store that replicas share never got.";
        let mut metric = encoder.encode_descriptor("pin_store_dropped", help, None, MetricType::Counter)?;
        for (pool, store) in shared() {
            counter(&mut metric, [("pool", pool)], store.dropped)?;
        }
        let help = "Lookups and moves that the store that replicas share did not answer in time.";
        let mut metric = encoder.encode_descriptor("pin_store_timeouts", help, None, MetricType::Counter)?;
        for (pool, store) in shared() {
            counter(&mut metric, [("pool", pool)], store.timeouts)?;
        }
        Ok(())
    }

    fn sources(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let sources = || {
            self.pools.iter().flat_map(|pool| pool.sources.iter().map(|source| (&*pool.name, source.source, source)))
        };
        let help = "Looks for backends that gave no list; the last good one stays.";
        let mut metric = encoder.encode_descriptor("discovery_failures", help, None, MetricType::Counter)?;
        for (pool, word, source) in sources() {
            counter(&mut metric, [("pool", pool), ("source", word)], source.failures)?;
        }
        let help = "When a source of backends last gave a list, in Unix time.";
        let unit = Some(&Unit::Seconds);
        let mut metric =
            encoder.encode_descriptor("discovery_last_success_timestamp", help, unit, MetricType::Gauge)?;
        for (pool, word, source) in sources() {
            let Some(at) = source.last_success else { continue };
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            gauge(&mut metric, [("pool", pool), ("source", word)], &at)?;
        }
        let help = "Backends in the last good list of a source.";
        let mut metric = encoder.encode_descriptor("discovered_backends", help, None, MetricType::Gauge)?;
        for (pool, word, source) in sources() {
            gauge(&mut metric, [("pool", pool), ("source", word)], &(source.backends as u64))?;
        }
        Ok(())
    }

    fn active_pins(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Clients that used their pin within the idle timeout.";
        let mut metric = encoder.encode_descriptor("active_pins", help, None, MetricType::Gauge)?;
        for (pool, backend) in self.backends() {
            gauge(&mut metric, [("pool", pool), ("backend", &*backend.name)], &backend.active_pins)?;
        }
        Ok(())
    }

    fn health(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "1 for the state that the backend is in, 0 for the others.";
        let mut metric = encoder.encode_descriptor("backend_health", help, None, MetricType::Gauge)?;
        for (pool, backend) in self.backends() {
            for (state, current) in backend.health {
                let labels = [("pool", pool), ("backend", &*backend.name), ("state", state)];
                gauge(&mut metric, labels, &u32::from(current))?;
            }
        }
        Ok(())
    }

    fn in_flight(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests sent to the backend whose reply has not fully ended.";
        let mut metric = encoder.encode_descriptor("backend_in_flight", help, None, MetricType::Gauge)?;
        for (pool, backend) in self.backends() {
            gauge(&mut metric, [("pool", pool), ("backend", &*backend.name)], &backend.in_flight)?;
        }
        Ok(())
    }

    fn tunnels(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Open tunnels to the backend, WebSockets for one; they are in flight, too.";
        let mut metric = encoder.encode_descriptor("backend_tunnels", help, None, MetricType::Gauge)?;
        for (pool, backend) in self.backends() {
            gauge(&mut metric, [("pool", pool), ("backend", &*backend.name)], &backend.tunnels)?;
        }
        Ok(())
    }

    fn queued(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests that wait for room at this very backend.";
        let mut metric = encoder.encode_descriptor("backend_queued", help, None, MetricType::Gauge)?;
        for (pool, backend) in self.backends() {
            gauge(&mut metric, [("pool", pool), ("backend", &*backend.name)], &backend.queued)?;
        }
        let help = "Requests that wait for room at any backend of the pool.";
        let mut metric = encoder.encode_descriptor("pool_queued", help, None, MetricType::Gauge)?;
        for pool in &self.pools {
            gauge(&mut metric, [("pool", &*pool.name)], &pool.queued)?;
        }
        Ok(())
    }

    fn open_connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Open connections to the backend, idle ones included.";
        let mut metric = encoder.encode_descriptor("backend_open_connections", help, None, MetricType::Gauge)?;
        for (pool, backend) in self.backends() {
            gauge(&mut metric, [("pool", pool), ("backend", &*backend.name)], &backend.connections)?;
        }
        Ok(())
    }

    fn backend_connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests by whether their connection was open already; without reuse, connections opened.";
        let mut metric = encoder.encode_descriptor("backend_connections", help, None, MetricType::Counter)?;
        for (pool, backend) in self.backends() {
            for (reused, count) in [("false", backend.connections_new), ("true", backend.connections_reused)] {
                counter(&mut metric, [("pool", pool), ("backend", &*backend.name), ("reused", reused)], count)?;
            }
        }
        Ok(())
    }

    fn outliers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Times that a backend was put out by what requests met there.";
        let mut metric = encoder.encode_descriptor("outliers", help, None, MetricType::Counter)?;
        for (pool, backend) in self.backends() {
            for (cause, count) in backend.outliers {
                counter(&mut metric, [("pool", pool), ("backend", &*backend.name), ("cause", cause)], count)?;
            }
        }
        Ok(())
    }

    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Reloads of the configuration; a failed one changed nothing.";
        let mut metric = encoder.encode_descriptor("reloads", help, None, MetricType::Counter)?;
        counter(&mut metric, [("result", "ok")], self.reloads_ok)?;
        counter(&mut metric, [("result", "failed")], self.reloads_failed)?;

        let mut metric =
            encoder.encode_descriptor("connections", "Open client connections.", None, MetricType::Gauge)?;
        for listener in &self.listeners {
            gauge(&mut metric, [("listener", &*listener.listener)], &listener.connections)?;
        }

        let help = "Open client connections of HTTP/2.";
        let mut metric = encoder.encode_descriptor("http2_connections", help, None, MetricType::Gauge)?;
        for listener in &self.listeners {
            gauge(&mut metric, [("listener", &*listener.listener)], &listener.http2_connections)?;
        }
        let help = "Client connections of HTTP/2 ended because too many frames of a kind came.";
        let mut metric = encoder.encode_descriptor("http2_floods", help, None, MetricType::Counter)?;
        for listener in &self.listeners {
            for (kind, count) in &listener.http2_floods {
                counter(&mut metric, [("listener", &*listener.listener), ("kind", kind)], *count)?;
            }
        }

        let help = "Lines of the access log dropped because they could not be written fast enough, or at all.";
        let mut metric = encoder.encode_descriptor("access_log_dropped", help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&self.access_log_dropped, None)?;

        let help = "The version of the program.";
        let mut metric = encoder.encode_descriptor("build", help, None, MetricType::Info)?;
        metric.encode_info(&[("version", Escaped(self.version))])?;

        let help = "When the process started, in Unix time.";
        let mut metric =
            encoder.encode_descriptor("process_start_time", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        metric.encode_gauge(&self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())
    }

    fn tls(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let listeners = || self.listeners.iter().filter_map(|it| Some((&*it.listener, it.tls.as_ref()?)));
        let help = "TLS handshakes by how they ended; one that is resumed was shortened by a ticket.";
        let mut metric = encoder.encode_descriptor("tls_handshakes", help, None, MetricType::Counter)?;
        for (listener, tls) in listeners() {
            for (result, is_resumed, count) in &tls.handshakes {
                let resumed = if *is_resumed { "true" } else { "false" };
                counter(&mut metric, [("listener", listener), ("result", result), ("resumed", resumed)], *count)?;
            }
        }
        let help = "Changes of certificates, keys and CAs; a failed one changed nothing.";
        let mut metric = encoder.encode_descriptor("tls_file_changes", help, None, MetricType::Counter)?;
        for (listener, tls) in listeners() {
            counter(&mut metric, [("listener", listener), ("result", "ok")], tls.files_ok)?;
            counter(&mut metric, [("listener", listener), ("result", "failed")], tls.files_failed)?;
        }
        let help = "When the certificate expires, in Unix time.";
        let unit = Some(&Unit::Seconds);
        let name = "tls_certificate_expiry_timestamp";
        let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (listener, tls) in listeners() {
            for (name, expiry) in &tls.expiries {
                let seconds = expiry.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                gauge(&mut metric, [("listener", listener), ("name", name)], &seconds)?;
            }
        }
        Ok(())
    }

    /// Every backend with the name of its pool.
    fn backends(&self) -> impl Iterator<Item = (&str, &BackendScrape)> {
        self.pools.iter().flat_map(|pool| pool.backends.iter().map(|backend| (&*pool.name, backend)))
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.requests(&mut encoder)?;
        self.durations(&mut encoder)?;
        self.placements(&mut encoder)?;
        self.rehomes(&mut encoder)?;
        self.verdicts(&mut encoder)?;
        self.retries(&mut encoder)?;
        self.sessions_lost(&mut encoder)?;
        self.active_pins(&mut encoder)?;
        self.pin_stores(&mut encoder)?;
        self.panicking(&mut encoder)?;
        self.sources(&mut encoder)?;
        self.health(&mut encoder)?;
        self.in_flight(&mut encoder)?;
        self.tunnels(&mut encoder)?;
        self.queued(&mut encoder)?;
        self.open_connections(&mut encoder)?;
        self.backend_connections(&mut encoder)?;
        self.outliers(&mut encoder)?;
        self.tls(&mut encoder)?;
        self.process(&mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::telemetry::counters::{BackendCounters, PoolCounters};
    use crate::telemetry::words::{DetourReason, RehomeReason};

    fn backend(name: &str, counters: &BackendCounters) -> BackendScrape {
        let (connections_new, connections_reused) = counters.connections();
        BackendScrape {
            name: name.into(),
            replies: counters.replies(),
            connections_new,
            connections_reused,
            active_pins: 41,
            in_flight: 2,
            tunnels: 1,
            queued: 6,
            connections: 8,
            outliers: [("connect_failures", 0), ("errors", 2), ("slow", 1)],
            health: [("starting", false), ("healthy", true), ("suspect", false), ("unhealthy", false)],
        }
    }

    fn scrape() -> Scrape {
        let counters = PoolCounters::new(2);
        let (first, second) = (counters.shard(0), counters.shard(1));
        first.placed(Placement::New);
        second.placed(Placement::New);
        second.placed(Placement::Detour(DetourReason::Busy));
        second.placed(Placement::Rehomed(RehomeReason::Gone));
        counters.rehomed(&"app2".into(), &"app1".into(), RehomeReason::Gone);
        counters.rehomed(&"app0".into(), &"app1".into(), RehomeReason::Removed);
        first.judged(PinVerdict::None);
        second.judged(PinVerdict::Forged);
        second.retried(RetryReason::Connect);
        second.sessions_lost.add(1);
        first.replied_itself(503);
        first.took(Duration::from_micros(200));
        second.took(Duration::from_millis(2));
        second.took(Duration::from_secs(31));
        let app1 = BackendCounters::new(2);
        app1.shard(0).replied(200);
        app1.shard(1).replied(200);
        app1.shard(1).replied(418);
        app1.shard(0).connections_new.add(1);
        app1.shard(1).connections_reused.add(2);
        Scrape {
            pools: vec![PoolScrape {
                name: "shop".into(),
                counters: Arc::new(counters),
                panicking: true,
                backends: vec![backend("app1", &app1)],
                queued: 9,
                pin_store: Some(PinStoreScrape {
                    pins: 5,
                    evictions: 1,
                    shared: Some(SharedStoreScrape { connected: true, pending: 2, dropped: 3, timeouts: 4 }),
                }),
                sources: vec![
                    SourceScrape { source: "watched_file", backends: 0, failures: 2, last_success: None },
                    SourceScrape {
                        source: "dns",
                        backends: 3,
                        failures: 1,
                        last_success: Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
                    },
                ],
            }],
            listeners: vec![ListenerScrape {
                listener: "0.0.0.0:8080".to_owned(),
                connections: 3,
                http2_connections: 2,
                http2_floods: vec![("ping", 4), ("reset", 0)],
                tls: Some(TlsScrape {
                    handshakes: vec![("ok", false, 5), ("ok", true, 6), ("failed", false, 1)],
                    files_ok: 2,
                    files_failed: 1,
                    expiries: vec![("shop.example.com".to_owned(), UNIX_EPOCH + Duration::from_secs(1_800_000_000))],
                }),
            }],
            reloads_ok: 4,
            reloads_failed: 1,
            access_log_dropped: 7,
            started: UNIX_EPOCH + Duration::from_millis(1_700_000_000_500),
            version: "0.1.0",
        }
    }

    #[test]
    fn the_whole_text_is_as_expected() {
        assert_eq!(scrape().into_text(), EXPECTED);
    }

    #[test]
    fn a_name_cannot_break_out_of_its_label() {
        let mut scrape = scrape();
        scrape.pools[0].name = "a\\b\"c\nd é".into();
        let text = scrape.into_text();
        assert!(text.contains(r#"stickpin_sessions_lost_total{pool="a\\b\"c\nd é"} 1"#), "{text}");
    }

    #[test]
    fn a_fresh_process_shows_every_placement_and_verdict_as_zero() {
        let mut scrape = scrape();
        scrape.pools[0].counters = Arc::new(PoolCounters::new(1));
        let text = scrape.into_text();
        for placement in Placement::ALL {
            let (word, reason) = (placement.as_str(), placement.reason());
            let line =
                format!("stickpin_placements_total{{pool=\"shop\",placement=\"{word}\",reason=\"{reason}\"}} 0\n");
            assert!(text.contains(&line), "{line}");
        }
        assert_eq!(text.matches("stickpin_pin_verdicts_total{").count(), PinVerdict::ALL.len());
    }

    const EXPECTED: &str = include_str!("../../tests/golden/metrics.txt");
}
