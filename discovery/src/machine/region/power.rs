//! The cumulative power of a sub-grid (paper, 4.4.2): its theoretical peak and what is free, summed
//! over what its members say of themselves; and a summary that lets a region-peer pass over
//! sub-grids that cannot meet a query without asking them.
//!
//! The attributes that are summed and counted: `Cpus`, `Idle` (cores), `LoadAvg`, `Mflops` (of one
//! core), `Memory`, `FreeMemory`, `Disk` and `FreeDisk` (MiB). Of all others it is remembered that
//! somebody has them, and with which strings and truths.
//!
//! What holds:
//! - A summary never says that nobody matches where a member does, as long as it is of the same ads
//!   ([`Summary::estimate`]).
//! - It is at most [`MAX_SUMMARY`] bytes, whatever the ads say and however many are merged.
//! - A description with a number that cannot be true counts for nothing.

use phantom_classad::{Ad, Comparison, Expr, Value};
use phantom_model::NodeId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::figures::{CPUS, DISK, FREE_DISK, FREE_MEMORY, Figures, IDLE, KINDS, MEMORY, MFLOPS};

/// No summary is longer, in bytes.
pub const MAX_SUMMARY: usize = 2048;
/// Nodes that one summary can be of.
pub const MAX_NODES: u32 = 1 << 20;
/// The longest string that is remembered as it is, in bytes.
const MAX_WORD: usize = 64;
const BUCKETS: usize = 32;
const WORDS: usize = 16;
/// Bits that each word sets, of `WORDS * 256`.
const MARKS: usize = 3;

/// What a sub-grid has and what is free, of the members whose descriptions can be true.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Power {
    /// Members.
    pub nodes: u32,
    /// Members whose descriptions cannot be true; they count for nothing.
    pub refused: u32,
    /// Cores.
    pub cores: u64,
    /// Idle cores, in hundredths.
    pub free_centicores: u64,
    /// Theoretical peak: cores times the speed of one, in million floating-point operations a second.
    pub peak_mflops: u64,
    /// The same of idle cores.
    pub free_mflops: u64,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Free memory in MiB.
    pub free_memory_mib: u64,
    /// Storage in MiB.
    pub disk_mib: u64,
    /// Free storage in MiB.
    pub free_disk_mib: u64,
}

impl Power {
    fn add(&mut self, figures: &Figures) {
        let get = |kind| figures.get(kind).unwrap_or(0.0);
        let add = |sum: &mut u64, more: f64| *sum = sum.saturating_add(more as u64);
        self.nodes = self.nodes.saturating_add(1);
        add(&mut self.cores, get(CPUS));
        add(&mut self.free_centicores, get(IDLE) * 100.0);
        add(&mut self.peak_mflops, get(CPUS) * get(MFLOPS));
        add(&mut self.free_mflops, get(IDLE) * get(MFLOPS));
        add(&mut self.memory_mib, get(MEMORY));
        add(&mut self.free_memory_mib, get(FREE_MEMORY));
        add(&mut self.disk_mib, get(DISK));
        add(&mut self.free_disk_mib, get(FREE_DISK));
    }

    /// With another sub-grid's.
    fn merge(&mut self, other: &Self) {
        self.nodes = self.nodes.saturating_add(other.nodes).min(MAX_NODES);
        self.refused = self.refused.saturating_add(other.refused).min(MAX_NODES);
        for (sum, more) in self.sums_mut().into_iter().zip(other.sums()) {
            *sum = sum.saturating_add(more);
        }
    }

    fn sums(&self) -> [u64; 8] {
        [
            self.cores,
            self.free_centicores,
            self.peak_mflops,
            self.free_mflops,
            self.memory_mib,
            self.free_memory_mib,
            self.disk_mib,
            self.free_disk_mib,
        ]
    }

    fn sums_mut(&mut self) -> [&mut u64; 8] {
        [
            &mut self.cores,
            &mut self.free_centicores,
            &mut self.peak_mflops,
            &mut self.free_mflops,
            &mut self.memory_mib,
            &mut self.free_memory_mib,
            &mut self.disk_mib,
            &mut self.free_disk_mib,
        ]
    }

