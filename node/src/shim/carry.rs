//! What travels with a move besides the image, and how the capsule's terms become the
//! checkpoint's. Pure.

use anyhow::{Context, ensure};
use phantom_capsule::plan::{CapsulePlan, ExternalKind, MountKind, RootStep};
use phantom_capsule::relay::RelayState;
use phantom_capsule::terminal::TerminalState;
use phantom_capsule::{Capsule, ids};
use phantom_checkpoint::image::check::{self, AllowedMount};
use phantom_checkpoint::image::users;
use phantom_checkpoint::plan::{self as checkpoint, External, TerminalKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// More tasks than this are not taken along.
const MAX_TASKS: usize = 32_768;
/// Longer descriptions from another node are refused.
const MAX_BYTES: usize = 8 << 20;

/// The capsule as its home made it: what a target is told before anything stops.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Blueprint {
    /// How it was planned.
    pub plan: CapsulePlan,
    /// How it was made.
    pub capsule: Capsule,
}

/// What the source saved besides the image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Luggage {
    /// The capsule as it was at the source.
    pub capsule: Capsule,
    /// What waited in its terminal.
    pub terminal: TerminalState,
    /// Where the relay stood, when the source was not the home.
    pub relay: Option<RelayState>,
    /// Name of the source's link, if the home gave the app a network.
    pub network: bool,
}

/// Packs a description for another node.
pub fn pack<T: Serialize>(value: &T) -> anyhow::Result<Vec<u8>> {
    Ok(postcard::to_stdvec(value)?)
}

/// Reads a description from another node.
pub fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> anyhow::Result<T> {
    ensure!(bytes.len() <= MAX_BYTES, "the description of the capsule is too long");
    postcard::from_bytes(bytes).context("the description of the capsule cannot be read")
}

/// The external mounts of a capsule.
pub fn externals(capsule: &Capsule) -> Vec<External> {
    let kind = |kind: &ExternalKind| match kind {
        ExternalKind::Console => checkpoint::ExternalKind::Console,
        ExternalKind::Device { .. } => checkpoint::ExternalKind::Device,
        ExternalKind::UserFiles => checkpoint::ExternalKind::Writable,
        ExternalKind::SystemFiles => checkpoint::ExternalKind::ReadOnly,
    };
    capsule
        .externals
        .iter()
        .map(|external| External {
            inside: external.inside.to_path(),
            key: external.key.clone(),
            kind: kind(&external.kind),
        })
        .collect()
}

/// The terminal as an image names it.
pub fn terminal_key(capsule: &Capsule) -> TerminalKey {
    TerminalKey { rdev: capsule.tty.rdev, dev: capsule.tty.dev }
}

/// Id maps in the terms of images.
pub fn id_maps(maps: &ids::IdMaps) -> users::IdMaps {
    let extents = |list: &[ids::IdExtent]| {
        list.iter()
            .map(|e| users::IdExtent { inside: e.inside, outside: e.outside, count: e.count })
            .collect()
    };
    users::IdMaps { uids: extents(&maps.uids), gids: extents(&maps.gids) }
}

/// What an image of this capsule may hold.
pub fn allowed(blueprint: &Blueprint, source: &Capsule) -> anyhow::Result<check::Allowed> {
    let plan = &blueprint.plan;
    Ok(check::Allowed {
        uid: plan.uid,
        gid: plan.gid,
        groups: plan.groups.clone(),
        source_maps: id_maps(&source.ids),
        mounts: allowed_mounts(blueprint)?,
        terminal: Some(terminal_key(source)),
        own_network: true,
        filtered: true,
        max_tasks: MAX_TASKS,
    })
}

fn allowed_mounts(blueprint: &Blueprint) -> anyhow::Result<Vec<AllowedMount>> {
    let capsule = &blueprint.capsule;
    let mut mounts = Vec::new();
    for step in &blueprint.plan.steps {
        let RootStep::Mount { inside, kind } = step else { continue };
        let external = capsule.externals.iter().find(|external| external.inside == *inside);
        let is_root = mounts.is_empty();
        let (kind, read_only, devices) = match kind {
            MountKind::Bind { read_only, .. } if is_root => {
                (check::MountKind::Root, *read_only, false)
            }
            MountKind::Bind { read_only, devices, .. } => match external {
                Some(external) => {
                    (check::MountKind::External { key: external.key.clone() }, *read_only, *devices)
                }
                // It could not be mounted at home, so it is not in the capsule.
                None => continue,
            },
            MountKind::Console => {
                let key = external.context("the capsule has no console")?.key.clone();
                (check::MountKind::External { key }, false, true)
            }
            MountKind::Tmpfs { .. } => (check::MountKind::Tmpfs, false, false),
            MountKind::Proc => (check::MountKind::Proc, false, false),
            MountKind::Sysfs => (check::MountKind::Sysfs, true, false),
            MountKind::Devpts => (check::MountKind::Devpts, false, true),
        };
        mounts.push(AllowedMount { inside: inside.to_path(), kind, read_only, devices });
    }
    Ok(mounts)
}

/// What a target is told of an app before anything stops.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Briefing {
    /// The packed [`Blueprint`].
    pub blueprint: Vec<u8>,
    /// Files to fetch ahead, as the app sees them.
    pub files: Vec<phantom_model::app::OsText>,
    /// Facts of the node it was started on.
    pub started_on: phantom_model::NodeFacts,
}
