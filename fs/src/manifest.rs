//! What a content is: the BLAKE3 digests of its chunks, and one digest that names them all.

use crate::proto::{CHUNK, Digest};

/// The digests of a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    size: u64,
    chunks: Vec<[u8; 32]>,
}

impl Manifest {
    /// Number of chunks of a file of `size` bytes.
    pub fn chunk_count(size: u64) -> u64 {
        size.div_ceil(u64::from(CHUNK))
    }

    /// From the digests of all chunks; `None` if their number is not that of a file of `size`.
    pub fn new(size: u64, chunks: Vec<[u8; 32]>) -> Option<Self> {
        (Self::chunk_count(size) == chunks.len() as u64).then_some(Self { size, chunks })
    }

    /// Of a content that is at hand.
    pub fn of_bytes(content: &[u8]) -> Self {
        let chunks = content.chunks(CHUNK as usize).map(chunk_digest).collect();
        Self { size: content.len() as u64, chunks }
    }

    /// Bytes of the content.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Digests of the chunks, in order.
    pub fn chunks(&self) -> &[[u8; 32]] {
        &self.chunks
    }

    /// Length of a chunk in bytes: [`CHUNK`] but for the last. 0 behind the end.
    pub fn chunk_len(&self, index: u32) -> usize {
        let start = u64::from(index) * u64::from(CHUNK);
        self.size.saturating_sub(start).min(u64::from(CHUNK)) as usize
    }

    /// Whether `bytes` are chunk `index`.
    pub fn verify(&self, index: u32, bytes: &[u8]) -> bool {
        self.chunks.get(index as usize).is_some_and(|digest| chunk_digest(bytes) == *digest)
    }

    /// The name of this content.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("phantom-fs manifest 1");
        hasher.update(&self.size.to_le_bytes());
        hasher.update(self.chunks.as_flattened());
        Digest(*hasher.finalize().as_bytes())
    }
}

/// The digest of one chunk.
pub fn chunk_digest(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_tells_contents_apart() {
        let content: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        let manifest = Manifest::of_bytes(&content);
        assert_eq!(manifest.chunks().len(), 3);
        assert_eq!(manifest.chunk_len(2), 300_000 - 2 * CHUNK as usize);
        assert_eq!(manifest.chunk_len(3), 0);
        let mut chunk = content[..CHUNK as usize].to_vec();
        assert!(manifest.verify(0, &chunk));
        chunk[77] ^= 1;
        assert!(!manifest.verify(0, &chunk));
        assert!(!manifest.verify(9, &chunk));
        let mut longer = content.clone();
        longer.push(0);
        assert_ne!(Manifest::of_bytes(&longer).digest(), manifest.digest());
        assert!(Manifest::new(300_000, vec![[0; 32]; 2]).is_none());
    }
}
