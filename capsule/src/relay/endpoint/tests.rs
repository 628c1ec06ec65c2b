//! A home and a program that moves between the kernel's own terminals.

use std::fs::File;
use std::io::Read;

use phantom_model::TermSize;
use tokio::time::{Instant, sleep};

use super::*;
use crate::terminal::{TerminalState, drain, refill};

const DEADLINE: Duration = Duration::from_secs(20);

fn pair(canonical: bool) -> pty::PtyPair {
    let pair = pty::open_pair(0, 0, TermSize { rows: 24, cols: 80 }).unwrap();
    let mut termios = pty::get_termios(pair.slave.as_fd()).unwrap();
    (termios.c_iflag, termios.c_lflag) = (0, if canonical { libc::ICANON } else { 0 });
    pty::set_termios(pair.slave.as_fd(), &termios).unwrap();
    pair
}

/// In a terminal that nobody uses yet.
fn typed_ahead(canonical: bool, typed: &[u8]) -> TerminalState {
    let empty = drain(pair(canonical).master.as_fd()).unwrap();
    TerminalState { typed: typed.to_vec(), ..empty }
}

fn lines(count: usize) -> Vec<u8> {
    (0..count).flat_map(|n| format!("{n:07}\n").into_bytes()).collect()
}

/// The user's side; gives a way to it.
fn home(typed: &[u8]) -> impl Fn() -> Connect {
    let mut relay = Relay::new();
    relay.push(typed);
    let (sender, mut streams) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut link = None;
        loop {
            tokio::select! {
                stream = streams.recv() => match stream {
                    Some(stream) => {
                        link = Some(Link::new(stream));
                        relay.connected();
                    }
                    None => return,
                },
                frame = next(&mut link), if link.is_some() => match frame {
                    Some(frame) => relay.handle(frame).unwrap(),
                    None => link = None,
                },
            }
            link.take_if(|link| !link.flush(&mut relay));
        }
    });
    move || {
        let sender = sender.clone();
        Box::new(move || {
            let (here, there) = UnixStream::pair().unwrap();
            let _ = sender.send(there);
            Box::pin(std::future::ready(Ok(here)))
        })
    }
}

/// Where the program is.
struct Host {
    pair: pty::PtyPair,
    endpoint: Endpoint,
}

impl Host {
    async fn arrive(state: &TerminalState, relay: RelayState, connect: Connect) -> Self {
        let pair = pair(false);
        let typed = refill(pair.master.as_fd(), state).unwrap();
        let endpoint = Endpoint::start(pair.master.try_clone().unwrap(), relay, connect).unwrap();
        endpoint.release(state.output.clone(), typed).await;
        Self { pair, endpoint }
    }

    async fn leave(self) -> (TerminalState, RelayState) {
        let held = self.endpoint.hold().await.unwrap();
        let drained = drain(self.pair.master.as_fd()).unwrap();
        (TerminalState { typed: held.typed, ..drained }, held.relay)
    }

    /// Until the terminal takes no more.
    async fn is_full(&self) {
        let end = Instant::now() + DEADLINE;
        while pty::is_writable(self.pair.master.as_fd()).unwrap() && Instant::now() < end {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// The program reads.
    async fn read(&self, count: usize) -> Vec<u8> {
        set_nonblocking(self.pair.slave.as_fd()).unwrap();
        let mut slave = File::from(self.pair.slave.try_clone().unwrap());
        let mut got = vec![0; count];
        let mut filled = 0;
        let end = Instant::now() + DEADLINE;
        while filled < count && Instant::now() < end {
            match slave.read(&mut got[filled..]) {
                Ok(count) => filled += count,
                Err(_) => sleep(Duration::from_millis(1)).await,
            }
        }
        got.truncate(filled);
        got
    }
}

/// What waits in front of a terminal is more than the next one holds, and the home has more. The
/// program reads a little here and there and the rest at the end.
async fn through_seven_terminals(canonical: bool) {
    let bytes = lines(15_000);
    let (before, at_home) = bytes.split_at(50_001);
    let connect = home(at_home);
    let state = typed_ahead(canonical, before);
    let mut host = Host::arrive(&state, RelayState::default(), connect()).await;
    let mut got = Vec::new();
    for reads in [0, 0, 3_001, 40_000, 10_000, 0] {
        host.is_full().await;
        got.extend(host.read(reads).await);
        let (state, relay) = host.leave().await;
        // What is packed for another node is what counts.
        let state = postcard::from_bytes(&postcard::to_stdvec(&state).unwrap()).unwrap();
        host = Host::arrive(&state, relay, connect()).await;
    }
    got.extend(host.read(bytes.len() - got.len()).await);
    let same = got.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
    assert!(got == bytes, "{} bytes of {}, the first {same} as typed", got.len(), bytes.len());
    let (left, relay) = host.leave().await;
    assert!(left.input.is_empty() && left.typed.is_empty(), "{left:?} came once more");
    assert_eq!(relay.taken, at_home.len() as u64);
}

#[tokio::test]
async fn what_no_terminal_on_the_way_has_taken_arrives_once() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP endpoint: needs root");
        return;
    }
    through_seven_terminals(false).await;
    through_seven_terminals(true).await;
}

/// A move that is given up.
#[tokio::test]
async fn what_was_handed_over_is_written_once_when_it_comes_back() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP endpoint: needs root");
        return;
    }
    let bytes = lines(7_500);
    let (before, at_home) = bytes.split_at(40_000);
    let state = typed_ahead(false, before);
    let host = Host::arrive(&state, RelayState::default(), home(at_home)()).await;
    host.is_full().await;
    let held = host.endpoint.hold().await.unwrap();
    assert!(!held.typed.is_empty(), "all of it fitted");
    host.endpoint.release(Vec::new(), held.typed).await;
    let got = host.read(bytes.len()).await;
    assert!(got == bytes, "{} bytes of {}", got.len(), bytes.len());
}
