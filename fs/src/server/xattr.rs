//! Operations on extended attributes.

use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

use super::session::Session;
use crate::proto::{FileKind, MAX_VALUE, Name, NodeId, XattrMode};

/// Only these attributes are served: all others mean something to the kernel they are on.
const XATTR_PREFIX: &[u8] = b"user.";

impl Session {
    /// The node, opened so that its attributes can be worked on.
    fn for_xattr(&self, node: NodeId, name: Option<&Name>, write: bool) -> Result<OwnedFd, Errno> {
        if name.is_some_and(|name| !name.as_bytes().starts_with(XATTR_PREFIX)) {
            return Err(if write { Errno::NOTSUP } else { Errno::NODATA });
        }
        let inode = self.inode(node)?;
        let self_fds = self.shared.tree.self_fds();
        match self.nodes.view(node)?.kind {
            FileKind::Directory => self_fds.reopen(&*inode, OFlags::RDONLY | OFlags::DIRECTORY),
            FileKind::File => match self_fds.reopen(&*inode, OFlags::RDONLY) {
                // A file one may write but not read.
                Err(Errno::ACCESS) if write => self_fds.reopen(&*inode, OFlags::WRONLY),
                other => other,
            },
            _ if write => Err(Errno::PERM),
            _ => Err(Errno::NODATA),
        }
    }

    pub(super) fn get_xattr(&self, node: NodeId, name: &Name) -> Result<Vec<u8>, Errno> {
        let fd = self.for_xattr(node, Some(name), false)?;
        let mut value = vec![0; MAX_VALUE];
        let len = fgetxattr(fd, name.as_bytes(), &mut value)?;
        value.truncate(len);
        Ok(value)
    }

    pub(super) fn list_xattr(&self, node: NodeId) -> Result<Vec<u8>, Errno> {
        let fd = match self.for_xattr(node, None, false) {
            // Their names may be listed by anyone, but only through a path; they are not worth one.
            Err(Errno::NODATA | Errno::ACCESS) => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = vec![0; MAX_VALUE];
        let len = flistxattr(fd, &mut names)?;
        let served = names[..len].split_inclusive(|byte| *byte == 0);
        let served = served.filter(|name| name.starts_with(XATTR_PREFIX));
        Ok(served.flatten().copied().collect())
    }

    pub(super) fn set_xattr(
        &self,
        node: NodeId,
        name: &Name,
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), Errno> {
        if value.len() > MAX_VALUE {
            return Err(Errno::TOOBIG);
        }
        let fd = self.for_xattr(node, Some(name), true)?;
        let flags = match mode {
            XattrMode::Any => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        fsetxattr(fd, name.as_bytes(), value, flags)
    }

    pub(super) fn remove_xattr(&self, node: NodeId, name: &Name) -> Result<(), Errno> {
        fremovexattr(self.for_xattr(node, Some(name), true)?, name.as_bytes())
    }
}
