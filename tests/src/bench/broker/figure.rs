//! The paper's figures 3 to 5, drawn anew: how long a batch takes on 50 to 1000 nodes.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use phantom_broker::sim::{Discipline, integer_bound};
use resvg::{tiny_skia, usvg};

use super::super::Report;
use super::data::Folder;
use super::geometric;
use super::policies::exact;

/// Where figures go.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/broker");
/// In what words are written in a PNG, so that it comes out the same everywhere.
const FONTS: [&str; 2] = [
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf",
];
/// Pixels of a PNG for one of SVG.
const SCALE: f32 = 2.0;
const SIZE: [f64; 2] = [900.0, 500.0];
/// Left, right, top and bottom of what the axes enclose.
const PLOT: [f64; 4] = [84.0, 610.0, 62.0, 430.0];

/// One figure: its file, the word in the job file's name, and its headings.
const FIGURES: [[&str; 3]; 3] = [
    ["figure-3-network", "net", "Network-intensive: 1,000 jobs of 1 GB each"],
    ["figure-4-compute", "cpu", "Compute-intensive: 1,000 jobs of 1 Gflop each"],
    ["figure-5-hybrid", "hyb", "Both: 1,000 jobs of 1 GB and 1 Gflop each"],
];

/// A line of a figure: what is run, what the legend calls it, and how it looks. Lines differ in
/// dashes, markers and darkness, so that no colour is needed; later ones are drawn over earlier.
struct Line {
    policy: &'static str,
    label: &'static str,
    shade: &'static str,
    dashes: &'static str,
    width: f64,
    marker: Marker,
}

#[derive(Clone, Copy)]
enum Marker {
    Circle,
    Ring,
    Square,
    Diamond,
    Up,
    Down,
    Cross,
    Bar,
}

const LINES: [Line; 9] = [
    line("rr", "round robin", "#9a9a9a", "2 4", 1.8, Marker::Cross),
    line("ncda_sum", "NCDA, weighted sum", "#8a8a8a", "10 4", 1.8, Marker::Up),
    line("ncda_prod", "NCDA, product", "#6a6a6a", "6 3 1 3", 1.8, Marker::Down),
    line("ncda_harm", "NCDA, harmonic", "#3c3c3c", "14 4 2 4", 2.0, Marker::Diamond),
    line("flops", "FLOPS", "#555555", "4 3", 2.0, Marker::Square),
    line("wpk8", "best of 8 drawn", "#777777", "1 3", 2.0, Marker::Bar),
    line("mct", "earliest completion", "#444444", "8 6", 1.6, Marker::Ring),
    line(BOUND, "lower bound", "#b8b8b8", "", 7.0, Marker::Bar),
    line("adaptive", "adaptive (ours)", "#000000", "", 2.2, Marker::Circle),
];
/// No policy.
const BOUND: &str = "bound";

const fn line(
    policy: &'static str,
    label: &'static str,
    shade: &'static str,
    dashes: &'static str,
    width: f64,
    marker: Marker,
) -> Line {
    Line { policy, label, shade, dashes, width, marker }
}

