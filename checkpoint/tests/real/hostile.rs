//! Images that another node has edited: each is refused with the field named, and no bytes at all
//! make the check panic.

use std::fs;
use std::path::{Path, PathBuf};

use phantom_checkpoint::image::check::{Allowed, check};
use phantom_checkpoint::image::decode::{Messages, encode, read};
use phantom_checkpoint::image::name::{FileKind, FileName};
use phantom_checkpoint::image::proto::{
    Core, Extent, File, Fs, Ids, Inventory, Mount, NetNs, Pstree, RegFile, TtyInfo, UserNs,
};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::common::{App, Place, criu, save};

/// A real image and what it may hold.
struct Sample {
    images: tempfile::TempDir,
    allowed: Allowed,
}

impl Sample {
    fn take(test: &str) -> Option<Self> {
        let criu = criu(test)?;
        let place = Place::new();
        let mut app = App::start(&place.home(), &["/bin/bash", "--norc", "--noediting"]);
        app.screen.expect("$ ");
        let images = place.memory();
        save(&criu, &app, &place, images.path());
        let allowed = app.allowed();
        check(images.path(), &allowed).unwrap();
        Some(Self { images, allowed })
    }

    fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::Builder::new().prefix("phckpt-").tempdir_in("/dev/shm").unwrap();
        for entry in fs::read_dir(self.images.path()).unwrap().flatten() {
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        copy
    }

    fn names(&self, kind: FileKind) -> Vec<FileName> {
        let mut names: Vec<FileName> = fs::read_dir(self.images.path())
            .unwrap()
            .flatten()
            .map(|entry| FileName::parse(entry.file_name().to_str().unwrap()).unwrap())
            .filter(|name| name.kind() == kind)
            .collect();
        names.sort();
        names
    }

    /// The refusal of an image in which the last file of `kind` was edited.
    fn refusal<M: Message + Default>(&self, kind: FileKind, edit: impl Fn(&mut Vec<M>)) -> String {
        let copy = self.copy();
        let name = self.names(kind).pop().unwrap();
        edit_file(copy.path(), &name, edit);
        check(copy.path(), &self.allowed).unwrap_err().to_string()
    }
}

fn edit_file<M: Message + Default>(dir: &Path, name: &FileName, edit: impl Fn(&mut Vec<M>)) {
    let bytes = read(dir, name).unwrap();
    let mut messages = Messages::new(name, &bytes).unwrap().all::<M>().unwrap();
    edit(&mut messages);
    fs::write(dir.join(name.as_str()), encode(name.kind(), &messages).unwrap()).unwrap();
}

fn creds(core: &mut [Core]) -> &mut phantom_checkpoint::image::proto::Creds {
    core[0].thread.as_mut().unwrap().creds.as_mut().unwrap()
}

fn mount<'a>(mounts: &'a mut [Mount], path: &str) -> &'a mut Mount {
    mounts.iter_mut().find(|mount| mount.mountpoint == path.as_bytes()).unwrap()
}

