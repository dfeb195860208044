//! Logs and traces of one process.
//!
//! Invariant: a log line never carries the value of a field named like a
//! secret; [`redact`] masks it after formatting, whatever the format. Logs go to
//! stderr, because stdout belongs to the answers of command line programs.
//! Traces leave the host only when `OTEL_EXPORTER_OTLP_ENDPOINT` is set and the
//! program was built with the feature `otlp`.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Names of fields whose values are masked; a longer name that ends in one of
/// them after `_`, `-` or `.` counts too (`api_token`).
const SECRET_NAMES: [&str; 11] = [
    "token",
    "secret",
    "password",
    "passphrase",
    "authorization",
    "cookie",
    "api_key",
    "private_key",
    "seed",
    "invite",
    "credential",
];

/// What is shown in place of a secret.
const MASK: &str = "[redacted]";

/// The variable that turns the export of traces on (OpenTelemetry's own name).
const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The form of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of text per event.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What keeps telemetry going; hand it to [`finish`](Telemetry::finish) last.
#[derive(Debug, Default)]
#[must_use]
pub struct Telemetry {
    #[cfg(feature = "otlp")]
    traces: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

impl Telemetry {
    /// Sends what is still buffered.
    pub fn finish(self) {
        #[cfg(feature = "otlp")]
        if let Some(traces) = self.traces
            && let Err(error) = traces.shutdown()
        {
            tracing::warn!(error = crate::error::chain(&error), "last traces were not sent");
        }
    }
}

/// The levels without `RUST_LOG`. openraft logs every append that a dead voter
/// does not answer, several a second, as an error; what an operator has to know
/// of it (no quorum, a failed store) our own code says once.
const LEVELS: &str = "info,openraft=off";

/// Starts logging for the process: level by `RUST_LOG`, else [`LEVELS`]. Call it
/// inside the runtime; a second call in one process (tests) changes nothing.
pub fn init(program: &'static str, format: LogFormat) -> Telemetry {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LEVELS));
    let text = (format == LogFormat::Text)
        .then(|| tracing_subscriber::fmt::layer().with_writer(Redacting).with_ansi(false).with_target(false));
    let json = (format == LogFormat::Json)
        .then(|| tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(Redacting));
    let registry = tracing_subscriber::registry().with(filter).with(text).with(json);
    let wanted = std::env::var_os(OTLP_ENDPOINT).is_some_and(|value| !value.is_empty());

    #[cfg(feature = "otlp")]
    {
        let (traces, fault) = if wanted { split(otlp::provider(program)) } else { (None, None) };
        let layer = traces.as_ref().map(|provider| otlp::layer(provider, program));
        let fresh = registry.with(layer).try_init().is_ok();
        if let (true, Some(error)) = (fresh, fault) {
            tracing::warn!(error, "traces are not exported");
        }
        Telemetry { traces }
    }
    #[cfg(not(feature = "otlp"))]
    {
        if registry.try_init().is_ok() && wanted {
            tracing::warn!(program, "traces are not exported: this program was built without otlp");
        }
        Telemetry::default()
    }
}

#[cfg(feature = "otlp")]
fn split<T>(result: Result<T, String>) -> (Option<T>, Option<String>) {
    match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error)),
    }
}

#[cfg(feature = "otlp")]
mod otlp {
    //! The exporter, compiled in only where a program asks for it.

    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
    use tracing::Subscriber;
    use tracing_opentelemetry::OpenTelemetryLayer;
    use tracing_subscriber::registry::LookupSpan;

    pub(super) fn provider(program: &'static str) -> Result<SdkTracerProvider, String> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .build()
            .map_err(|error| crate::error::chain(&error))?;
        let resource = Resource::builder().with_service_name(program).build();
        Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
    }

    pub(super) fn layer<S>(provider: &SdkTracerProvider, program: &'static str) -> OpenTelemetryLayer<S, SdkTracer>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        tracing_opentelemetry::layer().with_tracer(provider.tracer(program))
    }
}

/// Masks the values of secret-named fields in one formatted line: `name=value`,
/// `name="value"` and `"name":"value"`.
#[must_use]
pub fn redact(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((begin, end)) = next_secret(rest) {
        out.push_str(&rest[..begin]);
        out.push_str(MASK);
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// The byte range of the first secret value in the text.
fn next_secret(text: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    while let Some(found) = text[from..].find(['=', ':']) {
        let mark = from + found;
        from = mark + 1;
        let name = text[..mark].trim_end_matches(['"', '\\']);
        if !is_secret(name) {
            continue;
        }
        // JSON and headers may have a space after the colon; after `=` a space ends an empty value.
        let spaced = text[mark..].starts_with(':');
        let quotes = text[from..].find(|c| !(matches!(c, '"' | '\\') || (spaced && c == ' '))).unwrap_or(0);
        let begin = from + quotes;
        let quoted = text[from..begin].contains('"');
        let ends =
            |c: char| if quoted { c == '"' || c == '\\' } else { c.is_whitespace() || matches!(c, ',' | '}' | ']') };
        let end = text[begin..].find(ends).map_or(text.len(), |length| begin + length);
        if begin < end {
            return Some((begin, end));
        }
    }
    None
}

/// Whether the text ends in the name of a secret field.
fn is_secret(text: &str) -> bool {
    let name = text.rsplit(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))).next().unwrap_or("");
    SECRET_NAMES.iter().any(|secret| {
        let Some(cut) = name.len().checked_sub(secret.len()) else { return false };
        let before = name[..cut].chars().next_back();
        name[cut..].eq_ignore_ascii_case(secret) && before.is_none_or(|c| matches!(c, '_' | '-' | '.'))
    })
}

/// Writes whole events to stderr, redacted. The formatter hands over one event
/// per write.
struct Redacting;

impl Write for Redacting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = redact(&String::from_utf8_lossy(bytes));
        io::stderr().lock().write_all(line.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

impl<'a> MakeWriter<'a> for Redacting {
    type Writer = Redacting;

    fn make_writer(&'a self) -> Self::Writer {
        Redacting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secret_fields_are_masked_in_both_formats() {
        for (line, masked) in [
            ("INFO joined token=abc123 peer=n1", "INFO joined token=[redacted] peer=n1"),
            ("INFO x api_token=\"a b\" y=1", "INFO x api_token=\"[redacted]\" y=1"),
            (r#"{"secret":"s3","node":"n1"}"#, r#"{"secret":"[redacted]","node":"n1"}"#),
            (r#"{"authorization":"Bearer xyz"}"#, r#"{"authorization":"[redacted]"}"#),
            (r#"body="{\"password\":\"p\"}""#, r#"body="{\"password\":\"[redacted]\"}""#),
            ("Password: hunter2", "Password: [redacted]"),
        ] {
            assert_eq!(redact(line), masked);
        }
    }

    #[test]
    fn other_fields_are_left_as_they_are() {
        for line in ["invite_id=77 node=a", "tokens=3", "key=abc", "token= next=1", "a=b:c", ""] {
            assert_eq!(redact(line), line);
        }
    }
}