/// Draws all of them, as SVG and as PNG.
pub fn draw_all(report: &mut Report, folder: &Folder) -> anyhow::Result<()> {
    let to = PathBuf::from(FOLDER);
    std::fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    for [file, word, heading] in FIGURES {
        report.progress(heading);
        let points = measure(folder, word)?;
        let svg = draw(heading, &points);
        write(&to.join(format!("{file}.svg")), svg.as_bytes())?;
        write(&to.join(format!("{file}.png")), &rendered(&svg)?)?;
    }
    report.note("Drawn into docs/broker: three figures, each as SVG and PNG.");
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// By line, the number of nodes and the time: the geometric mean over all grids of that size.
fn measure(folder: &Folder, word: &str) -> anyhow::Result<Vec<Vec<(f64, f64)>>> {
    let jobs = folder.jobs(&format!("jobs_{word}.csv"))?;
    let grids = folder.names("plat_");
    let stars = || grids.iter().filter(|grid| grid.topology.as_deref() == Some("star"));
    let mut sizes: Vec<usize> = stars().filter_map(|grid| grid.nodes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut lines = vec![Vec::new(); LINES.len()];
    for size in sizes {
        let mut times = vec![Vec::new(); LINES.len()];
        for name in stars().filter(|grid| grid.nodes == Some(size)) {
            let grid = folder.grid(&name.file)?;
            for (line, times) in LINES.iter().zip(&mut times) {
                let seed = name.seed.unwrap_or(0);
                times.push(match line.policy {
                    BOUND => integer_bound(&grid, &jobs),
                    policy => exact(policy, &grid, &jobs, Discipline::Fifo, seed)?.makespan(),
                });
            }
        }
        for (times, line) in times.iter().zip(&mut lines) {
            line.push((size as f64, geometric(times)));
        }
    }
    Ok(lines)
}

/// Both axes: logarithms from one value to another, to pixels.
struct Axes {
    x: [f64; 2],
    y: [f64; 2],
}

impl Axes {
    fn around(points: &[Vec<(f64, f64)>]) -> Self {
        let all = || points.iter().flatten();
        let least = |value: fn(&(f64, f64)) -> f64| all().map(value).fold(f64::INFINITY, f64::min);
        let most = |value: fn(&(f64, f64)) -> f64| all().map(value).fold(0.0, f64::max);
        let y = [least(|one| one.1).log10().floor(), most(|one| one.1).log10().ceil()];
        Self { x: [least(|one| one.0).log10(), most(|one| one.0).log10()], y }
    }

    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let [left, right, top, bottom] = PLOT;
        let part = |value: f64, [from, to]: [f64; 2]| (value.log10() - from) / (to - from);
        let inset = 18.0;
        (
            left + inset + part(x, self.x) * (right - left - 2.0 * inset),
            bottom - part(y, self.y) * (bottom - top),
        )
    }
}

fn draw(heading: &str, points: &[Vec<(f64, f64)>]) -> String {
    let [width, height] = SIZE;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"DejaVu Sans, Verdana, sans-serif\" \
         font-size=\"13\">\n<title>{heading}</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let axes = Axes::around(points);
    let sizes: Vec<f64> = points.first().into_iter().flatten().map(|point| point.0).collect();
    scales(&mut svg, &axes, &sizes, heading);
    for (line, points) in LINES.iter().zip(points) {
        let placed: Vec<(f64, f64)> = points.iter().map(|point| axes.place(*point)).collect();
        curve(&mut svg, line, &placed, line.policy != BOUND);
    }
    legend(&mut svg, points);
    svg.push_str("</svg>\n");
    svg
}

/// Text at a place; `more` are attributes.
fn text(svg: &mut String, (x, y): (f64, f64), more: &str, words: &str) {
    // Writing into a string cannot fail.
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {more}>{words}</text>");
}

fn scales(svg: &mut String, axes: &Axes, sizes: &[f64], heading: &str) {
    let [left, right, top, bottom] = PLOT;
    let middle = (0.5 * (left + right), 0.5 * (top + bottom));
    text(svg, (left, 28.0), "font-size=\"17\" font-weight=\"bold\"", heading);
    let under =
        "time until the last job is done; geometric mean of three random grids of each size";
    text(svg, (left, 48.0), "fill=\"#333333\"", under);
    let rule = |svg: &mut String, from: (f64, f64), to: (f64, f64), shade: &str| {
        let _ = writeln!(
            svg,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{shade}\"/>",
            from.0, from.1, to.0, to.1
        );
    };
    for decade in axes.y[0] as i32..=axes.y[1] as i32 {
        let value = 10f64.powi(decade);
        let (_, y) = axes.place((sizes.first().copied().unwrap_or(1.0), value));
        rule(svg, (left, y), (right, y), "#d4d4d4");
        let words = match decade {
            0..=3 => format!("{value}"),
            _ => format!("10<tspan dy=\"-6\" font-size=\"9\">{decade}</tspan>"),
        };
        text(svg, (left - 8.0, y + 4.5), "text-anchor=\"end\"", &words);
    }
    for size in sizes {
        let (x, _) = axes.place((*size, 10f64.powf(axes.y[0])));
        rule(svg, (x, top), (x, bottom), "#e6e6e6");
        text(svg, (x, bottom + 20.0), "text-anchor=\"middle\"", &format!("{size}"));
    }
    let _ = writeln!(
        svg,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\" fill=\"none\" \
         stroke=\"#000000\"/>",
        right - left,
        bottom - top
    );
    text(svg, (middle.0, bottom + 46.0), "text-anchor=\"middle\"", "nodes (logarithmic)");
    let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 24 {:.1})\"", middle.1);
    text(svg, (24.0, middle.1), &turned, "seconds (logarithmic)");
}

fn curve(svg: &mut String, line: &Line, placed: &[(f64, f64)], marked: bool) {
    let path: Vec<String> = placed.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let dashes = match line.dashes {
        "" => String::new(),
        dashes => format!(" stroke-dasharray=\"{dashes}\""),
    };
    let Line { shade, width, .. } = line;
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{shade}\" stroke-width=\"{width}\" \
         stroke-linejoin=\"round\"{dashes}/>",
        path.join(" ")
    );
    for place in placed.iter().filter(|_| marked) {
        mark(svg, line, *place);
    }
}

