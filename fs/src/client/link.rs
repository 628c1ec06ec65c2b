//! The client's end of a session: pairs replies with calls, survives its connections, and never
//! keeps a caller beyond the deadline.
//!
//! ```text
//!            connect, hello, welcome: resend what has no reply
//!   Down ───────────────────────────────────────────────────────▶ Up
//!    ▲ ◀──────── broken, or silent for a deadline while calls wait ─┘
//!    │ refused by home, unless for its epoch: that may grow
//!    ▼
//!   Dead: every call fails at once
//! ```
//!
//! While down, calls wait for the link up to their deadline; once it has been down for a whole
//! deadline, home counts as lost and calls fail at once, until it is back.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use phantom_model::Epoch;
use rustix::io::Errno;

use super::conn::{Conn, Frame};
use super::{ClientConfig, ClientError, Transport};
use crate::proto::{
    Answer, Entry, FrameError, Hello, NodeId, Op, Refusal, RequestId, SessionId, ToClient,
    ToServer, VERSION, encode_head, read_frame, write_frame,
};

/// Nodes given back in one message.
const FORGET_BATCH: usize = 256;
/// From a failed connection to the next attempt; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Bytes of the reading side's buffer.
const READ_BUFFER: usize = 64 << 10;

/// What came of a call: the answer and its payload.
pub(super) type Outcome = Result<(Answer, Vec<u8>), Errno>;

/// Where a caller waits for its reply.
#[derive(Debug, Default)]
struct Slot {
    outcome: Mutex<Option<Outcome>>,
    ready: Condvar,
}

#[derive(Debug)]
struct Call {
    frame: Arc<Frame>,
    /// `None`: nobody waits (any more); what the reply hands out is given back.
    slot: Option<Arc<Slot>>,
}

#[derive(Debug)]
struct State {
    calls: BTreeMap<u64, Call>,
    next: u64,
    conn: Option<Arc<Conn>>,
    root: Option<Entry>,
    /// When the link was last known to be well.
    well: Instant,
    /// When a call was last answered, or there was none to answer. Home answers pings, so this
    /// is never long ago unless it does not work on anything at all.
    answered: Instant,
    dead: Option<Refusal>,
    closed: bool,
    forgets: Vec<(NodeId, u64)>,
    pinging: bool,
}

impl State {
    /// Whether there has been no connection for so long that home counts as lost.
    fn is_down(&self, deadline: Duration) -> bool {
        self.conn.is_none() && self.well.elapsed() > deadline
    }
}

/// The link of one session.
#[derive(Debug)]
pub(super) struct Link {
    state: Mutex<State>,
    changed: Condvar,
    session: SessionId,
    epoch: AtomicU64,
    config: ClientConfig,
}

