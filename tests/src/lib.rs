//! Scenarios, benchmarks and fuzz targets.