    /// Whether so many nodes can have that much.
    fn is_possible(&self) -> bool {
        let nodes = f64::from(self.nodes);
        let most = |kind: usize| KINDS.get(kind).map_or(0.0, |kind| kind.most);
        let speed = most(CPUS) * most(MFLOPS);
        let limits = [
            most(CPUS),
            most(IDLE) * 100.0,
            speed,
            speed,
            most(MEMORY),
            most(FREE_MEMORY),
            most(DISK),
            most(FREE_DISK),
        ];
        let bounded = self.sums().into_iter().zip(limits);
        self.nodes <= MAX_NODES
            && self.refused <= MAX_NODES
            && bounded.into_iter().all(|(sum, limit)| sum as f64 <= limit * nodes)
    }
}

/// How an attribute's values spread: how many lie in each power of two.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Spread {
    /// Members whose value depends on who asks.
    open: u32,
    least: f64,
    most: f64,
    counts: [u16; BUCKETS],
}

impl Default for Spread {
    fn default() -> Self {
        Self { open: 0, least: 0.0, most: 0.0, counts: [0; BUCKETS] }
    }
}

/// Which power of two a scaled value lies in; 0 for less than one.
fn bucket(scaled: f64) -> usize {
    if scaled < 1.0 { 0 } else { (scaled.log2().floor() as usize + 1).min(BUCKETS - 1) }
}

impl Spread {
    fn known(&self) -> u32 {
        self.counts.iter().map(|count| u32::from(*count)).sum()
    }

    fn add(&mut self, value: f64, scale: f64) {
        let first = self.known() == 0;
        self.least = if first { value } else { self.least.min(value) };
        self.most = if first { value } else { self.most.max(value) };
        if let Some(count) = self.counts.get_mut(bucket(value * scale)) {
            *count = count.saturating_add(1);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.open = self.open.saturating_add(other.open).min(MAX_NODES);
        if other.known() == 0 {
            return;
        }
        let first = self.known() == 0;
        self.least = if first { other.least } else { self.least.min(other.least) };
        self.most = if first { other.most } else { self.most.max(other.most) };
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count = count.saturating_add(more);
        }
    }

    fn is_possible(&self, most: f64, nodes: u32) -> bool {
        let ordered = 0.0 <= self.least && self.least <= self.most && self.most <= most;
        ordered && u64::from(self.known()) + u64::from(self.open) <= u64::from(nodes)
    }

    /// How many values can lie between `low` and `high`, both included, and how many are likely to.
    fn between(&self, low: f64, high: f64, scale: f64) -> (u32, f64) {
        let (low, high) = (low.max(self.least), high.min(self.most));
        let (mut can, mut likely) = (self.open, f64::from(self.open) / 2.0);
        if low > high || self.known() == 0 {
            return (can, likely);
        }
        let (first, last) = (bucket(low * scale), bucket(high * scale));
        for (at, count) in self.counts.iter().enumerate().take(last + 1).skip(first) {
            can = can.saturating_add((*count).into());
            let begins = if at == 0 { 0.0 } else { 2f64.powi(at as i32 - 1) / scale };
            let ends = 2f64.powi(at as i32) / scale;
            let (begins, ends) = (begins.max(self.least), ends.min(self.most));
            let whole = ends - begins;
            let part = ends.min(high) - begins.max(low);
            let share = if whole > 0.0 { (part / whole).clamp(0.05, 1.0) } else { 1.0 };
            likely += f64::from(*count) * share;
        }
        (can, likely)
    }
}

/// A set of words that may take others for its own, but never misses one (Bloom, 1970).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Words([[u8; 32]; WORDS]);

/// What is remembered of an attribute.
enum Word<'a> {
    /// Somebody has it.
    There,
    True,
    False,
    Text(&'a str),
    /// It may be anything.
    Any,
}

