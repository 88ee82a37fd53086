//! The two formats in which Prometheus is told: its own text format, and OpenMetrics 1.0. They differ in what a counter's
//! family is called (OpenMetrics leaves its `_total` to the sample) and in the end mark, so one encoder writes both.

use std::fmt::Write;

use prometheus::proto::{MetricFamily, MetricType};

/// How it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The text format of Prometheus.
    Text,
    /// OpenMetrics.
    OpenMetrics,
}

impl Format {
    /// What a request accepts: OpenMetrics where it names that, with a weight that is not 0.
    pub fn accepted(accept: &str) -> Self {
        let wanted = accept.split(',').any(|entry| {
            let mut parts = entry.split(';').map(str::trim);
            let named = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
            let refuses = |part: &str| {
                let weight = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
                weight.is_some_and(|weight| weight.parse::<f64>().is_ok_and(|weight| weight == 0.0))
            };
            let other = |part: &str| part.strip_prefix("version=").is_some_and(|version| !version.starts_with("1."));
            named && !parts.any(|part| refuses(part) || other(part))
        });
        if wanted { Self::OpenMetrics } else { Self::Text }
    }

    /// The content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Writes all of it. Families without a sample are left out.
    pub fn encode(self, families: &[Family]) -> String {
        let mut text = String::with_capacity(families.iter().map(|family| family.samples.len() + 512).sum());
        for family in families.iter().filter(|family| !family.samples.is_empty()) {
            self.head(family, &mut text);
            text.push_str(&family.samples);
        }
        if self == Self::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }

    fn head(self, Family { name, help, kind, .. }: &Family, text: &mut String) {
        let name = match self {
            Self::OpenMetrics if *kind == Kind::Counter => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        text.extend(["# HELP ", name, " "]);
        escape(help, self == Self::OpenMetrics, text);
        text.extend(["\n# TYPE ", name, " ", kind.word(), "\n"]);
    }
}

/// What a family counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up only.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Spans, by how long they were.
    Histogram,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric with all its samples, which are the same in both formats, as text: there are a hundred for each server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    pub(super) name: String,
    pub(super) help: String,
    pub(super) kind: Kind,
    pub(super) samples: String,
}

impl Family {
    pub(super) fn new(name: String, help: &str, kind: Kind) -> Self {
        Self { name, help: help.to_owned(), kind, samples: String::new() }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same of a family of the crate's.
    pub fn of(family: &MetricFamily) -> Self {
        let kind = match family.get_field_type() {
            MetricType::COUNTER => Kind::Counter,
            MetricType::HISTOGRAM => Kind::Histogram,
            _ => Kind::Gauge,
        };
        let mut own = Self::new(family.name().to_owned(), family.help(), kind);
        for metric in family.get_metric() {
            let pairs: Vec<_> = metric.get_label().iter().map(|pair| (pair.name(), pair.value())).collect();
            match kind {
                Kind::Counter => own.add(&labels(&pairs), metric.get_counter().get_value()),
                Kind::Gauge => own.add(&labels(&pairs), metric.get_gauge().get_value()),
                Kind::Histogram => {
                    let histogram = metric.get_histogram();
                    let all = histogram.get_sample_count() as f64;
                    let with = |bound: &str| labels(&[&pairs[..], &[("le", bound)]].concat());
                    // A bound is written as the float it is in both formats, so that its series is the same.
                    for bucket in histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite()) {
                        let bound = format!("{:?}", bucket.upper_bound());
                        own.sample("_bucket", &with(&bound), bucket.cumulative_count() as f64);
                    }
                    own.sample("_bucket", &with("+Inf"), all);
                    own.sample("_sum", &labels(&pairs), histogram.get_sample_sum());
                    own.sample("_count", &labels(&pairs), all);
                }
            }
        }
        own
    }

    /// Adds a sample, with [`labels`].
    pub(super) fn add(&mut self, labels: &str, value: f64) {
        self.sample("", labels, value);
    }

