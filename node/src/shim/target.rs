//! The target's end of a move: make ready, check, rebuild, hold; then run or forget.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use phantom_capsule::Capsule;
use phantom_capsule::attach::hub::Arrival;
use phantom_capsule::ids::IdMaps;
use phantom_capsule::os::pty::{self, PtyPair};
use phantom_capsule::os::spawn::{Namespaces, start_time};
use phantom_capsule::os::stage::{self, HomeStage, RestorePaths};
use phantom_capsule::plan::ExternalKind;
use phantom_capsule::relay::endpoint::Endpoint;
use phantom_capsule::terminal;
use phantom_checkpoint::Cancel;
use phantom_checkpoint::image::{check, users};
use phantom_checkpoint::plan::{Provided, RestorePlan};
use phantom_checkpoint::restore::{self, restore};
use phantom_fs::cache::Cache;
use phantom_fs::client::{Client, ClientConfig};
use phantom_fs::fuse::Mount;
use phantom_model::app::OsText;
use phantom_model::{Epoch, MoveId};

use super::carry::{self, Blueprint, Luggage};
use super::control::{Held, Running};
use super::files::{FUSE_THREADS, ServedHere, owners};
use super::here::Here;
use super::{Pending, SharedShim, Shim, State, serve, warm};
use crate::daemon::apps::now_unix_us;

/// How long rebuilding may take.
const RESTORE_LIMIT: Duration = Duration::from_secs(600);

/// A rebuilt capsule that has not run yet.
pub struct Rebuilt {
    /// Which move brought it.
    pub id: MoveId,
    held: restore::Held,
    here: Here,
    luggage: Luggage,
    typed: Vec<u8>,
    timings: Held,
}

