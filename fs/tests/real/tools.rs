//! Real programs on the mount, as they are used every day.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use crate::common::{Options, World, has, in_own_mounts, names, nothing_hidden, run};

#[test]
fn reads_and_writes_reach_home_at_once() {
    in_own_mounts("reads_and_writes", || {
        let w =
            World::new(Options::default(), |home| fs::write(home.join("a"), "from home").unwrap());
        assert_eq!(fs::read(w.away.join("a")).unwrap(), b"from home");
        let mut file = File::create(w.away.join("b")).unwrap();
        file.write_all(b"from away").unwrap();
        // Not closed, not synced: it is at home.
        assert_eq!(fs::read(w.home.join("b")).unwrap(), b"from away");
        fs::write(w.home.join("a"), "changed at home").unwrap();
        assert_eq!(fs::read(w.away.join("a")).unwrap(), b"changed at home");
        assert_eq!(
            fs::metadata(w.away.join("a")).unwrap().ino(),
            fs::metadata(w.home.join("a")).unwrap().ino()
        );
    });
}

#[test]
fn trees_are_copied_with_everything() {
    in_own_mounts("trees_are_copied", || {
        let w = World::new(Options::default(), |home| {
            let tree = home.join("tree");
            fs::create_dir_all(tree.join("deep/er")).unwrap();
            fs::write(tree.join("deep/file"), vec![7; 300_000]).unwrap();
            fs::hard_link(tree.join("deep/file"), tree.join("deep/er/link")).unwrap();
            symlink("deep/file", tree.join("sym")).unwrap();
            symlink("/nowhere/at all", tree.join("dangling")).unwrap();
            fs::write(tree.join(OsStr::from_bytes(b"not \xff utf-8 \n")), "odd").unwrap();
            let sparse = File::create(tree.join("sparse")).unwrap();
            sparse.write_all_at(b"end", 50 << 20).unwrap();
            fs::set_permissions(tree.join("deep"), fs::Permissions::from_mode(0o750)).unwrap();
            run(&tree, "mkfifo", &["pipe"]);
        });
        run(&w.away, "cp", &["-a", "tree", "copy"]);
        run(
            w.scratch(),
            "diff",
            &["-r", "--no-dereference", "--exclude=pipe", "home/tree", "home/copy"],
        );
        let copy = w.home.join("copy");
        let file = fs::metadata(copy.join("deep/file")).unwrap();
        assert_eq!((file.nlink(), file.size()), (2, 300_000));
        assert_eq!(file.ino(), fs::metadata(copy.join("deep/er/link")).unwrap().ino());
        assert_eq!(fs::metadata(copy.join("deep")).unwrap().mode() & 0o7777, 0o750);
        assert!(fs::metadata(copy.join("sparse")).unwrap().blocks() < 1000, "holes are kept");
        let mtime = |path: &str| fs::symlink_metadata(w.home.join(path)).unwrap().mtime_nsec();
        assert_eq!(mtime("tree/sym"), mtime("copy/sym"));
        run(&w.away, "rm", &["-rf", "copy"]);
        assert!(!copy.exists());
    });
}

#[test]
fn an_editor_saves_by_rename() {
    in_own_mounts("an_editor_saves", || {
        let w =
            World::new(Options::default(), |home| fs::write(home.join("text"), "one\n").unwrap());
        fs::write(w.away.join(".text.swp"), "two\n").unwrap();
        fs::rename(w.away.join(".text.swp"), w.away.join("text")).unwrap();
        assert_eq!(fs::read(w.home.join("text")).unwrap(), b"two\n");
        if has("an_editor_saves: vim", "vim") {
            run(&w.away, "vim", &["-es", "-u", "NONE", "-c", "normal othree", "-c", "wq", "text"]);
            assert_eq!(fs::read(w.home.join("text")).unwrap(), b"two\nthree\n");
        }
        assert_eq!(names(&w.home), ["system", "text"]);
    });
}

#[test]
fn git_and_sqlite_and_python_work() {
    in_own_mounts("git_and_sqlite_and_python", || {
        let w = World::new(Options::default(), |_| {});
        if has("git", "git") {
            fs::create_dir(w.away.join("repo")).unwrap();
            let repo = w.away.join("repo");
            run(&repo, "git", &["init", "-q"]);
            fs::write(repo.join("file"), "content\n").unwrap();
            run(&repo, "git", &["add", "."]);
            let who = ["-c", "user.name=a", "-c", "user.email=a@b"];
            run(&repo, "git", &[&who[..], &["commit", "-qm", "one"]].concat());
            assert_eq!(run(&repo, "git", &["status", "--short"]), "");
            run(&w.home.join("repo"), "git", &["-c", "safe.directory=*", "fsck", "--strict"]);
        }
        if has("python", "python3") {
            let script = "import sqlite3\n\
                d = sqlite3.connect('base.db')\n\
                d.execute('create table t (a)')\n\
                d.executemany('insert into t values (?)', [(i,) for i in range(1000)])\n\
                d.commit()\n\
                d.execute('delete from t where a < 500')\n\
                d.commit()\n\
                print(d.execute('select count(*), sum(a) from t').fetchone())\n\
                print(d.execute('pragma integrity_check').fetchone())\n\
                d.execute('pragma journal_mode=wal')\n\
                d.execute('insert into t values (1)'); d.commit()\n\
                print(d.execute('select count(*) from t').fetchone())";
            let said = run(&w.away, "python3", &["-c", script]);
            assert_eq!(said, "(500, 374750)\n('ok',)\n(501,)\n");
            fs::write(w.home.join("module.py"), "x = 42\n").unwrap();
            assert_eq!(run(&w.away, "python3", &["-c", "import module; print(module.x)"]), "42\n");
        }
    });
}

