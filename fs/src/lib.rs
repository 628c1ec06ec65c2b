//! A home's files served to where the app is.
pub mod cache;
pub mod client;
#[cfg(feature = "fuse")]
pub mod fuse;
pub mod ids;
pub mod manifest;
mod os;
pub mod proto;
pub mod server;