fn mark(svg: &mut String, line: &Line, (x, y): (f64, f64)) {
    let shade = line.shade;
    let polygon = |corners: &[(f64, f64)]| {
        let corners: Vec<String> =
            corners.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy)).collect();
        format!(
            "<polygon points=\"{}\" fill=\"#ffffff\" stroke=\"{shade}\" stroke-width=\"1.8\"/>",
            corners.join(" ")
        )
    };
    let circle = |radius: f64, fill: &str| {
        format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{fill}\" stroke=\"{shade}\" \
             stroke-width=\"1.6\"/>"
        )
    };
    let strokes = |path: &str| {
        format!(
            "<path transform=\"translate({x:.1} {y:.1})\" d=\"{path}\" stroke=\"{shade}\" \
             stroke-width=\"2\"/>"
        )
    };
    let drawn = match line.marker {
        Marker::Circle => circle(4.2, shade),
        Marker::Ring => circle(7.5, "none"),
        Marker::Square => polygon(&[(-6.5, -6.5), (6.5, -6.5), (6.5, 6.5), (-6.5, 6.5)]),
        Marker::Diamond => polygon(&[(0.0, -7.0), (7.0, 0.0), (0.0, 7.0), (-7.0, 0.0)]),
        Marker::Up => polygon(&[(0.0, -6.5), (6.5, 5.0), (-6.5, 5.0)]),
        Marker::Down => polygon(&[(0.0, 6.5), (6.5, -5.0), (-6.5, -5.0)]),
        Marker::Cross => strokes("M-5 -5 L5 5 M-5 5 L5 -5"),
        Marker::Bar => strokes("M0 -6 L0 6"),
    };
    svg.push_str(&drawn);
    svg.push('\n');
}

/// Beside the plot, in the order in which the lines end at its right.
fn legend(svg: &mut String, points: &[Vec<(f64, f64)>]) {
    let end = |place: usize| points[place].last().map_or(0.0, |point| point.1);
    let mut order: Vec<usize> = (0..LINES.len()).collect();
    order.sort_by(|a, b| end(*b).total_cmp(&end(*a)).then(a.cmp(b)));
    let [_, right, top, _] = PLOT;
    let values = SIZE[0] - 20.0;
    let most = points.first().and_then(|points| points.last()).map_or(0.0, |point| point.0);
    let heading = format!("seconds at {most} nodes");
    text(svg, (values, top + 6.0), "fill=\"#333333\" text-anchor=\"end\"", &heading);
    for (row, place) in order.into_iter().enumerate() {
        let line = &LINES[place];
        let y = top + 34.0 + 27.0 * row as f64;
        let sample = [(right + 22.0, y), (right + 43.0, y), (right + 64.0, y)];
        curve(svg, line, &sample, false);
        if line.policy != BOUND {
            mark(svg, line, sample[1]);
        }
        let bold = if line.policy == "adaptive" { "font-weight=\"bold\"" } else { "" };
        text(svg, (right + 72.0, y + 4.5), bold, line.label);
        let value = format!("text-anchor=\"end\" {bold}");
        text(svg, (values, y + 4.5), &value, &figure(end(place)));
    }
}

/// Three digits that matter.
fn figure(seconds: f64) -> String {
    let digits = if seconds < 100.0 { 1 } else { 0 };
    format!("{seconds:.digits$}")
}

fn rendered(svg: &str) -> anyhow::Result<Vec<u8>> {
    let mut options = usvg::Options::default();
    let mut fonts = usvg::fontdb::Database::new();
    for font in FONTS {
        let bytes = std::fs::read(font).with_context(|| {
            format!("figures have words and {font} is missing: apt-get install fonts-dejavu-core")
        })?;
        fonts.load_font_data(bytes);
    }
    options.fontdb = Arc::new(fonts);
    let tree = usvg::Tree::from_str(svg, &options).context("a figure is no SVG")?;
    let size = tree.size().to_int_size().scale_by(SCALE).context("a figure has no size")?;
    let mut pixels =
        tiny_skia::Pixmap::new(size.width(), size.height()).context("a figure is too large")?;
    let scale = tiny_skia::Transform::from_scale(SCALE, SCALE);
    resvg::render(&tree, scale, &mut pixels.as_mut());
    pixels.encode_png().context("a figure makes no PNG")
}
