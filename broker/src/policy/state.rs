//! What a broker knows of the nodes' load.

use super::Event;
use crate::Grid;

/// Nodes and how many jobs they have, by what was told.
#[derive(Debug, Clone)]
pub struct State {
    /// The nodes as they are known.
    pub grid: Grid,
    /// Jobs at each node that have not finished.
    pub queued: Vec<u32>,
    /// Jobs at each node whose data is still on the way.
    pub sending: Vec<u32>,
    /// Transfers on each site's trunk.
    pub trunk_sending: Vec<u32>,
}

impl State {
    /// Idle nodes.
    pub fn new(grid: &Grid) -> Self {
        Self {
            grid: grid.clone(),
            queued: vec![0; grid.nodes.len()],
            sending: vec![0; grid.nodes.len()],
            trunk_sending: vec![0; grid.trunks.len()],
        }
    }

    /// Counts. Events of nodes that are not there, and the end of what never began, change nothing.
    pub fn apply(&mut self, event: &Event) {
        match *event {
            Event::Dispatched { node, data, .. } => {
                self.count(node, 1);
                if data {
                    self.count_sending(node, 1);
                }
            }
            Event::Sent { node, .. } => self.count_sending(node, -1),
            Event::Progress { .. } => {}
            Event::Finished { node, .. } => self.count(node, -1),
            Event::Withdrawn { node, sending, .. } => {
                self.count(node, -1);
                if sending {
                    self.count_sending(node, -1);
                }
            }
        }
    }

    fn count(&mut self, node: u32, change: i32) {
        if let Some(queued) = self.queued.get_mut(node as usize) {
            *queued = queued.saturating_add_signed(change);
        }
    }

    fn count_sending(&mut self, node: u32, change: i32) {
        let Some(sending) = self.sending.get_mut(node as usize) else { return };
        *sending = sending.saturating_add_signed(change);
        let site = self.grid.nodes[node as usize].site;
        let trunk = site.and_then(|site| self.trunk_sending.get_mut(site as usize));
        if let Some(sending) = trunk {
            *sending = sending.saturating_add_signed(change);
        }
    }

    /// Bandwidth that one more transfer to `node` would get: its part of the link, at most its part
    /// of the trunk.
    pub fn bytes_per_s(&self, node: usize) -> f64 {
        let one = &self.grid.nodes[node];
        let own = one.bytes_per_s / f64::from(self.sending[node].saturating_add(1));
        match one.site.map(|site| site as usize) {
            Some(site) => {
                let sending = f64::from(self.trunk_sending[site].saturating_add(1));
                own.min(self.grid.trunks[site] / sending)
            }
            None => own,
        }
    }

    /// Speed that one more job at `node` would get.
    pub fn flops_per_s(&self, node: usize) -> f64 {
        self.grid.nodes[node].flops_per_s / f64::from(self.queued[node].saturating_add(1))
    }

    /// The sound node of the greatest rank, of equals the first; ranks that are no numbers never
    /// win.
    pub fn best(&self, rank: impl Fn(usize) -> f64) -> Option<u32> {
        let mut best = None;
        let mut most = f64::NEG_INFINITY;
        for node in 0..self.grid.nodes.len() {
            if !self.grid.nodes[node].is_sound() {
                continue;
            }
            let rank = rank(node);
            if rank > most {
                (best, most) = (Some(node as u32), rank);
            }
        }
        best
    }
}
