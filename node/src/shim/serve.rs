//! A shim's sockets and the life of its app.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use phantom_capsule::attach::hub::{Arrival, Hub, HubEvent};
use phantom_capsule::os::reactor;
use phantom_checkpoint::inspect::{InspectOptions, inspect};
use phantom_model::{Bytes, Epoch};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc, watch};

use super::carry;
use super::control::{Charge, Event, Reply, Request, Role, Survey};
use super::here::Here;
use super::source::GHOST_LIMIT_BYTES;
use super::way_home::WayHome;
use super::{SharedShim, Shim, State};
use crate::config::AppDir;
use crate::frames;

/// How long a connection may take to say what it wants.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// How long a daemon that is there may take to hear of the app's end, before the terminals do.
const HEARD: Duration = Duration::from_secs(1);

/// Serves until the app has ended and everybody who must know it does, or it has gone elsewhere.
pub async fn run(
    charge: Charge,
    dir: AppDir,
    mut state: State,
    notes: Vec<String>,
) -> anyhow::Result<()> {
    let (hub, hub_events) = match charge.role {
        Role::Home => {
            let (hub, events) = Hub::start(charge.spec.term_size);
            (Some(hub), Some(events))
        }
        Role::Guest(_) => (None, None),
    };
    let way_home = match &charge.role {
        Role::Home => None,
        Role::Guest(guest) => Some(WayHome::new(charge.switch.clone(), charge.app, guest.epoch)),
    };
    let here = state.here.take();
    let shim = Arc::new(Shim {
        dir,
        hub,
        way_home,
        state: Mutex::new(state),
        dumping: std::sync::Mutex::default(),
        ended: watch::Sender::new(None),
        finish: watch::Sender::new(false),
        charge,
    });
    if let (Some(here), Some(hub)) = (here, &shim.hub) {
        hub.here(here.master.try_clone()?, Arrival::default()).await;
        watch_end(&shim, &here)?;
        shim.state.lock().await.here = Some(here);
    }
    if let Some(events) = hub_events {
        tokio::spawn(follow_hub(shim.clone(), events));
        listen(&shim, &shim.dir.attach(), attach)?;
        listen(&shim, &shim.dir.terminal(), terminal)?;
        listen(&shim, &shim.dir.files(), files)?;
        let user = &shim.charge.spec.user;
        nix::unistd::chown(&shim.dir.attach(), Some(user.uid.into()), None)?;
    }
    listen(&shim, &shim.dir.control(), control)?;
    super::tell_daemon(&Ok(notes));
    live(&shim).await;
    clear_away(&shim).await;
    Ok(())
}

/// Returns when the daemon has let the shim go. The terminals have the app's exit code by then, but
/// not before the daemon knows it: whoever sees a program end finds its name free.
async fn live(shim: &SharedShim) {
    let mut finish = shim.finish.subscribe();
    let ended = tokio::select! {
        _ = finish.wait_for(|finish| *finish) => *shim.ended.borrow(),
        code = shim.end() => code,
    };
    if shim.ended.receiver_count() > 0 {
        let _ = tokio::time::timeout(HEARD, finish.wait_for(|finish| *finish)).await;
    }
    if let (Some(code), Some(hub)) = (ended, &shim.hub) {
        hub.ended(code).await;
    }
    let _ = finish.wait_for(|finish| *finish).await;
}

/// Leaves nothing of the app on this node.
async fn clear_away(shim: &SharedShim) {
    let mut state = shim.state.lock().await;
    let state = std::mem::take(&mut *state);
    let lock = shim.charge.network_lock.clone();
    let _ = tokio::task::spawn_blocking(move || {
        drop((state.pending, state.endpoint, state.files));
        if let Some(here) = state.here {
            here.clear_away(&lock);
        }
        drop((state.mount, state.stage, state.served));
    })
    .await;
    if !shim.is_home()
        && let Err(error) = std::fs::remove_dir_all(&shim.dir.0)
    {
        tracing::warn!(%error, dir = %shim.dir.0.display(), "the app's folder could not be removed");
    }
}

