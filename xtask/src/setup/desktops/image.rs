//! The image of a desktop: a Debian disk, its kernel, and what an initrd for it is made of.
//!
//! An image is a folder that gets its name last: what has the name is whole. Whoever uses one
//! holds a shared lock on the file `lock` in it, so that no set-up takes it away meanwhile.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::modules;
use crate::command::Cmd;
use crate::say;
use crate::setup::debian::{self, Recipe, Release};
use crate::setup::host;
use crate::workspace::Workspace;

/// Where images are kept.
const CACHE: &str = "/var/cache/phantom/desktops/images";
/// The disk's size as the desktop sees it; the file takes only what is in it.
const DISK: &str = "2G";
/// Room that making one takes: the root as a folder, the disk, and the packages.
const ROOM_MIB: u64 = 1536;
/// The file in an image that its users lock.
const LOCK: &str = "lock";

/// The releases desktops run. `edition` covers what is done with a root after it was made.
pub const RECIPES: [Recipe; 2] = [recipe(debian::BOOKWORM), recipe(debian::TRIXIE)];

/// The version of the oldest C library among them, Debian 12's.
pub const OLDEST_LIBC: (u32, u32) = (2, 36);

const fn recipe(release: Release) -> Recipe {
    Recipe {
        edition: "1",
        release,
        packages: &[
            "busybox-static",
            "e2fsprogs",
            "iproute2",
            "kmod",
            "less",
            "nftables",
            "procps",
            "python3",
            "sqlite3",
            "systemd-sysv",
            "tmux",
            "vim",
        ],
        customize: include_str!("../../../desktops/customize.sh"),
    }
}

/// An image that is there and stays there as long as this lives.
#[derive(Debug)]
pub struct Image {
    /// Such as `debian13`.
    pub release: String,
    /// The folder.
    pub path: PathBuf,
    _in_use: Flock<File>,
}

impl Image {
    /// The image of this recipe, when there is one.
    pub fn find(recipe: &Recipe) -> Result<Option<Image>> {
        let path = path(recipe)?;
        Ok(hold(&path)?.map(|lock| Image { release: name(recipe), path, _in_use: lock }))
    }
}

/// What the desktops call the recipe's release.
pub fn name(recipe: &Recipe) -> String {
    format!("debian{}", recipe.release.number)
}

/// Where the recipe's image is, or will be.
pub fn path(recipe: &Recipe) -> Result<PathBuf> {
    Ok(Path::new(CACHE).join(format!("{}-{}", name(recipe), recipe.digest()?)))
}

/// Keeps an image from being removed; `None` when it is not there, or about to go.
fn hold(image: &Path) -> Result<Option<Flock<File>>> {
    let lock = lock(image, FlockArg::LockSharedNonblock)?;
    // It may have gone between opening and locking.
    Ok(lock.filter(|_| image.join(LOCK).exists()))
}

/// Locks an image; `None` when it is not there or locked in a way that excludes this.
fn lock(image: &Path, how: FlockArg) -> Result<Option<Flock<File>>> {
    let path = image.join(LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
    };
    match Flock::lock(file, how) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).with_context(|| format!("locking {}", path.display())),
    }
}

/// One line about what will be done.
pub fn intention(recipe: &Recipe) -> Result<String> {
    let image = path(recipe)?;
    let mut text = format!(
        "makes the disk of a Debian {} desktop, about 330 MiB, in {}",
        recipe.release.number,
        image.display()
    );
    let old = obsolete(&list(Path::new(CACHE))?, &image);
    if !old.is_empty() {
        let names: Vec<_> = old.iter().map(|path| path.display().to_string()).collect();
        text.push_str(&format!(", and removes, unless in use: {}", names.join(", ")));
    }
    Ok(text)
}

/// Makes the recipe's image. The caller holds the lock of set-up.
pub fn build(workspace: &Workspace, recipe: &Recipe) -> Result<()> {
    let started = Instant::now();
    let image = path(recipe)?;
    Cmd::new("install").args(["-d", "-m", "755", CACHE]).rooted().quiet()?;
    for old in obsolete(&list(Path::new(CACHE))?, &image) {
        retire(&old)?;
    }
    host::room(Path::new(CACHE), ROOM_MIB)?;
    let fresh = image.with_extension("new");
    debian::remove(&fresh)?;
    Cmd::new("install").args(["-d", "-m", "755"]).arg(&fresh).rooted().quiet()?;
    let root = fresh.join("root");
    recipe.make(workspace, &root, &format!("the disk of {}", name(recipe)))?;
    let kernel = kernel(&root)?;
    for step in pack(&fresh, &root, &kernel, &load_order(&root, &kernel)?) {
        step.rooted().limit(Duration::from_secs(600)).quiet().context("packing a desktop image")?;
    }
    debian::remove(&root)?;
    Cmd::new("mv").arg("-T").arg(&fresh).arg(&image).rooted().quiet()?;
    let number = recipe.release.number;
    let took = say::duration(started.elapsed());
    say::ok(format!("disk of a Debian {number} desktop with Linux {kernel} made in {took}"));
    Ok(())
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", folder.display())),
    };
    let paths: std::io::Result<Vec<PathBuf>> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.with_context(|| format!("reading {}", folder.display()))?;
    paths.sort();
    Ok(paths)
}

/// Images among `present` of the same release as `image` but another recipe, and what interrupted
/// builds of such left.
fn obsolete(present: &[PathBuf], image: &Path) -> Vec<PathBuf> {
    let file_name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let ours = file_name(image).unwrap_or_default();
    let Some((release, _)) = ours.split_once('-') else { return Vec::new() };
    let other = |name: String| {
        let same_release = name.strip_prefix(release).is_some_and(|rest| rest.starts_with('-'));
        same_release && name != ours && name != format!("{ours}.new")
    };
    present.iter().filter(|path| file_name(path).is_some_and(other)).cloned().collect()
}

