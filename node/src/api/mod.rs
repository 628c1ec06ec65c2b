//! The local API: HTTP and JSON on a Unix socket, authorised by peer credentials.

pub mod client;
pub mod query;
pub mod region;
pub mod server;
pub mod types;
