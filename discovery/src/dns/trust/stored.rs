use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::{Known, Last, RegionCache};
use crate::dns::entry::Entry;
use crate::uri::GridUri;

/// A region as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    uri: GridUri,
    /// Hexadecimal.
    key: String,
    entry: Option<Entry>,
    /// Since 1970.
    found_ms: Option<u64>,
}

impl From<RegionCache> for Vec<Stored> {
    fn from(cache: RegionCache) -> Self {
        let store = |(uri, known): (GridUri, Known)| {
            let millis = |last: &Last| u64::try_from(last.at.as_millis()).unwrap_or(u64::MAX);
            Stored {
                uri,
                key: HEXLOWER.encode(&known.key),
                found_ms: known.last.as_ref().map(millis),
                entry: known.last.map(|last| last.entry),
            }
        };
        cache.regions.into_iter().map(store).collect()
    }
}

impl TryFrom<Vec<Stored>> for RegionCache {
    type Error = String;

    fn try_from(stored: Vec<Stored>) -> Result<Self, String> {
        let mut cache = RegionCache::default();
        for Stored { uri, key, entry, found_ms } in stored {
            let decoded = HEXLOWER.decode(key.as_bytes()).ok().and_then(|key| key.try_into().ok());
            let key: [u8; 32] =
                decoded.ok_or_else(|| format!("the key of {uri} is not 64 hexadecimal digits"))?;
            let last = match (entry, found_ms) {
                (Some(entry), Some(_)) if entry.key() != key => {
                    return Err(format!("the entry of {uri} has another key than the region"));
                }
                (Some(entry), Some(ms)) => Some(Last { entry, at: Duration::from_millis(ms) }),
                (None, None) => None,
                _ => return Err(format!("{uri} has an entry without a time, or the reverse")),
            };
            if cache.regions.contains_key(&uri) {
                return Err(format!("{uri} is there twice"));
            }
            cache.add(&uri, Known { key, last }).map_err(|error| error.to_string())?;
        }
        Ok(cache)
    }
}
