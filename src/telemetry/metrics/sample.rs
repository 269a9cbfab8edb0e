//! One sample of a metric, with its labels as the format wants them.

use std::fmt::{self, Write};

use prometheus_client::encoding::{EncodeGaugeValue, EncodeLabelValue, LabelValueEncoder, MetricEncoder, NoLabelSet};

/// One sample of a counter. The encoder adds the `_total` to its name.
pub(super) fn counter<const N: usize>(
    metric: &mut MetricEncoder<'_>,
    labels: [(&str, &str); N],
    count: u64,
) -> fmt::Result {
    metric.encode_family(&escaped(labels))?.encode_counter::<NoLabelSet, _, f64>(&count, None)
}

pub(super) fn gauge<const N: usize>(
    metric: &mut MetricEncoder<'_>,
    labels: [(&str, &str); N],
    value: &impl EncodeGaugeValue,
) -> fmt::Result {
    metric.encode_family(&escaped(labels))?.encode_gauge(value)
}

fn escaped<'a, const N: usize>(labels: [(&'a str, &'a str); N]) -> [(&'a str, Escaped<'a>); N] {
    labels.map(|(key, value)| (key, Escaped(value)))
}

/// A label value as the format wants it; `prometheus_client` writes values as they are.
#[derive(Debug)]
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl EncodeLabelValue for Escaped<'_> {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['\\', '"', '\n']) {
            encoder.write_str(&rest[..at])?;
            encoder.write_str(match rest.as_bytes()[at] {
                b'\n' => r"\n",
                b'"' => r#"\""#,
                _ => r"\\",
            })?;
            rest = &rest[at + 1..];
        }
        encoder.write_str(rest)
    }
}
