//! The system calls init needs, without libc. All of init's `unsafe` but one line is here.

use core::arch::asm;
use core::marker::PhantomData;

/// An error number of the kernel (positive).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    pub const NOENT: Errno = Errno(2);
    pub const INTR: Errno = Errno(4);
    pub const NOEXEC: Errno = Errno(8);
    pub const CHILD: Errno = Errno(10);
    pub const ACCES: Errno = Errno(13);
    pub const NOTDIR: Errno = Errno(20);
}

#[cfg(target_arch = "x86_64")]
mod nr {
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const IOCTL: usize = 16;
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const EXIT_GROUP: usize = 231;
    pub const WAIT4: usize = 61;
    pub const SETSID: usize = 112;
    pub const OPENAT: usize = 257;
    pub const DUP3: usize = 292;
}

#[cfg(target_arch = "aarch64")]
mod nr {
    pub const WRITE: usize = 64;
    pub const CLOSE: usize = 57;
    pub const IOCTL: usize = 29;
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const EXIT_GROUP: usize = 94;
    pub const WAIT4: usize = 260;
    pub const SETSID: usize = 157;
    pub const OPENAT: usize = 56;
    pub const DUP3: usize = 24;
}

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor %ebp, %ebp",
    "mov %rsp, %rdi",
    "and $-16, %rsp",
    "call phantom_init",
    "hlt",
    options(att_syntax)
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x0, sp",
    "and sp, x0, #-16",
    "bl phantom_init",
    "brk #1",
);

/// One system call.
///
/// # Safety
/// The arguments must be what the call of that number may be given.
unsafe fn syscall(number: usize, args: [usize; 5]) -> Result<usize, Errno> {
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the x86-64 Linux convention; rcx and r11 are declared lost, memory may change.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") args[0], in("rsi") args[1],
            in("rdx") args[2], in("r10") args[3], in("r8") args[4],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the AArch64 Linux convention; memory may change.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") args[0] => result, in("x1") args[1],
            in("x2") args[2], in("x3") args[3], in("x4") args[4], options(nostack));
    }
    if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

/// A NUL-terminated string.
#[derive(Clone, Copy)]
pub struct Str<'a> {
    start: *const u8,
    length: usize,
    life: PhantomData<&'a [u8]>,
}

impl<'a> Str<'a> {
    pub const EMPTY: Str<'static> =
        Str { start: c"".as_ptr().cast(), length: 0, life: PhantomData };

    /// The string in `bytes`, whose last byte must be the NUL.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let length = bytes.len().checked_sub(1)?;
        (bytes[length] == 0).then_some(Str { start: bytes.as_ptr(), length, life: PhantomData })
    }

    /// The bytes before the NUL.
    pub fn bytes(&self) -> &'a [u8] {
        // SAFETY: `start` points to `length` bytes that live for 'a, by both ways to make one.
        unsafe { core::slice::from_raw_parts(self.start, self.length) }
    }
}

/// A NULL-terminated list of strings on the initial stack, which lives as long as the process.
#[derive(Clone, Copy)]
pub struct Args {
    list: *const *const u8,
}

impl Args {
    fn get(self, index: usize) -> Option<Str<'static>> {
        // SAFETY: callers go up from 0 and stop at the NULL entry, so the entry exists.
        let start = unsafe { *self.list.add(index) };
        if start.is_null() {
            return None;
        }
        let mut length = 0;
        // SAFETY: the kernel ends each string with a NUL.
        while unsafe { *start.add(length) } != 0 {
            length += 1;
        }
        Some(Str { start, length, life: PhantomData })
    }

    /// The first string.
    pub fn first(self) -> Option<Str<'static>> {
        self.get(0)
    }

    /// What follows the first string equal to `mark`.
    pub fn tail_after(self, mark: &[u8]) -> Option<Args> {
        let mut index = 0;
        while let Some(text) = self.get(index) {
            index += 1;
            if text.bytes() == mark {
                // SAFETY: at most one past the last string: the NULL entry, which exists.
                return Some(Args { list: unsafe { self.list.add(index) } });
            }
        }
        None
    }

    /// What follows `prefix` in the first string that starts with it.
    pub fn variable(self, prefix: &[u8]) -> Option<&'static [u8]> {
        let mut index = 0;
        while let Some(text) = self.get(index) {
            index += 1;
            if let Some(value) = text.bytes().strip_prefix(prefix) {
                return Some(value);
            }
        }
        None
    }
}

