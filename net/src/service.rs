//! What streams between members are for, and the one exchange every service may use: a request
//! and its answer.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use phantom_model::{NodeId, frame};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::error::Error;
use crate::link::{LinkError, RecvStream, SendStream, Stream};
use crate::wire::{self, FrameError, MAX_FRAME};

/// What a stream is for: 1 to 16 of `a-z`, `0-9`, `-`. The node gives the names their meaning.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceId(Cow<'static, str>);

impl ServiceId {
    /// Requests between daemons and the steps of a move.
    pub const CONTROL: ServiceId = ServiceId(Cow::Borrowed("control"));
    /// Keystrokes and screen output: goes before everything else.
    pub const TERMINAL: ServiceId = ServiceId(Cow::Borrowed("terminal"));
    /// A home's files.
    pub const FILES: ServiceId = ServiceId(Cow::Borrowed("files"));
    /// What members tell each other of who is there, where its own way is blocked.
    pub const GOSSIP: ServiceId = ServiceId(Cow::Borrowed("gossip"));
    /// Bulk data over the node connection; served by this crate itself.
    pub const BULK: ServiceId = ServiceId(Cow::Borrowed("bulk"));
    /// The sub-grid's elected group and its registry.
    pub const SUBGRID: ServiceId = ServiceId(Cow::Borrowed("subgrid"));

    /// A service of that name, if it can be one.
    pub fn new(name: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=16).contains(&name.len()) && name.bytes().all(plain);
        fits.then(|| Self(Cow::Owned(name.to_owned())))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its stream priority: the higher goes first.
    pub fn priority(&self) -> i32 {
        match self.as_str() {
            "terminal" => 20,
            "control" => 10,
            "bulk" => -10,
            _ => 0,
        }
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ServiceId {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::new(&name).ok_or_else(|| format!("{name:?} is not a service"))
    }
}

impl From<ServiceId> for String {
    fn from(service: ServiceId) -> Self {
        service.0.into_owned()
    }
}

/// What a stream between members begins with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StreamHead {
    pub service: ServiceId,
    pub header: Vec<u8>,
}

/// A stream another member opened.
#[derive(Debug)]
pub struct Incoming {
    /// Who opened it: a member that has proven its key.
    pub peer: NodeId,
    /// What for.
    pub service: ServiceId,
    /// What it said about it: postcard, see [`Incoming::header`].
    pub raw_header: Vec<u8>,
    /// The stream, after the header.
    pub stream: Stream,
}

impl Incoming {
    /// Decodes the header.
    ///
    /// # Errors
    /// It is not a `T`.
    pub fn header<T: DeserializeOwned>(&self) -> Result<T, Error> {
        frame::decode(&self.raw_header).map_err(|error| Error::Protocol {
            peer: self.peer,
            what: "a stream header",
            source: error.into(),
        })
    }

    /// Reads the request of a [`crate::Network::call`].
    ///
    /// # Errors
    /// It does not come within `deadline`, or is not a `T`.
    pub async fn request<T: DeserializeOwned>(&mut self, deadline: Duration) -> Result<T, Error> {
        let read = wire::read_frame(&mut self.stream.recv, MAX_FRAME);
        bounded(self.peer, "a request", deadline, read).await
    }

    /// Answers a [`crate::Network::call`]. Without an answer the caller gets an error.
    ///
    /// # Errors
    /// It cannot be sent within `deadline`.
    pub async fn reply<T: Serialize>(
        mut self,
        answer: &T,
        deadline: Duration,
    ) -> Result<(), Error> {
        let stream = &mut self.stream.send;
        let write = write_last(stream, answer);
        bounded(self.peer, "an answer", deadline, write).await
    }
}

/// Sends `request` and reads the answer.
pub(crate) async fn exchange<Q: Serialize, A: DeserializeOwned>(
    send: &mut SendStream,
    recv: &mut RecvStream,
    request: &Q,
) -> Result<A, FrameError> {
    let wrote = match write_last(send, request).await {
        Err(error @ FrameError::Frame(_)) => return Err(error),
        wrote => wrote,
    };
    // A service may answer without reading all of the request: then writing fails, the answer is
    // there all the same.
    match (wire::read_frame(recv, MAX_FRAME).await, wrote) {
        (Ok(answer), _) => Ok(answer),
        (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
    }
}

async fn write_last<T: Serialize>(send: &mut SendStream, message: &T) -> Result<(), FrameError> {
    wire::write_frame(send, message, MAX_FRAME).await?;
    tokio::io::AsyncWriteExt::shutdown(send).await?;
    Ok(())
}

/// `work`, but no longer than `deadline`; failures name the peer and what was under way.
pub(crate) async fn bounded<T>(
    peer: NodeId,
    what: &'static str,
    deadline: Duration,
    work: impl Future<Output = Result<T, FrameError>>,
) -> Result<T, Error> {
    match timeout(deadline, work).await {
        Err(_) => Err(Error::Deadline { peer, what, after: deadline }),
        Ok(Err(FrameError::Io(error))) => {
            Err(Error::Cut { peer, what, source: LinkError::Other(error.to_string()) })
        }
        Ok(Err(FrameError::Ended)) => {
            let source = LinkError::Other("the other side gave no answer".to_owned());
            Err(Error::Cut { peer, what, source })
        }
        Ok(Err(source)) => Err(Error::Protocol { peer, what, source }),
        Ok(Ok(value)) => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names_are_checked_also_from_the_wire() {
        assert!(ServiceId::new("files-2").is_some());
        for name in ["", "Files", "a b", "seventeen-letters"] {
            assert!(ServiceId::new(name).is_none(), "{name}");
        }
        let bytes = postcard::to_stdvec("../x").unwrap();
        assert!(postcard::from_bytes::<ServiceId>(&bytes).is_err());
    }
}
