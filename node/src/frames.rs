//! Messages between processes of one node.

use std::io;

use phantom_capsule::wire;
use phantom_model::frame;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

/// Longer messages are refused; the longest carries an app's environment or a terminal's state.
const MAX_BYTES: usize = 16 << 20;

/// Writes one message.
pub async fn write<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), value: &T) -> io::Result<()> {
    wire::write(to, value, MAX_BYTES).await
}

/// Reads one message; `None` at a clean end.
pub async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    wire::read(from, MAX_BYTES).await
}

/// Writes one message from a thread that may block.
pub fn write_blocking<T: Serialize>(to: &mut impl io::Write, value: &T) -> io::Result<()> {
    let mut bytes = Vec::new();
    frame::encode(value, MAX_BYTES, &mut bytes)?;
    to.write_all(&bytes)
}

/// Reads one message in a thread that may block.
pub fn read_blocking<T: DeserializeOwned>(from: &mut impl io::Read) -> io::Result<T> {
    let mut head = [0; frame::HEAD_BYTES];
    from.read_exact(&mut head)?;
    let mut body = vec![0; frame::body_bytes(head, MAX_BYTES)?];
    from.read_exact(&mut body)?;
    Ok(frame::decode(&body)?)
}
