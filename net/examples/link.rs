//! What the link gives between two network namespaces of this machine: round trips, bulk
//! throughput and the CPU it costs, against plain TCP. Run as root:
//!
//! ```text
//! cargo run --release -p phantom-net --example link [MIB]
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use phantom_net::config::DEFAULT_PORT;
use phantom_net::{
    BulkOptions, BulkTicket, Config, Extent, ExtentSink, MemoryStore, Network, NodeKey, ServiceId,
    Token,
};

const WAIT: Duration = Duration::from_secs(60);
const ROUNDS: usize = 3;
const A: &str = "10.213.9.1";
const B: &str = "10.213.9.2";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["listen"] => runtime()?.block_on(listen()),
        ["drive", token, mib] => runtime()?.block_on(drive(token.parse()?, mib.parse()?)),
        [] => in_namespaces("512"),
        [mib] => in_namespaces(mib),
        _ => bail!("usage: link [MIB]"),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Two namespaces with a veth pair; they go with the value.
struct Namespaces([String; 2]);

impl Namespaces {
    fn make() -> Result<Self> {
        let name = |end: &str| format!("phnet-{}-{end}", std::process::id());
        let this = Self([name("a"), name("b")]);
        let [a, b] = &this.0;
        ip(&format!("netns add {a}"))?;
        ip(&format!("netns add {b}"))?;
        ip(&format!("link add veth0 netns {a} type veth peer name veth0 netns {b}"))?;
        for (ns, addr) in [(a, A), (b, B)] {
            ip(&format!("-n {ns} addr add {addr}/24 dev veth0"))?;
            ip(&format!("-n {ns} link set lo up"))?;
            ip(&format!("-n {ns} link set veth0 up"))?;
        }
        Ok(this)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for ns in &self.0 {
            let _ = ip(&format!("netns del {ns}"));
        }
    }
}

fn ip(args: &str) -> Result<()> {
    let status = Command::new("ip").args(args.split(' ')).status().context("running ip")?;
    ensure!(status.success(), "`ip {args}` failed (run as root)");
    Ok(())
}

fn in_namespaces(mib: &str) -> Result<()> {
    let namespaces = Namespaces::make()?;
    let [a, b] = &namespaces.0;
    let (mut listener, mut lines) = spawn_in(b, &["listen"])?;
    let mut token = String::new();
    lines.read_line(&mut token)?;
    let (mut driver, mut lines) = spawn_in(a, &["drive", token.trim(), mib])?;
    std::io::copy(&mut lines, &mut std::io::stdout())?;
    let outcome = driver.wait()?;
    listener.kill()?;
    listener.wait()?;
    ensure!(outcome.success(), "the measurement failed");
    Ok(())
}

fn spawn_in(ns: &str, args: &[&str]) -> Result<(Child, BufReader<ChildStdout>)> {
    let mut child = Command::new("ip")
        .args(["netns", "exec", ns])
        .arg(std::env::current_exe()?)
        .args(args)
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().context("no output")?);
    Ok((child, lines))
}

async fn node(ip: &str) -> Result<Network> {
    let dir = tempfile::tempdir()?.keep();
    let config = Config { listen: SocketAddr::new(ip.parse()?, DEFAULT_PORT), ..Config::new(&dir) };
    let key = NodeKey::ephemeral();
    let network = Network::start(config, key, Arc::new(MemoryStore::default())).await;
    let network = network?;
    if ip == B {
        network.found("b").await?;
    }
    std::fs::remove_dir_all(dir)?;
    Ok(network)
}

/// CPU time this process has used, in seconds.
fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("getrusage");
    (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6
}

struct Discard;

