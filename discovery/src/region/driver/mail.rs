//! Letters to and from nodes of other sub-grids.

use std::sync::Arc;
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use tokio::sync::{Semaphore, oneshot};

use super::Driver;
use crate::machine::query;
use crate::machine::region::catalogue::RegionReport;
use crate::machine::region::report::{Receipt, Report};
use crate::region::letter::{Letter, Parcel, Question, Reply};
use crate::region::{Reach, Seat, View, Word};

/// How long a question to another node may take.
const ASK: Duration = Duration::from_secs(5);
/// How often it is looked which virtual organisations others do not know, and how often they are told
/// all anew.
const TELL: Duration = Duration::from_secs(10);
const TELL_ANEW: Duration = Duration::from_secs(600);
/// Letters on their way to one node, at most; more are lost.
pub const MAX_LETTERS: usize = 32;
/// Documents of virtual organisations that are being written to the disk, at most.
pub const MAX_LEARNING: usize = 16;
/// Nodes to which letters are on their way, at most.
const MAX_LANES: usize = 2048;

impl Driver {
    pub(super) async fn open(&mut self, from: NodeId, subgrid: SubgridId, letter: Letter) {
        let now = self.now();
        let Some(part) = &mut self.part else { return };
        match letter {
            Letter::Word(mut word) => {
                if let Word::Hail(hail) = &mut word {
                    // What nobody could let in takes no place among those that ask.
                    let keys = part.charter.as_ref().map(|charter| charter.keys.clone());
                    let keys = keys.unwrap_or_else(|| vec![part.record.key]);
                    let read = |key| self.abroad.registration(&hail.registration, subgrid, key);
                    if !keys.into_iter().any(|key| read(key).is_ok()) {
                        hail.registration.clear();
                    }
                }
                part.assembly.handle_word(from, subgrid, word, now);
            }
            Letter::Charter(bytes) => {
                if let Err(error) = self.adopt(&bytes).await {
                    self.complain(subgrid, format!("shows a charter that is none: {error}"));
                }
            }
            Letter::Report(bytes) => {
                let speaks = part.assembly.hear(from, subgrid, now);
                let report = Report::read(&bytes).filter(|it| it.subgrid == subgrid && speaks);
                let (Some(report), Some(office)) = (report, &mut part.office) else { return };
                match office.catalogue.handle_report(from, &report, now) {
                    Ok(receipt) => self.post(from, Letter::Receipt(receipt.to_bytes())),
                    Err(error) => self.complain(subgrid, error.to_string()),
                }
            }
            Letter::Receipt(bytes) => {
                if let Some(receipt) = Receipt::read(&bytes) {
                    part.reporter.handle_receipt(from, &receipt, now);
                }
            }
            Letter::Region { report, charter } => {
                self.open_report(from, subgrid, &report, &charter);
            }
            Letter::Organisation(document) => {
                if part.assembly.hear(from, subgrid, now) {
                    self.learn_organisation(subgrid, document);
                }
            }
            Letter::Query { message, hints } => {
                // Strangers would have true ones forgotten.
                if part.knows(from) {
                    hints.into_iter().for_each(|reach| part.hints.learn(reach));
                }
                self.take_query(from, subgrid, message).await;
            }
        }
    }

    /// In a task of its own: it may have to wait for the disk. Of sub-grids that are no sites nothing
    /// is taken, or one site could fill the places of all.
    fn learn_organisation(&self, subgrid: SubgridId, document: Vec<u8>) {
        let Some(charter) = self.part.as_ref().and_then(|part| part.charter.as_ref()) else {
            return;
        };
        // Lost, it is told again.
        let Ok(place) = self.learning.clone().try_acquire_owned() else { return };
        let owners = charter.sites.keys().copied().collect();
        let abroad = self.abroad.clone();
        tokio::spawn(async move {
            if let Err(error) = abroad.learn_organisation(document, &owners).await {
                let subgrid = subgrid.short();
                tracing::debug!(%subgrid, error, "a virtual organisation was not taken over");
            }
            drop(place);
        });
    }

