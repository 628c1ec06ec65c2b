use proptest::prelude::*;

use super::*;
use crate::{Course, Use};

const APP: AppId = AppId(1);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn machine(limits: &str) -> Machine {
    let mut machine = Machine::new(Config::default());
    machine.handle_watch(APP, &limits.parse().unwrap(), false);
    machine
}

fn begins(resource: Resource, measured: u64, crossed: u64) -> Crossing {
    let (crossed, since) = (ms(crossed), ms(crossed.saturating_sub(10_000)));
    Crossing { app: APP, resource, over: true, measured, crossed, since }
}

fn ends(resource: Resource, measured: u64, crossed: u64) -> Crossing {
    Crossing { over: false, ..begins(resource, measured, crossed) }
}

fn sample(at: u64, cpu: u32, memory: u64) -> Sample {
    let used = |now| Use { now, peak: now };
    let uses = [used(cpu.into()), used(memory), Use::default(), Use::default(), Use::default()];
    Sample { app: APP, at: ms(at), uses }
}

fn verdict(command: Option<Command>) -> Verdict {
    let Some(Command::Verdict { app, verdict }) = command else { panic!("{command:?}") };
    assert_eq!(app, APP);
    verdict
}

#[test]
fn a_verdict_says_which_limit_by_how_much_since_when() {
    let mut machine = machine("cpu=150%/10s,memory=1GiB");
    let found = machine.handle_crossing(begins(Resource::Cpu, 190, 20_000), ms(20_012));
    let found = verdict(found);
    assert_eq!(found.limit.to_string(), "cpu=150%/10s");
    assert_eq!((found.measured, found.held, found.delay), (190, ms(10_012), ms(12)));
    assert_eq!(machine.exceeded(APP), [(found.limit, ms(10_000))]);

    let found = machine.handle_crossing(begins(Resource::Memory, 2 << 30, 21_000), ms(21_001));
    assert_eq!(verdict(found).limit.resource, Resource::Memory);
}

#[test]
fn one_excursion_one_verdict_and_the_next_one_another() {
    let mut machine = machine("cpu=150%/10s");
    let cpu = Resource::Cpu;
    assert!(machine.handle_crossing(begins(cpu, 160, 100), ms(101)).is_some());
    assert!(machine.handle_crossing(begins(cpu, 170, 200), ms(201)).is_none());
    assert!(machine.handle_crossing(ends(cpu, 130, 300), ms(301)).is_none());
    assert!(machine.exceeded(APP).is_empty());
    assert!(machine.handle_crossing(begins(cpu, 160, 400), ms(401)).is_some());
}

#[test]
fn a_verdict_without_effect_is_renewed_after_the_pause() {
    let mut machine = machine("cpu=150%/10s");
    let cpu = Resource::Cpu;
    assert!(machine.handle_crossing(begins(cpu, 160, 100), ms(101)).is_some());
    machine.rearm(APP, ms(1_000));
    assert_eq!(machine.poll_timeout(), Some(ms(31_000)));
    assert!(machine.handle_timeout(ms(30_999)).is_empty());
    machine.handle_sample(sample(30_000, 180, 0));
    let renewed = machine.handle_timeout(ms(31_002));
    let renewed = verdict(renewed.into_iter().next());
    assert_eq!((renewed.measured, renewed.delay), (180, ms(2)));
    assert!(machine.handle_timeout(ms(40_000)).is_empty());
}

#[test]
fn an_excursion_in_the_pause_waits_for_its_end() {
    let mut machine = machine("cpu=150%/10s");
    let cpu = Resource::Cpu;
    assert!(machine.handle_crossing(begins(cpu, 160, 100), ms(101)).is_some());
    machine.rearm(APP, ms(1_000));
    assert!(machine.handle_crossing(ends(cpu, 130, 2_000), ms(2_001)).is_none());
    assert_eq!(machine.poll_timeout(), None);
    assert!(machine.handle_crossing(begins(cpu, 160, 3_000), ms(3_001)).is_none());
    assert_eq!(machine.handle_timeout(ms(31_000)).len(), 1);
    // And after the pause all is as before.
    assert!(machine.handle_crossing(ends(cpu, 130, 32_000), ms(32_001)).is_none());
    assert!(machine.handle_crossing(begins(cpu, 160, 33_000), ms(33_001)).is_some());
}

