//! The line between a person's terminal and a command on a desktop.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::link::{Channel, Keyboard, Next};
use super::wire::Kind;
use crate::terminal::Line;

/// The thread that listens has no deadline of its own: the channel ends with its desktop.
const LOOK: Duration = Duration::from_secs(3600);

/// A command's terminal.
pub struct AgentLine {
    keyboard: Keyboard,
    output: Option<Receiver<Vec<u8>>>,
    exit_code: Arc<Mutex<Option<i32>>>,
}

impl AgentLine {
    /// Listens to a command that was started with a terminal.
    pub fn new(command: Channel) -> Self {
        let keyboard = command.keyboard();
        let (sender, output) = channel();
        let exit_code = Arc::new(Mutex::new(None));
        let code = exit_code.clone();
        std::thread::spawn(move || listen(command, &sender, &code));
        Self { keyboard, output: Some(output), exit_code }
    }
}

fn listen(mut channel: Channel, output: &Sender<Vec<u8>>, code: &Mutex<Option<i32>>) {
    let set = |value| *code.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    loop {
        match channel.next(LOOK) {
            Next::Frame(frame) => match frame.kind {
                Kind::Exit => return set(frame.number().unwrap_or(-1)),
                Kind::Refused => {
                    let _ = output.send(frame.payload);
                    return set(-1);
                }
                // Nobody reads this terminal any more: dropping the channel ends the command.
                _ if output.send(frame.payload).is_err() => return,
                _ => {}
            },
            Next::Late => {}
            Next::Gone => return set(-1),
        }
    }
}

impl Drop for AgentLine {
    fn drop(&mut self) {
        // The command, or the whole desktop, may have ended before.
        let _ = self.keyboard.close();
    }
}

impl Line for AgentLine {
    fn output(&mut self) -> Receiver<Vec<u8>> {
        self.output.take().expect("it is asked for once")
    }

    fn type_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.keyboard.write_all(bytes)
    }

    fn resize(&mut self, rows: u16, cols: u16) -> io::Result<()> {
        self.keyboard.resize(rows, cols)
    }

    fn exit_code(&mut self) -> io::Result<Option<i32>> {
        Ok(*self.exit_code.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
