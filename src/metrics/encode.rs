//! The two formats in which Prometheus is told: its own text format, and OpenMetrics 1.0. They differ in what a counter's
//! family is called (OpenMetrics leaves its `_total` to the sample) and in the end mark, so one encoder writes both.

use prometheus::proto::{LabelPair, MetricFamily, MetricType};

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
    pub fn encode(self, families: &[MetricFamily]) -> String {
        let mut text = String::new();
        for family in families.iter().filter(|family| !family.get_metric().is_empty()) {
            self.encode_one(family, &mut text);
        }
        if self == Self::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }

    fn encode_one(self, family: &MetricFamily, text: &mut String) {
        let name = family.name();
        let kind = family.get_field_type();
        let family_name = match self {
            Self::OpenMetrics if kind == MetricType::COUNTER => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let word = match kind {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            _ => "gauge",
        };
        text.push_str(&format!("# HELP {family_name} "));
        escape(family.help(), self == Self::OpenMetrics, text);
        text.push_str(&format!("\n# TYPE {family_name} {word}\n"));
        for metric in family.get_metric() {
            let labels = metric.get_label();
            match kind {
                MetricType::COUNTER => sample(text, (name, ""), labels, None, metric.get_counter().get_value()),
                MetricType::HISTOGRAM => {
                    let histogram = metric.get_histogram();
                    let all = histogram.get_sample_count() as f64;
                    // A bound is written as the float it is in both formats, so that its series is the same.
                    for bucket in histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite()) {
                        let bound = format!("{:?}", bucket.upper_bound());
                        sample(text, (name, "_bucket"), labels, Some(&bound), bucket.cumulative_count() as f64);
                    }
                    sample(text, (name, "_bucket"), labels, Some("+Inf"), all);
                    sample(text, (name, "_sum"), labels, None, histogram.get_sample_sum());
                    sample(text, (name, "_count"), labels, None, all);
                }
                _ => sample(text, (name, ""), labels, None, metric.get_gauge().get_value()),
            }
        }
    }
}

fn sample(text: &mut String, (name, suffix): (&str, &str), labels: &[LabelPair], bound: Option<&str>, value: f64) {
    text.push_str(name);
    text.push_str(suffix);
    let pairs = labels.iter().map(|pair| (pair.name(), pair.value())).chain(bound.map(|bound| ("le", bound)));
    let mut separator = '{';
    for (label, value) in pairs {
        text.push(separator);
        text.push_str(label);
        text.push_str("=\"");
        escape(value, true, text);
        text.push('"');
        separator = ',';
    }
    if separator == ',' {
        text.push('}');
    }
    text.push_str(&format!(" {value}\n"));
}

/// Both formats escape these three, the text format the quote in labels only.
fn escape(value: &str, quotes: bool, text: &mut String) {
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
        assert_eq!(Format::Text.encode(&gathered()), expected);
    }

    #[test]
    fn in_openmetrics_the_family_of_a_counter_has_no_total_and_the_text_an_end() {
        let text = Format::OpenMetrics.encode(&gathered());
        assert!(text.contains("# HELP x_ends Ends, \\\"all\\\"\\nof \\\\ them.\n# TYPE x_ends counter\n"), "{text}");
        assert!(text.contains("\nx_ends_total{host=\"a\\\"b\\\\c\\nd ä\"} 3\n"), "{text}");
        assert!(text.ends_with("x_seconds_count 2\n# EOF\n"), "{text}");
    }

    #[test]
    fn our_text_is_what_the_crates_own_encoder_writes_but_for_the_bounds() {
        let own = Format::Text.encode(&gathered()).replace(".0\"}", "\"}");
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
