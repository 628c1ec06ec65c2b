//! What the processes of the tests do, as they are told.

use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;

use crate::common::run_delay;
use crate::os::{Mapped, fork_holders, fork_worker};

const MIB: usize = 1 << 20;

/// Not a test of its own.
#[test]
fn child() {
    let Ok(role) = std::env::var("PHANTOM_EBPF_ROLE") else {
        return;
    };
    if let Some(generation) = role.strip_prefix("generation ") {
        return next_generation(generation.parse().unwrap());
    }
    println!("ready");
    let mut own = Own::default();
    for line in std::io::stdin().lock().lines() {
        own.act(&line.unwrap());
        println!("done");
    }
}

/// What such a process keeps from one order to the next.
#[derive(Default)]
struct Own {
    held: Vec<Vec<u8>>,
    listener: Option<TcpListener>,
}

impl Own {
    fn act(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<usize>().unwrap();
        match words[0] {
            "hold" => self.held.push(black_box(vec![1; number(1) * MIB])),
            "share" => {
                let path = format!("/dev/shm/phantom-ebpf-test-{}", std::process::id());
                let bytes = vec![1; number(1) * MIB];
                std::fs::write(&path, bytes).unwrap();
                let mapped = Mapped::new(&File::open(&path).unwrap());
                std::fs::remove_file(&path).unwrap();
                mapped.touch();
            }
            "release" => self.held.clear(),
            "threads" => {
                for _ in 0..number(1) {
                    std::thread::spawn(std::thread::park);
                }
            }
            "fork" => {
                // This program itself is a large file that every process can map.
                let file = File::open(std::env::current_exe().unwrap()).unwrap();
                fork_holders(number(1), &Mapped::new(&file), MIB / 2);
            }
            "spin" => spin(Duration::from_millis(number(1) as u64)),
            "fork-for" => print!("{} ", fork_for(number(1) as u64, words[2])),
            "write" => {
                let mut file = File::create(words[2]).unwrap();
                (0..number(1)).for_each(|_| file.write_all(&[7; MIB]).unwrap());
            }
            "compete" => compete(Duration::from_millis(number(1) as u64)),
            "listen" => {
                let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 4000)).unwrap();
                self.listener = Some(listener);
            }
            "serve" => exchange(&mut self.listener.as_ref().unwrap().accept().unwrap().0),
            "send" => {
                let address: Ipv4Addr = words[1].parse().unwrap();
                exchange(&mut TcpStream::connect((address, 4000)).unwrap());
            }
            "echo" => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 4001)).unwrap();
                let mut own = TcpStream::connect((Ipv4Addr::LOCALHOST, 4001)).unwrap();
                let (mut other, _) = listener.accept().unwrap();
                let there = std::thread::spawn(move || exchange(&mut other));
                exchange(&mut own);
                there.join().unwrap();
            }
            word => panic!("unknown word {word}"),
        }
    }
}

/// Spins a little, then goes on as another process (forked) or another program (exec).
fn next_generation(left: u32) {
    spin(Duration::from_millis(20));
    if left == 0 {
        return;
    }
    let mut next = Command::new(std::env::current_exe().unwrap());
    next.args(["--exact", "roles::child", "--nocapture"])
        .env("PHANTOM_EBPF_ROLE", format!("generation {}", left - 1));
    if left.is_multiple_of(2) {
        panic!("{}", next.exec());
    }
    // Nobody waits for it: its parent exits at once.
    drop(next.spawn().unwrap());
}

/// Sends and receives 16 MiB.
fn exchange(peer: &mut TcpStream) {
    let mut back = peer.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        (0..16).for_each(|_| back.write_all(&[1; MIB]).unwrap());
        back.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut buffer = vec![0; MIB];
    while peer.read(&mut buffer).unwrap() > 0 {}
    sender.join().unwrap();
}

fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        black_box(0);
    }
}

/// Twice as many threads as CPUs, which then wait for each other.
fn compete(time: Duration) {
    let cpus = std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| (0..2 * cpus).for_each(|_| drop(scope.spawn(|| spin(time)))));
}

/// As many children as possible for so long, four at a time, each of which works for about a
/// millisecond. Says how many there were, and how long they had waited for a CPU, in ns, as the
/// kernel says before it forgets them.
fn fork_for(seconds: u64, path: &str) -> String {
    let file = File::create(path).unwrap();
    let block = [3; 4096];
    let (mut forked, mut delay) = (0u64, 0);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let work = |number: u64| {
            spin(Duration::from_micros(300));
            file.write_all_at(&block, number * 4096).unwrap_or_default();
        };
        let children: Vec<Pid> = (0..4).map(|at| fork_worker(|| work(forked + at))).collect();
        forked += 4;
        for child in children {
            // Left as a zombie, whose accounts are final and can be read.
            waitid(Id::Pid(child), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
            delay += run_delay(&format!("/proc/{child}"));
            waitpid(child, None).unwrap();
        }
    }
    format!("{forked} {delay}")
}
