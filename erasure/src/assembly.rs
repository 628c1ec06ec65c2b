use thiserror::Error;

use crate::SLICE;
use crate::code::{Digest, Manifest, Shard, Version, code_of};

/// Why a shard is not used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Of an older state of the bytes.
    #[error("shard {index} is of version {found}, not of {wanted}: it is stale")]
    Stale {
        /// Which shard.
        index: u8,
        /// Its version.
        found: Version,
        /// The manifest's.
        wanted: Version,
    },
    /// Of a state that this manifest knows nothing of.
    #[error("shard {index} is of version {found}, newer than {wanted}: fetch the newer manifest")]
    Newer {
        /// Which shard.
        index: u8,
        /// Its version.
        found: Version,
        /// The manifest's.
        wanted: Version,
    },
    /// There is none with this number.
    #[error("there are {total} shards, so none has the number {index}")]
    NoSuch {
        /// The number.
        index: u8,
        /// How many there are.
        total: usize,
    },
    /// Not what it was when it was made.
    #[error("shard {index} is not what was spread: its digest differs")]
    Corrupt {
        /// Which shard.
        index: u8,
    },
    /// The manifest contradicts itself, so nothing can be checked by it.
    #[error("the manifest of version {version} lists {listed} digests for {total} shards")]
    BadManifest {
        /// Its version.
        version: Version,
        /// How many digests it lists.
        listed: usize,
        /// How many shards its scheme has.
        total: usize,
    },
}

/// Gathers shards until there are enough.
#[derive(Debug)]
pub struct Assembly {
    manifest: Manifest,
    parts: Vec<Option<Vec<u8>>>,
}

impl Assembly {
    /// Nothing yet of what a manifest is about. It must come from who may say so: everything else
    /// is checked by it.
    pub fn new(manifest: Manifest) -> Result<Self, Refusal> {
        let (listed, total) = (manifest.shards.len(), manifest.scheme.total());
        if listed != total {
            return Err(Refusal::BadManifest { version: manifest.version, listed, total });
        }
        Ok(Self { parts: vec![None; total], manifest })
    }

    /// Takes a shard, if it is one. One that is there already is no error.
    pub fn offer(&mut self, shard: Shard) -> Result<(), Refusal> {
        let Shard { version: found, index, bytes } = shard;
        let wanted = self.manifest.version;
        if found < wanted {
            return Err(Refusal::Stale { index, found, wanted });
        }
        if found > wanted {
            return Err(Refusal::Newer { index, found, wanted });
        }
        let total = self.parts.len();
        let at = usize::from(index);
        let Some(part) = self.parts.get_mut(at) else {
            return Err(Refusal::NoSuch { index, total });
        };
        let fits = bytes.len() as u64 == self.manifest.shard_len()
            && Digest::of(&bytes) == self.manifest.shards[at];
        if !fits {
            return Err(Refusal::Corrupt { index });
        }
        *part = Some(bytes);
        Ok(())
    }

    /// How many more shards are needed.
    pub fn missing(&self) -> usize {
        let have = self.parts.iter().flatten().count();
        self.manifest.scheme.data().saturating_sub(have)
    }

    /// The shards that are not there, by number: who holds them lost them.
    pub fn absent(&self) -> impl Iterator<Item = u8> {
        let absent = self.parts.iter().enumerate().filter(|(_, part)| part.is_none());
        absent.map(|(index, _)| index as u8)
    }

    /// The bytes, once enough shards are there.
    pub fn bytes(mut self) -> Option<Vec<u8>> {
        if self.missing() > 0 {
            return None;
        }
        let data = self.manifest.scheme.data();
        if self.parts[..data].iter().any(Option::is_none) {
            self.rebuild()?;
        }
        let len = usize::try_from(self.manifest.len).ok()?;
        let mut bytes = Vec::with_capacity(len);
        for part in self.parts.into_iter().take(data) {
            let part = part?;
            let rest = len - bytes.len();
            bytes.extend_from_slice(&part[..part.len().min(rest)]);
        }
        // Each shard was checked; this is about the code itself.
        (Digest::of(&bytes) == self.manifest.whole).then_some(bytes)
    }

