use std::net::SocketAddr;

use hickory_proto::rr::rdata::{NULL, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::UpdateError;
use crate::dns::entry::{Entry, Published, URI_TYPE};
use crate::dns::finder::{read_srvs, read_uris};
use crate::dns::trust::Verify;
use crate::uri::GridUri;

/// How long others may keep the records, in seconds: so long nodes may look at a deposed peer's.
const TTL: u32 = 60;

/// What is at a region's name in its zone.
#[derive(Debug, Clone)]
pub struct Seen {
    pub(super) uri: GridUri,
    pub(super) server: SocketAddr,
    pub(super) zone: Name,
    pub(super) name: Name,
    pub(super) records: Vec<Record>,
}

impl PartialEq for Seen {
    /// The order of records says nothing, and neither does how long they may be kept.
    fn eq(&self, other: &Self) -> bool {
        let holds = |all: &[Record], one: &Record| all.iter().any(|other| other.data == one.data);
        self.name == other.name
            && self.records.len() == other.records.len()
            && self.records.iter().all(|one| holds(&other.records, one))
            && other.records.iter().all(|one| holds(&self.records, one))
    }
}

impl Seen {
    /// The name, with a dot at its end.
    pub fn name(&self) -> String {
        self.name.to_ascii()
    }

    /// The zone it is in, with a dot at its end.
    pub fn zone(&self) -> String {
        self.zone.to_ascii()
    }

    /// The entries there; none of records that are not entries.
    pub fn published(&self) -> Vec<Published> {
        let of = |wanted: RecordType| -> Vec<Record> {
            self.records.iter().filter(|one| one.record_type() == wanted).cloned().collect()
        };
        let uris = read_uris(&self.uri.entry_name(), &of(RecordType::Unknown(URI_TYPE)));
        let srvs = read_srvs(&self.uri, &of(RecordType::SRV), &of(RecordType::TXT));
        let found = [uris.ok(), srvs.ok().flatten()];
        found.into_iter().flatten().flat_map(|found| found.published).collect()
    }

    /// Whether `entry` may be written over it.
    ///
    /// # Errors
    /// When there is an entry of a later mandate, or of another region.
    pub(super) fn admits(&self, entry: &Entry, verify: &dyn Verify) -> Result<(), UpdateError> {
        let name = || self.uri.entry_name();
        for there in self.published().into_iter().map(|one| one.entry) {
            let (old, new) = (there.key(), entry.key());
            let follows =
                old == new || entry.rotated().iter().any(|proof| verify.rotated(&old, &new, proof));
            if !follows {
                return Err(UpdateError::OtherRegion { name: name(), key: old });
            }
            let (by, own, node) = (there.at(), entry.at(), there.node());
            if by > own || (by == own && node != entry.node()) {
                return Err(UpdateError::Deposed { name: name(), by, node, own });
            }
        }
        Ok(())
    }

    /// The same name with the records of `entry`; `None` when they cannot be written.
    pub(super) fn with(&self, entry: &Entry) -> Option<Seen> {
        let made = entry.to_records(&self.uri);
        let code = RecordType::Unknown(URI_TYPE);
        let mut data = vec![RData::Unknown { code, rdata: NULL::with(made.uri) }];
        for srv in made.srv {
            let target = Name::from_ascii(format!("{}.", srv.target)).ok()?;
            data.push(RData::SRV(SRV::new(srv.priority, srv.weight, srv.port, target)));
        }
        data.push(RData::TXT(TXT::new(made.txt)));
        let record = |data| Record::from_rdata(self.name.clone(), TTL, data);
        Some(Seen { records: data.into_iter().map(record).collect(), ..self.clone() })
    }
}
