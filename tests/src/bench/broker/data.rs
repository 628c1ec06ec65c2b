//! Folders of grids and jobs.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use phantom_broker::Grid;
use phantom_broker::sim::{Arrival, read_grid, read_jobs};

/// Longer files are not read.
const MOST_BYTES: u64 = 256 << 20;
/// More files are not read.
const MOST_FILES: usize = 10_000;

/// Files by name.
#[derive(Debug)]
pub struct Folder {
    files: BTreeMap<String, String>,
}

/// What the name of a file says: `plat_uni_star_n0050_s1.csv`, `jobs_cpu_poisson0.8_n0100_s1.csv`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Name {
    /// The file's name.
    pub file: String,
    /// Words that are none of the others: `uni`, `cpu`, `poisson0.8`.
    pub words: Vec<String>,
    /// `star` or `tier`.
    pub topology: Option<String>,
    /// How many nodes.
    pub nodes: Option<usize>,
    /// The generator's seed.
    pub seed: Option<u64>,
}

impl Name {
    fn of(file: &str) -> Self {
        let mut name = Self { file: file.to_owned(), ..Self::default() };
        for word in file.trim_end_matches(".csv").split('_').skip(1) {
            let number =
                |letter| word.strip_prefix(letter).and_then(|digits: &str| digits.parse().ok());
            if let Some(nodes) = number('n') {
                name.nodes = Some(nodes as usize);
            } else if let Some(seed) = number('s') {
                name.seed = Some(seed);
            } else if ["star", "tier"].contains(&word) {
                name.topology = Some(word.to_owned());
            } else {
                name.words.push(word.to_owned());
            }
        }
        name
    }

    /// Whether these jobs are meant for that grid: whatever both names say is the same.
    pub fn suits(&self, grid: &Name) -> bool {
        fn same<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        same(self.nodes.as_ref(), grid.nodes.as_ref())
            && same(self.seed.as_ref(), grid.seed.as_ref())
            && same(self.topology.as_ref(), grid.topology.as_ref())
    }
}

impl Folder {
    /// Reads an archive: cpio, gzipped.
    pub fn unpack(archive: &[u8]) -> anyhow::Result<Self> {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(archive)
            .read_to_end(&mut bytes)
            .context("archive of grids")?;
        let (mut rest, mut files) = (bytes.as_slice(), BTreeMap::new());
        loop {
            let mut reader = cpio::NewcReader::new(rest).context("archive of grids")?;
            if reader.entry().is_trailer() {
                return Ok(Self { files });
            }
            let (name, mut text) = (reader.entry().name().to_owned(), String::new());
            reader.read_to_string(&mut text).with_context(|| name.clone())?;
            files.insert(name, text);
            rest = reader.finish().context("archive of grids")?;
        }
    }

    /// Reads the `.csv` files of a folder.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let entries = std::fs::read_dir(path).with_context(|| {
            format!("cannot read {shown}: give --data a folder with plat_*.csv and jobs_*.csv")
        })?;
        let mut files = BTreeMap::new();
        for entry in entries {
            let path = entry.with_context(|| format!("cannot read {shown}"))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !name.ends_with(".csv") {
                continue;
            }
            ensure!(files.len() < MOST_FILES, "{shown} has more than {MOST_FILES} files: split it");
            let file = std::fs::File::open(&path).with_context(|| format!("cannot read {name}"))?;
            let mut text = String::new();
            let read = file.take(MOST_BYTES + 1).read_to_string(&mut text);
            read.with_context(|| format!("cannot read {name} as text"))?;
            ensure!(text.len() as u64 <= MOST_BYTES, "{name} is over {MOST_BYTES} bytes: split it");
            files.insert(name, text);
        }
        let folder = Self { files };
        if folder.names("plat_").is_empty() || folder.names("jobs_").is_empty() {
            bail!("{shown} has no plat_*.csv or no jobs_*.csv: one of each is needed");
        }
        Ok(folder)
    }

    /// Names of files that begin so, in order.
    pub fn names(&self, beginning: &str) -> Vec<Name> {
        self.files
            .keys()
            .filter(|name| name.starts_with(beginning))
            .map(|name| Name::of(name))
            .collect()
    }

    /// A file's text.
    pub fn text(&self, file: &str) -> anyhow::Result<&str> {
        self.files.get(file).map(String::as_str).with_context(|| format!("{file} is missing"))
    }

    /// Reads a grid.
    pub fn grid(&self, file: &str) -> anyhow::Result<Grid> {
        Ok(read_grid(file, self.text(file)?)?)
    }

    /// Reads jobs.
    pub fn jobs(&self, file: &str) -> anyhow::Result<Vec<Arrival>> {
        Ok(read_jobs(file, self.text(file)?)?)
    }

    /// A table's lines, each by its headings.
    pub fn table(&self, file: &str) -> anyhow::Result<Vec<BTreeMap<&str, &str>>> {
        let mut lines = self.text(file)?.lines();
        let headings: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
        Ok(lines.map(|line| headings.iter().copied().zip(line.split(',')).collect()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_go_with_the_grids_their_names_mean() {
        let star = Name::of("plat_uni_star_n0100_s2.csv");
        let suits = |jobs: &str| Name::of(jobs).suits(&star);
        assert!(suits("jobs_cpu.csv"));
        assert!(suits("jobs_mix_s2.csv") && !suits("jobs_mix_s1.csv"));
        assert!(suits("jobs_cpu_poisson0.8_n0100_s2.csv"));
        assert!(!suits("jobs_cpu_poisson0.8_n0200_s2.csv"));
        assert!(!suits("jobs_cpu_tier_s2.csv"));
    }
}
