//! Operations on names and attributes.

use rustix::io::Errno;

use super::{Client, Found, Ino, Lookup};
use crate::proto::{
    Answer, Attr, AttrChange, Entry, HandleId, MAX_VALUE, Name, NodeKind, Op, RenameMode, Space,
    XattrMode,
};

impl Client {
    /// What `name` in `parent` leads to.
    ///
    /// # Errors
    /// Those of the home's kernel; `EIO` when home does not answer.
    pub fn lookup(&self, parent: Ino, name: &Name) -> Result<Lookup, Errno> {
        let op = Op::Lookup { parent: self.node(parent)?, name: name.clone() };
        match self.link.call(op, Vec::new())?.0 {
            Answer::Entry(entry) => self.enter(&entry).map(Lookup::Found),
            Answer::Absent { system: true } => Ok(Lookup::Absent { ttl: self.config.system_ttl }),
            // Another program at home may make it any moment.
            Answer::Absent { system: false } => Ok(Lookup::Absent { ttl: Default::default() }),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives `count` references to an inode back.
    pub fn forget(&self, ino: Ino, count: u64) {
        let gone = self.table().release(ino, count);
        if let Some(gone) = gone {
            self.link.forget(&[gone]);
        }
    }

    /// Attributes, and how long they hold. `handle`: an open file to take them from.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn get_attr(&self, ino: Ino, handle: Option<HandleId>) -> Result<Found, Errno> {
        let op = Op::GetAttr { node: self.node(ino)?, handle };
        self.attr_answer(ino, op)
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn set_attr(
        &self,
        ino: Ino,
        handle: Option<HandleId>,
        change: AttrChange,
    ) -> Result<Found, Errno> {
        let op = Op::SetAttr { node: self.node(ino)?, handle, change };
        self.attr_answer(ino, op)
    }

    fn attr_answer(&self, ino: Ino, op: Op) -> Result<Found, Errno> {
        match self.link.call(op, Vec::new())?.0 {
            Answer::Attr(attr) => {
                let kind = self.table().kind(ino);
                if kind.is_some_and(|kind| kind != attr.kind) {
                    return Err(Errno::STALE);
                }
                Ok(Found { ino, attr: self.shown(ino, attr)?, ttl: self.ttl(&attr) })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        let target = self.data(Op::ReadLink { node: self.node(ino)? }, MAX_VALUE)?;
        // The kernel takes it as a C string of less than a page.
        let bad = target.is_empty() || target.len() >= 4096 || target.contains(&0);
        if bad { Err(Errno::IO) } else { Ok(target) }
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn make_dir(&self, parent: Ino, name: &Name, mode: u32) -> Result<Found, Errno> {
        let op = Op::MakeDir { parent: self.node(parent)?, name: name.clone(), mode };
        self.entry_answer(op, Vec::new())
    }

    /// Makes a pipe, a socket name or an empty file.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn make_node(
        &self,
        parent: Ino,
        name: &Name,
        mode: u32,
        kind: NodeKind,
    ) -> Result<Found, Errno> {
        let op = Op::MakeNode { parent: self.node(parent)?, name: name.clone(), mode, kind };
        self.entry_answer(op, Vec::new())
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn symlink(&self, parent: Ino, name: &Name, target: &[u8]) -> Result<Found, Errno> {
        let op = Op::Symlink { parent: self.node(parent)?, name: name.clone() };
        self.entry_answer(op, target.to_vec())
    }

    /// Makes a hard link.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn link(&self, ino: Ino, parent: Ino, name: &Name) -> Result<Found, Errno> {
        let (node, parent) = (self.node(ino)?, self.node(parent)?);
        self.entry_answer(Op::Link { node, parent, name: name.clone() }, Vec::new())
    }

    fn entry_answer(&self, op: Op, payload: Vec<u8>) -> Result<Found, Errno> {
        match self.link.call(op, payload)?.0 {
            Answer::Entry(entry) => self.enter(&entry),
            other => Err(unexpected(&other)),
        }
    }

    /// Removes a name of a file.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn unlink(&self, parent: Ino, name: &Name) -> Result<(), Errno> {
        self.done(Op::Unlink { parent: self.node(parent)?, name: name.clone() }, Vec::new())
    }

    /// Removes a directory.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn remove_dir(&self, parent: Ino, name: &Name) -> Result<(), Errno> {
        self.done(Op::RemoveDir { parent: self.node(parent)?, name: name.clone() }, Vec::new())
    }

    /// Renames `from` to `to`, each a directory and a name.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn rename(
        &self,
        from: (Ino, &Name),
        to: (Ino, &Name),
        mode: RenameMode,
    ) -> Result<(), Errno> {
        let op = Op::Rename {
            parent: self.node(from.0)?,
            name: from.1.clone(),
            new_parent: self.node(to.0)?,
            new_name: to.1.clone(),
            mode,
        };
        self.done(op, Vec::new())
    }

    /// Room on the file system `ino` is on.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn space(&self, ino: Ino) -> Result<Space, Errno> {
        match self.link.call(Op::StatFs { node: self.node(ino)? }, Vec::new())?.0 {
            Answer::Space(space) => Ok(space),
            other => Err(unexpected(&other)),
        }
    }

