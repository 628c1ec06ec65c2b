//! What runs too long for a test: `cargo xtask soak NAME`. Scenarios run the same, shorter.

pub mod failover;
pub mod moves;
pub mod typing;

use crate::bench::Report;

/// One soak.
#[derive(Debug)]
pub struct Soak {
    /// What `cargo xtask soak` calls it.
    pub name: &'static str,
    /// What it does in a round, in a line.
    pub about: &'static str,
    /// Rounds when nobody says how many.
    pub rounds: u32,
    /// Runs so many rounds and reports; what does not hold is an error or a missed row.
    pub run: fn(u32, &mut Report) -> anyhow::Result<()>,
}

/// All of them.
pub const ALL: &[Soak] = &[
    Soak {
        name: "moves",
        about: "100 moves to and fro leave nothing behind, and nothing grows from round to round",
        rounds: 10,
        run: moves::run,
    },
    Soak {
        name: "failover",
        about: "30 super-peers killed one after the other: another each time, no registration lost",
        rounds: 1,
        run: failover::run,
    },
    Soak {
        name: "typing",
        about: "10,000 characters at 50 a second through three moves arrive once and in order",
        rounds: 1,
        run: typing::run,
    },
];

/// The soak of that name.
pub fn find(name: &str) -> Option<&'static Soak> {
    ALL.iter().find(|soak| soak.name == name)
}
