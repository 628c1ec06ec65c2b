//! Secret keys of regions on disk: `regions/NAME.key` in the state directory, made and guarded as
//! the node's own key is.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use iroh_base::SecretKey;

use super::valid_region;
use crate::error::KeyError;
use crate::key;

/// Where the keys of regions lie in the state directory.
const DIRECTORY: &str = "regions";

/// The Ed25519 key that signs a region's [charter](super::Charter).
#[derive(Clone)]
pub struct RegionKey(SecretKey);

impl RegionKey {
    /// Reads the key of region `name` in `state_dir`; `None` when this node has none.
    ///
    /// # Errors
    /// The name is not one, the file cannot be read, others can read it, or it holds no key.
    pub fn load(state_dir: &Path, name: &str) -> Result<Option<Self>, KeyError> {
        Ok(load(&path(state_dir, name)?)?.map(Self))
    }

    /// Reads the key of region `name` in `state_dir`, or makes it there when there is none yet.
    ///
    /// # Errors
    /// As [`RegionKey::load`], or the file cannot be written.
    pub fn load_or_create(state_dir: &Path, name: &str) -> Result<Self, KeyError> {
        key::load_or_create(&path(state_dir, name)?).map_err(of_region).map(Self)
    }

    /// Puts a new key in the place of that of region `name`. The old one is kept beside it as
    /// `NAME.key.1`, the next time as `NAME.key.2`. After a crash either the old key or the new one
    /// is in place, whole, and no key that was in use is lost. Returns the old one and the new one.
    ///
    /// # Errors
    /// As [`RegionKey::load_or_create`]; there must be a key already.
    pub fn rotate(state_dir: &Path, name: &str) -> Result<(Self, Self), KeyError> {
        let path = path(state_dir, name)?;
        let failed = |source| KeyError::Write { path: path.clone(), source };
        let missing = || KeyError::Read { path: path.clone(), source: ErrorKind::NotFound.into() };
        let directory = path.parent().unwrap_or(Path::new("."));
        // Of two at once the second waits, and replaces what the first has made.
        let lock = match File::open(directory) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing()),
            Err(error) => return Err(failed(error)),
        };
        lock.lock().map_err(failed)?;
        let old = load(&path)?.ok_or_else(missing)?;
        let kept = kept(&path).map_err(failed)?;
        let newest = kept.last().map(|(_, path)| load(path)).transpose()?.flatten();
        // It is there already where a rotation was interrupted.
        if newest.is_none_or(|newest| newest.to_bytes() != old.to_bytes()) {
            let number = kept.last().map_or(1, |(number, _)| number.saturating_add(1));
            fs::hard_link(&path, numbered(&path, number)).map_err(failed)?;
            lock.sync_all().map_err(failed)?;
        }
        let new = SecretKey::generate();
        key::staged(&path, &new, |staged| fs::rename(staged, &path))?;
        Ok((Self(old), Self(new)))
    }

    /// The keys that region `name` had before the present one, as far as they are kept, oldest
    /// first.
    ///
    /// # Errors
    /// As [`RegionKey::load`], for any of them.
    pub fn former(state_dir: &Path, name: &str) -> Result<Vec<Self>, KeyError> {
        let path = path(state_dir, name)?;
        let current = load(&path)?.map(|key| key.to_bytes());
        let failed = |source| KeyError::Read { path: path.clone(), source };
        let mut former = Vec::new();
        for (_, path) in kept(&path).map_err(failed)? {
            // The last is in use where a rotation was interrupted.
            former.extend(load(&path)?.filter(|key| Some(key.to_bytes()) != current).map(Self));
        }
        Ok(former)
    }

    /// A key that lives in memory only.
    pub fn ephemeral() -> Self {
        Self(SecretKey::generate())
    }

    /// The public half, which is what others trust.
    pub fn id(&self) -> [u8; 32] {
        *self.0.public().as_bytes()
    }

    pub(super) fn secret(&self) -> &SecretKey {
        &self.0
    }
}

impl std::fmt::Debug for RegionKey {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RegionKey({})", data_encoding::HEXLOWER.encode(&self.id()[..5]))
    }
}

fn path(state_dir: &Path, name: &str) -> Result<PathBuf, KeyError> {
    if !valid_region(name) {
        return Err(KeyError::RegionName(super::short(name)));
    }
    Ok(state_dir.join(DIRECTORY).join(format!("{name}.key")))
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The files of the keys before that at `path`, oldest first.
fn kept(path: &Path) -> std::io::Result<Vec<(u32, PathBuf)>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?.file_name();
        let number = entry.to_str().zip(name.to_str()).and_then(|(entry, name)| {
            let number = entry.strip_prefix(name)?.strip_prefix('.')?;
            number.parse::<u32>().ok().filter(|parsed| parsed.to_string() == number)
        });
        found.extend(number.map(|number| (number, numbered(path, number))));
    }
    found.sort();
    Ok(found)
}

