//! Line charts as SVG, without a library: axes, grid, lines, a legend.

use std::fmt::Write as _;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 320.0;
/// Room around the lines: left, top, right, bottom.
const MARGIN: [f64; 4] = [70.0, 40.0, 120.0, 50.0];
const COLOURS: [&str; 8] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999",
];

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From 0, evenly.
    Linear,
    /// By powers.
    Log,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it shows.
    pub title: String,
    /// How it is divided.
    pub scale: Scale,
    /// Where it is labelled, and with what. Empty: chosen by the values.
    pub ticks: Vec<(f64, String)>,
}

/// A named line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name in the legend. Lines of the same name have the same colour in all charts.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What stands above it.
    pub title: String,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// The lines.
    pub lines: Vec<Line>,
}

/// Draws charts in rows of so many.
pub fn draw(charts: &[Chart], columns: usize) -> String {
    let columns = columns.max(1);
    let mut names: Vec<&str> = Vec::new();
    for line in charts.iter().flat_map(|chart| &chart.lines) {
        if !names.contains(&line.name.as_str()) {
            names.push(&line.name);
        }
    }
    let rows = charts.len().div_ceil(columns);
    let (width, height) = (WIDTH * columns as f64, HEIGHT * rows as f64);
    // Writing into a string does not fail.
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, chart) in charts.iter().enumerate() {
        let (x, y) = (
            WIDTH * (index % columns) as f64,
            HEIGHT * (index / columns) as f64,
        );
        let _ = writeln!(out, "<g transform=\"translate({x} {y})\">");
        chart.draw(&mut out, &names);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

/// From a value to a place on the paper.
struct Projection {
    scale: Scale,
    values: (f64, f64),
    places: (f64, f64),
}

impl Projection {
    fn new(scale: Scale, values: impl Iterator<Item = f64> + Clone, places: (f64, f64)) -> Self {
        let least = values.clone().fold(f64::INFINITY, f64::min);
        let most = values.fold(f64::NEG_INFINITY, f64::max);
        let values = match scale {
            _ if !(least.is_finite() && most.is_finite()) => (1.0, 10.0),
            Scale::Linear => (0.0, most.max(f64::MIN_POSITIVE) * 1.05),
            Scale::Log => {
                let least = least.max(1e-3);
                (least, most.max(least * 1.5))
            }
        };
        Self {
            scale,
            values,
            places,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let (low, high) = self.values;
        let share = match self.scale {
            Scale::Linear => (value - low) / (high - low),
            Scale::Log => (value.max(low) / low).ln() / (high / low).ln(),
        };
        self.places.0 + share.clamp(0.0, 1.0) * (self.places.1 - self.places.0)
    }

    /// Round numbers within the values: 1, 2, 5, 10, … on a logarithmic axis, five steps on a linear one.
    fn ticks(&self) -> Vec<(f64, String)> {
        let (low, high) = self.values;
        let labelled = |value: f64| (value, label(value));
        if self.scale == Scale::Log {
            let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
            let steps: &[f64] = if high / low > 1e3 {
                &[1.0]
            } else {
                &[1.0, 2.0, 5.0]
            };
            let all = decades.flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)));
            return all
                .filter(|value| (low..=high).contains(value))
                .map(labelled)
                .collect();
        }
        let rough = high / 5.0;
        let decade = 10_f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
        let step = steps.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let count = (high / step) as u32;
        (0..=count)
            .map(|number| labelled(f64::from(number) * step))
            .collect()
    }
}

fn label(value: f64) -> String {
    if value >= 10_000.0 {
        return format!("{}k", value / 1e3);
    }
    // Sums of steps are not quite round.
    format!("{}", (value * 1e6).round() / 1e6)
}

impl Chart {
    fn draw(&self, out: &mut String, names: &[&str]) {
        let [left, top, right, bottom] = MARGIN;
        let points = self.lines.iter().flat_map(|line| line.points.iter());
        let across = (left, WIDTH - right);
        let up = (HEIGHT - bottom, top);
        let x = Projection::new(self.x.scale, points.clone().map(|point| point.0), across);
        let y = Projection::new(self.y.scale, points.map(|point| point.1), up);
        let middle = f64::midpoint(across.0, across.1);
        text(out, middle, top - 15.0, "middle", &self.title);
        text(out, middle, HEIGHT - 12.0, "middle", &self.x.title);
        text(out, 8.0, top - 15.0, "start", &self.y.title);
        for (value, label) in ticks(&self.x, &x) {
            let place = x.place(value);
            rule(out, (place, up.0), (place, up.1));
            text(out, place, up.0 + 16.0, "middle", &label);
        }
        for (value, label) in ticks(&self.y, &y) {
            let place = y.place(value);
            rule(out, (across.0, place), (across.1, place));
            text(out, across.0 - 6.0, place + 4.0, "end", &label);
        }
        for (row, line) in self.lines.iter().enumerate() {
            let number = names
                .iter()
                .position(|name| *name == line.name)
                .unwrap_or_default();
            let colour = COLOURS.get(number % COLOURS.len()).copied().unwrap_or("black");
            let places = line
                .points
                .iter()
                .map(|point| (x.place(point.0), y.place(point.1)));
            let places: Vec<String> = places.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                places.join(" ")
            );
            for place in &places {
                let (x, y) = place.split_once(',').unwrap_or_default();
                let _ = writeln!(out, "<circle cx=\"{x}\" cy=\"{y}\" r=\"2.5\" fill=\"{colour}\"/>");
            }
            let height = top + 16.0 * row as f64 + 8.0;
            let _ = writeln!(
                out,
                "<rect x=\"{}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
                across.1 + 10.0,
                height - 9.0
            );
            text(out, across.1 + 25.0, height, "start", &line.name);
        }
    }
}

fn ticks(axis: &Axis, projection: &Projection) -> Vec<(f64, String)> {
    if axis.ticks.is_empty() {
        return projection.ticks();
    }
    axis.ticks.clone()
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>"
    );
}

fn rule(out: &mut String, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/>",
        from.0, from.1, to.0, to.1
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale) -> Axis {
        Axis {
            title: "a < b".to_owned(),
            scale,
            ticks: Vec::new(),
        }
    }

    #[test]
    fn places_follow_the_scale() {
        let linear = Projection::new(Scale::Linear, [10.0, 100.0].into_iter(), (0.0, 105.0));
        assert!((linear.place(100.0) - 100.0).abs() < 1e-9 && linear.place(0.0).abs() < 1e-9);
        let log = Projection::new(Scale::Log, [1.0, 100.0].into_iter(), (100.0, 0.0));
        assert!((log.place(10.0) - 50.0).abs() < 1e-9);
        let labels: Vec<String> = log.ticks().into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels, ["1", "2", "5", "10", "20", "50", "100"]);
    }

    #[test]
    fn a_chart_has_its_lines_and_nothing_that_is_no_number() {
        let line = |name: &str, points: &[(f64, f64)]| Line {
            name: name.to_owned(),
            points: points.to_vec(),
        };
        let chart = Chart {
            title: "t".to_owned(),
            x: axis(Scale::Log),
            y: axis(Scale::Linear),
            lines: vec![line("one", &[(1.0, 5.0), (64.0, 900.0)]), line("none", &[])],
        };
        let empty = Chart {
            lines: Vec::new(),
            ..chart.clone()
        };
        let drawn = draw(&[chart, empty], 2);
        assert_eq!(drawn.matches("<polyline").count(), 2);
        assert!(drawn.contains("a &lt; b") && drawn.contains(">one<"));
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
    }
}
