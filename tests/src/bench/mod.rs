//! Benchmarks. Product and baseline are measured in turns in one run; a row holds medians.

pub mod broker;
pub mod classad;
pub mod discovery;
pub mod erasure;
pub mod failover;
pub mod fs;
pub mod join;
mod machine;
pub mod migration;
mod mounts;
pub mod qos;
mod report;
mod row;
mod sample;
pub mod terminal;

pub use report::{Format, Options, Report};
pub use row::{Bound, Row};
pub use sample::{Side, all_in_turns, in_turns, median};

/// One benchmark.
#[derive(Debug)]
pub struct Bench {
    /// What `cargo xtask bench` calls it.
    pub name: &'static str,
    /// What it measures, in a line.
    pub about: &'static str,
    /// Measures and reports.
    pub run: fn(&mut Report) -> anyhow::Result<()>,
}

/// All of them.
pub const ALL: &[Bench] = &[
    Bench {
        name: "broker",
        about: "policies for jobs on simulated grids, and what a decision costs",
        run: broker::run,
    },
    Bench {
        name: "classad",
        about: "how fast requirements are judged, and descriptions read",
        run: classad::run,
    },
    Bench {
        name: "discovery",
        about: "queries among ten thousand nodes, and two hundred that watch each other",
        run: discovery::run,
    },
    Bench {
        name: "erasure",
        about: "a registry rebuilt from shards, against a copy and reed-solomon-simd",
        run: erasure::run,
    },
    Bench {
        name: "failover",
        about: "from a super-peer's death to another one with the whole registry, against etcd",
        run: failover::run,
    },
    Bench {
        name: "fs",
        about: "files away from home, against the local disk and sshfs",
        run: fs::run,
    },
    Bench {
        name: "join",
        about: "from `phantom up` to a member, and how fast twenty nodes know that one is gone",
        run: join::run,
    },
    Bench {
        name: "migration",
        about: "how long a program stands still while it moves, against bare CRIU",
        run: migration::run,
    },
    Bench {
        name: "qos",
        about: "what the monitor costs, and how fast a crossing becomes a verdict",
        run: qos::run,
    },
    Bench {
        name: "terminal",
        about: "from a key to its echo, at home and away, against a bare pty, tmux and ssh",
        run: terminal::run,
    },
];

/// The benchmark of that name.
pub fn find(name: &str) -> Option<&'static Bench> {
    ALL.iter().find(|bench| bench.name == name)
}
