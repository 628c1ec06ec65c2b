//! The shim's side of the user's terminals: it stands at home for all of an app's life, whether
//! the app is here ([`Hub::here`]), on its way ([`Hub::hold`]) or away ([`Hub::away`]).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use phantom_model::{Epoch, TermSize};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::screen::Screen;
use super::{ToShim, ToTerminal};
use crate::os::{pty, reactor};
use crate::relay::endpoint::{read, set_nonblocking, write_from};
use crate::relay::link::{BEAT, Link};
use crate::relay::{Event, Relay, RelayState};
use crate::wire::{self, MAX_TERMINAL_BYTES};

/// Typed bytes kept while the app cannot take them; then the terminals are not read.
const MAX_INPUT_BYTES: usize = 64 << 10;
/// Output a terminal may lag behind before the app has to wait for it.
const MAX_LAG_FRAMES: usize = 64;
/// A terminal that takes nothing for this long while others are attached is let go.
const STUCK: Duration = Duration::from_secs(10);
/// How long an app that prints much waits for its first terminal; it may have none at all.
const FIRST_TERMINAL: Duration = Duration::from_secs(5);
/// How long the terminals have to take the last output.
const FAREWELL: Duration = Duration::from_secs(5);

enum Command {
    Attach(UnixStream),
    Here { master: OwnedFd, arrival: Arrival },
    Resume { output: Vec<u8>, typed: Vec<u8> },
    Print(Vec<u8>),
    Hold(oneshot::Sender<()>),
    Away(Epoch),
    Stream(UnixStream, Epoch),
    Tell(String),
    Ended(i32, oneshot::Sender<()>),
}

/// What an app brings to its terminal when it is (back) at home.
#[derive(Debug, Default)]
pub struct Arrival {
    /// Printed before and read by somebody else.
    pub output: Vec<u8>,
    /// Typed before and not yet in the terminal.
    pub typed: Vec<u8>,
    /// Where its relay stood, after a move home; `None` if it never left.
    pub relay: Option<RelayState>,
}

/// What the hub tells its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubEvent {
    /// The app has ended elsewhere, and all it printed has arrived.
    EndedAway(i32),
}

/// A running hub. Dropping it ends it.
#[derive(Clone)]
pub struct Hub {
    commands: mpsc::Sender<Command>,
}

impl Hub {
    /// Starts a hub without an app.
    pub fn start(size: TermSize) -> (Self, mpsc::Receiver<HubEvent>) {
        let (commands, receiver) = mpsc::channel(32);
        let (events, event_receiver) = mpsc::channel(4);
        let driver = Driver {
            commands: receiver,
            events,
            clients: Vec::new(),
            next_client: 0,
            typed: mpsc::channel(16),
            input: VecDeque::new(),
            app: App::None,
            size,
            screen: Screen::default(),
            first_until: Some(Instant::now() + FIRST_TERMINAL),
            leaving: None,
            ended: None,
            drained: Arc::default(),
        };
        tokio::spawn(driver.run());
        (Self { commands }, event_receiver)
    }

    async fn send(&self, command: Command) {
        let _ = self.commands.send(command).await;
    }

    /// A terminal attaches.
    pub async fn attach(&self, stream: UnixStream) {
        self.send(Command::Attach(stream)).await;
    }

    /// The app is here, behind this master.
    pub async fn here(&self, master: OwnedFd, arrival: Arrival) {
        self.send(Command::Here { master, arrival }).await;
    }

    /// Serves the app's terminal again after [`Hub::hold`]: `output` was read from it by somebody
    /// else, and `typed` is to be written to it before anything else.
    pub async fn resume(&self, output: Vec<u8>, typed: Vec<u8>) {
        self.send(Command::Resume { output, typed }).await;
    }

    /// Shows what somebody else has read from the app's terminal.
    pub async fn print(&self, output: Vec<u8>) {
        self.send(Command::Print(output)).await;
    }

    /// Leaves the app's terminal alone; what is typed waits. Completes when that is so.
    pub async fn hold(&self) {
        let (reply, held) = oneshot::channel();
        self.send(Command::Hold(reply)).await;
        let _ = held.await;
    }

    /// The app is away with this epoch.
    pub async fn away(&self, epoch: Epoch) {
        self.send(Command::Away(epoch)).await;
    }

    /// A stream from the shim of the copy with this epoch.
    pub async fn stream(&self, stream: UnixStream, epoch: Epoch) {
        self.send(Command::Stream(stream, epoch)).await;
    }

