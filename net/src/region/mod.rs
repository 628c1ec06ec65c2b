//! Keys and documents of regions. A region is a domain name and an Ed25519 key; what the key has
//! signed is the region's word, whoever passes it on.
//!
//! ```text
//!  RegionKey ──signs──> Charter: its sites and the regions it asks, the highest version counts
//!      │ rotated
//!      └──────signs──> Rotation: "that key follows me" ──┐
//!  RegionKey (new) ──signs──> Charter <─── carries ──────┘
//!
//!  sub-grid's key or delegate ──seals──> Registration: "let us in" or "we leave"
//! ```
//!
//! What holds: a [`Charter`] or [`Registration`] in memory is sound and genuine, however it came
//! there; their `read` looks at the clock as well. Of two charters all nodes take the same, whatever
//! the order in which they hear of them. No clock: the time is a parameter, in seconds since 1970.

mod charter;
mod key;
mod registration;
mod rotation;
#[cfg(test)]
mod tests;

pub use charter::{
    Charter, CharterBody, CharterError, CharterPeer, CharterSite, MAX_CHARTER, MAX_PEERS,
    MAX_ROTATED, MAX_SITES,
};
pub use key::RegionKey;
pub use registration::{MAX_REGISTRATION, Registration, RegistrationError};
pub use rotation::Rotation;

/// No region's name is longer, in bytes: `_phantom._udp.` goes before it in the DNS.
pub const MAX_NAME: usize = 240;

/// Whether `name` can be a region's: a domain name in A-labels and lower case, without a dot at its
/// end.
pub fn valid_region(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= MAX_NAME && name.split('.').all(fits)
}

/// A text from elsewhere, short enough to be shown.
fn short(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}
