//! The same operations on a local directory and on the mount must end in the same way.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;

use crate::common::{Options, World, as_user, in_own_mounts};
use rustix::fs::{
    Access, AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom, accessat, fallocate,
    mkfifoat, open, renameat_with, seek,
};

const USER: u32 = 1000;

type Outcome = Result<String, i32>;

/// One operation in a fresh directory that holds what [`fill`] made.
type Case = (&'static str, fn(&Path) -> Outcome);

/// `file` (0644), `secret` (0600, another's), `dir/inner`, `empty/`, `closed/` (0700, another's),
/// `sticky/theirs`, `link` -> file, `loop` -> loop, `dangling` -> nothing, `read-only` (0444).
fn fill(dir: &Path) {
    let own = |path: &Path| chown(path, Some(USER), Some(USER)).unwrap();
    let chmod =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (name, mode) in
        [("file", 0o644), ("secret", 0o600), ("read-only", 0o444), ("program", 0o755)]
    {
        fs::write(dir.join(name), "content").unwrap();
        chmod(&dir.join(name), mode);
        if name != "secret" {
            own(&dir.join(name));
        }
    }
    for name in ["dir", "empty", "closed", "sticky"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    fs::write(dir.join("dir/inner"), "x").unwrap();
    fs::write(dir.join("closed/inner"), "x").unwrap();
    fs::write(dir.join("sticky/theirs"), "x").unwrap();
    chmod(&dir.join("closed"), 0o700);
    chmod(&dir.join("sticky"), 0o1777);
    for name in ["", "dir", "dir/inner", "empty"] {
        own(&dir.join(name));
    }
    symlink("file", dir.join("link")).unwrap();
    symlink("loop", dir.join("loop")).unwrap();
    symlink("nothing", dir.join("dangling")).unwrap();
}

fn io<T>(result: std::io::Result<T>) -> Outcome {
    result.map(|_| String::new()).map_err(|error| error.raw_os_error().unwrap_or(-1))
}

fn sys<T>(result: rustix::io::Result<T>) -> Outcome {
    result.map(|_| String::new()).map_err(|error| error.raw_os_error())
}

fn said<T: std::fmt::Debug>(result: std::io::Result<T>) -> Outcome {
    result.map(|value| format!("{value:?}")).map_err(|error| error.raw_os_error().unwrap_or(-1))
}

fn rename(dir: &Path, from: &str, to: &str, flags: RenameFlags) -> Outcome {
    sys(renameat_with(CWD, dir.join(from), CWD, dir.join(to), flags))
}

fn access(dir: &Path, name: &str, mode: Access) -> Outcome {
    sys(accessat(CWD, dir.join(name), mode, AtFlags::empty()))
}

fn long(len: usize) -> String {
    "n".repeat(len)
}

const NAMES: &[Case] = &[
    ("open missing", |d| io(File::open(d.join("missing")))),
    ("open below a file", |d| io(File::open(d.join("file/below")))),
    ("open loop", |d| io(File::open(d.join("loop")))),
    ("open dangling", |d| io(File::open(d.join("dangling")))),
    ("open link without following", |d| {
        sys(open(d.join("link"), OFlags::NOFOLLOW | OFlags::RDONLY, Mode::empty()))
    }),
    ("open directory for writing", |d| io(OpenOptions::new().write(true).open(d.join("dir")))),
    ("open file as directory", |d| sys(open(d.join("file"), OFlags::DIRECTORY, Mode::empty()))),
    ("name of 255", |d| io(File::create(d.join(long(255))))),
    ("name of 256", |d| io(File::create(d.join(long(256))))),
    ("stat of 256", |d| io(fs::metadata(d.join(long(256))))),
    ("create exclusive, there", |d| io(File::create_new(d.join("file")))),
    ("create exclusive, link", |d| io(File::create_new(d.join("dangling")))),
    ("create through dangling", |d| {
        io(File::create(d.join("dangling")))?;
        said(fs::read_dir(d).map(|list| list.count()))
    }),
    ("create on directory", |d| io(File::create(d.join("dir")))),
    ("create in missing", |d| io(File::create(d.join("missing/x")))),
    ("mkdir there", |d| io(fs::create_dir(d.join("dir")))),
    ("mkdir on file", |d| io(fs::create_dir(d.join("file")))),
    ("mkdir on dangling", |d| io(fs::create_dir(d.join("dangling")))),
    ("mkdir below file", |d| io(fs::create_dir(d.join("file/x")))),
    ("rmdir full", |d| io(fs::remove_dir(d.join("dir")))),
    ("rmdir file", |d| io(fs::remove_dir(d.join("file")))),
    ("rmdir missing", |d| io(fs::remove_dir(d.join("missing")))),
    ("rmdir dot", |d| io(fs::remove_dir(d.join("empty/.")))),
    ("rmdir dotdot", |d| io(fs::remove_dir(d.join("empty/..")))),
    ("rmdir link", |d| io(fs::remove_dir(d.join("link")))),
    ("unlink directory", |d| io(fs::remove_file(d.join("empty")))),
    ("unlink missing", |d| io(fs::remove_file(d.join("missing")))),
    ("unlink file with slash", |d| io(fs::remove_file(d.join("file/")))),
    ("symlink there", |d| io(symlink("x", d.join("file")))),
    ("symlink empty", |d| io(symlink("", d.join("new")))),
    ("symlink long", |d| io(symlink(long(4095), d.join("new")))),
    ("symlink too long", |d| io(symlink(long(4096), d.join("new")))),
    ("readlink of file", |d| io(fs::read_link(d.join("file")))),
    ("readlink", |d| said(fs::read_link(d.join("link")))),
    ("link there", |d| io(fs::hard_link(d.join("file"), d.join("dir/inner")))),
    ("link directory", |d| io(fs::hard_link(d.join("dir"), d.join("new")))),
    ("link missing", |d| io(fs::hard_link(d.join("missing"), d.join("new")))),
    ("link of link", |d| {
        io(fs::hard_link(d.join("link"), d.join("new")))?;
        said(fs::symlink_metadata(d.join("new")).map(|m| m.nlink()))
    }),
    ("link count", |d| {
        io(fs::hard_link(d.join("file"), d.join("new")))?;
        said(fs::metadata(d.join("file")).map(|m| m.nlink()))
    }),
    ("mkfifo there", |d| sys(mkfifoat(CWD, d.join("file"), Mode::RWXU))),
    ("mkfifo", |d| sys(mkfifoat(CWD, d.join("new"), Mode::RWXU))),
    ("chdir to file", |d| {
        io(std::process::Command::new("true").current_dir(d.join("file")).status())
    }),
];

const RENAMES: &[Case] = &[
    ("rename missing", |d| rename(d, "missing", "x", RenameFlags::empty())),
    ("rename onto itself", |d| rename(d, "file", "file", RenameFlags::empty())),
    ("rename file onto directory", |d| rename(d, "file", "empty", RenameFlags::empty())),
    ("rename directory onto file", |d| rename(d, "dir", "file", RenameFlags::empty())),
    ("rename directory onto empty", |d| rename(d, "dir", "empty", RenameFlags::empty())),
    ("rename onto full", |d| rename(d, "empty", "dir", RenameFlags::empty())),
    ("rename into itself", |d| rename(d, "dir", "dir/new", RenameFlags::empty())),
    ("rename to ancestor", |d| rename(d, "dir/inner", "dir", RenameFlags::empty())),
    ("rename dot", |d| rename(d, "dir/.", "x", RenameFlags::empty())),
    ("rename noreplace", |d| rename(d, "file", "program", RenameFlags::NOREPLACE)),
    ("rename noreplace free", |d| rename(d, "file", "x", RenameFlags::NOREPLACE)),
    ("rename exchange", |d| {
        rename(d, "file", "dir", RenameFlags::EXCHANGE)?;
        said(fs::metadata(d.join("dir")).map(|m| m.is_file()))
    }),
    ("rename exchange missing", |d| rename(d, "file", "x", RenameFlags::EXCHANGE)),
    ("rename hard links", |d| {
        io(fs::hard_link(d.join("file"), d.join("same")))?;
        rename(d, "file", "same", RenameFlags::empty())?;
        said(fs::metadata(d.join("file")).map(|m| m.nlink()))
    }),
    ("rename long", |d| rename(d, "file", &long(256), RenameFlags::empty())),
    ("rename sticky", |d| rename(d, "sticky/theirs", "sticky/mine", RenameFlags::empty())),
];

const RIGHTS: &[Case] = &[
    ("read secret", |d| io(File::open(d.join("secret")))),
    ("write read-only", |d| io(OpenOptions::new().write(true).open(d.join("read-only")))),
    ("truncate read-only", |d| {
        io(OpenOptions::new().write(true).truncate(true).open(d.join("read-only")))
    }),
    ("list closed", |d| io(fs::read_dir(d.join("closed")))),
    ("stat in closed", |d| io(fs::metadata(d.join("closed/inner")))),
    ("create in closed", |d| io(File::create(d.join("closed/x")))),
    ("unlink in closed", |d| io(fs::remove_file(d.join("closed/inner")))),
    ("unlink in sticky", |d| io(fs::remove_file(d.join("sticky/theirs")))),
    ("create in sticky", |d| io(File::create(d.join("sticky/mine")))),
    ("chmod another's", |d| {
        io(fs::set_permissions(d.join("secret"), fs::Permissions::from_mode(0o777)))
    }),
    ("chmod own", |d| {
        io(fs::set_permissions(d.join("file"), fs::Permissions::from_mode(0o4751)))?;
        said(fs::metadata(d.join("file")).map(|m| m.mode()))
    }),
    ("chown own to root", |d| io(chown(d.join("file"), Some(0), None))),
    ("chown another's", |d| io(chown(d.join("secret"), Some(USER), None))),
    ("chgrp to foreign", |d| io(chown(d.join("file"), None, Some(4242)))),
    ("chgrp to own", |d| io(chown(d.join("file"), None, Some(USER)))),
    ("access secret", |d| access(d, "secret", Access::READ_OK)),
    ("access read-only", |d| access(d, "read-only", Access::WRITE_OK)),
    ("access file to run", |d| access(d, "file", Access::EXEC_OK)),
    ("access program", |d| access(d, "program", Access::EXEC_OK)),
    ("access closed", |d| access(d, "closed/inner", Access::EXISTS)),
    ("utimes of another's", |d| {
        let file = File::open(d.join("sticky/theirs"));
        io(file.and_then(|file| file.set_modified(std::time::SystemTime::UNIX_EPOCH)))
    }),
    ("create with mode", |d| {
        io(OpenOptions::new().write(true).create_new(true).mode(0o0555).open(d.join("new")))?;
        said(fs::metadata(d.join("new")).map(|m| (m.mode() & 0o555, m.uid(), m.gid())))
    }),
    ("write through mode 0", |d| {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o0).open(d.join("new"));
        io(file.and_then(|file| file.write_all_at(b"x", 0)))
    }),
    ("link another's", |d| io(fs::hard_link(d.join("sticky/theirs"), d.join("new")))),
    ("set-id bits go at a write", |d| {
        io(fs::set_permissions(d.join("program"), fs::Permissions::from_mode(0o6755)))?;
        let file = OpenOptions::new().write(true).open(d.join("program"));
        io(file.and_then(|file| file.write_all_at(b"x", 0)))?;
        said(fs::metadata(d.join("program")).map(|m| m.mode()))
    }),
];

const FILES: &[Case] = &[
    ("read of write-only", |d| {
        let file = OpenOptions::new().write(true).open(d.join("file"));
        io(file.and_then(|file| file.read_at(&mut [0; 4], 0)))
    }),
    ("write of read-only handle", |d| {
        io(File::open(d.join("file")).and_then(|f| f.write_at(b"x", 0)))
    }),
    ("read directory as file", |d| {
        io(File::open(d.join("dir")).and_then(|f| f.read_at(&mut [0; 4], 0)))
    }),
    ("read at end", |d| said(File::open(d.join("file")).and_then(|f| f.read_at(&mut [0; 4], 7)))),
    ("read over end", |d| {
        said(File::open(d.join("file")).and_then(|f| f.read_at(&mut [0; 40], 3)))
    }),
    ("truncate longer", |d| {
        io(OpenOptions::new().write(true).open(d.join("file")).and_then(|f| f.set_len(100_000)))?;
        said(fs::read(d.join("file")).map(|data| (data.len(), data[..9].to_vec())))
    }),
    ("truncate by read handle", |d| io(File::open(d.join("file")).and_then(|f| f.set_len(1)))),
    ("write behind end", |d| {
        io(OpenOptions::new().write(true).open(d.join("file")).and_then(|f| f.write_at(b"x", 10)))?;
        said(fs::read(d.join("file")))
    }),
    ("seek data and hole", |d| {
        let file = File::create(d.join("new")).map_err(|_| -1)?;
        file.write_all_at(b"x", 1 << 20).map_err(|_| -1)?;
        let data = seek(&file, SeekFrom::Data(0)).map_err(|e| e.raw_os_error())?;
        let hole = seek(&file, SeekFrom::Hole(0)).map_err(|e| e.raw_os_error())?;
        Ok(format!("{data} {hole} {:?}", seek(&file, SeekFrom::Data(2 << 20))))
    }),
    ("fallocate keep size", |d| {
        let file = OpenOptions::new().write(true).open(d.join("file")).map_err(|_| -1)?;
        sys(fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 100_000))?;
        said(file.metadata().map(|m| m.len()))
    }),
    ("fallocate of read handle", |d| {
        let file = File::open(d.join("file")).map_err(|_| -1)?;
        sys(fallocate(&file, FallocateFlags::empty(), 0, 10))
    }),
    ("copy a range", |d| {
        io(fs::copy(d.join("file"), d.join("new")))?;
        said(fs::read(d.join("new")))
    }),
    ("run what is no program", |d| io(std::process::Command::new(d.join("file")).status())),
    ("run a directory", |d| io(std::process::Command::new(d.join("dir")).status())),
    ("xattr missing", |d| sys(rustix::fs::getxattr(d.join("file"), "user.none", &mut [0; 8]))),
    ("xattr too small", |d| {
        sys(rustix::fs::setxattr(
            d.join("file"),
            "user.a",
            b"12345",
            rustix::fs::XattrFlags::empty(),
        ))?;
        sys(rustix::fs::getxattr(d.join("file"), "user.a", &mut [0; 2]))
    }),
    ("xattr replace missing", |d| {
        sys(rustix::fs::setxattr(d.join("file"), "user.b", b"1", rustix::fs::XattrFlags::REPLACE))
    }),
    ("sync directory", |d| io(File::open(d.join("dir")).and_then(|f| f.sync_all()))),
    ("unlinked directory", |d| {
        let dir = File::open(d.join("empty")).map_err(|_| -1)?;
        io(fs::remove_dir(d.join("empty")))?;
        sys(rustix::fs::openat(&dir, "new", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU))
    }),
];

#[test]
fn operations_end_as_they_do_locally() {
    in_own_mounts("operations_end_as_locally", || {
        for user in [None, Some(USER)] {
            let w = World::new(Options { user, ..Options::default() }, |_| {});
            let local = w.scratch().join("local");
            fs::create_dir(&local).unwrap();
            let mut differences = Vec::new();
            let cases = [NAMES, RENAMES, RIGHTS, FILES].concat();
            for (number, (name, case)) in cases.iter().enumerate() {
                let run = |base: &Path, through: &Path| {
                    let dir = base.join(number.to_string());
                    fs::create_dir(&dir).unwrap();
                    fill(&dir);
                    let dir = through.join(number.to_string());
                    match user {
                        Some(user) => as_user(user, || case(&dir)),
                        None => case(&dir),
                    }
                };
                let (here, there) = (run(&local, &local), run(&w.home, &w.away));
                if here != there {
                    differences.push(format!("{name}: {here:?} locally, {there:?} on the mount"));
                }
            }
            assert!(differences.is_empty(), "as {user:?}:\n{}", differences.join("\n"));
        }
    });
}