    fn sample(&mut self, suffix: &str, labels: &str, value: f64) {
        /// Up to here every whole number is a float of its own, and quicker written as what it is.
        const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
        let text = &mut self.samples;
        text.extend([&self.name, suffix]);
        if !labels.is_empty() {
            text.extend(["{", labels, "}"]);
        }
        // A String takes every write.
        let _ = if (0.0..WHOLE_MAX).contains(&value) && value.fract() == 0.0 && value.is_sign_positive() {
            writeln!(text, " {}", value as u64)
        } else {
            writeln!(text, " {value}")
        };
    }
}

/// Labels as they stand between the braces of a sample.
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (label, value) in pairs {
        text.extend([if text.is_empty() { "" } else { "," }, *label, "=\""]);
        escape(value, true, &mut text);
        text.push('"');
    }
    text
}

/// Both formats escape these three, the text format the quote in labels only.
fn escape(value: &str, quotes: bool, text: &mut String) {
    if !value.contains(['\\', '\n', '"']) {
        return text.push_str(value);
    }
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quotes => text.push_str("\\\""),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Gauge, Histogram, HistogramOpts, IntCounterVec, Opts, Registry};

    use super::*;

    fn told() -> Vec<Family> {
        gathered().iter().map(Family::of).collect()
    }

    fn gathered() -> Vec<MetricFamily> {
        let registry = Registry::new();
        let ends = IntCounterVec::new(Opts::new("x_ends_total", "Ends, \"all\"\nof \\ them."), &["host"]).unwrap();
        ends.with_label_values(&["a\"b\\c\nd ä"]).inc_by(3);
        let launches =
            Histogram::with_opts(HistogramOpts::new("x_seconds", "Spans.").buckets(vec![0.5, 1.0, 10.0])).unwrap();
        launches.observe(0.75);
        launches.observe(20.0);
        let gauge = Gauge::new("x_bytes", "Bytes.").unwrap();
        gauge.set(4_294_967_296.5);
        registry.register(Box::new(ends)).unwrap();
        registry.register(Box::new(launches)).unwrap();
        registry.register(Box::new(gauge)).unwrap();
        registry.gather()
    }

    #[test]
    fn the_text_format_is_as_prometheus_reads_it() {
        let expected = r#"# HELP x_bytes Bytes.
# TYPE x_bytes gauge
x_bytes 4294967296.5
# HELP x_ends_total Ends, "all"\nof \\ them.
# TYPE x_ends_total counter
x_ends_total{host="a\"b\\c\nd ä"} 3
# HELP x_seconds Spans.
# TYPE x_seconds histogram
x_seconds_bucket{le="0.5"} 0
x_seconds_bucket{le="1.0"} 1
x_seconds_bucket{le="10.0"} 1
x_seconds_bucket{le="+Inf"} 2
x_seconds_sum 20.75
x_seconds_count 2
"#;
        assert_eq!(Format::Text.encode(&told()), expected);
    }

    #[test]
    fn in_openmetrics_the_family_of_a_counter_has_no_total_and_the_text_an_end() {
        let text = Format::OpenMetrics.encode(&told());
        assert!(text.contains("# HELP x_ends Ends, \\\"all\\\"\\nof \\\\ them.\n# TYPE x_ends counter\n"), "{text}");
        assert!(text.contains("\nx_ends_total{host=\"a\\\"b\\\\c\\nd ä\"} 3\n"), "{text}");
        assert!(text.ends_with("x_seconds_count 2\n# EOF\n"), "{text}");
    }

    #[test]
    fn our_text_is_what_the_crates_own_encoder_writes_but_for_the_bounds() {
        let own = Format::Text.encode(&told()).replace(".0\"}", "\"}");
        assert_eq!(own, prometheus::TextEncoder::new().encode_to_string(&gathered()).unwrap());
    }

    #[test]
    fn openmetrics_is_told_to_whoever_accepts_it() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.4,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        for other in
            ["", "*/*", "text/plain", "application/openmetrics-text;q=0", "application/openmetrics-text; version=2.0.0"]
        {
            assert_eq!(Format::accepted(other), Format::Text, "{other}");
        }
    }
}
