//! What the inviter decides when somebody asks to join.
//!
//! ```text
//!            ask by J, secret proven          certificate kept with the invitation,
//!   open ───────────────────────────> used ── durably, before J gets it
//!     │                               │  └─ J asks again: the same certificate
//!     │ expired                       └──── anybody else: refused
//!     └────────> refused
//! ```

use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{CLOCK_SKEW_S, Certificate, TokenId, valid_name};
use crate::link::PeerAddr;

/// An invitation as the inviter keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// What the joiner must know.
    pub secret: [u8; 16],
    /// First second in which it no longer holds, since 1970.
    pub expires: u64,
    /// The certificate it was used for.
    pub used: Option<Certificate>,
}

/// The joiner's one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAsk {
    /// Which invitation.
    pub token: TokenId,
    /// The sub-grid the token names.
    pub subgrid: SubgridId,
    /// [`proof`] of the secret, bound to both nodes' proven keys.
    pub proof: [u8; 32],
    /// The name the joiner would like.
    pub name: String,
    /// Where the joiner can be reached.
    pub addrs: Vec<PeerAddr>,
    /// What the joiner's clock says, in seconds since 1970.
    pub now: u64,
}

/// Why a join is refused. The joiner shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum JoinRefusal {
    /// No such invitation, or the proof is wrong: which, is nobody's business.
    #[error("the node knows no such invitation: make a new one there with `phantom invite`")]
    Unknown,
    /// Too late.
    #[error("the invitation has expired: make a new one with `phantom invite`")]
    Expired,
    /// One node joined with it already.
    #[error(
        "the invitation has been used by another node: each one is good for one node, make a new one with `phantom invite`"
    )]
    Used,
    /// The clocks are too far apart for certificates to make sense.
    #[error("the clocks differ by {} s (here {theirs}, there {ours}, seconds since 1970): set the clock of the wrong machine", .ours.abs_diff(*.theirs))]
    Clock {
        /// The inviter's clock.
        ours: u64,
        /// The joiner's clock.
        theirs: u64,
    },
    /// The token is of another sub-grid than the inviter's.
    #[error(
        "the node belongs to another sub-grid than the invitation says: make a new one there with `phantom invite`"
    )]
    OtherSubgrid,
    /// The asked node may let nobody in, and knows none that may.
    #[error(
        "the node may not let others in, and none that may is known to it: ask one that may, or get a token from there (`phantom invite`)"
    )]
    MayNot,
    /// The owner said no.
    #[error("the request was denied there")]
    Denied,
    /// The owner said nothing.
    #[error("nobody has accepted the request there in time: ask again with `sudo phantom up`")]
    Unanswered,
    /// Too many ask at once.
    #[error(
        "too many machines ask to be let in there: try again in ten minutes, or join with a token (`phantom invite`)"
    )]
    Crowded,
    /// The exchange of nonces was not as it must be.
    #[error("the exchange of codes went wrong, or took too long: try again")]
    Unproven,
    /// The name is not one.
    #[error(
        "the name asked for is not a node name (1 to 63 letters, digits, `.`, `-` or `_`, first a letter or digit)"
    )]
    Name,
    /// The sub-grid has as many members as it can.
    #[error("the sub-grid is full")]
    Full,
    /// Something broke at the inviter; it is in its log.
    #[error("the node could not record the join, its log says why: try again")]
    Internal,
}

/// What to do with an ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Issue a certificate, store it with the invitation, then send it.
    Issue,
    /// The node that used the invitation asks again: send what it was given.
    Again(Box<Certificate>),
    /// Say no.
    Refuse(JoinRefusal),
}

/// The proof that `joiner` knows `secret`, of use to nobody else and with nobody else: both keys
/// are those the connection's handshake has proven.
pub fn proof(secret: &[u8; 16], subgrid: SubgridId, inviter: NodeId, joiner: NodeId) -> [u8; 32] {
    let key = blake3::derive_key("phantom invitation proof 1", secret);
    let mut hasher = blake3::Hasher::new_keyed(&key);
    hasher.update(&subgrid.0).update(&inviter.0).update(&joiner.0);
    *hasher.finalize().as_bytes()
}

/// Decides on `ask` by `joiner` (its proven key) at `now`.
pub fn decide(
    invitation: Option<&Invitation>,
    ask: &JoinAsk,
    joiner: NodeId,
    inviter: NodeId,
    subgrid: SubgridId,
    now: u64,
) -> Decision {
    if ask.subgrid != subgrid {
        return Decision::Refuse(JoinRefusal::OtherSubgrid);
    }
    let Some(invitation) = invitation else {
        return Decision::Refuse(JoinRefusal::Unknown);
    };
    let expected = blake3::Hash::from(proof(&invitation.secret, subgrid, inviter, joiner));
    // blake3::Hash compares in constant time.
    if expected != blake3::Hash::from(ask.proof) {
        return Decision::Refuse(JoinRefusal::Unknown);
    }
    if ask.now.abs_diff(now) > CLOCK_SKEW_S {
        return Decision::Refuse(JoinRefusal::Clock { ours: now, theirs: ask.now });
    }
    match &invitation.used {
        Some(given) if given.terms().node == joiner => Decision::Again(Box::new(given.clone())),
        Some(_) => Decision::Refuse(JoinRefusal::Used),
        None if invitation.expires <= now => Decision::Refuse(JoinRefusal::Expired),
        None if !valid_name(&ask.name) => Decision::Refuse(JoinRefusal::Name),
        None => Decision::Issue,
    }
}
