//! Processes that map files and fork: what the standard library does not offer.

use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::ptr;

use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::unistd::{ForkResult, Pid, fork, pipe, write};

const PAGE: usize = 4096;

/// A file mapped for reading, shared, until the process ends.
pub struct Mapped {
    start: *const u8,
    len: usize,
}

impl Mapped {
    pub fn new(file: &File) -> Self {
        let len = usize::try_from(file.metadata().expect("its size").len()).expect("it fits");
        let size = NonZeroUsize::new(len).expect("something to map");
        // SAFETY: a new mapping at an address the kernel chooses; nobody shortens the file.
        let start =
            unsafe { mmap(None, size, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, file, 0) };
        Self { start: start.expect("the file can be mapped").as_ptr().cast(), len }
    }

    /// Has every page in this process's page table.
    pub fn touch(&self) {
        for at in (0..self.len).step_by(PAGE) {
            // SAFETY: within the mapping, which lasts as long as the process.
            unsafe { ptr::read_volatile(self.start.add(at)) };
        }
    }
}

/// Forks `count` processes that touch all of `mapped`, write to `private` bytes of their own and
/// then sleep. Returns when all of them do.
pub fn fork_holders(count: usize, mapped: &Mapped, private: usize) {
    // Made here: a fork of a process with threads may not allocate.
    let mut own = vec![1u8; private];
    let (ready, done) = pipe().expect("a pipe");
    for _ in 0..count {
        // SAFETY: the child touches memory, writes to a pipe and sleeps; it allocates nothing and
        // takes no lock.
        match unsafe { fork() }.expect("a fork") {
            ForkResult::Parent { .. } => {}
            ForkResult::Child => {
                mapped.touch();
                own.iter_mut().step_by(PAGE).for_each(|byte| {
                    // SAFETY: a place of our own.
                    unsafe { ptr::write_volatile(byte, 2) }
                });
                let _ = write(&done, &[1]);
                loop {
                    nix::unistd::pause();
                }
            }
        }
    }
    drop(done);
    File::from(ready).read_exact(&mut vec![0; count]).expect("all of them say so");
}

/// Forks a child that does `work` and ends; gives its id. `work` may not allocate.
pub fn fork_worker(work: impl FnOnce()) -> Pid {
    // SAFETY: the child does `work` and leaves without running what the parent has set up for its
    // own end.
    match unsafe { fork() }.expect("a fork") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            work();
            // SAFETY: ends this process and nothing else.
            unsafe { nix::libc::_exit(0) }
        }
    }
}
