use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::{Lab, LabNode, Person};
use crate::node::{Node, wait_until};

/// How long the members may take to agree on who answers for them.
const AGREEMENT: Duration = Duration::from_secs(60);

/// `phantom subgrid`, as far as scenarios look at it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SubgridState {
    /// Who answers for it.
    pub super_peer: Option<String>,
    /// In which name.
    pub mandate: Option<String>,
    /// Whether this is that node, and it may decide.
    pub decides: bool,
    /// Generation of its group.
    pub generation: u64,
    /// Whose majority it takes.
    pub electors: Vec<String>,
    /// Who votes.
    pub voters: Vec<String>,
    /// Whether the super-peer knows this node.
    pub registered: bool,
    /// On the super-peer: members in the registry.
    pub registry: Option<usize>,
    /// On the super-peer: members in the archive, shards that are stored, and that suffice.
    pub archive: Option<(usize, usize, usize)>,
    /// Services that run wherever the super-peer is.
    pub follows: Vec<Followed>,
}

/// A service that runs wherever the super-peer is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Followed {
    /// What it is called.
    pub name: String,
    /// Where it runs.
    pub node: Option<String>,
    /// Why it does not.
    pub why: Option<String>,
    /// How it last ended.
    pub exit: Option<String>,
    /// How large its saved state is.
    pub saved_bytes: Option<u64>,
    /// Why its state is not saved.
    pub trouble: Option<String>,
}

/// Machines on one local network that belong to one sub-grid: ada is at home on all of them.
pub struct Household {
    lab: Lab,
    count: usize,
}

impl Household {
    /// `n0` founds the sub-grid, the others are let in.
    pub fn open(test: &str, count: usize) -> anyhow::Result<Option<Self>> {
        let second_root = std::env::var_os("PHANTOM_SECOND_ROOT").map(PathBuf::from);
        Self::open_with(test, count, second_root)
    }

    fn open_with(
        test: &str,
        count: usize,
        second_root: Option<PathBuf>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(mut lab) = Lab::open(test)? else { return Ok(None) };
        let mut numbers = Vec::new();
        for number in 0..count {
            let root = second_root.as_deref().filter(|_| number == 1);
            let name = format!("n{number}");
            numbers.push(lab.add_with_root(&name, Person::at_home("ada", 1000), root)?);
        }
        lab.lan(&numbers, 1)?;
        let household = Self { lab, count };
        household.join().inspect_err(|_| eprintln!("{}", household.lab.logs()))?;
        Ok(Some(household))
    }

    fn join(&self) -> anyhow::Result<()> {
        self.node(0).found()?;
        for number in 1..self.count {
            let node = self.node(number);
            let asked: serde_json::Value = node.phantom_json(false, &["up", "--no-wait"])?;
            let code = asked["asked"]["code"].as_str().context("no code")?.to_owned();
            let output = self.node(0).phantom(false, &["accept", &code])?;
            ensure!(output.code == 0, "{}", output.stderr);
        }
        self.wait_agreed(&(0..self.count).collect::<Vec<_>>(), self.count).map(drop)
    }

    /// Runs a scenario; when it fails, the nodes' logs are printed.
    pub fn scenario(
        test: &str,
        count: usize,
        body: impl FnOnce(&Household) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Some(household) = Self::open(test, count)? else { return Ok(()) };
        body(&household).inspect_err(|_| eprintln!("{}", household.lab.logs()))
    }

    /// The same with machines that all have this machine's system.
    pub fn scenario_alike(
        test: &str,
        count: usize,
        body: impl FnOnce(&Household) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Some(household) = Self::open_with(test, count, None)? else { return Ok(()) };
        body(&household).inspect_err(|_| eprintln!("{}", household.lab.logs()))
    }

    /// A folder that goes with the household.
    pub fn folder(&self) -> &Path {
        self.lab.folder()
    }

    /// One of them.
    pub fn node(&self, number: usize) -> &LabNode {
        self.lab.node(number)
    }

    /// How the sub-grid stands, as one of them knows.
    pub fn state(&self, number: usize) -> anyhow::Result<SubgridState> {
        self.node(number).phantom_json(true, &["subgrid"])
    }

    /// Waits until these agree on one of them as super-peer, which may decide, are registered with
    /// it and are among so many electors; gives its number.
    pub fn wait_agreed(&self, numbers: &[usize], electors: usize) -> anyhow::Result<usize> {
        let mut agreed = None;
        let mut last = Vec::new();
        wait_until("agreement on a super-peer", AGREEMENT, || {
            last = numbers.iter().filter_map(|number| self.state(*number).ok()).collect();
            let Some(first) = last.first().filter(|_| last.len() == numbers.len()) else {
                return Ok(false);
            };
            let alike = |it: &SubgridState| {
                it.mandate == first.mandate && it.registered && it.electors.len() == electors
            };
            let name = first.super_peer.clone();
            agreed =
                numbers.iter().copied().find(|it| name.as_deref() == Some(self.node(*it).name()));
            let decides =
                numbers.iter().zip(&last).any(|(it, state)| Some(*it) == agreed && state.decides);
            Ok(last.iter().all(alike) && decides)
        })
        .with_context(|| format!("they say {last:#?}"))?;
        agreed.context("it is none of them")
    }

    /// Waits until all members are in the archive of the registry.
    pub fn wait_archived(&self, super_peer: usize) -> anyhow::Result<()> {
        wait_until("an archive of all members", AGREEMENT, || {
            Ok(self.state(super_peer)?.archive.is_some_and(|(members, ..)| members == self.count))
        })
    }

    /// The names of the members that the registry gives, asked from one of them.
    pub fn found(&self, number: usize, expr: &str) -> anyhow::Result<Vec<String>> {
        let args = ["nodes", "--scope", "subgrid", "--where", expr];
        let reply: serde_json::Value = self.node(number).phantom_json(true, &args)?;
        let rows = reply["rows"].as_array().context("no rows")?;
        let mut names: Vec<String> =
            rows.iter().filter_map(|row| Some(row["name"].as_str()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }
}
