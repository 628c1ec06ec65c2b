//! Images: directories of files written by CRIU, taken as hostile when they come from another
//! node.
//!
//! | module | what it does |
//! |---|---|
//! | [`name`] | the names a file of an image may have |
//! | [`proto`] | the messages in the files, as far as they are looked at |
//! | [`decode`] | from bytes to messages, with bounds |
//! | [`check`] | an image against what the record allows |
//! | [`users`] | the user namespace, moved to another range of ids |

pub mod check;
pub mod decode;
pub mod name;
pub mod proto;
pub mod users;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why an image is not acceptable.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A file that no image of Phantom's has.
    #[error("the image has a file `{name}`, which is not expected there")]
    Name {
        /// What it is called.
        name: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} the image file {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Bytes that are not what the file's name says.
    #[error("{file}: {reason}")]
    Malformed {
        /// Which file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// Something the app record does not allow.
    #[error("{file}: {field} is {found}, must be {wanted}")]
    Refused {
        /// Which file.
        file: String,
        /// Which field.
        field: String,
        /// What it holds.
        found: String,
        /// What would be accepted.
        wanted: String,
    },
    /// More than was agreed on.
    #[error("the image is larger than the {limit} bytes reserved for it")]
    TooLarge {
        /// What was reserved.
        limit: u64,
    },
    /// The stream broke its own rules.
    #[error("the image's stream is wrong: {0}")]
    Stream(String),
}
