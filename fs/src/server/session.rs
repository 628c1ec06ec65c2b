//! One client's session: its connection of the moment, its journal, its nodes and handles.

use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use phantom_model::Epoch;
use rustix::io::Errno;

use super::handles::Handles;
use super::journal::{Journal, Limits, Verdict};
use super::nodes::Nodes;
use super::{ServerError, Shared};
use crate::os;
use crate::proto::{
    Answer, FrameError, Op, RequestId, SessionId, ToClient, ToServer, read_frame, write_frame,
};

/// What one session may leave unacknowledged. A client keeps far below.
const UNACKNOWLEDGED: Limits = Limits { requests: 4096, bytes: 128 << 20 };
/// Bytes counted for a kept reply beside its payload and listing.
const REPLY_BYTES: usize = 256;
/// Buffer of a connection's reading side, in bytes.
const READ_BUFFER: usize = 64 << 10;

/// What came of an operation: the answer and its payload.
pub(super) type Outcome = Result<(Answer, Vec<u8>), Errno>;

#[derive(Debug)]
struct Kept {
    message: ToClient,
    payload: Vec<u8>,
}

/// One connection of a session.
#[derive(Debug)]
pub(super) struct Line {
    reader: Mutex<BufReader<UnixStream>>,
    writer: Mutex<UnixStream>,
    /// For ending both sides without waiting for a lock.
    control: UnixStream,
}

impl Line {
    fn end(&self) {
        let _ = self.control.shutdown(Shutdown::Both);
    }

    fn send(&self, message: &ToClient, payload: &[u8]) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if write_frame(&mut *writer, message, payload).is_err() {
            // The client will come again and ask for what it misses.
            self.end();
        }
    }
}

#[derive(Debug)]
pub(super) struct Session {
    id: SessionId,
    epoch: AtomicU64,
    pub(super) shared: Arc<Shared>,
    pub(super) nodes: Nodes,
    pub(super) handles: Handles,
    journal: Mutex<Journal<Arc<Kept>>>,
    line: Mutex<Option<Arc<Line>>>,
    closed: AtomicBool,
}

impl Session {
    pub(super) fn new(id: SessionId, epoch: Epoch, shared: Arc<Shared>) -> Self {
        let config = &shared.config;
        // References and open files share the process's descriptors; some are for the rest.
        let limit = os::file_limit();
        let max_open_nodes = config.max_open_nodes.min(limit / 2);
        let max_handles = config.max_handles.min(limit / 4);
        Self {
            id,
            epoch: AtomicU64::new(epoch.0),
            nodes: shared.tree.nodes(config.max_nodes, max_open_nodes),
            handles: Handles::new(max_handles),
            journal: Mutex::new(Journal::new(UNACKNOWLEDGED)),
            line: Mutex::new(None),
            closed: AtomicBool::new(false),
            shared,
        }
    }

    pub(super) fn id(&self) -> SessionId {
        self.id
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::SeqCst))
    }

    /// Takes the session up again with an epoch that is not fenced off.
    pub(super) fn reopen(&self, epoch: Epoch) {
        self.epoch.fetch_max(epoch.0, Ordering::SeqCst);
        self.closed.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_attached(&self) -> bool {
        self.line().is_some()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.journal().is_idle()
    }

    fn journal(&self) -> MutexGuard<'_, Journal<Arc<Kept>>> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self) -> MutexGuard<'_, Option<Arc<Line>>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `stream` the session's connection in place of the one before, and welcomes it.
    pub(super) fn attach(&self, stream: UnixStream) -> io::Result<Arc<Line>> {
        let line = Arc::new(Line {
            reader: Mutex::new(BufReader::with_capacity(READ_BUFFER, stream.try_clone()?)),
            writer: Mutex::new(stream.try_clone()?),
            control: stream,
        });
        let root = self.shared.tree.root_entry()?;
        let welcomed = {
            // Who is welcome is attached already, and whatever else is to be sent comes after.
            let mut writer = line.writer.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(old) = self.line().replace(Arc::clone(&line)) {
                old.end();
            }
            write_frame(&mut *writer, &ToClient::Welcome { root }, &[])
        };
        if welcomed.is_err() || self.closed.load(Ordering::SeqCst) {
            line.end();
        }
        Ok(line)
    }

    /// No operation starts any more, unless the session is opened again, and the connection ends.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        if let Some(line) = self.line().take() {
            line.end();
        }
    }

    /// One thread's work on a connection: whoever has the reading side takes the next request,
    /// passes the reading side on and carries the request out, so that none is handed over
    /// between threads. Returns when the connection ends.
    pub(super) fn work(&self, line: &Arc<Line>) -> Result<(), ServerError> {
        os::own_file_mode_mask().map_err(|error| ServerError::Thread(error.into()))?;
        let result = loop {
            let next = {
                let mut reader = line.reader.lock().unwrap_or_else(PoisonError::into_inner);
                read_frame::<ToServer>(&mut *reader)
            };
            match next {
                Ok((ToServer::Request { id, answered_below, op }, payload)) => {
                    if !self.take(line, id, answered_below, op, payload) {
                        break Err(ServerError::Stream(io::ErrorKind::InvalidData.into()));
                    }
                }
                Ok((ToServer::Hello(_), _)) => {
                    break Err(ServerError::Stream(io::ErrorKind::InvalidData.into()));
                }
                Err(FrameError::Stream(error)) if is_end(&error) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        line.end();
        let mut current = self.line();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, line)) {
            *current = None;
        }
        result
    }

    /// Carries a request out, or answers it from memory. `false`: the client broke the protocol.
    fn take(
        &self,
        line: &Line,
        id: RequestId,
        answered_below: RequestId,
        op: Op,
        payload: Vec<u8>,
    ) -> bool {
        // The journal's lock orders this against `close`: what is not in it by then never runs.
        let verdict = {
            let mut journal = self.journal();
            match self.closed.load(Ordering::SeqCst) {
                true => Verdict::Refuse,
                false => journal.arrived(id.0, answered_below.0),
            }
        };
        match verdict {
            Verdict::Run => self.run(id, op, payload),
            Verdict::Again(kept) => line.send(&kept.message, &kept.payload),
            Verdict::Ignore => {}
            Verdict::Refuse => return false,
        }
        true
    }

    fn run(&self, id: RequestId, op: Op, payload: Vec<u8>) {
        let repeatable = op.is_repeatable();
        let (result, payload) = match self.perform(op, payload) {
            Ok((answer, payload)) => (Ok(answer), payload),
            Err(error) => (Err(error.raw_os_error()), Vec::new()),
        };
        let bytes = payload.len()
            + match &result {
                Ok(Answer::Listing(items)) => items.len() * REPLY_BYTES,
                _ => REPLY_BYTES,
            };
        let kept = Arc::new(Kept { message: ToClient::Reply { id, result }, payload });
        let idle = {
            let mut journal = self.journal();
            journal.finished(id.0, (!repeatable).then(|| (Arc::clone(&kept), bytes)));
            journal.is_idle()
        };
        if idle && self.closed.load(Ordering::SeqCst) {
            // Under the lock the waiter checks with, lest it miss the news.
            let _state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.idle.notify_all();
        }
        // The connection of now, which need not be the one the request came over.
        let line = self.line().clone();
        if let Some(line) = line {
            line.send(&kept.message, &kept.payload);
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | BrokenPipe | ConnectionReset | ConnectionAborted)
}