    /// One line for the user.
    pub async fn tell(&self, line: String) {
        self.send(Command::Tell(line)).await;
    }

    /// The app has ended here. Completes when the terminals have been told.
    pub async fn ended(&self, code: i32) {
        let (reply, told) = oneshot::channel();
        self.send(Command::Ended(code, reply)).await;
        let _ = told.await;
    }
}

/// Which terminal, and what it sent.
type FromClient = (u64, ToShim);

/// Where the app is.
enum App {
    None,
    Here { master: AsyncFd<OwnedFd>, held: bool },
    Away { relay: Box<Relay>, link: Option<Link>, epoch: Epoch },
}

struct Client {
    id: u64,
    out: mpsc::Sender<ToTerminal>,
    task: tokio::task::JoinHandle<()>,
    lags_since: Option<Instant>,
}

impl Client {
    /// Room for a message and the exit code is always kept.
    fn lags(&self) -> bool {
        self.out.capacity() < 4 && !self.out.is_closed()
    }
}

struct Driver {
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<HubEvent>,
    clients: Vec<Client>,
    next_client: u64,
    typed: (mpsc::Sender<FromClient>, mpsc::Receiver<FromClient>),
    input: VecDeque<u8>,
    app: App,
    size: TermSize,
    screen: Screen,
    /// Until when the first terminal is waited for; `None` once it has come.
    first_until: Option<Instant>,
    /// The app has ended here with this code, and who is to be told that the terminals know.
    leaving: Option<(i32, oneshot::Sender<()>)>,
    ended: Option<i32>,
    /// A terminal has taken something.
    drained: Arc<Notify>,
}

/// What the driver woke up for.
enum Wake {
    Command(Option<Command>),
    Typed(u64, ToShim),
    Readable(io::Result<Vec<u8>>),
    Nothing,
    Frame(Option<crate::relay::Frame>),
    Beat,
}

impl Driver {
    async fn run(mut self) {
        let mut beat = tokio::time::interval(BEAT);
        loop {
            self.flush_away();
            // A short command may end before its terminal has come.
            if let Some((code, told)) = self.leaving.take_if(|_| !first_is_due(self.first_until)) {
                self.farewell(code).await;
                let _ = told.send(());
            }
            let wake = self.wait(&mut beat).await;
            match wake {
                Wake::Command(Some(command)) => self.obey(command).await,
                Wake::Command(None) => return,
                Wake::Typed(id, message) => self.typed(id, message),
                Wake::Readable(Ok(bytes)) => self.print(bytes),
                // The last slave is closed; the app's end is told by other means.
                Wake::Readable(Err(_)) => self.set_held(true),
                Wake::Nothing => {}
                Wake::Frame(frame) => self.frame(frame).await,
                Wake::Beat => {
                    self.drop_stuck();
                    if let App::Away { relay, .. } = &mut self.app {
                        relay.beat();
                    }
                }
            }
        }
    }

    async fn wait(&mut self, beat: &mut tokio::time::Interval) -> Wake {
        let take_typed = self.input.len() < MAX_INPUT_BYTES;
        let read_app = !self.is_lagging() && !self.waits_for_first();
        let app = &mut self.app;
        let input = &mut self.input;
        tokio::select! {
            command = self.commands.recv() => Wake::Command(command),
            Some((id, message)) = self.typed.1.recv(), if take_typed => Wake::Typed(id, message),
            wake = app_ready(app, input), if read_app => wake,
            () = self.drained.notified() => Wake::Nothing,
            _ = beat.tick() => Wake::Beat,
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Attach(stream) => self.attach(stream),
            Command::Here { master, arrival } => self.here(master, arrival),
            Command::Resume { output, typed } => {
                self.print(output);
                self.type_first(typed);
                self.set_held(false);
            }
            Command::Print(output) => self.print(output),
            Command::Hold(reply) => {
                self.set_held(true);
                let _ = reply.send(());
            }
            Command::Away(epoch) => self.away(epoch),
            Command::Stream(stream, epoch) => match &mut self.app {
                App::Away { relay, link, epoch: expected } if *expected == epoch => {
                    *link = Some(Link::new(stream));
                    relay.connected();
                }
                _ => tracing::info!(%epoch, "refused the terminal of a copy that may not act"),
            },
            Command::Tell(line) => {
                let full_screen = self.screen.is_full();
                self.broadcast(ToTerminal::Message { line, full_screen });
            }
            Command::Ended(code, told) => {
                self.rest_of_output();
                self.leaving = Some((code, told));
            }
        }
    }

