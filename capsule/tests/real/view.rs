//! What an app sees and may do.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use phantom_capsule::Error;
use phantom_capsule::plan::Shown;
use phantom_model::app::OsText;

use crate::app::{App, Home};
use crate::needs_root;

#[test]
fn runs_as_the_user_and_writes_his_files() {
    needs_root!("runs_as_the_user_and_writes_his_files");
    let home = Home::new();
    let app = home.sh("id -u; id -g; id -G; pwd; echo data > made; cat /proc/self/status");
    let (output, code) = app.finish();
    assert_eq!(code, 0, "{output}");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..3], ["1000", "1000", "1000 27"], "{output}");
    assert_eq!(lines[3], home.path().to_str().unwrap());
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t0"] {
        assert!(output.contains(line), "{output}");
    }
    let made = fs::metadata(home.path().join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1000, 1000));
}

#[test]
fn the_system_is_read_only_and_secrets_stay_secret() {
    needs_root!("the_system_is_read_only_and_secrets_stay_secret");
    let home = Home::new();
    fs::write(home.path().join("theirs"), "x").unwrap();
    fs::set_permissions(home.path().join("theirs"), fs::Permissions::from_mode(0o600)).unwrap();
    let (output, _) = home
        .sh("echo x > /etc/phcap-x && echo WROTE; cat /etc/shadow && echo READ; \
             cat theirs && echo READ; mknod $HOME/n c 1 3 && echo MADE; \
             mount -t tmpfs none /tmp && echo MOUNTED; \
             stat -c %u /etc/passwd; stat -c '%u %a' /tmp /dev/shm /run/user/1000; \
             echo $XDG_RUNTIME_DIR; ls -A /tmp | wc -l; echo ok > /tmp/ok && cat /tmp/ok")
        .finish();
    for wrong in ["WROTE", "READ", "MADE", "MOUNTED"] {
        assert!(!output.contains(wrong), "{output}");
    }
    let expected = "0\n0 1777\n0 1777\n1000 700\n/run/user/1000\n0\nok\n";
    assert!(output.ends_with(expected), "{output}");
    assert!(!std::path::Path::new("/tmp/ok").exists());
}

