//! The image on its way from source to target: page files as they grow, each an object of its own;
//! everything else, small and final only at the end, in one bundle.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use async_trait::async_trait;
use phantom_broker::{Crawl, Pace};
use phantom_checkpoint::Cancel;
use phantom_checkpoint::stream::{Extent, ImageReader, ImageWriter, MAX_EXTENT_BYTES};
use phantom_model::handoff::{Failure, ImageManifest};
use phantom_model::{AppId, Bytes, MoveId, NodeId, Step};
use phantom_net::{BulkOptions, BulkReceiver, BulkReport, BulkSender, BulkTicket, ExtentSink};
use tokio::sync::mpsc;

use super::Daemon;
use super::parts::failure;
use super::peers::{ASK_DEADLINE, Answer, Ask};
use crate::shim::control::Saved;

/// The bundle's object number; page file N is object N, and CRIU numbers them from 1.
const BUNDLE: u32 = 0;
/// Pieces read ahead of the link.
const READ_AHEAD: usize = 8;
/// How long a target may take to say why a transfer broke.
const WHY_DEADLINE: Duration = Duration::from_secs(2);
/// How long an image may take to be written and read.
const IMAGE_LIMIT: Duration = Duration::from_secs(600);
/// An image is the resident memory and what describes it, and the memory may have grown by this
/// since it was measured.
const SLACK_BYTES: u64 = 1 << 30;

/// How often the pace of a transfer is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// The object number of a page file.
fn object(file: &str) -> Option<u32> {
    file.strip_prefix("pages-")?.strip_suffix(".img")?.parse().ok().filter(|n| *n != BUNDLE)
}

impl Daemon {
    /// Sends the image that `dump` writes into `image`. Gives what `dump` gave, the manifest, and
    /// how long the image went on arriving after the dump.
    pub async fn send_image<F, D>(
        self: &Arc<Self>,
        app: AppId,
        id: MoveId,
        target: NodeId,
        image: &Path,
        dump: F,
    ) -> Result<(Saved, ImageManifest, Duration), Failure>
    where
        F: FnOnce() -> D,
        D: Future<Output = anyhow::Result<Saved>>,
    {
        let _ = std::fs::remove_dir_all(image);
        std::fs::create_dir_all(image).map_err(failure(Step::Dump))?;
        let link = async {
            let ticket = match self.ask(target, &Ask::Ticket { app, id }, ASK_DEADLINE).await? {
                Answer::Ticket(ticket) => ticket,
                _ => bail!("the target did not understand"),
            };
            Ok(self.network.bulk_send(target, ticket, BulkOptions::default()).await?)
        };
        // The link is made before the app stops.
        let sender: BulkSender = link.await.map_err(failure(Step::Transfer))?;
        let cancel = Cancel::new().map_err(failure(Step::Dump))?;
        let _stop = StopOnDrop(cancel.clone());
        let (reader, completion) =
            ImageReader::follow(image, IMAGE_LIMIT, &cancel).map_err(failure(Step::Dump))?;
        let sent = Arc::new(AtomicU64::new(0));
        let pump = tokio::spawn(pump(reader, sender, sent.clone()));
        let abort = pump.abort_handle();
        let (began, mut pace) = (Instant::now(), Pace::default());
        let dumped = async {
            let dumping = dump();
            tokio::pin!(dumping);
            loop {
                tokio::select! {
                    saved = &mut dumping => return saved,
                    () = tokio::time::sleep(LOOK) => {
                        pace.observe(sent.load(Ordering::Relaxed), 0, true, began.elapsed());
                    }
                }
            }
        };
        let saved = match dumped.await {
            Ok(saved) => saved,
            Err(error) => {
                drop(completion);
                return Err(failure(Step::Dump)(error));
            }
        };
        completion.complete();
        let dumped = Instant::now();
        let pumped = match watched(pump, &sent, image, &mut pace, began).await {
            Ok(pumped) => pumped,
            Err(crawl) => {
                abort.abort();
                let (bytes, took) = (sent.load(Ordering::Relaxed), dumped.elapsed());
                self.market.collapsed(target, (crawl.now * took.as_secs_f64()) as u64, took);
                let error = slow(&self.members.name(target), bytes, crawl);
                return Err(failure(Step::Transfer)(error));
            }
        };
        let manifest = match pumped {
            Ok((manifest, report)) => {
                self.market.sent(target, report.bytes, report.elapsed);
                manifest
            }
            Err(error) => {
                return Err(failure(Step::Transfer)(self.cause(app, id, target, error).await));
            }
        };
        Ok((saved, manifest, dumped.elapsed()))
    }

