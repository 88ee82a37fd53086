//! Charts for the README: bars of what is compared, and curves over the number of sessions. Light and dark by the reader's choice.

use std::fmt::Write;

use crate::figures::{Point, Table};

const STYLE: &str = "<style>\
    text{font:12px system-ui,sans-serif;fill:#1f2328}.dim{fill:#59636e}.head{font-weight:600}\
    .bar,.line1{fill:#8b949e;stroke:#8b949e}.ours,.line0{fill:#1a7f37;stroke:#1a7f37}.line2{fill:#bf8700;stroke:#bf8700}\
    .curve{fill:none;stroke-width:2}.axis{stroke:#d1d9e0;stroke-width:1}\
    @media(prefers-color-scheme:dark){text{fill:#f0f6fc}.dim{fill:#9198a1}.axis{stroke:#3d444d}\
    .ours,.line0{fill:#3fb950;stroke:#3fb950}.line2{fill:#d29922;stroke:#d29922}}</style>";

const WIDTH: f64 = 720.0;

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The number with as many digits as say something.
pub fn number(value: f64) -> String {
    match value {
        _ if !value.is_finite() => "–".to_owned(),
        _ if value.abs() >= 100.0 => format!("{value:.0}"),
        _ if value.abs() >= 10.0 => format!("{value:.1}"),
        _ if value == 0.0 => "0".to_owned(),
        _ => format!("{value:.2}"),
    }
}

/// Horizontal bars of medians, each with a stroke up to its 99th percentile.
pub fn bars(tables: &[&Table]) -> String {
    const LABELS: f64 = 330.0;
    const ROW: f64 = 22.0;
    let rows: usize = tables.iter().map(|table| table.rows.len()).sum();
    let height = 12.0 + ROW * rows as f64 + 36.0 * tables.len() as f64;
    let mut svg = head(height, "Medians of launches, with strokes to the 99th percentiles");
    let mut y = 8.0;
    for table in tables {
        let most = table.rows.iter().map(|row| row.p99).fold(f64::MIN_POSITIVE, f64::max);
        let scale = (WIDTH - LABELS - 70.0) / most;
        y += 20.0;
        let _ =
            write!(svg, "<text class=\"head\" x=\"8\" y=\"{y:.0}\">{}, {}</text>", escaped(&table.title), table.unit);
        for row in &table.rows {
            y += ROW;
            let (middle, bar) = (y - 4.0, row.median * scale);
            let class = if row.label.starts_with("pinfold") { "ours" } else { "bar" };
            let _ = write!(
                svg,
                "<text x=\"8\" y=\"{y:.0}\">{}</text><rect class=\"{class}\" x=\"{LABELS}\" y=\"{:.0}\" width=\"{bar:.1}\" \
                 height=\"12\"/><path class=\"{class}\" d=\"M{:.1} {middle:.0}H{:.1}\"/><text class=\"dim\" x=\"{:.1}\" \
                 y=\"{y:.0}\">{}</text>",
                escaped(&row.label),
                y - 10.0,
                LABELS + bar,
                LABELS + row.p99 * scale,
                LABELS + row.p99 * scale + 6.0,
                number(row.median),
            );
        }
        y += 16.0;
    }
    svg.push_str("</svg>\n");
    svg
}

/// One curve of a panel: its name, and its value at each point.
type Series<'a> = (&'a str, Vec<f64>);

/// What a session costs when there are many.
pub fn curves(points: &[Point]) -> String {
    let of = |value: &dyn Fn(&Point) -> f64| points.iter().map(value).collect::<Vec<_>>();
    const MIB: f64 = (1 << 20) as f64;
    let panels: [(&str, Vec<Series<'_>>); 3] = [
        (
            "Memory of the daemon's cgroup, MiB",
            vec![
                ("all", of(&|point| point.cgroup_bytes as f64 / MIB)),
                ("the kernel's share", of(&|point| point.kernel_bytes as f64 / MIB)),
                ("8 MiB + 16 KiB each", of(&|point| 8.0 + point.sessions as f64 / 64.0)),
            ],
        ),
        (
            "A scrape, ms",
            vec![("pinfold", of(&|point| point.scrape)), ("reading the same files", of(&|point| point.raw_read))],
        ),
        (
            "One more launch, ms",
            vec![("pinfold", of(&|point| point.launch)), ("the kernel's own", of(&|point| point.raw_launch))],
        ),
    ];
    const PANEL: f64 = WIDTH / 3.0;
    let mut svg = head(250.0, "What a session costs when there are many");
    for (at, (title, series)) in panels.iter().enumerate() {
        Panel { left: at as f64 * PANEL, width: PANEL, title, points, series }.draw(&mut svg);
    }
    svg.push_str("</svg>\n");
    svg
}

/// One panel, both axes logarithmic.
struct Panel<'a> {
    left: f64,
    width: f64,
    title: &'a str,
    points: &'a [Point],
    series: &'a [Series<'a>],
}

impl Panel<'_> {
    fn draw(&self, svg: &mut String) {
        let Self { left, width, title, points, series } = *self;
        const TOP: f64 = 34.0;
        const BOTTOM: f64 = 180.0;
        let values = || series.iter().flat_map(|(_, values)| values).copied().filter(|value| *value > 0.0);
        let (least, most) =
            (values().fold(f64::MAX, f64::min).log10(), values().fold(f64::MIN_POSITIVE, f64::max).log10());
        let xs: Vec<f64> = points.iter().map(|point| (point.sessions.max(1) as f64).log10()).collect();
        let last = xs.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let x = |value: f64| left + 40.0 + value / last * (width - 56.0);
        let y = |value: f64| BOTTOM - (value.log10() - least) / (most - least).max(0.3) * (BOTTOM - TOP - 10.0);
        let _ = write!(svg, "<text class=\"head\" x=\"{:.0}\" y=\"18\">{}</text>", left + 8.0, escaped(title));
        let _ =
            write!(svg, "<path class=\"axis\" d=\"M{:.0} {TOP}V{BOTTOM}H{:.0}\"/>", left + 40.0, left + width - 10.0);
        for value in [10f64.powf(least), 10f64.powf(most)] {
            let (x, y) = (left + 36.0, y(value) + 4.0);
            let _ = write!(
                svg,
                "<text class=\"dim\" text-anchor=\"end\" x=\"{x:.0}\" y=\"{y:.0}\">{}</text>",
                number(value)
            );
        }
        for (point, at) in points.iter().zip(&xs) {
            let count = point.sessions;
            let _ =
                write!(svg, "<text class=\"dim\" text-anchor=\"middle\" x=\"{:.0}\" y=\"196\">{count}</text>", x(*at));
        }
        for (number, (name, values)) in series.iter().enumerate() {
            let drawn = xs.iter().zip(values).filter(|(_, value)| **value > 0.0);
            let path: Vec<String> = drawn.map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
            let _ = write!(
                svg,
                "<polyline class=\"curve line{number}\" style=\"fill:none\" points=\"{}\"/><rect class=\"line{number}\" \
             x=\"{:.0}\" y=\"{:.0}\" width=\"10\" height=\"4\"/><text class=\"dim\" x=\"{:.0}\" y=\"{:.0}\">{}</text>",
                path.join(" "),
                left + 40.0,
                208.0 + 14.0 * number as f64,
                left + 56.0,
                214.0 + 14.0 * number as f64,
                escaped(name),
            );
        }
    }
}

fn head(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"{title}\">{STYLE}"
    )
}
