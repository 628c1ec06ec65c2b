//! Which requests of a session are running and which replies it must still be able to give:
//! what makes every operation happen exactly once. No I/O.

use std::collections::{BTreeMap, BTreeSet};

/// What to do with a request that has come in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<R> {
    /// It is new (or harmless to repeat): carry it out.
    Run,
    /// It has been carried out: say this again.
    Again(R),
    /// It is being carried out, its reply will come; or the client has its reply already.
    Ignore,
    /// The client has left too many replies unanswered, or broke the order: end the connection.
    Refuse,
}

/// The journal of one session. `R` is a kept reply, cheap to clone.
#[derive(Debug)]
pub(super) struct Journal<R> {
    answered_below: u64,
    running: BTreeSet<u64>,
    kept: BTreeMap<u64, (R, usize)>,
    kept_bytes: usize,
    limits: Limits,
}

/// What one client may leave unacknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Replies kept and requests running.
    pub(super) requests: usize,
    /// Bytes of replies kept.
    pub(super) bytes: usize,
}

impl<R: Clone> Journal<R> {
    /// Nothing has come in yet.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            answered_below: 0,
            running: BTreeSet::new(),
            kept: BTreeMap::new(),
            kept_bytes: 0,
            limits,
        }
    }

    /// A request `id` came in, with the client's word that it has all replies below
    /// `answered_below`.
    pub(super) fn arrived(&mut self, id: u64, answered_below: u64) -> Verdict<R> {
        if answered_below > self.answered_below {
            self.answered_below = answered_below;
            let later = self.kept.split_off(&answered_below);
            let done = std::mem::replace(&mut self.kept, later);
            self.kept_bytes -= done.values().map(|(_, bytes)| bytes).sum::<usize>();
        }
        if id < self.answered_below || self.running.contains(&id) {
            return Verdict::Ignore;
        }
        if let Some((reply, _)) = self.kept.get(&id) {
            return Verdict::Again(reply.clone());
        }
        let requests = self.running.len() + self.kept.len();
        if requests >= self.limits.requests || self.kept_bytes >= self.limits.bytes {
            return Verdict::Refuse;
        }
        self.running.insert(id);
        Verdict::Run
    }

    /// Request `id` has been carried out. `keep` is its reply and how many bytes that takes,
    /// unless it may be repeated.
    pub(super) fn finished(&mut self, id: u64, keep: Option<(R, usize)>) {
        self.running.remove(&id);
        if let Some((reply, bytes)) = keep
            && id >= self.answered_below
            && self.kept.insert(id, (reply, bytes)).is_none()
        {
            self.kept_bytes += bytes;
        }
    }

    /// Whether nothing runs.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One step of a client whose stream may be cut at any point.
    #[derive(Debug, Clone)]
    enum Step {
        Send,
        Execute(usize),
        Deliver(usize),
        Cut,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Send),
            4 => (0..8usize).prop_map(Step::Execute),
            4 => (0..8usize).prop_map(Step::Deliver),
            1 => Just(Step::Cut),
        ]
    }

    #[derive(Default)]
    struct World {
        next: u64,
        unanswered: BTreeSet<u64>,
        to_server: Vec<(u64, u64)>,
        executing: Vec<u64>,
        to_client: Vec<u64>,
        executed: BTreeMap<u64, u32>,
        answered: BTreeSet<u64>,
    }

    impl World {
        fn answered_below(&self) -> u64 {
            self.unanswered.first().copied().unwrap_or(self.next)
        }

        fn send(&mut self, id: u64) {
            let below = self.answered_below();
            self.to_server.push((id, below));
        }

        fn arrive_all(&mut self, journal: &mut Journal<u64>) {
            for (id, below) in std::mem::take(&mut self.to_server) {
                match journal.arrived(id, below) {
                    Verdict::Run => self.executing.push(id),
                    Verdict::Again(reply) => self.to_client.push(reply),
                    Verdict::Ignore => {}
                    Verdict::Refuse => panic!("refused"),
                }
            }
        }

        fn execute(&mut self, journal: &mut Journal<u64>, at: usize) {
            if self.executing.is_empty() {
                return;
            }
            let id = self.executing.remove(at % self.executing.len());
            *self.executed.entry(id).or_default() += 1;
            journal.finished(id, Some((id, 10)));
            self.to_client.push(id);
        }

        fn deliver(&mut self, at: usize) {
            if self.to_client.is_empty() {
                return;
            }
            let id = self.to_client.remove(at % self.to_client.len());
            self.unanswered.remove(&id);
            self.answered.insert(id);
        }

        /// Everything on the way is lost; what has no reply is sent again.
        fn cut(&mut self) {
            self.to_server.clear();
            self.to_client.clear();
            for id in self.unanswered.clone() {
                self.send(id);
            }
        }
    }

    proptest! {
        #[test]
        fn every_operation_happens_exactly_once(steps in proptest::collection::vec(step(), 1..200)) {
            let mut journal = Journal::new(Limits { requests: 4096, bytes: usize::MAX });
            let mut world = World { next: 1, ..World::default() };
            for step in steps {
                match step {
                    Step::Send => {
                        let id = world.next;
                        world.next += 1;
                        world.unanswered.insert(id);
                        world.send(id);
                    }
                    Step::Execute(at) => {
                        world.arrive_all(&mut journal);
                        world.execute(&mut journal, at);
                    }
                    Step::Deliver(at) => world.deliver(at),
                    Step::Cut => world.cut(),
                }
            }
            world.cut();
            world.arrive_all(&mut journal);
            while !world.executing.is_empty() {
                world.execute(&mut journal, 0);
            }
            while !world.to_client.is_empty() {
                world.deliver(0);
            }
            prop_assert!(world.unanswered.is_empty());
            for id in 1..world.next {
                prop_assert_eq!(world.executed.get(&id), Some(&1), "operation {}", id);
            }
            prop_assert!(journal.is_idle());
            // The next request tells that all replies came, so nothing is kept for them.
            journal.arrived(world.next, world.next);
            prop_assert!(journal.kept.is_empty());
            prop_assert_eq!(journal.kept_bytes, 0);
        }
    }

    #[test]
    fn a_client_that_never_acknowledges_is_refused() {
        let mut journal = Journal::new(Limits { requests: 3, bytes: 100 });
        for id in 1..=3 {
            assert_eq!(journal.arrived(id, 1), Verdict::Run);
            journal.finished(id, Some((id, 1)));
        }
        assert_eq!(journal.arrived(4, 1), Verdict::Refuse);
        assert_eq!(journal.arrived(4, 3), Verdict::Run);
        assert_eq!(journal.arrived(2, 1), Verdict::Ignore);
        assert_eq!(journal.arrived(3, 1), Verdict::Again(3));
        journal.finished(4, Some((4, 200)));
        assert_eq!(journal.arrived(5, 4), Verdict::Refuse, "too many bytes");
        assert_eq!(journal.arrived(5, 5), Verdict::Run);
    }
}
