//! Failures at every moment: the source is left as it was and nothing is left behind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use phantom_checkpoint::dump::dump;
use phantom_checkpoint::image::check::check;
use phantom_checkpoint::restore::restore;
use phantom_checkpoint::{Cancel, Criu, Error};

use super::common::{App, PATIENCE, Place, Target, criu, save, wait_until};

/// A program with much memory and a thread, which counts in a file and checks itself.
const BUSY: &str = r#"
import os, threading, hashlib
block = os.urandom(96 << 20); wanted = hashlib.blake2b(block).hexdigest()
def count():
    n = 0
    while True:
        n += 1
        with open("count.new", "w") as f: f.write(str(n))
        os.rename("count.new", "count")
threading.Thread(target=count, daemon=True).start()
print("ready", flush=True)
while input() == "check": print("same" if hashlib.blake2b(block).hexdigest() == wanted else "DAMAGED", flush=True)
"#;

fn busy(place: &Place) -> App {
    let mut app = App::start(&place.home(), &["/usr/bin/python3", "-c", BUSY]);
    app.screen.expect("ready");
    wait_until("the first count", || !count(place).is_empty());
    app
}

fn count(place: &Place) -> String {
    fs::read_to_string(place.home().join("count")).unwrap_or_default()
}

fn assert_goes_on(app: &mut App, place: &Place) {
    let before = count(place);
    app.cgroup.thaw(PATIENCE).unwrap();
    wait_until("the source goes on", || count(place) != before);
    app.screen.type_keys("check\n");
    app.screen.expect("same");
}

/// A script that stands in for CRIU: it starts the real one and notes its process id.
fn noted(criu: &Criu, place: &Place) -> (Criu, std::path::PathBuf) {
    let (script, pid) = (place.dir.path().join("criu.sh"), place.dir.path().join("pid"));
    let real = criu.program().display();
    let text = format!("#!/bin/sh\necho $$ > {}\nexec {real} \"$@\"\n", pid.display());
    fs::write(&script, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, mode).unwrap();
    (Criu::at(script), pid)
}

fn kill_noted(pid: &Path) {
    let text = fs::read_to_string(pid).unwrap();
    Command::new("kill").args(["-9", text.trim()]).status().unwrap();
}

fn page_bytes(images: &Path) -> u64 {
    let entries = fs::read_dir(images).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("pages-"))
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}

#[test]
fn a_cancelled_dump_leaves_the_source_unharmed() {
    let Some(criu) = criu("a_cancelled_dump_leaves_the_source_unharmed") else { return };
    let place = Place::new();
    let mut app = busy(&place);
    for bytes in [0, 1 << 20, 40 << 20] {
        let (images, work) = (place.memory(), place.memory());
        app.cgroup.freeze(PATIENCE).unwrap();
        let frozen_at = count(&place);
        let cancel = Cancel::new().unwrap();
        let plan = app.dump_plan(images.path(), work.path());
        std::thread::scope(|scope| {
            let dumping = scope.spawn(|| dump(&criu, &plan, &cancel));
            wait_until("pages", || page_bytes(images.path()) >= bytes || dumping.is_finished());
            cancel.cancel();
            let result = dumping.join().unwrap();
            // A dump may have been quicker than the cancel.
            assert!(done_or(&result, Error::is_cancelled), "{result:?}");
        });
        assert!(
            fs::read_to_string(app.cgroup.path().join("cgroup.events"))
                .unwrap()
                .contains("frozen 1")
        );
        assert_eq!(count(&place), frozen_at, "it ran in between");
        assert_goes_on(&mut app, &place);
    }
}

/// Whether it was done, or failed in the expected way: both may happen in a race.
fn done_or<T>(result: &Result<T, Error>, expected: impl FnOnce(&Error) -> bool) -> bool {
    result.as_ref().map_or_else(expected, |_| true)
}

#[test]
fn a_dump_that_takes_too_long_is_ended() {
    let Some(criu) = criu("a_dump_that_takes_too_long_is_ended") else { return };
    let place = Place::new();
    let mut app = busy(&place);
    let (images, work) = (place.memory(), place.memory());
    app.cgroup.freeze(PATIENCE).unwrap();
    let mut plan = app.dump_plan(images.path(), work.path());
    plan.limit = Duration::from_millis(60);
    let result = dump(&criu, &plan, &Cancel::never());
    assert!(done_or(&result, |error| matches!(error, Error::Deadline { .. })), "{result:?}");
    assert_goes_on(&mut app, &place);
}

