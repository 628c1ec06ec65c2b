//! The source's end of a move: stop, take the terminal's bytes, write the image; then let go, in
//! one direction or the other.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use phantom_capsule::attach::hub::Arrival;
use phantom_capsule::net::Network;
use phantom_capsule::terminal::{self, TerminalState};
use phantom_checkpoint::Cancel;
use phantom_checkpoint::dump::dump;
use phantom_checkpoint::plan::DumpPlan;
use phantom_model::{Epoch, MoveId};

use super::carry::{self, Luggage};
use super::control::Saved;
use super::files::FileServer;
use super::here::FREEZE_DEADLINE;
use super::{Pending, Shim, State, mapped};
use crate::daemon::apps::now_unix_us;

/// How long writing an image may take.
const DUMP_LIMIT: Duration = Duration::from_secs(600);
/// Largest unlinked file that is taken along.
pub const GHOST_LIMIT_BYTES: u32 = 64 << 20;

/// A capsule that stands still.
pub struct Frozen {
    /// Which move froze it.
    pub id: MoveId,
    terminal: Option<TerminalState>,
    network: Option<Network>,
    saved: Option<Saved>,
}

impl Shim {
    /// Starts to serve the files of the app, which is about to leave, and holds what it has mapped.
    pub async fn open_files(&self) -> anyhow::Result<Vec<u8>> {
        let mut state = self.state.lock().await;
        let State { here, files, blueprint, .. } = &mut *state;
        let blueprint = blueprint.as_ref().context("the capsule is not known")?;
        if let Some(here) = here {
            let server = match files {
                Some(server) => server,
                None => files.insert(FileServer::of_app(
                    self.charge.app,
                    &here.capsule,
                    &here.namespaces,
                )?),
            };
            for (path, file) in mapped::files(&here.cgroup.processes()?) {
                if let Err(error) = server.pin(&path, &file) {
                    tracing::debug!(%path, error = format!("{error:#}"), "not held for the move");
                }
            }
        }
        carry::pack(blueprint)
    }

    /// Stops serving files: the app is back.
    pub async fn close_files(&self) {
        self.state.lock().await.files = None;
    }

    /// Which files the app has mapped or open.
    pub async fn mapped_files(&self) -> anyhow::Result<Vec<phantom_model::app::OsText>> {
        let state = self.state.lock().await;
        let here = state.here.as_ref().context("the app is not here")?;
        Ok(mapped::files(&here.cgroup.processes()?).into_keys().collect())
    }

    /// Stops the capsule and saves it. Asked again for the same move it gives the same answer.
    pub async fn save(&self, id: MoveId) -> anyhow::Result<Saved> {
        let mut state = self.state.lock().await;
        match &state.pending {
            Some(Pending::Saved(frozen)) if frozen.id == id => {
                return frozen.saved.clone().context("it could not be saved");
            }
            Some(other) => bail!("another move ({}) has begun", other.id()),
            None => {}
        }
        ensure!(state.here.is_some(), "the app is not here");
        // Slow, so not while the app stands still.
        let network = state.here.as_mut().and_then(|h| h.detach_network(&self.charge.network_lock));
        let started = Instant::now();
        let frozen_unix_us = now_unix_us();
        let (luggage, frozen) = self.freeze(&mut state, id, network).await?;
        let freeze = started.elapsed();
        state.pending = Some(Pending::Saved(Box::new(frozen)));
        let started = Instant::now();
        self.dump(&mut state, id).await?;
        let luggage = carry::pack(&luggage)?;
        let saved = Saved { luggage, frozen_unix_us, freeze, dump: started.elapsed() };
        if let Some(Pending::Saved(frozen)) = &mut state.pending {
            frozen.saved = Some(saved.clone());
        }
        Ok(saved)
    }

    async fn freeze(
        &self,
        state: &mut State,
        id: MoveId,
        network: Option<Network>,
    ) -> anyhow::Result<(Luggage, Frozen)> {
        let (relay, typed) = match (&self.hub, &state.endpoint) {
            (Some(hub), _) => {
                hub.hold().await;
                (None, Vec::new())
            }
            (None, Some(endpoint)) => {
                let held = endpoint.hold().await.context("the app's terminal is gone")?;
                (Some(held.relay), held.typed)
            }
            (None, None) => bail!("the app's terminal is not here"),
        };
        let here = state.here.as_mut().context("the app is not here")?;
        let frozen = here.cgroup.freeze(FREEZE_DEADLINE);
        let drained = frozen.and_then(|()| terminal::drain(here.master.as_fd()));
        let mut terminal = match drained {
            Ok(terminal) => TerminalState { typed, ..terminal },
            Err(error) => {
                let _ = here.cgroup.thaw(FREEZE_DEADLINE);
                if let Some(network) = &network {
                    here.attach_network(self.charge.app, Some(network), &self.charge.network_lock);
                }
                self.serve_terminal(state, Vec::new(), typed).await?;
                return Err(error.into());
            }
        };
        let mut kept = terminal.clone();
        if let Some(hub) = &self.hub {
            // The home's user sees it at once; nobody else needs it.
            hub.print(std::mem::take(&mut terminal.output)).await;
            kept.output.clear();
        }
        let luggage =
            Luggage { capsule: here.capsule.clone(), terminal, relay, network: network.is_some() };
        Ok((luggage, Frozen { id, terminal: Some(kept), network, saved: None }))
    }

