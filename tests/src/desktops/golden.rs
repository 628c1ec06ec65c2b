//! Golden desktops: booted once, saved, and cloned for every scenario.
//!
//! A golden state is kept below [`CACHE`] under the digest of all that went into it, so another
//! QEMU, agent, image or script makes another. The ones that were used least recently go when all
//! of them take more than [`ROOM_MIB`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::host::Host;
use super::lan::Lan;
use super::shape::{Parts, Shape, qemu_args};
use super::{desktop, initrd};

/// Where they are kept.
pub const CACHE: &str = "/var/cache/phantom/desktops/golden";
/// How much room they may take.
pub const ROOM_MIB: u64 = 2048;
/// How much must be free to make one.
const NEEDED_MIB: u64 = 512;
/// How long another test run may take to make the same one.
const LOCK_WAIT: Duration = Duration::from_secs(600);
/// How long the first boot may take.
const BOOT: Duration = Duration::from_secs(180);

/// A saved desktop. It is not removed while this is held.
pub struct Golden {
    folder: PathBuf,
    _used: Flock<File>,
}

impl Golden {
    /// The golden desktop of a shape; made now when there is none.
    pub fn get(host: &'static Host, shape: &Shape) -> anyhow::Result<Self> {
        std::fs::create_dir_all(CACHE).with_context(|| format!("creating {CACHE}"))?;
        let lock = lock(&Path::new(CACHE).join("lock"), FlockArg::LockExclusiveNonblock)?;
        let folder = Path::new(CACHE).join(key(host, shape)?);
        if !folder.exists() {
            make_room(&folder)?;
            let began = Instant::now();
            make(host, shape, &folder)
                .with_context(|| format!("making the golden desktop {}", shape.name()))?;
            let took = began.elapsed().as_secs_f64();
            println!("NOTE golden desktop {} made in {took:.1} s", shape.name());
        }
        let used = lock_file(&folder.join("used"))?;
        used.set_modified(SystemTime::now())?;
        let Ok(used) = Flock::lock(used, FlockArg::LockSharedNonblock) else {
            bail!("{} is being removed by somebody else", folder.display());
        };
        drop(lock);
        Ok(Self { folder, _used: used })
    }

    /// Its state.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Its initrd.
    pub fn initrd(&self) -> PathBuf {
        self.folder.join("initrd")
    }

    /// A disk that goes on from its own.
    pub fn clone_disk(&self, to: &Path) -> anyhow::Result<()> {
        derive(&self.folder.join("disk.qcow2"), "qcow2", to)
    }
}

/// Makes a disk that holds what differs from `base`.
fn derive(base: &Path, format: &str, to: &Path) -> anyhow::Result<()> {
    let output = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", format, "-b"])
        .args([base, to])
        .output()
        .context("cannot run qemu-img: install qemu-utils")?;
    if !output.status.success() {
        bail!("qemu-img: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The name of a golden desktop: a digest of all that went into it.
fn key(host: &Host, shape: &Shape) -> anyhow::Result<String> {
    let image = host.image(shape.release)?;
    let parts = Parts {
        kernel: image.join("vmlinuz"),
        initrd: "initrd".into(),
        disk: "disk".into(),
        delivery: "delivery".into(),
        folder: "folder".into(),
        tap: "tap".into(),
        number: 0,
        state: None,
    };
    let mut digest = blake3::Hasher::new();
    for arg in qemu_args(shape, host.accel, &parts, host.tsc_khz) {
        digest.update(arg.as_encoded_bytes()).update(b"\0");
    }
    digest.update(host.qemu_version.as_bytes());
    let mut packed = Vec::new();
    initrd::write(image, &host.agent, &mut packed)?;
    digest.update(&packed);
    Ok(format!("{}-{}", shape.name(), &digest.finalize().to_hex()[..12]))
}

/// Boots, saves, and only then gives the folder its name.
fn make(host: &'static Host, shape: &Shape, folder: &Path) -> anyhow::Result<()> {
    let fresh = folder.with_extension("new");
    // What an interrupted making has left.
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).with_context(|| format!("removing {}", fresh.display()))?;
    }
    std::fs::create_dir_all(&fresh)?;
    let image = host.image(shape.release)?;
    let initrd = fresh.join("initrd");
    initrd::write(image, &host.agent, &mut File::create(&initrd)?)?;
    let disk = fresh.join("disk.qcow2");
    derive(&image.join("root.ext4"), "raw", &disk)?;
    let lan = Lan::of_golden(host)?;
    let (mut machine, parts) = desktop::boot(&lan, shape, initrd, disk, BOOT)?;
    desktop::settle(&machine, shape)?;
    machine.save(&fresh.join("state"))?;
    drop(machine);
    std::fs::copy(parts.serial_log(), fresh.join("serial.log"))?;
    File::create(fresh.join("used"))?;
    std::fs::rename(&fresh, folder).with_context(|| format!("naming {}", folder.display()))
}

/// Removes golden desktops that nobody uses, oldest first, until the rest fits; then looks whether
/// there is room for another.
fn make_room(folder: &Path) -> anyhow::Result<()> {
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(CACHE)?.flatten() {
        let path = entry.path();
        if path.is_dir() && path.extension().is_none() {
            let used = std::fs::metadata(path.join("used")).and_then(|used| used.modified());
            kept.push((used.unwrap_or(SystemTime::UNIX_EPOCH), size_mib(&path), path));
        }
    }
    kept.sort();
    let mut total: u64 = kept.iter().map(|(_, size, _)| size).sum();
    for (_, size, path) in &kept {
        if total <= ROOM_MIB {
            break;
        }
        let free = lock_file(&path.join("used"))
            .is_ok_and(|used| Flock::lock(used, FlockArg::LockExclusiveNonblock).is_ok());
        if free {
            std::fs::remove_dir_all(path)
                .with_context(|| format!("removing {}", path.display()))?;
            total -= size;
        }
    }
    let stat = nix::sys::statvfs::statvfs(Path::new(CACHE))?;
    let free_mib = stat.blocks_available() * stat.fragment_size() / (1 << 20);
    if free_mib < NEEDED_MIB {
        bail!(
            "{CACHE} has {free_mib} MiB free, {NEEDED_MIB} MiB are needed for {}: make room, for \
             example `rm -r {CACHE}`",
            folder.display()
        );
    }
    Ok(())
}

fn size_mib(folder: &Path) -> u64 {
    let blocks: u64 = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|data| std::os::unix::fs::MetadataExt::blocks(&data))
        .sum();
    blocks / 2048
}

fn lock_file(path: &Path) -> anyhow::Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

/// Waits for a lock that another test run may hold.
fn lock(path: &Path, how: FlockArg) -> anyhow::Result<Flock<File>> {
    let end = Instant::now() + LOCK_WAIT;
    let mut file = lock_file(path)?;
    loop {
        file = match Flock::lock(file, how) {
            Ok(locked) => return Ok(locked),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, error)) => return Err(error).context(format!("locking {}", path.display())),
        };
        if Instant::now() > end {
            bail!(
                "another test run holds {} for more than {LOCK_WAIT:?}: `fuser {}` names it",
                path.display(),
                path.display()
            );
        }
        // A lock has no deadline of its own.
        std::thread::sleep(Duration::from_millis(100));
    }
}
