//! A user's terminal and the shim that holds the app, over a Unix socket on the app's home.
//!
//! [`hub`] is the shim's side: any number of terminals of the app's user, and one app, here or
//! away. [`client`] is the terminal's side. Output is read on when nobody is attached; its last
//! part is shown to whoever attaches next.

pub mod client;
pub mod hub;
mod input;
mod keys;
mod screen;

use phantom_model::TermSize;
use serde::{Deserialize, Serialize};

/// From the terminal to the shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToShim {
    /// First: the terminal's size.
    Hello(TermSize),
    /// Typed.
    Data(Vec<u8>),
    /// The window has another size.
    Resize(TermSize),
}

/// From the shim to the terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToTerminal {
    /// Printed.
    Data(Vec<u8>),
    /// One line about the app, not from it.
    Message {
        /// The line.
        line: String,
        /// Whether the app has the whole screen for itself.
        full_screen: bool,
    },
    /// The app has ended with this code; the last frame.
    Exit(i32),
}
