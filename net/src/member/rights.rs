//! Who was given the right to let others in, who was put out, and what of all that counts.
//!
//! Two kinds of statements, both proof in themselves, spread as the list of members does:
//! [`Delegation`]s, which only the sub-grid's key signs, and [`Removal`]s. Whatever the order in
//! which they are heard, nodes that have heard the same come to the same end:
//!
//! - A removal takes from a node what it was given up to the removal's serial. What it is given
//!   later holds again.
//! - Only the sub-grid's key withdraws a delegation. Everything a delegate has signed under it,
//!   certificates and removals alike, is void from then on: what it did as its key was in wrong
//!   hands cannot be told from what it did before. The holder signs anew what shall last.

use std::collections::BTreeMap;

use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};

use super::seal::{Delegations, MAX_DELEGATES};
use super::{Authority, CLOCK_SKEW_S, Certificate, Delegation, MAX_MEMBERS, Seal};

const CONTEXT: &[u8] = b"phantom removal 1\0";

/// What is taken from a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    /// Its membership. By the sub-grid's key its delegation as well.
    Member,
    /// Its delegation; only the sub-grid's key may.
    Delegate,
}

/// The word that a node is no longer what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    subgrid: SubgridId,
    node: NodeId,
    scope: Scope,
    /// What has this serial or a lower one is void.
    serial: u64,
    /// When it was said, in seconds since 1970.
    at: u64,
    seal: Seal,
}

impl Removal {
    /// Takes `scope` from `node`, as far as it was given with `serial` or a lower one.
    pub fn issue(by: &Authority, node: NodeId, scope: Scope, serial: u64, at: u64) -> Self {
        let subgrid = by.subgrid();
        let seal = by.seal(&Self::signed_bytes(subgrid, node, scope, serial, at));
        Self { subgrid, node, scope, serial, at, seal }
    }

    /// Which node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// What has this serial or a lower one is void.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// When it was said, in seconds since 1970.
    pub fn at(&self) -> u64 {
        self.at
    }

    fn is_genuine(&self, subgrid: SubgridId, now: u64) -> bool {
        let Self { node, scope, serial, at, ref seal, .. } = *self;
        let by_key = seal.delegation().is_none();
        self.subgrid == subgrid
            && at <= now.saturating_add(CLOCK_SKEW_S)
            // A delegate cannot shut a node out for all time to come.
            && (by_key || serial <= at.saturating_add(CLOCK_SKEW_S))
            && (by_key || scope == Scope::Member)
            && seal.is_genuine(subgrid, &Self::signed_bytes(subgrid, node, scope, serial, at))
    }

    /// The delegate who said so; `None` where it was the sub-grid's key.
    fn signer(&self) -> Option<NodeId> {
        self.seal.delegation().map(Delegation::node)
    }

    fn signed_bytes(
        subgrid: SubgridId,
        node: NodeId,
        scope: Scope,
        serial: u64,
        at: u64,
    ) -> Vec<u8> {
        let scope: &[u8] = match scope {
            Scope::Member => b"member",
            Scope::Delegate => b"delegate",
        };
        [CONTEXT, &subgrid.0, &node.0, scope, &serial.to_le_bytes(), &at.to_le_bytes()].concat()
    }
}

/// Of which node, what, and which delegate said so; nobody where it was the key. Those of different
/// delegates are kept apart: one may turn out void when the other does not.
type Kind = (NodeId, Scope, Option<NodeId>);

/// What is known of rights given and taken in one sub-grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    subgrid: SubgridId,
    delegations: Delegations,
    removals: BTreeMap<Kind, Removal>,
}

/// All of [`Rights`], as it is sent and stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statements {
    /// Delegations.
    pub delegations: Vec<Delegation>,
    /// Removals.
    pub removals: Vec<Removal>,
}

impl Rights {
    /// Nobody was given or taken anything yet.
    pub fn new(subgrid: SubgridId) -> Self {
        Self { subgrid, delegations: BTreeMap::new(), removals: BTreeMap::new() }
    }

    /// Takes what another node says; what is not genuine or not new is passed over. Returns
    /// whether anything changed.
    pub fn learn(&mut self, heard: Statements, now: u64) -> bool {
        let mut changed = false;
        for delegation in heard.delegations.into_iter().take(MAX_DELEGATES) {
            changed |= self.learn_delegation(delegation);
        }
        for removal in heard.removals.into_iter().take(4 * MAX_MEMBERS) {
            changed |= self.learn_removal(removal, now);
        }
        changed
    }

    fn learn_delegation(&mut self, heard: Delegation) -> bool {
        let node = heard.node();
        let known = self.delegations.get(&node);
        let full = self.delegations.len() >= MAX_DELEGATES && known.is_none();
        let new = known.is_none_or(|known| heard.serial() > known.serial());
        if full || !new || !heard.is_genuine(self.subgrid) {
            return false;
        }
        self.delegations.insert(node, heard);
        true
    }

