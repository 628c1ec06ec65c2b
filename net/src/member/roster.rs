//! The list of members a node knows: certificates, which are proof in themselves and so can be
//! taken from anybody, and addresses, which are hints (whoever answers there must prove its key).

use std::collections::BTreeMap;

use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};

use super::{Certificate, valid_name};
use crate::link::PeerAddr;

/// A sub-grid has at most this many members: beyond, design.md wants several sub-grids.
pub const MAX_MEMBERS: usize = 1024;
/// At most this many addresses are kept for a member.
pub const MAX_ADDRS: usize = 16;

/// A member and where it was last reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its certificate.
    pub certificate: Certificate,
    /// Where to reach it, what worked last first.
    pub addrs: Vec<PeerAddr>,
}

impl Member {
    /// Which node.
    pub fn node(&self) -> NodeId {
        self.certificate.terms().node
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.certificate.terms().name
    }
}

/// All members of one sub-grid that are known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    subgrid: SubgridId,
    members: BTreeMap<NodeId, Member>,
}

impl Roster {
    /// An empty list.
    pub fn new(subgrid: SubgridId) -> Self {
        Self { subgrid, members: BTreeMap::new() }
    }

    /// Which sub-grid.
    pub fn subgrid(&self) -> SubgridId {
        self.subgrid
    }

    /// The member `node`, if it is one.
    pub fn get(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// All members, by node id.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Takes what another node says about a member: the certificate if it is genuine, holds and
    /// is newer, the addresses behind those known. Returns whether anything changed.
    pub fn learn(&mut self, heard: Member, now: u64) -> bool {
        let node = heard.node();
        // What is known has been checked; peers repeat their lists often.
        let known = self.members.get(&node).map(|known| &known.certificate);
        if known != Some(&heard.certificate) && heard.certificate.check(self.subgrid, now).is_err()
        {
            return false;
        }
        let full = self.members.len() >= MAX_MEMBERS;
        match self.members.get_mut(&node) {
            Some(known) => {
                let newer = heard.certificate.terms().serial > known.certificate.terms().serial;
                if newer {
                    known.certificate = heard.certificate;
                }
                append(&mut known.addrs, heard.addrs) || newer
            }
            None if full => false,
            None => {
                let mut addrs = Vec::new();
                append(&mut addrs, heard.addrs);
                self.members.insert(node, Member { certificate: heard.certificate, addrs });
                true
            }
        }
    }

    /// Takes what a member says about itself: its addresses replace those known, except the one
    /// that works. Returns whether anything changed.
    pub fn announce(&mut self, own: Member, now: u64) -> bool {
        let node = own.node();
        let announced: Vec<_> = own.addrs.iter().take(MAX_ADDRS).cloned().collect();
        let mut changed = self.learn(own, now);
        if let Some(known) = self.members.get_mut(&node)
            && !announced.is_empty()
        {
            let mut addrs: Vec<_> = known.addrs.first().cloned().into_iter().collect();
            append(&mut addrs, announced);
            changed |= addrs != known.addrs;
            known.addrs = addrs;
        }
        changed
    }

    /// Puts `addr`, over which `node` was just reached, first. Returns whether that is news.
    pub fn worked(&mut self, node: NodeId, addr: &PeerAddr) -> bool {
        let Some(known) = self.members.get_mut(&node) else {
            return false;
        };
        if known.addrs.first() == Some(addr) {
            return false;
        }
        known.addrs.retain(|other| other != addr);
        known.addrs.insert(0, addr.clone());
        known.addrs.truncate(MAX_ADDRS);
        true
    }

    /// Forgets `node`.
    pub fn remove(&mut self, node: NodeId) {
        self.members.remove(&node);
    }

    /// `wanted`, or `wanted-2`, `wanted-3`, … so that no other node bears it.
    pub fn free_name(&self, wanted: &str, node: NodeId) -> String {
        let taken =
            |name: &str| self.iter().any(|other| other.node() != node && other.name() == name);
        if !taken(wanted) {
            return wanted.to_owned();
        }
        let stem: String = wanted.chars().take(58).collect();
        (2..=MAX_MEMBERS + 2)
            .map(|number| format!("{stem}-{number}"))
            .find(|name| !taken(name) && valid_name(name))
            .unwrap_or_else(|| wanted.to_owned())
    }

    /// Changes when a certificate is added or replaced; equal on nodes that know the same.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for (node, member) in &self.members {
            hasher.update(&node.0).update(&member.certificate.terms().serial.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

fn append(known: &mut Vec<PeerAddr>, heard: Vec<PeerAddr>) -> bool {
    let before = known.len();
    for addr in heard {
        if known.len() >= MAX_ADDRS {
            break;
        }
        if addr.is_sane() && !known.contains(&addr) {
            known.push(addr);
        }
    }
    known.len() != before
}