#[test]
fn what_concerns_nobody_is_ignored() {
    let mut machine = machine("cpu=150%/10s");
    assert!(machine.handle_crossing(begins(Resource::Memory, 1 << 40, 1), ms(2)).is_none());
    assert!(machine.handle_crossing(begins(Resource::Cpu, 150, 1), ms(2)).is_none());
    let stranger = Crossing { app: AppId(2), ..begins(Resource::Cpu, 160, 1) };
    assert!(machine.handle_crossing(stranger, ms(2)).is_none());
    machine.rearm(AppId(2), ms(3));
    machine.handle_unwatch(APP);
    assert!(machine.handle_crossing(begins(Resource::Cpu, 160, 1), ms(2)).is_none());
    assert_eq!(machine.trend(APP), None);
}

#[test]
fn a_verdict_of_which_nothing_is_heard_is_renewed() {
    let mut machine = machine("cpu=150%/10s");
    assert!(machine.handle_crossing(begins(Resource::Cpu, 160, 100), ms(100)).is_some());
    assert_eq!(machine.poll_timeout(), Some(ms(600_100)));
    assert!(machine.handle_timeout(ms(600_000)).is_empty());
    assert!(machine.handle_timeout(ms(600_100)).is_empty());
    assert_eq!(machine.poll_timeout(), Some(ms(630_100)));
    assert_eq!(machine.handle_timeout(ms(630_100)).len(), 1);
    // An excursion that has ended waits for nothing.
    assert!(machine.handle_crossing(ends(Resource::Cpu, 10, 640_000), ms(640_000)).is_none());
    assert_eq!(machine.poll_timeout(), None);
}

#[test]
fn trends_tell_where_it_is_heading() {
    let mut machine = machine("");
    machine.handle_sample(sample(0, 10, 100));
    assert_eq!(machine.trend(APP).unwrap().of(Resource::Cpu).unwrap().course, Course::Steady);
    for step in 1..100 {
        machine.handle_sample(sample(step * 1_000, 10 + step as u32, 10_000 - step * 90));
    }
    machine.handle_sample(sample(5, 0, 0)); // late, and so of no use
    let trend = machine.trend(APP).unwrap();
    let (cpu, memory) = (trend.of(Resource::Cpu).unwrap(), trend.of(Resource::Memory).unwrap());
    assert_eq!((cpu.level, memory.level, trend.at), (109.0, 1_090.0, ms(99_000)));
    assert_eq!((cpu.course, memory.course), (Course::Rising, Course::Falling));
}

/// What may happen to a machine, a step of virtual time apart.
#[derive(Debug, Clone)]
enum Event {
    /// The use goes to this level, and the monitor reports what that means, this often.
    Use { level: u32, reports: u32 },
    /// A sample of the present level.
    Sample,
    /// The last verdict led to nothing.
    Rearm,
    /// Nothing, for so long.
    Wait { millis: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0u32..300, 1u32..3).prop_map(|(level, reports)| Event::Use { level, reports }),
        Just(Event::Sample),
        Just(Event::Rearm),
        (1u64..40_000).prop_map(|millis| Event::Wait { millis }),
    ]
}

/// Three apps with a limit on stutter and one without; all of the time is lost.
fn stuttering() -> Machine {
    let mut machine = Machine::new(Config::default());
    let limits = "stutter=30%/2s".parse().unwrap();
    for (app, foreign) in [(2, false), (3, false), (4, true)] {
        machine.handle_watch(AppId(app), &limits, foreign);
    }
    machine.handle_watch(APP, &"cpu=100%".parse().unwrap(), false);
    for (app, cpu) in [(1, 400), (2, 20), (3, 50), (4, 10)] {
        machine.handle_sample(Sample { app: AppId(app), ..sample(0, cpu, 1000) });
    }
    machine
}

/// Reads the pressure when it is due until `end`; the CPU is always short.
fn lose(machine: &mut Machine, end: u64) -> Vec<(u64, AppId)> {
    let mut told = Vec::new();
    loop {
        let wanted = [machine.pressure_due(), machine.poll_timeout()];
        let Some(due) = wanted.into_iter().flatten().min() else { return told };
        let now = due.max(ms(1));
        if now > ms(end) {
            return told;
        }
        let pressure = Pressure { at: now, cpu: now, memory: ms(0), disk: ms(0) };
        let found = machine.handle_pressure(pressure, now).into_iter();
        for Command::Verdict { app, verdict } in found.chain(machine.handle_timeout(now)) {
            assert_eq!(verdict.limit.resource, Resource::Stutter);
            assert!(verdict.delay <= ms(50), "{verdict:?}");
            told.push((now.as_millis() as u64 / 1000, app));
        }
    }
}

