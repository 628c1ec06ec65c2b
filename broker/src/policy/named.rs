//! Every policy by its name, as SimGrid's results and the benchmarks call them.

use super::reference::{Batch, Drawn, Mct, Order};
use super::{Adaptive, Flops, Ncda, Policy, RoundRobin, Sum};
use crate::Grid;

/// The paper's.
pub const PAPER: [&str; 5] = ["rr", "flops", "ncda_sum", "ncda_prod", "ncda_harm"];

/// All of them; the last three place batches only.
pub const ALL: [&str; 13] = [
    "adaptive",
    "rr",
    "flops",
    "ncda_sum",
    "ncda_prod",
    "ncda_harm",
    "mct",
    "mct_blind",
    "wpk8",
    "wpk16",
    "heft",
    "minmin",
    "sufferage",
];

/// A policy of [`ALL`] on idle nodes; `None` where no policy has that name. What is drawn comes from
/// `seed`.
pub fn named(name: &str, grid: &Grid, seed: u64) -> Option<Box<dyn Policy>> {
    Some(match name {
        "adaptive" => Box::new(Adaptive::new(grid, seed)),
        "rr" => Box::new(RoundRobin::new(grid)),
        "flops" => Box::new(Flops::new(grid)),
        "ncda_sum" => Box::new(Ncda::new(grid, Sum::Weighted)),
        "ncda_prod" => Box::new(Ncda::new(grid, Sum::Product)),
        "ncda_harm" => Box::new(Ncda::new(grid, Sum::Harmonic)),
        "mct" => Box::new(Mct::new(grid, true)),
        "mct_blind" => Box::new(Mct::new(grid, false)),
        "wpk8" => Box::new(Drawn::new(grid, 8, seed)),
        "wpk16" => Box::new(Drawn::new(grid, 16, seed)),
        "heft" => Box::new(Batch::new(grid, Order::Longest)),
        "minmin" => Box::new(Batch::new(grid, Order::MinMin)),
        "sufferage" => Box::new(Batch::new(grid, Order::Sufferage)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_a_policy_and_no_other() {
        let grid = Grid::default();
        assert!(ALL.iter().all(|name| named(name, &grid, 0).is_some()));
        assert!(PAPER.iter().all(|name| ALL.contains(name)));
        assert!(named("best", &grid, 0).is_none());
    }
}
