//! Regions as admins see them: founding one, letting sub-grids in.

mod site;

use std::time::Duration;

use phantom_discovery::dns::RegionCache;
use phantom_discovery::machine::group::{Op, Outcome};
use phantom_discovery::region::{CHARTER, Charter, Membership, Record, SITE, View, find};
use phantom_discovery::uri::GridUri;
use phantom_model::{NodeId, SubgridId};
use phantom_net::region::{
    self as signed, CharterBody, CharterPeer, CharterSite, MAX_ROTATED, RegionKey, Registration,
    Rotation,
};

use super::peers::{Answer, Ask};
use super::{Daemon, Refusal, abroad};
use crate::api::region::{AskingRow, RegionReply, RegionRequest, RegionState, SiteRow};

/// Where the machine that holds a region's key keeps the charter it has signed last.
const SIGNED: &str = "region/signed/";
/// How long other nodes have to answer.
const ASK: Duration = Duration::from_secs(8);
/// How long a region that is founded may take to have its region-peer.
const FOUNDING: Duration = Duration::from_secs(20);

impl Daemon {
    /// How the region of this node's sub-grid stands.
    pub async fn region_view(&self) -> Result<View, Refusal> {
        self.region_view_if_any().await?.ok_or_else(|| {
            Refusal::failed(
                "this sub-grid belongs to no region: `sudo phantom site register grid://NAME` asks \
                 one to let it in, `sudo phantom region init grid://NAME` founds one",
            )
        })
    }

    /// The same; `None` where it is known that the sub-grid has to do with none.
    async fn region_view_if_any(&self) -> Result<Option<View>, Refusal> {
        self.network.standing().map_err(Refusal::failed)?;
        match self.other_super_peer() {
            Some(node) => match self.ask(node, &Ask::Region, ASK).await? {
                Answer::Region(view) => Ok(view.map(|view| *view)),
                _ => Err(unknown()),
            },
            None => self.region_view_here().await,
        }
    }

    /// The same as the super-peer itself knows. Not having read what its sub-grid keeps is no answer.
    pub async fn region_view_here(&self) -> Result<Option<View>, Refusal> {
        if let Some(view) = self.region.view().await {
            return Ok(Some(view));
        }
        match self.subgrid.value(SITE).await {
            Some((_, None)) if self.subgrid.status().decides => Ok(None),
            _ => Err(unknown()),
        }
    }

    /// The super-peer, where that is another node.
    fn other_super_peer(&self) -> Option<NodeId> {
        let (node, _) = self.subgrid.status().super_peer?;
        (node != self.node).then_some(node)
    }

    /// The domain name of the region the sub-grid is a site of; `None` where it is of none.
    pub async fn region_name(&self) -> Result<Option<String>, Refusal> {
        match self.other_super_peer() {
            Some(node) => match self.ask(node, &Ask::RegionName, ASK).await? {
                Answer::RegionName(name) => Ok(name),
                _ => Err(unknown()),
            },
            None => self.own_region_name().await,
        }
    }

    /// The same on the super-peer itself.
    pub async fn own_region_name(&self) -> Result<Option<String>, Refusal> {
        let view = self.region_view_here().await?;
        let is_site = |view: &View| view.membership == Membership::Site;
        Ok(view.filter(is_site).map(|view| view.uri.name().to_owned()))
    }

    /// The same for people.
    pub async fn region_state(&self) -> Result<RegionState, Refusal> {
        let view = self.region_view().await?;
        let own = self.network.membership().map(|membership| membership.subgrid());
        let charter = self.charter_of(&view);
        let region_peer = view.region_peer.as_ref();
        let row = |site: &phantom_discovery::region::SiteView| SiteRow {
            name: site.name.clone(),
            subgrid: site.subgrid,
            this: own == Some(site.subgrid),
            region_peer: region_peer.is_some_and(|(seat, _)| seat.subgrid == site.subgrid),
            up: site.alive,
            nodes: site.power.map(|power| power.nodes),
            cores: site.power.map(|power| power.cores),
            idle_centicores: site.power.map(|power| power.free_centicores),
            peak_mflops: site.power.map(|power| (power.peak_mflops, power.free_mflops)),
            memory_mib: site.power.map(|power| (power.memory_mib, power.free_memory_mib)),
            disk_mib: site.power.map(|power| (power.disk_mib, power.free_disk_mib)),
        };
        let asking = |asking: &Registration| AskingRow {
            name: asking.name().to_owned(),
            subgrid: asking.subgrid(),
            leaves: asking.leaves(),
        };
        let key = RegionKey::load(&self.config.state_dir, view.uri.name());
        Ok(RegionState {
            uri: view.uri.to_string(),
            key: hex(&view.key),
            membership: match view.membership {
                Membership::Site => "site",
                Membership::Asks => "asks",
                Membership::PutOut => "put out",
            }
            .to_owned(),
            holds_key: key.is_ok_and(|key| key.is_some()),
            version: charter.map_or(0, |charter| charter.version),
            region_peer: region_peer.map(|(seat, _)| match own == Some(seat.subgrid) {
                true => self.members.name(seat.node),
                false => seat.node.short(),
            }),
            mandate: region_peer.map(|(_, mandate)| mandate.to_string()),
            electors: view
                .electors
                .iter()
                .filter_map(|it| view.sites.iter().find(|site| site.subgrid == *it))
                .map(|site| site.name.clone())
                .collect(),
            sites: view.sites.iter().map(row).collect(),
            asking: self.asking(&view).iter().map(asking).collect(),
            zone: view.zone,
            found: view.found,
            peers: view.peers.into_iter().map(|(uri, up)| (uri.to_string(), up)).collect(),
        })
    }