impl Shim {
    /// Makes ready: a guest's tree is mounted, and what the app has mapped is fetched.
    pub async fn prepare(
        &self,
        id: MoveId,
        epoch: Epoch,
        files: Vec<OsText>,
    ) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        match &state.pending {
            Some(pending) if pending.id() == id => return Ok(()),
            Some(other) => bail!("another move ({}) has begun", other.id()),
            None => ensure!(state.here.is_none(), "the app is here already"),
        }
        if let Some(way) = &self.way_home {
            way.set_epoch(epoch);
            let blueprint = state.blueprint.as_ref().context("the capsule is not known")?;
            let mount = self.mount_home(blueprint, epoch).await?;
            let client = Arc::clone(mount.client());
            let root = mount.path().to_owned();
            state.mount = Some(mount);
            let paths: Vec<Vec<u8>> = files.iter().map(|path| path.0.clone()).collect();
            let fetch = move || (client.prefetch(&paths), warm::read_ahead(&root, &files));
            let (fetched, read) = tokio::task::spawn_blocking(fetch).await?;
            match read {
                Ok(read_bytes) => tracing::info!(?fetched, read_bytes, "fetched ahead"),
                Err(error) => {
                    tracing::warn!(?fetched, error = %format!("{error:#}"), "not read ahead")
                }
            }
        }
        state.pending = Some(Pending::Prepared(id));
        Ok(())
    }

    async fn mount_home(&self, blueprint: &Blueprint, epoch: Epoch) -> anyhow::Result<Mount> {
        let way = self.way_home.clone().context("this is the app's home")?;
        let ids = blueprint.plan.ids.rebase(self.charge.id_base)?;
        let (app, root) = (self.charge.app, self.dir.root());
        let (cache_dir, cache_max) = (self.charge.cache_dir.clone(), self.charge.cache_max);
        tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&root)?;
            let cache = match Cache::open(&cache_dir, cache_max.0) {
                Ok(cache) => Some(Arc::new(cache)),
                Err(error) => {
                    tracing::warn!(%error, dir = %cache_dir.display(), "no cache: files are fetched each time");
                    None
                }
            };
            let transport = move |timeout| way.files(timeout);
            let client = Client::connect(transport, ClientConfig::new(app, epoch), cache)?;
            Ok(Mount::new(client, &root, owners(&ids), FUSE_THREADS)?)
        })
        .await?
    }

    /// Checks the image, rebuilds the app and holds it.
    pub async fn restore(&self, id: MoveId, luggage: &[u8]) -> anyhow::Result<Held> {
        let mut state = self.state.lock().await;
        match &state.pending {
            Some(Pending::Held(rebuilt)) if rebuilt.id == id => return Ok(rebuilt.timings.clone()),
            Some(Pending::Prepared(known)) if *known == id => {}
            _ => bail!("this node was not prepared for it"),
        }
        let luggage: Luggage = carry::unpack(luggage)?;
        let blueprint = state.blueprint.clone().context("the capsule is not known")?;
        let started = Instant::now();
        let images = self.dir.image(id);
        let allowed = carry::allowed(&blueprint, &luggage.capsule)?;
        let ids = blueprint.plan.ids.rebase(self.charge.id_base)?;
        let maps = carry::id_maps(&ids);
        let checked = {
            let images = images.clone();
            tokio::task::spawn_blocking(move || -> anyhow::Result<check::Checked> {
                let checked = check::check(&images, &allowed)?;
                users::rewrite(&images, checked.user_ns, &maps)?;
                Ok(checked)
            })
            .await??
        };
        tracing::info!(?checked, "the image holds what it may");
        let check = started.elapsed();
        let started = Instant::now();
        let rebuilt = self.rebuild(&mut state, id, luggage, ids).await?;
        let timings = Held { check, restore: started.elapsed() };
        // What CRIU has read is not needed any more, and it is as much memory again. Nobody waits
        // for it: the app stands still.
        drop(tokio::task::spawn_blocking(move || std::fs::remove_dir_all(&images)));
        state.pending =
            Some(Pending::Held(Box::new(Rebuilt { timings: timings.clone(), ..rebuilt })));
        Ok(timings)
    }

    async fn rebuild(
        &self,
        state: &mut State,
        id: MoveId,
        luggage: Luggage,
        ids: IdMaps,
    ) -> anyhow::Result<Rebuilt> {
        let source = &luggage.capsule;
        let paths = self.paths(state, source)?;
        let owner = |id: Option<u32>| id.context("the user's ids do not fit the capsule's range");
        let uid = owner(ids.uid_outside(source.uid))?;
        let gid = owner(ids.gid_outside(source.gid))?;
        let pair = pty::open_pair(uid, gid, luggage.terminal.size)?;
        let typed = terminal::refill(pair.master.as_fd(), &luggage.terminal)?;
        let cgroup = self.charge.make_cgroup()?;
        let plan = self.restore_plan(id, source, &paths, &pair, cgroup.path())?;
        let criu = self.criu()?;
        let held =
            tokio::task::spawn_blocking(move || restore(&criu, &plan, &Cancel::never())).await?;
        self.hide_read_only();
        let held = match held {
            Ok(held) => held,
            Err(error) => {
                let _ = cgroup.remove();
                return Err(error.into());
            }
        };
        let pid = held.root_pid() as i32;
        let capsule = Capsule {
            init_pid: pid,
            init_start: start_time(pid)?,
            ids,
            tty: pty::identity(pair.slave.as_fd())?,
            ..source.clone()
        };
        let here = Here {
            capsule,
            master: pair.master,
            _slave: pair.slave,
            pidfd: pidfd(pid)?,
            namespaces: Namespaces::of(pid)?,
            network: None,
            cgroup,
        };
        let timings = Held { check: Duration::ZERO, restore: Duration::ZERO };
        Ok(Rebuilt { id, held, here, luggage, typed, timings })
    }

    /// Host paths of what is outside the capsule: the home's own tree, or its image here.
    fn paths(&self, state: &mut State, source: &Capsule) -> anyhow::Result<RestorePaths> {
        if let Some(mount) = &state.mount {
            let mut paths = stage::away(&source.externals, mount.path());
            for (key, path) in &mut paths.externals {
                let external = source.externals.iter().find(|external| external.key == *key);
                if external.is_some_and(|external| external.kind == ExternalKind::SystemFiles) {
                    *path = self.read_only(key, path)?;
                }
            }
            return Ok(paths);
        }
        let blueprint = state.blueprint.as_ref().context("the capsule is not known")?;
        let at = self.dir.0.join("stage");
        std::fs::create_dir_all(&at)?;
        // The one of an attempt that was given up goes first.
        state.stage = None;
        let served = state.served.as_ref().map(ServedHere::root);
        let stage = HomeStage::new(&at, &blueprint.capsule, served)?;
        let paths = stage.paths().clone();
        state.stage = Some(stage);
        Ok(paths)
    }

    /// A read-only view of a path. It lies in the mount namespace of this process and goes with it.
    fn read_only(&self, key: &str, path: &Path) -> anyhow::Result<PathBuf> {
        let folder = self.dir.0.join("read-only");
        std::fs::create_dir_all(&folder)?;
        let at = folder.join(key);
        if path.is_dir() {
            std::fs::create_dir_all(&at)?;
        } else {
            std::fs::write(&at, b"")?;
        }
        let plain = None::<&str>;
        mount(Some(path), &at, plain, MsFlags::MS_BIND, plain)
            .with_context(|| format!("cannot show {} read-only", path.display()))?;
        let flags = MsFlags::MS_BIND
            | MsFlags::MS_REMOUNT
            | MsFlags::MS_RDONLY
            | MsFlags::MS_NOSUID
            | MsFlags::MS_NODEV;
        mount(plain, &at, plain, flags, plain)?;
        Ok(at)
    }

    /// Takes the read-only views away; a restored app has its own.
    pub(super) fn hide_read_only(&self) {
        let folder = self.dir.0.join("read-only");
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let _ = umount2(&entry.path(), MntFlags::MNT_DETACH);
        }
        let _ = std::fs::remove_dir_all(&folder);
    }

    fn restore_plan(
        &self,
        id: MoveId,
        source: &Capsule,
        paths: &RestorePaths,
        pair: &PtyPair,
        cgroup: &Path,
    ) -> anyhow::Result<RestorePlan> {
        let work = self.dir.0.join("work");
        std::fs::create_dir_all(&work)?;
        let console = source
            .externals
            .iter()
            .find(|external| external.kind == ExternalKind::Console)
            .context("the capsule has no console")?;
        let mut externals: Vec<Provided> = paths
            .externals
            .iter()
            .map(|(key, path)| Provided { key: key.clone(), path: path.clone() })
            .collect();
        externals.push(Provided { key: console.key.clone(), path: pair.slave_path.clone() });
        Ok(RestorePlan {
            images: self.dir.image(id),
            work,
            root: paths.root.clone(),
            cgroup: cgroup.to_owned(),
            externals,
            terminal: Some((carry::terminal_key(source), pair.slave.try_clone()?)),
            own_network: true,
            limit: RESTORE_LIMIT,
        })
    }

    /// Lets the rebuilt app run: the move is committed.
    pub async fn resume(self: &SharedShim, id: MoveId, epoch: Epoch) -> anyhow::Result<Running> {
        let mut state = self.state.lock().await;
        let rebuilt = match state.pending.take() {
            Some(Pending::Held(rebuilt)) if rebuilt.id == id => *rebuilt,
            other => {
                state.pending = other;
                ensure!(state.here.is_some() && state.epoch == Some(epoch), "nothing is held here");
                // Asked again: it runs already.
                return Ok(Running { resumed_unix_us: now_unix_us(), resume: Duration::ZERO });
            }
        };
        let started = Instant::now();
        let Rebuilt { held, mut here, luggage, typed, .. } = rebuilt;
        let resumed_unix_us = now_unix_us();
        held.resume()?;
        let resume = started.elapsed();
        let master = here.master.try_clone()?;
        match (&self.hub, &self.way_home) {
            (Some(hub), _) => {
                if self.charge.network {
                    here.attach_network(self.charge.app, None, &self.charge.network_lock);
                }
                let output = luggage.terminal.output;
                hub.here(master, Arrival { output, typed, relay: luggage.relay }).await;
            }
            (None, Some(way)) => {
                let way = way.clone();
                let connect = Box::new(move || Box::pin(way.clone().terminal()) as _);
                let relay = luggage.relay.unwrap_or_default();
                let endpoint = Endpoint::start(master, relay, connect)?;
                endpoint.release(luggage.terminal.output, typed).await;
                state.endpoint = Some(endpoint);
            }
            (None, None) => bail!("this shim has no terminal"),
        }
        serve::watch_end(self, &here)?;
        state.here = Some(here);
        state.epoch = Some(epoch);
        state.arrived = Some(id);
        Ok(Running { resumed_unix_us, resume })
    }

    /// Gives the move up and leaves nothing of it. A guest's shim has nothing left to do then.
    pub async fn abort(&self, id: MoveId) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        match state.pending.take() {
            Some(Pending::Held(rebuilt)) if rebuilt.id == id => {
                let Rebuilt { held, here, .. } = *rebuilt;
                let lock = self.charge.network_lock.clone();
                tokio::task::spawn_blocking(move || {
                    held.discard();
                    here.clear_away(&lock);
                })
                .await?;
            }
            Some(Pending::Prepared(known)) if known == id => {}
            other => {
                state.pending = other;
                return Ok(());
            }
        }
        let _ = std::fs::remove_dir_all(self.dir.image(id));
        state.stage = None;
        if !self.is_home() {
            state.mount = None;
            self.finish.send_replace(true);
        }
        Ok(())
    }
}

fn pidfd(pid: i32) -> anyhow::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).context("no such process")?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}
