//! Virtual organisations.

use super::Network;
use crate::book::VoChange;
use crate::error::Error;
use crate::member::Vo;

impl Network {
    /// All virtual organisations known here, of this sub-grid and of others, also those that are
    /// dissolved; [`Network::member_changes`] tells when that changes.
    pub fn vos(&self) -> Vec<Vo> {
        self.inner.book.vos()
    }

    /// Makes, changes or dissolves the virtual organisation `name` of the own sub-grid and tells all
    /// members. Returns the version that counts now.
    ///
    /// # Errors
    /// This node may let nobody in, and so not do this either; there is one already or there is
    /// none, a bound is exceeded, or the store cannot be written.
    pub async fn change_vo(&self, name: &str, change: VoChange) -> Result<Vo, Error> {
        self.inner.book.change_vo(name, change).await
    }

    /// Takes a document that came from wherever, as [`Vo::to_bytes`] gave it, and tells all members.
    /// Returns whether it is news.
    ///
    /// # Errors
    /// It is not genuine for its owner, too much of its kind is known, or this node is no member.
    pub async fn learn_vo(&self, document: &[u8]) -> Result<bool, Error> {
        self.inner.book.learn_vo(Vo::from_bytes(document)?).await
    }
}
