//! Cut streams, a lost home, a fenced epoch, a mount that must go.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Options, World, in_own_mounts, names};
use phantom_checkpoint::inspect::{InspectOptions, inspect};
use phantom_fs::client::{Client, ClientConfig, ClientError};
use phantom_fs::proto::Refusal;
use phantom_model::Epoch;

#[test]
fn what_is_done_happens_exactly_once_however_often_the_stream_is_cut() {
    in_own_mounts("exactly_once", || {
        let w = World::new(Options::default(), |home| fs::create_dir(home.join("d")).unwrap());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    w.way.cut();
                    std::thread::sleep(Duration::from_millis(6));
                }
            });
            let workers: Vec<_> = (0..4)
                .map(|worker| {
                    let dir = w.away.join("d");
                    scope.spawn(move || {
                        let log = dir.join(format!("log-{worker}"));
                        let mut log =
                            OpenOptions::new().append(true).create(true).open(log).unwrap();
                        for i in 0..30 {
                            // Each of these fails, or shows, when it is done twice or not at all.
                            let (a, b) = (
                                dir.join(format!("a-{worker}-{i}")),
                                dir.join(format!("b-{worker}-{i}")),
                            );
                            let mut file = File::create_new(&a).unwrap();
                            file.write_all(&vec![worker; 40_000]).unwrap();
                            writeln!(log, "{i}").unwrap();
                            fs::rename(&a, &b).unwrap();
                            fs::hard_link(&b, &a).unwrap();
                            fs::remove_file(&b).unwrap();
                            let mut back = Vec::new();
                            File::open(&a).unwrap().read_to_end(&mut back).unwrap();
                            assert!(back == vec![worker; 40_000]);
                        }
                    })
                })
                .collect();
            for worker in workers {
                worker.join().unwrap();
            }
            done.store(true, Ordering::SeqCst);
        });
        let dir = w.home.join("d");
        assert_eq!(names(&dir).len(), 4 * 31);
        let wanted: String = (0..30).map(|i| format!("{i}\n")).collect();
        for worker in 0..4 {
            assert_eq!(fs::read_to_string(dir.join(format!("log-{worker}"))).unwrap(), wanted);
        }
        assert!(w.way.made() > 20, "only {} connections", w.way.made());
    });
}

#[test]
fn a_lost_home_is_an_error_within_the_deadline_and_comes_back() {
    in_own_mounts("a_lost_home", || {
        let deadline = Duration::from_millis(600);
        let w = World::new(Options { deadline, ..Options::default() }, |home| {
            fs::write(home.join("file"), "x").unwrap();
        });
        let file = OpenOptions::new().read(true).write(true).open(w.away.join("file")).unwrap();
        w.way.break_down();
        let begun = Instant::now();
        let error = file.write_at(b"y", 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{error}");
        assert!(begun.elapsed() < deadline * 3, "{:?}", begun.elapsed());
        // Many at once, each within the deadline; once it is known to be lost, at once.
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for i in 0..40 {
                let away = &w.away;
                scope.spawn(move || File::open(away.join(format!("{i}"))).unwrap_err());
            }
        });
        assert!(begun.elapsed() < deadline * 3, "{:?}", begun.elapsed());
        w.way.mend();
        let begun = Instant::now();
        while file.write_at(b"z", 0).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "home does not come back");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(fs::read(w.home.join("file")).unwrap(), b"z");
    });
}

/// Whoever looks at an app may be who serves its files: it would wait for itself.
#[test]
fn an_app_is_looked_at_without_asking_for_its_files() {
    in_own_mounts("an_app_is_looked_at", || {
        let deadline = Duration::from_secs(5);
        let w = World::new(Options { deadline, ..Options::default() }, |home| {
            fs::copy("/bin/sleep", home.join("program")).unwrap();
            fs::write(home.join("input"), "x").unwrap();
        });
        let mut app = std::process::Command::new(w.away.join("program"))
            .arg("600")
            .stdin(File::open(w.away.join("input")).unwrap())
            .spawn()
            .unwrap();
        w.way.break_down();
        // Whatever was known of the files for a while has to be asked for again.
        std::thread::sleep(Duration::from_millis(1500));
        let begun = Instant::now();
        let found = inspect(app.id(), &InspectOptions { terminal: None, ghost_limit_bytes: 0 });
        let took = begun.elapsed();
        app.kill().unwrap();
        app.wait().unwrap();
        assert!(took < Duration::from_secs(1), "{took:?}");
        let found = found.unwrap();
        let used = |name: &str| found.files.iter().any(|file| file.path == w.away.join(name));
        assert!(used("program") && used("input"), "{:?}", found.files);
    });
}

#[test]
fn a_short_outage_is_not_noticed() {
    in_own_mounts("a_short_outage", || {
        let w = World::new(Options::default(), |_| {});
        w.way.break_down();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| fs::write(w.away.join("file"), "through"));
            std::thread::sleep(Duration::from_millis(300));
            w.way.mend();
            writer.join().unwrap().unwrap();
        });
        assert_eq!(fs::read(w.home.join("file")).unwrap(), b"through");
    });
}

