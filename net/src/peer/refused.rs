//! Nodes that were not let in: said once, however often they try.

use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};
use std::sync::Mutex;
use std::time::Duration;

use phantom_model::NodeId;
use tokio::time::Instant;

use crate::error::Error;
use crate::member::CertificateError;

/// The same node is refused for the same reason without a word for this long.
const SILENCE: Duration = Duration::from_secs(3600);
/// So many are remembered, and so many lines may be written within [`SILENCE`]: keys cost a
/// stranger nothing.
const MOST: usize = 128;

/// What a refusal was for, whatever the numbers in it.
type Kind = (Discriminant<Error>, Option<Discriminant<CertificateError>>);

/// Those of the last hour.
#[derive(Default)]
pub(crate) struct Refused(Mutex<HashMap<(NodeId, Kind), Instant>>);

impl Refused {
    /// Whether this refusal of `peer` is worth a line.
    pub fn is_news(&self, peer: NodeId, error: &Error, now: Instant) -> bool {
        let certificate = match error {
            Error::Certificate(error) => Some(discriminant(error)),
            _ => None,
        };
        let key = (peer, (discriminant(error), certificate));
        let mut known = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        known.retain(|_, at| *at + SILENCE > now);
        if known.contains_key(&key) || known.len() >= MOST {
            return false;
        }
        known.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expired(ago: u64) -> Error {
        CertificateError::Expired { name: "x".to_owned(), expires: 100, now: 100 + ago }.into()
    }

    #[tokio::test(start_paused = true)]
    async fn each_reason_is_told_once_an_hour_and_strangers_do_not_fill_the_log() {
        let (refused, start) = (Refused::default(), Instant::now());
        let peer = NodeId([1; 32]);
        assert!(refused.is_news(peer, &expired(1), start));
        assert!(!refused.is_news(peer, &expired(2), start));
        assert!(refused.is_news(peer, &Error::NotMember, start));
        assert!(refused.is_news(peer, &expired(9000), start + SILENCE));
        let lines = (0..1000u32).filter(|number| {
            let mut id = [7; 32];
            id[..4].copy_from_slice(&number.to_le_bytes());
            refused.is_news(NodeId(id), &Error::NotMember, start + SILENCE)
        });
        assert_eq!(lines.count(), MOST - 1);
    }
}
