//! `bench erasure`: how long it takes to get a registry back from the shards that are left.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Context;
use phantom_erasure::{Assembly, Scheme, Shard, Version, split};
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use super::{Report, Row, Side, all_in_turns, median};

const BENCH: &str = "erasure";
const REGISTRY: usize = 64 << 20;
const ROUNDS: usize = 7;
const VERSION: Version = Version { generation: 1, change: 1 };

/// Runs all cases.
pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let bytes: Vec<u8> = (0..REGISTRY).map(|at| (at ^ at >> 7 ^ at >> 15) as u8).collect();
    for (data, parity) in [(1, 2), (5, 2), (10, 4), (44, 20)] {
        rebuild(report, &bytes, Scheme::new(data, parity)?)?;
    }
    Ok(())
}

/// The first shards are lost, as many as may be.
fn rebuild(report: &mut Report, bytes: &[u8], scheme: Scheme) -> anyhow::Result<()> {
    let (data, parity) = (scheme.data(), scheme.parity());
    let begin = Instant::now();
    let (manifest, shards) = split(bytes, VERSION, scheme);
    let spread_ms = millis(begin);
    let lost = parity.min(data);
    let left: Vec<Shard> = shards.into_iter().skip(lost).take(data).collect();

    let ours = || {
        let offered = left.clone();
        let begin = Instant::now();
        let mut assembly = Assembly::new(manifest.clone())?;
        offered.into_iter().try_for_each(|shard| assembly.offer(shard))?;
        let found = assembly.bytes().context("enough shards")?;
        let took = millis(begin);
        anyhow::ensure!(found == bytes, "other bytes came back");
        Ok(took)
    };
    let copy = || {
        let begin = Instant::now();
        black_box(bytes.to_vec());
        Ok(millis(begin))
    };
    // Without any digest; its shards are of an even length.
    let len = bytes.len().div_ceil(data).next_multiple_of(64);
    let mut padded = bytes.to_vec();
    padded.resize(len * data, 0);
    let parts: Vec<&[u8]> = padded.chunks_exact(len).collect();
    let mut encoder = ReedSolomonEncoder::new(data, parity, len)?;
    parts.iter().try_for_each(|part| encoder.add_original_shard(part))?;
    let encoded = encoder.encode()?;
    let recovery: Vec<Vec<u8>> = encoded.recovery_iter().map(<[u8]>::to_vec).collect();
    let simd = || {
        let begin = Instant::now();
        let mut decoder = ReedSolomonDecoder::new(data, parity, len)?;
        for (index, part) in parts.iter().enumerate().skip(lost) {
            decoder.add_original_shard(index, part)?;
        }
        for (index, part) in recovery.iter().enumerate().take(lost) {
            decoder.add_recovery_shard(index, part)?;
        }
        let decoded = decoder.decode()?;
        let mut found = Vec::with_capacity(padded.len());
        for (index, part) in parts.iter().enumerate() {
            found.extend_from_slice(decoded.restored_original(index).unwrap_or(part));
        }
        black_box(&found);
        Ok(millis(begin))
    };
    let sides: [Side<'_>; 3] =
        [("ours", Box::new(ours)), ("copy", Box::new(copy)), ("simd", Box::new(simd))];
    let medians = all_in_turns(ROUNDS, sides.into())?;
    let [ours, copy, simd] = medians[..] else { anyhow::bail!("three medians") };
    let case = format!("64 MiB, {data} of {} shards, {lost} lost", scheme.total());
    let row = Row::new(BENCH, &case, "rebuilt, every shard checked", ours, "ms");
    report.row(row.against("a copy", copy))?;
    let row = Row::new(BENCH, &case, "the same", ours, "ms");
    report.row(row.against("reed-solomon-simd, unchecked", simd))?;
    report.row(Row::new(BENCH, &case, "spread", median(&[spread_ms])?, "ms"))
}

fn millis(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}