#[test]
fn a_silent_home_is_lost_too() {
    in_own_mounts("a_silent_home", || {
        // A home that says welcome and then nothing.
        let deadline = Duration::from_millis(400);
        let transport = |_: Duration| {
            use phantom_fs::proto::{Attr, Entry, FileKind, NodeId, Timestamp, ToClient, ToServer};
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            std::thread::spawn(move || {
                let t = Timestamp::default();
                let attr = Attr {
                    ino: 2,
                    size: 0,
                    blocks: 0,
                    atime: t,
                    mtime: t,
                    ctime: t,
                    kind: FileKind::Directory,
                    perm: 0o755,
                    nlink: 2,
                    uid: 0,
                    gid: 0,
                    rdev: (0, 0),
                    block_size: 4096,
                    system: false,
                };
                let _ = phantom_fs::proto::read_frame::<ToServer>(&mut &theirs);
                let welcome = ToClient::Welcome { root: Entry { node: NodeId::ROOT, attr } };
                let _ = phantom_fs::proto::write_frame(&mut &theirs, &welcome, &[]);
                let _ = std::io::copy(&mut &theirs, &mut std::io::sink());
            });
            Ok(ours)
        };
        let mut config = ClientConfig::new(crate::common::APP, Epoch::FIRST);
        config.deadline = deadline;
        config.long_deadline = deadline * 10;
        let client = Client::connect(transport, config, None).unwrap();
        let begun = Instant::now();
        assert!(client.space(phantom_fs::client::Ino::ROOT).is_err());
        assert!(begun.elapsed() < deadline * 3);
        // What may take long does not where home says nothing at all.
        let begun = Instant::now();
        assert!(client.sync(phantom_fs::proto::HandleId(1), false).is_err());
        assert!(begun.elapsed() < deadline * 6, "{:?}", begun.elapsed());
    });
}

#[test]
fn the_end_of_a_mount_does_not_touch_one_that_has_just_come() {
    // The kernel gives a connection's number away again at once.
    let coming_and_going = || {
        in_own_mounts("coming_and_going", || {
            for _ in 0..40 {
                let w =
                    World::new(Options::default(), |home| fs::write(home.join("f"), "x").unwrap());
                assert_eq!(fs::read(w.away.join("f")).unwrap(), b"x");
            }
        });
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(coming_and_going);
        }
    });
}

#[test]
fn a_mount_in_use_can_always_be_removed() {
    in_own_mounts("a_mount_in_use", || {
        let w = World::new(Options::default(), |home| fs::write(home.join("file"), "x").unwrap());
        let open = File::open(w.away.join("file")).unwrap();
        let mut shell =
            std::process::Command::new("sleep").arg("60").current_dir(&w.away).spawn().unwrap();
        w.way.break_down();
        // Someone waits for home while it goes.
        let away = w.away.clone();
        let waiting = std::thread::spawn(move || fs::read(away.join("other")));
        std::thread::sleep(Duration::from_millis(50));
        let begun = Instant::now();
        w.mount.unmount().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert!(waiting.join().unwrap().is_err());
        assert!(names(&w.away).is_empty(), "the mount point is bare again");
        assert!(open.metadata().is_err());
        shell.kill().unwrap();
        shell.wait().unwrap();
    });
}

#[test]
fn an_old_epoch_has_no_effect() {
    in_own_mounts("an_old_epoch", || {
        let options = Options { deadline: Duration::from_millis(500), ..Options::default() };
        let w = World::new(options, |_| {});
        let mut file = File::create(w.away.join("file")).unwrap();
        file.write_all(b"1").unwrap();
        assert!(w.server.fence(Epoch(2)));
        assert!(file.write_all(b"2").is_err());
        assert!(fs::create_dir(w.away.join("dir")).is_err());
        assert_eq!(fs::read(w.home.join("file")).unwrap(), b"1");
        let connect = |epoch| {
            let way = std::sync::Arc::clone(&w.way);
            Client::connect(
                move |_| way.connect(),
                ClientConfig::new(crate::common::APP, epoch),
                None,
            )
        };
        let error = connect(Epoch(1)).unwrap_err();
        assert!(matches!(error, ClientError::Refused(Refusal::Epoch(Epoch(2)))), "{error}");
        // The next host prepares beside the present one; the commit decides.
        let present = connect(Epoch(2)).unwrap();
        let next = connect(Epoch(3)).unwrap();
        let root = phantom_fs::client::Ino::ROOT;
        assert!(present.space(root).is_ok() && next.space(root).is_ok());
        assert!(w.server.fence(Epoch(3)));
        assert!(present.space(root).is_err());
        assert!(next.space(root).is_ok());
    });
}

#[test]
fn what_was_open_stays_open_when_the_app_is_given_back() {
    in_own_mounts("given_back", || {
        let w = World::new(Options::default(), |_| {});
        let mut file = File::create(w.away.join("file")).unwrap();
        file.write_all(b"1").unwrap();
        fs::remove_file(w.away.join("file")).unwrap();
        // The move is committed, then taken back.
        assert!(w.server.fence(Epoch(2)));
        assert!(w.server.fence(Epoch(3)));
        w.client.set_epoch(Epoch(3));
        file.write_all(b"2").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 2);
        fs::write(w.away.join("later"), "3").unwrap();
        assert_eq!(fs::read(w.home.join("later")).unwrap(), b"3");
    });
}

#[test]
fn nothing_is_left_behind() {
    in_own_mounts("nothing_is_left", || {
        let fuse_mounts = || {
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            mounts.lines().filter(|line| line.contains("fuse.phantom")).count()
        };
        for _ in 0..3 {
            let w = World::new(Options::default(), |home| fs::write(home.join("f"), "x").unwrap());
            assert_eq!(fs::read(w.away.join("f")).unwrap(), b"x");
            assert_eq!(fuse_mounts(), 1);
            assert_eq!(w.client.inodes(), 2);
        }
        assert_eq!(fuse_mounts(), 0);
    });
}
