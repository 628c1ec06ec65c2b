//! The numbers of a node's description, if they can be true.

use phantom_classad::{Ad, Value};

/// Descriptions have no more attributes.
pub(crate) const MAX_ATTRIBUTES: usize = 128;
/// Operations that evaluating one attribute may take.
const STEPS: u32 = 1_000;

/// An attribute whose values are counted.
pub(super) struct Kind {
    /// Its name in lower case.
    pub key: &'static str,
    /// What one unit of it is worth in the counting; quarters of a core are told apart.
    pub scale: f64,
    /// More cannot be true of a node.
    pub most: f64,
}

pub(super) const CPUS: usize = 0;
pub(super) const IDLE: usize = 1;
pub(super) const MFLOPS: usize = 2;
pub(super) const MEMORY: usize = 3;
pub(super) const FREE_MEMORY: usize = 4;
pub(super) const DISK: usize = 5;
pub(super) const FREE_DISK: usize = 6;
pub(super) const KINDS: [Kind; 8] = [
    Kind { key: "cpus", scale: 1.0, most: 8192.0 },
    Kind { key: "idle", scale: 4.0, most: 8192.0 },
    Kind { key: "mflops", scale: 1.0, most: 1e6 },
    Kind { key: "memory", scale: 1.0, most: 67_108_864.0 },
    Kind { key: "freememory", scale: 1.0, most: 67_108_864.0 },
    Kind { key: "disk", scale: 1.0, most: 1_073_741_824.0 },
    Kind { key: "freedisk", scale: 1.0, most: 1_073_741_824.0 },
    Kind { key: "loadavg", scale: 4.0, most: 1e6 },
];

/// What a node says of itself in numbers, in the order of [`KINDS`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Figures {
    /// The numbers; `None` for what is not said.
    pub said: [Option<f64>; KINDS.len()],
    /// Which of them depend on who asks.
    pub open: [bool; KINDS.len()],
}

impl Figures {
    /// Reads them; `None` when a number is none, or cannot be true: negative, infinite, more than
    /// any machine has, or more free than there is.
    pub fn of(ad: &Ad) -> Option<Self> {
        if ad.len() > MAX_ATTRIBUTES {
            return None;
        }
        let mut figures = Self::default();
        for ((kind, said), open) in KINDS.iter().zip(&mut figures.said).zip(&mut figures.open) {
            let Some(expr) = ad.get(kind.key) else { continue };
            *open = expr.constant().is_none();
            *said = match phantom_classad::Scope::of(ad).within(STEPS).attribute(kind.key) {
                Value::Undefined => None,
                value => Some(value.number().filter(|it| (0.0..=kind.most).contains(it))?),
            };
        }
        let pairs = [(IDLE, CPUS), (FREE_MEMORY, MEMORY), (FREE_DISK, DISK)];
        let fits = |(free, all): (usize, usize)| match (figures.get(free), figures.get(all)) {
            (Some(free), Some(all)) => free <= all,
            _ => true,
        };
        pairs.into_iter().all(fits).then_some(figures)
    }

    /// One of them.
    pub fn get(&self, kind: usize) -> Option<f64> {
        self.said.get(kind).copied().flatten()
    }
}

/// Whether what a node says of itself can be true; what cannot is never offered to anybody.
pub(crate) fn is_plausible(ad: &Ad) -> bool {
    Figures::of(ad).is_some()
}