impl Words {
    fn marks(name: &str, word: &Word<'_>) -> impl Iterator<Item = (usize, usize, u8)> {
        let (kind, text) = match word {
            Word::There => (0, ""),
            Word::True => (1, ""),
            Word::False => (2, ""),
            Word::Text(text) => (3, *text),
            Word::Any => (4, ""),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(name.to_ascii_lowercase().as_bytes()).update(&[0, kind]);
        hasher.update(text.to_lowercase().as_bytes());
        let digest = *hasher.finalize().as_bytes();
        (0..MARKS).map(move |mark| {
            let pair = digest.chunks_exact(2).nth(mark).and_then(|pair| pair.first_chunk::<2>());
            let at = usize::from(u16::from_le_bytes(pair.copied().unwrap_or_default()));
            (at / 256 % WORDS, at / 8 % 32, 1 << (at % 8))
        })
    }

    fn insert(&mut self, name: &str, word: &Word<'_>) {
        for (row, byte, bit) in Self::marks(name, word) {
            if let Some(byte) = self.0.get_mut(row).and_then(|row| row.get_mut(byte)) {
                *byte |= bit;
            }
        }
    }

    fn may_have(&self, name: &str, word: &Word<'_>) -> bool {
        Self::marks(name, word).all(|(row, byte, bit)| {
            self.0.get(row).and_then(|row| row.get(byte)).is_some_and(|byte| byte & bit != 0)
        })
    }

    fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *mine |= theirs;
        }
    }
}

/// A text that is no summary.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the summary of a sub-grid {what}: its super-peer runs another version, or lies")]
pub struct BadSummary {
    what: &'static str,
}

/// What a region-peer knows of the members of a sub-grid.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    power: Power,
    spreads: [Spread; KINDS.len()],
    words: Words,
}

/// How many members of a sub-grid may match.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// No more can.
    pub most: u32,
    /// So many are likely to, if one attribute says nothing of another.
    pub likely: f64,
}

/// What a query needs of single attributes.
#[derive(Debug, Clone, Default)]
pub struct Need {
    parts: Vec<(Box<str>, Comparison, Value)>,
}

impl Need {
    /// What wherever `requirements` is true must hold. Names that the query's own ad has
    /// ([`crate::machine::query`]) are looked up there, so nothing is known of them.
    pub fn of(requirements: &Expr) -> Self {
        let parts = requirements.constraints().into_iter();
        let parts = parts.filter(|part| !["requirements", "rank", "vo"].contains(&part.name));
        Self { parts: parts.map(|it| (it.name.into(), it.comparison, it.value)).collect() }
    }

    /// The attributes it is about, in lower case.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|(name, ..)| &**name)
    }
}

