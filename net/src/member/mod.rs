//! Who belongs to the sub-grid and who may say so: certificates, delegations and removals,
//! invitations and requests, the list of members, virtual organisations. No I/O, no clock: the time is a parameter, in
//! seconds since 1970.

mod certificate;
mod document;
mod invitation;
mod note;
mod request;
mod rights;
mod roster;
mod seal;
#[cfg(test)]
mod tests;
mod token;
mod vo;
#[cfg(test)]
mod vo_tests;
mod vos;

pub use certificate::{Certificate, CertificateError, Terms, VALIDITY_S, valid_name};
pub use document::{Document, MAX_DOCUMENT};
pub use invitation::{Decision, Invitation, JoinAsk, JoinRefusal, decide, proof};
pub use note::{Note, NoteError};
pub use request::{Code, CodeError, Desk, Opening, REQUEST_S, Request, commitment};
pub use rights::{Removal, Rights, Scope, Statements};
pub use roster::{MAX_ADDRS, MAX_MEMBERS, Member, Roster};
pub use seal::{Authority, Delegation, MAX_DELEGATES, Seal};
pub(crate) use token::MAX_TOKEN_ADDRS;
pub use token::{Token, TokenError, TokenId};
pub use vo::{MAX_CHARTER, MAX_VO_MEMBERS, Vo, VoError, VoMember};
pub(crate) use vos::{Learned, Vos};
pub use vos::{MAX_FOREIGN_VOS, MAX_VOS};

/// By how much two clocks may differ before a certificate or a join is refused.
pub const CLOCK_SKEW_S: u64 = 300;
