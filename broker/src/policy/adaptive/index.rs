//! Which node is best, without looking at all of them.
//!
//! ```text
//!            least of all
//!           /            \        each holds the least of every figure below it, so that no node
//!      site 0            site 1   below can be better than what these figures together give;
//!      /    \            /    \   a branch whose least is no better than the best found is
//!   leaf    leaf      leaf    leaf   left out
//! ```
//!
//! Within a site nodes alike in speed and bandwidth stand together, so that the figures of a branch
//! are close to those of its nodes.

use crate::Grid;

/// Nodes of a leaf, at most.
const LEAF: usize = 8;
/// No branch, no site.
const NONE: u32 = u32::MAX;
/// Deeper than a tree of 2^32 leaves.
const DEPTH: usize = 64;

/// What decides on a node, or the least of each among several.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figures {
    /// Seconds a flop for one more job that shares the processor.
    pub per_flop: f64,
    /// Seconds a byte for one more that shares the link.
    pub per_byte: f64,
    /// Seconds for a byte and as many flop as lately came with one.
    pub per_both: f64,
    /// The same for the site's trunk.
    pub trunk_per_byte: f64,
    /// When its link is free.
    pub link_free: f64,
    /// When its processor is free.
    pub processor_free: f64,
    /// Seconds a flop for one job alone.
    pub flop: f64,
    /// Seconds a byte for one alone.
    pub byte: f64,
    /// Seconds of work that the site's trunk has.
    pub trunk_backlog: f64,
    /// Seconds a byte of the trunk alone.
    pub trunk_byte: f64,
}

impl Figures {
    pub const NEVER: Self = Self {
        per_flop: f64::INFINITY,
        per_byte: f64::INFINITY,
        per_both: f64::INFINITY,
        trunk_per_byte: f64::INFINITY,
        link_free: f64::INFINITY,
        processor_free: f64::INFINITY,
        flop: f64::INFINITY,
        byte: f64::INFINITY,
        trunk_backlog: f64::INFINITY,
        trunk_byte: f64::INFINITY,
    };

    fn least(&self, other: &Self) -> Self {
        Self {
            per_flop: self.per_flop.min(other.per_flop),
            per_byte: self.per_byte.min(other.per_byte),
            per_both: self.per_both.min(other.per_both),
            trunk_per_byte: self.trunk_per_byte.min(other.trunk_per_byte),
            link_free: self.link_free.min(other.link_free),
            processor_free: self.processor_free.min(other.processor_free),
            flop: self.flop.min(other.flop),
            byte: self.byte.min(other.byte),
            trunk_backlog: self.trunk_backlog.min(other.trunk_backlog),
            trunk_byte: self.trunk_byte.min(other.trunk_byte),
        }
    }
}

#[derive(Debug, Clone)]
struct Branch {
    least: Figures,
    above: u32,
    /// The first of two branches below that stand side by side; of a leaf [`NONE`].
    below: u32,
    /// Which of `order` are below.
    from: u32,
    to: u32,
    /// Whether these are all nodes of one site: what is said of the trunk stands here, and above as
    /// the least of several, but not below.
    is_site: bool,
}

/// The sound nodes of a grid, as a tree.
#[derive(Debug, Clone)]
pub(super) struct Index {
    branches: Vec<Branch>,
    order: Vec<u32>,
    /// The leaf of each node; [`NONE`] for one that is not sound.
    leaf: Vec<u32>,
    /// The branch of each site.
    site: Vec<u32>,
}

