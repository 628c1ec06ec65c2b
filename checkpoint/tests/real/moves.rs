//! Real capsules, saved and restored by the real CRIU.

use phantom_checkpoint::Cancel;
use phantom_checkpoint::image::check::check;
use phantom_checkpoint::image::users;
use phantom_checkpoint::restore::restore;

use super::common::{App, Place, Target, criu, save};

/// Takes the app to another root, other ids and a new terminal, as a move does.
fn carry(criu: &phantom_checkpoint::Criu, app: &App, place: &Place) -> Target {
    let (images, work) = (place.memory(), place.memory());
    save(criu, app, place, images.path());
    let checked = check(images.path(), &app.allowed()).unwrap();
    let mut target = Target::new(app);
    users::rewrite(images.path(), checked.user_ns, &target.maps).unwrap();
    let plan = target.restore_plan(app, images.path(), work.path());
    let held = restore(criu, &plan, &Cancel::never()).unwrap();
    println!("{:?}", held.timings());
    target.pid = Some(held.root_pid());
    held.resume().unwrap();
    target
}

#[test]
fn a_program_moves_to_another_root_and_other_ids() {
    let Some(criu) = criu("a_program_moves_to_another_root_and_other_ids") else { return };
    let place = Place::new();
    let mut app = App::start(&place.home(), &["/bin/sh"]);
    app.screen.expect("$ ");
    app.screen.type_keys("echo private > /tmp/file; state=kept\n");
    app.screen.expect("$ ");
    let mut target = carry(&criu, &app, &place);
    target.screen.type_keys("cat /tmp/file; echo $state; id -u; tty; cat /proc/self/uid_map\n");
    target.screen.expect("private\r\nkept\r\n1000\r\n/dev/console\r\n");
    let outside = target.maps.uids[0].outside.to_string();
    target.screen.expect(&outside);
}

#[test]
fn a_held_program_does_nothing_until_it_is_let_go_and_leaves_nothing_when_it_is_not() {
    let Some(criu) = criu("a_held_program_does_nothing") else { return };
    let place = Place::new();
    // Whoever it is at the target may write there too.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(place.home(), open).unwrap();
    let script = "umask 0; i=0; while :; do i=$((i+1)); echo $i > count; done";
    let app = App::start(&place.home(), &["/bin/sh", "-c", script]);
    let count = place.home().join("count");
    let read = || std::fs::read_to_string(&count).unwrap_or_default();
    super::common::wait_until("the program runs", || !read().is_empty());
    let (images, work) = (place.memory(), place.memory());
    save(&criu, &app, &place, images.path());
    let checked = check(images.path(), &app.allowed()).unwrap();
    let target = Target::new(&app);
    users::rewrite(images.path(), checked.user_ns, &target.maps).unwrap();
    let plan = target.restore_plan(&app, images.path(), work.path());
    let before = read();
    let held = restore(&criu, &plan, &Cancel::never()).unwrap();
    let pid = held.root_pid();
    assert!(target.cgroup.processes().unwrap().len() >= 2);
    assert_eq!(read(), before, "it ran while it was held");
    held.discard();
    assert!(target.cgroup.processes().unwrap().is_empty());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(read(), before);
    // The source is unharmed by all that.
    app.cgroup.thaw(super::common::PATIENCE).unwrap();
    super::common::wait_until("the source goes on", || read() != before);
}

