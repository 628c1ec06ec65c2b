//! A sub-grid as a site: it asks the nearest of several regions to let it in, or leaves one.

use std::time::{Duration, Instant};

use futures::future::join_all;
use phantom_discovery::dns::RegionCache;
use phantom_discovery::region::{
    CHARTER, Charter, Membership, Parcel, Question, Reach, Record, Reply, SITE, find,
};
use phantom_discovery::uri::GridUri;

use super::super::{Daemon, Refusal, abroad};
use super::{ASK, belongs, hex, uri_of};
use crate::api::region::{RegionReply, RegionRequest};

/// How often the way to a region is measured.
const ROUND_TRIPS: u32 = 3;

/// Who is at a region's name, proven.
pub(super) struct Proven {
    uri: GridUri,
    pub charter: Charter,
    /// Who has shown it.
    answers: Reach,
    /// How it was found, in words.
    found: String,
}

impl Daemon {
    /// Asks a region to let this sub-grid in; of several the nearest.
    pub async fn site_register(&self, asked: RegionRequest) -> Result<RegionReply, Refusal> {
        let (mut uris, name) = (uris_of(&asked)?, self.site_name(&asked)?);
        let subgrid = self.may_speak("register the sub-grid")?;
        let mut cache = RegionCache::default();
        if let Some(record) = self.region_record().await? {
            uris.retain(|uri| *uri == record.uri);
            if uris.is_empty() {
                return Err(belongs(&record));
            }
            cache.pin(&record.uri, record.key).map_err(Refusal::failed)?;
        }
        let (Proven { uri, charter, found, .. }, others) = self.nearest(uris, &cache).await?;
        let key = charter.key();
        let is_in = charter.sites.contains_key(&subgrid);
        let registration = match is_in {
            true => Vec::new(),
            false => {
                let made = self.network.register(uri.name(), key, &name, false).await;
                made.map_err(Refusal::failed)?.to_bytes()
            }
        };
        let record =
            Record { uri: uri.clone(), key, name: name.clone(), founded: false, registration };
        self.set(CHARTER, Some(charter.bytes.clone())).await?;
        self.set(SITE, Some(record.to_bytes())).await?;
        self.region.look().await;
        let mut line = match is_in {
            true => format!("This sub-grid is a site of {uri}, found {found}."),
            false => format!("Asked {uri}, found {found}, to let this sub-grid in as {name}."),
        };
        for other in others {
            line.push_str(&format!("\n{other}"));
        }
        Ok(RegionReply { uri: uri.to_string(), key: hex(&key), line })
    }

    /// The nearest of these regions by the round trip to who answers for it, the first of those that
    /// are equally far; and a line about each of the others.
    async fn nearest(
        &self,
        uris: Vec<GridUri>,
        cache: &RegionCache,
    ) -> Result<(Proven, Vec<String>), Refusal> {
        let several = uris.len() > 1;
        let look = |uri: GridUri| async move {
            let proven = self.prove(&uri, cache).await;
            match proven {
                Ok(proven) if several => match self.round_trip(&proven.answers).await {
                    Some(rtt) => Ok((rtt, proven)),
                    None => Err((format!("{uri} has stopped answering"), None)),
                },
                Ok(proven) => Ok((Duration::ZERO, proven)),
                Err(refusal) => Err((format!("Not {uri}: {}", refusal.line), Some(refusal))),
            }
        };
        let (mut near, mut lines, mut first) = (Vec::new(), Vec::new(), None);
        for looked in join_all(uris.into_iter().map(look)).await {
            match looked {
                Ok(one) => near.push(one),
                Err((line, refusal)) => {
                    lines.push(line);
                    first = first.or(refusal);
                }
            }
        }
        // To a tenth of a millisecond: what is less nobody can measure.
        near.sort_by_key(|(rtt, _)| rtt.as_micros() / 100);
        let ms = |rtt: Duration| format!("{:.1} ms", rtt.as_secs_f64() * 1000.0);
        let mut near = near.into_iter();
        let Some((rtt, proven)) = near.next() else {
            return Err(match first {
                Some(refusal) if !several => refusal,
                _ => Refusal::failed(lines.join("; ")),
            });
        };
        let further = near.map(|(other, further)| {
            format!("It is the nearest, {} away; {} is {}.", ms(rtt), further.uri, ms(other))
        });
        let lines = further.chain(lines).collect();
        Ok((proven, lines))
    }