/// Arguments and environment.
///
/// # Safety
/// `stack` is the stack pointer the kernel started the process with.
pub unsafe fn arguments(stack: *const usize) -> (Args, Args) {
    // SAFETY: argc, then argc pointers and a NULL, then the environment.
    unsafe {
        let argc = *stack;
        let argv = stack.add(1).cast::<*const u8>();
        (Args { list: argv }, Args { list: argv.add(argc + 1) })
    }
}

/// Ends the process.
pub fn exit(code: i32) -> ! {
    loop {
        // SAFETY: takes a number only.
        let _ = unsafe { syscall(nr::EXIT_GROUP, [code as usize, 0, 0, 0, 0]) };
    }
}

/// Writes all bytes, or as many as can be.
pub fn write_all(fd: i32, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: pointer and length are those of a slice.
        match unsafe {
            syscall(nr::WRITE, [fd as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0])
        } {
            Ok(written) => bytes = bytes.get(written..).unwrap_or(&[]),
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Forks; 0 in the child.
pub fn fork() -> Result<i32, Errno> {
    const SIGCHLD: usize = 17;
    // SAFETY: clone without a new stack and without shared memory is fork.
    unsafe { syscall(nr::CLONE, [SIGCHLD, 0, 0, 0, 0]) }.map(|pid| pid as i32)
}

/// Makes the caller the leader of a new session.
pub fn setsid() -> Result<(), Errno> {
    // SAFETY: takes nothing.
    unsafe { syscall(nr::SETSID, [0; 5]) }.map(|_| ())
}

/// Makes the terminal on `fd` the session's controlling terminal.
pub fn take_terminal(fd: i32) -> Result<(), Errno> {
    const TIOCSCTTY: usize = 0x540e;
    // SAFETY: the ioctl takes a number.
    unsafe { syscall(nr::IOCTL, [fd as usize, TIOCSCTTY, 0, 0, 0]) }.map(|_| ())
}

/// Runs a program in place of this one; returns only when it cannot.
pub fn execve(path: Str<'_>, args: Args, env: Args) -> Errno {
    // SAFETY: NUL-terminated path, NULL-terminated lists.
    match unsafe {
        syscall(nr::EXECVE, [path.start as usize, args.list as usize, env.list as usize, 0, 0])
    } {
        Ok(_) => Errno(0),
        Err(errno) => errno,
    }
}

/// Opens a file for reading and writing.
pub fn open_read_write(path: &core::ffi::CStr) -> Result<i32, Errno> {
    const AT_FDCWD: usize = -100isize as usize;
    const O_RDWR: usize = 2;
    // SAFETY: a NUL-terminated path.
    unsafe { syscall(nr::OPENAT, [AT_FDCWD, path.as_ptr() as usize, O_RDWR, 0, 0]) }
        .map(|fd| fd as i32)
}

/// Makes `to` refer to what `from` does; the same number is left as it is.
pub fn dup2(from: i32, to: i32) -> Result<(), Errno> {
    if from == to {
        return Ok(());
    }
    // SAFETY: takes numbers only.
    unsafe { syscall(nr::DUP3, [from as usize, to as usize, 0, 0, 0]) }.map(|_| ())
}

/// Closes a descriptor.
pub fn close(fd: i32) {
    // SAFETY: takes a number only.
    let _ = unsafe { syscall(nr::CLOSE, [fd as usize, 0, 0, 0, 0]) };
}

/// Waits for any child: its id and wait status.
pub fn wait() -> Result<(i32, i32), Errno> {
    const WALL: usize = 0x4000_0000;
    let mut status = 0i32;
    // SAFETY: the status pointer is valid for the call; usage may be NULL.
    let pid =
        unsafe { syscall(nr::WAIT4, [-1isize as usize, &raw mut status as usize, WALL, 0, 0]) }?;
    Ok((pid as i32, status))
}

/// The compiler may call this for copies.
///
/// # Safety
/// As memcpy(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    for index in 0..count {
        // SAFETY: both have `count` bytes.
        unsafe { *to.add(index) = *from.add(index) };
    }
    to
}

/// The compiler may call this to clear memory.
///
/// # Safety
/// As memset(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    for index in 0..count {
        // SAFETY: `to` has `count` bytes.
        unsafe { *to.add(index) = byte as u8 };
    }
    to
}

/// The compiler may call this to compare slices.
///
/// # Safety
/// As bcmp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for index in 0..count {
        // SAFETY: both have `count` bytes.
        if unsafe { *a.add(index) != *b.add(index) } {
            return 1;
        }
    }
    0
}

/// The compiler may call this to compare slices.
///
/// # Safety
/// As memcmp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for index in 0..count {
        // SAFETY: both have `count` bytes.
        let (left, right) = unsafe { (*a.add(index), *b.add(index)) };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}
