//! A guest of a few instructions that tells hardware virtualization from an emulation of it.
//!
//! There are kernels whose /dev/kvm runs guests through an instruction emulator: it knows integer
//! code but no SSE, so no stock kernel boots on it. The guest computes with SSE in 64-bit mode.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::time::Duration;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_signal_mask, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::signal::{SigEvent, SigSet, SigevNotify, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;

/// How the guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It computed the right number and halted.
    Halted,
    /// The kernel gave up on an instruction (`KVM_EXIT_INTERNAL_ERROR` with this sub-error).
    GaveUp(u32),
    /// It computed something else.
    WrongResult(u32),
    /// It did not end in time.
    TimedOut,
    /// It ended in a way no such guest should.
    Unexpected(String),
}

const MEMORY_LEN: NonZeroUsize = NonZeroUsize::new(64 << 10).expect("not zero");
/// Guest-physical places: three levels of page tables, then the code.
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PAGE_DIRECTORY: u64 = 0x3000;
const CODE: u64 = 0x4000;
const PORT: u16 = 0x10;
/// 1.5 + 1.5 as a single-precision number is 0x40400000; five is added to its bits.
const RESULT: u32 = 0x4040_0005;

#[rustfmt::skip]
const PROGRAM: [u8; 41] = [
    0xb8, 0x00, 0x00, 0xc0, 0x3f, // mov eax, 1.5
    0x66, 0x0f, 0x6e, 0xc0,       // movd xmm0, eax
    0xb8, 0x05, 0x00, 0x00, 0x00, // mov eax, 5
    0x66, 0x0f, 0x6e, 0xc8,       // movd xmm1, eax
    0x0f, 0x58, 0xc0,             // addps xmm0, xmm0
    0x66, 0x0f, 0xd4, 0xc1,       // paddq xmm0, xmm1
    0xb9, 0x10, 0x27, 0x00, 0x00, // mov ecx, 10000
    0xe2, 0xfe,                   // loop to itself
    0x66, 0x0f, 0x7e, 0xc0,       // movd eax, xmm0
    0xe7, PORT as u8,             // out PORT, eax
    0xf4,                         // hlt
    0xeb, 0xfd,                   // back to hlt
];

/// Memory of the guest.
struct Memory(NonNull<libc::c_void>);

impl Memory {
    fn new(program: &[u8]) -> io::Result<Self> {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { mmap_anonymous(None, MEMORY_LEN, access, MapFlags::MAP_PRIVATE) }?;
        let memory = Self(start);
        const PRESENT_WRITABLE: u64 = 0b11;
        const LARGE: u64 = 1 << 7;
        memory.put(PML4, &(PDPT | PRESENT_WRITABLE).to_le_bytes());
        memory.put(PDPT, &(PAGE_DIRECTORY | PRESENT_WRITABLE).to_le_bytes());
        memory.put(PAGE_DIRECTORY, &(LARGE | PRESENT_WRITABLE).to_le_bytes());
        memory.put(CODE, program);
        Ok(memory)
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        let at = at as usize;
        assert!(at + bytes.len() <= MEMORY_LEN.get(), "the layout is fixed");
        // SAFETY: the range lies in the mapping, which only this value refers to so far.
        unsafe { self.0.cast::<u8>().add(at).copy_from(NonNull::from(bytes).cast(), bytes.len()) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; the guest that used it is gone (see `run`).
        let _ = unsafe { munmap(self.0, MEMORY_LEN.get()) };
    }
}

/// Makes a machine, runs the guest and takes all of it away again.
pub fn run(limit: Duration) -> io::Result<Ending> {
    run_program(&PROGRAM, limit)
}

fn run_program(program: &[u8], limit: Duration) -> io::Result<Ending> {
    let kvm = Kvm::new().map_err(os)?;
    let memory = Memory::new(program)?;
    let machine = kvm.create_vm().map_err(os)?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY_LEN.get() as u64,
        userspace_addr: memory.0.as_ptr() as u64,
    };
    // SAFETY: the mapping is that large, and outlives the machine: it was declared before.
    unsafe { machine.set_user_memory_region(region) }.map_err(os)?;
    let mut vcpu = machine.create_vcpu(0).map_err(os)?;
    let features = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(os)?;
    vcpu.set_cpuid2(&features).map_err(os)?;
    enter_long_mode(&vcpu)?;
    let alarm = Alarm::start(&vcpu, limit)?;
    let ending = run_to_end(&mut vcpu);
    alarm.stop();
    Ok(ending)
}

