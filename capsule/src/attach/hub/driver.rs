//! The one task that owns the app's side and the terminals, and carries bytes between them.

use phantom_model::TermSize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::app::{App, Said};
use super::terminals::Terminals;
use super::{Command, HubEvent};
use crate::attach::screen::Screen;
use crate::attach::{ToShim, ToTerminal};
use crate::relay::link::BEAT;
use crate::relay::{Event, Frame};

pub(super) struct Driver {
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<HubEvent>,
    app: App,
    terminals: Terminals,
    screen: Screen,
    /// The app has ended here with this code, and who is to be told that the terminals know.
    leaving: Option<(i32, oneshot::Sender<()>)>,
}

/// What the driver woke up for.
enum Wake {
    Command(Option<Command>),
    Typed(u64, Option<ToShim>),
    App(Said),
    Drained,
    Beat,
}

impl Driver {
    pub(super) fn new(
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<HubEvent>,
        size: TermSize,
    ) -> Self {
        Self {
            commands,
            events,
            app: App::new(size),
            terminals: Terminals::new(Instant::now()),
            screen: Screen::default(),
            leaving: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut beat = tokio::time::interval(BEAT);
        loop {
            self.app.flush();
            // A short command may end before its terminal has come.
            let due = self.terminals.first_is_due(Instant::now());
            if let Some((code, told)) = self.leaving.take_if(|_| !due) {
                self.terminals.farewell(code).await;
                let _ = told.send(());
            }
            match self.wait(&mut beat).await {
                Wake::Command(Some(command)) => self.obey(command),
                Wake::Command(None) => return,
                Wake::Typed(id, Some(message)) => self.typed(id, message),
                Wake::Typed(id, None) => self.terminals.detach(id),
                Wake::App(Said::Printed(bytes)) => self.print(bytes),
                Wake::App(Said::Closed) => self.app.set_held(true),
                Wake::App(Said::Frame(frame)) => self.frame(frame).await,
                Wake::App(Said::Nothing) | Wake::Drained => {}
                Wake::Beat => {
                    self.terminals.drop_stuck(Instant::now());
                    self.app.beat();
                }
            }
        }
    }

    async fn wait(&mut self, beat: &mut tokio::time::Interval) -> Wake {
        let take_typed = self.app.takes_input();
        let read_app = !self.terminals.lag() && !self.waits_for_first();
        let terminals = &mut self.terminals;
        tokio::select! {
            command = self.commands.recv() => Wake::Command(command),
            Some((id, message)) = terminals.typed.recv(), if take_typed => Wake::Typed(id, message),
            said = self.app.said(), if read_app => Wake::App(said),
            () = terminals.drained.notified() => Wake::Drained,
            _ = beat.tick() => Wake::Beat,
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Attach(stream) => self.terminals.attach(stream, &self.screen),
            Command::Here { master, arrival } => {
                let printed = self.app.here(master, arrival);
                self.print(printed);
            }
            Command::Resume { output, typed } => {
                self.print(output);
                self.app.type_first(typed);
                self.app.set_held(false);
            }
            Command::Print(output) => self.print(output),
            Command::Hold(reply) => {
                self.app.set_held(true);
                let _ = reply.send(());
            }
            Command::Away(epoch) => self.app.away(epoch),
            Command::Stream(stream, epoch) => self.app.connect(stream, epoch),
            Command::Tell(line) => {
                let full_screen = self.screen.is_full();
                self.terminals.broadcast(ToTerminal::Message { line, full_screen });
            }
            Command::Ended(code, told) => {
                let rest = self.app.rest_of_output();
                self.print(rest);
                self.leaving = Some((code, told));
            }
        }
    }

    async fn frame(&mut self, frame: Option<Frame>) {
        for event in self.app.take(frame) {
            match event {
                Event::Bytes(bytes) => self.print(bytes),
                Event::Exit(code) => {
                    self.app.flush();
                    let _ = self.events.send(HubEvent::EndedAway(code)).await;
                }
                _ => {}
            }
        }
    }

    fn typed(&mut self, id: u64, message: ToShim) {
        match message {
            ToShim::Hello(size) => {
                // An app that owns the whole screen draws it anew when the size changes. Not for
                // nothing: vim lets keys wait that are typed just then.
                if self.screen.is_full()
                    && !self.terminals.knows_all(id)
                    && size == self.app.size()
                    && size.rows > 1
                {
                    self.app.resize(TermSize { rows: size.rows - 1, ..size });
                    // Of sizes that wait the relay sends the last only.
                    self.app.flush();
                }
                self.app.resize(size);
            }
            ToShim::Resize(size) => self.app.resize(size),
            ToShim::Data(bytes) => self.app.type_next(bytes),
        }
    }

    fn print(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.screen.feed(&bytes);
            self.terminals.broadcast(ToTerminal::Data(bytes));
        }
    }

    /// Whether what the app prints should wait: its first terminal is shown all of it.
    fn waits_for_first(&self) -> bool {
        self.screen.is_brimful() && self.terminals.first_is_due(Instant::now())
    }
}
