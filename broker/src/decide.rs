//! Whether an app moves, and where to.

use std::time::Duration;

use phantom_model::{Bytes, NodeId};

use crate::{Candidate, Estimate, Needs};

/// What stands still beside the transfer: dump, check, restore.
const STANDSTILL_S: f64 = 0.2;
/// A way that was not measured is taken for this slow, bytes a second.
const UNKNOWN_BYTES_PER_S: f64 = 1.25e6;
/// The gain must be this many times the cost.
const MARGIN: f64 = 2.0;
/// A node with less than this share of its cores idle is full.
const FULL: f64 = 0.05;
/// Nobody is helped where the app gets less than this share of what it gets now.
const CRAWL: f64 = 0.25;
/// What its user does not want an app to use here counts so many times: that is what the limit says.
const WISH: f64 = 2.0;
/// What is known of a way to such a factor only is said to be doubtful.
const DOUBTFUL: f64 = 1.5;
/// How far ahead is looked at most and at least: a program that has run for long will, as a rule,
/// run on for as long again.
const HORIZON: [Duration; 2] = [Duration::from_secs(300), Duration::from_secs(3600)];

/// The app, where it is.
#[derive(Debug, Clone)]
pub struct Situation {
    /// What it asks of a node.
    pub needs: Needs,
    /// Cores it uses.
    pub used_cores: f64,
    /// Cores it would use besides, as its threads were ready and waited for one.
    pub waiting_cores: f64,
    /// How many of those its user does not want it to use here.
    pub excess_cores: f64,
    /// Speed of one core here, Mflop/s.
    pub mflops_here: f64,
    /// How long it has run.
    pub ran: Duration,
    /// What has to be sent.
    pub image: Bytes,
}

impl Situation {
    fn wanted_cores(&self) -> f64 {
        (self.used_cores + self.waiting_cores).max(0.1)
    }
}

/// What a node would give.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weight {
    /// Network and Compute Distance Aware rank, 0 to 1: half by compute, half by bandwidth, each
    /// against the best of the candidates (phantomos, section 4.3).
    pub rank: f64,
    /// What the app would get, Mflop/s.
    pub mflops: f64,
    /// The way to it, where known.
    pub way: Option<Estimate>,
    /// How long it would stand still, seconds.
    pub downtime_s: f64,
    /// What is won within the horizon, in seconds of a core of the node it is on.
    pub gain_core_s: f64,
    /// What the move costs, in the same.
    pub cost_core_s: f64,
    /// Whether the gain is twice the cost, and the app would not crawl there.
    pub worth: bool,
}

/// One member, and why it is none or what it would give.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighed {
    /// Which.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its weight, or why it cannot or should not take the app.
    pub outcome: Result<Weight, String>,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// All members but the one it is on, the best first.
    pub weighed: Vec<Weighed>,
    /// Where it shall go.
    pub go: Option<NodeId>,
    /// Why, in one line.
    pub why: String,
}

/// Decides at `now`.
pub fn decide(situation: &Situation, candidates: &[Candidate], now: Duration) -> Decision {
    let needs = &situation.needs;
    let others = candidates.iter().filter(|candidate| candidate.node != needs.host);
    let mut open = Vec::new();
    let mut weighed = Vec::new();
    for candidate in others {
        let mflops = usable_mflops(situation, candidate);
        let refused =
            candidate.refusal(needs).or_else(|| needs.left.refuse(candidate.node, mflops, now));
        match refused {
            None => open.push((candidate, mflops)),
            Some(reason) => weighed.push(Weighed {
                node: candidate.node,
                name: candidate.name.clone(),
                outcome: Err(reason),
            }),
        }
    }
    let best = |of: &dyn Fn(&(&Candidate, f64)) -> f64| {
        open.iter().map(of).fold(0.0, f64::max).max(f64::MIN_POSITIVE)
    };
    let most_mflops = best(&|(_, mflops)| *mflops);
    let rate = |candidate: &Candidate| known(candidate.link.way.map(|way| way.bytes_per_s));
    let most_bytes = best(&|(candidate, _)| rate(candidate));
    let ranked = open.iter().map(|(candidate, mflops)| {
        let rank = 0.5 * mflops / most_mflops + 0.5 * rate(candidate) / most_bytes;
        let weight = weigh(situation, candidate, *mflops, rank);
        Weighed { node: candidate.node, name: candidate.name.clone(), outcome: Ok(weight) }
    });
    let mut ranked: Vec<Weighed> = ranked.collect();
    // Of equals the lower id, so that it is the same one each time.
    ranked.sort_by(|a, b| rank(b).total_cmp(&rank(a)).then(a.node.cmp(&b.node)));
    let by_compute = ranked
        .iter()
        .max_by(|a, b| mflops(a).total_cmp(&mflops(b)).then(rank(a).total_cmp(&rank(b))))
        .map(|weighed| weighed.name.clone());
    let worth =
        ranked.iter().find(|weighed| weighed.outcome.as_ref().is_ok_and(|weight| weight.worth));
    let (go, why) = match (worth, ranked.first()) {
        (Some(chosen), _) => (Some(chosen.node), chosen_words(chosen, &ranked, by_compute)),
        (None, Some(first)) => (None, stays_words(situation, first)),
        (None, None) => (None, nobody_words(&weighed)),
    };
    ranked.append(&mut weighed);
    Decision { weighed: ranked, go, why }
}

