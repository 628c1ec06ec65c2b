//! The join exchange: all that a node without a certificate gets an answer to.
//!
//! ```text
//! joiner                                   member
//!   │ ── connects, wants the member's key ──> │   both keys are proven
//!   │ ── Question: a token, or a request ───> │   [`token`], [`request`]
//!   │ <── certificate and members, or why not │
//! ```

pub(crate) mod request;
pub(crate) mod token;

use std::sync::Arc;

use phantom_model::frame;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::book::News;
use crate::error::Error;
use crate::link::{CloseCode, Connection, Stream};
use crate::member::{Certificate, JoinAsk, JoinRefusal, MAX_ADDRS, Member, Opening, valid_name};
use crate::network::Inner;
use crate::wire::{FrameError, read_frame};

const MAX_QUESTION: usize = 16 << 10;
const MAX_ANSWER: usize = 4 << 20;

/// The first message of a joiner.
#[derive(Debug, Serialize, Deserialize)]
enum Question {
    /// To be let in by a token.
    Token(JoinAsk),
    /// To be let in by whoever owns the machine.
    Request(Opening),
}

/// What a member answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// The joiner is a member.
    Welcome(Box<Welcome>),
    /// No.
    Refused(JoinRefusal),
    /// To a request: the asked side's nonce.
    Nonce(request::Nonce),
    /// To a request: these members may let others in, the asked one may not.
    Elsewhere(Vec<Member>),
    /// To the joiner's part of the code: the request stands, whoever has the code can accept it.
    Stands,
}

/// What a new member gets.
#[derive(Debug, Serialize, Deserialize)]
struct Welcome {
    certificate: Certificate,
    news: News,
}

impl Welcome {
    fn answer(inner: &Inner, certificate: Certificate) -> Answer {
        Answer::Welcome(Box::new(Self { certificate, news: inner.book.news() }))
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    if valid_name(name) {
        return Ok(());
    }
    Err(crate::member::CertificateError::Name(name.to_owned()).into())
}

/// Answers one join exchange on a stranger's connection, which takes up `place` among strangers
/// until its owner has to be waited for.
pub(crate) async fn answer(
    inner: &Arc<Inner>,
    connection: &dyn Connection,
    place: OwnedSemaphorePermit,
) {
    let joiner = connection.peer();
    let limit = inner.config.timing.handshake;
    let question = async {
        let mut stream = connection
            .accept()
            .await
            .map_err(|error| FrameError::Io(std::io::Error::other(error.to_string())))?;
        let question = read_frame::<Question>(&mut stream, MAX_QUESTION).await?;
        Ok((stream, question))
    };
    let answered = match timeout(limit, question).await {
        Ok(Ok((stream, Question::Token(ask)))) => {
            timeout(limit, by_token(inner, connection, stream, ask)).await
        }
        Ok(Ok((stream, Question::Request(opening)))) => {
            Ok(request::respond(inner, connection, stream, opening, place).await)
        }
        Ok(Err(error)) => Ok(Err(error)),
        Err(late) => Err(late),
    };
    match answered {
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

async fn by_token(
    inner: &Arc<Inner>,
    connection: &dyn Connection,
    mut stream: Stream,
    mut ask: JoinAsk,
) -> Result<(), FrameError> {
    if stream.read(&mut [0]).await? != 0 {
        return Err(frame::FrameError::Malformed { wanted: "single question" }.into());
    }
    ask.addrs.truncate(MAX_ADDRS);
    ask.addrs.splice(0..0, connection.stats().path);
    token::respond(inner, connection.peer(), &mut stream, ask).await
}

/// The answer is none to what was asked.
fn unfitting(peer: phantom_model::NodeId, what: &'static str) -> Error {
    let source = frame::FrameError::Malformed { wanted: "fitting answer" }.into();
    Error::Protocol { peer, what, source }
}
