//! Scenarios, benchmarks and fuzz targets.

pub mod bench;
pub mod lab;
