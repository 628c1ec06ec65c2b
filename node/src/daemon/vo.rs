//! Virtual organisations: what is known of them here, made and changed, and apps kept within
//! theirs.
//!
//! Two sub-grids may each own one of the same name. NAME means the own sub-grid's where it owns one,
//! else the only one of that name; `NAME@ID`, with the beginning of its owner's id, means that one
//! in any case. So nobody else's can come to stand for one that the policy or a user names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use phantom_broker::Organisation;
use phantom_discovery::uri::{GridUri, SCHEME};
use phantom_model::{AppId, AppRecord, NodeId, SubgridId, VoId, VoMembers};
use phantom_net::VoChange;
use phantom_net::member::{Vo, VoMember};

use tokio::sync::watch;

use super::{Daemon, Refusal};
use crate::api::types::{MigrateRequest, VoAction, VoRequest, VoRow};

/// How soon it is tried again to bring an app back within its virtual organisation.
const AGAIN: Duration = Duration::from_secs(30);
/// How soon the super-peer is asked again that could not tell of which region the sub-grid is.
const NOT_TOLD: Duration = Duration::from_secs(2);
/// The least that must be given of an id.
const SHORTEST_ID: usize = 4;
/// The own sub-grid as a member, and what stands before the id of another.
const SUBGRID: &str = "subgrid";

/// At which count of changes it was looked, in which regions, and what was seen.
type Looked = (u64, Vec<String>, Arc<View>);

/// The virtual organisations as they were last looked at, and when: see [`View`].
#[derive(Default)]
pub struct Vos {
    looked: Mutex<Option<Looked>>,
    /// The domain names of the regions this sub-grid lies in.
    regions: watch::Sender<Vec<String>>,
}

/// Who is in which virtual organisation, as far as it matters to a node.
#[derive(Debug)]
pub struct View {
    own: SubgridId,
    /// With the nodes of the own sub-grid that are in it; a dissolved one has none.
    known: BTreeMap<VoId, (Vo, BTreeSet<NodeId>)>,
    members: Arc<VoMembers>,
}

impl View {
    /// Of a sub-grid with these nodes, which lies in these regions.
    pub fn new(own: SubgridId, vos: Vec<Vo>, nodes: &[NodeId], regions: &[String]) -> Self {
        let with_members = |vo: Vo| {
            let is_in = |node: &&NodeId| vo.has_member(**node, own, regions);
            let nodes = nodes.iter().filter(is_in).copied().collect();
            (vo.id().clone(), (vo, nodes))
        };
        let known = vos.into_iter().map(with_members).collect();
        let mut view = Self { own, known, members: Arc::default() };
        let mut members = VoMembers::new();
        for (vo, nodes) in view.known.values().filter(|(vo, _)| !vo.is_dissolved()) {
            members.extend(view.names(vo.id()).into_iter().map(|name| (name, nodes.clone())));
        }
        view.members = Arc::new(members);
        view
    }

    fn living(&self) -> impl Iterator<Item = &Vo> {
        self.known.values().map(|(vo, _)| vo).filter(|vo| !vo.is_dissolved())
    }

    /// The one that `text` means.
    ///
    /// # Errors
    /// There is none, or more than one: in words.
    pub fn find(&self, text: &str) -> Result<&Vo, String> {
        let (name, owner) = match text.split_once('@') {
            Some((name, owner)) => (name, Some(owner)),
            None => (text, None),
        };
        let owned_so = |vo: &&Vo| {
            let of = |owner: &str| {
                owner.len() >= SHORTEST_ID && vo.owner().to_string().starts_with(owner)
            };
            vo.name() == name && owner.is_none_or(of)
        };
        let found: Vec<&Vo> = self.living().filter(owned_so).collect();
        let own = found.iter().find(|vo| vo.owner() == self.own && owner.is_none());
        match (own, &found[..]) {
            (Some(vo), _) | (None, [vo]) => Ok(vo),
            (None, []) => Err(format!(
                "no virtual organisation `{text}` is known here: `phantom vo list` shows those \
                 that are"
            )),
            (None, several) => {
                let names: Vec<String> = several.iter().map(|vo| vo.id().to_string()).collect();
                Err(format!(
                    "`{text}` is several virtual organisations: say {}",
                    names.join(" or ")
                ))
            }
        }
    }

