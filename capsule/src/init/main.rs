//! The first process of a capsule: starts the app as the leader of a session of its own on the
//! capsule's terminal, reaps every orphan, and ends with the app's exit code.
//!
//! `init -- COMMAND ARG…`, run with the terminal on descriptors 0 to 2, the working directory set
//! and all privileges gone. Built without the standard library (see build.rs), so that it is small,
//! needs nothing from the file system, and a checkpoint of it is a few pages.
#![no_std]
#![no_main]
// Keeps the compiler from turning loops into calls of a libc that is not there.
#![no_builtins]

mod sys;

use sys::{Errno, Str};

/// The command was not found, as shells say it.
const EXIT_NOT_FOUND: i32 = 127;
/// The command was found but could not be started.
const EXIT_NOT_STARTED: i32 = 126;
/// Longest path that is tried, as the kernel's PATH_MAX.
const PATH_MAX: usize = 4096;
/// Where commands are looked for when the environment does not say.
const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::exit(EXIT_NOT_STARTED)
}

/// The core library is built for unwinding and names this; with `panic=abort` nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Entered from `_start` with the stack as the kernel left it.
#[unsafe(no_mangle)]
extern "C" fn phantom_init(stack: *const usize) -> ! {
    // SAFETY: `stack` is the initial stack pointer: argc, argv…, NULL, envp…, NULL.
    let (args, env) = unsafe { sys::arguments(stack) };
    let command = match args.tail_after(b"--") {
        Some(command) if command.first().is_some() => command,
        _ => {
            sys::write_all(2, b"usage: init -- COMMAND [ARGUMENT]...\n");
            sys::exit(EXIT_NOT_STARTED)
        }
    };
    // A session of its own, so that no process of the capsule belongs to one outside it.
    let _ = sys::setsid();
    match sys::fork() {
        Ok(0) => become_app(command, env),
        Ok(app) => reap_until(app),
        Err(errno) => {
            report(b"the app", b"cannot be forked", errno);
            sys::exit(EXIT_NOT_STARTED)
        }
    }
}

/// In the child: leader of a session on the terminal, then the command.
fn become_app(command: sys::Args, env: sys::Args) -> ! {
    let _ = sys::setsid();
    let _ = sys::take_terminal(0);
    let name = command.first().unwrap_or(Str::EMPTY);
    let errno = exec_by_name(name, command, env);
    let (what, code): (&[u8], i32) = match errno {
        Errno::NOENT => (b"command not found", EXIT_NOT_FOUND),
        Errno::ACCES => (b"permission denied", EXIT_NOT_STARTED),
        Errno::NOEXEC => (b"not a program this machine can run", EXIT_NOT_STARTED),
        _ => (b"cannot be started", EXIT_NOT_STARTED),
    };
    report(name.bytes(), what, errno);
    sys::exit(code)
}

/// Tries the command as execvp(3) would; returns why none could be started.
fn exec_by_name(name: Str, command: sys::Args, env: sys::Args) -> Errno {
    if name.bytes().is_empty() {
        return Errno::NOENT;
    }
    if name.bytes().contains(&b'/') {
        return sys::execve(name, command, env);
    }
    let path = env.variable(b"PATH=").unwrap_or(DEFAULT_PATH);
    let mut buffer = [0u8; PATH_MAX];
    let mut result = Errno::NOENT;
    for folder in path.split(|byte| *byte == b':') {
        let folder = if folder.is_empty() { b"." } else { folder };
        let Some(candidate) = join(&mut buffer, folder, name.bytes()) else {
            continue;
        };
        match sys::execve(candidate, command, env) {
            // A file that may not be run hides nothing further down PATH, but is what to report.
            Errno::ACCES => result = Errno::ACCES,
            Errno::NOENT | Errno::NOTDIR => {}
            other => return other,
        }
    }
    result
}

/// `folder/name` with its ending NUL, in `buffer`.
fn join<'a>(buffer: &'a mut [u8; PATH_MAX], folder: &[u8], name: &[u8]) -> Option<Str<'a>> {
    let length = folder.len() + 1 + name.len();
    buffer.get_mut(..folder.len())?.copy_from_slice(folder);
    *buffer.get_mut(folder.len())? = b'/';
    buffer.get_mut(folder.len() + 1..length)?.copy_from_slice(name);
    *buffer.get_mut(length)? = 0;
    Str::new(buffer.get(..=length)?)
}

/// In the parent: lets go of the terminal, reaps whatever ends, and ends with the app.
fn reap_until(app: i32) -> ! {
    if let Ok(null) = sys::open_read_write(c"/dev/null") {
        for fd in 0..3 {
            let _ = sys::dup2(null, fd);
        }
        if null > 2 {
            sys::close(null);
        }
    }
    loop {
        match sys::wait() {
            Ok((pid, status)) if pid == app => sys::exit(exit_code(status)),
            // No child is left: the app was reaped by someone else (a debugger); nothing to say.
            Err(Errno::CHILD) => sys::exit(EXIT_NOT_STARTED),
            _ => {}
        }
    }
}

/// The exit code a shell would show for a wait status.
fn exit_code(status: i32) -> i32 {
    match status & 0x7f {
        0 => (status >> 8) & 0xff,
        signal => 128 + signal,
    }
}

/// One line on the terminal.
fn report(name: &[u8], what: &[u8], errno: Errno) {
    sys::write_all(2, b"phantom: ");
    sys::write_all(2, name);
    sys::write_all(2, b": ");
    sys::write_all(2, what);
    if !matches!(errno, Errno::NOENT | Errno::ACCES | Errno::NOEXEC) {
        let number = errno.0.unsigned_abs();
        let digits = [
            b'0' + (number / 100 % 10) as u8,
            b'0' + (number / 10 % 10) as u8,
            b'0' + (number % 10) as u8,
        ];
        sys::write_all(2, b" (error ");
        sys::write_all(2, &digits);
        sys::write_all(2, b")");
    }
    sys::write_all(2, b"\n");
}
