use data_encoding::{BASE32_NOPAD, HEXLOWER};
use phantom_model::NodeId;

use super::{Entry, EntryError, Host, MAX_FIELDS, MAX_HOSTS, MAX_PROOF, MAX_PROOFS};
use crate::machine::Mandate;
use crate::uri::short;

/// The fields of a target or a TXT record.
pub(super) struct Fields {
    /// Further hosts.
    pub also: Vec<Host>,
    /// All that both forms have.
    pub rest: Rest,
}

/// What both forms have, of hosts that are to come.
pub(super) struct Rest {
    key: [u8; 32],
    node: NodeId,
    at: Mandate,
    rotated: Vec<Vec<u8>>,
}

impl Rest {
    /// The entry, with its hosts.
    pub(super) fn entry(self, hosts: Vec<Host>, port: u16) -> Result<Entry, EntryError> {
        Entry::new(hosts, port, self.key, self.node, self.at, self.rotated)
    }
}

const KEY: &str = "64 hexadecimal digits in lower case";
const MANDATE: &str = "a mandate, as 3.41";
pub(super) const PROOF: &str = "1 to 128 bytes in base 32, lower case, without padding";

impl Fields {
    /// Reads `field=value` texts; what nobody knows is passed over.
    pub(super) fn read<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, EntryError> {
        let (mut key, mut node, mut at) = (None, None, None);
        let (mut also, mut rotated) = (Vec::new(), Vec::new());
        for (count, text) in texts.enumerate() {
            if count >= MAX_FIELDS {
                return Err(EntryError::TooMany { what: "fields", most: MAX_FIELDS });
            }
            let form = || EntryError::Form { text: short(text) };
            if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(form());
            }
            let (field, value) = text.split_once('=').ok_or_else(form)?;
            match field {
                "key" => once(&mut key, "key", read_key("key", value)?)?,
                "node" => once(&mut node, "node", NodeId(read_key("node", value)?))?,
                "at" => once(&mut at, "at", read_mandate(value)?)?,
                "also" if also.len() >= MAX_HOSTS => {
                    return Err(EntryError::TooMany { what: "hosts", most: MAX_HOSTS });
                }
                "also" => also.push(Host::parse(value)?),
                "rotated" if rotated.len() >= MAX_PROOFS => {
                    let what = "statements of rotation";
                    return Err(EntryError::TooMany { what, most: MAX_PROOFS });
                }
                "rotated" => rotated.push(read_proof(value)?),
                _ => {}
            }
        }
        let key = key.ok_or(EntryError::Missing { field: "key=" })?;
        let node = node.ok_or(EntryError::Missing { field: "node=" })?;
        let at = at.ok_or(EntryError::Missing { field: "at=" })?;
        Ok(Self { also, rest: Rest { key, node, at, rotated } })
    }
}

fn once<T>(place: &mut Option<T>, field: &'static str, value: T) -> Result<(), EntryError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(EntryError::Twice { field }),
    }
}

fn read_key(field: &'static str, text: &str) -> Result<[u8; 32], EntryError> {
    let decoded = HEXLOWER.decode(text.as_bytes()).ok().and_then(|key| key.try_into().ok());
    decoded.ok_or_else(|| EntryError::Field { field, text: short(text), wanted: KEY })
}

fn read_mandate(text: &str) -> Result<Mandate, EntryError> {
    let parts = text.split_once('.').map(|(generation, term)| (number(generation), number(term)));
    match parts {
        Some((Some(generation), Some(term))) => Ok(Mandate { generation, term }),
        _ => Err(EntryError::Field { field: "at", text: short(text), wanted: MANDATE }),
    }
}

fn read_proof(text: &str) -> Result<Vec<u8>, EntryError> {
    let wrong = || EntryError::Field { field: "rotated", text: short(text), wanted: PROOF };
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(wrong());
    }
    let proof = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| wrong())?;
    if proof.is_empty() || proof.len() > MAX_PROOF { Err(wrong()) } else { Ok(proof) }
}

/// A number as it is printed: digits only, none in vain.
pub(super) fn number(text: &str) -> Option<u64> {
    let plain = text == "0" || !text.starts_with('0');
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if plain && digits { text.parse().ok() } else { None }
}
