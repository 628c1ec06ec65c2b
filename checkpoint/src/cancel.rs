//! A way to end a running operation from another thread.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Ends the operations that were given a clone of it. Once cancelled it stays so.
#[derive(Debug, Clone)]
pub struct Cancel {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    cancelled: AtomicBool,
    wake: EventFd,
}

impl Cancel {
    /// A switch that can be thrown once.
    pub fn new() -> std::io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { shared: Some(Arc::new(Shared { cancelled: AtomicBool::new(false), wake })) })
    }

    /// For operations that nobody will end early.
    pub fn never() -> Self {
        Self { shared: None }
    }

    /// Ends the operations. Each answers with [`crate::Error::Cancelled`] after it has put things
    /// back as they were.
    pub fn cancel(&self) {
        if let Some(shared) = &self.shared {
            shared.cancelled.store(true, Ordering::SeqCst);
            // Fails only when the counter is full, and then every waiter is awake.
            let _ = shared.wake.write(1);
        }
    }

    /// Whether it was thrown.
    pub fn is_cancelled(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.cancelled.load(Ordering::SeqCst))
    }

    /// Readable once cancelled.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.shared.as_ref().map(|shared| shared.wake.as_fd())
    }
}
