//! The cache against a map, and damaged.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap as Model;

const CHUNK_BYTES: usize = CHUNK as usize;

fn content(seed: u8) -> Vec<u8> {
    let len = CHUNK_BYTES * (1 + seed as usize % 3) + seed as usize * 100;
    (0..len).map(|i| (i % 255) as u8 ^ seed).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Store(u8, u32),
    Read(u8, u32),
    Damage(u8, u32),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..5u8, 0..4u32);
    prop_oneof![
        4 => place().prop_map(|(seed, index)| Step::Store(seed, index)),
        6 => place().prop_map(|(seed, index)| Step::Read(seed, index)),
        1 => place().prop_map(|(seed, index)| Step::Damage(seed, index)),
        1 => Just(Step::Reopen),
    ]
}

fn used(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|f| f.unwrap().metadata().unwrap().blocks() * 512).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Against a map of what was stored: the cache may forget, but never gives anything
    /// else, and never takes more room than it may.
    #[test]
    fn it_gives_what_was_stored_or_nothing(
        steps in proptest::collection::vec(step(), 1..60),
        cap_chunks in 3..12u64,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let cap = cap_chunks * (u64::from(CHUNK) + 8192);
        let mut cache = Cache::open(dir.path(), cap).unwrap();
        let mut model: Model<(u8, u32), Vec<u8>> = Model::new();
        for step in steps {
            match step {
                Step::Store(seed, index) => {
                    let whole = content(seed);
                    let Some(chunk) = whole.chunks(CHUNK_BYTES).nth(index as usize) else { continue };
                    let manifest = Manifest::of_bytes(&whole);
                    let entry = cache.create(&manifest.digest(), &manifest).unwrap();
                    cache.store(&entry, index, chunk).unwrap();
                    prop_assert!(cache.store(&entry, index, b"something else").is_err());
                    model.insert((seed, index), chunk.to_vec());
                }
                Step::Read(seed, index) => {
                    let digest = Manifest::of_bytes(&content(seed)).digest();
                    let Some((entry, _)) = cache.find(&digest) else { continue };
                    if let Some(bytes) = entry.read(index) {
                        prop_assert_eq!(Some(&bytes), model.get(&(seed, index)));
                    }
                }
                Step::Damage(seed, index) => {
                    let digest = Manifest::of_bytes(&content(seed)).digest();
                    let path = cache.path(&digest, "data");
                    if let Ok(file) = OpenOptions::new().write(true).open(path) {
                        file.write_all_at(b"!!!", u64::from(index) * u64::from(CHUNK)).unwrap();
                    }
                }
                Step::Reopen => cache = Cache::open(dir.path(), cap).unwrap(),
            }
            prop_assert!(used(dir.path()) <= cap + 8192, "{} of {}", used(dir.path()), cap);
        }
    }
}

#[test]
fn two_processes_share_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let (one, two) = (Cache::open(&path, 1 << 20), Cache::open(&path, 1 << 20));
    let (one, two) = (one.unwrap(), two.unwrap());
    let whole = content(4);
    let manifest = Manifest::of_bytes(&whole);
    let entry = one.create(&manifest.digest(), &manifest).unwrap();
    one.store(&entry, 0, &whole[..CHUNK_BYTES]).unwrap();
    let (entry, found) = two.find(&manifest.digest()).unwrap();
    assert_eq!(found, manifest);
    assert_eq!(entry.read(0).unwrap(), whole[..CHUNK_BYTES]);
    assert!(entry.read(1).is_none());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o77, 0);
}