fn os(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// Registers as a 64-bit kernel with SSE has them, at the start of the program.
fn enter_long_mode(vcpu: &VcpuFd) -> io::Result<()> {
    const CR0: u64 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1; // PG WP NE ET MP PE
    const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10; // PAE OSFXSR OSXMMEXCPT
    const EFER: u64 = 1 << 8 | 1 << 10; // LME LMA
    let data = kvm_segment {
        limit: u32::MAX,
        selector: 0x10,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let code = kvm_segment { selector: 8, type_: 11, db: 0, l: 1, ..data };
    let mut special = vcpu.get_sregs().map_err(os)?;
    special.cs = code;
    (special.ds, special.es, special.ss) = (data, data, data);
    (special.fs, special.gs) = (data, data);
    (special.cr0, special.cr3, special.cr4, special.efer) = (CR0, PML4, CR4, EFER);
    vcpu.set_sregs(&special).map_err(os)?;
    // Bit 1 of the flags is always set.
    vcpu.set_regs(&kvm_regs { rip: CODE, rflags: 2, ..Default::default() }).map_err(os)
}

fn run_to_end(vcpu: &mut VcpuFd) -> Ending {
    let mut result = None;
    // One exit for the number, one for the halt; whatever else comes ends the loop.
    for _ in 0..4 {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(PORT, data)) => {
                result = data.try_into().ok().map(u32::from_le_bytes);
            }
            Ok(VcpuExit::Hlt) if result == Some(RESULT) => return Ending::Halted,
            Ok(VcpuExit::Hlt) => return Ending::WrongResult(result.unwrap_or(0)),
            Ok(VcpuExit::InternalError) => {
                // SAFETY: this exit reason says that this field of the union is the valid one.
                let detail = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
                return Ending::GaveUp(detail.suberror);
            }
            Ok(exit) => return Ending::Unexpected(format!("{exit:?}")),
            Err(error) if error.errno() == libc::EINTR => return Ending::TimedOut,
            Err(error) => return Ending::Unexpected(os(error).to_string()),
        }
    }
    Ending::Unexpected("it keeps writing".to_owned())
}

/// Ends `KVM_RUN` of this thread at a deadline.
///
/// A timer sends this thread a signal that is blocked except inside `KVM_RUN`: the call returns
/// EINTR, no handler ever runs, and a signal that comes too early is not lost.
struct Alarm {
    before: SigSet,
    timer: Timer,
}

const ALARM: Signal = Signal::SIGALRM;

impl Alarm {
    fn start(vcpu: &VcpuFd, limit: Duration) -> io::Result<Self> {
        let mut before = SigSet::empty();
        let blocked = SigSet::all();
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&blocked), Some(&mut before))?;
        let timer = allow_inside(vcpu, ALARM).and_then(|()| start_timer(limit));
        match timer {
            Ok(timer) => Ok(Self { before, timer }),
            Err(error) => {
                pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
                Err(error)
            }
        }
    }

    fn stop(self) {
        let Self { before, timer } = self;
        drop(timer);
        discard_pending(ALARM);
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
}

fn start_timer(limit: Duration) -> io::Result<Timer> {
    let thread_id = nix::unistd::gettid().as_raw();
    let notify = SigevNotify::SigevThreadId { signal: ALARM, thread_id, si_value: 0 };
    let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(notify))?;
    timer.set(Expiration::OneShot(limit.into()), TimerSetTimeFlags::empty())?;
    Ok(timer)
}

/// Takes a blocked signal that has arrived off this thread, so that it never acts.
fn discard_pending(signal: Signal) {
    let mut set = SigSet::empty();
    set.add(signal);
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: set and time are valid; no information about the signal is asked for.
    unsafe { libc::sigtimedwait(set.as_ref(), std::ptr::null_mut(), &now) };
}

/// Lets `signal` alone interrupt `KVM_RUN` of this vCPU.
fn allow_inside(vcpu: &VcpuFd, signal: Signal) -> io::Result<()> {
    /// The kernel's signal set has 64 bits, the C library's more.
    const LEN: u32 = 8;
    #[repr(C)]
    struct Mask {
        header: kvm_signal_mask,
        set: [u8; LEN as usize],
    }
    nix::ioctl_write_ptr_bad!(
        set_signal_mask,
        nix::request_code_write!(0xae, 0x8b, size_of::<kvm_signal_mask>()),
        Mask
    );
    let blocked = !(1_u64 << (signal as i32 - 1));
    let mask = Mask {
        header: kvm_signal_mask { len: LEN, ..Default::default() },
        set: blocked.to_ne_bytes(),
    };
    // SAFETY: the request reads the header and as many bytes after it as `len` says.
    unsafe { set_signal_mask(vcpu.as_raw_fd(), &mask) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_guest_that_never_ends_is_ended_and_no_signal_stays() {
        const FOREVER: [u8; 2] = [0xeb, 0xfe]; // jump to itself
        let start = Instant::now();
        for _ in 0..3 {
            match run_program(&FOREVER, Duration::from_millis(50)) {
                Ok(ending) => assert_eq!(ending, Ending::TimedOut),
                Err(error) => return println!("SKIP an endless guest: /dev/kvm: {error}"),
            }
        }
        assert!(start.elapsed() < Duration::from_secs(5));
        let mut mask = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, None, Some(&mut mask)).unwrap();
        assert!(!mask.contains(ALARM));
    }

    #[test]
    fn a_wrong_result_and_a_crash_are_told_apart() {
        // out PORT, eax; hlt: without computing anything.
        match run_program(&[0xe7, PORT as u8, 0xf4], Duration::from_secs(2)) {
            Ok(ending) => assert_eq!(ending, Ending::WrongResult(0)),
            Err(error) => return println!("SKIP a wrong result: /dev/kvm: {error}"),
        }
        // An undefined instruction, with no handler for it.
        let ending = run_program(&[0x0f, 0x0b], Duration::from_secs(2)).unwrap();
        assert!(matches!(ending, Ending::Unexpected(_) | Ending::GaveUp(_)), "{ending:?}");
    }
}
