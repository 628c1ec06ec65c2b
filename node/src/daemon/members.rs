//! Who is in the sub-grid, and what they last said of themselves.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use futures::future::join_all;
use phantom_broker::Candidate;
use phantom_model::{Capability, NodeFacts, NodeId};
use phantom_net::{Network, PeerAddr, PeerState, PeerStatus, RelayStatus};

use super::peers::{Answer, Ask};
use super::{Daemon, Refusal};
use crate::api::types::*;

/// How long members have to say what they are.
const FACTS_DEADLINE: Duration = Duration::from_secs(2);
/// Everything a node may lack, with the words for it.
const ABILITIES: [(Capability, &str); 4] = [
    (Capability::Monitor, "watch limits"),
    (Capability::Checkpoint, "move apps"),
    (Capability::Files, "host foreign apps"),
    (Capability::Network, "give apps a network"),
];

/// What is known of the members.
#[derive(Default)]
pub struct Members {
    facts: Mutex<HashMap<NodeId, NodeFacts>>,
    network: OnceLock<Network>,
}

impl Members {
    /// To be called once the network stands.
    pub fn attach(&self, network: Network) {
        let _ = self.network.set(network);
    }

    /// What people call a node.
    pub fn name(&self, node: NodeId) -> String {
        let members = self.network.get().map(Network::members).unwrap_or_default();
        let known = members.iter().find(|member| member.node() == node);
        known.map_or_else(|| node.short(), |member| member.name().to_owned())
    }

    pub(super) fn last(&self, node: NodeId) -> Option<NodeFacts> {
        self.facts.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&node).cloned()
    }

    fn learn(&self, facts: NodeFacts) {
        let mut known = self.facts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        known.insert(facts.node, facts);
    }
}

/// What a node cannot do, in words.
pub fn lacks(facts: &NodeFacts) -> Vec<String> {
    let lacking = ABILITIES.iter().filter(|(ability, _)| !facts.can(*ability));
    lacking.map(|(_, words)| (*words).to_owned()).collect()
}

impl Daemon {
    /// Asks all members what they are and gives those that answered. A connection that stands may
    /// be one whose other side has just gone: only an answer shows that a node can be used.
    async fn refresh(&self) -> HashSet<NodeId> {
        // Who is known to be away is not waited for.
        let may_answer = |peer: &PeerStatus| {
            let lives = self.discovery.seen(peer.node).is_none_or(|seen| seen.up);
            lives || peer.state == PeerState::Connected
        };
        let peers: Vec<_> = self.network.peers().into_iter().filter(may_answer).collect();
        let asked = peers.iter().map(|peer| self.facts_of(peer.node));
        let mut answered = HashSet::from([self.node]);
        for facts in join_all(asked).await.into_iter().flatten() {
            answered.insert(facts.node);
            self.members.learn(facts);
        }
        self.members.learn(self.facts.now());
        answered
    }

    /// What a member says of itself, if it does in time.
    async fn facts_of(&self, node: NodeId) -> Option<NodeFacts> {
        let mut answer = self.ask(node, &Ask::Facts, FACTS_DEADLINE).await;
        let lost = |error: &anyhow::Error| {
            matches!(error.downcast_ref(), Some(phantom_net::Error::Cut { .. }))
        };
        if answer.as_ref().is_err_and(lost) {
            // The question went to a daemon that is no more; its successor may be connected.
            answer = self.ask(node, &Ask::Facts, FACTS_DEADLINE).await;
        }
        match answer {
            Ok(Answer::Facts(facts)) if facts.node == node => Some(*facts),
            _ => None,
        }
    }

    /// All members as candidates for an app, freshly asked.
    pub async fn candidates(&self) -> Vec<Candidate> {
        let answered = self.refresh().await;
        self.network
            .members()
            .into_iter()
            .map(|member| {
                let node = member.node();
                let facts = self.members.last(node).filter(|_| answered.contains(&node));
                Candidate::new(node, member.name(), facts)
            })
            .collect()
    }

    /// How this node stands itself, for its own row.
    fn standing(&self) -> String {
        match self.network.relay() {
            Some(RelayStatus { url, connected: false, trouble }) => {
                let trouble = trouble.unwrap_or_else(|| "not connected".to_owned());
                format!("this node; its relay {url}: {trouble}")
            }
            _ => "this node".to_owned(),
        }
    }

    /// The rows of `phantom nodes`.
    pub async fn nodes(&self) -> Result<Vec<NodeRow>, Refusal> {
        self.network.standing().map_err(Refusal::failed)?;
        let answered = self.refresh().await;
        let peers: HashMap<_, _> =
            self.network.peers().into_iter().map(|peer| (peer.node, peer)).collect();
        let status = self.subgrid.status();
        let mut rows: Vec<NodeRow> = self
            .network
            .members()
            .into_iter()
            .map(|member| {
                let node = member.node();
                let facts = self.members.last(node);
                let peer = peers.get(&node);
                let this = node == self.node;
                // The answer may have been the last thing heard of it.
                let connected = peer.is_some_and(|peer| peer.state == PeerState::Connected);
                let reachable = this || (connected && answered.contains(&node));
                let path = match peer.map(|peer| (&peer.state, &peer.path)) {
                    None if this => self.standing(),
                    Some((PeerState::Connected, _)) if !reachable => "does not answer".to_owned(),
                    Some((PeerState::Connected, Some(PeerAddr::Ip(addr)))) => {
                        format!("direct {addr}")
                    }
                    Some((PeerState::Connected, Some(relay))) => relay.to_string(),
                    Some(_) => {
                        let trouble = peer.and_then(|peer| peer.trouble.clone());
                        trouble.unwrap_or_else(|| "not connected".to_owned())
                    }
                    None => "not connected".to_owned(),
                };
                let way = self.market.way(node);
                NodeRow {
                    node,
                    name: member.name().to_owned(),
                    this,
                    reachable,
                    state: match self.discovery.seen(node) {
                        _ if reachable => NodeState::Up,
                        Some(seen) if seen.up => NodeState::Silent,
                        Some(_) | None => NodeState::Away,
                    },
                    cores: facts.as_ref().map(|facts| facts.cores),
                    idle_centicores: facts.as_ref().map(|facts| facts.idle_centicores),
                    load_centi: facts.as_ref().map(|facts| facts.load_centi),
                    memory_total: facts.as_ref().map(|facts| facts.memory_total.0),
                    memory_free: facts.as_ref().map(|facts| facts.memory_free.0),
                    mflops: facts.as_ref().map(|facts| facts.mflops),
                    bytes_per_s: way.map(|way| way.bytes_per_s),
                    way_doubt: way.map(|way| way.doubt),
                    way_age_s: way.map(|way| way.age.as_secs()),
                    rtt_us: peer.and_then(|peer| peer.rtt).map(|rtt| rtt.as_micros() as u64),
                    path,
                    role: match status.super_peer {
                        Some((super_peer, _)) if super_peer == node => NodeRole::SuperPeer,
                        _ if status.voters.contains(&node) => NodeRole::Voter,
                        _ => NodeRole::Member,
                    },
                    lacks: facts.as_ref().map(lacks).unwrap_or_default(),
                }
            })
            .collect();
        rows.sort_by_key(|row| (!row.this, row.name.clone()));
        Ok(rows)
    }
}
