//! Membership certificates: the sub-grid's word that a node is one of its own.

use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Authority, CLOCK_SKEW_S, Seal};

/// How long a certificate holds: a year.
pub const VALIDITY_S: u64 = 365 * 24 * 3600;

const CONTEXT: &[u8] = b"phantom membership certificate 1\0";

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The sub-grid whose key signs.
    pub subgrid: SubgridId,
    /// The node that is a member.
    pub node: NodeId,
    /// What people call it; unique in the sub-grid.
    pub name: String,
    /// First second of validity, since 1970.
    pub not_before: u64,
    /// First second in which it no longer holds, since 1970.
    pub expires: u64,
    /// Of two certificates of one node the one with the higher serial counts.
    pub serial: u64,
}

/// Signed [`Terms`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    terms: Terms,
    seal: Seal,
}

/// Why a certificate does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// The seal is not the sub-grid's.
    #[error(
        "the membership certificate of `{name}` is not signed by sub-grid {}, so it was changed or made up: let the node join again, with a token from `phantom invite`",
        .subgrid.short()
    )]
    Forged {
        /// The name it claims.
        name: String,
        /// The sub-grid it claims.
        subgrid: SubgridId,
    },
    /// It belongs to another sub-grid.
    #[error(
        "`{name}` is a member of sub-grid {}, not of {}: if it shall change over, run `phantom leave` on it and let it join with a token from `phantom invite`",
        .theirs.short(), .ours.short()
    )]
    Foreign {
        /// The name it claims.
        name: String,
        /// The sub-grid it is of.
        theirs: SubgridId,
        /// The sub-grid that was wanted.
        ours: SubgridId,
    },
    /// It is somebody else's.
    #[error("the certificate is that of node {}, not of node {}", .named.short(), .proven.short())]
    NotTheirs {
        /// The node it names.
        named: NodeId,
        /// The node that proved its key.
        proven: NodeId,
    },
    /// Its validity lies in the future by more than the allowed skew.
    #[error(
        "the certificate of `{name}` holds only from {not_before} on and it is {now} now (seconds since 1970): check the clock of both machines"
    )]
    NotYet {
        /// The name it claims.
        name: String,
        /// First second of validity.
        not_before: u64,
        /// What the checking node's clock says.
        now: u64,
    },
    /// It is over.
    #[error(
        "the certificate of `{name}` expired {} s ago: let it join again, with a token from `phantom invite`, or check the clock of both machines",
        .now.saturating_sub(*.expires)
    )]
    Expired {
        /// The name it claims.
        name: String,
        /// First second in which it no longer held.
        expires: u64,
        /// What the checking node's clock says.
        now: u64,
    },
    /// The node was put out of the sub-grid.
    #[error(
        "`{name}` was removed from the sub-grid: if it shall take part again, run `sudo phantom up` on it and accept it"
    )]
    Removed {
        /// The name it claims.
        name: String,
    },
    /// The name is not one.
    #[error(
        "{0:?} is not a node name (1 to 63 letters, digits, `.`, `-` or `_`, first a letter or digit)"
    )]
    Name(String),
}

/// Whether `name` can be a node's: 1 to 63 of letters, digits, `.`, `-`, `_`, beginning with a
/// letter or digit. Host names are.
pub fn valid_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

impl Certificate {
    /// Signs `terms`; the sub-grid named there is replaced by the signer's own.
    ///
    /// # Errors
    /// The name is not one.
    pub fn issue(by: impl Into<Authority>, terms: Terms) -> Result<Self, CertificateError> {
        let by = by.into();
        if !valid_name(&terms.name) {
            return Err(CertificateError::Name(terms.name));
        }
        let terms = Terms { subgrid: by.subgrid(), ..terms };
        let seal = by.seal(&signed_bytes(&terms));
        Ok(Self { terms, seal })
    }

    /// The signature under it.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }

    /// What it says. Not to be believed before [`Certificate::check`].
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Whether it is genuine and holds at `now` for a member of `subgrid`.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self, subgrid: SubgridId, now: u64) -> Result<(), CertificateError> {
        self.check_genuine(subgrid)?;
        let Terms { name, not_before, expires, .. } = &self.terms;
        if *not_before > now.saturating_add(CLOCK_SKEW_S) {
            return Err(CertificateError::NotYet {
                name: name.clone(),
                not_before: *not_before,
                now,
            });
        }
        if *expires <= now {
            return Err(CertificateError::Expired { name: name.clone(), expires: *expires, now });
        }
        Ok(())
    }

    /// As [`Certificate::check`], and that it is the certificate of `proven`.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check_for(
        &self,
        proven: NodeId,
        subgrid: SubgridId,
        now: u64,
    ) -> Result<(), CertificateError> {
        if self.terms.node != proven {
            return Err(CertificateError::NotTheirs { named: self.terms.node, proven });
        }
        self.check(subgrid, now)
    }

    /// Whether it is genuine and that of `proven`, whatever the time.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check_for_ever(
        &self,
        proven: NodeId,
        subgrid: SubgridId,
    ) -> Result<(), CertificateError> {
        if self.terms.node != proven {
            return Err(CertificateError::NotTheirs { named: self.terms.node, proven });
        }
        self.check_genuine(subgrid)
    }

    /// Whether it is signed by `subgrid`, whatever the time.
    ///
    /// # Errors
    /// It is not, or its name is not one.
    pub fn check_genuine(&self, subgrid: SubgridId) -> Result<(), CertificateError> {
        let Terms { name, subgrid: theirs, .. } = &self.terms;
        if !valid_name(name) {
            return Err(CertificateError::Name(name.chars().take(64).collect()));
        }
        if *theirs != subgrid {
            return Err(CertificateError::Foreign {
                name: name.clone(),
                theirs: *theirs,
                ours: subgrid,
            });
        }
        if !self.seal.is_genuine(subgrid, &signed_bytes(&self.terms)) {
            return Err(CertificateError::Forged { name: name.clone(), subgrid });
        }
        Ok(())
    }
}

fn signed_bytes(terms: &Terms) -> Vec<u8> {
    let mut bytes = CONTEXT.to_vec();
    // Plain structs of numbers and strings always serialize.
    bytes.extend(postcard::to_stdvec(terms).unwrap_or_default());
    bytes
}
