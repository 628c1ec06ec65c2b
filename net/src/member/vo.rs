//! A virtual organisation: the nodes, sub-grids and regions in it, in a document that the sub-grid
//! which owns it has sealed. Documents are proof in themselves, whoever passes them on.

use std::collections::BTreeSet;

use phantom_model::vo::VoNameError;
use phantom_model::{NodeId, SubgridId, VoId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Authority, CLOCK_SKEW_S, Seal};

const CONTEXT: &[u8] = b"phantom virtual organisation 1\0";
/// No virtual organisation has more members; a sub-grid or a region is one.
pub const MAX_VO_MEMBERS: usize = 1024;
/// What is signed is no longer, in bytes: members that are regions have long names.
pub const MAX_CHARTER: usize = 48 << 10;
/// No domain name is longer, in bytes (RFC 1035, 2.3.4), nor a part of it between two dots.
const MAX_REGION: usize = 253;
const MAX_LABEL: usize = 63;

/// Who is in a virtual organisation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum VoMember {
    /// A node, in whichever sub-grid.
    Node(NodeId),
    /// All nodes of a sub-grid.
    Subgrid(SubgridId),
    /// All nodes of all sub-grids of a region, by its domain name in lower case.
    Region(String),
}

/// One version of a virtual organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vo {
    charter: Charter,
    seal: Seal,
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Charter {
    id: VoId,
    version: u64,
    /// When it was signed, in seconds since 1970.
    at: u64,
    dissolved: bool,
    members: BTreeSet<VoMember>,
}

/// Why a document does not count, or cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VoError {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] VoNameError),
    /// There is one of that name.
    #[error(
        "there is a virtual organisation {0} already: add members with `phantom vo add`, or choose \
         another name"
    )]
    Exists(String),
    /// There is none of that name.
    #[error(
        "this sub-grid owns no virtual organisation {0}: `phantom vo list` shows which it does"
    )]
    Unknown(String),
    /// The sub-grid has as many as it may have.
    #[error(
        "this sub-grid owns {} virtual organisations, and more are not allowed: dissolve one with \
         `phantom vo dissolve`",
        super::MAX_VOS
    )]
    Full,
    /// So many of other sub-grids are known that there is no room for more.
    #[error(
        "{} virtual organisations of other sub-grids are known here, and more are not kept",
        super::MAX_FOREIGN_VOS
    )]
    NoRoom,
    /// Too many members.
    #[error(
        "virtual organisation {name} would have {count} members, and at most {MAX_VO_MEMBERS} are \
         allowed: name sub-grids or regions in place of nodes"
    )]
    TooMany {
        /// Which.
        name: String,
        /// How many.
        count: usize,
    },
    /// What would be signed is too long.
    #[error(
        "the document of virtual organisation {name} has {bytes} bytes, and at most {MAX_CHARTER} \
         are allowed: name fewer regions"
    )]
    Long {
        /// Which.
        name: String,
        /// How long.
        bytes: usize,
    },
    /// A member that cannot be one.
    #[error("virtual organisation {name} names a region that is no domain name in lower case")]
    Region {
        /// Which.
        name: String,
    },
    /// It is dissolved, and yet has members.
    #[error("virtual organisation {name} is dissolved and has members")]
    Undead {
        /// Which.
        name: String,
    },
    /// It was not sealed by its owner.
    #[error("virtual organisation {name} does not come from the sub-grid {}", .owner.short())]
    Forged {
        /// Which.
        name: String,
        /// Who it says to be of.
        owner: SubgridId,
    },
    /// It was signed in the future, or has a version that no honest delegate comes to.
    #[error("virtual organisation {name} is from the future: is this machine's clock right?")]
    Future {
        /// Which.
        name: String,
    },
    /// A delegate has sealed it who is none any more.
    #[error("virtual organisation {name} was changed by a node whose right was taken back")]
    Withdrawn {
        /// Which.
        name: String,
    },
    /// The bytes are no document.
    #[error("that is no document of a virtual organisation")]
    Unreadable,
}

impl Vo {
    /// Signs a version, at this time (seconds since 1970). One with `None` as members is dissolved.
    ///
    /// # Errors
    /// A bound is exceeded, or the name is none.
    pub fn issue(
        by: &Authority,
        name: &str,
        version: u64,
        at: u64,
        members: Option<BTreeSet<VoMember>>,
    ) -> Result<Self, VoError> {
        let id = VoId::new(by.subgrid(), name)?;
        let dissolved = members.is_none();
        let members = members.unwrap_or_default();
        let charter = Charter { id, version, at, dissolved, members };
        charter.check()?;
        let seal = by.seal(&charter.signed_bytes());
        Ok(Self { charter, seal })
    }

