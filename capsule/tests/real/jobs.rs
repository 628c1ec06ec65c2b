//! Signals, job control and processes in a capsule.

use crate::app::Home;
use crate::needs_root;

#[test]
fn exit_codes_and_signals_pass_through() {
    needs_root!("exit_codes_and_signals_pass_through");
    let home = Home::new();
    for (script, code) in [("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        assert_eq!(home.sh(script).finish().1, code, "{script}");
    }
}

#[test]
fn interrupt_suspend_and_resume_work_in_bash_and_in_a_shell_within() {
    needs_root!("interrupt_suspend_and_resume_work_in_bash_and_in_a_shell_within");
    let home = Home::new();
    let mut app = home.start(&["bash", "--norc", "-i"]);
    app.expect("$ ");
    app.type_keys("sleep 1000\n");
    app.expect("sleep 1000");
    wait_for(&mut app, "sleep");
    app.type_keys("\x1a");
    app.expect("Stopped");
    app.type_keys("bg; jobs -r | wc -l\n");
    app.expect("\n1\r\n");
    app.type_keys("fg\n");
    app.expect("\rsleep 1000\r\n");
    // Bash names the job before it gives it the terminal.
    wait_for(&mut app, "sleep");
    app.type_keys("\x03");
    app.expect("$ ");
    app.type_keys("echo code=$?\n");
    app.expect("code=130\r\n");
    app.type_keys("PS1='in> ' sh\n");
    app.expect("in> ");
    app.type_keys("sleep 1000\n");
    wait_for(&mut app, "sleep");
    app.type_keys("\x03");
    app.expect("in> ");
    app.type_keys("exit 3\n");
    app.expect("$ ");
    app.type_keys("exit 9\n");
    assert_eq!(app.finish().1, 9);
}

/// Waits until a process of that name has the terminal in the app's pid namespace.
fn wait_for(app: &mut crate::app::App, name: &str) {
    let init = app.started.capsule.init_pid;
    let space = std::fs::read_link(format!("/proc/{init}/ns/pid")).unwrap();
    let runs = || {
        std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
                && std::fs::read_link(entry.path().join("ns/pid")).is_ok_and(|ns| ns == space)
                && has_terminal(&entry.path())
        })
    };
    let deadline = std::time::Instant::now() + crate::app::PATIENCE;
    while !runs() {
        assert!(std::time::Instant::now() < deadline, "{name} does not run");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Whether a process is in the foreground of its terminal, not stopped (proc(5), stat).
fn has_terminal(process: &std::path::Path) -> bool {
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    matches!(fields[..], [state, _, group, _, _, foreground, ..] if group == foreground && state != "T")
}

#[test]
fn a_new_window_size_is_seen() {
    needs_root!("a_new_window_size_is_seen");
    let home = Home::new();
    let mut app = home.start(&[
        "bash",
        "-c",
        "trap 'stty size; exit' WINCH; echo ready; \
         while :; do read -t 0.1 || :; done",
    ]);
    app.expect("ready");
    let size = phantom_model::TermSize { rows: 50, cols: 132 };
    phantom_capsule::os::pty::set_size(std::os::fd::AsFd::as_fd(&app.master), size).unwrap();
    app.expect("50 132");
    assert_eq!(app.finish().1, 0);
}

#[test]
fn a_thousand_orphans_are_reaped() {
    needs_root!("a_thousand_orphans_are_reaped");
    let home = Home::new();
    let script = "import os, time\n\
         for _ in range(1000):\n    \
             if os.fork() == 0:\n        \
                 os.fork(); os._exit(0)\n    \
             os.wait()\n\
         end = time.time() + 10\n\
         while time.time() < end:\n    \
             left = [p for p in os.listdir('/proc') if p.isdigit()]\n    \
             if len(left) == 2: break\n\
         print(len(left))";
    let (output, code) = home.start(&["python3", "-c", script]).finish();
    assert_eq!((output.as_str(), code), ("2\n", 0));
}

#[test]
fn the_end_of_the_app_is_the_end_of_all_it_started() {
    needs_root!("the_end_of_the_app_is_the_end_of_all_it_started");
    let home = Home::new();
    let app = home.sh("setsid sleep 4242 & sleep 0.1; exit 0");
    let base = app.started.capsule.ids.base;
    assert_eq!(app.finish().1, 0);
    let uid = base + 1000;
    let left = std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        // Others' processes come and go meanwhile.
        entry.metadata().is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == uid)
    });
    assert!(!left);
}