#[test]
fn a_killed_criu_is_reported_and_the_source_goes_on() {
    let Some(criu) = criu("a_killed_criu_is_reported_and_the_source_goes_on") else { return };
    let place = Place::new();
    let mut app = busy(&place);
    let (criu, pid) = noted(&criu, &place);
    app.cgroup.freeze(PATIENCE).unwrap();
    // A dump may be quicker than the kill, but not each time.
    let was_killed = (0..10).any(|_| {
        let (images, work) = (place.memory(), place.memory());
        let plan = app.dump_plan(images.path(), work.path());
        let never = Cancel::never();
        let result = std::thread::scope(|scope| {
            let dumping = scope.spawn(|| dump(&criu, &plan, &never));
            wait_until("pages", || page_bytes(images.path()) >= 8 << 20 || dumping.is_finished());
            kill_noted(&pid);
            dumping.join().unwrap()
        });
        assert!(
            done_or(&result, |error| matches!(error, Error::Conversation { .. })),
            "{result:?}"
        );
        result.is_err()
    });
    assert!(was_killed, "ten dumps were quicker than the kill");
    assert_goes_on(&mut app, &place);
}

#[test]
fn no_room_for_the_image_is_said_and_the_source_goes_on() {
    let Some(criu) = criu("no_room_for_the_image_is_said_and_the_source_goes_on") else { return };
    let place = Place::new();
    let mut app = busy(&place);
    let (images, work) = (place.memory(), place.memory());
    let none: Option<&str> = None;
    nix::mount::mount(
        none,
        images.path(),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=8m"),
    )
    .unwrap();
    app.cgroup.freeze(PATIENCE).unwrap();
    let result = dump(&criu, &app.dump_plan(images.path(), work.path()), &Cancel::never());
    nix::mount::umount(images.path()).unwrap();
    let error = result.unwrap_err().to_string();
    assert!(error.contains("there is no room left for the image"), "{error}");
    assert_goes_on(&mut app, &place);
}

#[test]
fn a_failed_restore_leaves_nothing() {
    let Some(criu) = criu("a_failed_restore_leaves_nothing") else { return };
    let place = Place::new();
    let mut app = busy(&place);
    let (images, work) = (place.memory(), place.memory());
    save(&criu, &app, &place, images.path());
    check(images.path(), &app.allowed()).unwrap();
    let target = Target::new(&app);
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap().matches("phckpt").count();
    let mounted = mounts();

    // CRIU is killed in the middle.
    let (killed, pid) = noted(&criu, &place);
    let plan = target.restore_plan(&app, images.path(), work.path());
    let never = Cancel::never();
    std::thread::scope(|scope| {
        let restoring = scope.spawn(|| restore(&killed, &plan, &never).map(drop));
        wait_until("tasks", || target.cgroup.processes().is_ok_and(|list| list.len() >= 3));
        kill_noted(&pid);
        assert!(restoring.join().unwrap().is_err());
    });
    assert!(target.cgroup.processes().unwrap().is_empty());

    // The caller gives up.
    let cancel = Cancel::new().unwrap();
    std::thread::scope(|scope| {
        let restoring = scope.spawn(|| restore(&criu, &plan, &cancel).map(drop));
        wait_until("tasks", || target.cgroup.processes().is_ok_and(|list| list.len() >= 3));
        cancel.cancel();
        let result = restoring.join().unwrap();
        assert!(done_or(&result, Error::is_cancelled), "{result:?}");
    });
    assert!(target.cgroup.processes().unwrap().is_empty());

    // A file is missing from the image.
    let pages = fs::read_dir(images.path())
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("pages-"))
        .unwrap();
    fs::remove_file(pages.path()).unwrap();
    let error = restore(&criu, &plan, &never).unwrap_err();
    assert!(matches!(&error, Error::Criu { log, .. } if !log.is_empty()), "{error:?}");
    assert!(target.cgroup.processes().unwrap().is_empty());

    assert_eq!(mounts(), mounted);
    assert_goes_on(&mut app, &place);
}
