//! Members as ClassAds, to be asked for by an expression.

use std::collections::BTreeMap;
use std::path::Path;

use phantom_classad::{Ad, Expr, Scope, Value};
use phantom_discovery::AVAILABILITY;
use phantom_model::NodeFacts;

use super::Refusal;
use crate::api::types::{NodeRow, NodeState};

/// What is said of a member; what is not known is left out, and so UNDEFINED.
///
/// `Name`, `Machine` and `Id` are strings, `State` is "up", "silent" or "away", `This` and
/// `Reachable` are booleans; `Cpus`, `Idle` (cores), `LoadAvg`, `Memory` and `FreeMemory` (MiB),
/// `Mflops` and `KFlops` (of one core), `Bandwidth` (bytes a second; `BandwidthDoubt` a factor by which
/// it may be off, `BandwidthAge` seconds since it was measured), `RoundTrip` (milliseconds) are
/// numbers; `Lacks` is the list of what it cannot do.
pub fn ad(row: &NodeRow) -> Ad {
    let mut ad = Ad::default();
    let mut say = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            ad.insert(name, value);
        }
    };
    let state = match row.state {
        NodeState::Up => "up",
        NodeState::Silent => "silent",
        NodeState::Away => "away",
    };
    let whole = |number: u64| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
    let hundredths = |number: u32| Value::Real(f64::from(number) / 100.0);
    say("Name", Some(row.name.as_str().into()));
    say("Machine", Some(row.name.as_str().into()));
    say("Id", Some(row.node.to_string().as_str().into()));
    say("State", Some(state.into()));
    say("This", Some(row.this.into()));
    say("Reachable", Some(row.reachable.into()));
    say("Cpus", row.cores.map(|cores| whole(cores.into())));
    say("Idle", row.idle_centicores.map(hundredths));
    say("LoadAvg", row.load_centi.map(hundredths));
    say("Memory", row.memory_total.map(|bytes| whole(bytes >> 20)));
    say("FreeMemory", row.memory_free.map(|bytes| whole(bytes >> 20)));
    say("Mflops", row.mflops.map(|mflops| whole(mflops.into())));
    say("KFlops", row.mflops.map(|mflops| whole(u64::from(mflops) * 1000)));
    say("Bandwidth", row.bytes_per_s.map(Value::Real));
    say("BandwidthDoubt", row.way_doubt.map(Value::Real));
    say("BandwidthAge", row.way_age_s.map(whole));
    say("RoundTrip", row.rtt_us.map(|us| Value::Real(us as f64 / 1000.0)));
    let lacks = row.lacks.iter().map(|lack| Value::from(lack.as_str())).collect();
    say("Lacks", Some(Value::List(lacks)));
    ad
}

/// No expression that is sent to others is longer, in bytes.
pub const MAX_EXPRESSION: usize = 8 << 10;

/// Reads what a user asks for.
pub fn expression(text: &str) -> Result<Expr, Refusal> {
    if text.len() > MAX_EXPRESSION {
        return Err(Refusal::usage(format!(
            "the expression has {} bytes, more than {MAX_EXPRESSION}: shorten it",
            text.len()
        )));
    }
    Expr::parse(text).map_err(|error| Refusal::usage(format!("`{text}` is no expression: {error}")))
}

/// The file system in which Phantom keeps its things, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// All of it.
    pub mib: u64,
    /// What is free.
    pub free_mib: u64,
}

impl Storage {
    /// That of this folder, if it can be told. What is free is told in steps, so that a node at rest
    /// says nothing new.
    pub fn of(dir: &Path) -> Option<Self> {
        let found = nix::sys::statvfs::statvfs(dir).ok()?;
        let mib = |blocks: u64| blocks.saturating_mul(found.fragment_size()) >> 20;
        let (all, free) = (mib(found.blocks()), mib(found.blocks_available()));
        let step = (all / 64).max(1);
        Some(Self { mib: all, free_mib: free / step * step })
    }
}

/// What a node says of itself in the registry: the attributes of [`ad`] that do not depend on who
/// looks, `Disk` and `FreeDisk` (MiB), `Arch`, `OpSys`, `Kernel` and `PhantomVersion`, and `Availability` (of 1000).
pub fn attributes(
    facts: &NodeFacts,
    storage: Option<Storage>,
    availability: u16,
) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::new();
    let mut say =
        |name: &str, value: Value| drop(attributes.insert(name.into(), value.to_string()));
    let whole = |number: u64| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
    let hundredths = |number: u32| Value::Real(f64::from(number) / 100.0);
    let lacks = super::members::lacks(facts);
    say("Name", facts.name.as_str().into());
    say("Machine", facts.name.as_str().into());
    say("Id", facts.node.to_string().as_str().into());
    say("Arch", facts.arch.as_str().into());
    say("OpSys", "LINUX".into());
    say("Kernel", facts.kernel.as_str().into());
    say("PhantomVersion", facts.version.as_str().into());
    say("Cpus", whole(facts.cores.into()));
    say("Idle", hundredths(facts.idle_centicores));
    say("LoadAvg", hundredths(facts.load_centi));
    say("Memory", whole(facts.memory_total.0 >> 20));
    say("FreeMemory", whole(facts.memory_free.0 >> 20));
    if let Some(storage) = storage {
        say("Disk", whole(storage.mib));
        say("FreeDisk", whole(storage.free_mib));
    }
    say("Mflops", whole(facts.mflops.into()));
    say("KFlops", whole(u64::from(facts.mflops) * 1000));
    say("Lacks", Value::List(lacks.iter().map(|lack| Value::from(lack.as_str())).collect()));
    say(AVAILABILITY, whole(availability.into()));
    attributes
}

/// The rows of which an expression is true.
pub fn of_which(rows: Vec<NodeRow>, text: &str) -> Result<Vec<NodeRow>, Refusal> {
    let expr = expression(text)?;
    Ok(rows.into_iter().filter(|row| Scope::of(&ad(row)).eval(&expr).is_true()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use phantom_model::NodeId;

    fn row(name: &str, cores: Option<u32>, idle: u32) -> NodeRow {
        NodeRow {
            node: NodeId([7; 32]),
            name: name.into(),
            this: false,
            reachable: true,
            state: NodeState::Up,
            cores,
            idle_centicores: cores.map(|_| idle),
            load_centi: None,
            memory_total: Some(8 << 30),
            memory_free: None,
            mflops: Some(2500),
            bytes_per_s: None,
            way_doubt: None,
            way_age_s: None,
            rtt_us: None,
            path: String::new(),
            role: crate::api::types::NodeRole::Member,
            lacks: vec!["restore apps".into()],
        }
    }

    #[test]
    fn members_are_asked_for_by_what_is_known_of_them() {
        let rows =
            || vec![row("attic", Some(8), 600), row("cellar", Some(2), 150), row("shed", None, 0)];
        let names = |text: &str| -> Vec<String> {
            of_which(rows(), text).unwrap().into_iter().map(|row| row.name).collect()
        };
        assert_eq!(names("Idle >= 2 && Memory > 4096"), ["attic"]);
        assert_eq!(names("isUndefined(Cpus)"), ["shed"]);
        assert_eq!(names("name =?= \"cellar\" || KFlops < 1000"), ["cellar"]);
        assert_eq!(names("member(\"restore apps\", Lacks) && State == \"UP\"").len(), 3);
        assert!(names("Nobody > 3").is_empty());
        let refused = of_which(rows(), "Idle >").unwrap_err();
        assert!(
            refused.usage && refused.line.contains("`Idle >` is no expression"),
            "{}",
            refused.line
        );
    }
}
