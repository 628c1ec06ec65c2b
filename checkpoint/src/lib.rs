//! Saves a capsule, checks a saved one, restores it, and hands it over between two nodes.
pub mod canary;
mod cancel;
pub mod dump;
mod error;
pub mod image;
pub mod inspect;
mod log;
pub mod machine;
mod os;
pub mod plan;
pub mod restore;
pub mod stream;

pub use cancel::Cancel;
pub use error::{Error, Task};
pub use os::criu::{Criu, Version};