impl Index {
    /// Of the sound nodes; none has any figures yet.
    pub fn new(grid: &Grid) -> Self {
        let sound = |node: &u32| grid.nodes[*node as usize].is_sound();
        let mut order: Vec<u32> = (0..grid.nodes.len() as u32).filter(sound).collect();
        let site = |node: &u32| grid.nodes[*node as usize].site.map_or(NONE, |site| site);
        order.sort_by_key(|node| (site(node), *node));
        let branch = |from: usize, to: usize| Branch {
            least: Figures::NEVER,
            above: NONE,
            below: NONE,
            from: from as u32,
            to: to as u32,
            is_site: false,
        };
        let mut index = Self {
            branches: vec![branch(0, order.len())],
            leaf: vec![NONE; grid.nodes.len()],
            site: vec![NONE; grid.trunks.len()],
            order,
        };
        let mut open = vec![(0usize, true)];
        while let Some((place, by_speed)) = open.pop() {
            let (from, to) =
                (index.branches[place].from as usize, index.branches[place].to as usize);
            let (first, last) = match (index.order.get(from), index.order[..to].last()) {
                (Some(first), Some(last)) => (site(first), site(last)),
                _ => break,
            };
            let alike = first == last;
            if alike && first != NONE && index.site[first as usize] == NONE {
                index.site[first as usize] = place as u32;
                index.branches[place].is_site = true;
            }
            if alike && to - from <= LEAF {
                for node in &index.order[from..to] {
                    index.leaf[*node as usize] = place as u32;
                }
                continue;
            }
            let middle = if alike {
                let middle = (from + to) / 2;
                let key = |node: &u32| {
                    let node = &grid.nodes[*node as usize];
                    if by_speed { node.flops_per_s } else { node.bytes_per_s }
                };
                index.order[from..to].select_nth_unstable_by(middle - from, |a, b| {
                    key(a).total_cmp(&key(b)).then(a.cmp(b))
                });
                middle
            } else {
                // Between two sites, near the middle.
                let of = site(&index.order[(from + to) / 2]);
                let begin = from + index.order[from..to].partition_point(|node| site(node) < of);
                if begin > from {
                    begin
                } else {
                    from + index.order[from..to].partition_point(|node| site(node) <= of)
                }
            };
            let below = index.branches.len();
            index.branches[place].below = below as u32;
            for (from, to) in [(from, middle), (middle, to)] {
                index.branches.push(Branch { above: place as u32, ..branch(from, to) });
            }
            open.extend([(below, !by_speed), (below + 1, !by_speed)]);
        }
        index
    }

    /// How many sound nodes there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether a job can be given to a node.
    pub fn has(&self, node: u32) -> bool {
        self.leaf.get(node as usize).is_some_and(|leaf| *leaf != NONE)
    }

    /// Nodes of a site that are sound.
    pub fn of_site(&self, site: u32) -> &[u32] {
        match self.site.get(site as usize).and_then(|place| self.branches.get(*place as usize)) {
            Some(branch) => &self.order[branch.from as usize..branch.to as usize],
            None => &[],
        }
    }

    /// A node's figures changed: those of its leaf are read anew. Those of the trunk are said by
    /// [`Self::trunk_changed`] alone.
    pub fn changed(&mut self, node: u32, figures: impl Fn(u32) -> Figures) {
        let place = self.leaf[node as usize];
        let Some(branch) = self.branches.get(place as usize) else { return };
        let below = &self.order[branch.from as usize..branch.to as usize];
        let least = below.iter().fold(Figures::NEVER, |least, node| least.least(&figures(*node)));
        self.set(place, least);
    }

    /// What a site's trunk has to do changed.
    pub fn trunk_changed(&mut self, site: u32, per_byte: f64, backlog: f64, byte: f64) {
        let Some(place) = self.site.get(site as usize).copied() else { return };
        let Some(branch) = self.branches.get_mut(place as usize) else { return };
        branch.least.trunk_per_byte = per_byte;
        branch.least.trunk_backlog = backlog;
        branch.least.trunk_byte = byte;
        let least = branch.least;
        self.set(place, least);
    }

    fn set(&mut self, mut place: u32, mut least: Figures) {
        loop {
            let branch = &mut self.branches[place as usize];
            if branch.is_site {
                least.trunk_per_byte = branch.least.trunk_per_byte;
                least.trunk_backlog = branch.least.trunk_backlog;
                least.trunk_byte = branch.least.trunk_byte;
            }
            branch.least = least;
            place = branch.above;
            let Some(branch) = self.branches.get(place as usize) else { return };
            let below = branch.below as usize;
            least = self.branches[below].least.least(&self.branches[below + 1].least);
            if least == branch.least && !branch.is_site {
                return;
            }
        }
    }