    /// What the target says of a broken transfer, rather than what it looks like from here.
    async fn cause(
        &self,
        app: AppId,
        id: MoveId,
        target: NodeId,
        seen: anyhow::Error,
    ) -> anyhow::Error {
        match self.ask(target, &Ask::Arrival { app, id }, WHY_DEADLINE).await {
            Ok(Answer::Arrival(Some(reason))) => {
                let name = self.members.name(target);
                anyhow!("{name} could not store the image: {reason}")
            }
            _ => seen,
        }
    }

    /// Expects the image of a move from `source` in the empty folder `image`.
    pub fn expect_image(
        &self,
        id: MoveId,
        source: NodeId,
        image: PathBuf,
        memory: Bytes,
    ) -> Arc<Receiving> {
        let limit = memory.0.saturating_mul(2).saturating_add(SLACK_BYTES);
        let bundle = image.with_extension("bundle");
        let sink = Arc::new(Sink {
            writer: ImageWriter::new(&image, limit),
            bundle: File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&bundle),
            failed: OnceLock::new(),
        });
        // Open is enough; the name would only have to be cleaned up.
        let _ = std::fs::remove_file(&bundle);
        let options = BulkOptions { limit, ..BulkOptions::default() };
        let receiver = self.network.bulk_receive_into(source, options, sink.clone());
        let ticket = receiver.ticket();
        Arc::new(Receiving {
            id,
            source,
            ticket,
            sink,
            receiver: tokio::sync::Mutex::new(receiver),
        })
    }
}

struct StopOnDrop(Cancel);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Reads the image in a thread of its own and hands it to the link.
async fn pump(
    reader: ImageReader,
    mut sender: BulkSender,
    sent: Arc<AtomicU64>,
) -> anyhow::Result<(ImageManifest, BulkReport)> {
    let (pieces, mut queue) = mpsc::channel::<Extent>(READ_AHEAD);
    let reading = tokio::task::spawn_blocking(move || read(reader, &pieces));
    let mut bundled = 0;
    while let Some(piece) = queue.recv().await {
        let bytes = piece.bytes.into();
        let extent = match object(&piece.file) {
            Some(object) => phantom_net::Extent { object, offset: piece.offset, bytes },
            None => {
                let offset = bundled;
                bundled += bytes_len(&bytes);
                phantom_net::Extent { object: BUNDLE, offset, bytes }
            }
        };
        sender.send(extent).await?;
        sent.store(sender.sent(), Ordering::Relaxed);
    }
    let manifest = reading.await??;
    let report = sender.finish().await?;
    tracing::info!("{report}");
    Ok((manifest, report))
}

/// Waits for the end of a transfer whose dump is done, or until it has come to a crawl: the program
/// stands still all the time.
async fn watched(
    mut pump: tokio::task::JoinHandle<anyhow::Result<(ImageManifest, BulkReport)>>,
    sent: &AtomicU64,
    image: &Path,
    pace: &mut Pace,
    began: Instant,
) -> Result<anyhow::Result<(ImageManifest, BulkReport)>, Crawl> {
    let total = size_of(image);
    loop {
        match tokio::time::timeout(LOOK, &mut pump).await {
            Ok(Ok(pumped)) => return Ok(pumped),
            Ok(Err(error)) => return Ok(Err(error.into())),
            Err(_) => {
                let bytes = sent.load(Ordering::Relaxed);
                let left = total.saturating_sub(bytes);
                if let Some(crawl) = pace.observe(bytes, left, false, began.elapsed()) {
                    return Err(crawl);
                }
            }
        }
    }
}

fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

