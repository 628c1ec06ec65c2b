//! Where membership is kept. The node gives its database; files and memory are at hand here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use thiserror::Error;

/// A store that failed: what it says itself.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct StoreError(pub String);

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Small durable values by name. Keys are lower-case ASCII letters, digits, `-` and `/`, at most
/// 200 bytes. Calls may block; they are made from threads where that is allowed.
pub trait Store: Send + Sync + 'static {
    /// The value of `key`, if any.
    ///
    /// # Errors
    /// The store cannot be read.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Sets `key`. When this returns, the value survives a crash of the machine.
    ///
    /// # Errors
    /// The store cannot be written; the old value is still there.
    fn put(&self, key: &str, value: &[u8]) -> Result<(), StoreError>;

    /// Removes `key`; it need not be there.
    ///
    /// # Errors
    /// The store cannot be written.
    fn remove(&self, key: &str) -> Result<(), StoreError>;

    /// All keys that begin with `prefix` (which ends in `/`), with their values.
    ///
    /// # Errors
    /// The store cannot be read.
    fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError>;
}

/// Forgets everything with the process.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<BTreeMap<String, Vec<u8>>>);

impl MemoryStore {
    fn map(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.map().get(key).cloned())
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.map().insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    fn remove(&self, key: &str) -> Result<(), StoreError> {
        self.map().remove(key);
        Ok(())
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let matching = |(key, value): (&String, &Vec<u8>)| {
            key.starts_with(prefix).then(|| (key.clone(), value.clone()))
        };
        Ok(self.map().iter().filter_map(matching).collect())
    }
}

/// One file per key in a directory of its own (mode 0700).
#[derive(Debug)]
pub struct FileStore {
    dir: PathBuf,
}

impl FileStore {
    /// Uses `dir`, which is made when missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // What a crash left half-written.
            if entry.file_name().to_string_lossy().starts_with(".put-") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { dir: dir.to_owned() })
    }

    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if key.len() > 200 || !key.bytes().all(|byte| plain(byte) || byte == b'/') {
            return Err(StoreError(format!("{key:?} is not a key")));
        }
        Ok(self.dir.join(key.replace('/', "+")))
    }
}

impl Store for FileStore {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match fs::read(self.path(key)?) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let mut staged = tempfile::NamedTempFile::with_prefix_in(".put-", &self.dir)?;
        staged.write_all(value)?;
        staged.as_file().sync_all()?;
        staged.persist(path).map_err(|error| error.error)?;
        File::open(&self.dir)?.sync_all()?;
        Ok(())
    }

    fn remove(&self, key: &str) -> Result<(), StoreError> {
        match fs::remove_file(self.path(key)?) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(File::open(&self.dir)?.sync_all()?),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let Ok(name) = entry?.file_name().into_string() else {
                continue;
            };
            let key = name.replace('+', "/");
            if !name.starts_with('.')
                && key.starts_with(prefix)
                && let Some(value) = self.get(&key)?
            {
                found.push((key, value));
            }
        }
        found.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behaves(store: &dyn Store) {
        assert_eq!(store.get("net/a").unwrap(), None);
        store.put("net/b/1", b"one").unwrap();
        store.put("net/b/2", b"two").unwrap();
        store.put("net/c", b"other").unwrap();
        store.put("net/b/1", b"uno").unwrap();
        assert_eq!(store.get("net/b/1").unwrap().unwrap(), b"uno");
        let listed = store.list("net/b/").unwrap();
        assert_eq!(
            listed.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
            ["net/b/1", "net/b/2"]
        );
        store.remove("net/b/1").unwrap();
        store.remove("net/b/1").unwrap();
        assert_eq!(store.list("net/b/").unwrap().len(), 1);
    }

    #[test]
    fn both_stores_behave_alike() {
        behaves(&MemoryStore::default());
        let dir = tempfile::tempdir().unwrap();
        behaves(&FileStore::open(&dir.path().join("s")).unwrap());
        let again = FileStore::open(&dir.path().join("s")).unwrap();
        assert_eq!(again.get("net/c").unwrap().unwrap(), b"other");
        assert!(again.put("../x", b"").is_err());
    }
}
