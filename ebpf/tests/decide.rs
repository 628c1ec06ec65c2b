//! The decisions of the kernel programs, run in the kernel but in virtual time, against exact
//! arithmetic over random loads.

use phantom_ebpf::Monitor;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const CPUS: u64 = 4;
/// Looks are put off to multiples of these.
const FINE: u64 = 5 * MS;
const COARSE: u64 = 25 * MS;
const NO_LIMIT: u64 = u64::MAX;
/// The timer may come this late after a look was due.
const SLACK: u64 = MS;

/// From here on, so much CPU in thousandths of a core, and so many bytes.
#[derive(Debug, Clone, Copy)]
struct Segment {
    length: u64,
    millicores: u64,
    bytes: u64,
}

/// What a capsule used, exactly.
struct Load(Vec<Segment>);

impl Load {
    fn end(&self) -> u64 {
        self.0.iter().map(|segment| segment.length).sum()
    }

    /// Segments with their starts.
    fn placed(&self) -> impl Iterator<Item = (u64, Segment)> {
        self.0.iter().scan(0, |start, segment| {
            let here = *start;
            *start += segment.length;
            Some((here, *segment))
        })
    }

    fn cpu(&self, time: u64) -> u64 {
        let used = self.placed().map(|(start, segment)| {
            let length = time.saturating_sub(start).min(segment.length);
            u128::from(length) * u128::from(segment.millicores) / 1000
        });
        used.sum::<u128>() as u64
    }

    fn bytes(&self, time: u64) -> u64 {
        let mut now = self.placed().take_while(|(start, _)| *start <= time);
        now.by_ref().last().map_or(0, |(_, segment)| segment.bytes)
    }

    /// Since when the bytes have been above `level`, if they are.
    fn above_since(&self, level: u64, time: u64) -> Option<u64> {
        let mut since = None;
        for (start, segment) in self.placed().take_while(|(start, _)| *start <= time) {
            since = if segment.bytes > level { since.or(Some(start)) } else { None };
        }
        since
    }
}

/// The kernel's answer to one look.
struct Look {
    due: u64,
    memory_due: u64,
    used: u64,
    over: bool,
    crossed: u64,
    since: u64,
    memory_over: bool,
    memory_since: u64,
}

#[derive(Debug, Clone, Copy)]
struct Limit {
    level: u64,
    width: u64,
}

fn look(
    monitor: &Monitor,
    first: bool,
    now: u64,
    load: &Load,
    origin: u64,
    (meter, speed): (Limit, u64),
    memory: Limit,
) -> Look {
    let mut words = [0u64; 17];
    words[..9].copy_from_slice(&[
        u64::from(first),
        origin + now,
        load.cpu(now),
        load.bytes(now),
        speed,
        meter.level,
        meter.width,
        memory.level,
        memory.width,
    ]);
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    assert_eq!(monitor.replay(&mut bytes).expect("it runs"), 0);
    let word =
        |index: usize| u64::from_ne_bytes(bytes[index * 8..][..8].try_into().expect("eight bytes"));
    let time = |index| word(index).saturating_sub(origin);
    Look {
        due: time(9),
        memory_due: time(10),
        used: word(11),
        over: word(12) != 0,
        crossed: time(13),
        since: time(14),
        memory_over: word(15) != 0,
        memory_since: time(16),
    }
}

fn replay(test: &str) -> Option<Monitor> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP {test}: needs root");
        return None;
    }
    Some(Monitor::load_with(true).expect("the monitor loads"))
}

fn run<S: Strategy>(strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&strategy, test).unwrap();
}

/// A window, a level, loads that last some part of the window, and how fast the meter can grow, or 0
/// if nobody knows.
fn meter_case() -> impl Strategy<Value = (u64, u64, Vec<Segment>, u64)> {
    let widths = prop_oneof![
        Just(100 * MS),
        (100u64..60_000).prop_map(|millis| millis * MS),
        Just(24 * 3600 * SECOND),
    ];
    let segment = (1u64..1500, prop_oneof![Just(0), 0..=CPUS * 1000]);
    let speeds = prop_oneof![Just(CPUS), Just(0)];
    (widths, 1u64..500, prop::collection::vec(segment, 1..40), speeds).prop_map(
        |(width, percent, parts, speed)| {
            let segments = parts.into_iter().map(|(thousandths, millicores)| Segment {
                length: width / 1000 * thousandths,
                millicores,
                bytes: 0,
            });
            (width, width / 100 * percent, segments.collect(), speed)
        },
    )
}

