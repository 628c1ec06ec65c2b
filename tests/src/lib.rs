//! Scenarios, benchmarks and fuzz targets.

pub mod bench;
pub mod lab;
pub mod os;