    fn learn_removal(&mut self, heard: Removal, now: u64) -> bool {
        let kind = (heard.node, heard.scope, heard.signer());
        let known = self.removals.get(&kind).filter(|known| !self.is_void(known));
        if known.is_some_and(|known| heard.serial <= known.serial)
            || !heard.is_genuine(self.subgrid, now)
            || self.is_void(&heard)
        {
            return false;
        }
        self.removals.insert(kind, heard);
        self.bound(kind.2.is_none());
        true
    }

    /// Drops the oldest removals beyond the bound, each kind of signer by itself, so that a
    /// delegate cannot make the key's be forgotten.
    fn bound(&mut self, by_key: bool) {
        let same = |kind: &&Kind| kind.2.is_none() == by_key;
        while self.removals.keys().filter(same).count() > 2 * MAX_MEMBERS {
            let of_same = self.removals.iter().filter(|(kind, _)| same(kind));
            let Some(oldest) = of_same.min_by_key(|(_, removal)| removal.at) else { return };
            let oldest = *oldest.0;
            self.removals.remove(&oldest);
        }
    }

    /// Whether `delegation` was withdrawn.
    pub(super) fn is_withdrawn(&self, delegation: &Delegation) -> bool {
        [Scope::Delegate, Scope::Member].into_iter().any(|scope| {
            let removal = self.removals.get(&(delegation.node(), scope, None));
            removal.is_some_and(|removal| removal.serial >= delegation.serial())
        })
    }

    fn is_void(&self, removal: &Removal) -> bool {
        removal.seal.delegation().is_some_and(|delegation| self.is_withdrawn(delegation))
    }

    /// The removal by which `certificate` does not count, or that of the delegate who signed it.
    pub fn voids(&self, certificate: &Certificate) -> Option<&Removal> {
        let (node, serial) = (certificate.terms().node, certificate.terms().serial);
        let of_node = self.of(node).filter(|removal| {
            removal.scope == Scope::Member && serial <= removal.serial && !self.is_void(removal)
        });
        let of_signer = certificate.seal().delegation().into_iter().flat_map(|delegation| {
            [Scope::Delegate, Scope::Member].into_iter().filter_map(|scope| {
                let removal = self.removals.get(&(delegation.node(), scope, None))?;
                (removal.serial >= delegation.serial()).then_some(removal)
            })
        });
        of_node.chain(of_signer).max_by_key(|removal| removal.at)
    }

    /// What is known to have been taken from `node`, void or not.
    fn of(&self, node: NodeId) -> impl Iterator<Item = &Removal> {
        let first = (node, Scope::Member, None);
        self.removals
            .range(first..)
            .map(|(_, removal)| removal)
            .take_while(move |removal| removal.node == node)
    }

    /// The delegation by which `node` may speak for the sub-grid.
    pub fn delegation(&self, node: NodeId) -> Option<&Delegation> {
        self.delegations.get(&node).filter(|delegation| !self.is_withdrawn(delegation))
    }

    /// All nodes that are delegates.
    pub fn delegates(&self) -> impl Iterator<Item = NodeId> {
        let all = self.delegations.values();
        all.filter(|delegation| !self.is_withdrawn(delegation)).map(Delegation::node)
    }

    /// The least serial with which something given to `node` now will count.
    pub fn next_serial(&self, node: NodeId, now: u64) -> u64 {
        let removed = self.of(node).map(|removal| removal.serial.saturating_add(1)).max();
        let given = self.delegations.get(&node).map(|known| known.serial().saturating_add(1));
        now.max(removed.unwrap_or(0)).max(given.unwrap_or(0))
    }

    /// The removals that count and that the delegate `node` has signed.
    pub fn removals_by(&self, node: NodeId) -> Vec<Removal> {
        let by_it = |removal: &&Removal| removal.signer() == Some(node) && !self.is_void(removal);
        self.removals.values().filter(by_it).cloned().collect()
    }

    /// The nodes that were put out; a later certificate may have let one in again.
    pub fn removed(&self) -> impl Iterator<Item = NodeId> {
        let of_members = self.removals.values().filter(|it| it.scope == Scope::Member);
        of_members.filter(|removal| !self.is_void(removal)).map(|removal| removal.node)
    }

    /// Everything that is known, to be told to others. Void removals are not passed on.
    pub fn statements(&self) -> Statements {
        let counting = self.removals.values().filter(|removal| !self.is_void(removal));
        Statements {
            delegations: self.delegations.values().cloned().collect(),
            removals: counting.cloned().collect(),
        }
    }

    /// Equal on nodes that know the same.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for (node, delegation) in &self.delegations {
            hasher.update(&node.0).update(&delegation.serial().to_le_bytes());
        }
        for ((node, scope, signer), removal) in &self.removals {
            if !self.is_void(removal) {
                let scope = [u8::from(*scope == Scope::Delegate)];
                hasher
                    .update(&node.0)
                    .update(&scope)
                    .update(&signer.map_or([0; 32], |node| node.0));
                hasher.update(&removal.serial.to_le_bytes());
            }
        }
        *hasher.finalize().as_bytes()
    }
}