/// Removes an old image unless somebody uses it.
fn retire(old: &Path) -> Result<()> {
    let locked = lock(old, FlockArg::LockExclusiveNonblock)?;
    if locked.is_none() && old.join(LOCK).exists() {
        say::note(format!(
            "{} is in use and kept; the next build of such an image removes it",
            old.display()
        ));
        return Ok(());
    }
    debian::remove(old)
}

/// The release of the one kernel whose modules are in `root`.
fn kernel(root: &Path) -> Result<String> {
    let kernels = list(&root.join("usr/lib/modules"))?;
    match &kernels[..] {
        [one] => Ok(one.file_name().unwrap_or_default().to_string_lossy().into_owned()),
        other => bail!("the new root has {} kernels instead of one", other.len()),
    }
}

/// The module files that the initrd loads, in order.
fn load_order(root: &Path, kernel: &str) -> Result<Vec<PathBuf>> {
    let folder = root.join("usr/lib/modules").join(kernel);
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    let (builtin, dep) = (read("modules.builtin")?, read("modules.dep")?);
    let order = modules::order(&modules::NEEDED, &builtin, &dep)?;
    Ok(order.into_iter().map(|path| folder.join(path)).collect())
}

/// The commands that fill the image's folder from its root.
fn pack(fresh: &Path, root: &Path, kernel: &str, modules: &[PathBuf]) -> Vec<Cmd> {
    let shell = |script: &str| Cmd::new("sh").args(["-euc", script, "sh"]);
    let folder = fresh.join("modules");
    let mut steps = vec![
        Cmd::new("install")
            .args(["-m", "644"])
            .arg(root.join(format!("boot/vmlinuz-{kernel}")))
            .arg(fresh.join("vmlinuz")),
        Cmd::new("install")
            .args(["-m", "755"])
            .arg(root.join("usr/bin/busybox"))
            .arg(fresh.join("busybox")),
        shell("printf '%s\\n' \"$1\" >\"$2\"").arg(kernel).arg(fresh.join("kernel")),
        Cmd::new("install").args(["-d", "-m", "755"]).arg(&folder),
    ];
    for (place, module) in modules.iter().enumerate() {
        let to = folder.join(modules::file_name(place, &module.to_string_lossy()));
        let compressed = module.extension().is_some_and(|extension| extension == "xz");
        let script = if compressed { "xz -dc <\"$1\" >\"$2\"" } else { "cat <\"$1\" >\"$2\"" };
        steps.push(shell(script).arg(module).arg(to));
    }
    steps.push(
        Cmd::new("mkfs.ext4")
            .args(["-q", "-F", "-L", "phantom"])
            .args(["-E", "lazy_itable_init=1,lazy_journal_init=1"])
            .arg("-d")
            .arg(root)
            .arg(fresh.join("root.ext4"))
            .arg(DISK),
    );
    steps.push(Cmd::new("install").args(["-m", "644", "/dev/null"]).arg(fresh.join(LOCK)));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_release_has_a_folder_of_its_own() {
        let [old, new] = RECIPES.map(|recipe| path(&recipe).unwrap());
        assert!(old.to_string_lossy().contains("/debian12-"), "{old:?}");
        assert!(new.to_string_lossy().contains("/debian13-"), "{new:?}");
    }

    #[test]
    fn only_other_recipes_of_the_same_release_are_obsolete() {
        let image = Path::new("/c/debian12-aaa");
        let present = [
            "/c/debian12-aaa",
            "/c/debian12-aaa.new",
            "/c/debian12-bbb",
            "/c/debian12-bbb.new",
            "/c/debian13-ccc",
            "/c/debian120-ddd",
        ]
        .map(PathBuf::from);
        let expected = ["/c/debian12-bbb", "/c/debian12-bbb.new"].map(PathBuf::from);
        assert_eq!(obsolete(&present, image), expected);
    }

    #[test]
    fn an_image_in_use_is_not_taken_away() {
        let dir = std::env::temp_dir().join(format!("phantom-image-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert!(hold(&dir).unwrap().is_none(), "no lock file: no image");
        std::fs::write(dir.join(LOCK), "").unwrap();
        let one = hold(&dir).unwrap().expect("first user");
        let two = hold(&dir).unwrap().expect("second user");
        assert!(lock(&dir, FlockArg::LockExclusiveNonblock).unwrap().is_none());
        drop((one, two));
        let leaving = lock(&dir, FlockArg::LockExclusiveNonblock).unwrap().expect("nobody left");
        assert!(hold(&dir).unwrap().is_none(), "it is about to go");
        drop(leaving);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn modules_are_unpacked_in_order() {
        let modules = ["/r/a.ko.xz", "/r/b.ko"].map(PathBuf::from);
        let steps = pack(Path::new("/i"), Path::new("/r"), "6.1", &modules);
        let shown: Vec<String> = steps.iter().map(Cmd::shown).collect();
        let unpacking: Vec<_> = shown.iter().filter(|step| step.contains("/i/modules/")).collect();
        assert!(unpacking[0].contains("xz -dc") && unpacking[0].ends_with("00-a.ko"));
        assert!(unpacking[1].contains("cat") && unpacking[1].ends_with("01-b.ko"));
        let last = shown.last().unwrap();
        assert!(last.ends_with("/i/lock"), "the lock comes when all is there: {last}");
    }
}