fn slow(name: &str, sent: u64, crawl: Crawl) -> anyhow::Error {
    anyhow!(
        "the way to {name} has collapsed: it carries {}/s, after {}/s at its best, and {} were \
         sent; the move was given up",
        Bytes(crawl.now as u64),
        Bytes(crawl.best as u64),
        Bytes(sent)
    )
}

fn bytes_len(bytes: &bytes::Bytes) -> u64 {
    bytes.len() as u64
}

fn read(mut reader: ImageReader, pieces: &mpsc::Sender<Extent>) -> anyhow::Result<ImageManifest> {
    while let Some(piece) = reader.next_extent()? {
        if pieces.blocking_send(piece).is_err() {
            bail!("the link broke");
        }
    }
    Ok(reader.into_manifest())
}

/// Writes what arrives.
struct Sink {
    writer: ImageWriter,
    bundle: std::io::Result<File>,
    /// Why the first piece that could not be stored was not.
    failed: OnceLock<String>,
}

#[async_trait]
impl ExtentSink for Sink {
    async fn write(&self, object: u32, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let written = match &self.bundle {
            _ if object != BUNDLE => self
                .writer
                .write(&format!("pages-{object}.img"), offset, bytes)
                .map_err(std::io::Error::other),
            Ok(file) => file.write_all_at(bytes, offset),
            Err(error) => Err(std::io::Error::new(error.kind(), error.to_string())),
        };
        written.inspect_err(|error| {
            let _ = self.failed.set(in_full(error));
        })
    }
}

/// An image that is being received.
pub struct Receiving {
    /// Which move.
    pub id: MoveId,
    /// From whom.
    pub source: NodeId,
    /// What the source must show.
    pub ticket: BulkTicket,
    sink: Arc<Sink>,
    receiver: tokio::sync::Mutex<BulkReceiver>,
}

impl Receiving {
    /// Why it could not be stored here, if that is so.
    pub fn failed(&self) -> Option<String> {
        self.sink.failed.get().cloned()
    }

    /// Waits for the last byte and holds everything against the manifest.
    pub async fn finish(self: Arc<Self>, manifest: ImageManifest) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let report = self.receiver.lock().await.finished().await?;
        tracing::info!("{report}");
        // The lanes have ended; nobody else holds the sink.
        let receiving =
            Arc::into_inner(self).ok_or_else(|| anyhow!("the image is still being received"))?;
        drop(receiving.receiver);
        let sink = receiving.sink;
        tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
            let mut sink = wait_for_last(sink)?;
            let bundle =
                std::mem::replace(&mut sink.bundle, Err(std::io::ErrorKind::NotFound.into()))?;
            unpack(&bundle, &sink.writer, &manifest)?;
            Ok(sink.writer.finish(&manifest)?)
        })
        .await??;
        Ok(started.elapsed())
    }
}

/// An error with what it comes from.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let line = error.to_string();
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        source = error.source();
    }
    text
}

/// The lanes let go of the sink right after their last piece.
fn wait_for_last(mut sink: Arc<Sink>) -> anyhow::Result<Sink> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match Arc::try_unwrap(sink) {
            Ok(sink) => return Ok(sink),
            Err(shared) if Instant::now() < end => {
                sink = shared;
                std::thread::yield_now();
            }
            Err(_) => bail!("the image is still being received"),
        }
    }
}

/// Takes the small files out of the bundle, in the manifest's order.
fn unpack(bundle: &File, writer: &ImageWriter, manifest: &ImageManifest) -> anyhow::Result<()> {
    let mut buffer = vec![0; MAX_EXTENT_BYTES];
    let mut at = 0;
    for file in manifest.files.iter().filter(|file| object(&file.name).is_none()) {
        let mut offset = 0;
        while offset < file.size {
            let count = (file.size - offset).min(MAX_EXTENT_BYTES as u64) as usize;
            bundle
                .read_exact_at(&mut buffer[..count], at)
                .with_context(|| format!("{} did not arrive whole", file.name))?;
            writer.write(&file.name, offset, &buffer[..count])?;
            offset += count as u64;
            at += count as u64;
        }
    }
    Ok(())
}