#[test]
fn of_a_stutter_one_app_is_told_at_a_time_the_foreign_one_first() {
    let mut machine = stuttering();
    assert_eq!(lose(&mut machine, 100_000), [(2, AppId(4)), (32, AppId(3)), (62, AppId(2))]);
    assert_eq!(machine.exceeded(AppId(3)).len(), 1);
    assert!(machine.exceeded(APP).is_empty());
}

#[test]
fn a_stutter_that_nothing_came_of_is_the_next_ones_at_once_and_forgotten_with_the_last_app() {
    let mut machine = stuttering();
    assert_eq!(lose(&mut machine, 2_500), [(2, AppId(4))]);
    machine.rearm(AppId(4), ms(2_500));
    assert_eq!(lose(&mut machine, 3_500), [(2, AppId(3))]);
    for app in [2, 3, 4] {
        machine.handle_unwatch(AppId(app));
    }
    assert_eq!((machine.pressure_due(), machine.poll_timeout()), (None, None));
}

#[test]
fn a_stutter_that_ends_is_over_for_all() {
    let mut machine = stuttering();
    assert_eq!(lose(&mut machine, 2_500), [(2, AppId(4))]);
    for second in 3..8 {
        let calm = Pressure { at: ms(second * 1000), cpu: ms(2_500), memory: ms(0), disk: ms(0) };
        assert_eq!(machine.handle_pressure(calm, ms(second * 1000)), None);
    }
    assert!(machine.exceeded(AppId(4)).is_empty());
    assert_eq!(machine.poll_timeout(), None);
}

proptest! {
    /// An excursion begins above 150 and ends at 135 or below. Each gets its verdict at once, or
    /// when the pause is over; none gets two, but for a rearm; none falls without an excursion. A
    /// rearm after a verdict begins a pause, whether or not its excursion lasts.
    #[test]
    fn exactly_one_verdict_for_each_excursion(events in prop::collection::vec(event(), 1..200)) {
        let mut machine = machine("cpu=150%/10s");
        let (mut now, mut level, mut over) = (ms(60_000), 0, false);
        let (mut owed, mut asked) = (0i32, None);
        let patience = ms(600_000);
        let mut quiet_until = Duration::ZERO;
        for event in events {
            now += ms(1);
            let mut commands = Vec::new();
            match event {
                Event::Use { level: next, reports } => {
                    level = next;
                    let now_over = if over { level > 135 } else { level > 150 };
                    if now_over != over {
                        over = now_over;
                        owed = i32::from(over);
                        let at = now.as_millis() as u64;
                        let cpu = Resource::Cpu;
                        for _ in 0..reports {
                            let report = if over { begins(cpu, level.into(), at) } else { ends(cpu, level.into(), at) };
                            commands.extend(machine.handle_crossing(report, now));
                        }
                    }
                }
                Event::Sample => machine.handle_sample(sample(now.as_millis() as u64, level, 0)),
                Event::Rearm => {
                    machine.rearm(APP, now);
                    if asked.take().is_some() {
                        owed = i32::from(over);
                        quiet_until = now + ms(30_000);
                    }
                }
                Event::Wait { millis } => now += ms(millis),
            }
            commands.extend(machine.handle_timeout(now));
            if over && owed == 1 && now >= quiet_until {
                prop_assert_eq!(commands.len(), 1);
                (owed, asked) = (0, Some(now));
            } else {
                prop_assert_eq!(commands.len(), 0);
                if asked.is_some_and(|asked| asked + patience <= now) {
                    (owed, asked, quiet_until) = (i32::from(over), None, now + ms(30_000));
                }
            }
            let due = if owed == 1 { Some(quiet_until) } else { asked.map(|asked| asked + patience) };
            prop_assert_eq!(machine.poll_timeout(), due.filter(|_| over));
            for Command::Verdict { verdict, .. } in commands {
                prop_assert!(verdict.measured > 150);
            }
        }
    }
}