fn load(path: &Path) -> Result<Option<SecretKey>, KeyError> {
    key::load(path).map_err(of_region)
}

/// Says of a region's key what is to be done about it, which is not what holds for a node's.
fn of_region(error: KeyError) -> KeyError {
    match error {
        KeyError::Exposed { path, mode } => KeyError::ExposedRegion { path, mode },
        KeyError::Malformed { path } => KeyError::MalformedRegion { path },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    const NAME: &str = "campus.example.org";

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    fn ids(keys: Vec<RegionKey>) -> Vec<[u8; 32]> {
        keys.iter().map(RegionKey::id).collect()
    }

    #[test]
    fn a_key_is_made_once_and_rotated_into_a_list_of_former_ones() {
        let dir = tempfile::tempdir().unwrap();
        assert!(RegionKey::load(dir.path(), NAME).unwrap().is_none());
        assert!(RegionKey::rotate(dir.path(), NAME).is_err(), "there is none to replace");
        let first = RegionKey::load_or_create(dir.path(), NAME).unwrap();
        assert_eq!(RegionKey::load_or_create(dir.path(), NAME).unwrap().id(), first.id());
        let mut seen = vec![first.id()];
        for number in 1..=12 {
            let (old, new) = RegionKey::rotate(dir.path(), NAME).unwrap();
            assert_eq!(&old.id(), seen.last().unwrap());
            assert_eq!(RegionKey::load(dir.path(), NAME).unwrap().unwrap().id(), new.id());
            assert_eq!(ids(RegionKey::former(dir.path(), NAME).unwrap()), seen);
            seen.push(new.id());
            let kept = dir.path().join(format!("regions/{NAME}.key.{number}"));
            assert_eq!(mode(&kept), 0o600);
        }
        assert_eq!(mode(&dir.path().join("regions")), 0o700);
        assert_eq!(fs::read_dir(dir.path().join("regions")).unwrap().count(), 13, "nothing staged");
    }

    #[test]
    fn an_interrupted_rotation_loses_nothing_and_is_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = RegionKey::load_or_create(dir.path(), NAME).unwrap();
        let path = path(dir.path(), NAME).unwrap();
        // As far as it comes before the new key is in place.
        fs::hard_link(&path, numbered(&path, 1)).unwrap();
        assert_eq!(RegionKey::load(dir.path(), NAME).unwrap().unwrap().id(), first.id());
        assert!(RegionKey::former(dir.path(), NAME).unwrap().is_empty());
        let (old, _) = RegionKey::rotate(dir.path(), NAME).unwrap();
        assert_eq!(old.id(), first.id());
        assert_eq!(ids(RegionKey::former(dir.path(), NAME).unwrap()), [first.id()]);
    }

    #[test]
    fn those_who_rotate_at_once_lose_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let first = RegionKey::load_or_create(dir.path(), NAME).unwrap();
        let pairs: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| RegionKey::rotate(dir.path(), NAME).unwrap()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let former = ids(RegionKey::former(dir.path(), NAME).unwrap());
        assert_eq!((former.len(), former[0]), (8, first.id()));
        for (old, new) in &pairs {
            let at = former.iter().position(|id| *id == old.id()).unwrap();
            let next = former.get(at + 1).copied();
            let current = RegionKey::load(dir.path(), NAME).unwrap().unwrap().id();
            assert_eq!(new.id(), next.unwrap_or(current));
        }
    }

    #[test]
    fn an_exposed_or_damaged_key_and_a_strange_name_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        RegionKey::load_or_create(dir.path(), NAME).unwrap();
        let path = path(dir.path(), NAME).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = RegionKey::load(dir.path(), NAME).unwrap_err().to_string();
        assert!(error.contains("mode 640") && error.contains("another key"), "{error}");
        assert!(RegionKey::rotate(dir.path(), NAME).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "phantom-ed25519-secret 00ff\n").unwrap();
        let error = RegionKey::rotate(dir.path(), NAME).unwrap_err();
        assert!(matches!(error, KeyError::MalformedRegion { .. }), "{error}");
        for name in ["", "..", "../x.org", "a/b", "A.org", ".org", "a.", "-a.org", "a b"] {
            let error = RegionKey::load_or_create(dir.path(), name).unwrap_err();
            assert!(matches!(error, KeyError::RegionName(_)), "{name}");
        }
        let longest = format!("{}a.{}", "x.".repeat(109), "y".repeat(20));
        assert_eq!(longest.len(), super::super::MAX_NAME);
        RegionKey::load_or_create(dir.path(), &longest).unwrap();
        RegionKey::rotate(dir.path(), &longest).unwrap();
    }
}
