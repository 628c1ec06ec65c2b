//! Operations that make, move and remove names.

use rustix::fs::{AtFlags, FileType, Mode, RenameFlags, linkat, mknodat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::session::{Outcome, Session};
use crate::os::SelfFds;
use crate::proto::{Name, NodeId, NodeKind, RenameMode};

impl Session {
    pub(super) fn make_node(
        &self,
        parent: NodeId,
        name: &Name,
        mode: u32,
        kind: NodeKind,
    ) -> Outcome {
        let dir = self.dir(parent)?;
        let kind = match kind {
            NodeKind::Fifo => FileType::Fifo,
            NodeKind::Socket => FileType::Socket,
            NodeKind::File => FileType::RegularFile,
        };
        mknodat(&*dir, name.as_bytes(), kind, Mode::from_raw_mode(mode & 0o7777), 0)?;
        self.entry(parent, name)
    }

    pub(super) fn link(&self, node: NodeId, parent: NodeId, name: &Name) -> Outcome {
        let (inode, dir) = (self.inode(node)?, self.dir(parent)?);
        let self_fds = self.shared.tree.self_fds().dir();
        let from = SelfFds::name(&*inode);
        linkat(self_fds, &*from, &*dir, name.as_bytes(), AtFlags::SYMLINK_FOLLOW)?;
        self.entry(parent, name)
    }

    pub(super) fn remove(&self, parent: NodeId, name: &Name, flags: AtFlags) -> Result<(), Errno> {
        let dir = self.dir(parent)?;
        let node = self.nodes.before_removal(&dir, name);
        let result = unlinkat(&*dir, name.as_bytes(), flags);
        if let (Err(_), Some(node)) = (&result, node) {
            self.nodes.kept_name(node);
        }
        result
    }

    pub(super) fn rename(
        &self,
        from: (NodeId, Name),
        to: (NodeId, Name),
        mode: RenameMode,
    ) -> Result<(), Errno> {
        let (dir, new_dir) = (self.dir(from.0)?, self.dir(to.0)?);
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        // Both may lose their names; what keeps or gets one is told so afterwards.
        let moved = self.nodes.before_removal(&dir, &from.1);
        let replaced = self.nodes.before_removal(&new_dir, &to.1);
        let (old_name, new_name) = (from.1.as_bytes(), to.1.as_bytes());
        if let Err(error) = renameat_with(&*dir, old_name, &*new_dir, new_name, flags) {
            moved.into_iter().chain(replaced).for_each(|node| self.nodes.kept_name(node));
            return Err(error);
        }
        if let Some(node) = moved {
            self.nodes.renamed(node, to.0, to.1.clone());
        }
        if let (Some(node), RenameMode::Exchange) = (replaced, mode) {
            self.nodes.renamed(node, from.0, from.1);
        }
        Ok(())
    }
}
