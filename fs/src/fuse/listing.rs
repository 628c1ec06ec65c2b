//! Directory listings between home's pages and the kernel's.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fuser::{FileAttr, FileType, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use rustix::io::Errno;

use super::convert::file_type;
use super::owners::Owners;
use crate::client::{Client, DirEntry};
use crate::proto::{HandleId, MAX_LISTING};

/// Where listings go on after `.` and `..`, which home does not send. No file system's own
/// offsets are in the way: those of ext4 are hashes, of which one in 2^62 would be.
const AFTER_DOT: u64 = 1 << 62 | 1;
const AFTER_DOTS: u64 = 1 << 62 | 2;

/// Which of `.` and `..` are still to be listed from `offset` on, each with where the listing goes
/// on after it; and the offset in home's listing after them.
fn dots(offset: u64) -> (&'static [(&'static str, u64)], u64) {
    const DOTS: [(&str, u64); 2] = [(".", AFTER_DOT), ("..", AFTER_DOTS)];
    match offset {
        0 => (&DOTS, 0),
        AFTER_DOT => (&DOTS[1..], 0),
        AFTER_DOTS => (&[], 0),
        home => (&[], home),
    }
}

/// Pages without anything to show that are asked for in a row.
const MAX_VAIN_PAGES: u32 = 1000;

/// What became of an entry that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Take {
    /// It goes to the kernel.
    Taken,
    /// It is not worth showing.
    Passed,
    /// There is no room for it in this answer.
    Full,
}

impl Take {
    /// From what the reply says: whether it is full.
    fn of(full: bool) -> Self {
        if full { Take::Full } else { Take::Taken }
    }
}

/// What home sent of a directory and the kernel has not taken yet.
#[derive(Debug, Default)]
struct Page {
    /// The offset of the first entry.
    at: u64,
    attributes: bool,
    entries: VecDeque<DirEntry>,
}

/// The pages of all open directories.
#[derive(Debug, Default)]
pub(super) struct Pages(Mutex<HashMap<HandleId, Arc<Mutex<Page>>>>);

impl Pages {
    fn page(&self, handle: HandleId) -> Arc<Mutex<Page>> {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(pages.entry(handle).or_default())
    }

    /// Fills `reply` with names from `offset` on.
    pub(super) fn names(
        &self,
        client: &Client,
        (number, handle): (INodeNo, HandleId),
        offset: u64,
        reply: &mut ReplyDirectory,
    ) -> Result<(), Errno> {
        let (dots, offset) = dots(offset);
        for (name, after) in dots {
            if reply.add(number, *after, FileType::Directory, name) {
                return Ok(());
            }
        }
        self.list(client, handle, offset, false, |entry| {
            let item = &entry.item;
            let (kind, name) = (file_type(item.kind), item.name.as_os_str());
            Take::of(reply.add(INodeNo(item.ino), item.next_offset, kind, name))
        })
    }

    /// Fills `reply` with names and attributes from `offset` on.
    pub(super) fn entries(
        &self,
        client: &Client,
        owners: &Owners,
        (number, handle): (INodeNo, HandleId),
        offset: u64,
        reply: &mut ReplyDirectoryPlus,
    ) -> Result<(), Errno> {
        let (dots, offset) = dots(offset);
        for (name, after) in dots {
            // The kernel takes neither attributes nor a reference from these two.
            let attr = FileAttr { ino: number, ..owners.shown(&client.root_attr()) };
            if reply.add(number, *after, name, &Duration::ZERO, &attr, Generation(0)) {
                return Ok(());
            }
        }
        self.list(client, handle, offset, true, |entry| {
            // What is gone by now is not listed.
            let Some(found) = &entry.found else {
                return Take::Passed;
            };
            let (attr, item) = (owners.shown(&found.attr), &entry.item);
            let (next, name) = (item.next_offset, item.name.as_os_str());
            Take::of(reply.add(attr.ino, next, name, &found.ttl, &attr, Generation(0)))
        })
    }

    /// Hands entries from `offset` on to `take` until it is full or a page of them is done.
    /// A found one's reference goes to whoever takes it.
    fn list(
        &self,
        client: &Client,
        handle: HandleId,
        offset: u64,
        attributes: bool,
        mut take: impl FnMut(&DirEntry) -> Take,
    ) -> Result<(), Errno> {
        let page = self.page(handle);
        let mut page = page.lock().unwrap_or_else(PoisonError::into_inner);
        if page.at != offset || page.attributes != attributes {
            drop_all(client, &mut page);
            page.at = offset;
            page.attributes = attributes;
        }
        let mut taken = false;
        // An answer without entries is the end: go on until there is one or it is true. A home
        // that sends nothing but what cannot be shown is not listened to forever.
        for _ in 0..MAX_VAIN_PAGES {
            if taken {
                break;
            }
            if page.entries.is_empty() {
                page.entries = client.read_dir(handle, page.at, MAX_LISTING, attributes)?.into();
            }
            if page.entries.is_empty() {
                break;
            }
            while let Some(entry) = page.entries.pop_front() {
                match take(&entry) {
                    Take::Full => {
                        page.entries.push_front(entry);
                        return Ok(());
                    }
                    Take::Taken => taken = true,
                    Take::Passed => {}
                }
                page.at = entry.item.next_offset;
            }
        }
        Ok(())
    }

    /// The directory is closed: what was not taken is given back.
    pub(super) fn close(&self, client: &Client, handle: HandleId) {
        let page = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        if let Some(page) = page {
            drop_all(client, &mut page.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

fn drop_all(client: &Client, page: &mut Page) {
    for entry in page.entries.drain(..) {
        if let Some(found) = entry.found {
            client.forget(found.ino, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_begins_with_the_dots_and_goes_on_where_it_was() {
        let names =
            |offset| -> Vec<&str> { dots(offset).0.iter().map(|(name, _)| *name).collect() };
        assert_eq!((names(0), dots(0).1), (vec![".", ".."], 0));
        assert_eq!((names(AFTER_DOT), dots(AFTER_DOT).1), (vec![".."], 0));
        assert_eq!((names(AFTER_DOTS), dots(AFTER_DOTS).1), (vec![], 0));
        assert_eq!((names(77), dots(77).1), (vec![], 77));
    }
}