/// Mflop/s the app would get: its fair share, beside what runs there already, of as many cores as
/// it uses here or waits for.
fn usable_mflops(situation: &Situation, candidate: &Candidate) -> f64 {
    let Some(facts) = &candidate.facts else { return 0.0 };
    let standing = &candidate.standing;
    let (cores, wanted) = (f64::from(facts.cores), situation.wanted_cores());
    let idle = f64::from(facts.idle_centicores) / 100.0;
    let busy = (cores - idle).max(0.0);
    // Where nothing is idle, the load says how many wait.
    let others =
        if idle < FULL * cores { busy.max(f64::from(facts.load_centi) / 100.0) } else { busy };
    let share = standing.kept() * wanted * (cores / (others + wanted)).min(1.0);
    share * standing.mflops(f64::from(facts.mflops), situation.mflops_here)
}

fn known(bytes_per_s: Option<f64>) -> f64 {
    bytes_per_s.filter(|rate| rate.is_finite() && *rate >= 1.0).unwrap_or(UNKNOWN_BYTES_PER_S)
}

fn weigh(situation: &Situation, candidate: &Candidate, mflops: f64, rank: f64) -> Weight {
    let here = situation.mflops_here.max(1.0);
    let used = situation.used_cores.max(0.1);
    let horizon = situation.ran.clamp(HORIZON[0], HORIZON[1]).as_secs_f64();
    let round_trips = 4.0 * candidate.link.rtt.unwrap_or_default().as_secs_f64();
    let bytes_per_s = known(candidate.link.way.map(|way| way.bytes_per_s));
    let sending = situation.image.0 as f64 / bytes_per_s;
    let downtime_s = STANDSTILL_S + round_trips + sending;
    let faster = mflops / here - used;
    let gain_core_s = horizon * (faster + WISH * situation.excess_cores);
    let cost_core_s = downtime_s * used;
    let now = situation.used_cores * situation.mflops_here;
    Weight {
        rank,
        mflops,
        way: candidate.link.way,
        downtime_s,
        gain_core_s,
        cost_core_s,
        worth: gain_core_s > MARGIN * cost_core_s && mflops >= CRAWL * now,
    }
}

fn rank(weighed: &Weighed) -> f64 {
    weighed.outcome.as_ref().map_or(0.0, |weight| weight.rank)
}

fn mflops(weighed: &Weighed) -> f64 {
    weighed.outcome.as_ref().map_or(0.0, |weight| weight.mflops)
}

impl Weight {
    /// Its figures, as people read them.
    pub fn words(&self) -> String {
        let way = match self.way {
            Some(way) if way.doubt >= DOUBTFUL => format!(
                "{}/s (give or take a factor of {:.1})",
                Bytes(way.bytes_per_s as u64),
                way.doubt
            ),
            Some(way) => format!("{}/s", Bytes(way.bytes_per_s as u64)),
            None => "a way that was not measured".to_owned(),
        };
        format!(
            "rank {:.2}: {:.0} Mflop/s for it, {way}, {} of standstill",
            self.rank,
            self.mflops,
            seconds(self.downtime_s)
        )
    }

    /// What is won against what it costs, as people read it.
    pub fn balance(&self) -> String {
        format!(
            "{} of standstill for {:.0} s of a core gained",
            seconds(self.downtime_s),
            self.gain_core_s.max(0.0)
        )
    }
}

fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}

fn chosen_words(chosen: &Weighed, ranked: &[Weighed], by_compute: Option<String>) -> String {
    let Ok(weight) = &chosen.outcome else { return String::new() };
    let mut words = format!("{}: {}", chosen.name, weight.words());
    words += &match ranked.len() {
        1 => ", the only one that can take it".to_owned(),
        count => format!(", best of {count}"),
    };
    if let Some(other) = by_compute.filter(|other| *other != chosen.name)
        && let Some(Ok(weight)) =
            ranked.iter().find(|weighed| weighed.name == other).map(|weighed| &weighed.outcome)
    {
        words += &format!("; by compute alone it would be {other} ({})", weight.words());
    }
    words
}

fn stays_words(situation: &Situation, best: &Weighed) -> String {
    let Ok(weight) = &best.outcome else { return String::new() };
    let now = situation.used_cores * situation.mflops_here;
    if weight.mflops < CRAWL * now {
        return format!(
            "no node would do better: {}, the best, has {:.0} Mflop/s for it, and it gets {now:.0} \
             here",
            best.name, weight.mflops
        );
    }
    format!(
        "moving would cost more than it gains: to {}, the best, {}",
        best.name,
        weight.balance()
    )
}

fn nobody_words(refused: &[Weighed]) -> String {
    let reasons: Vec<String> = refused
        .iter()
        .filter_map(|weighed| {
            let reason = weighed.outcome.as_ref().err()?;
            Some(format!("{} {reason}", weighed.name))
        })
        .take(3)
        .collect();
    match reasons.len() {
        0 => "there is no other node; `sudo phantom up` on another machine makes one".to_owned(),
        _ => format!("no other node can take it: {}", reasons.join("; ")),
    }
}

#[cfg(test)]
mod tests;
