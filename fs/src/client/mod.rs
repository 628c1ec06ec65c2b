//! The side away from home: a tree whose files are at home.
//!
//! [`Client`] knows neither FUSE nor the network: it is given streams by a [`Transport`] and
//! offers operations on inodes. Every operation has a deadline and ends in an error, never in a
//! hang.
//!
//! * Files of the home's system do not change behind the app's back: their attributes hold for
//!   [`ClientConfig::system_ttl`], their content is verified by digest and kept in a [`Cache`].
//!   Each open asks home, so a file replaced or changed by an upgrade is seen as it is then.
//! * The user's files are close-to-open: a write returns when home has it, an open sees what
//!   was written before, and attributes hold for [`ClientConfig::user_ttl`].
//!
//! [`Cache`]: crate::cache::Cache

mod conn;
mod content;
mod dirs;
mod files;
mod link;
mod ops;
mod prefetch;
mod table;

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use phantom_model::{AppId, Epoch};
use rustix::io::Errno;

use crate::cache::Cache;
use crate::proto::{Attr, Entry, HandleId, Refusal};
use content::Contents;
use files::OpenFile;
use link::Link;
use table::Table;

pub use dirs::DirEntry;
pub use files::Opened;
pub use prefetch::Prefetched;
pub use table::Ino;

/// Makes connections to the process that serves the files.
pub trait Transport: Send + Sync + 'static {
    /// A fresh connection.
    ///
    /// # Errors
    /// When none can be had within `timeout`; the client tries again.
    fn connect(&self, timeout: Duration) -> io::Result<UnixStream>;
}

impl<F> Transport for F
where
    F: Fn(Duration) -> io::Result<UnixStream> + Send + Sync + 'static,
{
    fn connect(&self, timeout: Duration) -> io::Result<UnixStream> {
        self(timeout)
    }
}

/// Connects to a local socket.
#[derive(Debug, Clone)]
pub struct SocketPath(pub PathBuf);

impl Transport for SocketPath {
    fn connect(&self, _timeout: Duration) -> io::Result<UnixStream> {
        UnixStream::connect(&self.0)
    }
}

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Whose files.
    pub app: AppId,
    /// The epoch of the app's copy here.
    pub epoch: Epoch,
    /// How long an operation may take; then it fails with `EIO`.
    pub deadline: Duration,
    /// The same for what may rightly take longer (fsync, large copies) while home answers.
    pub long_deadline: Duration,
    /// Operations under way at once.
    pub max_in_flight: usize,
    /// How long names and attributes of the system's files hold.
    pub system_ttl: Duration,
    /// How long names and attributes of the user's files hold.
    pub user_ttl: Duration,
    /// Verified chunks kept in memory, 128 KiB each.
    pub recent_chunks: usize,
}

impl ClientConfig {
    /// The usual behaviour.
    pub fn new(app: AppId, epoch: Epoch) -> Self {
        Self {
            app,
            epoch,
            deadline: Duration::from_secs(10),
            long_deadline: Duration::from_secs(60),
            max_in_flight: 256,
            system_ttl: Duration::from_secs(30),
            user_ttl: Duration::from_secs(1),
            recent_chunks: 128,
        }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No thread could be started.
    #[error("no thread for the connection to home's files: {0}")]
    Thread(io::Error),
    /// Home did not answer.
    #[error("home's files could not be reached within {0:?}")]
    Unreachable(Duration),
    /// Home refused.
    #[error("home does not serve its files to this node: {0}")]
    Refused(Refusal),
}

/// A file that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its inode. Each time it is handed out is one reference, to be given back by
    /// [`Client::forget`].
    pub ino: Ino,
    /// Its attributes; `attr.ino` is the number to show.
    pub attr: Attr,
    /// How long both hold.
    pub ttl: Duration,
}

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// A file.
    Found(Found),
    /// Nothing.
    Absent {
        /// How long that holds.
        ttl: Duration,
    },
}

/// The files of one app's home.
#[derive(Debug)]
pub struct Client {
    link: Arc<Link>,
    table: Mutex<Table>,
    files: Mutex<HashMap<HandleId, Arc<OpenFile>>>,
    contents: Contents,
    config: ClientConfig,
    root: Attr,
}

impl Client {
    /// Opens a session with home, over connections from `transport`.
    ///
    /// # Errors
    /// When home cannot be reached within the deadline, or refuses.
    pub fn connect(
        transport: impl Transport,
        config: ClientConfig,
        cache: Option<Arc<Cache>>,
    ) -> Result<Arc<Self>, ClientError> {
        let (link, root) = Link::open(Arc::new(transport), config.clone())?;
        Ok(Arc::new(Self {
            link,
            table: Mutex::new(Table::new()),
            files: Mutex::default(),
            contents: Contents::new(cache, config.recent_chunks),
            config,
            root: root.attr,
        }))
    }

    /// Whether home answers, as far as is known.
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// The copy here has another epoch from now on: home gave the app back to it. What was open
    /// stays open.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.link.set_epoch(epoch);
    }

    /// Drops the connection of the moment and makes a new one: the way to home has changed.
    pub fn reconnect(&self) {
        self.link.cut();
    }

    /// Attributes the top of the tree had when the session began.
    pub fn root_attr(&self) -> Attr {
        self.root
    }

    /// How many inodes are handed out.
    pub fn inodes(&self) -> usize {
        self.table().len()
    }

    /// Ends the session. Operations under way and later ones fail.
    pub fn close(&self) {
        self.link.close();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ttl(&self, attr: &Attr) -> Duration {
        if attr.system { self.config.system_ttl } else { self.config.user_ttl }
    }

    /// Home's word for an inode.
    fn node(&self, ino: Ino) -> Result<crate::proto::NodeId, Errno> {
        self.table().node(ino).ok_or(Errno::STALE)
    }

    /// Takes an entry home told of into the table.
    fn enter(&self, entry: &Entry) -> Result<Found, Errno> {
        let entered = self.table().enter(entry);
        let Some(ino) = entered else {
            tracing::error!(?entry, "home contradicts itself about a file");
            return Err(Errno::IO);
        };
        Ok(Found { ino, attr: self.shown(ino, entry.attr)?, ttl: self.ttl(&entry.attr) })
    }

    /// Attributes as they are shown for `ino`; checked, since they come from another machine.
    fn shown(&self, ino: Ino, mut attr: Attr) -> Result<Attr, Errno> {
        if attr.size > i64::MAX as u64 {
            return Err(Errno::OVERFLOW);
        }
        attr.atime = attr.atime.clamped();
        attr.mtime = attr.mtime.clamped();
        attr.ctime = attr.ctime.clamped();
        if ino != Ino::ROOT {
            attr.ino = ino.0;
        }
        Ok(attr)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.link.close();
    }
}