    /// A super-peer tells its region-peer what virtual organisations it knows of, and that one all
    /// sites.
    pub(super) fn tell_organisations(&mut self) {
        let now = self.now();
        let Some(part) = self.part.as_mut().filter(|part| part.next_tell <= now) else { return };
        part.next_tell = now + TELL;
        if part.tell_anew <= now {
            // A letter may have been lost.
            part.tell_anew = now + TELL_ANEW;
            part.told.clear();
        }
        let Some((region_peer, _)) = part.assembly.region_peer() else { return };
        let own = self.abroad.node();
        let to: Vec<Reach> = match region_peer.node == own {
            true => {
                let rows = part.assembly.directory(now).into_iter();
                let alive = rows.filter(|row| row.alive && row.seat.node != own);
                alive.map(|row| row.seat.to_reach()).collect()
            }
            false => vec![region_peer.to_reach()],
        };
        for document in self.abroad.organisations() {
            let digest = *blake3::hash(&document).as_bytes();
            for reach in &to {
                let Some(part) = &mut self.part else { return };
                if part.told.insert((reach.node, digest)) {
                    self.post_to(reach.clone(), Letter::Organisation(document.clone()));
                }
            }
        }
    }

    pub(super) fn open_report(
        &mut self,
        from: NodeId,
        subgrid: SubgridId,
        report: &[u8],
        charter: &[u8],
    ) {
        let now = self.now();
        let Some(office) = self.part.as_mut().and_then(|part| part.office.as_mut()) else { return };
        let Some(report) = RegionReport::read(report) else { return };
        if !charter.is_empty()
            && let Ok(charter) = self.abroad.charter(charter)
        {
            let replaces = |new: &_, known: &_| self.abroad.replaces(new, known);
            office.neighbours.handle_shown(from, subgrid, charter, replaces, now);
        }
        // Where it is, its connection tells.
        let from = Reach { node: from, subgrid: Some(subgrid), addrs: Vec::new() };
        office.neighbours.handle_report(from, &report, &mut office.catalogue, now);
    }

    /// A message of a query has come from another sub-grid.
    pub(super) async fn take_query(&mut self, from: NodeId, subgrid: SubgridId, bytes: Vec<u8>) {
        let now = self.now();
        let Some(part) = &mut self.part else { return };
        let Some(message) = query::Message::read(&bytes) else {
            return self.complain(subgrid, "sends a query that is none".to_owned());
        };
        match &message {
            query::Message::Refer(..) => {
                let Some(office) = &mut part.office else { return };
                office.queries.handle_message(from, message, &mut office.catalogue, now);
            }
            query::Message::Forward(_, forward) => {
                let by_region_peer =
                    part.assembly.region_peer().is_some_and(|(seat, _)| seat.node == from);
                if by_region_peer && forward.subgrid == part.subgrid {
                    self.subgrid.take_query(from, bytes).await;
                }
            }
            // These carry a ticket.
            query::Message::Answer(_) | query::Message::Referral(_) => {
                self.subgrid.take_query(from, bytes).await;
            }
            query::Message::Ask(_) => {}
        }
    }

    /// This node's own machines send a message of a query.
    pub(super) fn pass_query(&mut self, from: NodeId, to: NodeId, bytes: Vec<u8>) {
        let (own, now) = (self.abroad.node(), self.now());
        let Some(part) = &mut self.part else { return };
        let Some(message) = query::Message::read(&bytes) else { return };
        if to == own {
            match &message {
                query::Message::Refer(..) => {
                    let Some(office) = &mut part.office else { return };
                    office.queries.handle_message(from, message, &mut office.catalogue, now);
                }
                _ => {
                    let subgrid = self.subgrid.clone();
                    tokio::spawn(async move { subgrid.take_query(from, bytes).await });
                }
            }
            return;
        }
        // Whom it may have to be answered to is told along.
        let reply_to = match &message {
            query::Message::Refer(_, errand) => Some(errand.reply_to),
            query::Message::Forward(_, forward) => Some(forward.reply_to),
            _ => None,
        };
        let hints = reply_to.filter(|node| *node != to).and_then(|node| match node == own {
            true => part.assembly.seat(part.subgrid).map(Seat::to_reach),
            false => part.reach(node),
        });
        let hints = hints.into_iter().collect();
        if let Some(reach) = part.reach(to) {
            self.post_to(reach, Letter::Query { message: bytes, hints });
        }
    }

