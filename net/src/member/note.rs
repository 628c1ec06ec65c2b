//! What a member says, with its certificate and its signature: proof whose word it is, whoever
//! passes it on.

use iroh_base::{PublicKey, Signature};
use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Certificate, CertificateError};
use crate::key::NodeKey;

const CONTEXT: &[u8] = b"phantom note 1\0";
/// No note is longer.
const MAX_BYTES: usize = 1200;

/// A signed statement of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    body: Vec<u8>,
    certificate: Certificate,
    signature: Signature,
}

/// Why bytes are no note.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoteError {
    /// Something else altogether.
    #[error("it is not a note of a member")]
    Malformed,
    /// Not signed by the node it names.
    #[error("it is not signed by the node it names")]
    Forged,
    /// The node is no member of the sub-grid it names.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl Note {
    /// Signs `body` as the node whose `key` and `certificate` these are.
    pub fn sign(key: &NodeKey, certificate: Certificate, body: Vec<u8>) -> Self {
        let signature = key.0.sign(&[CONTEXT, &body].concat());
        Self { body, certificate, signature }
    }

    /// Reads one that is in itself consistent: by a node that some sub-grid calls its own.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > MAX_BYTES {
            return Err(NoteError::Malformed);
        }
        let note: Self = postcard::from_bytes(bytes).map_err(|_| NoteError::Malformed)?;
        let key = PublicKey::from_bytes(&note.node().0).map_err(|_| NoteError::Forged)?;
        let signed = key.verify(&[CONTEXT, &note.body].concat(), &note.signature);
        signed.map_err(|_| NoteError::Forged)?;
        note.certificate.check_genuine(note.subgrid())?;
        Ok(note)
    }

    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain structs of numbers, strings and lists always serialize.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// What is said.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Who says it.
    pub fn node(&self) -> NodeId {
        self.certificate.terms().node
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.certificate.terms().name
    }

    /// Which sub-grid it says it is a member of.
    pub fn subgrid(&self) -> SubgridId {
        self.certificate.terms().subgrid
    }

    /// Its certificate; whether it counts is for a member of the sub-grid to say.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

#[cfg(test)]
mod tests {
    use super::super::Terms;
    use super::*;
    use crate::key::SubgridKey;
    use proptest::prelude::*;

    fn note() -> Note {
        let (key, node) = (SubgridKey::ephemeral(), NodeKey::ephemeral());
        let terms = Terms {
            subgrid: key.id(),
            node: node.id(),
            name: "desk".to_owned(),
            not_before: 1,
            expires: 2,
            serial: 1,
        };
        let certificate = Certificate::issue(&key, terms).unwrap();
        Note::sign(&node, certificate, b"here".to_vec())
    }

    #[test]
    fn a_note_is_its_signers_and_of_its_sub_grid() {
        let (one, other) = (note(), note());
        assert_eq!(Note::read(&one.to_bytes()).unwrap(), one);
        let stolen = Note { certificate: other.certificate.clone(), ..one.clone() };
        assert_eq!(Note::read(&stolen.to_bytes()), Err(NoteError::Forged));
        let stranger = NodeKey::ephemeral();
        let pretended = Note::sign(&stranger, one.certificate.clone(), b"here".to_vec());
        assert_eq!(Note::read(&pretended.to_bytes()), Err(NoteError::Forged));
    }

    proptest! {
        #[test]
        fn a_changed_byte_breaks_it(at in 0usize..10_000, bit in 0u8..8) {
            let mut bytes = note().to_bytes();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(Note::read(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(Note::read(&bytes).is_err());
        }
    }
}
