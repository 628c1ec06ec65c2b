//! Open files and directories of a session.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use crate::proto::{HandleId, NodeId};

/// What is open.
#[derive(Debug)]
pub(super) enum Open {
    /// A regular file.
    File {
        /// Opened with the app's rights.
        fd: OwnedFd,
    },
    /// A directory that is being listed.
    Dir {
        /// Which node; its entries become nodes with it as parent.
        node: NodeId,
        /// `None` for a hidden directory: it lists nothing. The lock keeps seek and read
        /// together.
        fd: Option<Mutex<OwnedFd>>,
    },
}

impl Open {
    /// The file behind it; `EISDIR` for directories.
    pub(super) fn file(&self) -> Result<&OwnedFd, Errno> {
        match self {
            Open::File { fd } => Ok(fd),
            Open::Dir { .. } => Err(Errno::ISDIR),
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    open: HashMap<HandleId, Arc<Open>>,
    next: u64,
}

/// All handles of a session.
#[derive(Debug)]
pub(super) struct Handles {
    inner: Mutex<Inner>,
    limit: usize,
}

impl Handles {
    pub(super) fn new(limit: usize) -> Self {
        Self { inner: Mutex::default(), limit }
    }

    /// Keeps `open` under a new number; `ENFILE` if there are too many.
    pub(super) fn add(&self, open: Open) -> Result<HandleId, Errno> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.open.len() >= self.limit {
            return Err(Errno::NFILE);
        }
        inner.next += 1;
        let id = HandleId(inner.next);
        inner.open.insert(id, Arc::new(open));
        Ok(id)
    }

    /// What `id` stands for; `EBADF` if nothing.
    pub(super) fn get(&self, id: HandleId) -> Result<Arc<Open>, Errno> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.open.get(&id).cloned().ok_or(Errno::BADF)
    }

    /// Closes `id`, once no operation uses it any more.
    pub(super) fn remove(&self, id: HandleId) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let open = inner.open.remove(&id);
        drop(inner);
        drop(open);
    }
}