#[test]
fn large_directories_are_listed_whole() {
    in_own_mounts("large_directories", || {
        let w = World::new(
            Options { server: |config| config.max_open_nodes = 100, ..Options::default() },
            |home| {
                fs::create_dir(home.join("many")).unwrap();
                for i in 0..10_000 {
                    File::create(home.join(format!("many/file-{i:05}"))).unwrap();
                }
            },
        );
        let many = w.away.join("many");
        assert_eq!(names(&many).len(), 10_000);
        assert_eq!(run(&w.away, "sh", &["-c", "ls -la many | wc -l"]).trim(), "10003");
        // Far more nodes than open references.
        for i in (0..10_000).step_by(97) {
            fs::write(many.join(format!("file-{i:05}")), "x").unwrap();
        }
        run(&w.away, "sh", &["-c", "rm many/file-000*"]);
        assert_eq!(names(&w.home.join("many")).len(), 9_900);
    });
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    in_own_mounts("an_unlinked_file", || {
        let w = World::new(Options::default(), |_| {});
        let path = w.away.join("gone");
        let mut file =
            OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all(b"before ").unwrap();
        fs::remove_file(&path).unwrap();
        assert!(nothing_hidden(&w.home));
        file.write_all(b"after").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "before after");
        let meta = file.metadata().unwrap();
        assert_eq!((meta.nlink(), meta.len()), (0, 12));
        file.set_len(3).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3);
        // A directory that is someone's working directory, too.
        fs::create_dir(w.away.join("dir")).unwrap();
        let said = run(&w.away.join("dir"), "sh", &["-c", "rmdir ../dir; ls; stat -c %h ."]);
        assert_eq!(said, "0\n");
        assert!(nothing_hidden(&w.home));
    });
}

#[test]
fn two_append_to_one_file() {
    in_own_mounts("two_append", || {
        let w = World::new(Options::default(), |_| {});
        let open = |dir: &std::path::Path| {
            OpenOptions::new().append(true).create(true).open(dir.join("log")).unwrap()
        };
        let (mut here, mut there) = (open(&w.home), open(&w.away));
        for i in 0..200 {
            writeln!(here, "home {i:03}").unwrap();
            writeln!(there, "away {i:03}").unwrap();
        }
        let text = fs::read_to_string(w.away.join("log")).unwrap();
        assert_eq!(text, fs::read_to_string(w.home.join("log")).unwrap());
        assert_eq!(text.lines().count(), 400);
        for who in ["home", "away"] {
            let lines: Vec<_> = text.lines().filter(|line| line.starts_with(who)).collect();
            let wanted: Vec<_> = (0..200).map(|i| format!("{who} {i:03}")).collect();
            assert_eq!(lines, wanted);
        }
    });
}

#[test]
fn large_files_and_mappings() {
    in_own_mounts("large_files", || {
        let w = World::new(Options::default(), |_| {});
        let data: Vec<u8> =
            (0..20_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(w.away.join("big"), &data).unwrap();
        assert!(fs::read(w.home.join("big")).unwrap() == data);
        assert!(fs::read(w.away.join("big")).unwrap() == data);
        if has("large_files: python", "python3") {
            let script = "import mmap\n\
                f = open('big', 'r+b')\n\
                m = mmap.mmap(f.fileno(), 0)\n\
                m[5_000_000:5_000_005] = b'hello'\n\
                m.flush()\n\
                p = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE)\n\
                print(p[4_999_999:5_000_006] == m[4_999_999:5_000_006])";
            assert_eq!(run(&w.away, "python3", &["-c", script]), "True\n");
            let mut bytes = [0; 5];
            File::open(w.home.join("big")).unwrap().read_exact_at(&mut bytes, 5_000_000).unwrap();
            assert_eq!(&bytes, b"hello");
        }
        // A program that lies on the mount runs from it.
        fs::copy("/bin/true", w.home.join("program")).unwrap();
        run(&w.away, "./program", &[]);
    });
}

#[test]
fn attributes_and_extended_attributes() {
    in_own_mounts("attributes", || {
        let w = World::new(Options::default(), |_| {});
        let path = w.away.join("file");
        fs::write(&path, "x").unwrap();
        rustix::fs::setxattr(&path, "user.note", b"value", rustix::fs::XattrFlags::CREATE).unwrap();
        let mut value = [0; 64];
        let len = rustix::fs::getxattr(w.home.join("file"), "user.note", &mut value).unwrap();
        assert_eq!(&value[..len], b"value");
        let len = rustix::fs::listxattr(&path, &mut value).unwrap();
        assert_eq!(&value[..len], b"user.note\0");
        let error = rustix::fs::setxattr(&path, "trusted.x", b"v", rustix::fs::XattrFlags::empty());
        assert_eq!(error, Err(rustix::io::Errno::NOTSUP));
        rustix::fs::removexattr(&path, "user.note").unwrap();
        assert_eq!(
            rustix::fs::getxattr(&path, "user.note", &mut value),
            Err(rustix::io::Errno::NODATA)
        );
        run(&w.away, "touch", &["-d", "1969-07-20T20:17:40.5Z", "file"]);
        let meta = fs::metadata(w.home.join("file")).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (-14_182_940, 500_000_000));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6711)).unwrap();
        assert_eq!(fs::metadata(w.home.join("file")).unwrap().mode() & 0o7777, 0o6711);
        let space = rustix::fs::statvfs(&w.away).unwrap();
        assert_eq!(space.f_blocks, rustix::fs::statvfs(&w.home).unwrap().f_blocks);
        let file = File::create(w.away.join("room")).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).unwrap();
        assert_eq!(fs::metadata(w.home.join("room")).unwrap().len(), 1 << 20);
        file.sync_all().unwrap();
    });
}
