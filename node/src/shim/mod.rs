//! `phantom shim`: one process for each app on each node that has to do with it. It holds the
//! app's terminal, is the parent of its capsule, saves and restores it, and lives on when the
//! daemon dies or is replaced.
//!
//! ```text
//!  at home:   starts the capsule ─ here ──save──▶ frozen ──release──▶ away ──restore──▶ here …
//!                                    ◀──thaw──                (serves files, keeps the terminal)
//!  a guest:   prepare ──restore──▶ held ──resume──▶ here ──save──▶ frozen ──release──▶ ends
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | [`control`] | what the daemon asks, and how |
//! | [`here`] | the capsule while its processes are on this node |
//! | [`source`], [`target`] | the two ends of a move |
//! | [`warm`] | what is read before the app arrives |
//! | [`files`], [`mapped`] | the home's files while the app is away; and at home where they must be served |
//! | [`way_home`] | a guest's streams to its home |
//! | [`carry`] | what travels besides the image |

pub mod carry;
pub mod control;
pub mod files;
mod here;
mod mapped;
mod serve;
mod source;
mod target;
pub mod warm;
pub mod way_home;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use phantom_capsule::attach::hub::Hub;
use phantom_capsule::os::host;
use phantom_capsule::os::stage::{self, HomeStage};
use phantom_capsule::plan;
use phantom_capsule::relay::endpoint::Endpoint;
use phantom_checkpoint::{Cancel, Criu};
use phantom_fs::fuse::Mount;
use phantom_model::{Epoch, MoveId};
use tokio::sync::{Mutex, watch};

use crate::config::AppDir;
use carry::Blueprint;
use control::{Charge, Role};
use files::{FileServer, ServedHere};
use here::Here;
use way_home::WayHome;

/// One shim.
pub struct Shim {
    charge: Charge,
    dir: AppDir,
    /// The user's terminals, at home.
    hub: Option<Hub>,
    /// The way to the home, for a guest.
    way_home: Option<WayHome>,
    state: Mutex<State>,
    /// Ends a dump that is under way.
    dumping: std::sync::Mutex<Option<Cancel>>,
    /// The app's exit code once it has ended.
    ended: watch::Sender<Option<i32>>,
    finish: watch::Sender<bool>,
}

/// What changes in a shim's life; one operation at a time works on it.
#[derive(Default)]
struct State {
    /// The capsule, while its processes are here.
    here: Option<Here>,
    /// A move that has begun and not ended here.
    pending: Option<Pending>,
    /// How the home made the capsule.
    blueprint: Option<Blueprint>,
    /// At home, while the app is away.
    files: Option<FileServer>,
    /// At home, where a file system cannot be shown with the capsule's ids.
    served: Option<ServedHere>,
    /// A guest's terminal.
    endpoint: Option<Endpoint>,
    /// The home's tree, shown to a guest.
    mount: Option<Mount>,
    /// The home's tree, mounted for a return.
    stage: Option<HomeStage>,
    /// The epoch of the copy here.
    epoch: Option<Epoch>,
    /// The move that brought it.
    arrived: Option<MoveId>,
}

/// How far a move has got here.
enum Pending {
    /// Source: frozen and saved.
    Saved(Box<source::Frozen>),
    /// Target: ready.
    Prepared(MoveId),
    /// Target: rebuilt and held.
    Held(Box<target::Rebuilt>),
}

impl Pending {
    fn id(&self) -> MoveId {
        match self {
            Pending::Saved(frozen) => frozen.id,
            Pending::Prepared(id) => *id,
            Pending::Held(rebuilt) => rebuilt.id,
        }
    }
}

/// Runs a shim until its app has ended or has gone elsewhere.
pub fn main(dir: &Path) -> anyhow::Result<()> {
    let dir = AppDir(dir.to_owned());
    let (charge, state, notes) = match start(&dir) {
        Ok(started) => started,
        Err(error) => {
            tell_daemon(&Err(format!("{error:#}")));
            return Err(error);
        }
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve::run(charge, dir, state, notes))
}

/// One line to the daemon that started this shim: its notes, or why there is no capsule.
fn tell_daemon(outcome: &Result<Vec<String>, String>) {
    let told = serde_json::to_string(outcome)
        .map_err(anyhow::Error::from)
        .and_then(|line| Ok(writeln!(std::io::stdout(), "{line}")?));
    if let Err(error) = told {
        tracing::warn!(%error, "the daemon does not listen");
    }
}

/// Everything before the runtime, while there is one thread.
fn start(dir: &AppDir) -> anyhow::Result<(Charge, State, Vec<String>)> {
    let charge: Charge = serde_json::from_slice(&std::fs::read(dir.spec())?)
        .with_context(|| format!("{} cannot be read", dir.spec().display()))?;
    nix::sys::prctl::set_child_subreaper(true).context("cannot adopt the app's processes")?;
    stage::private_mount_namespace()?;
    let mut state = State::default();
    let mut notes = Vec::new();
    match &charge.role {
        Role::Home => {
            let plan = plan::plan(&charge.spec, &host::read(&charge.spec)?, charge.id_base)?;
            if plan.is_served() {
                state.served = Some(ServedHere::start(&charge, &plan.ids, &dir.root())?);
            }
            let served = state.served.as_ref().map(ServedHere::root);
            let (here, blueprint) = Here::start(&charge, plan, served)?;
            notes = here.capsule.notes.clone();
            state.epoch = Some(Epoch::FIRST);
            state.here = Some(here);
            state.blueprint = Some(blueprint);
        }
        Role::Guest(guest) => state.blueprint = Some(carry::unpack(&guest.blueprint)?),
    }
    Ok((charge, state, notes))
}

impl Shim {
    fn criu(&self) -> anyhow::Result<Criu> {
        let program = self.charge.criu.as_ref();
        Ok(Criu::at(program.context("this node has no CRIU; `phantom doctor` says how to get it")?))
    }

    fn is_home(&self) -> bool {
        matches!(self.charge.role, Role::Home)
    }
}

/// A shim that several tasks share.
type SharedShim = Arc<Shim>;
