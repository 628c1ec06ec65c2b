//! The CLI's side of the local API: one HTTP request over the daemon's Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::types::ErrorReply;

/// Answers larger than this are refused.
const MAX_REPLY_BYTES: usize = 16 << 20;

/// A refusal by the daemon, with the exit code it asks for.
#[derive(Debug, thiserror::Error)]
#[error("{line}")]
pub struct Refused {
    /// The one line to show.
    pub line: String,
    /// 2 for wrong use, 1 for everything else.
    pub exit_code: u8,
}

/// Where the daemon listens.
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon at `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// `GET path`.
    pub async fn get<R: DeserializeOwned>(&self, path: &str) -> anyhow::Result<R> {
        self.request("GET", path, &(), Duration::from_secs(15)).await
    }

    /// `GET path`, where the daemon itself may take its time.
    pub async fn get_within<R: DeserializeOwned>(
        &self,
        path: &str,
        deadline: Duration,
    ) -> anyhow::Result<R> {
        self.request("GET", path, &(), deadline).await
    }

    /// `POST path` with a JSON body.
    pub async fn post<B: Serialize, R: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        deadline: Duration,
    ) -> anyhow::Result<R> {
        self.request("POST", path, body, deadline).await
    }

    async fn request<B: Serialize, R: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &B,
        deadline: Duration,
    ) -> anyhow::Result<R> {
        let work = self.exchange(method, path, serde_json::to_vec(body)?);
        let (ok, reply) = tokio::time::timeout(deadline, work)
            .await
            .map_err(|_| anyhow!("the daemon gave no answer within {deadline:?}; see its log"))??;
        if !ok {
            let refusal: ErrorReply = serde_json::from_slice(&reply)
                .map_err(|_| anyhow!("{}", String::from_utf8_lossy(&reply)))?;
            let exit_code = if refusal.usage { 2 } else { 1 };
            return Err(Refused { line: refusal.error, exit_code }.into());
        }
        serde_json::from_slice(&reply).context("the daemon's answer cannot be read; is it older?")
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<(bool, Bytes)> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let socket = self.socket.display();
            match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                    anyhow!("no daemon answers at {socket}; start it with `sudo phantom up`")
                }
                _ => anyhow!("cannot talk to the daemon at {socket}: {error}"),
            }
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "phantom")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let ok = response.status().is_success();
        let reply = Limited::new(response.into_body(), MAX_REPLY_BYTES)
            .collect()
            .await
            .map_err(|error| anyhow!("the daemon's answer broke off: {error}"))?
            .to_bytes();
        connection.abort();
        Ok((ok, reply))
    }
}