#[test]
fn no_privilege_comes_back_through_setuid_programs() {
    needs_root!("no_privilege_comes_back_through_setuid_programs");
    let home = Home::new();
    let program = home.path().join("setuid");
    fs::copy("/usr/bin/id", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    let (output, _) = home.sh("./setuid -u").finish();
    assert_eq!(output, "1000\n");
}

#[test]
fn only_its_own_processes_are_seen_and_the_terminal_is_its_own() {
    needs_root!("only_its_own_processes_are_seen_and_the_terminal_is_its_own");
    let home = Home::new();
    let (output, code) = home
        .sh("ls -d /proc/[0-9]* | tr '\\n' ' '; echo; tty; tty < /dev/tty; stty size; \
             ps -o sid=,tty= -p $$; python3 -c 'import os; print(os.ttyname(0))'; \
             readlink /proc/1/fd/0")
        .finish();
    assert_eq!(code, 0, "{output}");
    let lines: Vec<&str> = output.lines().map(str::trim).collect();
    assert!(lines[0].starts_with("/proc/1 /proc/2"), "{output}");
    assert!(lines[0].split(' ').count() <= 4, "{output}");
    assert_eq!(lines[1], "/dev/console", "{output}");
    assert!(lines[2].starts_with("/dev/"), "{output}");
    assert_eq!(lines[3], "30 100", "{output}");
    assert_eq!(lines[4].split_whitespace().next(), Some("2"), "{output}");
    assert_eq!(lines[5..], ["/dev/console", "/dev/null"], "{output}");
}

#[test]
fn calls_that_cannot_be_saved_are_answered_as_unknown() {
    needs_root!("calls_that_cannot_be_saved_are_answered_as_unknown");
    let home = Home::new();
    let script = "import ctypes, errno\n\
         c = ctypes.CDLL(None, use_errno=True)\n\
         for n in (425, 426, 427, 323):\n    \
             c.syscall(n, 1, 0, 0, 0); print(errno.errorcode[ctypes.get_errno()])\n\
         import socket; socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close(); print('vsock')";
    let (output, code) = home.start(&["python3", "-c", script]).finish();
    if cfg!(target_arch = "x86_64") {
        assert_eq!(&output[..28], "ENOSYS\nENOSYS\nENOSYS\nENOSYS\n", "{output}");
    }
    assert!(output.contains("vsock") || code != 0, "{output}");
}

#[test]
fn bytes_that_are_no_text_pass_through() {
    needs_root!("bytes_that_are_no_text_pass_through");
    let home = Home::new();
    let odd = OsStr::from_bytes(b"od\xff\xfed");
    let cwd = home.path().join(odd);
    fs::create_dir(&cwd).unwrap();
    fs::set_permissions(&cwd, fs::Permissions::from_mode(0o777)).unwrap();
    let script =
        OsStr::new("pwd > where; printf %s \"$1\" > argument; printf %s \"$ODD\" > variable");
    let mut spec =
        home.spec(&[OsStr::new("/bin/sh"), OsStr::new("-c"), script, OsStr::new("sh"), odd]);
    spec.cwd = (&cwd).into();
    spec.env.push(OsText(b"ODD=\xff\x80".to_vec()));
    let (output, code) = App::start(&spec).unwrap().finish();
    assert_eq!(code, 0, "{output}");
    assert_eq!(fs::read(cwd.join("argument")).unwrap(), odd.as_bytes());
    assert_eq!(fs::read(cwd.join("variable")).unwrap(), b"\xff\x80");
    let at = fs::read(cwd.join("where")).unwrap();
    assert_eq!(at.strip_suffix(b"\n").unwrap(), cwd.as_os_str().as_bytes());
}

#[test]
fn large_ids_and_root_work_without_power() {
    needs_root!("large_ids_and_root_work_without_power");
    for (uid, gid) in [(70_000, 4_000_000_000), (65_535, 65_535), (0, 0)] {
        let home = Home::of(uid, gid);
        let (output, code) = home
            .sh("id -u; id -g; echo x > made; grep CapEff /proc/self/status; \
                 chown 1:1 made && echo POWER; hostname x && echo POWER; true")
            .finish();
        assert_eq!(code, 0, "{output}");
        let expected = format!("{uid}\n{gid}\nCapEff:\t0000000000000000\n");
        assert!(output.starts_with(&expected) && !output.contains("POWER"), "{output}");
        let made = fs::metadata(home.path().join("made")).unwrap();
        assert_eq!((made.uid(), made.gid()), (uid, gid));
    }
}

#[test]
fn a_home_that_is_missing_does_not_matter() {
    needs_root!("a_home_that_is_missing_does_not_matter");
    let home = Home::new();
    let mut spec = home.spec(&["/bin/sh", "-c", "pwd; touch /nonexistent/x || echo fine"]);
    spec.user.home_dir = "/nonexistent".into();
    spec.cwd = "/usr".into();
    let (output, code) = App::start(&spec).unwrap().finish();
    assert_eq!(code, 0, "{output}");
    assert!(output.starts_with("/usr\n") && output.ends_with("fine\n"), "{output}");
}

#[test]
fn a_directory_the_app_will_not_see_is_refused_in_words() {
    needs_root!("a_directory_the_app_will_not_see_is_refused_in_words");
    let home = Home::new();
    let closed = home.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    for cwd in [std::path::Path::new("/tmp"), &home.path().join("none"), &closed] {
        let mut spec = home.spec(&["true"]);
        spec.cwd = cwd.into();
        match App::start(&spec) {
            Err(error @ Error::WorkingDirectory { .. }) => {
                assert!(error.to_string().contains(cwd.to_str().unwrap()), "{error}");
            }
            other => panic!("{cwd:?}: {:?}", other.map(|app| app.finish())),
        }
    }
}

#[test]
fn commands_are_found_as_a_shell_would() {
    needs_root!("commands_are_found_as_a_shell_would");
    let home = Home::new();
    fs::write(home.path().join("plain"), "x").unwrap();
    for (command, code, text) in [
        ("true", 0, ""),
        ("false", 1, ""),
        ("no-such-command", 127, "phantom: no-such-command: command not found\n"),
        ("./plain", 126, "phantom: ./plain: permission denied\n"),
        ("/usr", 126, "phantom: /usr: permission denied\n"),
    ] {
        let (output, got) = home.start(&[command]).finish();
        assert_eq!((got, output.as_str()), (code, text), "{command}");
    }
}

#[test]
fn file_systems_below_the_home_come_along() {
    needs_root!("file_systems_below_the_home_come_along");
    let test = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
        phantom_capsule::os::stage::private_mount_namespace().unwrap();
        let home = Home::new();
        let disk = home.path().join("a disk");
        fs::create_dir(&disk).unwrap();
        let flags = nix::mount::MsFlags::empty();
        let options = Some("mode=755,uid=1000,gid=1000");
        nix::mount::mount(Some("none"), &disk, Some("tmpfs"), flags, options).unwrap();
        let app = home.sh("echo data > 'a disk/made' && mkfifo 'a disk/pipe' && cat 'a disk/made'");
        let capsule = app.started.capsule.clone();
        let (output, code) = app.finish();
        let bind = capsule.binds.iter().find(|bind| bind.inside.to_path() == disk).unwrap();
        assert!(capsule.externals.iter().any(|external| external.inside.to_path() == disk));
        if bind.shown == Shown::Mapped {
            assert_eq!((output.as_str(), code), ("data\n", 0));
            assert_eq!(fs::metadata(disk.join("made")).unwrap().uid(), 1000);
        } else {
            println!("SKIP file_systems_below_the_home: this tmpfs cannot map ids");
            assert!(capsule.notes.iter().any(|note| note.contains("cannot map ids")));
        }
        nix::mount::umount(&disk).unwrap();
    });
    test.join().unwrap();
}
