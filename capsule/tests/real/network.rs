//! The network of a capsule, in a network namespace of the test's own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use nix::sched::CloneFlags;
use phantom_capsule::net;
use phantom_model::AppId;

use crate::app::Home;
use crate::needs_root;

/// Ends with the test.
struct World(Child);

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &str) {
    let status = Command::new("sh").args(["-ec", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

fn output(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Another machine that says who speaks to it, beyond a link of the host's. It is called as those of
/// apps are, which are parted from each other, and must not be taken for one.
fn world() -> World {
    let script = "import socket\n\
        s = socket.create_server(('0.0.0.0', 7777)); print('ready', flush=True)\n\
        while True:\n    c, a = s.accept(); c.sendall(a[0].encode() + b'\\n'); c.close()";
    let mut child = Command::new("unshare")
        .args(["--net", "python3", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let pid = child.id();
    let world = World(child);
    run(&format!(
        "ip link add ph0 type veth peer name w0 netns {pid}; ip addr add 192.0.2.1/24 dev ph0; \
         ip link set ph0 up; ip link set lo up; ip route add default via 192.0.2.2; \
         nsenter -t {pid} -n sh -ec 'ip addr add 192.0.2.2/24 dev w0; ip link set w0 up'"
    ));
    world
}

#[test]
fn an_app_reaches_the_world_through_the_host_and_only_while_attached() {
    needs_root!("an_app_reaches_the_world_through_the_host_and_only_while_attached");
    for tool in ["nft", "ip"] {
        if Command::new(tool).arg("-V").output().is_err() {
            println!("SKIP an_app_reaches_the_world: {tool} is missing");
            return;
        }
    }
    let test = std::thread::spawn(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let _world = world();
        let home = Home::new();
        let script = "import socket, sys\n\
            for line in sys.stdin:\n    \
                try:\n        \
                    s = socket.create_connection((line.strip(), 7777), 5)\n        \
                    print('from', s.recv(100).decode().strip() + '.')\n    \
                except OSError as e: print('failed', e.errno)";
        let mut app = home.start(&["python3", "-c", script]);
        app.type_keys("192.0.2.2\n");
        app.expect("failed 101");
        let (id, lock) = (AppId(0xfeed), home.path().join("lock"));
        let netns = app.started.namespaces.network.try_clone().unwrap();
        let network = net::attach(netns.as_fd(), id, None, &lock).unwrap();
        app.type_keys("192.0.2.2\n");
        app.expect("from 192.0.2.1.");
        // Once more changes nothing.
        assert_eq!(net::attach(netns.as_fd(), id, Some(&network), &lock).unwrap(), network);
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), "1\n");
        net::detach(&network, &lock).unwrap();
        assert_eq!(output("nft list tables"), "");
        net::detach(&network, &lock).unwrap();
        app.type_keys("192.0.2.2\n");
        app.expect("failed 101");
        assert_eq!(output("ip -o link show type veth | wc -l"), "1\n");
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), "0\n");
        // The same addresses again.
        assert_eq!(net::attach(netns.as_fd(), id, Some(&network), &lock).unwrap(), network);
        app.type_keys("192.0.2.2\n");
        app.expect("from 192.0.2.1.");
        net::detach(&network, &lock).unwrap();
        app.type_keys("\x04");
        assert_eq!(app.finish().1, 0);
    });
    test.join().unwrap();
}
