//! The laboratory, scenarios, benchmarks and soaks.

pub mod bench;
pub mod command;
pub mod counter;
pub mod demo;
pub mod desktops;
pub mod lab;
pub mod node;
pub mod os;
pub mod soak;
pub mod terminal;
