//! Services that run wherever the super-peer is, as `[[follow]]` of the policy wants.
//!
//! | file | what it does |
//! |---|---|
//! | `mod.rs` | a task for each service; what is shown of them |
//! | [`hand`] | one service's task: feeds the machine (`discovery`) and does what it says |
//! | [`link`] | starts guards, finds them again, talks to them |
//! | [`place`] | what a service needs of this node |
//! | [`state`] | its files as few bytes, and back |

mod hand;
mod link;
mod place;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use phantom_discovery::machine::follow::{Record, Report, name as key_of};
use phantom_model::Follow;
use tokio::sync::watch;

use super::Daemon;
use super::peers::{Answer, Ask};
use crate::api::types::FollowRow;
use hand::Hand;

/// How often it is looked whether the policy names other services.
const POLICY: Duration = Duration::from_secs(1);
/// How long services have to end when the daemon does. `phantom down` waits a little longer.
const END: Duration = Duration::from_secs(15);
/// How long the super-peer has to tell how they stand.
const ASK: Duration = Duration::from_secs(3);

/// The services this node knows of.
pub struct Follows {
    services: Mutex<BTreeMap<String, Handle>>,
    /// The daemon ends, or leaves its sub-grid.
    ending: watch::Sender<bool>,
}

struct Handle {
    wanted: watch::Sender<Option<Arc<Follow>>>,
    shown: watch::Receiver<Shown>,
}

/// How a service stands on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Shown {
    report: Report,
    /// Nothing of it is here, and nothing is left to be done.
    idle: bool,
}

impl Default for Follows {
    fn default() -> Self {
        Self { services: Mutex::default(), ending: watch::Sender::new(false) }
    }
}

impl Follows {
    fn services(&self) -> MutexGuard<'_, BTreeMap<String, Handle>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self, name: &str) -> Shown {
        self.services().get(name).map(|one| one.shown.borrow().clone()).unwrap_or_default()
    }
}

impl Daemon {
    /// Sees to followed services until the daemon stops.
    pub async fn follow_services(self: Arc<Self>) {
        // Guards that a daemon before has left may hold what the policy no longer names.
        let policy = self.policy();
        for name in link::left(&self.config) {
            let follow = policy.follows.iter().find(|follow| follow.name == name);
            self.follow_one(&name, follow);
        }
        let mut tick = tokio::time::interval(POLICY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let policy = self.policy();
            for follow in &policy.follows {
                self.follow_one(&follow.name, Some(follow));
            }
            let mut services = self.follows.services();
            services.retain(|name, one| {
                if policy.follows.iter().any(|follow| follow.name == *name) {
                    return true;
                }
                one.wanted.send_if_modified(|wanted| wanted.take().is_some());
                // Its task has ended when nobody looks any more.
                one.wanted.receiver_count() > 0
            });
        }
    }

    fn follow_one(self: &Arc<Self>, name: &str, follow: Option<&Follow>) {
        let mut services = self.follows.services();
        let runs = services.get(name).filter(|one| one.wanted.receiver_count() > 0);
        if let Some(one) = runs {
            one.wanted.send_if_modified(|wanted| {
                let differs = wanted.as_deref() != follow;
                if differs {
                    *wanted = follow.cloned().map(Arc::new);
                }
                differs
            });
            return;
        }
        let (wanted, wants) = watch::channel(follow.cloned().map(Arc::new));
        let (show, shown) = watch::channel(Shown::default());
        services.insert(name.to_owned(), Handle { wanted, shown });
        let ending = self.follows.ending.subscribe();
        tokio::spawn(Hand::new(self.clone(), name.to_owned(), wants, ending, show).run());
    }

    /// Stops the services that run here and hands them back, within a bound.
    pub async fn end_services(&self) {
        self.follows.ending.send_replace(true);
        let shown: Vec<_> = self.follows.services().values().map(|one| one.shown.clone()).collect();
        let all = async {
            for mut one in shown {
                let _ = one.wait_for(|shown| shown.idle).await;
            }
        };
        if tokio::time::timeout(END, all).await.is_err() {
            tracing::warn!("a followed service has not ended in time: its guard ends it");
        }
    }

    /// Services may run again: the sub-grid was not left, or another will be joined. Not when the
    /// daemon ends meanwhile.
    pub fn resume_services(&self) {
        self.follows.ending.send_if_modified(|ending| {
            let resumes = *ending && !*self.stop.borrow();
            *ending &= !resumes;
            resumes
        });
    }

    /// Has the group forget a service that the policy does not name any more, so that there is room
    /// for another. Its state stays as long as nobody needs the room.
    async fn make_room(&self) {
        let Some(state) = self.subgrid.state().await else { return };
        let policy = self.policy();
        let is_wanted = |name: &str| policy.follows.iter().any(|follow| follow.name == name);
        if let Some(op) = Record::expendable(&state, is_wanted) {
            match self.subgrid.propose(op).await {
                Ok(_) => {
                    tracing::info!("the state of a service that is followed no more made room")
                }
                Err(error) => tracing::debug!(%error, "no room could be made"),
            }
        }
    }

    /// How the services stand that the policy names: the super-peer knows.
    pub async fn follow_rows(&self) -> Vec<FollowRow> {
        let policy = self.policy();
        if policy.follows.is_empty() {
            return Vec::new();
        }
        let silent = |why: &str| {
            let row = |follow: &Follow| FollowRow {
                name: follow.name.clone(),
                why: Some(why.to_owned()),
                ..FollowRow::default()
            };
            policy.follows.iter().map(row).collect()
        };
        let Some((super_peer, _)) = self.subgrid.status().super_peer else {
            return silent("no super-peer is known here");
        };
        if super_peer == self.node {
            return self.follow_rows_here().await;
        }
        match self.ask(super_peer, &Ask::Follows, ASK).await {
            Ok(Answer::Follows(rows)) => rows,
            _ => silent("the super-peer does not answer"),
        }
    }

    /// As the super-peer: how they stand.
    pub async fn follow_rows_here(&self) -> Vec<FollowRow> {
        let state = self.subgrid.state().await;
        let row = |follow: &Follow| {
            let Shown { report, .. } = self.follows.shown(&follow.name);
            let kept = state.as_ref().and_then(|state| state.get(&key_of(&follow.name)));
            let record = kept.and_then(Record::decode);
            let saved = record.as_ref().and_then(|record| record.saved.as_ref());
            FollowRow {
                name: follow.name.clone(),
                node: report.since_unix_s.map(|_| self.members.name(self.node)),
                since_unix_s: report.since_unix_s,
                stopping: report.stopping,
                why: report.why,
                exit: report.exit.or_else(|| record.as_ref()?.exit.clone()),
                saved_unix_s: saved.map(|saved| saved.unix_s),
                saved_bytes: saved.map(|saved| saved.packed.len() as u64),
                trouble: report.trouble,
            }
        };
        self.policy().follows.iter().map(row).collect()
    }
}
