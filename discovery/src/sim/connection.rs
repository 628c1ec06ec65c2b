//! What is said over a connection costs: QUIC (RFC 9000) by the crate noq, as counted on loopback,
//! with IP and UDP headers.

use super::engine::Traffic;

/// Up to so many members each keeps a connection with every other (`net/src/peer/dial.rs`); where
/// there are more, only with those to whom it has something to say.
pub const FULL_MESH: usize = 64;
/// A connection that nobody uses says every 4 s that it lives, which is acknowledged: so many bytes a
/// second, both ways together (66 of UDP each time).
pub const AT_REST: f64 = (66.0 + 2.0 * 28.0) / 4.0;
/// Two nodes connect, exchange certificates and look for the largest packet, both ways together.
pub const HANDSHAKE: Traffic = Traffic { messages: 30, bytes: 11_500 + 30 * 28 };
/// What a stream with one message costs beside the message, its end and acknowledgements included:
/// 246 bytes of UDP with a message of 100.
const STREAM: Traffic = Traffic { messages: 4, bytes: 146 + 4 * 28 };
/// So much fits into one packet.
const PACKET: usize = 1200;
/// What each further packet costs: IP, UDP, QUIC's header and tag, and half an acknowledgement.
const FURTHER: u64 = 28 + 30 + 35;

/// A message of so many bytes.
pub fn message(bytes: usize) -> Traffic {
    let further = (bytes / PACKET) as u64;
    Traffic {
        messages: STREAM.messages + further,
        bytes: STREAM.bytes + bytes as u64 + further * FURTHER,
    }
}
