//! What stands in the way of a move, in real capsules.

use phantom_checkpoint::inspect::{InspectOptions, ObstacleKind, inspect};

use super::common::{App, Place, criu};

#[test]
fn a_plain_program_has_no_obstacles_and_its_files_are_listed() {
    let Some(_) = criu("a_plain_program_has_no_obstacles") else { return };
    let place = Place::new();
    let script =
        "open('data', 'w').write('x'); f = open('data'); print('ready', flush=True); input()";
    let mut app = App::start(&place.home(), &["/usr/bin/python3", "-c", script]);
    app.screen.expect("ready");
    let options = InspectOptions { terminal: Some(app.terminal()), ghost_limit_bytes: 1 << 20 };
    let found = inspect(app.root_pid(), &options).unwrap();
    assert_eq!(found.obstacles, []);
    assert_eq!(found.processes, 2);
    assert!(found.resident_bytes > 1 << 20);
    let file =
        |end: &str| found.files.iter().find(|file| file.path.to_string_lossy().ends_with(end));
    assert!(file("libc.so.6").unwrap().mapped);
    let data = file("/data").unwrap();
    assert!(!data.mapped && data.path == place.home().join("data"), "{data:?}");
    assert!(found.files.windows(2).all(|pair| pair[0].mapped >= pair[1].mapped));
}

#[test]
fn obstacles_are_named_with_process_and_descriptor() {
    let Some(_) = criu("obstacles_are_named") else { return };
    let place = Place::new();
    let script = r#"
import os, socket, ctypes
gone = open("gone", "wb"); gone.write(b"x" * (2 << 20)); gone.flush(); os.unlink("gone")
libc = ctypes.CDLL(None, use_errno=True)
uffd = libc.syscall(323, 1 | os.O_CLOEXEC)
inner = os.fork()
if inner == 0:
    libc.unshare(0x10000000)
    print("ready", gone.fileno(), uffd, flush=True)
    import time; time.sleep(100)
os.wait()
"#;
    let mut app = App::start(&place.home(), &["/usr/bin/python3", "-c", script]);
    app.screen.expect("ready");
    let options = InspectOptions { terminal: Some(app.terminal()), ghost_limit_bytes: 1 << 20 };
    let found = inspect(app.root_pid(), &options).unwrap();
    let has = |test: &dyn Fn(&ObstacleKind) -> bool| {
        found.obstacles.iter().any(|obstacle| test(&obstacle.kind))
    };
    for obstacle in &found.obstacles {
        println!("{obstacle}");
    }
    assert!(has(&|kind| matches!(kind, ObstacleKind::Unlinked { bytes: 0x20_0000, .. })));
    assert!(has(&|kind| matches!(kind, ObstacleKind::Namespace { kind: "user" })));
}
