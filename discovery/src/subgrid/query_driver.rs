//! The task that owns the machines of queries. It is not the one that owns the group: matching some
//! thousand members by an expression that somebody else has thought of must not delay an election.

use std::sync::Arc;
use std::time::Duration;

use phantom_model::NodeId;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::complaints::Complaints;
use super::driver::{MAX_PARCELS, Parcel, boot_clock};
use super::effort::Effort;
use super::listing::Listing;
use super::questions::{Asked, Deed, Origin, Questions};
use super::{Order, Status};
use crate::fabric::Fabric;
use crate::lanes::Lanes;
use crate::machine::coordinates::Coordinate;
use crate::machine::query::{Message, RegionLink, Request};

/// When nothing is due.
const IDLE: Duration = Duration::from_secs(60);

/// What this task is told.
pub enum Question {
    /// This node asks.
    Ask { request: Request, done: oneshot::Sender<Asked> },
    /// What is known of the region.
    Region { link: RegionLink, near: Option<Coordinate> },
    /// A node has sent this.
    Heard {
        from: NodeId,
        message: Box<Message>,
        origin: Origin,
        listing: Option<Arc<Listing>>,
        /// Given back when it was handled.
        place: Option<OwnedSemaphorePermit>,
    },
}

pub struct QueryDriver {
    fabric: Arc<dyn Fabric>,
    questions: Questions,
    /// To the group's task, which has the registry.
    orders: mpsc::WeakSender<Order>,
    lanes: Lanes,
    effort: Effort,
    complaints: Complaints,
}

impl QueryDriver {
    pub fn new(fabric: Arc<dyn Fabric>, orders: mpsc::WeakSender<Order>) -> Self {
        let questions = Questions::new(fabric.node(), rand::random());
        let (lanes, complaints) = (Lanes::new(MAX_PARCELS), Complaints::default());
        let effort = Effort::default();
        Self { fabric, questions, orders, lanes, effort, complaints }
    }

    /// Until the group's task ends.
    pub async fn run(
        mut self,
        mut status: watch::Receiver<Status>,
        mut asked: mpsc::Receiver<Question>,
    ) {
        let mut changes = self.fabric.changes();
        self.follow_members();
        self.follow(&status.borrow_and_update().clone());
        loop {
            self.act();
            let now = boot_clock();
            let due = self.questions.poll_timeout().map_or(IDLE, |due| due.saturating_sub(now));
            tokio::select! {
                biased;
                changed = status.changed() => match changed {
                    Ok(()) => self.follow(&status.borrow_and_update().clone()),
                    Err(_) => return,
                },
                changed = changes.changed() => match changed {
                    Ok(()) => self.follow_members(),
                    Err(_) => return,
                },
                question = asked.recv() => match question {
                    Some(question) => self.take(question),
                    None => return,
                },
                () = sleep_until(Instant::now() + due) => {}
            }
            // Whoever asks much is not alone on this machine.
            tokio::task::yield_now().await;
        }
    }

    fn follow(&mut self, status: &Status) {
        let super_peer = status.super_peer.map(|(node, _)| node);
        self.questions.handle_standing(status.subgrid, super_peer, boot_clock());
    }

    fn follow_members(&mut self) {
        let members: std::collections::BTreeSet<_> = self.fabric.members().into_iter().collect();
        self.lanes.retain(|node| members.contains(node));
        self.questions.handle_members(members);
    }

    fn take(&mut self, question: Question) {
        let now = boot_clock();
        match question {
            Question::Ask { request, done } => self.questions.handle_request(request, done, now),
            Question::Region { link, near } => self.questions.handle_region(link, near, now),
            Question::Heard { from, message, origin, listing, place } => {
                // Only what is matched takes its time.
                if listing.is_none() || self.effort.may(from, now) {
                    let began = Instant::now();
                    self.questions.handle_message(from, *message, origin, listing.as_deref(), now);
                    self.effort.spend(from, began.elapsed(), now);
                } else if origin == Origin::Inside {
                    let what = "asks for what takes more time than it may: some is not answered";
                    self.complaints.complain(from, what.to_owned(), now);
                }
                drop(place);
            }
        }
    }

    fn act(&mut self) {
        let now = boot_clock();
        if self.questions.poll_timeout().is_some_and(|due| due <= now) {
            self.questions.handle_timeout(now);
        }
        while let Some(deed) = self.questions.poll_deed(now) {
            match deed {
                Deed::Parcel(to, bytes) => self.send(to, bytes),
                Deed::Abroad(to, bytes) => self.fabric.query_abroad(to, bytes),
                Deed::Home(message) => {
                    // When the other task has too much to do, it is asked again.
                    let order = Order::Home(message);
                    self.orders.upgrade().map(|orders| orders.try_send(order));
                }
                Deed::Flooding(node) => {
                    let what = "asks more often than it may: what it asks too much is not answered";
                    self.complaints.complain(node, what.to_owned(), now);
                }
            }
        }
    }

    fn send(&mut self, to: NodeId, bytes: Vec<u8>) {
        let Some(place) = self.lanes.place(to) else { return };
        let Ok(bytes) = postcard::to_stdvec(&Parcel::Query(bytes)) else { return };
        let fabric = self.fabric.clone();
        tokio::spawn(async move {
            fabric.deliver(to, bytes).await;
            drop(place);
        });
    }
}