    /// Founds a region, with this sub-grid as its first site.
    pub async fn region_init(&self, asked: RegionRequest) -> Result<RegionReply, Refusal> {
        let (uri, name) = (uri_of(&asked)?, self.site_name(&asked)?);
        let membership = self.may_speak("found a region")?;
        if let Some(record) = self.region_record().await? {
            return Err(belongs(&record));
        }
        let key = RegionKey::load_or_create(&self.config.state_dir, uri.name());
        let key = key.map_err(Refusal::failed)?;
        match find(&self.config.region(), &uri, &RegionCache::default(), &*self.outside).await {
            Ok(found) if found.current.entry.key() != key.id() => {
                return Err(Refusal::failed(format!(
                    "{uri} has an entry in the DNS with the key {}, so it is founded already: \
                     register with it (`sudo phantom site register {uri}`), or have its records \
                     removed",
                    hex(&found.current.entry.key())
                )));
            }
            Ok(_) => {}
            Err(error) => tracing::info!(%uri, error, "nobody is at that name yet"),
        }
        let site = CharterSite { subgrid: membership, name: name.clone() };
        let body = self.next_charter(&key, &uri, None, |body| body.sites = vec![site.clone()])?;
        let charter = signed::Charter::sign(&key, body).map_err(Refusal::failed)?.to_bytes();
        let record = Record {
            uri: uri.clone(),
            key: key.id(),
            name,
            founded: true,
            registration: Vec::new(),
        };
        self.keep_signed(&uri, &charter)?;
        self.set(CHARTER, Some(charter)).await?;
        self.set(SITE, Some(record.to_bytes())).await?;
        self.region.look().await;
        let zone = self.settled().await;
        let line = format!("Founded {uri}. {zone}");
        Ok(RegionReply { uri: uri.to_string(), key: hex(&key.id()), line })
    }

