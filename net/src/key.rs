//! Secret keys on disk: the node's own, and on the founding node the sub-grid's. Those of regions
//! are kept the same way: see [`crate::region`].
//!
//! A key is made once. Its file is created atomically with mode 0600, and a file that others can
//! read is refused: who holds the key *is* the node.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use iroh_base::{PublicKey, SecretKey};
use phantom_model::{NodeId, SubgridId};

use crate::error::KeyError;

/// File name of the node key inside the state directory.
pub const NODE_KEY_FILE: &str = "node.key";
/// File name of the sub-grid key inside the state directory (founding node only).
pub const SUBGRID_KEY_FILE: &str = "subgrid.key";

const PREFIX: &str = "phantom-ed25519-secret ";

/// The Ed25519 key that is a node's identity.
#[derive(Clone)]
pub struct NodeKey(pub(crate) SecretKey);

impl NodeKey {
    /// Reads the key in `state_dir`, or makes it there when there is none yet.
    ///
    /// # Errors
    /// The file cannot be read or written, others can read it, or it holds no key.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, KeyError> {
        load_or_create(&state_dir.join(NODE_KEY_FILE)).map(Self)
    }

    /// A key that lives in memory only: tests and throw-away nodes.
    pub fn ephemeral() -> Self {
        Self(SecretKey::generate())
    }

    /// The public half, by which others know this node.
    pub fn id(&self) -> NodeId {
        NodeId(*self.0.public().as_bytes())
    }
}

impl NodeKey {
    /// A secret that this node and `peer` know and nobody else: X25519 (RFC 7748) between the two
    /// keys' Montgomery forms, hashed for the `context` it is to be used in. `None` when `peer` is
    /// no key, or one with which anybody would come to the same.
    pub fn shared_with(&self, peer: NodeId, context: &str) -> Option<[u8; 32]> {
        let theirs = PublicKey::from_bytes(&peer.0).ok()?.as_verifying_key();
        if theirs.is_weak() {
            return None;
        }
        let point = theirs.to_montgomery() * self.0.as_signing_key().to_scalar();
        let (own, mut hasher) = (self.id(), blake3::Hasher::new_derive_key(context));
        hasher.update(point.as_bytes());
        // The same on both sides.
        hasher.update(&own.0.min(peer.0)).update(&own.0.max(peer.0));
        Some(*hasher.finalize().as_bytes())
    }
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeKey({})", self.id().short())
    }
}

/// The Ed25519 key that signs a sub-grid's membership certificates.
#[derive(Clone)]
pub struct SubgridKey(pub(crate) SecretKey);

impl SubgridKey {
    /// Makes a new key in `state_dir`, or reads the one that an interrupted founding left there.
    ///
    /// # Errors
    /// As [`NodeKey::load_or_create`].
    pub fn load_or_create(state_dir: &Path) -> Result<Self, KeyError> {
        load_or_create(&state_dir.join(SUBGRID_KEY_FILE)).map(Self)
    }

    /// Reads the key in `state_dir`; `None` when this node founded no sub-grid.
    ///
    /// # Errors
    /// As [`NodeKey::load_or_create`].
    pub fn load(state_dir: &Path) -> Result<Option<Self>, KeyError> {
        load(&state_dir.join(SUBGRID_KEY_FILE)).map(|key| key.map(Self))
    }

    /// A key that lives in memory only.
    pub fn ephemeral() -> Self {
        Self(SecretKey::generate())
    }

    /// The public half, which names the sub-grid.
    pub fn id(&self) -> SubgridId {
        SubgridId(*self.0.public().as_bytes())
    }
}

impl std::fmt::Debug for SubgridKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SubgridKey({})", self.id().short())
    }
}

pub(crate) fn load_or_create(path: &Path) -> Result<SecretKey, KeyError> {
    if let Some(key) = load(path)? {
        return Ok(key);
    }
    match create(path, &SecretKey::generate()) {
        // Another process was quicker: its key is the one that counts.
        Err(KeyError::Write { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {}
        other => other?,
    }
    load(path)?
        .ok_or_else(|| KeyError::Read { path: path.to_owned(), source: ErrorKind::NotFound.into() })
}

pub(crate) fn load(path: &Path) -> Result<Option<SecretKey>, KeyError> {
    let failed = |source| KeyError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let meta = file.metadata().map_err(failed)?;
    if meta.mode() & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode: meta.mode() & 0o777 });
    }
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text).map_err(failed)?;
    let bytes = text
        .strip_prefix(PREFIX)
        .and_then(|hex| data_encoding::HEXLOWER.decode(hex.trim_end().as_bytes()).ok())
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        .ok_or_else(|| KeyError::Malformed { path: path.to_owned() })?;
    Ok(Some(SecretKey::from_bytes(&bytes)))
}

/// Writes beside the target and links into place, so that a crash leaves either no key or a whole
/// one, and a key that exists is never replaced.
fn create(path: &Path, key: &SecretKey) -> Result<(), KeyError> {
    staged(path, key, |staged| fs::hard_link(staged, path))
}

/// Writes `key` to a file of its own beside `path`, puts it in place and makes that last.
pub(crate) fn staged(
    path: &Path,
    key: &SecretKey,
    put: impl FnOnce(&Path) -> std::io::Result<()>,
) -> Result<(), KeyError> {
    let failed = |source| KeyError::Write { path: path.to_owned(), source };
    let dir = path.parent().unwrap_or(Path::new("."));
    if !dir.exists() {
        fs::create_dir_all(dir).map_err(failed)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    let staged = dir.join(format!(".key-{}-{:08x}", std::process::id(), rand::random::<u32>()));
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&staged)?;
        let secret = data_encoding::HEXLOWER.encode(&key.to_bytes());
        file.write_all(format!("{PREFIX}{secret}\n").as_bytes())?;
        file.sync_all()?;
        put(&staged)?;
        File::open(dir)?.sync_all()
    };
    let written = write();
    // The staged name is of no use either way; what was put in place keeps the content.
    let _ = fs::remove_file(&staged);
    written.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = NodeKey::load_or_create(&state).unwrap();
        assert_eq!(NodeKey::load_or_create(&state).unwrap().id(), first.id());
        let mode = fs::metadata(state.join(NODE_KEY_FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "no staged file stays");
    }

    #[test]
    fn two_nodes_share_a_secret_with_nobody_else() {
        let [a, b, c] = [(); 3].map(|()| NodeKey::ephemeral());
        let secret = a.shared_with(b.id(), "test 1").unwrap();
        assert_eq!(b.shared_with(a.id(), "test 1"), Some(secret));
        assert_ne!(c.shared_with(a.id(), "test 1"), Some(secret));
        assert_ne!(a.shared_with(b.id(), "test 2"), Some(secret));
        // The neutral point, with which every product is zero.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert_eq!(a.shared_with(NodeId(neutral), "test 1"), None);
    }

    #[test]
    fn a_key_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        NodeKey::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(NODE_KEY_FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = NodeKey::load_or_create(dir.path()).unwrap_err().to_string();
        assert!(error.contains("mode 640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_damaged_key_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        NodeKey::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(NODE_KEY_FILE);
        fs::write(&path, "phantom-ed25519-secret 00ff\n").unwrap();
        assert!(matches!(NodeKey::load_or_create(dir.path()), Err(KeyError::Malformed { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "phantom-ed25519-secret 00ff\n");
    }

    #[test]
    fn racing_processes_agree() {
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| NodeKey::load_or_create(dir.path()).unwrap().id()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