impl Summary {
    /// Of these descriptions; members beyond [`MAX_NODES`] are left out.
    pub fn of<'a>(ads: impl IntoIterator<Item = (NodeId, &'a Ad)>) -> Self {
        let mut summary = Self::default();
        for (_, ad) in ads.into_iter().take(MAX_NODES as usize) {
            summary.add(ad);
        }
        summary
    }

    fn add(&mut self, ad: &Ad) {
        let Some(figures) = Figures::of(ad) else {
            self.power.refused = self.power.refused.saturating_add(1);
            return;
        };
        self.power.add(&figures);
        let numbers = figures.said.iter().zip(figures.open).zip(KINDS);
        for (spread, ((said, open), kind)) in self.spreads.iter_mut().zip(numbers) {
            match said {
                _ if open => spread.open = spread.open.saturating_add(1),
                Some(value) => spread.add(*value, kind.scale),
                None => {}
            }
        }
        for (name, expr) in ad.iter() {
            self.words.insert(name, &Word::There);
            match expr.constant() {
                Some(Value::Text(text)) if text.len() <= MAX_WORD => {
                    self.words.insert(name, &Word::Text(text));
                }
                Some(Value::Text(_)) | None => self.words.insert(name, &Word::Any),
                Some(value) if value.is_true() => self.words.insert(name, &Word::True),
                Some(_) => self.words.insert(name, &Word::False),
            }
        }
    }

    /// With another sub-grid's: what a region has.
    pub fn merge(&mut self, other: &Self) {
        self.power.merge(&other.power);
        for (spread, other) in self.spreads.iter_mut().zip(&other.spreads) {
            spread.merge(other);
        }
        self.words.merge(&other.words);
    }

    /// The sums.
    pub fn power(&self) -> &Power {
        &self.power
    }

    /// How many members may match what `need` is of.
    pub fn estimate(&self, need: &Need) -> Estimate {
        let nodes = f64::from(self.power.nodes);
        let mut estimate = Estimate { most: self.power.nodes, likely: nodes };
        if self.power.nodes == 0 {
            return estimate;
        }
        for (name, comparison, value) in &need.parts {
            let (can, likely) = self.part(name, *comparison, value);
            estimate.most = estimate.most.min(can);
            estimate.likely *= (likely / nodes).min(1.0);
        }
        estimate.likely = estimate.likely.min(estimate.most.into());
        estimate
    }

    fn part(&self, name: &str, comparison: Comparison, value: &Value) -> (u32, f64) {
        let nodes = self.power.nodes;
        let kind = KINDS.iter().zip(&self.spreads).find(|(kind, _)| kind.key == name);
        if let Some((kind, spread)) = kind {
            let (low, high) = match (comparison, value) {
                (_, Value::Text(_)) => (1.0, 0.0),
                (Comparison::Equal, Value::Bool(_)) => (0.0, f64::INFINITY),
                (comparison, value) => {
                    let Some(number) = value.number() else { return (nodes, nodes.into()) };
                    match comparison {
                        Comparison::Less | Comparison::LessEqual => (0.0, number),
                        Comparison::Greater | Comparison::GreaterEqual => (number, f64::INFINITY),
                        Comparison::Equal => (number, number),
                    }
                }
            };
            return spread.between(low, high, kind.scale);
        }
        let word = match (comparison, value) {
            (Comparison::Equal, Value::Text(text)) if text.len() <= MAX_WORD => Word::Text(text),
            (Comparison::Equal, Value::Bool(true)) => Word::True,
            (Comparison::Equal, Value::Bool(false)) => Word::False,
            _ => Word::There,
        };
        let may = self.words.may_have(name, &word) || self.words.may_have(name, &Word::Any);
        // Of so many nobody knows how many.
        if may { (nodes, f64::from(nodes) / 4.0) } else { (0, 0.0) }
    }

    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Reads what another node has sent.
    pub fn read(bytes: &[u8]) -> Result<Self, BadSummary> {
        let bad = |what| Err(BadSummary { what });
        if bytes.len() > MAX_SUMMARY {
            return bad("is longer than 2 KiB");
        }
        let Ok((summary, rest)) = postcard::take_from_bytes::<Self>(bytes) else {
            return bad("cannot be read");
        };
        if !rest.is_empty() {
            return bad("has bytes after its end");
        }
        if !summary.is_possible() {
            return bad("tells of more than its members can have");
        }
        Ok(summary)
    }

    fn is_possible(&self) -> bool {
        let spreads = self.spreads.iter().zip(KINDS);
        let mut checked = spreads.map(|(it, kind)| it.is_possible(kind.most, self.power.nodes));
        checked.all(|good| good) && self.power.is_possible()
    }

    /// By which sender and receiver tell that they have the same.
    pub fn digest(&self) -> [u8; 8] {
        super::first(*blake3::hash(&self.to_bytes()).as_bytes())
    }

    /// What has changed since `base`.
    pub fn difference(&self, base: &Self) -> Difference {
        let at = |index: usize| u8::try_from(index).unwrap_or(u8::MAX);
        let spreads = self.spreads.iter().zip(&base.spreads).enumerate();
        let rows = self.words.0.iter().zip(&base.words.0).enumerate();
        Difference {
            base: base.digest(),
            power: self.power,
            spreads: spreads
                .filter(|(_, (new, old))| new != old)
                .map(|(index, (new, _))| (at(index), *new))
                .collect(),
            rows: rows
                .filter(|(_, (new, old))| new != old)
                .map(|(index, (new, _))| (at(index), *new))
                .collect(),
        }
    }

    /// With what has changed. `None` when the difference is to another one, or leads to nothing that
    /// can be true.
    pub fn apply(&self, difference: &Difference) -> Option<Self> {
        if difference.base != self.digest() {
            return None;
        }
        let mut summary = Self { power: difference.power, ..self.clone() };
        for (index, spread) in &difference.spreads {
            *summary.spreads.get_mut(usize::from(*index))? = *spread;
        }
        for (index, row) in &difference.rows {
            *summary.words.0.get_mut(usize::from(*index))? = *row;
        }
        summary.is_possible().then_some(summary)
    }
}

/// What has changed in a summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Digest of the summary it is to.
    base: [u8; 8],
    power: Power,
    spreads: Vec<(u8, Spread)>,
    rows: Vec<(u8, [u8; 32])>,
}

#[cfg(test)]
mod tests;
