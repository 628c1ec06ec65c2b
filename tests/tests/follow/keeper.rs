//! A service whose lives are written down where all machines of a test can see them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use phantom_tests::lab::{Followed, Household, Node, SOON, wait_until};
use serde::Deserialize;

/// How long a super-peer's successor may take to start the service.
pub const START: Duration = Duration::from_secs(60);
const SCRIPT: &str = include_str!("keeper.py");
const POLICY_FILE: &str = "/tmp/policy.toml";

/// One life of the service. Times are CLOCK_BOOTTIME's, in seconds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Life {
    /// Where.
    pub node: String,
    /// Its process.
    pub pid: i32,
    /// When it began.
    pub start: f64,
    /// When it was last alive.
    pub last: f64,
    /// What it found in its state,
    pub found: u64,
    /// and what it has counted to.
    pub count: u64,
    /// Whether its database was whole.
    pub sound: bool,
}

/// The service and what it writes down.
pub struct Keeper {
    shared: PathBuf,
}

impl Keeper {
    /// Has the policy name it, with these lines besides.
    pub fn follow(household: &Household, nodes: usize, more: &str) -> anyhow::Result<Self> {
        let shared = household.folder().join("keeper");
        std::fs::create_dir(&shared)?;
        std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777))?;
        std::fs::write(shared.join("keeper.py"), SCRIPT)?;
        for number in 0..nodes {
            // It is told where it is by a file that each node has of its own.
            let node = household.node(number);
            let script = format!(
                "exec /usr/bin/python3 {0}/keeper.py {0} /run/keeper/state {1}",
                shared.display(),
                node.name()
            );
            let write =
                format!("printf '#!/bin/sh\\n{script}\\n' > /run/keep; chmod 755 /run/keep");
            node.enter(&["sh", "-c", &write])?;
        }
        let policy = format!(
            "[[follow]]\nname = \"keeper\"\ncommand = [\"/run/keep\"]\nuser = \"ada\"\n\
             state = \"/run/keeper/state\"\nsave = \"1s\"\nstop = \"5s\"\n{more}"
        );
        decree(household, &policy)?;
        Ok(Self { shared })
    }

    /// Where all machines of the test write.
    pub fn shared(&self) -> &Path {
        &self.shared
    }

    /// All lives so far, in the order of their beginnings.
    pub fn lives(&self) -> anyhow::Result<Vec<Life>> {
        let mut lives = Vec::new();
        for entry in std::fs::read_dir(self.shared())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("life-") && !name.ends_with(".new") {
                lives.push(serde_json::from_slice::<Life>(&std::fs::read(entry.path())?)?);
            }
        }
        lives.sort_by(|a, b| a.start.total_cmp(&b.start));
        Ok(lives)
    }

    /// The life that is going on, once there have been so many before.
    pub fn wait_for_life(&self, number: usize) -> anyhow::Result<Life> {
        wait_until(&format!("life {number} of the service"), START, || {
            Ok(self.lives()?.get(number).is_some_and(|life| life.count > life.found))
        })?;
        self.lives()?.get(number).cloned().context("it is gone again")
    }

    /// Waits until the group has a state that was saved after now.
    pub fn wait_saved(&self, household: &Household, super_peer: usize) -> anyhow::Result<()> {
        let saved = |state: serde_json::Value| state["follows"][0]["saved_unix_s"].as_u64();
        let state = || household.node(super_peer).phantom_json(true, &["subgrid"]);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        wait_until("a saved state", SOON, || Ok(saved(state()?).is_some_and(|at| at > now)))
    }

    /// That no two were there at a time, no child outlived its parent's successor's beginning, and
    /// every database was whole; gives the lives.
    pub fn check(&self) -> anyhow::Result<Vec<Life>> {
        let lives = self.lives()?;
        for pair in lives.windows(2) {
            ensure!(pair[0].last < pair[1].start, "two at a time: {pair:#?}");
        }
        for life in &lives {
            ensure!(life.sound, "a state that was torn: {life:?}");
        }
        for entry in std::fs::read_dir(self.shared())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(start) = name.strip_prefix("child-") else { continue };
            let start: f64 = start.parse()?;
            let last: f64 = std::fs::read_to_string(entry.path())?.parse().unwrap_or(start);
            // Names have microseconds.
            let next = lives.iter().find(|life| life.start > start + 0.001);
            ensure!(next.is_none_or(|next| last < next.start), "a child lived on: {last} {next:?}");
        }
        Ok(lives)
    }
}

/// Signs a policy where the sub-grid was founded.
pub fn decree(household: &Household, policy: &str) -> anyhow::Result<()> {
    let script = format!("cat > {POLICY_FILE} <<'END'\n{policy}\nEND");
    household.node(0).enter(&["sh", "-c", &script])?;
    let signed = household.node(0).phantom(false, &["policy", "edit", "--file", POLICY_FILE])?;
    ensure!(signed.code == 0, "{signed:?}");
    Ok(())
}

/// How the one service stands, as a node tells.
pub fn followed(household: &Household, number: usize) -> anyhow::Result<Followed> {
    household.state(number)?.follows.first().cloned().context("no service is followed")
}