    fn attach(&mut self, stream: UnixStream) {
        self.next_client += 1;
        let id = self.next_client;
        let (out, frames) = mpsc::channel(MAX_LAG_FRAMES);
        let first = ToTerminal::Data(match self.first_until.take() {
            Some(_) => self.screen.everything(),
            None => self.screen.replay(),
        });
        // The queue is new and has room.
        let _ = out.try_send(first);
        if let Some(code) = self.ended {
            let _ = out.try_send(ToTerminal::Exit(code));
        }
        let task = tokio::spawn(serve_client(
            id,
            stream,
            self.typed.0.clone(),
            frames,
            self.drained.clone(),
        ));
        self.clients.push(Client { id, out, task, lags_since: None });
    }

    fn here(&mut self, master: OwnedFd, arrival: Arrival) {
        if let Err(error) = set_nonblocking(master.as_fd()) {
            tracing::error!(%error, "the app's terminal cannot be used");
        }
        let before = std::mem::replace(&mut self.app, App::None);
        if let App::Away { relay, .. } = before {
            let brought = match arrival.relay {
                Some(state) => relay.absorb(&state),
                None => Ok((Vec::new(), relay.into_untaken())),
            };
            match brought {
                Ok((printed, typed)) => {
                    self.print(printed);
                    self.type_first(typed);
                }
                Err(error) => tracing::error!(%error, "the terminal could not be taken home whole"),
            }
        }
        self.print(arrival.output);
        self.type_first(arrival.typed);
        match reactor::register(master) {
            Ok(master) => {
                self.app = App::Here { master, held: false };
                self.apply_size();
            }
            Err(error) => tracing::error!(%error, "the app's terminal cannot be used"),
        }
    }

    /// Typed before what waits already.
    fn type_first(&mut self, typed: Vec<u8>) {
        for byte in typed.into_iter().rev() {
            self.input.push_front(byte);
        }
    }

    fn away(&mut self, epoch: Epoch) {
        if let App::Away { link, epoch: known, .. } = &mut self.app {
            // From one host to the next: the relay goes on where it stands.
            *link = None;
            *known = epoch;
            return;
        }
        let mut relay = Relay::new();
        relay.set_size(self.size);
        self.app = App::Away { relay: Box::new(relay), link: None, epoch };
    }

    fn set_held(&mut self, to: bool) {
        if let App::Here { held, .. } = &mut self.app {
            *held = to;
        }
    }

    /// Gives the relay what is typed and the stream what the relay has to say.
    fn flush_away(&mut self) {
        let App::Away { relay, link, .. } = &mut self.app else {
            return;
        };
        let count = relay.room().min(self.input.len());
        if count > 0 {
            let typed: Vec<u8> = self.input.drain(..count).collect();
            relay.push(&typed);
        }
        if let Some(stream) = link
            && (!stream.flush(relay) || stream.is_dead())
        {
            *link = None;
            relay.disconnected();
        }
    }

    async fn frame(&mut self, frame: Option<crate::relay::Frame>) {
        let App::Away { relay, link, .. } = &mut self.app else {
            return;
        };
        let handled = frame.map(|frame| relay.handle(frame));
        if !matches!(handled, Some(Ok(()))) {
            *link = None;
            relay.disconnected();
            return;
        }
        let mut events = Vec::new();
        while let Some(event) = relay.poll_event() {
            if let Event::Bytes(bytes) = &event {
                relay.taken(bytes.len());
            }
            events.push(event);
        }
        for event in events {
            match event {
                Event::Bytes(bytes) => self.print(bytes),
                Event::Exit(code) if self.ended.is_none() => {
                    self.flush_away();
                    self.farewell(code).await;
                    let _ = self.events.send(HubEvent::EndedAway(code)).await;
                }
                _ => {}
            }
        }
    }

    fn typed(&mut self, id: u64, message: ToShim) {
        match message {
            ToShim::Hello(size) => {
                // An app that owns the whole screen draws it anew when the size changes.
                if self.screen.is_full() && size == self.size && size.rows > 1 {
                    self.set_size(TermSize { rows: size.rows - 1, ..size });
                }
                self.set_size(size);
            }
            ToShim::Resize(size) => self.set_size(size),
            ToShim::Data(bytes) if bytes.is_empty() => {
                self.clients.retain(|client| client.id != id);
            }
            ToShim::Data(bytes) => self.input.extend(bytes),
        }
    }

    fn set_size(&mut self, size: TermSize) {
        self.size = size;
        self.apply_size();
    }

