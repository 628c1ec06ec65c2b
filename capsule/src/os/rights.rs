//! Giving up rights and inherited state. What runs between clone and exec makes no allocation, takes
//! no lock and does not panic.

use std::io;

use phantom_model::Credentials;

pub(super) fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What `look` sees with the user's ids, in a thread that ends with it: a file server elsewhere or
/// a FUSE mount of the user's may show root nothing.
pub(super) fn as_user<T: Send>(
    user: &Credentials,
    look: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    let thread = || -> io::Result<T> {
        thread_ids(user.uid, user.gid, &user.groups)?;
        Ok(look())
    };
    std::thread::scope(|scope| {
        let looked = std::thread::Builder::new().spawn_scoped(scope, thread)?.join();
        looked.unwrap_or_else(|_| Err(io::Error::other("the thread that looked has failed")))
    })
}

/// The raw calls act on the calling thread; the library's would act on all.
fn thread_ids(uid: u32, gid: u32, groups: &[libc::gid_t]) -> io::Result<()> {
    // SAFETY: a list with its length, numbers.
    unsafe {
        let (count, list) = (groups.len(), groups.as_ptr());
        done(libc::syscall(libc::SYS_setgroups, count, list) as libc::c_int)?;
        done(libc::syscall(libc::SYS_setresgid, gid, gid, gid) as libc::c_int)?;
        done(libc::syscall(libc::SYS_setresuid, uid, uid, uid) as libc::c_int)
    }
}

/// Takes ids, the usual file creation mask, and no capabilities.
pub(super) fn take_ids(uid: u32, gid: u32, groups: &[libc::gid_t]) -> io::Result<()> {
    thread_ids(uid, gid, groups)?;
    // SAFETY: a number.
    unsafe { libc::umask(0o022) };
    drop_capabilities()
}

/// What no later exec may bring back.
pub(super) fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: numbers.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if result < 0 {
            let error = io::Error::last_os_error();
            // The first number the kernel does not know ends the list.
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// For a user whose id inside is 0; any other has lost them with its new id.
pub(super) fn drop_capabilities() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let none = [0u32; 6];
    // SAFETY: numbers; then the header and the two data records of capset(2), version 3.
    unsafe {
        done(libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))?;
        done(libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) as libc::c_int)
    }
}

/// Ignored signals and the mask would pass on to the app.
pub(super) fn reset_signals() {
    let empty = [0u64; 1];
    for signal in 1..=64 {
        // SAFETY: SIGKILL, SIGSTOP and the C library's own are refused, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: a mask of the kernel's size, 8 bytes.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            empty.as_ptr(),
            std::ptr::null_mut::<u64>(),
            8usize,
        );
    }
}