impl Link {
    /// Opens a session and waits for its welcome. The link's thread ends when it is closed.
    pub(super) fn open(
        transport: Arc<dyn Transport>,
        config: ClientConfig,
    ) -> Result<(Arc<Self>, Entry), ClientError> {
        let state = State {
            calls: BTreeMap::new(),
            next: 1,
            conn: None,
            root: None,
            well: Instant::now(),
            answered: Instant::now(),
            dead: None,
            closed: false,
            forgets: Vec::new(),
            pinging: false,
        };
        let link = Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            session: SessionId(rand::random()),
            epoch: AtomicU64::new(config.epoch.0),
            config,
        });
        let runner = Arc::clone(&link);
        std::thread::Builder::new()
            .name("files-link".into())
            .spawn(move || runner.run(&*transport))
            .map_err(ClientError::Thread)?;
        let deadline = Instant::now() + link.config.deadline;
        let mut state = link.lock();
        loop {
            if let Some(refusal) = state.dead {
                state.closed = true;
                return Err(ClientError::Refused(refusal));
            }
            if let Some(root) = state.root {
                drop(state);
                return Ok((link, root));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.closed = true;
                return Err(ClientError::Unreachable(link.config.deadline));
            }
            let wait = link.changed.wait_timeout(state, left);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The copy here has another epoch now: home gave the app back to it.
    pub(super) fn set_epoch(&self, epoch: Epoch) {
        let _state = self.lock();
        self.epoch.store(epoch.0, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Ends the session's link; calls that wait fail.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        if let Some(conn) = state.conn.take() {
            conn.end();
        }
        for (_, call) in std::mem::take(&mut state.calls) {
            finish(call.slot, Err(Errno::IO));
        }
        self.changed.notify_all();
    }

    /// Whether home answers, as far as is known.
    pub(super) fn is_up(&self) -> bool {
        self.lock().conn.is_some()
    }

    /// Cuts the connection of the moment; the link makes a new one. For tests and for when the
    /// way to home has changed.
    pub(super) fn cut(&self) {
        if let Some(conn) = &self.lock().conn {
            conn.end();
        }
    }

    /// Carries `op` out at home. `EIO` when home does not answer in time: it is not known then
    /// whether the operation took effect.
    pub(super) fn call(&self, op: Op, payload: Vec<u8>) -> Outcome {
        let begun = Instant::now();
        let limit = match op.is_long() {
            true => self.config.long_deadline,
            false => self.config.deadline,
        };
        let slot = Arc::new(Slot::default());
        let id = self.register(op, payload, Some(&slot), begun)?;
        let mut outcome = slot.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = outcome.take() {
                return outcome;
            }
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() || (begun.elapsed() > self.config.deadline && self.is_lost()) {
                break;
            }
            let wait = slot.ready.wait_timeout(outcome, left.min(self.config.deadline));
            outcome = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(outcome);
        if let Some(call) = self.lock().calls.get_mut(&id) {
            call.slot = None;
            tracing::warn!(waited = ?begun.elapsed(), "home did not answer in time");
            return Err(Errno::IO);
        }
        // The reply came just now and is being put into the slot.
        let mut outcome = slot.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = outcome.take() {
                return outcome;
            }
            outcome = slot.ready.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Carries `op` out at home without waiting for it.
    pub(super) fn post(&self, op: Op) {
        let _ = self.register(op, Vec::new(), None, Instant::now());
    }

    /// Gives references to nodes back, by and by.
    pub(super) fn forget(&self, nodes: &[(NodeId, u64)]) {
        let mut state = self.lock();
        state.forgets.extend_from_slice(nodes);
        let full = state.forgets.len() >= FORGET_BATCH;
        drop(state);
        if full {
            self.flush_forgets();
        }
    }

    fn flush_forgets(&self) {
        loop {
            let mut state = self.lock();
            let count = state.forgets.len().min(FORGET_BATCH);
            if count == 0 {
                return;
            }
            let nodes = state.forgets.drain(..count).collect();
            drop(state);
            self.post(Op::Forget { nodes });
        }
    }

    /// Whether waiting any longer for what may take long makes no sense.
    fn is_lost(&self) -> bool {
        let state = self.lock();
        state.is_down(self.config.deadline) || state.answered.elapsed() > 2 * self.config.deadline
    }

    /// Enters a call and sends it if there is a connection.
    fn register(
        &self,
        op: Op,
        payload: Vec<u8>,
        slot: Option<&Arc<Slot>>,
        begun: Instant,
    ) -> Result<u64, Errno> {
        let mut state = self.lock();
        // Who does not wait for a reply is not held up either; such calls are few.
        while slot.is_some() && state.calls.len() >= self.config.max_in_flight {
            let left = self.config.deadline.saturating_sub(begun.elapsed());
            if left.is_zero() || state.closed {
                return Err(Errno::IO);
            }
            let wait = self.changed.wait_timeout(state, left);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        let lost = slot.is_some() && state.is_down(self.config.deadline);
        if state.closed || state.dead.is_some() || lost {
            return Err(Errno::IO);
        }
        if state.calls.is_empty() {
            state.answered = Instant::now();
        }
        let id = state.next;
        state.next += 1;
        let oldest = state.calls.first_key_value().map_or(id, |(oldest, _)| *oldest);
        let request =
            ToServer::Request { id: RequestId(id), answered_below: RequestId(oldest), op };
        let head = encode_head(&request, payload.len()).map_err(|_| Errno::MSGSIZE)?;
        let frame = Arc::new(Frame { head, payload });
        state.calls.insert(id, Call { frame: Arc::clone(&frame), slot: slot.cloned() });
        let conn = state.conn.clone();
        drop(state);
        if let Some(conn) = conn {
            conn.post(frame);
        }
        Ok(id)
    }

    /// The link's thread: connects, reads replies, connects again.
    fn run(&self, transport: &dyn Transport) {
        let mut resumed = false;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.connect(transport, resumed) {
                Ok(Ok((conn, reader))) => {
                    resumed = true;
                    let begun = Instant::now();
                    let error = self.read_replies(&conn, reader);
                    tracing::info!(%error, "the connection to home's files broke");
                    conn.end();
                    let mut state = self.lock();
                    state.conn = None;
                    state.pinging = false;
                    // One that had held is made anew at once.
                    pause = match begun.elapsed() > Duration::from_secs(1) {
                        true => Duration::ZERO,
                        false => FIRST_PAUSE,
                    };
                }
                Ok(Err(refusal @ Refusal::Full)) => tracing::info!(%refusal, "waiting"),
                // The app may come back to this copy, with a later epoch.
                Ok(Err(refusal @ Refusal::Epoch(_))) if resumed => {
                    tracing::info!(%refusal, "waiting");
                }
                Ok(Err(refusal)) => {
                    tracing::error!(%refusal, "home's files are out of reach for good");
                    let mut state = self.lock();
                    state.dead = Some(refusal);
                    for (_, call) in std::mem::take(&mut state.calls) {
                        finish(call.slot, Err(Errno::IO));
                    }
                    self.changed.notify_all();
                    return;
                }
                Err(error) => tracing::debug!(%error, "home's files cannot be reached yet"),
            }
            let state = self.lock();
            if state.closed {
                return;
            }
            let wait = self.changed.wait_timeout(state, pause);
            if wait.unwrap_or_else(PoisonError::into_inner).0.closed {
                return;
            }
            let longest = (self.config.deadline / 4).min(Duration::from_secs(1));
            pause = (pause * 2).clamp(FIRST_PAUSE, longest.max(FIRST_PAUSE));
        }
    }

    /// A connection on which home has said welcome, everything unanswered sent again.
    #[allow(clippy::type_complexity)] // Used once.
    fn connect(
        &self,
        transport: &dyn Transport,
        resumed: bool,
    ) -> Result<Result<(Arc<Conn>, BufReader<UnixStream>), Refusal>, FrameError> {
        let stream = transport.connect(self.config.deadline)?;
        stream.set_read_timeout(Some(self.config.deadline))?;
        stream.set_write_timeout(Some(self.config.deadline))?;
        let hello = ToServer::Hello(Hello {
            version: VERSION,
            session: self.session,
            app: self.config.app,
            epoch: Epoch(self.epoch.load(Ordering::Relaxed)),
            resumed,
        });
        write_frame(&mut &stream, &hello, &[])?;
        let mut reader = BufReader::with_capacity(READ_BUFFER, stream.try_clone()?);
        let root = match read_frame::<ToClient>(&mut reader)?.0 {
            ToClient::Welcome { root } => root,
            ToClient::Refused(refusal) => return Ok(Err(refusal)),
            ToClient::Reply { .. } => {
                return Err(io::Error::from(io::ErrorKind::InvalidData).into());
            }
        };
        stream.set_read_timeout(Some(self.tick()))?;
        let conn = Arc::new(Conn::new(stream));
        let mut state = self.lock();
        if state.closed {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
        }
        state.root.get_or_insert(root);
        state.well = Instant::now();
        state.conn = Some(Arc::clone(&conn));
        let again: Vec<_> = state.calls.values().map(|call| Arc::clone(&call.frame)).collect();
        drop(state);
        self.changed.notify_all();
        // In another thread: this one must read replies meanwhile, or both sides could wait for
        // each other to read.
        let repeat = Arc::clone(&conn);
        std::thread::Builder::new()
            .name("files-repeat".into())
            .spawn(move || again.into_iter().for_each(|frame| repeat.post(frame)))?;
        Ok(Ok((conn, reader)))
    }

    fn tick(&self) -> Duration {
        (self.config.deadline / 4).max(Duration::from_millis(10))
    }

    /// Reads until the connection breaks or goes silent.
    fn read_replies(&self, conn: &Conn, mut reader: BufReader<UnixStream>) -> FrameError {
        loop {
            // The timeout may only strike between frames: in the middle of one it is an error.
            match reader.fill_buf() {
                Ok([]) => return io::Error::from(io::ErrorKind::UnexpectedEof).into(),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => match self.silent() {
                    true => return io::Error::from(io::ErrorKind::TimedOut).into(),
                    false => continue,
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return error.into(),
            }
            match read_frame::<ToClient>(&mut reader) {
                Ok((ToClient::Reply { id, result }, payload)) => self.reply(id, result, payload),
                Ok(_) => return io::Error::from(io::ErrorKind::InvalidData).into(),
                Err(error) => return error,
            }
            if self.lock().conn.as_deref().is_none_or(|current| !std::ptr::eq(current, conn)) {
                return io::Error::from(io::ErrorKind::ConnectionAborted).into();
            }
        }
    }

    /// Nothing came for a while. `true`: for so long that the connection counts as dead.
    fn silent(&self) -> bool {
        self.flush_forgets();
        let mut state = self.lock();
        if state.calls.is_empty() {
            state.well = Instant::now();
            return false;
        }
        if state.well.elapsed() > self.config.deadline {
            return true;
        }
        let ping = !std::mem::replace(&mut state.pinging, true);
        drop(state);
        if ping {
            self.post(Op::Ping);
        }
        false
    }

    fn reply(&self, id: RequestId, result: Result<Answer, i32>, payload: Vec<u8>) {
        let mut state = self.lock();
        state.well = Instant::now();
        state.answered = state.well;
        state.pinging = false;
        let call = state.calls.remove(&id.0);
        let was_full = state.calls.len() + 1 >= self.config.max_in_flight;
        drop(state);
        if was_full {
            self.changed.notify_all();
        }
        // Replies to what was answered already are repetitions.
        let Some(call) = call else { return };
        let outcome = match result {
            Ok(answer) => Ok((answer, payload)),
            // Only numbers the kernel may give to a program.
            Err(errno @ 1..=4095) => Err(Errno::from_raw_os_error(errno)),
            Err(_) => Err(Errno::IO),
        };
        match call.slot {
            Some(slot) => finish(Some(slot), outcome),
            None => self.give_back(outcome),
        }
    }

    /// The reply to a call nobody waits for any more may have opened things.
    fn give_back(&self, outcome: Outcome) {
        match outcome {
            Ok((Answer::Entry(entry), _)) => self.forget(&[(entry.node, 1)]),
            Ok((Answer::Opened { handle, .. }, _)) => self.post(Op::Release { handle }),
            Ok((Answer::Created { entry, handle }, _)) => {
                self.post(Op::Release { handle });
                self.forget(&[(entry.node, 1)]);
            }
            Ok((Answer::Listing(items), _)) => {
                let nodes: Vec<_> =
                    items.iter().filter_map(|item| Some((item.entry?.node, 1))).collect();
                self.forget(&nodes);
            }
            _ => {}
        }
    }
}

fn finish(slot: Option<Arc<Slot>>, outcome: Outcome) {
    if let Some(slot) = slot {
        *slot.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        slot.ready.notify_one();
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
