use std::fmt;

use reed_solomon_erasure::galois_8::ReedSolomon;
use serde::{Deserialize, Serialize};

use crate::{SLICE, Scheme};

/// A BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).into())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

/// Which state of the bytes: newer ones compare greater.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Version {
    /// Grows when the group that writes them was founded anew.
    pub generation: u64,
    /// Grows with each change within one generation.
    pub change: u64,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.change)
    }
}

/// What tells the right shards from all others: 32 bytes for each shard and some 50 besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of the bytes.
    pub version: Version,
    /// How they are spread.
    pub scheme: Scheme,
    /// How many there are.
    pub len: u64,
    /// Of all of them.
    pub whole: Digest,
    /// Of each shard.
    pub shards: Vec<Digest>,
}

impl Manifest {
    /// How large each shard is, in bytes.
    pub fn shard_len(&self) -> u64 {
        self.len.div_ceil(self.scheme.data() as u64)
    }
}

/// One member's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Of the bytes it is a part of.
    pub version: Version,
    /// Which part.
    pub index: u8,
    /// The part.
    pub bytes: Vec<u8>,
}

/// Splits bytes into shards. The last data shard is filled up with zeroes.
pub fn split(bytes: &[u8], version: Version, scheme: Scheme) -> (Manifest, Vec<Shard>) {
    let mut parts: Vec<Vec<u8>> = Vec::with_capacity(scheme.total());
    let len = bytes.len().div_ceil(scheme.data());
    for index in 0..scheme.data() {
        let start = (index * len).min(bytes.len());
        let mut part = bytes[start..(start + len).min(bytes.len())].to_vec();
        part.resize(len, 0);
        parts.push(part);
    }
    let mut parity = vec![vec![0; len]; scheme.parity()];
    if let Some(code) = code_of(scheme) {
        for start in (0..len).step_by(SLICE) {
            let end = (start + SLICE).min(len);
            let data: Vec<&[u8]> = parts.iter().map(|part| &part[start..end]).collect();
            let mut out: Vec<&mut [u8]> =
                parity.iter_mut().map(|part| &mut part[start..end]).collect();
            // All slices are as long as each other and as many as the code wants.
            code.encode_sep(&data, &mut out).expect("slices of one length");
        }
    }
    parts.append(&mut parity);
    let manifest = Manifest {
        version,
        scheme,
        len: bytes.len() as u64,
        whole: Digest::of(bytes),
        shards: parts.iter().map(|part| Digest::of(part)).collect(),
    };
    let shard = |(index, bytes)| Shard { version, index: index as u8, bytes };
    (manifest, parts.into_iter().enumerate().map(shard).collect())
}

/// The code of a scheme; none where there is no parity.
pub(crate) fn code_of(scheme: Scheme) -> Option<ReedSolomon> {
    // Both are at least 1 and together at most 64, within what the field allows.
    (scheme.parity() > 0).then(|| {
        ReedSolomon::new(scheme.data(), scheme.parity()).expect("a scheme is a possible code")
    })
}