    async fn dump(&self, state: &mut State, id: MoveId) -> anyhow::Result<()> {
        let here = state.here.as_ref().context("the app is not here")?;
        let criu = self.criu()?;
        let work = self.dir.0.join("work");
        std::fs::create_dir_all(&work)?;
        let plan = DumpPlan {
            root_pid: here.capsule.init_pid.unsigned_abs(),
            cgroup: here.cgroup.path().to_owned(),
            images: self.dir.image(id),
            work,
            externals: carry::externals(&here.capsule),
            terminal: Some(carry::terminal_key(&here.capsule)),
            own_network: true,
            ghost_limit_bytes: GHOST_LIMIT_BYTES,
            limit: DUMP_LIMIT,
        };
        let cancel = Cancel::new()?;
        self.set_dumping(Some(cancel.clone()));
        let dumped = tokio::task::spawn_blocking(move || dump(&criu, &plan, &cancel)).await;
        self.set_dumping(None);
        dumped??;
        Ok(())
    }

    fn set_dumping(&self, cancel: Option<Cancel>) -> Option<Cancel> {
        let mut dumping = self.dumping.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        std::mem::replace(&mut dumping, cancel)
    }

    /// Breaks off a dump that is under way; the capsule stays frozen.
    pub(super) fn stop_dump(&self) {
        if let Some(cancel) = self.set_dumping(None) {
            cancel.cancel();
        }
    }

    /// Lets a frozen capsule go on here, as if nothing had been.
    pub async fn thaw(&self, epoch: Epoch) -> anyhow::Result<()> {
        self.stop_dump();
        let mut state = self.state.lock().await;
        let frozen = match state.pending.take() {
            Some(Pending::Saved(frozen)) => frozen,
            other => {
                // Nothing of this move is frozen here: then the app runs.
                state.pending = other;
                ensure!(state.here.is_some(), "the app is not here");
                self.grant(&mut state, epoch);
                return Ok(());
            }
        };
        self.grant(&mut state, epoch);
        let here = state.here.as_mut().context("the app is not here")?;
        let mut typed = Vec::new();
        let mut output = Vec::new();
        if let Some(mut terminal) = frozen.terminal {
            output = std::mem::take(&mut terminal.output);
            typed = terminal::refill(here.master.as_fd(), &terminal)?;
        }
        if let Some(network) = &frozen.network {
            here.attach_network(self.charge.app, Some(network), &self.charge.network_lock);
        }
        here.cgroup.thaw(FREEZE_DEADLINE)?;
        self.serve_terminal(&mut state, output, typed).await?;
        let _ = std::fs::remove_dir_all(self.dir.image(frozen.id));
        Ok(())
    }

    /// The copy here has this epoch from now on.
    fn grant(&self, state: &mut State, epoch: Epoch) {
        state.epoch = Some(epoch);
        if let Some(way) = &self.way_home {
            way.set_epoch(epoch);
        }
        if let Some(mount) = &state.mount {
            mount.client().set_epoch(epoch);
        }
    }

    /// Lets the terminal's keeper at it again.
    async fn serve_terminal(
        &self,
        state: &mut State,
        output: Vec<u8>,
        typed: Vec<u8>,
    ) -> anyhow::Result<()> {
        match (&self.hub, &state.endpoint, &state.here) {
            (Some(hub), _, Some(here)) => {
                // The hub may have turned to a copy elsewhere; that one is nothing any more.
                hub.here(here.master.try_clone()?, Arrival { output, typed, relay: None }).await;
            }
            (None, Some(endpoint), _) => endpoint.release(output, typed).await,
            _ => {}
        }
        Ok(())
    }

    /// Drops the frozen copy: the app runs elsewhere. A guest's shim has nothing left to do then.
    pub async fn release(&self) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        let id = match &state.pending {
            Some(Pending::Saved(frozen)) => frozen.id,
            _ => return Ok(()),
        };
        state.pending = None;
        state.epoch = None;
        let here = state.here.take();
        state.endpoint = None;
        let lock = self.charge.network_lock.clone();
        if let Some(here) = here {
            tokio::task::spawn_blocking(move || here.clear_away(&lock)).await?;
        }
        if let Some(stage) = state.stage.take() {
            stage.remove()?;
        }
        if let Some(files) = &state.files {
            files.unpin_all()?;
        }
        let _ = std::fs::remove_dir_all(self.dir.image(id));
        if !self.is_home() {
            self.finish.send_replace(true);
        }
        Ok(())
    }
}