    /// Computes the data shards that are not there.
    fn rebuild(&mut self) -> Option<()> {
        let (scheme, len) =
            (self.manifest.scheme, usize::try_from(self.manifest.shard_len()).ok()?);
        let code = code_of(scheme)?;
        let there: Vec<bool> = self.parts.iter().map(Option::is_some).collect();
        for part in &mut self.parts[..scheme.data()] {
            part.get_or_insert_with(|| vec![0; len]);
        }
        for start in (0..len).step_by(SLICE) {
            let end = (start + SLICE).min(len);
            // Parity that is not there is not computed; its place only has to exist.
            let mut nothing = vec![Vec::new(); scheme.total()];
            let mut slices: Vec<(&mut [u8], bool)> = self
                .parts
                .iter_mut()
                .zip(&there)
                .zip(&mut nothing)
                .map(|((part, there), nothing)| match part {
                    Some(part) => (&mut part[start..end], *there),
                    None => {
                        nothing.resize(end - start, 0);
                        (nothing.as_mut_slice(), false)
                    }
                })
                .collect();
            code.reconstruct_data(&mut slices).ok()?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Scheme, split};
    use proptest::prelude::*;
    use proptest::sample::subsequence;

    const NOW: Version = Version { generation: 3, change: 7 };

    fn scheme(data: usize, parity: usize) -> Scheme {
        Scheme::new(data, parity).unwrap()
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31 % 251) as u8).collect()
    }

    #[test]
    fn corrupt_stale_and_foreign_shards_are_named_and_never_used() {
        let content = bytes(10_000);
        let (manifest, shards) = split(&content, NOW, scheme(3, 2));
        let older = Version { change: 6, ..NOW };
        let (_, stale) = split(&bytes(9_000), older, scheme(3, 2));
        let (_, other) = split(&vec![9; 10_000], NOW, scheme(3, 2));
        let (_, newer) = split(&content, Version { generation: 4, change: 0 }, scheme(3, 2));
        let mut assembly = Assembly::new(manifest.clone()).unwrap();
        let mut said = |shard: Shard| assembly.offer(shard).unwrap_err().to_string();
        assert_eq!(said(stale[0].clone()), "shard 0 is of version 3.6, not of 3.7: it is stale");
        assert!(said(newer[1].clone()).contains("fetch the newer manifest"));
        assert!(said(other[1].clone()).contains("its digest differs"));
        let mut flipped = shards[2].clone();
        flipped.bytes[77] ^= 1;
        assert!(said(flipped).contains("shard 2 is not what was spread"));
        let short = Shard { bytes: shards[2].bytes[..9].to_vec(), ..shards[2].clone() };
        assert!(said(short).contains("its digest differs"));
        assert!(said(Shard { index: 5, ..shards[0].clone() }).contains("there are 5 shards"));
        // A right shard under another's number.
        assert!(said(Shard { index: 1, ..shards[0].clone() }).contains("its digest differs"));
        assert_eq!(assembly.missing(), 3);

        for shard in &shards[2..] {
            assembly.offer(shard.clone()).unwrap();
        }
        assert_eq!(assembly.absent().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(assembly.bytes(), Some(content));
    }

    #[test]
    fn a_manifest_that_contradicts_itself_is_refused() {
        let (mut manifest, _) = split(&bytes(100), NOW, scheme(2, 1));
        manifest.shards.pop();
        let error = Assembly::new(manifest).unwrap_err().to_string();
        assert_eq!(error, "the manifest of version 3.7 lists 2 digests for 3 shards");
    }

    #[test]
    fn a_manifest_that_lies_about_the_whole_gives_nothing() {
        let (mut manifest, shards) = split(&bytes(100), NOW, scheme(2, 0));
        manifest.whole = Digest([0; 32]);
        let mut assembly = Assembly::new(manifest).unwrap();
        shards.into_iter().for_each(|shard| assembly.offer(shard).unwrap());
        assert_eq!(assembly.bytes(), None);
    }

    /// A length around the borders of slices, a scheme, and which shards are left.
    fn case() -> impl Strategy<Value = (usize, Scheme, Vec<u8>)> {
        let len = prop_oneof![0usize..200, 3 * SLICE - 5..3 * SLICE + 5];
        (len, 1usize..6, 0usize..5).prop_flat_map(|(len, data, parity)| {
            let all: Vec<u8> = (0..(data + parity) as u8).collect();
            (Just(len), Just(scheme(data, parity)), subsequence(all, 0..=data + parity))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn any_k_shards_give_the_bytes_back_and_fewer_give_nothing(
            (len, scheme, left) in case()) {
            let content = bytes(len);
            let (manifest, shards) = split(&content, NOW, scheme);
            prop_assert!(shards.iter().all(|it| it.bytes.len() as u64 == manifest.shard_len()));
            let mut assembly = Assembly::new(manifest).unwrap();
            for index in &left {
                assembly.offer(shards[usize::from(*index)].clone()).unwrap();
            }
            let enough = left.len() >= scheme.data();
            prop_assert_eq!(assembly.missing() == 0, enough);
            prop_assert_eq!(assembly.bytes(), enough.then_some(content));
        }
    }
}
