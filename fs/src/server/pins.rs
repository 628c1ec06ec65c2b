//! Inodes kept alive under the names they had, from the dump of an app to the end of its move.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::nodes::Key;
use crate::os;
use crate::proto::Name;

/// More names than this are not pinned in one move.
const MAX_PINS: usize = 65_536;

#[derive(Debug, Clone)]
struct Pin {
    fd: Arc<OwnedFd>,
    /// Stands for its name even when the name leads elsewhere now. Directories on the way to a
    /// pinned file only stand in when their name has gone.
    always: bool,
}

/// Names and the inodes they lead to, whatever has become of the names.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<HashMap<(Key, Name), Pin>>);

impl Pins {
    /// Pins `fd` at `path`, a list of names from `root` on.
    pub(super) fn pin(&self, root: &OwnedFd, path: &[Name], fd: OwnedFd) -> Result<(), Errno> {
        let (last, dirs) = path.split_last().ok_or(Errno::INVAL)?;
        let mut found: Vec<((Key, Name), Pin)> = Vec::new();
        let mut dir: Option<Arc<OwnedFd>> = None;
        for name in dirs {
            let at = dir.as_deref().unwrap_or(root);
            let key = Key::of(&os::stat_fd(at)?);
            let below = Arc::new(os::open_entry(at, name.as_bytes())?);
            found.push(((key, name.clone()), Pin { fd: Arc::clone(&below), always: false }));
            dir = Some(below);
        }
        let key = Key::of(&os::stat_fd(dir.as_deref().unwrap_or(root))?);
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pins.len() + found.len() >= MAX_PINS {
            return Err(Errno::NFILE);
        }
        for (place, pin) in found {
            pins.entry(place).or_insert(pin);
        }
        pins.insert((key, last.clone()), Pin { fd: Arc::new(fd), always: true });
        Ok(())
    }

    /// What is pinned under `name` of the directory `key`; `gone`: nothing stands there now.
    pub(super) fn get(&self, key: Key, name: &Name, gone: bool) -> Option<Arc<OwnedFd>> {
        let pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pins.is_empty() {
            return None;
        }
        let pin = pins.get(&(key, name.clone()))?;
        (pin.always || gone).then(|| Arc::clone(&pin.fd))
    }

    /// Lets all go.
    pub(super) fn clear(&self) -> usize {
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *pins).values().filter(|pin| pin.always).count()
    }
}