#[test]
fn meters_are_judged_as_exact_arithmetic_would() {
    let Some(monitor) = replay("meters_are_judged_as_exact_arithmetic_would") else {
        return;
    };
    run(meter_case(), |(width, level, segments, speed)| {
        let load = Load(segments);
        let cpu = Limit { level, width };
        let memory = Limit { level: NO_LIMIT, width: SECOND };
        let origin = 3600 * SECOND;
        let gap = (width / 1000).clamp(5 * MS, 20 * MS) + if speed == 0 { COARSE } else { FINE };
        // Between two marks the load is taken for even.
        let grid = if width / 124 < 2 * COARSE { gap } else { COARSE };
        let error = (width / 124 + grid + SLACK) * CPUS / 4 + width / 60_000 * CPUS + 10;
        let exact = |time: u64| load.cpu(time) - load.cpu(time.saturating_sub(width));
        let (mut now, mut before, mut over) = (0, 0, false);
        for step in 0..5_000u64 {
            let seen = look(&monitor, step == 0, now, &load, origin, (cpu, speed), memory);
            prop_assert!(
                seen.due > now && seen.due <= now + SECOND + COARSE,
                "due {} at {now}",
                seen.due
            );
            let full = now >= width;
            if step > 0 {
                let used = exact(now);
                let apart = seen.used.abs_diff(used);
                prop_assert!(apart <= error, "at {now}: {} for {used}", seen.used);
            }
            if seen.over && !over {
                prop_assert!(full && exact(now) + error > level, "over too soon, at {now}");
                prop_assert!(seen.crossed >= width && seen.crossed <= now);
                prop_assert!(seen.crossed >= before.min(now), "crossed before the last look");
                prop_assert!(seen.since <= now);
            }
            if full && !seen.over {
                // Nor was it exceeded between the looks for longer than the gap allows.
                for part in 0..8 {
                    let time = before.max(width) + now.saturating_sub(before.max(width)) * part / 8;
                    let most = level + error + (gap + SLACK) * CPUS;
                    prop_assert!(over || exact(time) <= most, "missed at {time}");
                }
                prop_assert!(exact(now) <= level + error, "missed at {now}");
            }
            if over && !seen.over {
                prop_assert!(exact(now) <= level - level / 10 + error, "ended early at {now}");
            }
            if seen.over {
                prop_assert!(exact(now) + error > level - level / 10, "not ended at {now}");
            }
            (over, before) = (seen.over, now);
            now = seen.due + step % 2 * SLACK;
            if now > load.end() {
                break;
            }
        }
        Ok(())
    });
}

/// Memory in steps long enough to be seen, while something runs.
fn memory_case() -> impl Strategy<Value = (u64, u64, Vec<Segment>)> {
    let segment = (60u64..3_000, 0u64..4_000, any::<bool>());
    let segments = prop::collection::vec(segment, 1..40).prop_map(|parts| {
        let mut bytes_before = 0;
        let segments = parts.into_iter().map(|(millis, bytes, idle)| {
            // Only who runs can grow.
            let millicores = if idle && bytes <= bytes_before { 0 } else { 10 };
            bytes_before = bytes;
            Segment { length: millis * MS, millicores, bytes }
        });
        segments.collect()
    });
    (100u64..5_000, 0u64..4_000, segments)
        .prop_map(|(millis, level, segments)| (millis * MS, level, segments))
}

#[test]
fn memory_is_judged_as_exact_arithmetic_would() {
    let Some(monitor) = replay("memory_is_judged_as_exact_arithmetic_would") else {
        return;
    };
    run(memory_case(), |(width, level, segments)| {
        let load = Load(segments);
        let cpu = Limit { level: NO_LIMIT, width: 10 * SECOND };
        let memory = Limit { level, width };
        let (mut now, mut over) = (0, false);
        for step in 0.. {
            let seen = look(&monitor, step == 0, now, &load, SECOND, (cpu, CPUS), memory);
            prop_assert!(!seen.over);
            let held = load.above_since(level, now).map(|since| now - since);
            if seen.memory_over && !over {
                prop_assert!(held.is_some_and(|held| held >= width), "over too soon, at {now}");
                prop_assert!(now - seen.memory_since >= width);
            }
            if let Some(held) = held.filter(|held| *held >= width + 50 * MS) {
                prop_assert!(seen.memory_over, "missed at {now}, held for {held}");
            }
            if over && !seen.memory_over {
                prop_assert!(load.bytes(now) <= level - level / 10, "ended early at {now}");
            }
            over = seen.memory_over;
            // The timer looks at least so often whether a capsule with a memory limit runs.
            now = seen.due.min(seen.memory_due.max(now + MS)).min(now + 25 * MS) + step % 2 * SLACK;
            if now > load.end() {
                break;
            }
        }
        Ok(())
    });
}
