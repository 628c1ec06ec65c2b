//! A sub-grid's wish to belong to a region, or to leave it.

use phantom_model::{SubgridId, frame};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{short, valid_region};
use crate::member::{Authority, CLOCK_SKEW_S, Seal, valid_name};

const CONTEXT: &[u8] = b"phantom region registration 1\0";
/// No registration is longer, in bytes.
pub const MAX_REGISTRATION: usize = 2048;

/// A sub-grid asks to be let into a region, or says that it leaves it: sealed by its key or a
/// delegate. That the delegation was withdrawn since cannot be known outside the sub-grid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Registration {
    wish: Wish,
    seal: Seal,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Wish {
    subgrid: SubgridId,
    region: String,
    key: [u8; 32],
    name: String,
    at: u64,
    leaves: bool,
}

/// Why there is no such registration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RegistrationError {
    /// Something else altogether.
    #[error("it is not the registration of a sub-grid: let the sub-grid register again")]
    Malformed,
    /// No region can have that name.
    #[error(
        "{0:?} is not the name of a region: write a domain name in lower case, as campus.example.org"
    )]
    Region(String),
    /// The name is none.
    #[error(
        "{0:?} is not a site's name (1 to 63 letters, digits, `.`, `-` or `_`, first a letter or digit): choose another"
    )]
    Name(String),
    /// The seal is not the sub-grid's.
    #[error(
        "the registration of `{name}` is not sealed by sub-grid {}, so it was changed or made up",
        .subgrid.short()
    )]
    Forged {
        /// The name it claims.
        name: String,
        /// The sub-grid it claims.
        subgrid: SubgridId,
    },
    /// Sealed in the future.
    #[error(
        "the registration of `{name}` was sealed at {at} and it is {now} now (seconds since 1970): check the clock of both machines"
    )]
    Future {
        /// The name it claims.
        name: String,
        /// When it was sealed.
        at: u64,
        /// What the reading node's clock says.
        now: u64,
    },
}

impl Wish {
    fn check(&self) -> Result<(), RegistrationError> {
        if !valid_region(&self.region) {
            return Err(RegistrationError::Region(short(&self.region)));
        }
        if !valid_name(&self.name) {
            return Err(RegistrationError::Name(short(&self.name)));
        }
        Ok(())
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = CONTEXT.to_vec();
        // Plain structs of numbers and strings always serialize.
        bytes.extend(postcard::to_stdvec(self).unwrap_or_default());
        bytes
    }
}

impl Registration {
    /// Asks in the name of `by`'s sub-grid, at `at` (seconds since 1970), that `region` with this
    /// key lets it in as `name`, or says that it leaves.
    ///
    /// # Errors
    /// One of the names is none.
    pub fn sign(
        by: impl Into<Authority>,
        region: &str,
        key: [u8; 32],
        name: &str,
        at: u64,
        leaves: bool,
    ) -> Result<Self, RegistrationError> {
        let by = by.into();
        let (subgrid, region, name) = (by.subgrid(), region.to_owned(), name.to_owned());
        let wish = Wish { subgrid, region, key, name, at, leaves };
        wish.check()?;
        let seal = by.seal(&wish.signed_bytes());
        Ok(Self { wish, seal })
    }

    /// Reads one that is sound, genuine for the sub-grid it names, and not sealed in the future.
    /// The time it was [sealed at](Registration::at) tells the newer of two.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn read(bytes: &[u8], now: u64) -> Result<Self, RegistrationError> {
        if bytes.len() > MAX_REGISTRATION {
            return Err(RegistrationError::Malformed);
        }
        let malformed = |_| RegistrationError::Malformed;
        let unchecked: Unchecked = frame::decode(bytes).map_err(malformed)?;
        let registration = Self::try_from(unchecked)?;
        // One registration has one form.
        if registration.to_bytes() != bytes {
            return Err(RegistrationError::Malformed);
        }
        let at = registration.wish.at;
        if at > now.saturating_add(CLOCK_SKEW_S) {
            return Err(RegistrationError::Future { name: registration.wish.name, at, now });
        }
        Ok(registration)
    }

    /// Whether it says that it is this sub-grid's, for the region with this key: nothing is checked.
    /// Who gets many that cannot be meant looks here first.
    pub fn may_be(bytes: &[u8], subgrid: SubgridId, key: &[u8; 32]) -> bool {
        let unchecked = frame::decode::<Unchecked>(bytes).ok();
        bytes.len() <= MAX_REGISTRATION
            && unchecked.is_some_and(|it| it.wish.subgrid == subgrid && it.wish.key == *key)
    }

    /// As it is sent, at most [`MAX_REGISTRATION`] bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain structs of numbers and strings always serialize.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Who asks.
    pub fn subgrid(&self) -> SubgridId {
        self.wish.subgrid
    }

    /// The domain name of the region it is meant for.
    pub fn region(&self) -> &str {
        &self.wish.region
    }

    /// The key of the region it is meant for.
    pub fn key(&self) -> &[u8; 32] {
        &self.wish.key
    }

    /// What the sub-grid would like to be called there.
    pub fn name(&self) -> &str {
        &self.wish.name
    }

    /// When it was sealed, in seconds since 1970. What was sealed earlier than what is known of the
    /// sub-grid says nothing: somebody repeats it.
    pub fn at(&self) -> u64 {
        self.wish.at
    }

    /// Whether the sub-grid leaves; otherwise it asks to be let in.
    pub fn leaves(&self) -> bool {
        self.wish.leaves
    }

    /// The seal under it.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }
}

/// What has the form of a registration.
#[derive(Deserialize)]
struct Unchecked {
    wish: Wish,
    seal: Seal,
}

impl TryFrom<Unchecked> for Registration {
    type Error = RegistrationError;

    fn try_from(unchecked: Unchecked) -> Result<Self, RegistrationError> {
        let Unchecked { wish, seal } = unchecked;
        wish.check()?;
        if !seal.is_genuine(wish.subgrid, &wish.signed_bytes()) {
            let Wish { name, subgrid, .. } = wish;
            return Err(RegistrationError::Forged { name, subgrid });
        }
        Ok(Self { wish, seal })
    }
}
