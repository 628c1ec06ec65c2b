//! Memory: soft-dirty bits and user-space page faults.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::{check, descriptor};

/// The size of a page in bytes.
pub fn page_size() -> NonZeroUsize {
    // SAFETY: sysconf only reads.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size)
        .ok()
        .and_then(NonZeroUsize::new)
        .unwrap_or(const { NonZeroUsize::new(4096).expect("not zero") })
}

/// One private page, alone: between two pages nobody may touch, so that the kernel never joins it
/// with a neighbour another thread maps (which would pass on the neighbour's soft-dirty mark).
struct Page {
    address: NonNull<libc::c_void>,
    len: NonZeroUsize,
    /// The three pages.
    whole: (NonNull<libc::c_void>, usize),
}

impl Page {
    fn new() -> io::Result<Self> {
        let len = page_size();
        let three = len.saturating_mul(const { NonZeroUsize::new(3).expect("not zero") });
        let (none, private) = (ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { mmap_anonymous(None, three, none, private) }?;
        // SAFETY: the second of the three pages just mapped.
        let address = unsafe { start.byte_add(len.get()) };
        let page = Self { address, len, whole: (start, three.get()) };
        // SAFETY: this page belongs to the new value alone.
        unsafe { mprotect(address, len.get(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE) }?;
        Ok(page)
    }

    fn write(&self, value: u8) {
        // SAFETY: the page is mapped writable and only this value refers to it.
        unsafe { self.address.cast::<u8>().write_volatile(value) };
    }

    fn read(&self) -> u8 {
        // SAFETY: the page is mapped readable and only this value refers to it.
        unsafe { self.address.cast::<u8>().read_volatile() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nothing refers to any longer.
        let _ = unsafe { munmap(self.whole.0, self.whole.1) };
    }
}

/// Whether the kernel tells which pages were written since a mark: a page of this process is
/// marked clean, then written; its soft-dirty bit must follow.
pub fn soft_dirty() -> io::Result<bool> {
    const SOFT_DIRTY: u64 = 1 << 55;
    let page = Page::new()?;
    let pagemap = File::open("/proc/self/pagemap")?;
    let dirty = || -> io::Result<bool> {
        let mut entry = [0; 8];
        let index = page.address.as_ptr() as u64 / page.len.get() as u64;
        pagemap.read_exact_at(&mut entry, index * 8)?;
        Ok(u64::from_ne_bytes(entry) & SOFT_DIRTY != 0)
    };
    page.write(1);
    fs::write("/proc/self/clear_refs", "4")?;
    let before = dirty()?;
    page.write(2);
    Ok(!before && dirty()?)
}

#[repr(C)]
struct UffdApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdCopy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

const UFFDIO: u8 = 0xaa;
nix::ioctl_readwrite!(uffd_api, UFFDIO, 0x3f, UffdApi);
nix::ioctl_readwrite!(uffd_register, UFFDIO, 0x00, UffdRegister);
nix::ioctl_readwrite!(uffd_copy, UFFDIO, 0x03, UffdCopy);

/// Opens a descriptor for the page faults of this process: through the device where there is one
/// (its file mode says who may), else through the system call.
fn userfaultfd() -> io::Result<OwnedFd> {
    const USERFAULTFD_IOC_NEW: libc::c_ulong = 0xaa00;
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    match OpenOptions::new().read(true).write(true).open("/dev/userfaultfd") {
        // SAFETY: the request takes its flags by value and returns a new descriptor.
        Ok(device) => descriptor(unsafe {
            libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW as _, flags).into()
        }),
        // SAFETY: the call takes its flags by value and returns a new descriptor.
        Err(_) => descriptor(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) }),
    }
}

/// Fills a page that was never touched through userfaultfd, as a post-copy restore does.
pub fn userfault_copy() -> io::Result<bool> {
    const MODE_MISSING: u64 = 1;
    const VALUE: u8 = 0x5a;
    let faults = userfaultfd()?;
    let (page, source) = (Page::new()?, Page::new()?);
    source.write(VALUE);
    let mut api = UffdApi { api: 0xaa, features: 0, ioctls: 0 };
    let (address, len) = (page.address.as_ptr() as u64, page.len.get() as u64);
    let mut register = UffdRegister { start: address, len, mode: MODE_MISSING, ioctls: 0 };
    let src = source.address.as_ptr() as u64;
    let mut copy = UffdCopy { dst: address, src, len, mode: 0, copied: 0 };
    // SAFETY: each request reads and writes its own structure; the ranges are two pages this
    // function owns. The registration ends when the descriptor is closed.
    unsafe {
        uffd_api(faults.as_raw_fd(), &mut api)?;
        uffd_register(faults.as_raw_fd(), &mut register)?;
        uffd_copy(faults.as_raw_fd(), &mut copy)?;
    }
    Ok(copy.copied == len as i64 && page.read() == VALUE)
}

/// Gives this thread's future children an own time namespace, as a restore does. The calling
/// thread must end soon: it cannot start processes the usual way any longer.
pub fn time_namespace() -> io::Result<()> {
    // SAFETY: takes its flags by value; affects only what this thread starts later.
    check(unsafe { libc::unshare(libc::CLONE_NEWTIME) }.into())?;
    Ok(())
}
