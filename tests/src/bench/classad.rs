//! `bench classad`: how fast requirements are judged, and descriptions read.

use std::hint::black_box;
use std::time::Instant;

use anyhow::ensure;
use phantom_classad::{Ad, matches};

use super::{Bound, Report, Row, median};

const BENCH: &str = "classad";
const ROUNDS: usize = 9;
const EVALUATIONS: u32 = 200_000;
const ADS: u32 = 100_000;

/// As a job's submit file makes them.
const REQUIREMENTS: &str = r#"(TARGET.Arch == "X86_64") && (TARGET.OpSys == "LINUX") &&
    (TARGET.Disk >= RequestDisk) && (TARGET.Memory >= RequestMemory) &&
    ((TARGET.FileSystemDomain == MY.FileSystemDomain) || (TARGET.HasFileTransfer))"#;

/// Runs all cases.
pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let job = Ad::parse(&format!(
        "[ RequestDisk = 1024; RequestMemory = 2048; FileSystemDomain = \"example.org\";
           Requirements = {REQUIREMENTS} ]"
    ))?;
    let node = Ad::parse(&machine(7))?;
    ensure!(matches(&job, &node), "they do match");
    let mut samples = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for _ in 0..EVALUATIONS {
            black_box(matches(black_box(&job), black_box(&node)));
        }
        samples.push(begin.elapsed().as_secs_f64() * 1e9 / f64::from(EVALUATIONS));
    }
    let row = Row::new(BENCH, "a job's Requirements", "one evaluation", median(&samples)?, "ns");
    report.row(row.must(Bound::Value(1000.0)))?;

    let texts: Vec<String> = (0..ADS).map(machine).collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    let begin = Instant::now();
    for text in &texts {
        black_box(Ad::parse(text)?);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let case = format!("100,000 descriptions of machines, {} MiB", bytes >> 20);
    report.row(Row::new(BENCH, case, "read", seconds, "s").must(Bound::Value(2.0)))
}

/// The description of a machine, of 20 attributes.
fn machine(number: u32) -> String {
    format!(
        "[ Name = \"slot1@node{number}.example.org\"; Machine = \"node{number}.example.org\";
           Arch = \"X86_64\"; OpSys = \"LINUX\"; OpSysAndVer = \"Debian13\"; Cpus = {};
           TotalCpus = 16; Memory = {}; TotalMemory = 65536; Disk = 209715200; LoadAvg = 0.25;
           Mips = 31000; KFlops = 2400000; State = \"Unclaimed\"; Activity = \"Idle\";
           FileSystemDomain = \"node{number}.example.org\"; HasFileTransfer = true;
           KeyboardIdle = 1200; Start = KeyboardIdle > 900 && LoadAvg < 0.3; Rank = 0.0 ]",
        number % 16 + 1,
        2048 + number % 62 * 1024,
    )
}