    fn apply_size(&mut self) {
        match &mut self.app {
            App::Here { master, .. } => {
                if let Err(error) = pty::set_size(master.get_ref().as_fd(), self.size) {
                    tracing::debug!(%error, "the window's size cannot be set");
                }
            }
            App::Away { relay, .. } => relay.set_size(self.size),
            App::None => {}
        }
    }

    fn print(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.screen.feed(&bytes);
            self.broadcast(ToTerminal::Data(bytes));
        }
    }

    /// Sends to every terminal. There is room, or else the terminal is gone: the app is not read
    /// while one lags.
    fn broadcast(&mut self, frame: ToTerminal) {
        self.clients.retain(|client| client.out.try_send(frame.clone()).is_ok());
    }

    /// Whether the app has to wait for a terminal.
    fn is_lagging(&self) -> bool {
        self.clients.iter().any(Client::lags)
    }

    /// Whether what the app prints should wait: its first terminal is shown all of it.
    fn waits_for_first(&self) -> bool {
        self.screen.is_brimful() && first_is_due(self.first_until)
    }

    /// Lets terminals go that have taken nothing for long while others wait for them.
    fn drop_stuck(&mut self) {
        let alone = self.clients.len() == 1;
        for client in &mut self.clients {
            client.lags_since =
                client.lags().then(|| client.lags_since.unwrap_or_else(Instant::now));
        }
        let stuck = |client: &Client| client.lags_since.is_some_and(|at| at.elapsed() > STUCK);
        self.clients.retain(|client| alone || !stuck(client));
    }

    /// Reads what the app printed last.
    fn rest_of_output(&mut self) {
        let mut rest = Vec::new();
        if let App::Here { master, .. } = &self.app {
            let mut buffer = [0; 16 << 10];
            while let Ok(count) = read(master.get_ref(), &mut buffer) {
                rest.extend_from_slice(&buffer[..count]);
            }
        }
        self.print(rest);
    }

    /// Tells every terminal the app's end and waits until they have taken everything.
    async fn farewell(&mut self, code: i32) {
        self.ended = Some(code);
        self.broadcast(ToTerminal::Exit(code));
        for client in self.clients.drain(..) {
            drop(client.out);
            let _ = tokio::time::timeout(FAREWELL, client.task).await;
        }
    }
}

fn first_is_due(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() < until)
}

/// Waits for whatever the app's side has to do.
async fn app_ready(app: &mut App, input: &mut VecDeque<u8>) -> Wake {
    match app {
        App::Here { master, held: false } => loop {
            tokio::select! {
                ready = master.readable() => {
                    let mut buffer = [0; 16 << 10];
                    let Ok(mut guard) = ready else { return Wake::Nothing };
                    if let Ok(outcome) = guard.try_io(|fd| read(fd.get_ref(), &mut buffer)) {
                        return Wake::Readable(outcome.map(|count| buffer[..count].to_vec()));
                    }
                }
                ready = master.writable(), if !input.is_empty() => {
                    let Ok(mut guard) = ready else { return Wake::Nothing };
                    if guard.try_io(|fd| write_from(fd, input)).is_ok() {
                        return Wake::Nothing;
                    }
                }
            }
        },
        App::Away { link: Some(link), .. } => Wake::Frame(link.next().await),
        _ => std::future::pending().await,
    }
}

/// Serves one terminal until it goes or the hub lets it go.
async fn serve_client(
    id: u64,
    stream: UnixStream,
    typed: mpsc::Sender<FromClient>,
    mut frames: mpsc::Receiver<ToTerminal>,
    drained: Arc<Notify>,
) {
    let (mut reader, mut writer) = stream.into_split();
    let from_terminal = typed.clone();
    let mut reading = tokio::spawn(async move {
        while let Ok(Some(message)) = wire::read::<ToShim>(&mut reader, MAX_TERMINAL_BYTES).await {
            // An empty one means "gone" inside the hub.
            if message == ToShim::Data(Vec::new()) {
                continue;
            }
            if from_terminal.send((id, message)).await.is_err() {
                break;
            }
        }
    });
    loop {
        tokio::select! {
            frame = frames.recv() => match frame {
                Some(frame) if wire::write(&mut writer, &frame, MAX_TERMINAL_BYTES).await.is_ok() => {
                    drained.notify_one();
                }
                _ => break,
            },
            _ = &mut reading => break,
        }
    }
    reading.abort();
    let _ = typed.send((id, ToShim::Data(Vec::new()))).await;
}
