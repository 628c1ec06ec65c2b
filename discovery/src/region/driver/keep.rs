//! What the sub-grid's group keeps for its region.

use std::time::Duration;

use super::{Driver, TRY_AGAIN};
use crate::machine::group::{Change, Op, Outcome};
use crate::region::record::{self, CHARTER, GROUP, SITE};

impl Driver {
    /// Takes over a charter if it counts over the known one; whether it does, or is the same.
    pub(super) async fn adopt(&mut self, bytes: &[u8]) -> Result<bool, String> {
        let charter = self.abroad.charter(bytes)?;
        let part = self.part.as_mut().ok_or(
            "this node does not answer for a sub-grid of the region now: ask its super-peer",
        )?;
        if !part.is_newer(&charter, &*self.abroad)? {
            return Ok(part.charter.as_ref().is_some_and(|known| known.bytes == charter.bytes));
        }
        let op = Op::Set {
            name: CHARTER.to_owned(),
            expect: None,
            bytes: Some(charter.bytes.clone()),
            sure: true,
        };
        match self.subgrid.propose(op).await {
            Ok(Outcome::Done(_)) => {}
            Ok(other) => return Err(format!("the sub-grid cannot keep it: {other:?}")),
            Err(error) => return Err(format!("the sub-grid cannot keep it: {error}")),
        }
        let now = self.now();
        let Some(part) = &mut self.part else { return Ok(true) };
        let mut record = part.record.clone();
        let is_in = charter.sites.contains_key(&part.subgrid);
        // It may have been signed for an earlier key.
        let leaves = charter.keys.iter().chain([&record.key]).any(|key| {
            self.abroad.registration(&record.registration, part.subgrid, *key) == Ok(true)
        });
        if is_in && !leaves {
            record.registration = Vec::new();
        }
        record.key = charter.key();
        if let Some(name) = charter.sites.get(&part.subgrid) {
            record.name.clone_from(name);
        }
        part.follow(charter, now);
        if record != part.record || (leaves && !is_in) {
            // Who wanted to go, and is gone, has nothing to do with the region any more.
            let bytes = (is_in || !leaves).then(|| record.to_bytes());
            // Not over what the sub-grid's admin has said meanwhile.
            let expect = Some(part.record_stamp);
            let op = Op::Set { name: SITE.to_owned(), expect, bytes, sure: true };
            match self.subgrid.propose(op).await {
                Ok(Outcome::Done(stamp)) if is_in || !leaves => {
                    if let Some(part) = &mut self.part {
                        part.assembly.handle_registration(record.registration.clone());
                        (part.record, part.record_stamp) = (record, stamp);
                    }
                }
                _ => self.next_look = Duration::ZERO,
            }
        }
        Ok(true)
    }

    /// Has the sub-grid keep what the site promises. Where that fails this node speaks for the site no
    /// more, until it has read anew what was promised.
    pub(super) async fn save(&mut self, changes: Vec<Change>) {
        let Some(part) = &mut self.part else { return };
        changes.into_iter().for_each(|change| part.kept.apply(change));
        let bytes = Some(record::group_bytes(&part.kept, part.subgrid, &part.record.uri));
        let (name, expect) = (GROUP.to_owned(), Some(part.kept_stamp));
        self.set(Op::Set { name, expect, bytes, sure: true }).await;
    }

    pub(super) async fn set(&mut self, op: Op) {
        let outcome = self.subgrid.propose(op).await;
        match (outcome, &mut self.part) {
            (Ok(Outcome::Done(stamp)), Some(part)) => part.kept_stamp = stamp,
            (outcome, _) => {
                tracing::debug!(?outcome, "what the site promises is not kept: it steps back");
                self.part = None;
                self.no_part_until = self.now() + TRY_AGAIN;
            }
        }
    }

    /// Keeps something that may be lost with the voters.
    pub(super) fn set_unsure(&self, name: &str, bytes: Vec<u8>) {
        let (subgrid, name) = (self.subgrid.clone(), name.to_owned());
        tokio::spawn(async move {
            let op = Op::Set { name, expect: None, bytes: Some(bytes), sure: false };
            if let Err(error) = subgrid.propose(op).await {
                tracing::debug!(%error, "not kept for the next super-peer");
            }
        });
    }
}
