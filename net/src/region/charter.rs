//! Who belongs to a region: signed by its key.

use std::collections::BTreeSet;

use iroh_base::{PublicKey, Signature};
use phantom_model::{SubgridId, frame};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{RegionKey, Rotation, short, valid_region};
use crate::member::{CLOCK_SKEW_S, valid_name};

const CONTEXT: &[u8] = b"phantom region charter 1\0";
/// No charter is longer, in bytes.
pub const MAX_CHARTER: usize = 64 << 10;
/// No region has more sites.
pub const MAX_SITES: usize = 512;
/// No region asks more others.
pub const MAX_PEERS: usize = 64;
/// A charter carries no more rotations: who has pinned an older key must be told the present one.
pub const MAX_ROTATED: usize = 3;

/// A sub-grid that belongs to a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CharterSite {
    /// Which.
    pub subgrid: SubgridId,
    /// What the region calls it: a [`valid_name`], unique in the region.
    pub name: String,
}

/// Another region, which is asked what this one cannot answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CharterPeer {
    /// Its domain name.
    pub region: String,
    /// Its key.
    pub key: [u8; 32],
}

/// What a charter says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CharterBody {
    /// The region's domain name, at most [`super::MAX_NAME`] bytes.
    pub region: String,
    /// The key that signs.
    pub key: [u8; 32],
    /// Counts from 1; of those by one key the highest counts.
    pub version: u64,
    /// When it was signed, in seconds since 1970.
    pub at: u64,
    /// Who belongs to it, by sub-grid, at most [`MAX_SITES`].
    pub sites: Vec<CharterSite>,
    /// Other regions that are asked, at most [`MAX_PEERS`].
    pub peers: Vec<CharterPeer>,
    /// The keys before `key`, oldest first, each with its [`Rotation`] to the one after it, the last
    /// to `key`; at most [`MAX_ROTATED`].
    pub rotated: Vec<([u8; 32], Vec<u8>)>,
}

/// A [`CharterBody`] under the signature of the region's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Charter {
    body: CharterBody,
    signature: Signature,
}

/// Why there is no such charter.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CharterError {
    /// Something else altogether.
    #[error("it is not the charter of a region: ask the region's admin for it again")]
    Malformed,
    /// Too many bytes.
    #[error(
        "the charter has {bytes} bytes, and at most {MAX_CHARTER} are allowed: shorten the names of sites, or let sites or other regions go"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// No region can have that name.
    #[error(
        "{0:?} is not the name of a region: write a domain name in lower case, as campus.example.org"
    )]
    Region(String),
    /// Too much of something.
    #[error("the charter of {region} has {count} {what}, and at most {most} are allowed")]
    TooMany {
        /// Whose it is.
        region: String,
        /// Sites, other regions or former keys.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// A site's name is none.
    #[error(
        "{0:?} is not a site's name (1 to 63 letters, digits, `.`, `-` or `_`, first a letter or digit): choose another"
    )]
    SiteName(String),
    /// Two sites, or other regions, that cannot be told apart.
    #[error("the charter of {region} names {twice} twice: give each its own name and entry")]
    Twice {
        /// Whose it is.
        region: String,
        /// The name, or the sub-grid.
        twice: String,
    },
    /// The sites are in another order than that of their sub-grids.
    #[error("the sites in the charter of {0} are not in order: sign it anew")]
    Order(String),
    /// A region that asks itself.
    #[error("the region {0} cannot ask itself: leave it out of the regions it asks")]
    AsksItself(String),
    /// Who signs is not who is named.
    #[error(
        "the charter of {0} names another key than the one that signs it: sign with the key it names"
    )]
    OtherKey(String),
    /// The former keys do not lead to the present one.
    #[error(
        "the former keys in the charter of {0} do not lead to its key, each signing for the next: sign it anew"
    )]
    Rotations(String),
    /// Not signed by the key it names.
    #[error("the charter of {0} is not signed by the key it names, so it was changed or made up")]
    Forged(String),
    /// Signed in the future.
    #[error(
        "the charter of {region} was signed at {at} and it is {now} now (seconds since 1970): check the clock of both machines"
    )]
    Future {
        /// Whose it is.
        region: String,
        /// When it was signed.
        at: u64,
        /// What the reading node's clock says.
        now: u64,
    },
}