#[test]
fn job_control_and_terminal_work_for_children_that_were_running() {
    let Some(criu) = criu("job_control_and_terminal_work") else { return };
    if !criu.restores_job_control() {
        println!("SKIP job_control_and_terminal_work: this CRIU lacks the terminal patch");
        return;
    }
    let place = Place::new();
    let mut app = App::start(&place.home(), &["/bin/bash", "--norc", "--noediting"]);
    app.screen.expect("$ ");
    app.screen.type_keys("sh\n");
    app.screen.expect("$ ");
    app.screen.type_keys("/usr/bin/python3 -q\n");
    app.screen.expect(">>> ");
    app.screen.type_keys("import time, os; x = 41\n");
    app.screen.expect(">>> ");
    let mut target = carry(&criu, &app, &place);
    let screen = &mut target.screen;
    screen.type_keys("print(x + 1, os.write(os.open('/dev/tty', 1), b'to tty'))\n");
    screen.expect("to tty42 6");
    screen.expect(">>> ");
    // Not one long sleep: Python may get the signal between its last look and the system call.
    screen.type_keys("exec(\"print('wait')\\nwhile True: time.sleep(0.1)\")\n");
    screen.expect("wait\r\n");
    screen.type_keys("\x03");
    screen.expect("KeyboardInterrupt");
    screen.expect(">>> ");
    screen.type_keys("\x1a");
    screen.expect("Stopped");
    screen.expect("$ ");
    screen.type_keys("fg\n");
    screen.expect("python3");
    screen.type_keys("print(x + 2)\n");
    screen.expect("43\r\n");
    // Typed before the prompt, ^D would end a line of the terminal and not reach readline.
    screen.expect(">>> ");
    screen.type_keys("\x04");
    screen.expect("$ ");
    screen.type_keys("seq 500 | less\n");
    screen.expect(":");
    screen.type_keys("G");
    screen.expect("500");
    screen.type_keys("q");
    screen.expect("$ ");
    // Leave the inner shell: the outer one takes over.
    screen.type_keys("exit\n");
    screen.expect("$ ");
    screen.type_keys("echo shell $0 $((40 + 2))\n");
    screen.expect("shell /bin/bash 42");
}

#[test]
fn less_at_the_end_of_a_pipe_moves() {
    let Some(criu) = criu("less_at_the_end_of_a_pipe_moves") else { return };
    if !criu.restores_job_control() {
        println!("SKIP less_at_the_end_of_a_pipe_moves: this CRIU lacks the terminal patch");
        return;
    }
    let place = Place::new();
    let mut app = App::start(&place.home(), &["/bin/bash", "--norc", "--noediting"]);
    app.screen.expect("$ ");
    app.screen.type_keys("seq 500 | less\n");
    app.screen.expect(":");
    let mut target = carry(&criu, &app, &place);
    target.screen.type_keys("G");
    target.screen.expect("500");
    target.screen.type_keys("q");
    target.screen.expect("$ ");
    target.screen.type_keys("echo $((41 + 1))\n");
    target.screen.expect("42");
}

#[test]
fn threads_sockets_pipes_and_unlinked_files_move() {
    let Some(criu) = criu("threads_sockets_pipes_and_unlinked_files_move") else { return };
    let place = Place::new();
    let script = r#"
import os, socket, threading, queue, tempfile, mmap
server = socket.create_server(("127.0.0.1", 0)); client = socket.create_connection(server.getsockname())
peer, _ = server.accept()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("127.0.0.1", 0))
left, right = socket.socketpair()
r, w = os.pipe(); os.write(w, b"pipe")
gone = open("/tmp/gone", "w+"); gone.write("ghost"); gone.flush(); os.unlink("/tmp/gone")
shared = mmap.mmap(-1, 4096); shared[:3] = b"shm"
q, answers = queue.Queue(), queue.Queue()
threading.Thread(target=lambda: [answers.put(q.get() * 2) for _ in range(1)], daemon=True).start()
peer.sendall(b"tcp "); left.sendall(b"unix ")
print("ready", flush=True)
input()
q.put(21); gone.seek(0)
udp.sendto(b"udp", udp.getsockname())
print(client.recv(9), right.recv(9), os.read(r, 9), gone.read(), shared[:3], udp.recv(9), answers.get(), flush=True)
input()
"#;
    let mut app = App::start(&place.home(), &["/usr/bin/python3", "-c", script]);
    app.screen.expect("ready");
    let mut target = carry(&criu, &app, &place);
    target.screen.type_keys("\n");
    target.screen.expect("b'tcp ' b'unix ' b'pipe' ghost b'shm' b'udp' 42");
}
