//! The reference data, see `../data/simgrid/README.md`.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::OnceLock;

use phantom_broker::Grid;
use phantom_broker::sim::{Arrival, read_grid, read_jobs};

const ARCHIVE: &[u8] = include_bytes!("../data/simgrid/simgrid.cpio.gz");

/// Files by name.
pub type Files = BTreeMap<String, String>;

/// All of them.
pub fn files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let mut archive = Vec::new();
        flate2::read::GzDecoder::new(ARCHIVE).read_to_end(&mut archive).unwrap();
        let mut rest = archive.as_slice();
        let mut files = Files::new();
        loop {
            let mut reader = cpio::NewcReader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return files;
            }
            let (name, mut text) = (reader.entry().name().to_owned(), String::new());
            reader.read_to_string(&mut text).unwrap();
            files.insert(name, text);
            rest = reader.finish().unwrap();
        }
    })
}

/// Reads a grid.
pub fn grid(name: &str) -> Grid {
    read_grid(name, &files()[name]).unwrap()
}

/// Reads jobs.
pub fn jobs(name: &str) -> Vec<Arrival> {
    read_jobs(name, &files()[name]).unwrap()
}

/// Lines of a file, each by its headings.
pub fn table(name: &str) -> Vec<BTreeMap<&'static str, &'static str>> {
    let mut lines = files()[name].lines();
    let headings: Vec<&str> = lines.next().unwrap().split(',').collect();
    lines.map(|line| headings.iter().copied().zip(line.split(',')).collect()).collect()
}