impl CharterBody {
    fn check(&self) -> Result<(), CharterError> {
        let region = || self.region.clone();
        if !valid_region(&self.region) {
            return Err(CharterError::Region(short(&self.region)));
        }
        let counted = [
            ("sites", self.sites.len(), MAX_SITES),
            ("other regions", self.peers.len(), MAX_PEERS),
            ("former keys", self.rotated.len(), MAX_ROTATED),
        ];
        for (what, count, most) in counted {
            if count > most {
                return Err(CharterError::TooMany { region: region(), what, count, most });
            }
        }
        let twice = |twice: String| CharterError::Twice { region: region(), twice };
        let mut names = BTreeSet::new();
        for site in &self.sites {
            if !valid_name(&site.name) {
                return Err(CharterError::SiteName(short(&site.name)));
            }
            if !names.insert(&site.name) {
                return Err(twice(format!("the site {}", site.name)));
            }
        }
        for pair in self.sites.windows(2) {
            match pair[0].subgrid.cmp(&pair[1].subgrid) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => {
                    return Err(twice(format!("sub-grid {}", pair[1].subgrid.short())));
                }
                std::cmp::Ordering::Greater => return Err(CharterError::Order(region())),
            }
        }
        let mut asked = BTreeSet::new();
        for peer in &self.peers {
            if !valid_region(&peer.region) {
                return Err(CharterError::Region(short(&peer.region)));
            }
            if peer.region == self.region {
                return Err(CharterError::AsksItself(region()));
            }
            if !asked.insert(&peer.region) {
                return Err(twice(format!("the region {}", peer.region)));
            }
        }
        if self.chain_holds() { Ok(()) } else { Err(CharterError::Rotations(region())) }
    }

    /// Whether each former key has signed for the next, and none comes twice.
    fn chain_holds(&self) -> bool {
        let keys: Vec<_> = self.rotated.iter().map(|(old, _)| old).chain([&self.key]).collect();
        let distinct: BTreeSet<_> = keys.iter().collect();
        let next = keys.iter().skip(1);
        let mut links = self.rotated.iter().zip(next);
        distinct.len() == keys.len()
            && links.all(|((old, proof), next)| Rotation::is_genuine(old, next, proof))
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = CONTEXT.to_vec();
        // Plain structs of numbers, strings and lists always serialize.
        bytes.extend(postcard::to_stdvec(self).unwrap_or_default());
        bytes
    }
}

impl Charter {
    /// Signs `body`, whose sites may be in any order.
    ///
    /// # Errors
    /// `body` names another key, or says what no charter may.
    pub fn sign(key: &RegionKey, mut body: CharterBody) -> Result<Self, CharterError> {
        body.sites.sort_by_key(|site| site.subgrid);
        body.check()?;
        if body.key != key.id() {
            return Err(CharterError::OtherKey(body.region));
        }
        let signature = key.secret().sign(&body.signed_bytes());
        let charter = Self { body, signature };
        let bytes = charter.to_bytes().len();
        if bytes > MAX_CHARTER {
            return Err(CharterError::TooLong { bytes });
        }
        Ok(charter)
    }

    /// Reads one that is sound, genuine under the key it names, and not signed in the future.
    /// Whether that key is to be believed is another question: [`Charter::is_under`].
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn read(bytes: &[u8], now: u64) -> Result<Self, CharterError> {
        if bytes.len() > MAX_CHARTER {
            return Err(CharterError::TooLong { bytes: bytes.len() });
        }
        let unchecked: Unchecked = frame::decode(bytes).map_err(|_| CharterError::Malformed)?;
        let charter = Self::try_from(unchecked)?;
        // One charter has one form.
        if charter.to_bytes() != bytes {
            return Err(CharterError::Malformed);
        }
        let at = charter.body.at;
        if at > now.saturating_add(CLOCK_SKEW_S) {
            return Err(CharterError::Future { region: charter.body.region, at, now });
        }
        Ok(charter)
    }

    /// As it is sent, at most [`MAX_CHARTER`] bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain structs of numbers, strings and lists always serialize.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// What it says.
    pub fn body(&self) -> &CharterBody {
        &self.body
    }

    /// Whether it takes the place of `known`, of the same region. Of two by one key the one with the
    /// higher version does; two of one version, signed where the key was copied, are told apart the
    /// same way everywhere. One by a key that follows that of `known` does, whatever the versions:
    /// who has stolen a former key cannot outdo the present one with a high version.
    pub fn replaces(&self, known: &Self) -> bool {
        if self.body.region != known.body.region {
            return false;
        }
        match (self.is_under(&known.body.key), known.is_under(&self.body.key)) {
            (true, false) => true,
            (true, true) => self.rank() > known.rank(),
            (false, _) => false,
        }
    }

    fn rank(&self) -> (u64, u64, [u8; 32]) {
        let digest = *blake3::hash(&self.body.signed_bytes()).as_bytes();
        (self.body.version, self.body.at, digest)
    }

    /// Whether who has pinned `key` may believe it: it is signed by that key or by one that follows
    /// it.
    pub fn is_under(&self, key: &[u8; 32]) -> bool {
        // The chain was checked when this was made.
        self.body.key == *key || self.body.rotated.iter().any(|(old, _)| old == key)
    }

    /// The site that is this sub-grid.
    pub fn site(&self, subgrid: SubgridId) -> Option<&CharterSite> {
        let sites = &self.body.sites;
        sites.binary_search_by_key(&subgrid, |site| site.subgrid).ok().map(|at| &sites[at])
    }
}

/// What has the form of a charter.
#[derive(Deserialize)]
struct Unchecked {
    body: CharterBody,
    signature: Signature,
}

impl TryFrom<Unchecked> for Charter {
    type Error = CharterError;

    fn try_from(unchecked: Unchecked) -> Result<Self, CharterError> {
        let Unchecked { body, signature } = unchecked;
        body.check()?;
        let genuine = PublicKey::from_bytes(&body.key)
            .is_ok_and(|key| key.verify(&body.signed_bytes(), &signature).is_ok());
        if !genuine {
            return Err(CharterError::Forged(body.region));
        }
        Ok(Self { body, signature })
    }
}
