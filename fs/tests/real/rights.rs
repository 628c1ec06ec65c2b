//! Whose files are served to whom, and what is not served at all.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use crate::common::{Options, World, as_user, in_own_mounts, names, run};
use phantom_fs::fuse::Owners;
use phantom_fs::ids::{Extent, IdMap};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

const USER: u32 = 1000;
const BASE: u32 = 0x7001_0000;

fn make(path: &Path, mode: u32, owner: u32) {
    fs::write(path, "secret").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    chown(path, Some(owner), Some(owner)).unwrap();
}

fn user_world(options: Options) -> World {
    let map = IdMap(vec![Extent { inside: 0, outside: BASE, count: 65_536 }]);
    let owners = Owners { uids: map.clone(), gids: map };
    World::new(Options { user: Some(USER), owners, ..options }, |home| {
        make(&home.join("shadow"), 0o640, 0);
        make(&home.join("mine"), 0o600, USER);
        make(&home.join("theirs"), 0o604, 1001);
        fs::create_dir(home.join("closed")).unwrap();
        make(&home.join("closed/file"), 0o644, USER);
        fs::set_permissions(home.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(home.join("dir")).unwrap();
        chown(home.join("dir"), Some(USER), Some(USER)).unwrap();
        symlink("/etc/passwd", home.join("dir/absolute")).unwrap();
        symlink("../../../../etc/passwd", home.join("dir/upwards")).unwrap();
        run(home, "mknod", &["null", "c", "1", "3"]);
        run(home, "mkfifo", &["dir/pipe"]);
        let socket = std::os::unix::net::UnixListener::bind(home.join("dir/socket")).unwrap();
        drop(socket);
        fs::set_permissions(home.join("null"), fs::Permissions::from_mode(0o666)).unwrap();
    })
}

#[test]
fn the_kernel_at_home_decides() {
    in_own_mounts("the_kernel_at_home", || {
        let w = user_world(Options::default());
        let outside = BASE + USER;
        let mine = fs::metadata(w.away.join("mine")).unwrap();
        assert_eq!((mine.uid(), mine.gid()), (outside, outside));
        assert_eq!(fs::metadata(w.away.join("shadow")).unwrap().uid(), BASE);
        // As the app: what it may and may not.
        as_user(outside, || {
            assert_eq!(fs::read(w.away.join("mine")).unwrap(), b"secret");
            assert_eq!(fs::read(w.away.join("theirs")).unwrap(), b"secret");
            let denied = |path: &str| fs::read(w.away.join(path)).unwrap_err().raw_os_error();
            assert_eq!(denied("shadow"), Some(13));
            assert_eq!(denied("closed/file"), Some(13));
            let may =
                |path: &str, access| accessat(CWD, w.away.join(path), access, AtFlags::empty());
            assert_eq!(may("shadow", Access::READ_OK), Err(Errno::ACCESS));
            assert_eq!(may("theirs", Access::WRITE_OK), Err(Errno::ACCESS));
            assert_eq!(may("theirs", Access::READ_OK), Ok(()));
            assert_eq!(may("mine", Access::READ_OK | Access::WRITE_OK), Ok(()));
            let file = File::create(w.away.join("dir/new")).unwrap();
            assert_eq!(file.metadata().unwrap().uid(), outside);
            let theirs = chown(w.away.join("dir/new"), Some(BASE + 1001), None);
            assert_eq!(theirs.unwrap_err().raw_os_error(), Some(1));
        });
        assert_eq!(fs::metadata(w.home.join("dir/new")).unwrap().uid(), USER);
        // Even this node's root gets no more than the app could.
        assert_eq!(fs::read(w.away.join("shadow")).unwrap_err().raw_os_error(), Some(13));
        assert!(fs::write(w.away.join("theirs"), "x").is_err());
        assert!(chown(w.away.join("mine"), Some(4242), None).is_err());
        // Another user of this node gets nothing that is not everyone's.
        as_user(4242, || {
            assert_eq!(fs::read(w.away.join("mine")).unwrap_err().raw_os_error(), Some(13));
        });
    });
}

#[test]
fn links_lead_nowhere_at_home() {
    in_own_mounts("links", || {
        let w = user_world(Options::default());
        // Resolved where the app is, against its root; here that is this machine's.
        for name in ["absolute", "upwards"] {
            let target = fs::read_link(w.home.join("dir").join(name)).unwrap();
            assert_eq!(fs::read_link(w.away.join("dir").join(name)).unwrap(), target);
        }
        // A link in place of a directory is no directory to the server.
        use phantom_fs::client::{Ino, Lookup};
        use phantom_fs::proto::Name;
        symlink("/", w.home.join("dir/root")).unwrap();
        let name = |text: &str| Name::new(text.as_bytes()).unwrap();
        let found = |at, text: &str| match w.client.lookup(at, &name(text)).unwrap() {
            Lookup::Found(found) => found.ino,
            Lookup::Absent { .. } => panic!("{text}"),
        };
        let link = found(found(Ino::ROOT, "dir"), "root");
        assert_eq!(w.client.lookup(link, &name("etc")), Err(Errno::NOTDIR));
        assert_eq!(w.client.open_dir(link), Err(Errno::NOTDIR));
    });
}

#[test]
fn special_files_are_shown_but_do_not_reach_across() {
    in_own_mounts("special_files", || {
        let w = user_world(Options::default());
        let kind = |path: &str| fs::symlink_metadata(w.away.join(path)).unwrap().file_type();
        assert!(kind("null").is_char_device());
        assert_eq!(fs::metadata(w.away.join("null")).unwrap().rdev(), 0x103);
        assert_eq!(File::open(w.away.join("null")).unwrap_err().raw_os_error(), Some(13));
        assert!(kind("dir/pipe").is_fifo());
        assert!(kind("dir/socket").is_socket());
        let socket = std::os::unix::net::UnixStream::connect(w.away.join("dir/socket"));
        assert_eq!(socket.unwrap_err().raw_os_error(), Some(111));
        // Between the app's own processes both work.
        let said = run(&w.away.join("dir"), "sh", &["-c", "echo through > pipe & cat pipe"]);
        assert_eq!(said, "through\n");
        let listener = std::os::unix::net::UnixListener::bind(w.away.join("dir/own")).unwrap();
        std::os::unix::net::UnixStream::connect(w.away.join("dir/own")).unwrap();
        drop(listener);
        // Asked for directly, the server opens neither.
        use phantom_fs::client::{Ino, Lookup};
        use phantom_fs::proto::{Name, OpenMode};
        let open = |path: &[&str]| {
            let mut at = Ino::ROOT;
            for part in path {
                let Lookup::Found(found) =
                    w.client.lookup(at, &Name::new(part.as_bytes()).unwrap()).unwrap()
                else {
                    panic!("{part}")
                };
                at = found.ino;
            }
            w.client.open(at, OpenMode { read: true, ..OpenMode::default() }).unwrap_err()
        };
        assert_eq!(open(&["null"]), Errno::ACCESS);
        assert_eq!(open(&["dir", "pipe"]), Errno::NXIO);
        assert_eq!(open(&["dir", "socket"]), Errno::NXIO);
    });
}

#[test]
fn private_places_are_not_served() {
    in_own_mounts("private_places", || {
        let options = Options {
            server: |config| {
                config.excluded = vec![b"/tmp".to_vec(), b"/var/run".to_vec(), b"/proc".to_vec()]
            },
            ..Options::default()
        };
        let w = World::new(options, |home| {
            fs::create_dir_all(home.join("tmp/inner")).unwrap();
            fs::create_dir_all(home.join("var/run/inner")).unwrap();
            fs::create_dir_all(home.join("var/log")).unwrap();
            fs::write(home.join("tmp/secret"), "x").unwrap();
        });
        for path in ["tmp", "var/run", "proc"] {
            let place = w.away.join(path);
            assert!(place.is_dir(), "{path}: a mount point stands there");
            assert!(names(&place).is_empty(), "{path}");
            assert!(!place.join("inner").exists() && !place.join("secret").exists());
            assert_eq!(fs::write(place.join("new"), "x").unwrap_err().raw_os_error(), Some(30));
            assert!(fs::remove_dir(&place).is_err());
        }
        assert_eq!(names(&w.away.join("var")), ["log", "run"]);
        // Something can be mounted there.
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", w.away.join("tmp"), "tmpfs", flags, c"").unwrap();
        fs::write(w.away.join("tmp/own"), "x").unwrap();
        assert!(!w.home.join("tmp/own").exists());
        // A private place is private under whatever name its directory gets.
        fs::rename(w.away.join("var"), w.away.join("other")).unwrap();
        assert!(names(&w.away.join("other/run")).is_empty());
    });
}