    /// Value of a `user.` attribute.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn get_xattr(&self, ino: Ino, name: &Name) -> Result<Vec<u8>, Errno> {
        let op = Op::GetXattr { node: self.node(ino)?, name: name.clone() };
        self.data(op, MAX_VALUE)
    }

    /// Names of the `user.` attributes, each ended by NUL.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn list_xattr(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        self.data(Op::ListXattr { node: self.node(ino)? }, MAX_VALUE)
    }

    /// Sets a `user.` attribute.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn set_xattr(
        &self,
        ino: Ino,
        name: &Name,
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), Errno> {
        let op = Op::SetXattr { node: self.node(ino)?, name: name.clone(), mode };
        self.done(op, value.to_vec())
    }

    /// Removes a `user.` attribute.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn remove_xattr(&self, ino: Ino, name: &Name) -> Result<(), Errno> {
        self.done(Op::RemoveXattr { node: self.node(ino)?, name: name.clone() }, Vec::new())
    }

    /// Whether the app may access a file: bits 4 read, 2 write, 1 execute.
    ///
    /// # Errors
    /// `EACCES` if not; else as [`Client::lookup`].
    pub fn access(&self, ino: Ino, mask: u8) -> Result<(), Errno> {
        self.done(Op::Access { node: self.node(ino)?, mask }, Vec::new())
    }

    pub(super) fn done(&self, op: Op, payload: Vec<u8>) -> Result<(), Errno> {
        match self.link.call(op, payload)?.0 {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) fn count(&self, op: Op, payload: Vec<u8>) -> Result<u64, Errno> {
        match self.link.call(op, payload)?.0 {
            Answer::Count(count) => Ok(count),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) fn data(&self, op: Op, most: usize) -> Result<Vec<u8>, Errno> {
        match self.link.call(op, Vec::new())? {
            (Answer::Data, data) if data.len() <= most => Ok(data),
            (other, _) => Err(unexpected(&other)),
        }
    }
}

/// An answer to another question than was asked.
pub(super) fn unexpected(answer: &Answer) -> Errno {
    tracing::error!(?answer, "home gave an answer that does not fit the question");
    Errno::IO
}

/// The entry of an answer to a create.
pub(super) fn created(answer: Answer) -> Result<(Entry, HandleId), Errno> {
    match answer {
        Answer::Created { entry, handle } => Ok((entry, handle)),
        other => Err(unexpected(&other)),
    }
}

/// The handle and attributes of an answer to an opening of a directory.
pub(super) fn opened(answer: Answer) -> Result<(HandleId, Attr), Errno> {
    match answer {
        Answer::Opened { handle, attr, .. } => Ok((handle, attr)),
        other => Err(unexpected(&other)),
    }
}
