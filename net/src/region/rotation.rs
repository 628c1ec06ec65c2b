//! The word of a region's key that another takes its place.

use iroh_base::{PublicKey, Signature};

use super::RegionKey;

const CONTEXT: &[u8] = b"phantom region rotation 1\0";

/// "The key `old` says that `new` follows it." Encoded it is [`Rotation::BYTES`] long and names
/// neither: who checks it knows both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation(Signature);

impl Rotation {
    /// How long one is when encoded.
    pub const BYTES: usize = Signature::LENGTH;

    /// Says with the key `old` that `new` follows it.
    pub fn sign(old: &RegionKey, new: [u8; 32]) -> Self {
        Self(old.secret().sign(&signed_bytes(&old.id(), &new)))
    }

    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes().to_vec()
    }

    /// Whether `bytes` are the word of the key `old` that `new` follows it.
    pub fn is_genuine(old: &[u8; 32], new: &[u8; 32], bytes: &[u8]) -> bool {
        let Ok(signature) = Signature::try_from(bytes) else { return false };
        PublicKey::from_bytes(old)
            .is_ok_and(|key| key.verify(&signed_bytes(old, new), &signature).is_ok())
    }
}

fn signed_bytes(old: &[u8; 32], new: &[u8; 32]) -> Vec<u8> {
    [CONTEXT, old, new].concat()
}
