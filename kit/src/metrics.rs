//! Numbers for `/metrics`, in the Prometheus text format.
//!
//! Anything in the process may record through the `metrics` macros; this file
//! holds the one recorder and renders it.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Upper bounds of latency buckets in seconds: from a socket round trip on one
/// host to the longest answer anyone waits for.
const LATENCY_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// The recorder is process-wide because the `metrics` macros are.
static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Installs the recorder; further calls change nothing.
pub fn init() {
    RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new().set_buckets(&LATENCY_BUCKETS);
        match builder.and_then(PrometheusBuilder::install_recorder) {
            Ok(handle) => {
                let version = crate::version::VERSION;
                metrics::gauge!("osmoda_build_info", "version" => version.version, "commit" => version.commit).set(1.0);
                Some(handle)
            }
            Err(error) => {
                tracing::warn!(error = crate::error::chain(&error), "metrics are not recorded");
                None
            }
        }
    });
}

/// All numbers as text; empty when there is no recorder.
#[must_use]
pub fn render() -> String {
    let Some(Some(handle)) = RECORDER.get() else { return String::new() };
    handle.run_upkeep();
    handle.render()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_was_counted_is_rendered() {
        super::init();
        super::init();
        metrics::counter!("osmoda_test_total", "kind" => "a").increment(2);
        let text = super::render();
        assert!(text.contains("osmoda_test_total{kind=\"a\"} 2"), "{text}");
        assert!(text.contains("osmoda_build_info"), "{text}");
    }
}
