//! What may be between a node and a name server: it loses, refuses, changes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::AbortHandle;

/// What a middlebox does with questions for URI records.
#[derive(Clone, Copy)]
pub enum Unknown {
    /// Loses them.
    Lost,
    /// Says that it has not implemented them.
    Refused,
}

/// Something that passes on, until it is dropped.
pub struct Between {
    /// Where it answers.
    pub at: SocketAddr,
    task: AbortHandle,
    /// How many updates went through it.
    pub updates: Arc<AtomicUsize>,
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A middlebox for UDP that knows no URI records.
pub async fn middlebox(server: SocketAddr, unknown: Unknown) -> Between {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut question, mut answer) = ([0; 4096], [0; 4096]);
        loop {
            let (length, from) = socket.recv_from(&mut question).await.unwrap();
            let asked = &question[..length];
            if asks_for_uri(asked) {
                if matches!(unknown, Unknown::Refused) {
                    let mut refusal = asked.to_vec();
                    refusal[2] |= 0x80;
                    refusal[3] = (refusal[3] & 0xf0) | 4;
                    socket.send_to(&refusal, from).await.unwrap();
                }
                continue;
            }
            let way = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            way.send_to(asked, server).await.unwrap();
            let length = way.recv(&mut answer).await.unwrap();
            socket.send_to(&answer[..length], from).await.unwrap();
        }
    });
    Between { at, task: task.abort_handle(), updates: Arc::default() }
}

/// The type of the first question is 256.
fn asks_for_uri(message: &[u8]) -> bool {
    let mut at = 12;
    while let Some(length) = message.get(at).filter(|length| **length != 0) {
        at += usize::from(*length) + 1;
    }
    message.get(at + 1..at + 3) == Some(&[1, 0])
}

/// What happens to messages of TCP.
#[derive(Clone)]
pub enum Answer {
    /// The first of an update is lost after the server has made the update; the connection ends.
    FirstLost,
    /// Those of updates are changed to say that nothing went wrong, and what was signed stays.
    Glossed,
    /// One of eight messages each way is lost, with the connection; one of eight questions reaches
    /// the server twice.
    Storm(Arc<Mutex<StdRng>>),
}

impl Answer {
    /// A storm from this seed.
    pub fn storm(seed: u64) -> Self {
        Answer::Storm(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// Whether something happens that happens one time in eight of a storm.
    fn strikes(&self) -> bool {
        match self {
            Answer::Storm(rng) => rng.lock().unwrap().random_ratio(1, 8),
            _ => false,
        }
    }
}

/// A TCP proxy before a server that does something to the answers of updates.
pub async fn proxy(server: SocketAddr, answers: Answer) -> Between {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let updates = Arc::new(AtomicUsize::new(0));
    let counted = updates.clone();
    let task = tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tokio::spawn(pass_on(client, server, answers.clone(), counted.clone()));
        }
    });
    Between { at, task: task.abort_handle(), updates }
}

async fn pass_on(
    mut client: TcpStream,
    server: SocketAddr,
    answers: Answer,
    updates: Arc<AtomicUsize>,
) {
    let mut server = TcpStream::connect(server).await.unwrap();
    while let Some(question) = message(&mut client).await {
        let is_update = (question[2] >> 3) & 0xf == 5;
        if answers.strikes() {
            return;
        }
        let mut answer = None;
        for _ in 0..if answers.strikes() { 2 } else { 1 } {
            send(&mut server, &question).await;
            answer = message(&mut server).await;
        }
        let Some(mut answer) = answer else { return };
        if answers.strikes() {
            return;
        }
        if is_update {
            match (&answers, updates.fetch_add(1, Ordering::SeqCst)) {
                (Answer::FirstLost, 0) => return,
                (Answer::FirstLost | Answer::Storm(_), _) => {}
                (Answer::Glossed, _) => answer[3] &= 0xf0,
            }
        }
        send(&mut client, &answer).await;
    }
}

async fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = stream.read_u16().await.ok()?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

async fn send(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap();
    // The other end may be gone; the next reading tells.
    let _ = stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await;
}
