//! The link end to end: real endpoints and real QUIC.

mod abroad;
mod bulk;
mod common;
mod connections;
mod membership;
mod namespaces;
mod netns;
mod relay;
mod requests;