#[async_trait]
impl ExtentSink for Discard {
    async fn write(&self, _object: u32, _offset: u64, _bytes: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

async fn listen() -> Result<()> {
    let network = node(B).await?;
    println!("{}", network.invite(WAIT).await?);
    let plain = TcpListener::bind((B, 7472))?;
    std::thread::spawn(move || {
        for stream in plain.incoming().flatten() {
            std::thread::spawn(move || swallow(stream));
        }
    });
    while let Some(mut incoming) = network.accept().await {
        let network = network.clone();
        tokio::spawn(async move {
            match incoming.service.as_str() {
                "echo" => {
                    while let Ok(byte) =
                        tokio::io::AsyncReadExt::read_u8(&mut incoming.stream).await
                    {
                        tokio::io::AsyncWriteExt::write_u8(&mut incoming.stream, byte).await?;
                    }
                }
                "cpu" => incoming.reply(&cpu(), WAIT).await?,
                _ => {
                    let options = BulkOptions::default();
                    let peer = incoming.peer;
                    let mut receiver = network.bulk_receive_into(peer, options, Arc::new(Discard));
                    incoming.reply(&receiver.ticket(), WAIT).await?;
                    receiver.finished().await?;
                }
            }
            anyhow::Ok(())
        });
    }
    Ok(())
}

/// Reads to the end and answers with one byte.
fn swallow(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    while stream.read(&mut buffer)? > 0 {}
    stream.write_all(&[1])
}

async fn drive(token: Token, mib: usize) -> Result<()> {
    let network = node(A).await?;
    network.join(&token, "a").await?;
    let peer = token.inviter;
    let started = Instant::now();
    network.connect(peer, WAIT).await?;
    println!("connect (certificates included)  {:.2} ms", started.elapsed().as_secs_f64() * 1e3);
    round_trips(&network, peer).await?;
    let data = incompressible(mib << 20);
    for lanes in [1, 2, 4, 8] {
        let options = BulkOptions { tcp_lanes: lanes, ..BulkOptions::default() };
        measure(&network, peer, &data, options).await?;
    }
    for lanes in [1, 4, 8, 16] {
        let options = BulkOptions { tcp_lanes: 0, stream_lanes: lanes, ..BulkOptions::default() };
        measure(&network, peer, &data, options).await?;
    }
    for streams in [1, 4] {
        plain_tcp(&data, streams)?;
    }
    network.shutdown(WAIT).await;
    Ok(())
}

async fn round_trips(network: &Network, peer: phantom_model::NodeId) -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let service = ServiceId::new("echo").context("service")?;
    let mut stream = network.open(peer, &service, &(), WAIT).await?;
    let mut times = Vec::new();
    for _ in 0..2000 {
        let started = Instant::now();
        stream.write_u8(7).await?;
        stream.read_u8().await?;
        times.push(started.elapsed());
    }
    times.sort();
    println!(
        "round trip of one byte           median {:.0} us, 99% {:.0} us",
        times[1000].as_secs_f64() * 1e6,
        times[1980].as_secs_f64() * 1e6
    );
    Ok(())
}

async fn peer_cpu(network: &Network, peer: phantom_model::NodeId) -> Result<f64> {
    let service = ServiceId::new("cpu").context("service")?;
    Ok(network.call(peer, &service, &(), WAIT).await?)
}

async fn measure(
    network: &Network,
    peer: phantom_model::NodeId,
    data: &Bytes,
    options: BulkOptions,
) -> Result<()> {
    let service = ServiceId::new("take").context("service")?;
    let mut results = Vec::new();
    for _ in 0..ROUNDS {
        let ticket: BulkTicket = network.call(peer, &service, &(), WAIT).await?;
        let before = (cpu(), peer_cpu(network, peer).await?);
        let mut sender = network.bulk_send(peer, ticket, options).await?;
        for (number, bytes) in data.chunks(1 << 20).enumerate() {
            let bytes = data.slice_ref(bytes);
            sender.send(Extent { object: 0, offset: (number as u64) << 20, bytes }).await?;
        }
        let report = sender.finish().await?;
        let used = (cpu() - before.0, peer_cpu(network, peer).await? - before.1);
        results.push((report, used));
    }
    results.sort_by_key(|(report, _)| report.elapsed);
    let (report, (sent, received)) = results[ROUNDS / 2];
    println!("{report}; CPU {sent:.2} s sending, {received:.2} s receiving");
    Ok(())
}

fn plain_tcp(data: &Bytes, streams: usize) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        std::thread::scope(|scope| {
            let part = data.len().div_ceil(streams);
            let senders: Vec<_> = data
                .chunks(part)
                .map(|part| {
                    scope.spawn(move || -> Result<()> {
                        let mut stream = TcpStream::connect((B, 7472))?;
                        stream.write_all(part)?;
                        stream.shutdown(std::net::Shutdown::Write)?;
                        Ok(stream.read_exact(&mut [0])?)
                    })
                })
                .collect();
            senders.into_iter().try_for_each(|sender| sender.join().expect("no panic"))
        })?;
        times.push(started.elapsed());
    }
    times.sort();
    let seconds = times[ROUNDS / 2].as_secs_f64();
    let rate = data.len() as f64 * 8.0 / seconds / 1e9;
    println!("plain tcp x{streams}: {seconds:.3} s, {rate:.2} Gbit/s");
    Ok(())
}

fn incompressible(size: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    Bytes::from(bytes)
}
