//! The join exchange: all that a node without a certificate gets an answer to.
//!
//! ```text
//! joiner                                   inviter
//!   │ ── connects, wants the token's node ──> │   both keys are proven
//!   │ ── JoinAsk: which token, proof ───────> │   checks, records, signs
//!   │ <── certificate and members, or why not │
//! ```

use std::sync::Arc;

use phantom_model::frame;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::book::Membership;
use crate::error::Error;
use crate::link::{CloseCode, Connection, LinkError, PeerAddr, Protocol, Stream};
use crate::member::{
    Certificate, JoinAsk, JoinRefusal, MAX_ADDRS, Member, Token, proof, valid_name,
};
use crate::network::Inner;
use crate::service::bounded;
use crate::wire::{FrameError, read_frame, write_frame};

const MAX_ASK: usize = 16 << 10;
const MAX_ANSWER: usize = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Welcome { certificate: Certificate, members: Vec<Member> },
    Refused(JoinRefusal),
}

/// Joins with `token`.
pub(crate) async fn ask(
    inner: &Arc<Inner>,
    token: &Token,
    name: &str,
) -> Result<Membership, Error> {
    let what = "joining";
    let inviter = token.inviter;
    token.check(inner.book.now())?;
    if !valid_name(name) {
        return Err(crate::member::CertificateError::Name(name.to_owned()).into());
    }
    let unreachable = |source: LinkError| {
        let error = Error::Unreachable {
            peer: inviter,
            after: inner.config.timing.handshake,
            reason: source.to_string(),
        };
        match other_relay(inner, token) {
            Some(url) => Error::NeedsRelay { url, source: Box::new(error) },
            None => error,
        }
    };
    let connection =
        inner.link.dial(inviter, &token.addrs, Protocol::Join).await.map_err(unreachable)?;
    let addrs = inner.link.addrs().await;
    let ask = JoinAsk {
        token: token.id(),
        subgrid: token.subgrid,
        proof: proof(&token.secret, token.subgrid, inviter, inner.id),
        name: name.to_owned(),
        addrs: addrs.iter().take(MAX_ADDRS).cloned().collect(),
        now: inner.book.now(),
    };
    let mut stream =
        connection.open().await.map_err(|source| Error::Cut { peer: inviter, what, source })?;
    let work = async {
        write_frame(&mut stream, &ask, MAX_ASK).await?;
        stream.shutdown().await?;
        read_frame::<Answer>(&mut stream, MAX_ANSWER).await
    };
    let answer = bounded(inviter, what, inner.config.timing.handshake, work).await;
    connection.close(CloseCode::Done, "joined");
    match answer? {
        Answer::Refused(refusal) => Err(Error::Refused { inviter, refusal }),
        Answer::Welcome { certificate, mut members } => {
            certificate.check_for(inner.id, token.subgrid, inner.book.now())?;
            // The inviter's addresses in the token have just worked.
            if let Some(known) = members.iter_mut().find(|member| member.node() == inviter) {
                known.addrs.splice(0..0, token.addrs.iter().cloned());
            }
            inner.book.enter(certificate, members, addrs, inviter).await
        }
    }
}

/// The relay the invitation leads through, if it is not this node's own.
fn other_relay(inner: &Inner, token: &Token) -> Option<String> {
    let own = inner.link.relay().map(|relay| relay.url);
    token.addrs.iter().find_map(|addr| match addr {
        PeerAddr::Relay(url) if own.as_ref() != Some(url) && addr.is_sane() => Some(url.clone()),
        _ => None,
    })
}

/// Answers one join exchange on a stranger's connection.
pub(crate) async fn answer(inner: &Arc<Inner>, connection: &dyn Connection) {
    let joiner = connection.peer();
    let limit = inner.config.timing.handshake;
    let work = async {
        let mut stream = connection
            .accept()
            .await
            .map_err(|error| FrameError::Io(std::io::Error::other(error.to_string())))?;
        respond(inner, connection, &mut stream).await
    };
    match timeout(limit, work).await {
        // The joiner closes once it has read the answer.
        Ok(Ok(())) => drop(timeout(limit, connection.closed()).await),
        Ok(Err(error)) => {
            tracing::debug!(joiner = %joiner.short(), %error, "a join exchange failed");
            connection.close(CloseCode::Protocol, &error.to_string());
        }
        Err(_) => connection.close(CloseCode::Protocol, "the join exchange took too long"),
    }
    connection.close(CloseCode::Done, "");
}

async fn respond(
    inner: &Arc<Inner>,
    connection: &dyn Connection,
    stream: &mut Stream,
) -> Result<(), FrameError> {
    let joiner = connection.peer();
    let mut ask: JoinAsk = read_frame(stream, MAX_ASK).await?;
    if stream.read(&mut [0]).await? != 0 {
        return Err(frame::FrameError::Malformed { wanted: "single question" }.into());
    }
    ask.addrs.truncate(MAX_ADDRS);
    if let Some(path) = connection.stats().path {
        ask.addrs.insert(0, path);
    }
    let answer = match inner.book.admit(ask, joiner).await {
        Ok((certificate, members)) => {
            tracing::info!(joiner = %joiner.short(), name = certificate.terms().name, "joined");
            Answer::Welcome { certificate, members }
        }
        Err(refusal) => {
            tracing::info!(joiner = %joiner.short(), %refusal, "a join was refused");
            Answer::Refused(refusal)
        }
    };
    write_frame(stream, &answer, MAX_ANSWER).await?;
    stream.shutdown().await?;
    Ok(())
}
