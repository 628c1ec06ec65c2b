//! Control group, file server, staging, and what is left behind.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sched::CloneFlags;
use phantom_capsule::os::server::{self, Rights, ServerCommand};
use phantom_capsule::os::stage::{self, HomeStage};
use phantom_model::app::OsText;

use crate::app::{App, Group, Home};
use crate::needs_root;

const PATIENCE: Duration = crate::app::PATIENCE;

#[test]
fn a_frozen_app_stands_still_and_a_killed_one_is_gone() {
    needs_root!("a_frozen_app_stands_still_and_a_killed_one_is_gone");
    let Some(Group(group)) = &Group::new("freeze") else { return };
    let home = Home::new();
    let spec = home.spec(&["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; done"]);
    let mut app = App::start_in(&spec, Some(group.open().unwrap().as_fd())).unwrap();
    app.expect("100");
    assert_eq!(group.processes().unwrap().len(), 2);
    assert!(group.id().unwrap() > 0);
    group.freeze(PATIENCE).unwrap();
    while app.read_more(Duration::from_millis(1)) {}
    assert!(!app.read_more(Duration::from_millis(50)), "it runs on");
    group.thaw(PATIENCE).unwrap();
    assert!(app.read_more(PATIENCE));
    group.freeze(PATIENCE).unwrap();
    group.kill().unwrap();
    group.wait_empty(PATIENCE).unwrap();
    drop(app);
    group.remove().unwrap();
    assert!(!group.path().exists());
}

#[test]
fn the_file_server_has_the_apps_rights_and_outlives_it() {
    needs_root!("the_file_server_has_the_apps_rights_and_outlives_it");
    let home = Home::new();
    let mut app = home.start(&["cat"]);
    app.type_keys("hello\n");
    app.expect("hello");
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let command = ServerCommand {
        program: fs::File::open("/bin/sh").unwrap(),
        argv: [
            "sh",
            "-c",
            "read line <&3; id -u >&3; id -G >&3; echo $line > served; \
               cat /etc/shadow >&3 2>/dev/null || echo refused >&3; grep CapEff /proc/self/status \
               >&3 || ls -d /proc/self >&3; ls /tmp | wc -l >&3",
        ]
        .map(OsText::from)
        .to_vec(),
        env: vec!["PATH=/usr/bin:/bin".into()],
        fds: vec![OwnedFd::from(theirs)],
    };
    let rights = Rights::of_app(&app.started.capsule, &app.started.namespaces);
    let server = server::start(rights, command).unwrap();
    let space = |pid: i32, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    let (own, init) = (std::process::id() as i32, app.started.capsule.init_pid);
    assert_eq!(space(server.pid, "pid"), space(own, "pid"));
    assert_eq!(space(server.pid, "mnt"), space(init, "mnt"));
    assert_eq!(space(server.pid, "user"), space(init, "user"));
    let base = app.started.capsule.ids.base;
    assert_eq!(fs::metadata(format!("/proc/{}", server.pid)).unwrap().uid(), base + 1000);
    drop(app);
    ours.write_all(b"go\n").unwrap();
    let mut answer = String::new();
    ours.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("1000\n1000 27\n"), "{answer}");
    assert!(answer.contains("refused") && answer.ends_with("0\n"), "{answer}");
    let pid = nix::unistd::Pid::from_raw(server.pid);
    nix::sys::wait::waitpid(pid, None).unwrap();
    // It was started in `/` of the capsule, where the user may not write.
    assert!(!home.path().join("served").exists());
}

#[test]
fn the_home_is_staged_with_the_capsules_ids_and_taken_down() {
    needs_root!("the_home_is_staged_with_the_capsules_ids_and_taken_down");
    let home = Home::new();
    let file = home.path().join("mine");
    fs::write(&file, "x").unwrap();
    nix::unistd::chown(&file, Some(1000.into()), Some(1000.into())).unwrap();
    let app = home.start(&["cat"]);
    let capsule = app.started.capsule.clone();
    let place = tempfile::tempdir().unwrap();
    // A thread has a mount table of its own after this.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_FS).unwrap();
            stage::private_mount_namespace().unwrap();
            let stage = HomeStage::new(place.path(), &capsule, None).unwrap();
            let root = &stage.paths().root;
            assert_eq!(fs::metadata(root.join("etc/passwd")).unwrap().uid(), capsule.ids.base);
            assert!(fs::write(root.join("etc/phcap"), "x").is_err());
            let key = capsule
                .externals
                .iter()
                .find(|external| external.inside.to_path() == home.path())
                .map(|external| external.key.clone())
                .unwrap();
            let path = &stage.paths().externals.iter().find(|(name, _)| *name == key).unwrap().1;
            assert_eq!(fs::metadata(path.join("mine")).unwrap().uid(), capsule.ids.base + 1000);
            let table = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let here = place.path().to_str().unwrap();
            assert!(table().contains(here));
            stage.remove().unwrap();
            assert!(!table().contains(here));
        });
    });
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn away_paths_lie_below_the_mounted_tree() {
    needs_root!("away_paths_lie_below_the_mounted_tree");
    let home = Home::new();
    let app = home.start(&["cat"]);
    let paths = stage::away(&app.started.capsule.externals, std::path::Path::new("/mnt/x"));
    let find = |wanted: &str| paths.externals.iter().any(|(_, path)| path.to_str() == Some(wanted));
    assert!(find("/dev/null"));
    assert!(find(&format!("/mnt/x{}", home.path().display())));
    assert_eq!(paths.root.to_str(), Some("/mnt/x"));
}

#[test]
fn nothing_is_left_behind() {
    needs_root!("nothing_is_left_behind");
    let home = Home::new();
    let descriptors = |mine: &[&str]| {
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .filter(|target| mine.iter().any(|name| target.to_string_lossy().contains(name)))
            .count()
    };
    let app = home.sh("exit 0");
    let init = app.started.capsule.init_pid;
    let user = fs::read_link(format!("/proc/self/fd/{}", raw(&app.started.namespaces.user)));
    let user = user.unwrap().to_string_lossy().into_owned();
    app.finish();
    assert!(!std::path::Path::new(&format!("/proc/{init}")).exists());
    // Neither the descriptors of its namespaces nor any process keeps them.
    assert_eq!(descriptors(&[&user]), 0);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(home.path().to_str().unwrap()));
    // A set-up that fails leaves nothing either.
    let mut spec = home.spec(&["true"]);
    spec.cwd = (&home.path().join("gone")).into();
    assert!(App::start(&spec).is_err());
}

fn raw(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}
