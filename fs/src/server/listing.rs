//! Listing directories.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{RawDir, SeekFrom, seek};
use rustix::io::Errno;

use super::mask::Masked;
use super::nodes::{Key, NewNode, View};
use super::session::Session;
use crate::os;
use crate::proto::{DirItem, Entry, FileKind, MAX_LISTING, Name, NodeId};

/// Bytes an entry takes in a reply beside its name, with and without attributes, at most.
const ENTRY_BYTES: (usize, usize) = (160, 48);
/// Bytes of entries asked of the kernel at a time.
const BUFFER: usize = 32 << 10;

impl Session {
    /// Entries of the directory `node` from `offset` on. Each with attributes is one reference.
    pub(super) fn list(
        &self,
        node: NodeId,
        dir: &Mutex<OwnedFd>,
        offset: u64,
        max_bytes: u32,
        attributes: bool,
    ) -> Result<Vec<DirItem>, Errno> {
        let view = self.nodes.view(node)?;
        let max_bytes = max_bytes.min(MAX_LISTING) as usize;
        let entry_bytes = if attributes { ENTRY_BYTES.0 } else { ENTRY_BYTES.1 };
        let dir = dir.lock().unwrap_or_else(PoisonError::into_inner);
        seek(&*dir, SeekFrom::Start(offset))?;
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        let mut entries = RawDir::new(&*dir, &mut buffer);
        let mut items: Vec<DirItem> = Vec::new();
        let mut bytes = 0;
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if items.is_empty() => return Err(error),
                Err(_) => break,
            };
            // `.` and `..` are no names; neither is anything a broken file system may list.
            let Ok(name) = Name::new(entry.file_name().to_bytes()) else {
                continue;
            };
            let size = entry_bytes + name.as_bytes().len();
            if bytes + size > max_bytes && !items.is_empty() {
                break;
            }
            bytes += size;
            let mode = entry.file_type().as_raw_mode();
            let (ino, next_offset) = (entry.ino(), entry.next_entry_cookie());
            let known = match attributes {
                true => self.list_entry(node, &view, &dir, &name),
                false => None,
            };
            items.push(DirItem {
                name,
                ino: known.map_or(ino, |known| known.attr.ino),
                kind: known.map_or(FileKind::from_mode(mode), |known| known.attr.kind),
                next_offset,
                entry: known,
            });
        }
        Ok(items)
    }

    /// One entry with its attributes and a reference; `None` if it has gone meanwhile.
    fn list_entry(&self, parent: NodeId, view: &View, dir: &OwnedFd, name: &Name) -> Option<Entry> {
        let tree = &self.shared.tree;
        let mask = view.mask.as_ref().and_then(|mask| mask.get(name)).cloned();
        if let Some(Masked::Hidden) = mask {
            let attr = tree.hidden_attr(dir, name);
            return tree.enter_hidden(&self.nodes, view.key, parent, name, attr).ok();
        }
        if self.shared.pins.get(view.key, name, false).is_some() {
            return tree.lookup(&self.nodes, &self.shared.pins, parent, name).ok()?.ok();
        }
        let stat = os::stat_entry(dir, name.as_bytes()).ok()?;
        let read_only = tree.is_read_only(&stat, || os::open_entry(dir, name.as_bytes()));
        let attr = tree.attr(&stat, read_only);
        let mask = match mask {
            Some(Masked::Inside(mask)) => Some(mask),
            _ => None,
        };
        let view = View { key: Key::of(&stat), kind: attr.kind, mask, hidden: false };
        let place = Some((parent, name.clone()));
        let node = self.nodes.enter(NewNode { view, fd: None, place }).ok()?;
        Some(Entry { node, attr })
    }
}
