//! The bpf(2) system call, as much of it as a probe needs.

use std::ffi::CStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::descriptor;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const BPF_MAP_TYPE_RINGBUF: u32 = 27;

/// The kinds of program the probes load (`enum bpf_prog_type`).
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub enum Kind {
    /// Looks at packets; every kernel with eBPF has it.
    SocketFilter = 1,
    /// Runs at a tracepoint.
    RawTracepoint = 17,
}

/// One instruction (`struct bpf_insn`).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Insn {
    /// `code` with destination and source register (0 to 10), offset and immediate value.
    pub const fn new(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Self {
        let registers =
            if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
        Self { code, registers, offset, immediate }
    }
}

/// Calls bpf(2) with one of the shapes of `union bpf_attr`; fields left out count as zero.
fn bpf<A>(command: libc::c_int, attr: &mut A) -> libc::c_long {
    // SAFETY: each caller passes the shape of its command, whose pointers stay valid during the
    // call; the kernel reads and writes at most the size given.
    unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<A>()) }
}

/// Loads a program through the kernel's verifier.
pub fn load(kind: Kind, program: &[Insn]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        kind: u32,
        insn_count: u32,
        insns: u64,
        license: u64,
    }
    let mut attr = Attr {
        kind: kind as u32,
        insn_count: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
    };
    descriptor(bpf(BPF_PROG_LOAD, &mut attr))
}

/// Runs a packet program once over an empty packet and returns what it returned.
pub fn run_once(program: BorrowedFd<'_>) -> io::Result<u32> {
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        program: u32,
        returned: u32,
        data_in_len: u32,
        data_out_len: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
    }
    let packet = [0_u8; 64];
    let mut attr = Attr {
        program: program.as_raw_fd() as u32,
        data_in_len: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat: 1,
        ..Attr::default()
    };
    super::check(bpf(BPF_PROG_TEST_RUN, &mut attr))?;
    Ok(attr.returned)
}

/// Attaches a program to a tracepoint until the returned descriptor is closed.
pub fn attach(program: BorrowedFd<'_>, tracepoint: &CStr) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        name: u64,
        program: u32,
        padding: u32,
    }
    let mut attr =
        Attr { name: tracepoint.as_ptr() as u64, program: program.as_raw_fd() as u32, padding: 0 };
    descriptor(bpf(BPF_RAW_TRACEPOINT_OPEN, &mut attr))
}

/// A ring buffer one page large.
pub struct Ring {
    map: OwnedFd,
    /// The page with the producer's position, then the data.
    producer: NonNull<libc::c_void>,
    len: NonZeroUsize,
}

impl Ring {
    /// Makes the map and shows its producer's side to this process.
    pub fn new() -> io::Result<Self> {
        #[repr(C)]
        struct Attr {
            kind: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
        }
        let page = super::memory::page_size();
        let mut attr = Attr {
            kind: BPF_MAP_TYPE_RINGBUF,
            key_size: 0,
            value_size: 0,
            max_entries: page.get() as u32,
        };
        let map = descriptor(bpf(BPF_MAP_CREATE, &mut attr))?;
        let len = page.saturating_add(page.get());
        // SAFETY: a new mapping at an address of the kernel's choice, of a length the map has.
        let producer = unsafe {
            mmap(
                None,
                len,
                ProtFlags::PROT_READ,
                MapFlags::MAP_SHARED,
                &map,
                page.get() as libc::off_t,
            )
        }?;
        Ok(Self { map, producer, len })
    }

    /// The number programs know this ring by while they are loaded.
    pub fn raw_fd(&self) -> i32 {
        self.map.as_raw_fd()
    }

    /// The first eight bytes of the first record, once one has been written.
    pub fn first(&self) -> Option<u64> {
        let page = self.len.get() / 2;
        // SAFETY: the mapping is two pages long and lives as long as `self`; the kernel writes
        // these aligned words, so they are read as atomics. A record is a header of eight bytes
        // (its length among them, with a busy bit) and the data.
        let (position, header, data) = unsafe {
            let words = self.producer.cast::<u8>();
            let record = words.add(page);
            (
                words.cast::<AtomicU64>().as_ref().load(Ordering::Acquire),
                record.cast::<AtomicU64>().as_ref().load(Ordering::Acquire),
                record.add(8).cast::<AtomicU64>().as_ref().load(Ordering::Acquire),
            )
        };
        const BUSY: u64 = 1 << 31;
        (position > 0 && header & BUSY == 0).then_some(data)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nothing refers to any longer.
        let _ = unsafe { munmap(self.producer, self.len.get()) };
    }
}
