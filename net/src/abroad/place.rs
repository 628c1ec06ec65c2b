//! Which connection makes room for a new one. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::link::PeerAddr;

/// Where a connection comes from, as far as somebody must own it: keys cost nothing, and nor do the
/// addresses of one IPv6 network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Source {
    V4(Ipv4Addr),
    /// The first half of the address.
    V6(u64),
    /// By way of a relay, or unknown.
    Elsewhere,
}

impl Source {
    pub fn of(addr: Option<PeerAddr>) -> Self {
        match addr {
            Some(PeerAddr::Ip(addr)) => match addr.ip().to_canonical() {
                IpAddr::V4(ip) => Self::V4(ip),
                IpAddr::V6(ip) => Self::V6((Ipv6Addr::to_bits(ip) >> 64) as u64),
            },
            Some(PeerAddr::Relay(_)) | None => Self::Elsewhere,
        }
    }
}

/// A connection that may have to go.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub source: Source,
    /// Whether no stream is open.
    pub idle: bool,
    /// For how long nothing has happened.
    pub quiet: Duration,
}

/// Of those there are, the one whose place a new one from `source` takes, if any: of the sources with
/// the most connections the one that has been idle for longest. If none of theirs is idle, the one
/// that has been quiet for longest, but only for a source with fewer: nobody keeps all others out by
/// being busy.
pub(super) fn victim(all: &[Candidate], source: &Source) -> Option<usize> {
    let mut counts = HashMap::from([(source, 1usize)]);
    for candidate in all {
        *counts.entry(&candidate.source).or_default() += 1;
    }
    let most = counts.values().max().copied().unwrap_or_default();
    let has_most = |source: &Source| counts.get(source) == Some(&most);
    let (at, chosen) = all
        .iter()
        .enumerate()
        .filter(|(_, candidate)| has_most(&candidate.source))
        .max_by_key(|(_, candidate)| (candidate.idle, candidate.quiet))?;
    (chosen.idle || most > 1 && !has_most(source)).then_some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from(number: u8, idle: bool, quiet: u64) -> Candidate {
        let source = Source::V4([192, 0, 2, number].into());
        Candidate { source, idle, quiet: Duration::from_secs(quiet) }
    }

    fn new(number: u8) -> Source {
        from(number, true, 0).source
    }

    #[test]
    fn one_network_is_one_source() {
        let of = |text: &str| Source::of(Some(PeerAddr::Ip(text.parse().unwrap())));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:0:0:2]:2"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_eq!(of("[::ffff:192.0.2.1]:1"), of("192.0.2.1:2"));
        assert_eq!(Source::of(None), Source::of(Some(PeerAddr::Relay("a".to_owned()))));
    }

    #[test]
    fn of_equals_the_longest_idle_goes_and_who_is_busy_stays() {
        let all = [from(1, true, 5), from(2, true, 9), from(3, false, 99)];
        assert_eq!(victim(&all, &new(4)), Some(1));
        let busy = [from(1, false, 5), from(2, false, 9)];
        assert_eq!(victim(&busy, &new(4)), None);
        assert_eq!(victim(&[], &new(4)), None);
    }

    #[test]
    fn who_has_the_most_makes_room_even_if_busy_and_gets_none_from_others() {
        let all = [from(1, false, 1), from(1, false, 7), from(1, false, 3), from(2, true, 99)];
        assert_eq!(victim(&all, &new(3)), Some(1));
        assert_eq!(victim(&all, &new(2)), Some(1));
        assert_eq!(victim(&all, &new(1)), None);
    }

    proptest! {
        /// One that owns a single address cannot take the place of who has fewer connections.
        #[test]
        fn whoever_comes_takes_from_none_with_fewer_than_it_has_itself(
            all in proptest::collection::vec((0u8..6, any::<bool>(), 0u64..20), 0..40), by in 0u8..6,
        ) {
            let all: Vec<_> = all.iter().map(|(of, idle, quiet)| from(*of, *idle, *quiet)).collect();
            let count = |source: &Source| all.iter().filter(|one| one.source == *source).count();
            let new = new(by);
            if let Some(at) = victim(&all, &new) {
                prop_assert!(count(&all[at].source) > count(&new)
                    || count(&all[at].source) == count(&new) + usize::from(all[at].source != new)
                    || all[at].source == new);
                prop_assert!(all[at].idle || count(&all[at].source) > count(&new) + 1);
            }
        }
    }
}
