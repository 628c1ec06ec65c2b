//! All virtual organisations a member knows: those of its own sub-grid, and those of others.
//!
//! Whatever the order in which documents are heard, nodes that have heard the same know the same,
//! as long as no bound is met. Of the own sub-grid's, those count whose seal does.

use std::collections::BTreeMap;

use phantom_model::{SubgridId, VoId};

use super::{Rights, Vo, VoError};

/// A sub-grid owns at most this many, and as many that are dissolved are remembered.
pub const MAX_VOS: usize = 64;
/// At most this many of all other sub-grids together are kept.
pub const MAX_FOREIGN_VOS: usize = 128;

/// The versions that count.
#[derive(Debug, Clone)]
pub(crate) struct Vos {
    subgrid: SubgridId,
    known: BTreeMap<VoId, Known>,
}

#[derive(Debug, Clone)]
struct Known {
    vo: Vo,
    digest: [u8; 32],
}

/// What came of hearing a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Learned {
    /// Whether it counts now.
    pub new: bool,
    /// What is forgotten for it.
    pub gone: Vec<VoId>,
}

impl Vos {
    /// None is known yet in `subgrid`.
    pub fn new(subgrid: SubgridId) -> Self {
        Self { subgrid, known: BTreeMap::new() }
    }

    /// The version that counts, if any; it may be a dissolved one.
    pub fn get(&self, id: &VoId) -> Option<&Vo> {
        self.known.get(id).map(|known| &known.vo)
    }

    /// All of them, dissolved ones too.
    pub fn iter(&self) -> impl Iterator<Item = &Vo> {
        self.known.values().map(|known| &known.vo)
    }

    /// All of them with their digests.
    pub fn with_digests(&self) -> impl Iterator<Item = (&Vo, [u8; 32])> {
        self.known.values().map(|known| (&known.vo, known.digest))
    }

    /// How many the own sub-grid owns.
    pub fn owned(&self) -> usize {
        self.of_own(false).count()
    }

    fn of_own(&self, dissolved: bool) -> impl Iterator<Item = &Vo> {
        let own = self.iter().filter(|vo| vo.owner() == self.subgrid);
        own.filter(move |vo| vo.is_dissolved() == dissolved)
    }

    /// Takes a document, if it is genuine and newer than the one known.
    ///
    /// # Errors
    /// Why it does not count. One that is not newer is no error.
    pub fn learn(&mut self, heard: Vo, rights: &Rights, now: u64) -> Result<Learned, VoError> {
        let known = self.get(heard.id());
        // What is known has been checked; peers repeat what they know.
        if known.is_some_and(|known| !heard.replaces(known)) {
            return Ok(Learned::default());
        }
        if self.is_withdrawn(&heard, rights) {
            return Err(VoError::Withdrawn { name: heard.name().to_owned() });
        }
        heard.check(now)?;
        let foreign = self.known.keys().filter(|id| id.owner() != self.subgrid).count();
        let same_owner = self.known.keys().filter(|id| id.owner() == heard.owner()).count();
        if heard.owner() != self.subgrid
            && known.is_none()
            && (foreign >= MAX_FOREIGN_VOS || same_owner >= MAX_VOS)
        {
            return Err(VoError::NoRoom);
        }
        let id = heard.id().clone();
        self.known.insert(id.clone(), Known { digest: heard.digest(), vo: heard });
        let gone = self.bound();
        Ok(Learned { new: !gone.contains(&id), gone })
    }

    /// Only by delegates who make many at once can there be more than allowed. Which are forgotten
    /// does not depend on the order in which they came.
    fn bound(&mut self) -> Vec<VoId> {
        let living = self.of_own(false).skip(MAX_VOS).map(|vo| vo.id().clone());
        let mut gone: Vec<VoId> = living.collect();
        let mut dissolved: Vec<_> = self.of_own(true).map(|vo| (vo.at(), vo.id())).collect();
        dissolved.sort_unstable();
        let over = dissolved.len().saturating_sub(MAX_VOS);
        gone.extend(dissolved.iter().take(over).map(|(_, id)| (*id).clone()));
        self.known.retain(|id, _| !gone.contains(id));
        gone
    }

    /// Forgets what was sealed by delegates whose right was taken back; says which.
    pub fn prune(&mut self, rights: &Rights) -> Vec<VoId> {
        let void = self.iter().filter(|vo| self.is_withdrawn(vo, rights));
        let void: Vec<VoId> = void.map(|vo| vo.id().clone()).collect();
        self.known.retain(|id, _| !void.contains(id));
        void
    }

    /// Of delegates of other sub-grids it is not known here whether they still are.
    fn is_withdrawn(&self, vo: &Vo, rights: &Rights) -> bool {
        let delegation = vo.seal().delegation().filter(|_| vo.owner() == self.subgrid);
        delegation.is_some_and(|delegation| rights.is_withdrawn(delegation))
    }
}