    pub(super) fn answer(
        &mut self,
        _from: NodeId,
        subgrid: SubgridId,
        question: Question,
    ) -> Reply {
        let now = self.now();
        let Some(part) = &self.part else {
            return Reply::Refused("this node answers for no sub-grid of a region now".to_owned());
        };
        match (question, &part.charter) {
            (Question::Who, Some(charter)) => Reply::Known {
                charter: charter.bytes.clone(),
                region_peer: part.assembly.region_peer().map(|(seat, at)| (seat.clone(), at)),
            },
            (Question::Who, None) => Reply::Refused("this node knows no charter yet".to_owned()),
            (Question::View, charter) => {
                let of_it = charter.as_ref().is_some_and(|it| it.sites.contains_key(&subgrid));
                let asks = part.assembly.asking().any(|(asking, _)| asking == subgrid);
                if of_it || asks {
                    return Reply::View(Box::new(part.view(&*self.abroad, now)));
                }
                Reply::Refused("only sites of the region are told how it stands".to_owned())
            }
        }
    }

    /// Where another node is region-peer, it knows more.
    pub(super) fn see(&self, own: Option<View>, answer: oneshot::Sender<Option<View>>) {
        let region_peer = self.link.borrow().clone();
        let (Some(own), Some(region_peer)) = (&own, region_peer) else {
            return drop(answer.send(own));
        };
        let (own, abroad) = (own.clone(), self.abroad.clone());
        tokio::spawn(async move {
            let parcel = Parcel::Question(Question::View).to_bytes();
            let told = abroad.ask(region_peer, parcel, ASK).await;
            let view = match told.map(|(bytes, _)| Reply::read(&bytes)) {
                Ok(Some(Reply::View(theirs))) if theirs.uri == own.uri => View {
                    membership: own.membership,
                    record: own.record,
                    charter: own.charter,
                    key: own.key,
                    found: own.found,
                    ..*theirs
                },
                _ => own,
            };
            let _ = answer.send(Some(view));
        });
    }

    pub(super) fn tell_neighbours(&mut self) {
        let now = self.now();
        let Some(part) = &mut self.part else { return };
        let (Some(office), Some(charter)) = (&mut part.office, &part.charter) else { return };
        let due = office.neighbours.due(now);
        if due.is_empty() {
            return;
        }
        let (report, bytes) = (office.report(), charter.bytes.clone());
        for telling in due {
            let charter = if telling.shows { bytes.clone() } else { Vec::new() };
            self.post_to(telling.to, Letter::Region { report: report.clone(), charter });
        }
    }

    pub(super) fn report(&mut self, to: NodeId, report: &Report, now: Duration) {
        let own = self.abroad.node();
        if to != own {
            return self.post(to, Letter::Report(report.to_bytes()));
        }
        let Some(part) = &mut self.part else { return };
        let Some(office) = &mut part.office else { return };
        if let Ok(receipt) = office.catalogue.handle_report(own, report, now) {
            part.reporter.handle_receipt(own, &receipt, now);
        }
    }

    pub(super) fn post(&mut self, to: NodeId, letter: Letter) {
        if let Some(reach) = self.part.as_ref().and_then(|part| part.reach(to)) {
            self.post_to(reach, letter);
        }
    }

    pub(super) fn post_to(&mut self, to: Reach, letter: Letter) {
        if self.lanes.len() >= MAX_LANES && !self.lanes.contains_key(&to.node) {
            return;
        }
        let lane =
            self.lanes.entry(to.node).or_insert_with(|| Arc::new(Semaphore::new(MAX_LETTERS)));
        let Ok(place) = lane.clone().try_acquire_owned() else { return };
        let (abroad, bytes) = (self.abroad.clone(), Parcel::Letter(letter).to_bytes());
        tokio::spawn(async move {
            abroad.tell(to, bytes).await;
            drop(place);
        });
    }
}