    /// Reads what [`Vo::to_bytes`] gave. It is still to be found genuine.
    ///
    /// # Errors
    /// It is no document, or much too long.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VoError> {
        // Seals are short.
        if bytes.len() > MAX_CHARTER + 1024 {
            return Err(VoError::Unreadable);
        }
        postcard::from_bytes(bytes).map_err(|_| VoError::Unreadable)
    }

    /// As it is stored and sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain structs of numbers, strings and lists always serialize.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Which one.
    pub fn id(&self) -> &VoId {
        &self.charter.id
    }

    /// What its owner calls it.
    pub fn name(&self) -> &str {
        self.charter.id.name()
    }

    /// The sub-grid that says who is in it.
    pub fn owner(&self) -> SubgridId {
        self.charter.id.owner()
    }

    /// Counts from 1; the highest counts.
    pub fn version(&self) -> u64 {
        self.charter.version
    }

    /// When it was signed, in seconds since 1970.
    pub fn at(&self) -> u64 {
        self.charter.at
    }

    /// Whether it is no more.
    pub fn is_dissolved(&self) -> bool {
        self.charter.dissolved
    }

    /// Who is in it, in order; nobody when it is dissolved.
    pub fn members(&self) -> &BTreeSet<VoMember> {
        &self.charter.members
    }

    /// The signature under it.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }

    /// Whether a node is in it that belongs to that sub-grid, which lies in these regions: domain
    /// names in lower case.
    pub fn has_member(&self, node: NodeId, subgrid: SubgridId, regions: &[String]) -> bool {
        let members = &self.charter.members;
        members.contains(&VoMember::Node(node))
            || members.contains(&VoMember::Subgrid(subgrid))
            || regions.iter().any(|name| members.contains(&VoMember::Region(name.clone())))
    }

    /// Whether it keeps to the bounds and was sealed by its owner, not in the future. Whether the
    /// delegate's right, if one has sealed it, was taken back, is another question.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self, now: u64) -> Result<(), VoError> {
        self.charter.check()?;
        let Charter { version, at, .. } = self.charter;
        let latest = now.saturating_add(CLOCK_SKEW_S);
        // The key must always be able to go beyond what a delegate has signed.
        let beyond = self.seal.delegation().is_some() && version > latest;
        if at > latest || beyond {
            return Err(VoError::Future { name: self.name().to_owned() });
        }
        let owner = self.owner();
        match self.seal.is_genuine(owner, &self.charter.signed_bytes()) {
            true => Ok(()),
            false => Err(VoError::Forged { name: self.name().to_owned(), owner }),
        }
    }

    /// Whether it takes the place of `known`, another version of the same: a higher one does. Two
    /// of one version, which two delegates may make at once, are told apart the same way everywhere.
    pub fn replaces(&self, known: &Self) -> bool {
        let rank = |vo: &Self| (vo.version(), vo.at(), vo.digest());
        rank(self) > rank(known)
    }

    /// Differs from that of any document that says something else.
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&self.charter.signed_bytes()).as_bytes()
    }
}

impl Charter {
    fn check(&self) -> Result<(), VoError> {
        let name = || self.id.name().to_owned();
        let count = self.members.len();
        if count > MAX_VO_MEMBERS {
            return Err(VoError::TooMany { name: name(), count });
        }
        if self.dissolved && count > 0 {
            return Err(VoError::Undead { name: name() });
        }
        let is_region = |member: &VoMember| match member {
            VoMember::Region(region) => is_domain_name(region),
            VoMember::Node(_) | VoMember::Subgrid(_) => true,
        };
        if !self.members.iter().all(is_region) {
            return Err(VoError::Region { name: name() });
        }
        let bytes = self.signed_bytes().len();
        if bytes > MAX_CHARTER {
            return Err(VoError::Long { name: name(), bytes });
        }
        Ok(())
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = CONTEXT.to_vec();
        // Members are in order: what is the same has the same bytes.
        bytes.extend(postcard::to_stdvec(self).unwrap_or_default());
        bytes
    }
}

fn is_domain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= MAX_REGION && name.contains('.') && name.split('.').all(is_label)
}
