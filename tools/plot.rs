//! A few lines in an SVG file.

/// A named line.
pub struct Line {
    pub name: String,
    /// In order of x.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 20.0;
const COLORS: [&str; 6] = ["#1b6ca8", "#c8553d", "#4f772d", "#7b2d8e", "#b08900", "#444444"];

/// Panels side by side, each with an x axis of its own and all with `y_name` from 0 up.
pub fn plot(y_name: &str, panels: &[(&str, Vec<Line>)]) -> String {
    let width = panels.len() as f64 * (LEFT + WIDTH + 20.0);
    let height = TOP + HEIGHT + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, (x_name, lines)) in panels.iter().enumerate() {
        let left = index as f64 * (LEFT + WIDTH + 20.0) + LEFT;
        svg += &panel(left, y_name, x_name, lines);
    }
    svg + "</svg>\n"
}

fn panel(left: f64, y_name: &str, x_name: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let most_x = points().fold(1.0, |most: f64, point| most.max(point.0));
    let most_y = points().fold(1.0, |most: f64, point| most.max(point.1)) * 1.1;
    let x = |value: f64| left + value / most_x * WIDTH;
    let y = |value: f64| TOP + HEIGHT - value / most_y * HEIGHT;
    let mut svg = format!(
        "<path d=\"M{left},{TOP}V{}H{}\" fill=\"none\" stroke=\"black\"/>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{x_name}</text>\n\
         <text x=\"{left}\" y=\"12\">{y_name}</text>\n",
        TOP + HEIGHT,
        left + WIDTH,
        left + WIDTH / 2.0,
        TOP + HEIGHT + BOTTOM - 5.0
    );
    for tick in 1..=4 {
        let (value_x, value_y) = (most_x * f64::from(tick) / 4.0, most_y * f64::from(tick) / 4.0);
        svg += &format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{value_x:.0}</text>\n\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{value_y:.0}</text>\n",
            x(value_x),
            TOP + HEIGHT + 16.0,
            left - 6.0,
            y(value_y) + 4.0
        );
    }
    for (index, line) in lines.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let path: Vec<String> = line.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        svg += &format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>\n",
            path.join(" ")
        );
        for point in &line.points {
            svg += &format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{color}\"/>\n",
                x(point.0),
                y(point.1)
            );
        }
        svg += &format!(
            "<text x=\"{}\" y=\"{}\" fill=\"{color}\">{}</text>\n",
            left + 12.0,
            TOP + 14.0 * (index as f64 + 1.0),
            line.name
        );
    }
    svg
}
