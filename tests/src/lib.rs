//! Scenarios, benchmarks and fuzz targets.

pub mod bench;
pub mod demo;
pub mod desktops;
pub mod lab;
pub mod node;
pub mod os;
pub mod terminal;