    /// The least of some round trips to a node that is connected already.
    async fn round_trip(&self, to: &Reach) -> Option<Duration> {
        let mut least = None;
        for _ in 0..ROUND_TRIPS {
            let parcel = Parcel::Question(Question::Who).to_bytes();
            let began = Instant::now();
            self.network.ask_abroad(&abroad::contact(to), parcel, ASK).await.ok()?;
            let took = began.elapsed();
            least = Some(least.map_or(took, |known: Duration| known.min(took)));
        }
        least
    }

    /// Says to the region that this sub-grid leaves it.
    pub async fn site_remove(&self, asked: RegionRequest) -> Result<RegionReply, Refusal> {
        let uri = uri_of(&asked)?;
        self.may_speak("take the sub-grid out of its region")?;
        let record = self.region_record().await?.filter(|record| record.uri == uri);
        let Some(record) = record else {
            return Err(Refusal::failed(format!("this sub-grid has not registered with {uri}")));
        };
        let view = self.region_view().await?;
        let line = match view.membership {
            Membership::Site => {
                let leaving = self.network.register(uri.name(), view.key, &record.name, true).await;
                let registration = leaving.map_err(Refusal::failed)?.to_bytes();
                let key = view.key;
                let record = Record { registration, key, ..record };
                self.set(SITE, Some(record.to_bytes())).await?;
                format!(
                    "This sub-grid asks nobody at {uri} any more. Its admin is told, and takes it \
                     off the list: sudo phantom region remove {}",
                    record.name
                )
            }
            Membership::Asks | Membership::PutOut => {
                self.set(SITE, None).await?;
                format!("This sub-grid has nothing to do with {uri} any more.")
            }
        };
        self.region.look().await;
        Ok(RegionReply { uri: uri.to_string(), key: hex(&view.key), line })
    }

    /// Looks in the DNS who answers for a region, and has it prove that it is of it.
    pub(super) async fn prove(
        &self,
        uri: &GridUri,
        cache: &RegionCache,
    ) -> Result<Proven, Refusal> {
        let found = find(&self.config.region(), uri, cache, &*self.outside).await;
        let found = found.map_err(Refusal::failed)?;
        let entry = &found.current.entry;
        let addrs = phantom_discovery::region::Abroad::written(&*self.outside, &found.addresses);
        let mut to = Reach { node: entry.node(), subgrid: None, addrs };
        for _ in 0..2 {
            let parcel = Parcel::Question(Question::Who).to_bytes();
            let asked = self.network.ask_abroad(&abroad::contact(&to), parcel, ASK).await;
            let (bytes, proven) = asked.map_err(|error| {
                Refusal::failed(format!("{uri} names {} in the DNS: {error}", to.node.short()))
            })?;
            match Reply::read(&bytes) {
                Some(Reply::Known { charter, .. }) => {
                    let charter = abroad::charter(&charter, self.network.now())
                        .map_err(|error| Refusal::failed(format!("{uri}: {error}")))?;
                    let of_it = charter.uri == *uri
                        && charter.is_under(entry.key())
                        && charter.sites.contains_key(&proven.subgrid);
                    if !of_it {
                        return Err(Refusal::failed(format!(
                            "the machine that the DNS names for {uri} cannot show that it is of \
                             it: ask the region's admin for its key, and whether the DNS is right"
                        )));
                    }
                    let found = found.words();
                    return Ok(Proven { uri: uri.clone(), charter, answers: to, found });
                }
                Some(Reply::Moved(seat)) if seat.subgrid == proven.subgrid => to = seat.to_reach(),
                Some(Reply::Refused(why)) => {
                    return Err(Refusal::failed(format!("{uri}: {why}; try again in a moment")));
                }
                _ => break,
            }
        }
        Err(Refusal::failed(format!("nobody at {uri} tells who it is: try again in a moment")))
    }
}

fn uris_of(asked: &RegionRequest) -> Result<Vec<GridUri>, Refusal> {
    let mut uris = vec![uri_of(asked)?];
    for text in &asked.others {
        let uri = text.parse().map_err(Refusal::usage)?;
        if !uris.contains(&uri) {
            uris.push(uri);
        }
    }
    Ok(uris)
}
