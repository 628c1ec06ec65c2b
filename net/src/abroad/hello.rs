//! The exchange of certificates at the beginning of a connection, on a stream of its own.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::MAX_STREAMS;
use super::line::{self, Line};
use crate::error::Error;
use crate::link::{CloseCode, Connection, LinkError};
use crate::member::Certificate;
use crate::network::Inner;
use crate::peer::session::turn_away;
use crate::wire::{FrameError, read_frame, write_frame};

const WHAT: &str = "the exchange of certificates with another sub-grid";
/// Fits a certificate with the longest name, sealed by a delegate.
pub(super) const MAX_HELLO: usize = 1024;

/// The first message of each side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub certificate: Certificate,
}

/// Exchanges certificates and takes the connection into use. On failure it is closed and the other
/// side told why.
pub(super) async fn establish(
    inner: &Arc<Inner>,
    connection: Arc<dyn Connection>,
) -> Result<Arc<Line>, Error> {
    let after = inner.config.timing.handshake;
    let error = match timeout(after, exchange(inner, &connection)).await {
        Ok(Ok(line)) => return admit(inner, line),
        Ok(Err(error)) => error,
        Err(_) => Error::Deadline { peer: connection.peer(), what: WHAT, after },
    };
    Err(turn_away(inner, &*connection, WHAT, error).await)
}

async fn exchange(
    inner: &Arc<Inner>,
    connection: &Arc<dyn Connection>,
) -> Result<Arc<Line>, Error> {
    let peer = connection.peer();
    let own = inner.book.standing()?;
    let hello = Hello { certificate: own.certificate.clone() };
    let cut = |source| Error::Cut { peer, what: WHAT, source };
    let frame = |source| match source {
        FrameError::Io(error) => cut(LinkError::Other(error.to_string())),
        source => Error::Protocol { peer, what: WHAT, source },
    };
    let theirs = if connection.dialled() {
        let mut stream = connection.open().await.map_err(cut)?;
        write_frame(&mut stream, &hello, MAX_HELLO).await.map_err(frame)?;
        stream.shutdown().await.map_err(|error| frame(error.into()))?;
        let theirs: Hello = read_frame(&mut stream, MAX_HELLO).await.map_err(frame)?;
        inner.book.check_abroad(&theirs.certificate, peer)?;
        theirs
    } else {
        let mut stream = connection.accept().await.map_err(cut)?;
        let theirs: Hello = read_frame(&mut stream, MAX_HELLO).await.map_err(frame)?;
        inner.book.check_abroad(&theirs.certificate, peer)?;
        // The other side may use what it gets at once.
        connection.allow(MAX_STREAMS);
        write_frame(&mut stream, &hello, MAX_HELLO).await.map_err(frame)?;
        stream.shutdown().await.map_err(|error| frame(error.into()))?;
        return Ok(Line::new(connection.clone(), theirs.certificate, own.subgrid()));
    };
    connection.allow(MAX_STREAMS);
    Ok(Line::new(connection.clone(), theirs.certificate, own.subgrid()))
}

fn admit(inner: &Arc<Inner>, line: Arc<Line>) -> Result<Arc<Line>, Error> {
    if !inner.abroad.pool.admit(line.clone()) {
        let reason = "too many connections with other sub-grids are in use, try again";
        line.connection.close(CloseCode::Busy, reason);
        let source = LinkError::Other(reason.to_owned());
        return Err(Error::Cut { peer: line.peer(), what: WHAT, source });
    }
    inner.tasks.spawn(line::run(inner.clone(), line.clone()));
    Ok(line)
}
