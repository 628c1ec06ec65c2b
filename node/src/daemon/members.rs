//! Who is in the sub-grid, what they last said of themselves, and taking part in it.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use futures::future::join_all;
use phantom_model::{Capability, NodeFacts, NodeId};
use phantom_net::{Network, PeerState, Token};

use super::choose::Candidate;
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

    fn last(&self, node: NodeId) -> Option<NodeFacts> {
        self.facts.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&node).cloned()
    }

    fn learn(&self, facts: NodeFacts) {
        let mut known = self.facts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        known.insert(facts.node, facts);
    }
}

impl Daemon {
    /// Takes part: joins with a token, or founds a sub-grid unless it is a member already.
    pub async fn up(&self, request: UpRequest) -> Result<UpReply, Refusal> {
        let membership = self.network.membership();
        let line = match (request.join, membership) {
            (Some(text), _) => {
                let token: Token = text.parse().map_err(Refusal::usage)?;
                let membership =
                    self.network.join(&token, &self.config.name).await.map_err(Refusal::failed)?;
                format!("Joined the sub-grid {}.", membership.subgrid().short())
            }
            (None, Some(membership)) => {
                format!("Member of the sub-grid {}.", membership.subgrid().short())
            }
            (None, None) => {
                let membership =
                    self.network.found(&self.config.name).await.map_err(Refusal::failed)?;
                format!(
                    "Founded the sub-grid {}; `phantom invite` lets others in.",
                    membership.subgrid().short()
                )
            }
        };
        let name = self.network.membership().map(|membership| membership.name().to_owned());
        Ok(UpReply {
            node: self.node,
            name: name.unwrap_or_else(|| self.config.name.clone()),
            line,
            members: self.network.members().len(),
        })
    }

    /// Makes an invitation.
    pub async fn invite(&self, request: InviteRequest) -> Result<InviteReply, Refusal> {
        let ttl = Duration::from_secs(request.ttl_s);
        let token = self.network.invite(ttl).await.map_err(Refusal::failed)?;
        Ok(InviteReply { token: token.to_string() })
    }

    /// Asks all members what they are; those that do not answer in time are left as they were.
    async fn refresh(&self) {
        let peers = self.network.peers();
        join_all(peers.iter().map(|peer| async {
            if let Ok(Answer::Facts(facts)) = self.ask(peer.node, &Ask::Facts, FACTS_DEADLINE).await
                && facts.node == peer.node
            {
                self.members.learn(*facts);
            }
        }))
        .await;
        self.members.learn(self.facts.now());
    }

    /// All members as candidates for an app, freshly asked.
    pub async fn candidates(&self) -> Vec<Candidate> {
        self.refresh().await;
        self.network
            .members()
            .into_iter()
            .map(|member| {
                let node = member.node();
                let answers =
                    node == self.node || self.network.peer_state(node) == PeerState::Connected;
                Candidate {
                    facts: self.members.last(node).filter(|_| answers),
                    node,
                    name: member.name().to_owned(),
                }
            })
            .collect()
    }

    /// The rows of `phantom nodes`.
    pub async fn nodes(&self) -> Vec<NodeRow> {
        self.refresh().await;
        let peers: HashMap<_, _> =
            self.network.peers().into_iter().map(|peer| (peer.node, peer)).collect();
        let mut rows: Vec<NodeRow> = self
            .network
            .members()
            .into_iter()
            .map(|member| {
                let node = member.node();
                let facts = self.members.last(node);
                let peer = peers.get(&node);
                let this = node == self.node;
                let path = match peer.map(|peer| (&peer.state, &peer.path)) {
                    None if this => "this node".to_owned(),
                    Some((PeerState::Connected, Some(path))) => format!("direct {path}"),
                    Some((PeerState::Unreachable { reason }, _)) => reason.clone(),
                    _ => "not connected".to_owned(),
                };
                let lacks = |facts: &NodeFacts| {
                    ABILITIES
                        .iter()
                        .filter(|(ability, _)| !facts.can(*ability))
                        .map(|(_, words)| (*words).to_owned())
                        .collect()
                };
                NodeRow {
                    node,
                    name: member.name().to_owned(),
                    this,
                    reachable: this || peer.is_some_and(|p| p.state == PeerState::Connected),
                    cores: facts.as_ref().map(|facts| facts.cores),
                    idle_centicores: facts.as_ref().map(|facts| facts.idle_centicores),
                    memory_free: facts.as_ref().map(|facts| facts.memory_free.0),
                    rtt_us: peer.and_then(|peer| peer.rtt).map(|rtt| rtt.as_micros() as u64),
                    path,
                    lacks: facts.as_ref().map(lacks).unwrap_or_default(),
                }
            })
            .collect();
        rows.sort_by_key(|row| (!row.this, row.name.clone()));
        rows
    }
}
