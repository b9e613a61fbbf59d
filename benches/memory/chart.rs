//! Lines over a logarithmic x axis, as SVG.

use std::fmt::Write;

/// A named line.
pub struct Line {
    pub name: &'static str,
    /// In order of x, which is positive.
    pub points: Vec<(f64, f64)>,
}

const SIZE: (f64, f64) = (720.0, 400.0);
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 48.0;
const COLORS: [&str; 4] = ["#1b6ca8", "#c8553d", "#4f772d", "#555555"];

/// A chart of lines with a dashed upright at `mark`.
pub fn chart(x_name: &str, y_name: &str, mark: f64, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let most_x = points().fold(10.0, |most: f64, point| most.max(point.0)).log10();
    let least = points().fold(f64::MAX, |least: f64, point| least.min(point.1));
    let most = points().fold(f64::MIN, |most: f64, point| most.max(point.1));
    let (floor, ceiling) = ((least * 10.0).floor() / 10.0, (most * 10.0).ceil() / 10.0);
    let x = |value: f64| LEFT + value.log10() / most_x * (SIZE.0 - LEFT - RIGHT);
    let y = |value: f64| TOP + (ceiling - value) / (ceiling - floor) * (SIZE.1 - TOP - BOTTOM);
    let (bottom, right) = (SIZE.1 - BOTTOM, SIZE.0 - RIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <path d=\"M{LEFT},{TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>\n\
         <path d=\"M{:.1},{TOP}V{bottom}\" stroke=\"#999\" stroke-dasharray=\"4\"/>\n",
        SIZE.0,
        SIZE.1,
        x(mark)
    );
    let mut label = |at: (f64, f64), anchor: &str, text: &str| {
        let _ =
            writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>", at.0, at.1);
    };
    for power in 0..=most_x as i32 {
        let value = 10f64.powi(power);
        label((x(value), bottom + 18.0), "middle", &value.to_string());
    }
    let steps = ((ceiling - floor) * 10.0).round() as usize;
    for step in (0..=steps).step_by(steps.div_ceil(8).max(1)) {
        let value = floor + step as f64 / 10.0;
        label((LEFT - 6.0, y(value) + 4.0), "end", &format!("{value:.1}"));
    }
    label((x(mark), TOP - 6.0), "middle", "window");
    label(((LEFT + right) / 2.0, SIZE.1 - 8.0), "middle", x_name);
    label((4.0, TOP - 6.0), "start", y_name);
    for (index, (line, color)) in lines.iter().zip(COLORS).enumerate() {
        let path: Vec<String> =
            line.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let (row, start) = (TOP + 16.0 + 18.0 * index as f64, right - 250.0);
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>\n\
             <path d=\"M{start},{row}h24\" stroke=\"{color}\" stroke-width=\"2\"/>\n\
             <text x=\"{}\" y=\"{}\">{}</text>",
            path.join(" "),
            start + 30.0,
            row + 4.0,
            line.name
        );
    }
    svg + "</svg>\n"
}