    /// The names by which it is known, the shortest first.
    pub fn names(&self, id: &VoId) -> Vec<String> {
        let means_it = |name: &String| self.find(name).is_ok_and(|vo| vo.id() == id);
        let long = || format!("{}@{}", id.name(), id.owner());
        let names = [id.name().to_owned(), id.to_string()].into_iter().filter(means_it);
        let mut names: Vec<String> = names.collect();
        if names.is_empty() {
            // Not known, dissolved, or of a sub-grid whose id begins like that of another.
            names.push(if means_it(&long()) { long() } else { id.to_string() });
        }
        names
    }

    /// The shortest name by which it is known.
    pub fn name(&self, id: &VoId) -> String {
        self.names(id).swap_remove(0)
    }

    /// What an app under it is bound to.
    pub fn organisation(&self, id: &VoId) -> Organisation {
        let members = self.known.get(id).map(|(_, nodes)| nodes.clone());
        Organisation { names: self.names(id), members }
    }
}

impl Daemon {
    /// What is known here of virtual organisations; `None` while this node is no member of a
    /// sub-grid.
    fn vo_view(&self) -> Option<Arc<View>> {
        let own = self.network.membership()?.subgrid();
        // Before the look: what changes meanwhile is looked at again.
        let count = *self.network.member_changes().borrow();
        let regions = self.own_regions();
        let mut last = self.vos.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, within, view)) = &*last
            && *of == count
            && *within == regions
        {
            return Some(view.clone());
        }
        let nodes: Vec<NodeId> = self.network.members().iter().map(|it| it.node()).collect();
        let view = Arc::new(View::new(own, self.network.vos(), &nodes, &regions));
        *last = Some((count, regions, view.clone()));
        Some(view)
    }

    /// The domain names of the regions this sub-grid lies in.
    fn own_regions(&self) -> Vec<String> {
        self.vos.regions.borrow().clone()
    }

    /// Asks from time to time in which region the sub-grid lies, and tells its queries who is in
    /// which virtual organisation.
    pub async fn know_vos(self: Arc<Self>) {
        let (mut members, mut subgrid) = (self.network.member_changes(), self.subgrid.changes());
        let mut regions = self.vos.regions.subscribe();
        let mut told = Arc::default();
        loop {
            let region = self.region_name().await;
            let pause = if region.is_ok() { AGAIN } else { NOT_TOLD };
            if let Ok(region) = region {
                let now: Vec<String> = region.into_iter().collect();
                self.vos.regions.send_if_modified(|known| {
                    let differs = *known != now;
                    *known = now;
                    differs
                });
            }
            members.mark_unchanged();
            regions.mark_unchanged();
            let now = self.vo_members();
            if now != told {
                self.subgrid.set_vos((*now).clone()).await;
                told = now;
            }
            let changed = tokio::select! {
                changed = members.changed() => changed,
                changed = regions.changed() => changed,
                changed = subgrid.changed() => changed,
                () = tokio::time::sleep(pause) => Ok(()),
                () = self.stopping() => return,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// By which name other sub-grids know it as well.
    pub fn vo_full_name(&self, text: &str) -> Result<String, Refusal> {
        let view = self.must_view_vos()?;
        Ok(view.find(text).map_err(Refusal::usage)?.id().to_string())
    }

    fn must_view_vos(&self) -> Result<Arc<View>, Refusal> {
        self.network.standing().map_err(Refusal::failed)?;
        self.vo_view().ok_or_else(|| Refusal::failed(phantom_net::Error::NotMember))
    }

    /// The nodes of this sub-grid that are in each virtual organisation, by each of its names: NAME
    /// where that is clear, and `NAME@ID`, by which other sub-grids know it too.
    pub fn vo_members(&self) -> Arc<VoMembers> {
        self.vo_view().map(|view| view.members.clone()).unwrap_or_default()
    }

    /// What people call a virtual organisation.
    pub fn vo_name(&self, id: &VoId) -> String {
        self.vo_view().map_or_else(|| id.to_string(), |view| view.name(id))
    }

    /// What an app under it is bound to.
    pub fn organisation(&self, id: &VoId) -> Organisation {
        let unknown = || Organisation { names: vec![id.to_string()], members: None };
        self.vo_view().map_or_else(unknown, |view| view.organisation(id))
    }

    /// The virtual organisation that a user wants to run an app under: this node must be in it.
    pub fn vo_to_run_under(&self, text: &str) -> Result<VoId, Refusal> {
        let view = self.must_view_vos()?;
        let vo = view.find(text).map_err(Refusal::usage)?;
        let Organisation { names, members } = view.organisation(vo.id());
        if members.is_some_and(|members| members.contains(&self.node)) {
            return Ok(vo.id().clone());
        }
        let (name, node) = (&names[0], self.members.name(self.node));
        Err(Refusal::failed(format!(
            "this node, {node}, is not in the virtual organisation {name}: a node that may let \
             others in takes it in with `phantom vo add {name} {node}`"
        )))
    }

    /// The nodes of this sub-grid that are in the virtual organisation a user names.
    pub fn nodes_of_vo(&self, text: &str) -> Result<BTreeSet<NodeId>, Refusal> {
        let view = self.must_view_vos()?;
        let vo = view.find(text).map_err(Refusal::usage)?;
        Ok(view.organisation(vo.id()).members.unwrap_or_default())
    }

    /// Answers `phantom vo list`.
    pub fn vo_rows(&self, name: Option<&str>) -> Result<Vec<VoRow>, Refusal> {
        let view = self.must_view_vos()?;
        let Some(name) = name else {
            return Ok(view.living().map(|vo| self.vo_row(&view, vo)).collect());
        };
        let vo = view.find(name).map_err(Refusal::usage)?;
        Ok(vec![self.vo_row(&view, vo)])
    }

    fn vo_row(&self, view: &View, vo: &Vo) -> VoRow {
        let in_words = |member: &VoMember| match member {
            VoMember::Node(node) => {
                match self.network.members().iter().find(|it| it.node() == *node) {
                    Some(member) => member.name().to_owned(),
                    None => node.to_string(),
                }
            }
            VoMember::Subgrid(subgrid) if *subgrid == view.own => SUBGRID.to_owned(),
            VoMember::Subgrid(subgrid) => format!("{SUBGRID}:{subgrid}"),
            VoMember::Region(name) => format!("{SCHEME}{name}"),
        };
        let nodes = view.organisation(vo.id()).members.unwrap_or_default();
        let mut names: Vec<String> = nodes.iter().map(|node| self.members.name(*node)).collect();
        names.sort();
        VoRow {
            name: view.name(vo.id()),
            full_name: vo.id().to_string(),
            owner: vo.owner(),
            version: vo.version(),
            signed_unix_s: vo.at(),
            members: vo.members().iter().map(in_words).collect(),
            this: nodes.contains(&self.node),
            nodes: names,
        }
    }

    /// Makes, changes or dissolves one of the own sub-grid; gives what it is now, unless it is no
    /// more.
    pub async fn change_vo(&self, request: VoRequest) -> Result<Option<VoRow>, Refusal> {
        let view = self.must_view_vos()?;
        let name = match request.name.split_once('@') {
            None => request.name.as_str(),
            Some((name, owner)) if view.own.to_string().starts_with(owner) => name,
            Some((_, owner)) => {
                return Err(Refusal::failed(format!(
                    "{} belongs to the sub-grid {owner}, and is changed there",
                    request.name
                )));
            }
        };
        let known = view.find(name).ok().filter(|vo| vo.owner() == view.own);
        let mut members = BTreeSet::new();
        for text in &request.members {
            let member = self.vo_member(text, view.own, known)?;
            if let (VoAction::Remove, Some(vo)) = (request.what, known)
                && !vo.members().contains(&member)
            {
                return Err(Refusal::usage(format!(
                    "`{text}` by itself is no member of {name}: `phantom vo list {name}` shows who is"
                )));
            }
            members.insert(member);
        }
        let change = match request.what {
            VoAction::Create => VoChange::Create(members),
            VoAction::Add => VoChange::Add(members),
            VoAction::Remove => VoChange::Remove(members),
            VoAction::Dissolve => VoChange::Dissolve,
        };
        let vo = self.network.change_vo(name, change).await.map_err(Refusal::failed)?;
        tracing::info!(vo = %vo.id(), version = vo.version(), "a virtual organisation was changed");
        let view = self.must_view_vos()?;
        Ok((!vo.is_dissolved()).then(|| self.vo_row(&view, &vo)))
    }

    /// The member that a user means; those of `known` may be called by ids that mean nobody else.
    fn vo_member(
        &self,
        text: &str,
        own: SubgridId,
        known: Option<&Vo>,
    ) -> Result<VoMember, Refusal> {
        if text.starts_with(SCHEME) {
            let uri: GridUri = text.parse().map_err(Refusal::usage)?;
            return Ok(VoMember::Region(uri.name().to_owned()));
        }
        if text == SUBGRID {
            return Ok(VoMember::Subgrid(own));
        }
        let begins = |id: &str, text: &str| text.len() >= SHORTEST_ID && id.starts_with(text);
        let members = || known.into_iter().flat_map(Vo::members);
        if let Some(id) = text.strip_prefix("subgrid:") {
            let whole = id.parse().ok();
            let listed = members().filter_map(|member| match member {
                VoMember::Subgrid(subgrid) => Some(*subgrid),
                _ => None,
            });
            let meant = listed.chain([own]).find(|subgrid| begins(&subgrid.to_string(), id));
            return whole.or(meant).map(VoMember::Subgrid).ok_or_else(|| {
                Refusal::usage(format!(
                    "`{text}` is no sub-grid known here: write `subgrid` for this one, or \
                     subgrid: and all 64 digits of the other's id"
                ))
            });
        }
        let refusal = match self.member_called(text) {
            Ok((node, _)) => return Ok(VoMember::Node(node)),
            Err(refusal) => refusal,
        };
        let listed = members().find_map(|member| match member {
            VoMember::Node(node) if begins(&node.to_string(), text) => Some(*node),
            _ => None,
        });
        listed.or_else(|| text.parse().ok()).map(VoMember::Node).ok_or_else(|| Refusal {
            line: format!(
                "{}; a member is a node, `subgrid`, `subgrid:ID` or `grid://REGION`",
                refusal.line
            ),
            ..refusal
        })
    }

    /// Whether an app runs where it may not any more: its host or its home was put out of its
    /// virtual organisation. At home it may always be.
    fn is_astray(&self, record: &AppRecord) -> bool {
        let Some(vo) = record.spec.vo.as_ref().filter(|_| record.is_away()) else { return false };
        let is_out = |members: BTreeSet<NodeId>| {
            !members.contains(&record.host) || !members.contains(&record.home)
        };
        self.organisation(vo).members.is_some_and(is_out)
    }

    /// Brings apps back within their virtual organisations when those change.
    pub async fn keep_within_vos(self: Arc<Self>) {
        let mut changes = self.network.member_changes();
        let mut regions = self.vos.regions.subscribe();
        loop {
            changes.mark_unchanged();
            regions.mark_unchanged();
            let bound = self.apps.started().into_iter().filter(|record| record.spec.vo.is_some());
            // One that moves was allowed to by an older document, perhaps.
            let astray = |it: &AppRecord| it.pending.is_some() || self.is_astray(it);
            let astray: Vec<_> = bound.filter(astray).map(|record| record.app).collect();
            let some = !astray.is_empty();
            join_all(astray.into_iter().map(|app| self.clone().bring_within(app))).await;
            tokio::select! {
                changed = changes.changed(), if !some => if changed.is_err() { return },
                changed = regions.changed(), if !some => if changed.is_err() { return },
                // One may not have been able to move.
                () = tokio::time::sleep(AGAIN), if some => {}
                () = self.stopping() => return,
            }
        }
    }

    async fn bring_within(self: Arc<Self>, app: AppId) {
        self.moves.at_rest(app).await;
        let record = self.apps.record(app).ok().filter(|record| record.pending.is_none());
        let Some(record) = record.filter(|record| self.is_astray(record)) else { return };
        let host = self.members.name(record.host);
        let vo = record.spec.vo.as_ref().map(|vo| self.vo_name(vo)).unwrap_or_default();
        let why = format!("it may not be on {host} under the virtual organisation {vo} any more");
        match self.clone().migrate(app, MigrateRequest { node: None }).await {
            Ok(reply) => {
                let line = format!("{} moved to {}: {why}", reply.name, reply.to);
                self.tell_user(app, line).await;
            }
            Err(refusal) => self.tell_once(app, format!("{why}, but {}", refusal.line)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use phantom_net::key::SubgridKey;

    const NODES: [NodeId; 3] = [NodeId([1; 32]), NodeId([2; 32]), NodeId([3; 32])];

    fn vo(key: &SubgridKey, name: &str, members: Option<Vec<VoMember>>) -> Vo {
        let members = members.map(|all| all.into_iter().collect());
        Vo::issue(&key.into(), name, 1, 1_800_000_000, members).unwrap()
    }

    fn node(number: usize) -> Vec<VoMember> {
        vec![VoMember::Node(NODES[number])]
    }

    fn view(own: &SubgridKey, vos: Vec<Vo>) -> View {
        View::new(own.id(), vos, &NODES, &["campus.example.org".to_owned()])
    }

    #[test]
    fn members_are_nodes_the_sub_grid_or_its_region() {
        let key = SubgridKey::ephemeral();
        let all = vec![VoMember::Subgrid(key.id())];
        let region = |name: &str| vec![VoMember::Region(name.to_owned())];
        let view = view(
            &key,
            vec![
                vo(&key, "one", Some(node(1))),
                vo(&key, "all", Some(all)),
                vo(&key, "campus", Some(region("campus.example.org"))),
                vo(&key, "elsewhere", Some(region("example.org"))),
                vo(&key, "gone", None),
            ],
        );
        let of = |name: &str| view.members.get(name).map(BTreeSet::len);
        assert_eq!(view.members["one"], [NODES[1]].into());
        assert_eq!((of("all"), of("campus"), of("elsewhere")), (Some(3), Some(3), Some(0)));
        assert_eq!((of("gone"), of("nobody")), (None, None));
        assert_eq!(of(&format!("one@{}", key.id().short())), Some(1));
        let gone = VoId::new(key.id(), "gone").unwrap();
        assert_eq!(
            view.organisation(&gone).members,
            Some(BTreeSet::new()),
            "it is known to be over"
        );
        let unheard = VoId::new(key.id(), "unheard").unwrap();
        assert_eq!(view.organisation(&unheard).members, None);
    }

    #[test]
    fn nobody_elses_stands_for_the_own_one() {
        let [own, other, third] = [(); 3].map(|()| SubgridKey::ephemeral());
        let ours = vo(&own, "physics", Some(node(0)));
        let theirs = vo(&other, "physics", Some(node(1)));
        let both = view(&own, vec![theirs.clone(), ours.clone()]);
        assert_eq!(both.find("physics").unwrap(), &ours);
        assert_eq!(both.members["physics"], [NODES[0]].into());
        assert_eq!(both.name(theirs.id()), theirs.id().to_string());
        assert_eq!(both.find(&theirs.id().to_string()).unwrap(), &theirs);
        assert_eq!(both.members[&theirs.id().to_string()], [NODES[1]].into());
        let whole = format!("physics@{}", other.id());
        assert_eq!(both.find(&whole).unwrap(), &theirs);
        assert!(both.find("physics@").is_err() && both.find("physics@zzzz").is_err());

        // Without an own one the only one is meant; of two the user says which.
        let only = view(&own, vec![theirs.clone()]);
        assert_eq!(only.names(theirs.id()), ["physics".to_owned(), theirs.id().to_string()]);
        let thirds = vo(&third, "physics", Some(node(2)));
        let two = view(&own, vec![theirs.clone(), thirds.clone()]);
        let said = two.find("physics").unwrap_err();
        assert!(said.contains(&theirs.id().to_string()), "{said}");
        assert!(said.contains(&thirds.id().to_string()), "{said}");
        assert!(!two.members.contains_key("physics"));
        // One that is dissolved stands in nobody's way.
        let over = view(&own, vec![theirs.clone(), vo(&own, "physics", None)]);
        assert_eq!(over.find("physics").unwrap(), &theirs);
    }
}