/// Accepts connections and handles each in a task of its own.
fn listen<F>(
    shim: &SharedShim,
    path: &Path,
    handle: fn(SharedShim, UnixStream) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let _ = std::fs::remove_file(path);
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let shim = shim.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let work = handle(shim.clone(), stream);
            tokio::spawn(async move {
                if let Err(error) = work.await {
                    tracing::debug!(error = format!("{error:#}"), "a connection ended");
                }
            });
        }
    });
    Ok(())
}

/// A terminal of the app's user.
async fn attach(shim: SharedShim, stream: UnixStream) -> anyhow::Result<()> {
    let uid = stream.peer_cred()?.uid();
    anyhow::ensure!(uid == 0 || uid == shim.charge.spec.user.uid, "user {uid} may not attach");
    if let Some(hub) = &shim.hub {
        hub.attach(stream).await;
    }
    Ok(())
}

/// The daemon brings the terminal stream of the copy that runs elsewhere.
async fn terminal(shim: SharedShim, mut stream: UnixStream) -> anyhow::Result<()> {
    let hello = tokio::time::timeout(HELLO_DEADLINE, frames::read::<Epoch>(&mut stream));
    let epoch = hello.await??.context("no epoch was given")?;
    if let Some(hub) = &shim.hub {
        hub.stream(stream, epoch).await;
    }
    Ok(())
}

/// The daemon brings a file stream of the copy that runs elsewhere.
async fn files(shim: SharedShim, stream: UnixStream) -> anyhow::Result<()> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let state = shim.state.lock().await;
    state.files.as_ref().context("the app's files are not served")?.serve(&stream)
}

/// A question of the daemon.
async fn control(shim: SharedShim, mut stream: UnixStream) -> anyhow::Result<()> {
    anyhow::ensure!(stream.peer_cred()?.uid() == 0, "only the daemon may ask");
    let request = tokio::time::timeout(HELLO_DEADLINE, frames::read::<Request>(&mut stream));
    let request = request.await??.context("nothing was asked")?;
    if matches!(request, Request::Watch) {
        return tell_events(shim, stream).await;
    }
    // In a task of its own: what was begun is ended even if the daemon goes away meanwhile.
    let answer = tokio::spawn(async move { answer(&shim, request).await }).await;
    let reply: Result<Reply, String> = match answer {
        Ok(answer) => answer.map_err(|error| format!("{error:#}")),
        Err(error) => Err(error.to_string()),
    };
    frames::write(&mut stream, &reply).await?;
    Ok(())
}

async fn answer(shim: &SharedShim, request: Request) -> anyhow::Result<Reply> {
    match request {
        Request::Watch => {}
        Request::Survey => return Ok(Reply::Survey(shim.survey().await)),
        Request::MappedFiles => return Ok(Reply::Files(shim.mapped_files().await?)),
        Request::Tell(line) => {
            if let Some(hub) = &shim.hub {
                hub.tell(line).await;
            }
        }
        Request::Signal(number) => {
            let state = shim.state.lock().await;
            state.here.as_ref().context("the app is not here")?.signal(number)?;
        }
        Request::OpenFiles => return Ok(Reply::Opened(shim.open_files().await?)),
        Request::CloseFiles => shim.close_files().await,
        Request::Save { id } => return Ok(Reply::Saved(Box::new(shim.save(id).await?))),
        Request::Thaw { epoch } => shim.thaw(epoch).await?,
        Request::Release => shim.release().await?,
        Request::Prepare { id, epoch, files } => shim.prepare(id, epoch, files).await?,
        Request::Restore { id, luggage } => {
            return Ok(Reply::Held(shim.restore(id, &luggage).await?));
        }
        Request::Resume { id, epoch } => {
            return Ok(Reply::Running(shim.resume(id, epoch).await?));
        }
        Request::Abort { id } => shim.abort(id).await?,
        Request::Follow { epoch } => shim.follow(epoch).await,
        Request::FenceFiles { epoch } => shim.fence_files(epoch).await?,
        Request::Finish => {
            shim.finish.send_replace(true);
        }
    }
    Ok(Reply::Done)
}

