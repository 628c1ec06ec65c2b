//! A capsule saved and restored at home with a stock CRIU: the staged root, the external names and
//! the terminal fit together. `PHANTOM_CRIU` names the program where it is not `criu`.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, Output};

use phantom_capsule::Capsule;
use phantom_capsule::cgroup::Cgroup;
use phantom_capsule::os::pty;
use phantom_capsule::os::stage::{self, HomeStage};
use phantom_capsule::plan::ExternalKind;
use phantom_capsule::terminal;

use crate::app::{App, Group, Home, PATIENCE};
use crate::needs_root;

fn criu() -> Option<Command> {
    let program = std::env::var_os("PHANTOM_CRIU").unwrap_or_else(|| "criu".into());
    let output = Command::new(&program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().find_map(|line| line.strip_prefix("Version: "))?;
    let mut numbers = version.split('.').filter_map(|number| number.parse::<u32>().ok());
    let usable = (numbers.next()?, numbers.next()?) >= (4, 2);
    // It must end even where it waits for something that never comes.
    let mut bounded = Command::new("timeout");
    bounded.args(["-k", "2", "20"]).arg(program);
    // A CRIU built without nftables asks iptables for the rules, of which a capsule has none.
    bounded.env("CR_IPTABLES", "true");
    usable.then_some(bounded)
}

fn check(output: &Output, log: &Path) {
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        fs::read_to_string(log).unwrap_or_default()
    );
}

fn tty_name(capsule: &Capsule) -> String {
    format!("tty[{:x}:{:x}]", capsule.tty.rdev, capsule.tty.dev)
}

fn dump(mut criu: Command, capsule: &Capsule, group: &Cgroup, images: &Path) {
    criu.args(["dump", "-v4", "-o", "dump.log", "--manage-cgroups=ignore", "-D"]).arg(images);
    criu.args(["-t", &capsule.init_pid.to_string(), "--external", &tty_name(capsule)]);
    // Processes that are frozen run none of CRIU's code: it thaws them once it holds them.
    criu.args(["--network-lock", "skip", "--freeze-cgroup"]).arg(group.path());
    for external in &capsule.externals {
        criu.args(["--external", &format!("mnt[{}]:{}", external.inside, external.key)]);
    }
    check(&criu.output().unwrap(), &images.join("dump.log"));
}

fn restore(
    mut criu: Command,
    capsule: &Capsule,
    images: &Path,
    stage: &HomeStage,
    pair: &pty::PtyPair,
) -> i32 {
    let number = pair.slave.as_raw_fd();
    nix::fcntl::fcntl(&pair.slave, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))
        .unwrap();
    criu.args(["restore", "-d", "-v4", "-o", "restore.log", "--manage-cgroups=ignore", "-D"]);
    criu.arg(images).arg("--root").arg(&stage.paths().root);
    criu.args(["--pidfile", "pid", "--network-lock", "skip"]);
    criu.args(["--inherit-fd", &format!("fd[{number}]:{}", tty_name(capsule))]);
    for (key, path) in &stage.paths().externals {
        criu.args(["--external", &format!("mnt[{key}]:{}", path.display())]);
    }
    for external in &capsule.externals {
        if external.kind == ExternalKind::Console {
            let path = pair.slave_path.display();
            criu.args(["--external", &format!("mnt[{}]:{path}", external.key)]);
        }
    }
    check(&criu.output().unwrap(), &images.join("restore.log"));
    fs::read_to_string(images.join("pid")).unwrap().trim().parse().unwrap()
}

#[test]
fn a_saved_app_comes_back_with_its_files_and_its_terminal() {
    needs_root!("a_saved_app_comes_back_with_its_files_and_its_terminal");
    let (Some(saver), Some(restorer)) = (criu(), criu()) else {
        println!("SKIP a_saved_app_comes_back: no criu >= 4.2");
        return;
    };
    let Some(Group(group)) = &Group::new("return") else { return };
    let home = Home::new();
    let images = tempfile::tempdir().unwrap();
    let spec =
        home.spec(&["sh", "-c", "exec 5>>kept; while read l; do echo got $l; echo $l >&5; done"]);
    let mut app = App::start_in(&spec, Some(group.open().unwrap().as_fd())).unwrap();
    app.type_keys("one\n");
    app.expect("got one\r\n");
    let capsule = app.started.capsule.clone();
    group.freeze(PATIENCE).unwrap();
    app.type_keys("two\npart");
    let waiting = terminal::drain(app.master.as_fd()).unwrap();
    dump(saver, &capsule, group, images.path());
    drop(app);
    group.wait_empty(PATIENCE).unwrap();

    let pair = pty::open_pair(capsule.host_uid(), capsule.host_gid(), waiting.size).unwrap();
    assert!(terminal::refill(pair.master.as_fd(), &waiting).unwrap().is_empty());
    let place = tempfile::tempdir().unwrap();
    let init = std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
            stage::private_mount_namespace().unwrap();
            let stage = HomeStage::new(place.path(), &capsule, None).unwrap();
            let pid = restore(restorer, &capsule, images.path(), &stage, &pair);
            stage.remove().unwrap();
            pid
        });
        work.join().unwrap()
    });
    group.add(init).unwrap();
    let mut master = fs::File::from(pair.master);
    drop(pair.slave);
    master.write_all(b" rest\n\x04").unwrap();
    let mut seen = Vec::new();
    // The last user of the slave has gone: EIO.
    let _ = std::io::Read::read_to_end(&mut master, &mut seen);
    let seen = String::from_utf8_lossy(&seen).into_owned();
    let all = String::from_utf8_lossy(&waiting.output).into_owned() + &seen;
    assert!(all.contains("got two\r\n") && all.contains("got part rest\r\n"), "{all:?}");
    assert_eq!(all.matches("part").count(), 2, "{all:?}");
    assert_eq!(fs::read_to_string(home.path().join("kept")).unwrap(), "one\ntwo\npart rest\n");
    group.wait_empty(PATIENCE).unwrap();
}
