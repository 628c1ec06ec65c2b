//! Scenarios, benchmarks and fuzz targets.

pub mod lab;
