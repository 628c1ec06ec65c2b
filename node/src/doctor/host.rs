//! Host foreign apps: FUSE, and room for their images and files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use phantom_model::Bytes;

use super::mounts::{self, Mount};
use super::os::mount::fuse_greeting;
use super::{Ability, Finding, Places, Probe};

pub fn probes(places: &Places) -> Vec<Probe> {
    const HOST: &[Ability] = &[Ability::Host];
    let (run_dir, cache_dir) = (places.run_dir.clone(), places.cache_dir.clone());
    vec![
        Probe::essential("FUSE", HOST, fuse),
        Probe::useful("room for images", HOST, move || image_room(&run_dir)),
        Probe::useful("room for files", HOST, move || cache_room(&cache_dir)),
        Probe::useful("inotify", HOST, inotify),
        Probe::useful("process numbers", HOST, process_numbers),
    ]
}

fn fuse() -> Finding {
    match fuse_greeting(Duration::from_secs(20)) {
        Ok(greeting) => {
            let (major, minor) = (greeting.major, greeting.minor);
            let passthrough = if greeting.passthrough { ", passthrough" } else { "" };
            Finding::ok(format!("mounted and unmounted; protocol {major}.{minor}{passthrough}"))
        }
        Err(error) => Finding::failed("mount a FUSE file system", &error, "sudo modprobe fuse"),
    }
}

/// The room on the file system where `dir` is, or will be.
fn room(dir: &Path) -> nix::Result<(PathBuf, Bytes, bool)> {
    let place = dir.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/"));
    let stat = statfs(place)?;
    let free = stat.blocks_available().saturating_mul(stat.block_size() as u64);
    Ok((place.to_owned(), Bytes(free), stat.filesystem_type() == TMPFS_MAGIC))
}

fn image_room(dir: &Path) -> Finding {
    const WANTED: Bytes = Bytes(512 << 20);
    let shown = dir.display();
    match room(dir) {
        Ok((_, free, false)) => Finding::limited(
            format!("{shown} lies on a disk ({free} free): moves wait for it"),
            format!("sudo mkdir -p {shown} && sudo mount -t tmpfs -o mode=755 tmpfs {shown}"),
        ),
        Ok((place, free, true)) if free < WANTED => {
            let all = mounts::read().unwrap_or_default();
            let point = Mount::over(&all, &place).map_or(&*place, |mount| &mount.point);
            Finding::limited(
                format!("{shown}: only {free} free; a move needs a program's memory"),
                format!("sudo mount -o remount,size=50% {}", point.display()),
            )
        }
        Ok((_, free, true)) => Finding::ok(format!("{shown}: {free} free in memory")),
        Err(error) => {
            Finding::failed(&format!("look at {shown}"), &error.into(), format!("ls -ld {shown}"))
        }
    }
}

fn cache_room(dir: &Path) -> Finding {
    const WANTED: Bytes = Bytes(1 << 30);
    let shown = dir.display();
    match room(dir) {
        Ok((_, free, _)) if free < WANTED => Finding::limited(
            format!("{shown}: only {free} free; homes' files will be fetched again and again"),
            format!("free {WANTED} there, or set `cache_dir` in /etc/phantom/phantom.toml"),
        ),
        Ok((_, free, _)) => Finding::ok(format!("{shown}: {free} free")),
        Err(error) => {
            Finding::failed(&format!("look at {shown}"), &error.into(), format!("ls -ld {shown}"))
        }
    }
}

fn number(file: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// A restored program makes its watches anew, within the limits of its new host.
fn inotify() -> Finding {
    const INSTANCES: u64 = 128;
    const WATCHES: u64 = 65_536;
    let read = |name| number(&format!("/proc/sys/fs/inotify/{name}")).unwrap_or(0);
    let (instances, watches) = (read("max_user_instances"), read("max_user_watches"));
    let found = format!("{instances} instances, {watches} watches");
    if instances >= INSTANCES && watches >= WATCHES {
        return Finding::ok(found);
    }
    let (instances, watches) = (instances.max(INSTANCES), watches.max(WATCHES));
    Finding::limited(
        format!("{found}: a program that watches more files cannot come here"),
        format!(
            "sudo sysctl -w fs.inotify.max_user_instances={instances} \
             fs.inotify.max_user_watches={watches}"
        ),
    )
}

/// Restored processes keep their numbers. Since Linux 6.14 each pid namespace has its own limit.
fn process_numbers() -> Finding {
    const MAX: u64 = 4_194_304;
    let own_limit = nix::sys::utsname::uname()
        .ok()
        .is_some_and(|name| release(&name.release().to_string_lossy()) >= (6, 14));
    match number("/proc/sys/kernel/pid_max").unwrap_or(0) {
        _ if own_limit => Finding::ok("limited for each app by itself"),
        max if max >= MAX => Finding::ok(format!("up to {max}")),
        max => Finding::limited(
            format!("up to {max}: a program with higher ones cannot come here"),
            format!("sudo sysctl -w kernel.pid_max={MAX}"),
        ),
    }
}

/// The first two numbers of a kernel release such as `6.18.44-cloud`.
fn release(text: &str) -> (u32, u32) {
    let mut numbers =
        text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_compared_by_number() {
        assert_eq!(release("6.18.44-cloud"), (6, 18));
        assert!(release("6.8.0") < (6, 14) && release("10.0-rc1") > (6, 14));
        assert_eq!(release("strange"), (0, 0));
    }

    #[test]
    fn room_is_measured_at_the_nearest_folder_that_exists() {
        let (place, free, _) = room(Path::new("/proc/no/such/folder")).unwrap();
        assert_eq!((place.as_path(), free), (Path::new("/proc"), Bytes(0)));
        assert!(room(Path::new("/no/such")).unwrap().1 > Bytes(0));
    }
}
