//! Signed questions to and answers from a zone's server: DNS messages (RFC 1035, 2136) with TSIG (RFC
//! 8945). No I/O; the time is a parameter, in seconds since 1970.
//!
//! What holds: an answer is believed only with a signature of the key over it and over the question
//! it answers. The exception are a server's words that it does not know the key or the signature:
//! these it cannot sign.

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode, UpdateMessage};
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm, TsigError};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType, TSigner};

use super::key::{Algorithm, TsigKey};

/// How far apart the clocks may be, in seconds (RFC 8945, 10).
const FUDGE: u16 = 300;

/// A message that is signed and waits for its answer.
pub(super) struct Request {
    /// As it is sent.
    pub bytes: Vec<u8>,
    id: u16,
    op_code: OpCode,
    mac: Vec<u8>,
}

/// Why an answer is not to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It answers another question, or is no DNS message.
    NotAnAnswer,
    /// The server says that it does not know the key.
    BadKey,
    /// The server says that the signature is wrong.
    BadSignature,
    /// The server says that its clock differs from ours by so many seconds; more is later.
    BadTime(i128),
    /// It is not signed, and says this.
    Unsigned(ResponseCode),
    /// The signature is wrong.
    Forged,
}

/// Signs and checks with one key.
#[derive(Clone)]
pub(super) struct Signer(TSigner);

impl Signer {
    /// With this key; `None` when it cannot be used.
    pub(super) fn new(key: &TsigKey) -> Option<Self> {
        let algorithm = match key.algorithm() {
            Algorithm::HmacSha256 => TsigAlgorithm::HmacSha256,
            Algorithm::HmacSha384 => TsigAlgorithm::HmacSha384,
            Algorithm::HmacSha512 => TsigAlgorithm::HmacSha512,
        };
        let name = Name::from_ascii(format!("{}.", key.name())).ok()?;
        TSigner::new(key.secret().to_vec(), algorithm, name, FUDGE).ok().map(Self)
    }

    /// Asks for the records of one name and type.
    pub(super) fn query(&self, name: &Name, of: RecordType, now: u64) -> Option<Request> {
        let mut message = Message::query();
        message.metadata.recursion_desired = false;
        message.add_query(Query::query(name.clone(), of));
        self.sign(message, now)
    }

    /// Asks to make these changes in a zone where these prerequisites are given.
    pub(super) fn update(
        &self,
        zone: &Name,
        prerequisites: Vec<Record>,
        changes: Vec<Record>,
        now: u64,
    ) -> Option<Request> {
        let mut message = Message::query();
        message.metadata.op_code = OpCode::Update;
        message.metadata.recursion_desired = false;
        message.add_zone(Query::query(zone.clone(), RecordType::SOA));
        message.add_pre_requisites(prerequisites);
        message.add_updates(changes);
        self.sign(message, now)
    }

    fn sign(&self, mut message: Message, now: u64) -> Option<Request> {
        message.finalize(&self.0, now).ok()?;
        let mac = message.signature()?.data.mac.clone();
        let bytes = message.to_vec().ok()?;
        Some(Request { bytes, id: message.metadata.id, op_code: message.metadata.op_code, mac })
    }

    /// Reads the answer to a request.
    pub(super) fn read(
        &self,
        request: &Request,
        bytes: &[u8],
        now: u64,
    ) -> Result<Message, Unusable> {
        // Also keeps from the check of the signature what it does not expect.
        let message = Message::from_vec(bytes).map_err(|_| Unusable::NotAnAnswer)?;
        let head = &message.metadata;
        let answers = head.message_type == MessageType::Response
            && head.id == request.id
            && head.op_code == request.op_code;
        if !answers {
            return Err(Unusable::NotAnAnswer);
        }
        let Some(signature) = message.signature().map(|record| &record.data) else {
            return Err(Unusable::Unsigned(head.response_code));
        };
        if head.response_code == ResponseCode::NotAuth && signature.mac.is_empty() {
            match signature.error {
                Some(TsigError::BadKey) => return Err(Unusable::BadKey),
                Some(TsigError::BadSig) => return Err(Unusable::BadSignature),
                _ => {}
            }
        }
        let (signed, fudge) = (signature.time, u64::from(signature.fudge));
        // The check computes what is earlier by the fudge.
        if signed < fudge || self.0.verify_message_byte(bytes, Some(&request.mac), true).is_err() {
            return Err(Unusable::Forged);
        }
        match signature.error {
            None if signed.abs_diff(now) <= fudge => Ok(message),
            None => Err(Unusable::BadTime(i128::from(signed) - i128::from(now))),
            Some(TsigError::BadTime) => {
                // The server's time, 48 bits (RFC 8945, 5.2.3).
                let theirs = signature
                    .other
                    .iter()
                    .take(6)
                    .fold(0, |time, byte| (time << 8) | i128::from(*byte));
                Err(Unusable::BadTime(theirs - i128::from(now)))
            }
            Some(_) => Err(Unusable::BadSignature),
        }
    }
}

/// The types of records of an entry.
pub(super) const TYPES: [RecordType; 3] =
    [RecordType::Unknown(super::entry::URI_TYPE), RecordType::SRV, RecordType::TXT];

/// That the records of an entry are exactly these (RFC 2136, 2.4.2), and of types of which there is
/// none, that there is none (2.4.3).
pub(super) fn exactly(name: &Name, seen: &[Record]) -> Vec<Record> {
    let mut all: Vec<Record> = seen.to_vec();
    for record in &mut all {
        record.ttl = 0;
        record.dns_class = DNSClass::IN;
    }
    for of in TYPES {
        if !seen.iter().any(|record| record.record_type() == of) {
            let mut none = Record::update0(name.clone(), 0, of);
            none.dns_class = DNSClass::NONE;
            all.push(none);
        }
    }
    all
}

/// That all records of an entry go (RFC 2136, 2.5.2) and these come (2.5.1).
pub(super) fn replaced(name: &Name, new: &[Record]) -> Vec<Record> {
    let mut all = Vec::new();
    for of in TYPES {
        let mut gone = Record::update0(name.clone(), 0, of);
        gone.dns_class = DNSClass::ANY;
        all.push(gone);
    }
    all.extend_from_slice(new);
    all
}

#[cfg(test)]
mod tests;
