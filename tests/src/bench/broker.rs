//! `bench broker`: policies for jobs on simulated grids, against the paper's and against bounds; what
//! a decision costs; and the paper's figures.

mod cost;
mod data;
mod figure;
mod folder;
mod gates;
mod policies;

use super::Report;
use data::Folder;

const BENCH: &str = "broker";
/// Reference grids and jobs, from SimGrid; `broker/tests/data/simgrid/README.md` says what they are.
const BUILT_IN: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../broker/tests/data/simgrid/simgrid.cpio.gz"
));

/// All gates on the built-in data; or every policy on a folder of one's own; or figures.
pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let options = report.options().clone();
    if let Some(path) = &options.data {
        return folder::run(report, &Folder::open(path)?);
    }
    let folder = Folder::unpack(BUILT_IN)?;
    if options.figures {
        return figure::draw_all(report, &folder);
    }
    gates::run(report, &folder)?;
    cost::run(report)
}

/// Geometric mean.
fn geometric(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len().max(1) as f64).exp()
}

/// The greatest, without the last digits in which sums in another order may differ.
fn worst(values: &[f64]) -> f64 {
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (most * 1e9).round() / 1e9
}
