//! A member has its description registered with whoever is super-peer.
//!
//! ```text
//!  new super-peer ─▶ Refresh ── has it ──────────────────▶ Registered ─▶ quiet, Refresh each minute
//!                       └───── has it not ─▶ SendWhole ─▶ Whole ─▶ Registered
//!  description changes ─▶ Change (difference to what was acknowledged) ─▶ Registered
//!                                                       └ other base ─▶ SendWhole ─▶ …
//! ```
//!
//! What holds:
//! - Nobody but the super-peer is answered, and in no mandate but its latest: an acknowledgement
//!   from an earlier time of office of the same node counts for nothing.
//! - One message in [`PACE`] at most, besides an answer to `SendWhole`, of which there is one in
//!   [`PACE`] as well. Of several changes the last is sent.
//! - A message is repeated, with back-off, until it is acknowledged.
//! - A registry that has a later version than the member knows of (its disk was lost, its clock went
//!   back) makes the member count on from there, so it is never locked out.

use std::collections::VecDeque;
use std::time::Duration;

use phantom_model::NodeId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Command;
use super::description::{Attributes, Description, Difference, Version};
use super::message::Message;
use super::retry::Retry;
use crate::machine::Mandate;

/// How long passes at least between two messages.
pub const PACE: Duration = Duration::from_secs(1);
/// How often the super-peer is told that nothing has changed; a fifth more or less.
pub const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// The longest pause before a message is repeated; up to a quarter more.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// All members learn of a new super-peer at once, and tell it within this time.
const SPREAD: Duration = Duration::from_millis(300);

/// The machine of every member.
#[derive(Debug)]
pub struct Registrant {
    description: Description,
    super_peer: Option<(NodeId, Mandate)>,
    latest: Mandate,
    /// What the super-peer is known to have.
    base: Option<Description>,
    /// What was sent last.
    sent: Option<Description>,
    /// Counts messages.
    messages: u64,
    /// Whether the super-peer wants all of it.
    whole: bool,
    /// The message that is not acknowledged yet.
    unanswered: Option<Retry>,
    /// When the next message goes out, if none waits for its answer.
    next: Option<Duration>,
    last_sent: Option<Duration>,
    last_whole: Option<Duration>,
    /// Which message that was.
    whole_sent: u64,
    commands: VecDeque<Command>,
    rng: StdRng,
}

impl Registrant {
    /// A member without attributes and without a super-peer. `boot` is higher than at every start
    /// before, as far as the node knows; `seed` is random.
    pub fn new(boot: u64, seed: [u8; 32]) -> Self {
        Self {
            description: Description {
                version: Version { boot, seq: 0 },
                attributes: Attributes::default(),
            },
            super_peer: None,
            latest: Mandate::default(),
            base: None,
            sent: None,
            messages: 0,
            whole: false,
            unanswered: None,
            next: None,
            last_sent: None,
            last_whole: None,
            whole_sent: 0,
            commands: VecDeque::new(),
            rng: StdRng::from_seed(seed),
        }
    }

    /// What the member says of itself now.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Whether the super-peer is known to have it.
    pub fn is_registered(&self) -> bool {
        self.super_peer.is_some() && self.base.as_ref() == Some(&self.description)
    }

    /// The member says this of itself from now on.
    pub fn handle_attributes(&mut self, attributes: Attributes, now: Duration) {
        if self.description.attributes == attributes {
            return;
        }
        self.description.attributes = attributes;
        self.description.version = after(self.description.version);
        self.hurry(now);
    }

    /// This node is super-peer, or nobody is. One of an earlier mandate than was heard of is none.
    pub fn handle_super_peer(&mut self, super_peer: Option<(NodeId, Mandate)>, now: Duration) {
        if super_peer.is_some_and(|(_, mandate)| mandate < self.latest)
            || super_peer == self.super_peer
        {
            return;
        }
        self.super_peer = super_peer;
        (self.base, self.sent, self.unanswered, self.whole) = (None, None, None, false);
        self.next = None;
        if let Some((_, mandate)) = super_peer {
            self.latest = mandate;
            self.next = Some(now + SPREAD.mul_f64(self.rng.random()));
        }
    }

