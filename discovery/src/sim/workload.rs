//! Who is in a made-up grid, and what they ask for.

use phantom_classad::{Ad, Value};
use phantom_model::{NodeId, SubgridId};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::machine::query::{Directory, Request, Scope};

/// The members of one sub-grid as its registry has them.
#[derive(Debug, Default)]
pub struct Registry {
    /// Descriptions, by number of the member.
    pub ads: Vec<(NodeId, Ad)>,
    /// The virtual organisation that the first half of them is in.
    pub vo: String,
}

impl Directory for Registry {
    fn ads<'a>(&'a self, vo: Option<&str>) -> Box<dyn Iterator<Item = (NodeId, &'a Ad)> + 'a> {
        let members = match vo {
            None => self.ads.len(),
            Some(vo) if vo == self.vo => self.ads.len() / 2,
            Some(_) => 0,
        };
        Box::new(self.ads.iter().take(members).map(|(node, ad)| (*node, ad)))
    }
}

/// What kind of place a sub-grid is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Desktops.
    Office,
    /// Stronger ones.
    Laboratory,
    /// A small cluster, whose nodes have graphics processors.
    Cluster,
    /// Desktops with another architecture.
    Arm,
}

impl Kind {
    /// Of the sub-grid with this number: every fifth is a laboratory; of clusters and of other
    /// architectures there is one in each third region or so.
    pub fn of(number: usize) -> Self {
        match number % 60 {
            7 | 33 => Kind::Cluster,
            11 | 52 => Kind::Arm,
            at if at % 5 == 3 => Kind::Laboratory,
            _ => Kind::Office,
        }
    }
}

/// A node's description.
pub fn ad(kind: Kind, name: &str, rng: &mut StdRng) -> Ad {
    let mut one = |of: &[i64]| of.get(rng.random_range(0..of.len())).copied().unwrap_or(1);
    let (cpus, memory, mflops) = match kind {
        Kind::Office => (one(&[2, 4, 4, 8]), one(&[4096, 8192, 16_384]), one(&[900, 1500, 2500])),
        Kind::Laboratory => (one(&[8, 16, 32]), one(&[16_384, 32_768, 65_536]), one(&[2000, 3000])),
        Kind::Cluster => (64, 262_144, one(&[3000, 3500])),
        Kind::Arm => (one(&[4, 8]), one(&[4096, 8192]), one(&[800, 1200])),
    };
    let mut ad = Ad::default();
    ad.insert("Name", Value::from(name));
    ad.insert("Arch", Value::from(if kind == Kind::Arm { "aarch64" } else { "x86_64" }));
    ad.insert("OpSys", Value::from("LINUX"));
    ad.insert("Cpus", Value::Int(cpus));
    ad.insert("Mflops", Value::Int(mflops));
    ad.insert("Memory", Value::Int(memory));
    ad.insert("Disk", Value::Int(memory * 16));
    ad.insert("FreeDisk", Value::Int(memory * 8));
    if kind == Kind::Cluster {
        ad.insert("HasGpu", Value::from(true));
    }
    load(&mut ad, cpus, memory, rng);
    ad
}

/// A node's load is another now.
pub fn change(ad: &mut Ad, rng: &mut StdRng) {
    let of = |name| ad.value(name).number().unwrap_or(1.0) as i64;
    let (cpus, memory) = (of("Cpus"), of("Memory"));
    load(ad, cpus, memory, rng);
}

fn load(ad: &mut Ad, cpus: i64, memory: i64, rng: &mut StdRng) {
    let busy: f64 = rng.random_range(0.0..1.0);
    let idle = (cpus as f64 * (1.0 - busy * busy) * 100.0).floor() / 100.0;
    ad.insert("Idle", Value::Real(idle));
    ad.insert("LoadAvg", Value::Real(cpus as f64 - idle));
    ad.insert("FreeMemory", Value::Int((memory as f64 * (1.0 - busy / 2.0)) as i64));
}

/// What one node asks for. `own` are its sub-grid's members; half of the questions are such that many
/// of them can be met at home.
pub fn request(scope: Scope, rng: &mut StdRng) -> Request {
    let texts = [
        "Idle >= 2 && FreeMemory >= 2048",
        "Idle >= 1 && Mflops > 1000",
        "Cpus >= 4 && LoadAvg < 2 && Arch == \"x86_64\"",
        "Idle >= 3 && FreeMemory >= 4096",
        "Idle >= 12 && FreeMemory >= 16384",
        "TARGET.Cpus >= 32 && LoadAvg < 8",
        "Idle >= 6 && FreeDisk > 300000",
        "Arch == \"aarch64\" && Idle >= 2",
        "HasGpu && Idle >= 16",
        "FreeMemory > 140000",
        "Idle >= 100",
        "Arch == \"riscv64\"",
    ];
    let text = texts.get(rng.random_range(0..texts.len())).copied().unwrap_or("true");
    let rank = ["", "Idle * Mflops", "FreeMemory"];
    let rank = rank.get(rng.random_range(0..3)).filter(|rank| !rank.is_empty());
    Request {
        requirements: text.to_owned(),
        rank: rank.map(|rank| (*rank).to_owned()),
        wanted: [1, 1, 2, 3, 5].get(rng.random_range(0..5)).copied().unwrap_or(1),
        scope,
        vo: None,
        patience: std::time::Duration::from_secs(10),
    }
}

/// The id of the node with this number.
pub fn node_id(number: usize) -> NodeId {
    NodeId(numbered(number, 0x6e))
}

/// The number of a node, if it is one of these.
pub fn number_of(node: NodeId) -> Option<usize> {
    let number = u64::from_be_bytes(*node.0.last_chunk()?);
    usize::try_from(number).ok().filter(|number| node_id(*number) == node)
}

/// The id of the sub-grid with this number.
pub fn subgrid_id(number: usize) -> SubgridId {
    SubgridId(numbered(number, 0x73))
}

/// Well spread at its beginning, as keys are, and with its number at its end.
fn numbered(number: usize, kind: u8) -> [u8; 32] {
    let mut id = *blake3::hash(&[&[kind], &number.to_be_bytes()[..]].concat()).as_bytes();
    if let Some(end) = id.last_chunk_mut() {
        *end = (number as u64).to_be_bytes();
    }
    id
}
