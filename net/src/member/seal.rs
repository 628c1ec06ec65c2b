//! Who may speak for the sub-grid: the holder of its key, and nodes the key has made delegates.

use std::collections::BTreeMap;

use iroh_base::{PublicKey, Signature};
use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};

use crate::key::{NodeKey, SubgridKey};

const CONTEXT: &[u8] = b"phantom delegation 1\0";
/// A sub-grid has at most this many delegates.
pub const MAX_DELEGATES: usize = 64;

/// The sub-grid key's word that a node may let others in and put members out. It holds until it is
/// [withdrawn](super::Scope::Delegate).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    subgrid: SubgridId,
    node: NodeId,
    serial: u64,
    signature: Signature,
}

impl Delegation {
    /// Makes `node` a delegate.
    pub fn issue(key: &SubgridKey, node: NodeId, serial: u64) -> Self {
        let subgrid = key.id();
        let signature = key.0.sign(&Self::signed_bytes(subgrid, node, serial));
        Self { subgrid, node, serial, signature }
    }

    /// Which node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Of two delegations of one node the one with the higher serial counts.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Whether the key of `subgrid` has signed it.
    pub fn is_genuine(&self, subgrid: SubgridId) -> bool {
        let bytes = Self::signed_bytes(subgrid, self.node, self.serial);
        self.subgrid == subgrid && verifies(&subgrid.0, &bytes, &self.signature)
    }

    fn signed_bytes(subgrid: SubgridId, node: NodeId, serial: u64) -> Vec<u8> {
        [CONTEXT, &subgrid.0, &node.0, &serial.to_le_bytes()].concat()
    }
}

/// A signature in the sub-grid's name: by its key, or by a delegate, with what makes it one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    signature: Signature,
    delegation: Option<Box<Delegation>>,
}

impl Seal {
    /// Whether it was put under `bytes` in the name of `subgrid`. A delegate's may have been
    /// withdrawn: see [`super::Rights`].
    pub fn is_genuine(&self, subgrid: SubgridId, bytes: &[u8]) -> bool {
        match &self.delegation {
            None => verifies(&subgrid.0, bytes, &self.signature),
            Some(delegation) => {
                delegation.is_genuine(subgrid)
                    && verifies(&delegation.node.0, bytes, &self.signature)
            }
        }
    }

    /// The delegation it rests on; `None` when the sub-grid's key itself has signed.
    pub fn delegation(&self) -> Option<&Delegation> {
        self.delegation.as_deref()
    }
}

/// Somebody who may put seals.
#[derive(Debug, Clone)]
pub enum Authority {
    /// The holder of the sub-grid's key.
    Holder(SubgridKey),
    /// A delegate.
    Delegate(NodeKey, Delegation),
}

impl Authority {
    /// In whose name it speaks.
    pub fn subgrid(&self) -> SubgridId {
        match self {
            Authority::Holder(key) => key.id(),
            Authority::Delegate(_, delegation) => delegation.subgrid,
        }
    }

    /// Signs `bytes`.
    pub fn seal(&self, bytes: &[u8]) -> Seal {
        match self {
            Authority::Holder(key) => Seal { signature: key.0.sign(bytes), delegation: None },
            Authority::Delegate(key, delegation) => Seal {
                signature: key.0.sign(bytes),
                delegation: Some(Box::new(delegation.clone())),
            },
        }
    }
}

impl From<&SubgridKey> for Authority {
    fn from(key: &SubgridKey) -> Self {
        Authority::Holder(key.clone())
    }
}

impl From<&Authority> for Authority {
    fn from(authority: &Authority) -> Self {
        authority.clone()
    }
}

fn verifies(key: &[u8; 32], bytes: &[u8], signature: &Signature) -> bool {
    PublicKey::from_bytes(key).is_ok_and(|key| key.verify(bytes, signature).is_ok())
}

/// The newest delegation of each node that has one, whether or not it was withdrawn since.
pub(super) type Delegations = BTreeMap<NodeId, Delegation>;
