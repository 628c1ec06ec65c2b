//! Open directories.

use rustix::io::Errno;

use super::files::{Opened, Source};
use super::ops::{opened, unexpected};
use super::{Client, Found, Ino};
use crate::proto::{Answer, DirItem, HandleId, MAX_LISTING, Op};

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// As home has it.
    pub item: DirItem,
    /// The file, if attributes were asked for: one reference.
    pub found: Option<Found>,
}

impl Client {
    /// Opens a directory.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn open_dir(&self, ino: Ino) -> Result<Opened, Errno> {
        let op = Op::OpenDir { node: self.node(ino)? };
        let (handle, attr) = opened(self.link.call(op, Vec::new())?.0)?;
        let unchanged = self.table().see(ino, &attr, None) && attr.system;
        self.keep(handle, ino, attr, Source::Plain);
        Ok(Opened { handle, attr: self.shown(ino, attr)?, unchanged })
    }

    /// Entries of an open directory from `offset` on (0 or a `next_offset`), about `max_bytes`
    /// of them; none at the end. With `attributes` each found one is one reference.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn read_dir(
        &self,
        handle: HandleId,
        offset: u64,
        max_bytes: u32,
        attributes: bool,
    ) -> Result<Vec<DirEntry>, Errno> {
        let max_bytes = max_bytes.min(MAX_LISTING);
        let op = Op::ReadDir { handle, offset, max_bytes, attributes };
        let items = match self.link.call(op, Vec::new())?.0 {
            Answer::Listing(items) => items,
            other => return Err(unexpected(&other)),
        };
        let enter = |item: DirItem| {
            let found = item.entry.and_then(|entry| self.enter(&entry).ok());
            DirEntry { item, found }
        };
        Ok(items.into_iter().map(enter).collect())
    }
}
