//! Placing a job allocates nothing, once a broker has had as many jobs at a time before.

mod os;

use phantom_broker::policy::{Adaptive, Command, Event, News, Policy, Profile, Random};
use phantom_broker::sim::{Discipline, Happened, World};
use phantom_broker::{Grid, GridNode, Job};

#[global_allocator]
static ALLOCATOR: os::Counting = os::Counting;

const NODES: usize = 500;
const JOBS: u32 = 12_000;

fn grid(random: &mut Random) -> Grid {
    let node = |_| GridNode {
        flops_per_s: random.between(1e4, 1e8),
        bytes_per_s: random.between(7e3, 1e7),
        latency_s: 0.01,
        site: None,
    };
    Grid { nodes: (0..NODES).map(node).collect(), trunks: Vec::new() }
}

/// What the broker allocates while the second half of the jobs comes; `stale` delays all news.
fn allocations(stale: bool) -> u64 {
    let mut random = Random::new(11);
    let grid = grid(&mut random);
    let job = Job { flops: 1e9, bytes: 1e9 };
    let alone =
        |node: &GridNode| 1.0 / (job.flops / node.flops_per_s).max(job.bytes / node.bytes_per_s);
    let rate = 0.8 * grid.nodes.iter().map(alone).sum::<f64>();
    let mut world = World::new(&grid, Discipline::Fifo);
    let mut broker = Adaptive::new(&grid, 1);
    let (mut now, mut counted) = (0.0, 0);
    let age_s = if stale { 4.0 * NODES as f64 / rate } else { 0.0 };
    let mut news = std::collections::VecDeque::new();
    for id in 0..JOBS {
        now -= (1.0 - random.unit()).ln() / rate;
        let mut placed = Vec::new();
        let mut counts = |work: &mut dyn FnMut()| {
            let before = os::allocations();
            work();
            counted += if id < JOBS / 2 { 0 } else { os::allocations() - before };
        };
        let give = |world: &mut World, placed: &mut Vec<(u32, u32)>| {
            placed.drain(..).for_each(|(id, node)| world.dispatch(id, job, node));
        };
        placed.reserve(NODES);
        while let Some(at) = world.next().filter(|at| *at <= now) {
            while let Some(happened) = world.advance(at) {
                news.push_back((
                    at,
                    match happened {
                        Happened::Sent { job, node } => Event::Sent { job, node },
                        Happened::Finished { job, node } => Event::Finished { job, node },
                    },
                ));
            }
            while let Some((at, event)) = news.front().copied().filter(|(at, _)| at + age_s <= now)
            {
                news.pop_front();
                let now = at + age_s;
                counts(&mut || {
                    broker.told(&News { event, at, own: true }, now);
                    while let Some(command) = broker.release(now) {
                        if let Command::Give { job, node } = command {
                            placed.push((job, node));
                        }
                    }
                });
            }
            give(&mut world, &mut placed);
        }
        counts(&mut || {
            if let Some(node) = broker.choose(id, &Profile::exact(job), now) {
                placed.push((id, node));
            }
            while let Some(command) = broker.release(now) {
                if let Command::Give { job, node } = command {
                    placed.push((job, node));
                }
            }
        });
        give(&mut world, &mut placed);
    }
    counted
}

#[test]
fn placing_a_job_allocates_nothing() {
    // Such a test counts itself: a vector is seen.
    let before = os::allocations();
    drop(std::hint::black_box(vec![1u8; 10]));
    assert!(os::allocations() > before);
    assert_eq!(allocations(false), 0, "fresh news");
    assert_eq!(allocations(true), 0, "stale news");
}
