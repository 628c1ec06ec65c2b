//! Virtual organisations: made, changed, heard of and kept.

use std::collections::{BTreeMap, BTreeSet};

use phantom_model::{NodeId, VoId};

use super::{Book, News, Own, VOS, on_store};
use crate::error::Error;
use crate::member::{
    Authority, Delegation, Learned, MAX_FOREIGN_VOS, MAX_VOS, Vo, VoError, VoMember,
};
use crate::store::Store;

/// So many bytes of documents go into one message, and one document more.
const PART: usize = 512 << 10;
const RECORD: &str = "record a virtual organisation";

/// What shall become of a virtual organisation of the own sub-grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoChange {
    /// It comes to be, with these members; a dissolved one may come back.
    Create(BTreeSet<VoMember>),
    /// These are members as well.
    Add(BTreeSet<VoMember>),
    /// These are members no more.
    Remove(BTreeSet<VoMember>),
    /// It is no more.
    Dissolve,
}

impl Book {
    /// All virtual organisations known, also dissolved ones.
    pub fn vos(&self) -> Vec<Vo> {
        self.state().own.iter().flat_map(|own| own.vos.iter().cloned()).collect()
    }

    /// Signs the next version of a virtual organisation of the own sub-grid.
    pub async fn change_vo(&self, name: &str, change: VoChange) -> Result<Vo, Error> {
        let _one_at_a_time = self.one_at_a_time.lock().await;
        let authority = self.must_accept()?;
        let id = VoId::new(authority.subgrid(), name).map_err(VoError::from)?;
        let (known, owned) = {
            let state = self.state();
            let own = state.own.as_ref().ok_or(Error::NotMember)?;
            (own.vos.get(&id).cloned(), own.vos.owned())
        };
        let next = known.as_ref().map_or(1, |known| known.version().saturating_add(1));
        let living = known.filter(|known| !known.is_dissolved());
        let members = match (change, living) {
            (VoChange::Create(_), Some(_)) => return Err(VoError::Exists(name.to_owned()).into()),
            (VoChange::Create(_), None) if owned >= MAX_VOS => return Err(VoError::Full.into()),
            (VoChange::Create(members), None) => Some(members),
            (_, None) => return Err(VoError::Unknown(name.to_owned()).into()),
            (VoChange::Add(more), Some(known)) => Some(known.members() | &more),
            (VoChange::Remove(gone), Some(known)) => Some(known.members() - &gone),
            (VoChange::Dissolve, Some(_)) => None,
        };
        let vo = Vo::issue(&authority, name, next, self.now(), members)?;
        self.publish_vo(&vo).await?;
        Ok(vo)
    }

    async fn publish_vo(&self, vo: &Vo) -> Result<(), Error> {
        {
            let _one_at_a_time = self.vo_writes.lock().await;
            let (key, bytes) = (vo_key(vo.id()), vo.to_bytes());
            // Durable before anybody acts on it.
            on_store(&self.store, RECORD, move |store| store.put(&key, &bytes)).await?;
        }
        self.learn_vo(vo.clone()).await.map(drop)
    }

    /// Takes a document, if it is genuine and newer than the one known; says whether it was.
    pub async fn learn_vo(&self, heard: Vo) -> Result<bool, Error> {
        let now = self.now();
        let Learned { new, gone } = {
            let mut state = self.state();
            let Own { vos, rights, .. } = state.own.as_mut().ok_or(Error::NotMember)?;
            vos.learn(heard.clone(), rights, now)?
        };
        if !new && gone.is_empty() {
            return Ok(false);
        }
        self.bump();
        let changed = gone.iter().chain([heard.id()]).cloned().collect();
        if let Err(error) = self.record_vos(changed).await {
            tracing::warn!(%error, "a virtual organisation is known but not recorded");
        }
        Ok(new)
    }

    /// Takes what a peer knows of virtual organisations.
    pub(super) async fn hear_vos(&self, heard: Vec<Vo>) {
        for vo in heard.into_iter().take(2 * MAX_VOS + MAX_FOREIGN_VOS) {
            let id = vo.id().clone();
            if let Err(error) = self.learn_vo(vo).await {
                tracing::debug!(%id, %error, "a virtual organisation does not count");
            }
        }
    }

    /// What was not yet told of virtual organisations, in parts; `told` has those that were.
    pub fn vo_news(&self, told: &mut BTreeMap<VoId, [u8; 32]>) -> Option<News> {
        let state = self.state();
        let own = state.own.as_ref()?;
        let (mut vos, mut bytes) = (Vec::new(), 0);
        for (vo, digest) in own.vos.with_digests() {
            if bytes >= PART {
                break;
            }
            if told.get(vo.id()) != Some(&digest) {
                told.insert(vo.id().clone(), digest);
                bytes += vo.to_bytes().len();
                vos.push(vo.clone());
            }
        }
        told.retain(|id, _| own.vos.get(id).is_some());
        (!vos.is_empty()).then(|| News { vos, ..News::default() })
    }

    /// Signs anew what the delegate `node` has sealed, before its right is taken back.
    pub(super) async fn seal_vos_anew(&self, by: &Authority, node: NodeId) -> Result<(), Error> {
        let by_it = |vo: &Vo| {
            let signer = vo.seal().delegation().map(Delegation::node);
            vo.owner() == by.subgrid() && signer == Some(node)
        };
        for vo in self.vos().into_iter().filter(by_it) {
            let members = (!vo.is_dissolved()).then(|| vo.members().clone());
            let next = vo.version().saturating_add(1);
            let sealed = Vo::issue(by, vo.name(), next, self.now(), members)?;
            self.publish_vo(&sealed).await?;
        }
        Ok(())
    }

    /// Writes what counts of these, or that nothing does.
    pub(super) async fn record_vos(&self, changed: Vec<VoId>) -> Result<(), Error> {
        let _one_at_a_time = self.vo_writes.lock().await;
        let now: Vec<(String, Option<Vec<u8>>)> = {
            let state = self.state();
            let own = state.own.as_ref();
            let bytes = |id| own.and_then(|own| own.vos.get(id)).map(Vo::to_bytes);
            changed.iter().map(|id| (vo_key(id), bytes(id))).collect()
        };
        let put = move |store: &dyn Store| {
            now.iter().try_for_each(|(key, bytes)| match bytes {
                Some(bytes) => store.put(key, bytes),
                None => store.remove(key),
            })
        };
        on_store(&self.store, RECORD, put).await
    }
}

impl Own {
    /// Takes up what the store holds. One that no longer decodes or holds is learned anew from
    /// other members.
    pub(super) fn recall_vos(&mut self, stored: &[(String, Vec<u8>)], now: u64) {
        for vo in stored.iter().filter_map(|(_, bytes)| Vo::from_bytes(bytes).ok()) {
            if let Err(error) = self.vos.learn(vo, &self.rights, now) {
                tracing::debug!(%error, "a virtual organisation in the store does not count");
            }
        }
    }
}

/// Names have characters that keys have not.
fn vo_key(id: &VoId) -> String {
    let hash = blake3::hash(&[&id.owner().0, id.name().as_bytes()].concat());
    format!("{VOS}{}", hash.to_hex())
}