    /// The node of the least cost; `bound` gives what no node with at least these figures is below.
    pub fn least(
        &self,
        bound: impl Fn(&Figures) -> f64,
        cost: impl Fn(u32) -> f64,
    ) -> Option<(u32, f64)> {
        let mut best: Option<(u32, f64)> = None;
        let mut open = [(0u32, f64::NEG_INFINITY); DEPTH];
        let mut count = 1;
        while count > 0 {
            count -= 1;
            let (place, least) = open[count];
            if best.is_some_and(|(_, cost)| least >= cost) {
                continue;
            }
            let branch = &self.branches[place as usize];
            if branch.below == NONE {
                for node in &self.order[branch.from as usize..branch.to as usize] {
                    let cost = cost(*node);
                    if cost < best.map_or(f64::INFINITY, |(_, cost)| cost) {
                        best = Some((*node, cost));
                    }
                }
                continue;
            }
            let [a, b] = [branch.below, branch.below + 1]
                .map(|below| (below, bound(&self.branches[below as usize].least).max(least)));
            // The better one is looked at first.
            let [later, sooner] = if a.1 <= b.1 { [b, a] } else { [a, b] };
            if count + 2 <= DEPTH {
                (open[count], open[count + 1]) = (later, sooner);
                count += 2;
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GridNode;
    use proptest::prelude::*;

    /// Nodes of a few sites or none, some of them not sound.
    fn grids() -> impl Strategy<Value = Grid> {
        let node = (1u32..50, 0u32..50, proptest::option::of(0u32..3));
        proptest::collection::vec(node, 1..60).prop_map(|nodes| Grid {
            nodes: nodes
                .into_iter()
                .map(|(speed, bandwidth, site)| GridNode {
                    flops_per_s: f64::from(speed),
                    bytes_per_s: f64::from(bandwidth),
                    latency_s: 0.0,
                    site,
                })
                .collect(),
            trunks: vec![10.0; 3],
        })
    }

    proptest! {
        #[test]
        fn the_least_is_the_least_of_all(
            grid in grids(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..20), 0..40),
            trunks in proptest::collection::vec((0u32..3, 0u8..20), 0..10),
        ) {
            let mut index = Index::new(&grid);
            let mut keys = vec![0.0; grid.nodes.len()];
            let mut busy = [0.0; 3];
            let figures = |keys: &[f64], node: u32| Figures {
                per_flop: keys[node as usize] / grid.nodes[node as usize].flops_per_s,
                trunk_backlog: 0.0,
                ..Figures::NEVER
            };
            for node in (0..grid.nodes.len() as u32).filter(|node| grid.nodes[*node as usize].is_sound()) {
                index.changed(node, |node| figures(&keys, node));
            }
            for site in 0..3 {
                index.trunk_changed(site, 0.0, 0.0, 0.0);
            }
            for (place, key) in &changes {
                let node = place.index(grid.nodes.len());
                keys[node] = f64::from(*key);
                if index.has(node as u32) {
                    index.changed(node as u32, |node| figures(&keys, node));
                }
            }
            for (site, key) in &trunks {
                busy[*site as usize] = f64::from(*key);
                index.trunk_changed(*site, 0.0, f64::from(*key), 0.0);
            }
            let cost = |node: u32| {
                let one = &grid.nodes[node as usize];
                let trunk = one.site.map_or(0.0, |site| busy[site as usize]);
                (keys[node as usize] / one.flops_per_s).max(trunk)
            };
            let found = index.least(|least| least.per_flop.max(least.trunk_backlog), cost);
            let sound = (0..grid.nodes.len() as u32).filter(|node| grid.nodes[*node as usize].is_sound());
            let expected = sound.map(cost).min_by(f64::total_cmp);
            prop_assert_eq!(found.map(|(_, cost)| cost), expected);
        }
    }
}