    /// `from` has sent this.
    pub fn handle_message(&mut self, from: NodeId, message: &Message, now: Duration) {
        let ours = |mandate: &Mandate| self.super_peer == Some((from, *mandate));
        match message {
            Message::Registered { mandate, version } if ours(mandate) => {
                self.acknowledged(*version, now);
            }
            // It was sent since, if the question was late.
            Message::SendWhole { mandate, sent } if ours(mandate) && *sent > self.whole_sent => {
                (self.base, self.whole) = (None, true);
                let earliest = self.last_whole.map_or(now, |last| last + PACE);
                self.unanswered = Some(Retry::new(earliest.max(now)));
                if earliest <= now {
                    self.send(now);
                }
            }
            Message::Outdated { mandate, held, digest } if ours(mandate) => {
                // What is older answers a message that was overtaken by a later one, and so does
                // this very description: then it is there.
                if *held == self.description.version && *digest == self.description.digest() {
                    self.acknowledged(*held, now);
                } else if *held >= self.description.version {
                    let boot = held.boot.saturating_add(1);
                    self.description.version = Version { boot, seq: 0 };
                    self.hurry(now);
                }
            }
            _ => {}
        }
    }

    fn acknowledged(&mut self, version: Version, now: Duration) {
        let known = [Some(&self.description), self.sent.as_ref()];
        let known = known.into_iter().flatten().find(|known| known.version == version);
        // Of what was sent before that, another answer will come.
        let Some(known) = known.cloned() else { return };
        (self.base, self.whole, self.unanswered) = (Some(known), false, None);
        if version == self.description.version {
            let pause = KEEP_ALIVE.mul_f64(self.rng.random_range(0.8..1.2));
            self.next = Some(now + pause);
        } else {
            self.next = None;
            self.hurry(now);
        }
    }

    /// Has the next message go out as soon as the pace allows, if none waits for its answer: that
    /// one is repeated with what is new by then.
    fn hurry(&mut self, now: Duration) {
        if self.super_peer.is_some() && self.unanswered.is_none() {
            let at = self.last_sent.map_or(now, |last| now.max(last + PACE));
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
    }

    /// When [`Registrant::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.unanswered.map(|retry| retry.at).or(self.next)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.send(now);
        }
    }

    fn send(&mut self, now: Duration) {
        let Some((to, _)) = self.super_peer else { return };
        self.messages += 1;
        let message = self.message(now);
        self.commands.push_back(Command::Send { to, message });
        self.sent = Some(self.description.clone());
        self.last_sent = Some(now);
        let mut retry = self.unanswered.unwrap_or(Retry::new(now));
        retry.again(PACE, LONGEST_PAUSE, now);
        retry.at += (retry.at - now).mul_f64(self.rng.random_range(0.0..0.25));
        self.unanswered = Some(retry);
        self.next = None;
    }

    fn message(&mut self, now: Duration) -> Message {
        let (sent, description) = (self.messages, &self.description);
        let changed = self.base.as_ref().filter(|base| base.version != description.version);
        let change = changed.map(|base| Difference::between(base, description));
        if let Some(difference) = change
            && difference.len() < description.attributes.bytes().max(1)
        {
            return Message::Change { sent, difference };
        }
        if self.whole || changed.is_some() {
            (self.last_whole, self.whole_sent) = (Some(now), sent);
            let (description, digest) = (description.clone(), description.digest());
            return Message::Whole { sent, description, digest };
        }
        Message::Refresh { sent, version: description.version, digest: description.digest() }
    }

    /// What is to be done, one at a time until there is nothing more.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }
}

fn after(version: Version) -> Version {
    match version.seq.checked_add(1) {
        Some(seq) => Version { seq, ..version },
        None => Version { boot: version.boot.saturating_add(1), seq: 0 },
    }
}

#[cfg(test)]
mod tests;
