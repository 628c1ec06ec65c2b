//! The text a user carries from the inviting machine to the joining one.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD_NOCASE;
use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::link::PeerAddr;

const PREFIX: &str = "phantom1";
const CHECK_BYTES: usize = 5;
/// More than any invitation needs; a longer text is refused unread.
const MAX_TEXT: usize = 16384;
/// An invitation carries no more addresses than this.
pub(crate) const MAX_TOKEN_ADDRS: usize = 16;

/// Names an invitation without giving its secret away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub [u8; 8]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// An invitation: one node may join with it, once, until it expires.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The sub-grid it leads to.
    pub subgrid: SubgridId,
    /// The node that invited and answers the join.
    pub inviter: NodeId,
    /// Where that node can be reached.
    pub addrs: Vec<PeerAddr>,
    /// Proves that the bearer was invited.
    pub secret: [u8; 16],
    /// First second in which it no longer holds, since 1970.
    pub expires: u64,
}

/// Why a text is not a token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Something else altogether.
    #[error(
        "this is not a Phantom invitation: it must begin with `phantom1`; copy what `phantom invite` printed"
    )]
    NotAToken,
    /// Damaged on the way.
    #[error(
        "the invitation is damaged (a character is missing or wrong): copy it again as a whole"
    )]
    Damaged,
    /// Too late.
    #[error(
        "the invitation expired {} s ago: make a new one with `phantom invite`, or check this machine's clock",
        .now.saturating_sub(*.expires)
    )]
    Expired {
        /// First second in which it no longer held.
        expires: u64,
        /// What this machine's clock says.
        now: u64,
    },
}

impl Token {
    /// The public name of the invitation.
    pub fn id(&self) -> TokenId {
        let digest = blake3::derive_key("phantom invitation id 1", &self.secret);
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        TokenId(id)
    }

    /// Whether it still holds at `now`.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self, now: u64) -> Result<(), TokenError> {
        if self.expires <= now {
            return Err(TokenError::Expired { expires: self.expires, now });
        }
        Ok(())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = postcard::to_stdvec(self).map_err(|_| fmt::Error)?;
        let check = checksum(&bytes);
        bytes.extend(check);
        let text = BASE32_NOPAD_NOCASE.encode(&bytes);
        write!(f, "{PREFIX}{}", text.to_ascii_lowercase())
    }
}

impl fmt::Debug for Token {
    /// Without the secret: tokens end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} by {})", self.id(), self.inviter.short())
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > MAX_TEXT {
            return Err(TokenError::NotAToken);
        }
        // Terminals and chats wrap long lines: white space inside is not the user's fault.
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let head = text.get(..PREFIX.len()).ok_or(TokenError::NotAToken)?;
        if !head.eq_ignore_ascii_case(PREFIX) {
            return Err(TokenError::NotAToken);
        }
        let bytes = BASE32_NOPAD_NOCASE
            .decode(&text.as_bytes()[PREFIX.len()..])
            .map_err(|_| TokenError::Damaged)?;
        let split = bytes.len().checked_sub(CHECK_BYTES).ok_or(TokenError::Damaged)?;
        let (bytes, check) = bytes.split_at(split);
        if check != checksum(bytes) {
            return Err(TokenError::Damaged);
        }
        let (token, rest) =
            postcard::take_from_bytes::<Token>(bytes).map_err(|_| TokenError::Damaged)?;
        if !rest.is_empty() || token.addrs.len() > MAX_TOKEN_ADDRS {
            return Err(TokenError::Damaged);
        }
        Ok(token)
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let digest = blake3::derive_key("phantom invitation checksum 1", bytes);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&digest[..CHECK_BYTES]);
    check
}
