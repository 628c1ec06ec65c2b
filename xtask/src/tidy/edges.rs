//! Which packages may depend on which.
//!
//! Three rings: the vocabulary, the domain packages, and the node that wires them. A domain
//! package never depends on another: it declares a trait or emits a command, and the node
//! connects them.

use super::Problem;
use crate::workspace::Package;

/// The vocabulary: no I/O, depends on nothing of ours.
const VOCABULARY: [&str; 3] = ["phantom-model", "phantom-classad", "phantom-erasure"];
/// The domain packages: depend on the vocabulary only.
const DOMAIN: [&str; 8] = [
    "phantom-ebpf",
    "phantom-qos",
    "phantom-capsule",
    "phantom-checkpoint",
    "phantom-fs",
    "phantom-net",
    "phantom-discovery",
    "phantom-broker",
];
/// What wires the domain packages.
const NODE: &str = "phantom";
/// Scenarios and benchmarks.
const TESTS: &str = "phantom-tests";
/// This package: depends on nothing of ours, so that it works when they do not build.
const XTASK: &str = "xtask";
/// Test-only edges between domain packages: a checkpoint is tested on a real capsule.
const DEV: [(&str, &str); 2] =
    [("phantom-checkpoint", "phantom-capsule"), ("phantom-fs", "phantom-checkpoint")];

/// Compares every edge between packages of the workspace with the table.
pub fn check(packages: &[Package]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for package in packages {
        if ring(&package.name).is_none() {
            let what = "unknown package: give it its ring in xtask/src/tidy/edges.rs";
            problems.push(Problem::new(&package.name, what));
        }
        for dependency in package.dependencies.iter().filter(|one| one.path.is_some()) {
            let dev = dependency.kind.as_deref() == Some("dev");
            if !allowed(&package.name, &dependency.name, dev) {
                let kind = dependency.kind.as_deref().unwrap_or("normal");
                problems.push(Problem::new(
                    format!("{} -> {}", package.name, dependency.name),
                    format!("{kind} dependency not in the table of xtask/src/tidy/edges.rs"),
                ));
            }
        }
    }
    problems
}

/// How far out a package is.
fn ring(name: &str) -> Option<u8> {
    match name {
        _ if VOCABULARY.contains(&name) => Some(0),
        _ if DOMAIN.contains(&name) => Some(1),
        NODE => Some(2),
        TESTS => Some(3),
        XTASK => Some(4),
        _ => None,
    }
}

fn allowed(from: &str, to: &str, dev: bool) -> bool {
    if dev && DEV.contains(&(from, to)) {
        return true;
    }
    match (ring(from), ring(to)) {
        _ if from == XTASK || to == XTASK => false,
        (Some(from), Some(to)) => to < from,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        for (from, to, dev, expected) in [
            ("phantom-net", "phantom-model", false, true),
            ("phantom-net", "phantom-fs", false, false),
            ("phantom-net", "phantom-fs", true, false),
            ("phantom-model", "phantom-net", false, false),
            ("phantom-checkpoint", "phantom-capsule", true, true),
            ("phantom-checkpoint", "phantom-capsule", false, false),
            ("phantom-capsule", "phantom-checkpoint", true, false),
            ("phantom", "phantom-fs", false, true),
            ("phantom-fs", "phantom", false, false),
            ("phantom-tests", "phantom", false, true),
            ("phantom", "phantom-tests", true, false),
            ("xtask", "phantom-model", false, false),
            ("phantom", "xtask", false, false),
            ("phantom", "phantom-new", false, false),
        ] {
            assert_eq!(allowed(from, to, dev), expected, "{from} -> {to}, dev {dev}");
        }
    }
}