    /// Waits until the region has its region-peer and that one has tried to write the entry.
    async fn settled(&self) -> String {
        let ends = tokio::time::Instant::now() + FOUNDING;
        loop {
            let zone = self.region_view().await.map(|view| view.zone).unwrap_or_default();
            if !zone.is_empty() && zone != phantom_discovery::region::NOT_WRITTEN_YET {
                return format!("Its entry in the DNS: {zone}.");
            }
            if tokio::time::Instant::now() >= ends {
                return "It has no region-peer yet; `phantom region list` tells when it has."
                    .to_owned();
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Lets a sub-grid in, or puts one out.
    pub async fn region_admit(&self, asked: RegionRequest) -> Result<RegionReply, Refusal> {
        let (view, key) = self.own_region(&asked).await?;
        let wanted = asked.name.clone().unwrap_or_default();
        let (subgrid, name) = match asked.withdraw {
            true => {
                let sites = view.sites.iter().map(|site| (site.subgrid, site.name.clone()));
                pick(&wanted, sites, "a site of the region; `phantom region list` names them")?
            }
            false => {
                let asking = self.asking(&view);
                let asking = asking.iter().filter(|asking| !asking.leaves());
                let asking = asking.map(|asking| (asking.subgrid(), asking.name().to_owned()));
                pick(&wanted, asking, "among those that ask; `phantom region list` names them")?
            }
        };
        let line = match asked.withdraw {
            true => format!("{name} is no site of {} any more.", view.uri),
            false => format!("{name} is a site of {} now.", view.uri),
        };
        self.decree_charter(&view, &key, |body| {
            body.sites.retain(|site| site.subgrid != subgrid);
            if !asked.withdraw {
                body.sites.push(CharterSite { subgrid, name: name.clone() });
            }
        })
        .await?;
        Ok(RegionReply { uri: view.uri.to_string(), key: hex(&key.id()), line })
    }

    /// Has another region be asked, or no longer.
    pub async fn region_peer(&self, asked: RegionRequest) -> Result<RegionReply, Refusal> {
        let other = uri_of(&asked)?;
        let (view, key) = self.own_region(&RegionRequest::default()).await?;
        if other == view.uri {
            return Err(Refusal::usage(format!("{other} is this region itself: name another")));
        }
        let line = match asked.withdraw {
            true => format!("{} does not ask {other} any more.", view.uri),
            false => format!(
                "{} asks {other} what it cannot answer. It answers when its admin has named {} as \
                 well.",
                view.uri, view.uri
            ),
        };
        let their_key = match asked.withdraw {
            true => [0; 32],
            false => self.prove(&other, &RegionCache::default()).await?.charter.key(),
        };
        self.decree_charter(&view, &key, |body| {
            body.peers.retain(|peer| peer.region != other.name());
            if !asked.withdraw {
                let region = other.name().to_owned();
                body.peers.push(CharterPeer { region, key: their_key });
            }
        })
        .await?;
        Ok(RegionReply { uri: other.to_string(), key: hex(&their_key), line })
    }

    /// Gives the region another key.
    pub async fn region_rotate(&self, asked: RegionRequest) -> Result<RegionReply, Refusal> {
        let (view, _) = self.own_region(&asked).await?;
        let rotated = RegionKey::rotate(&self.config.state_dir, view.uri.name());
        let (old, new) = rotated.map_err(Refusal::failed)?;
        self.decree_charter(&view, &new, |_| {}).await?;
        let line = format!(
            "{} has another key; the one before, {}, has signed for it, and sites follow by \
             themselves.",
            view.uri,
            hex(&old.id())
        );
        Ok(RegionReply { uri: view.uri.to_string(), key: hex(&new.id()), line })
    }

    /// The region whose key this machine holds.
    async fn own_region(&self, asked: &RegionRequest) -> Result<(View, RegionKey), Refusal> {
        let view = self.region_view().await?;
        if asked.uri.is_some() && uri_of(asked)? != view.uri {
            return Err(Refusal::failed(format!(
                "this sub-grid belongs to {}; do it where the other one was founded",
                view.uri
            )));
        }
        let key = RegionKey::load(&self.config.state_dir, view.uri.name());
        let key = key.map_err(Refusal::failed)?.ok_or_else(|| {
            Refusal::failed(format!(
                "this machine does not hold the key of {}: do it where the region was founded",
                view.uri
            ))
        })?;
        Ok((view, key))
    }

    /// Signs another charter and has it spread.
    async fn decree_charter(
        &self,
        view: &View,
        key: &RegionKey,
        change: impl Fn(&mut CharterBody),
    ) -> Result<(), Refusal> {
        let body = self.next_charter(key, &view.uri, Some(view), change)?;
        let bytes = signed::Charter::sign(key, body).map_err(Refusal::failed)?.to_bytes();
        self.keep_signed(&view.uri, &bytes)?;
        let super_peer = self.subgrid.status().super_peer.map(|(node, _)| node);
        match super_peer {
            Some(node) if node != self.node => {
                self.ask(node, &Ask::Charter(bytes), ASK).await?;
            }
            _ => self.region.adopt(bytes).await.map_err(Refusal::failed)?,
        }
        Ok(())
    }

    /// What the next charter says: as the last one that was signed here or is known, changed.
    fn next_charter(
        &self,
        key: &RegionKey,
        uri: &GridUri,
        view: Option<&View>,
        change: impl Fn(&mut CharterBody),
    ) -> Result<CharterBody, Refusal> {
        let now = self.network.now();
        let kept = phantom_net::Store::get(&*self.store, &format!("{SIGNED}{}", uri.name()));
        let kept = kept.map_err(Refusal::failed)?;
        let known = view.map(|view| view.charter.clone());
        let charters = kept.into_iter().chain(known);
        let charters = charters.filter_map(|bytes| signed::Charter::read(&bytes, now).ok());
        // One by a former key may have a higher version: whoever has stolen that key has made it.
        let last = charters.max_by_key(|it| (it.body().key == key.id(), it.body().version));
        let mut body = match last {
            Some(last) => last.body().clone(),
            None => CharterBody {
                region: uri.name().to_owned(),
                key: key.id(),
                version: 0,
                at: now,
                sites: Vec::new(),
                peers: Vec::new(),
                rotated: Vec::new(),
            },
        };
        let rotates = body.key != key.id();
        if rotates {
            let former = RegionKey::former(&self.config.state_dir, uri.name());
            let former = former.map_err(Refusal::failed)?;
            let old = former.iter().find(|former| former.id() == body.key).ok_or_else(|| {
                Refusal::failed(format!(
                    "the charter of {uri} is signed by a key that is not on this machine, {}: do \
                     it where that one is",
                    hex(&body.key)
                ))
            })?;
            body.rotated.push((old.id(), Rotation::sign(old, key.id()).to_bytes()));
            let surplus = body.rotated.len().saturating_sub(MAX_ROTATED);
            body.rotated.drain(..surplus);
            body.key = key.id();
        }
        // One by a new key counts over all by those before it, whatever the versions.
        let next = body.version.checked_add(1).or(rotates.then_some(1));
        body.version = next.ok_or_else(|| {
            Refusal::failed(format!(
                "the charter of {uri} has the highest version there is, so somebody else has its \
                 key: `sudo phantom region rotate` makes another, with which it goes on"
            ))
        })?;
        body.at = now;
        change(&mut body);
        Ok(body)
    }

    fn keep_signed(&self, uri: &GridUri, charter: &[u8]) -> Result<(), Refusal> {
        let name = format!("{SIGNED}{}", uri.name());
        phantom_net::Store::put(&*self.store, &name, charter).map_err(Refusal::failed)
    }

    /// What is kept of the region in the sub-grid's group. Only voters replicate it; the super-peer
    /// knows for all.
    async fn region_record(&self) -> Result<Option<Record>, Refusal> {
        Ok(self.region_view_if_any().await?.map(|view| view.record))
    }

    /// Has the sub-grid's group keep something, so that it outlives its voters.
    async fn set(&self, name: &str, bytes: Option<Vec<u8>>) -> Result<(), Refusal> {
        let op = Op::Set { name: name.to_owned(), expect: None, bytes, sure: true };
        match self.subgrid.propose(op).await {
            Ok(Outcome::Done(_)) => Ok(()),
            Ok(Outcome::Full) => Err(Refusal::failed("the sub-grid's group has no room for it")),
            Ok(_) => Err(Refusal::failed("the sub-grid's group has changed; try again")),
            Err(error) => Err(Refusal::failed(error)),
        }
    }

    /// The sub-grid, if this node may speak for it.
    fn may_speak(&self, what: &str) -> Result<SubgridId, Refusal> {
        let membership = self.network.standing().map_err(Refusal::failed)?;
        if membership.may_accept {
            return Ok(membership.subgrid());
        }
        Err(Refusal::failed(format!(
            "only where the sub-grid was founded, or on a delegate, one may {what}: do it there, or \
             have this node made one with `sudo phantom delegate`"
        )))
    }

    fn site_name(&self, asked: &RegionRequest) -> Result<String, Refusal> {
        let name = asked.name.clone().unwrap_or_else(|| self.members.name(self.node));
        if !phantom_net::member::valid_name(&name) {
            return Err(Refusal::usage(format!(
                "`{name}` cannot be a site's name: 1 to 63 letters, digits, `.`, `-` and `_`, first \
                 a letter or digit"
            )));
        }
        Ok(name)
    }

    fn charter_of(&self, view: &View) -> Option<Charter> {
        abroad::charter(&view.charter, self.network.now()).ok()
    }

    /// Who asks to be let in, or go; not whom that was granted already.
    fn asking(&self, view: &View) -> Vec<Registration> {
        let now = self.network.now();
        let asking = view.asking.iter().filter_map(|bytes| Registration::read(bytes, now).ok());
        let is_in =
            |asking: &Registration| view.sites.iter().any(|site| site.subgrid == asking.subgrid());
        asking.filter(|asking| asking.leaves() == is_in(asking)).collect()
    }
}

fn unknown() -> Refusal {
    Refusal::failed(
        "it is not known now to which region this sub-grid belongs, for no super-peer tells: try \
         again in a moment; `phantom subgrid` tells who answers",
    )
}

fn uri_of(asked: &RegionRequest) -> Result<GridUri, Refusal> {
    let text = asked.uri.as_deref().unwrap_or_default();
    text.parse().map_err(Refusal::usage)
}

fn belongs(record: &Record) -> Refusal {
    Refusal::failed(format!(
        "this sub-grid belongs to {} or has asked it: `sudo phantom site remove {}` first",
        record.uri, record.uri
    ))
}

/// The one that is meant: by its name, or the beginning of its sub-grid's id.
fn pick(
    wanted: &str,
    from: impl Iterator<Item = (SubgridId, String)>,
    what: &str,
) -> Result<(SubgridId, String), Refusal> {
    let all: Vec<_> = from.collect();
    let named: Vec<_> = all.iter().filter(|(_, name)| name == wanted).collect();
    let begins = |(subgrid, _): &&(SubgridId, String)| {
        wanted.len() >= 4 && subgrid.to_string().starts_with(wanted)
    };
    let meant = if named.is_empty() { all.iter().filter(begins).collect() } else { named };
    match meant[..] {
        [one] => Ok(one.clone()),
        [] => Err(Refusal::failed(format!("`{wanted}` is not {what}"))),
        _ => Err(Refusal::failed(format!(
            "`{wanted}` is more than one: say which by the beginning of the sub-grid's id"
        ))),
    }
}

fn hex(key: &[u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}