impl Shim {
    /// Waits for the app's end; gives its exit code.
    async fn end(&self) -> Option<i32> {
        let code = self.ended.subscribe().wait_for(Option::is_some).await.map(|code| *code);
        code.ok().flatten()
    }

    /// At home: the app runs elsewhere with this epoch.
    async fn follow(&self, epoch: Epoch) {
        if let Some(hub) = &self.hub {
            hub.away(epoch).await;
        }
    }

    /// Ends what older copies had open at the file server. Not before the source's copy is gone:
    /// should the move be taken back, that copy needs its files as it left them. Until then the
    /// daemon keeps its streams out.
    async fn fence_files(&self, epoch: Epoch) -> anyhow::Result<()> {
        let state = self.state.lock().await;
        match &state.files {
            Some(files) => files.fence(epoch),
            None => Ok(()),
        }
    }

    async fn survey(&self) -> Survey {
        let state = self.state.lock().await;
        let Some(here) = &state.here else {
            return Survey::default();
        };
        let mut survey =
            Survey { here: true, notes: here.capsule.notes.clone(), ..Survey::default() };
        if let Err(error) = self.criu() {
            survey.obstacles.push(format!("{error:#}"));
        }
        let options = InspectOptions {
            terminal: Some(carry::terminal_key(&here.capsule)),
            ghost_limit_bytes: GHOST_LIMIT_BYTES,
        };
        match inspect(here.capsule.init_pid.unsigned_abs(), &options) {
            Ok(found) => {
                survey.resident = Bytes(found.resident_bytes);
                survey.obstacles.extend(found.obstacles.iter().map(ToString::to_string));
            }
            Err(error) => survey.obstacles.push(error.to_string()),
        }
        survey
    }
}

/// Sends events to the daemon: how things stand, and the app's end.
async fn tell_events(shim: SharedShim, mut stream: UnixStream) -> anyhow::Result<()> {
    // A daemon that watches now is a new one: the image went with the old one's connection.
    shim.stop_dump();
    let standing = {
        let state = shim.state.lock().await;
        Event::Standing {
            running: state.here.is_some() && state.pending.is_none(),
            epoch: state.epoch,
            frozen: match &state.pending {
                Some(super::Pending::Saved(frozen)) => Some(frozen.id),
                _ => None,
            },
            arrived: state.arrived,
        }
    };
    frames::write(&mut stream, &standing).await?;
    let mut probe = [0];
    let code = tokio::select! {
        code = shim.end() => code,
        // Readable means that the daemon has gone.
        _ = tokio::io::AsyncReadExt::read(&mut stream, &mut probe) => return Ok(()),
    };
    if let Some(code) = code {
        frames::write(&mut stream, &Event::Ended { code }).await?;
    }
    Ok(())
}

async fn follow_hub(shim: SharedShim, mut events: mpsc::Receiver<HubEvent>) {
    while let Some(HubEvent::EndedAway(code)) = events.recv().await {
        shim.ended.send_replace(Some(code));
    }
}

/// Watches for the end of the capsule's init.
pub fn watch_end(shim: &SharedShim, here: &Here) -> anyhow::Result<()> {
    let pidfd = reactor::register(here.pidfd.as_fd().try_clone_to_owned()?)?;
    let init = here.capsule.init_pid;
    let shim = shim.clone();
    tokio::spawn(async move {
        let _ = pidfd.readable().await;
        let mut state = shim.state.lock().await;
        // A copy that was dropped after a move is nobody's end.
        let Some(here) = state.here.take_if(|here| here.capsule.init_pid == init) else { return };
        let code = here.exit_code();
        state.pending = None;
        let endpoint = state.endpoint.take();
        drop(state);
        if let Some(endpoint) = endpoint {
            endpoint.end(code).await;
        }
        let lock = shim.charge.network_lock.clone();
        let _ = tokio::task::spawn_blocking(move || here.clear_away(&lock)).await;
        shim.ended.send_replace(Some(code));
    });
    Ok(())
}