#[test]
fn edited_images_are_refused_with_the_field_named() {
    let Some(sample) = Sample::take("edited_images_are_refused_with_the_field_named") else {
        return;
    };
    let core = |edit: &dyn Fn(&mut Vec<Core>)| sample.refusal(FileKind::Core, edit);
    assert_eq!(core(&|core| creds(core).uid = 0), "core-2.img: creds.uid is 0, must be 1000");
    assert!(core(&|core| creds(core).fsgid = 0).contains("creds.fsgid is 0"));
    assert!(core(&|core| creds(core).groups.push(0)).contains("creds.groups is 0"));
    assert!(core(&|core| creds(core).cap_prm[0] = 1 << 21).contains("creds.cap_prm is 0x200000"));
    assert!(core(&|core| creds(core).cap_amb = vec![0, 1]).contains("creds.cap_amb"));
    assert!(core(&|core| core[0].thread = None).contains("thread_core is absent"));
    assert!(core(&|core| core[0].machine = 2).contains("mtype"));
    let priority = core(&|core| core[0].task.as_mut().unwrap().oom_score_adj = Some(-1000));
    assert!(priority.contains("oom_score_adj is -1000"), "{priority}");

    let ids = |edit: &dyn Fn(&mut Vec<Ids>)| sample.refusal(FileKind::Ids, edit);
    assert!(ids(&|ids| ids[0].user_ns = Some(999)).contains("user_ns_id"));
    assert!(ids(&|ids| ids[0].mnt_ns = None).contains("mnt_ns_id"));
    let host = sample.refusal(FileKind::Inventory, |inventory: &mut Vec<Inventory>| {
        let own = Messages::new(
            &FileName::parse("ids-1.img").unwrap(),
            &read(sample.images.path(), &FileName::parse("ids-1.img").unwrap()).unwrap(),
        )
        .unwrap()
        .one::<Ids>()
        .unwrap();
        inventory[0].root_ids.as_mut().unwrap().user_ns = own.user_ns;
    });
    assert!(host.contains("user_ns_id is the machine's"), "{host}");

    let users = |edit: &dyn Fn(&mut Vec<UserNs>)| sample.refusal(FileKind::UserNs, edit);
    let all = Extent { first: 0, lower_first: 0, count: 1 << 31 };
    assert!(users(&|users| users[0].uid_map = vec![all]).contains("uid_map"));
    assert!(users(&|users| users[0].gid_map.push(all)).contains("gid_map"));

    let tree = |edit: &dyn Fn(&mut Vec<Pstree>)| sample.refusal(FileKind::Pstree, edit);
    assert!(tree(&|tree| tree[1].ppid = 77).contains("ppid of task 2 is 77"));
    assert!(tree(&|tree| tree[0].pid = 300).contains("process 1"));
    assert!(tree(&|tree| tree.truncate(1)).contains("not in pstree.img"));
    assert!(tree(&|tree| tree[1].threads = vec![2; 20_000]).contains("at most 10000"));

    let mounts = |edit: &dyn Fn(&mut Vec<Mount>)| sample.refusal(FileKind::Mountpoints, edit);
    assert!(mounts(&|list| mount(list, "/tmp").mountpoint = "/etc".into()).contains("/etc"));
    assert!(mounts(&|list| mount(list, "/tmp").ext_key = Some("x".into())).contains("ext_key"));
    assert!(mounts(&|list| mount(list, "/tmp").fstype = 7).contains("fstype of the mount /tmp"));
    assert!(mounts(&|list| mount(list, "/tmp").flags &= !2).contains("nosuid"));
    assert!(mounts(&|list| mount(list, "/").flags &= !1).contains("read-only"));
    let options = mounts(&|list| mount(list, "/proc").options = "lowerdir=/".into());
    assert!(options.contains("options of the mount /proc is lowerdir=/"), "{options}");
    assert!(mounts(&|list| mount(list, "/dev/null").ext_key = None).contains("dev-null"));
    assert!(mounts(&|list| mount(list, "/proc").root = "/sys".into()).contains("root"));
    assert!(mounts(&|list| drop(list.pop())).contains("is absent"));
    assert!(mounts(&|list| list.push(list[0].clone())).contains("once"));

    let files = |edit: &dyn Fn(&mut Vec<File>)| sample.refusal(FileKind::Files, edit);
    fn regular(files: &mut [File]) -> &mut RegFile {
        files.iter_mut().rev().find_map(|file| file.reg.as_mut()).unwrap()
    }
    assert!(files(&|list| regular(list).name = "/../../etc".into()).contains("without `..`"));
    assert!(files(&|list| regular(list).name = "etc/passwd".into()).contains("a path inside"));
    assert!(files(&|list| regular(list).mnt_id = Some(9999)).contains("mnt_id"));
    assert!(files(&|list| regular(list).mnt_id = None).contains("mnt_id"));
    assert!(files(&|list| regular(list).ext = Some(true)).contains("ext of file"));
    assert!(files(&|list| list[0].kind = 16).contains("a kind apps may use"));
    assert!(
        sample
            .refusal(FileKind::Fs, |fs: &mut Vec<Fs>| fs[0].root_id = fs[0].cwd_id)
            .contains("root_id")
    );

    let tty = |edit: &dyn Fn(&mut Vec<TtyInfo>)| sample.refusal(FileKind::TtyInfo, edit);
    assert!(tty(&|tty| tty[0].rdev = 0x500).contains("the app's terminal"));
    assert!(tty(&|tty| tty[0].kind = 3).contains("the app's or a private terminal"));
}

#[test]
fn strange_files_are_refused() {
    let Some(sample) = Sample::take("strange_files_are_refused") else { return };
    let with = |name: &str, bytes: &[u8]| {
        let copy = sample.copy();
        fs::write(copy.path().join(name), bytes).unwrap();
        check(copy.path(), &sample.allowed).unwrap_err().to_string()
    };
    assert!(with("autofs-1.img", b"").contains("autofs-1.img"));
    assert!(with("cgroup.img", b"").contains("cgroup.img"));
    assert!(
        with("core-9.img", &fs::read(sample.images.path().join("core-2.img")).unwrap())
            .contains("not in pstree.img")
    );
    let external = NetNs { ext_key: Some("host".into()) };
    assert!(
        with("netns-9.img", &encode(FileKind::NetNs, &[external]).unwrap())
            .contains("ext_key is host")
    );
    let users = sample.names(FileKind::UserNs).pop().unwrap();
    let second = fs::read(sample.images.path().join(users.as_str())).unwrap();
    assert!(with("userns-99.img", &second).contains("a second user namespace"));
    let copy = sample.copy();
    let link = copy.path().join("core-2.img");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    let error = check(copy.path(), &sample.allowed).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
}

#[test]
fn mutated_bytes_never_panic() {
    let Some(sample) = Sample::take("mutated_bytes_never_panic") else { return };
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let copy = sample.copy();
    let files: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(copy.path())
        .unwrap()
        .flatten()
        .map(|entry| (entry.path(), fs::read(entry.path()).unwrap()))
        .filter(|(path, bytes)| {
            !bytes.is_empty() && !path.file_name().unwrap().to_string_lossy().starts_with("pages-")
        })
        .collect();
    let mut accepted = 0;
    for _ in 0..2000 {
        let (path, original) = &files[rng.random_range(0..files.len())];
        let mut bytes = original.clone();
        match rng.random_range(0..4) {
            0 => bytes.truncate(rng.random_range(0..bytes.len())),
            1 => bytes.extend((0..rng.random_range(1..64)).map(|_| rng.random::<u8>())),
            _ => {
                for _ in 0..rng.random_range(1..6) {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] = rng.random();
                }
            }
        }
        fs::write(path, &bytes).unwrap();
        accepted += usize::from(check(copy.path(), &sample.allowed).is_ok());
        fs::write(path, original).unwrap();
    }
    println!("{accepted} of 2000 were harmless");
    check(copy.path(), &sample.allowed).unwrap();
}
