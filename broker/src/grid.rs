//! Nodes, the ways to them, and jobs, as a broker of jobs reckons with them.

/// A node and the way to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GridNode {
    /// Speed, flop/s.
    pub flops_per_s: f64,
    /// Its own link, bytes/s.
    pub bytes_per_s: f64,
    /// One way from the requester to it, seconds; paid once a transfer.
    pub latency_s: f64,
    /// The site whose trunk it shares, an index into [`Grid::trunks`].
    pub site: Option<u32>,
}

impl GridNode {
    /// Whether a job can be given to it: a speed that is none, or cannot be, never wins a rank.
    pub fn is_sound(&self) -> bool {
        sound_rate(self.flops_per_s)
            && sound_rate(self.bytes_per_s)
            && (0.0..=MOST_LATENCY_S).contains(&self.latency_s)
    }
}

/// Faster than any machine or link there is: what says so errs or lies.
const MOST_RATE: f64 = 1e18;
/// Slower than anything of use: what takes that long would never end.
const LEAST_RATE: f64 = 1e-6;
/// A way that takes longer is none.
const MOST_LATENCY_S: f64 = 1e6;

/// Whether a number of things a second can be true, and is of use.
pub(crate) fn sound_rate(rate: f64) -> bool {
    (LEAST_RATE..=MOST_RATE).contains(&rate)
}

/// All nodes that may be given jobs by one requester, which holds the jobs' data.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grid {
    /// The nodes; elsewhere a node is its place here.
    pub nodes: Vec<GridNode>,
    /// Bandwidth of each site's trunk, bytes/s, shared by all transfers into the site. A trunk that
    /// is not above zero lets nothing through.
    pub trunks: Vec<f64>,
}

/// What a job takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Job {
    /// Computation, flop; none where it is not above zero.
    pub flops: f64,
    /// Data that has to be sent before, bytes; none where it is not above zero.
    pub bytes: f64,
}

impl Job {
    /// The same with what cannot be (negative, NaN) as nothing, and bounded.
    #[must_use]
    pub fn sound(self) -> Self {
        let sound = |size: f64| if size > 0.0 { size.min(MOST_SIZE) } else { 0.0 };
        Self { flops: sound(self.flops), bytes: sound(self.bytes) }
    }
}

/// Larger jobs are reckoned with as this one.
const MOST_SIZE: f64 = 1e24;
