//! The user's side of the hub: the terminals that are attached.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::super::screen::Screen;
use super::super::{ToShim, ToTerminal};
use crate::wire::{self, MAX_TERMINAL_BYTES};

/// Output a terminal may lag behind before the app has to wait for it.
const MAX_LAG_FRAMES: usize = 64;
/// Room for a message and the exit code that is always kept.
const KEPT_FRAMES: usize = 4;
/// A terminal that takes nothing for this long while others are attached is let go.
const STUCK: Duration = Duration::from_secs(10);
/// How long an app that prints much waits for its first terminal; it may have none at all.
const FIRST_TERMINAL: Duration = Duration::from_secs(5);
/// How long the terminals have to take the last output.
const FAREWELL: Duration = Duration::from_secs(5);

/// Since when a terminal has been too slow.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Lag(Option<Instant>);

impl Lag {
    fn note(&mut self, lags: bool, now: Instant) {
        self.0 = lags.then(|| self.0.unwrap_or(now));
    }

    fn is_stuck(self, now: Instant) -> bool {
        self.0.is_some_and(|since| now.duration_since(since) > STUCK)
    }
}

/// One of them.
struct Terminal {
    id: u64,
    /// It was shown all that the app ever printed.
    knows_all: bool,
    out: mpsc::Sender<ToTerminal>,
    task: tokio::task::JoinHandle<()>,
    lag: Lag,
}

impl Terminal {
    fn lags(&self) -> bool {
        self.out.capacity() < KEPT_FRAMES && !self.out.is_closed()
    }
}

/// What came from which.
pub(super) type FromTerminal = (u64, Option<ToShim>);

/// All of them.
pub(super) struct Terminals {
    attached: Vec<Terminal>,
    next_id: u64,
    /// What they send; nothing when one has gone.
    pub(super) typed: mpsc::Receiver<FromTerminal>,
    sender: mpsc::Sender<FromTerminal>,
    /// One has taken something.
    pub(super) drained: Arc<Notify>,
    /// Until when the first one is waited for; nothing once it has come.
    first_until: Option<Instant>,
    ended: Option<i32>,
}

impl Terminals {
    pub(super) fn new(now: Instant) -> Self {
        let (sender, typed) = mpsc::channel(16);
        Self {
            attached: Vec::new(),
            next_id: 0,
            typed,
            sender,
            drained: Arc::default(),
            first_until: Some(now + FIRST_TERMINAL),
            ended: None,
        }
    }

    /// One attaches and is shown what there was.
    pub(super) fn attach(&mut self, stream: UnixStream, screen: &Screen) {
        self.next_id += 1;
        let id = self.next_id;
        let (out, frames) = mpsc::channel(MAX_LAG_FRAMES);
        let everything = self.first_until.take().and_then(|_| screen.everything());
        let knows_all = everything.is_some();
        // The queue is new and has room.
        let shown = everything.unwrap_or_else(|| screen.replay());
        let _ = out.try_send(ToTerminal::Data(shown));
        if let Some(code) = self.ended {
            let _ = out.try_send(ToTerminal::Exit(code));
        }
        let task =
            tokio::spawn(serve(id, stream, self.sender.clone(), frames, self.drained.clone()));
        self.attached.push(Terminal { id, knows_all, out, task, lag: Lag::default() });
    }

    /// Whether one was shown all that the app ever printed.
    pub(super) fn knows_all(&self, id: u64) -> bool {
        self.attached.iter().any(|terminal| terminal.id == id && terminal.knows_all)
    }

    /// One has gone.
    pub(super) fn detach(&mut self, id: u64) {
        self.attached.retain(|terminal| terminal.id != id);
    }

    /// Sends to every terminal. There is room, or else the terminal is gone: the app is not read
    /// while one lags.
    pub(super) fn broadcast(&mut self, frame: ToTerminal) {
        self.attached.retain(|terminal| terminal.out.try_send(frame.clone()).is_ok());
    }

    /// Whether the app has to wait for one.
    pub(super) fn lag(&self) -> bool {
        self.attached.iter().any(Terminal::lags)
    }

    /// Whether the first is still to come.
    pub(super) fn first_is_due(&self, now: Instant) -> bool {
        self.first_until.is_some_and(|until| now < until)
    }

    /// Lets those go that have taken nothing for long while others wait for them.
    pub(super) fn drop_stuck(&mut self, now: Instant) {
        let alone = self.attached.len() == 1;
        for terminal in &mut self.attached {
            let lags = terminal.lags();
            terminal.lag.note(lags, now);
        }
        self.attached.retain(|terminal| alone || !terminal.lag.is_stuck(now));
    }

    /// Tells every one the app's end and waits until they have taken everything.
    pub(super) async fn farewell(&mut self, code: i32) {
        self.ended = Some(code);
        self.broadcast(ToTerminal::Exit(code));
        for terminal in self.attached.drain(..) {
            drop(terminal.out);
            let _ = tokio::time::timeout(FAREWELL, terminal.task).await;
        }
    }
}

/// Serves one terminal until it goes or the hub lets it go.
async fn serve(
    id: u64,
    stream: UnixStream,
    typed: mpsc::Sender<FromTerminal>,
    mut frames: mpsc::Receiver<ToTerminal>,
    drained: Arc<Notify>,
) {
    let (mut reader, mut writer) = stream.into_split();
    let from_terminal = typed.clone();
    let mut reading = tokio::spawn(async move {
        while let Ok(Some(message)) = wire::read::<ToShim>(&mut reader, MAX_TERMINAL_BYTES).await {
            if from_terminal.send((id, Some(message))).await.is_err() {
                break;
            }
        }
    });
    loop {
        tokio::select! {
            frame = frames.recv() => match frame {
                Some(frame)
                    if wire::write(&mut writer, &frame, MAX_TERMINAL_BYTES).await.is_ok() =>
                {
                    drained.notify_one();
                }
                _ => break,
            },
            _ = &mut reading => break,
        }
    }
    reading.abort();
    let _ = typed.send((id, None)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_stuck_when_it_has_lagged_without_a_break() {
        let start = Instant::now();
        let mut lag = Lag::default();
        lag.note(true, start);
        lag.note(true, start + STUCK);
        assert!(!lag.is_stuck(start + STUCK));
        assert!(lag.is_stuck(start + STUCK * 2));
        lag.note(false, start + STUCK * 2);
        lag.note(true, start + STUCK * 2);
        assert!(!lag.is_stuck(start + STUCK * 3));
    }

    #[test]
    fn the_first_terminal_is_waited_for_a_while() {
        let start = Instant::now();
        let terminals = Terminals::new(start);
        assert!(terminals.first_is_due(start));
        assert!(!terminals.first_is_due(start + FIRST_TERMINAL));
        assert!(!terminals.lag() && terminals.ended.is_none());
    }
}
