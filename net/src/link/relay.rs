//! The relay of one's own a node may be told of: a server that passes the encrypted packets of
//! nodes on to each other when they have no other way. It is the only server ever contacted.

use std::path::Path;

use iroh::dns::DnsResolver;
use iroh::endpoint::Builder;
use iroh::tls::CaTlsConfig;
use iroh::{Endpoint, NetReportConfig, RelayConfig, RelayMode, RelayUrl, Watcher};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_util::sync::CancellationToken;

use super::RelayStatus;
use super::quic::chain;
use crate::config::Config;
use crate::error::Error;

/// The URL of the configured relay.
pub(super) fn configured(config: &Config) -> Result<Option<RelayUrl>, Error> {
    let Some(url) = &config.relay else { return Ok(None) };
    let wrong = |reason: String| Error::Relay { url: url.clone(), reason };
    let parsed: RelayUrl = url.parse().map_err(|error| wrong(chain(&error)))?;
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host().is_none() {
        return Err(wrong("it does not begin with https:// or http://".to_owned()));
    }
    Ok(Some(parsed))
}

/// Makes an endpoint use `relay` and no other server.
pub(super) fn configure(
    builder: Builder,
    relay: Option<&RelayUrl>,
    config: &Config,
) -> Result<Builder, Error> {
    // What the system's name servers do not know is asked of nobody else; by default iroh would
    // ask public ones.
    let resolver = DnsResolver::builder().with_system_defaults().disable_fallback();
    let builder = builder.dns_resolver(resolver.build());
    let Some(url) = relay else { return Ok(builder.relay_mode(RelayMode::Disabled)) };
    let mut server = RelayConfig::from(url.clone());
    if url.scheme() == "http" {
        // Only a relay with a certificate tells nodes how they look from outside.
        server.quic = None;
    }
    let mut report = NetReportConfig::default();
    report.captive_portal_check = false;
    let builder = builder.relay_mode(RelayMode::Custom(server.into())).net_report_config(report);
    Ok(match &config.relay_ca {
        Some(file) => builder.ca_tls_config(CaTlsConfig::custom_roots(authorities(file)?)),
        None => builder,
    })
}

fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |reason: String| Error::RelayCa { file: file.to_owned(), reason };
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("it holds no certificate in PEM form".to_owned()));
    }
    Ok(certificates)
}

/// How the node stands with `relay`.
pub(super) fn status(endpoint: &Endpoint, relay: &RelayUrl) -> RelayStatus {
    let known = endpoint.home_relay_status().get();
    let status = known.iter().find(|status| status.url() == relay);
    RelayStatus {
        url: relay.to_string(),
        connected: status.is_some_and(iroh::endpoint::RelayStatus::is_connected),
        trouble: status.and_then(|status| Some(format!("{:#}", status.last_error()?))),
    }
}

/// Says in the log when the relay is connected, and when it is not any more or yet, and why.
pub(super) async fn watch(endpoint: Endpoint, relay: RelayUrl, stop: CancellationToken) {
    let mut changes = endpoint.home_relay_status();
    let mut told = None;
    loop {
        let RelayStatus { url, connected, trouble } = status(&endpoint, &relay);
        match &trouble {
            _ if connected && told != Some(true) => tracing::info!(url, "connected to the relay"),
            Some(reason) if told != Some(false) => tracing::warn!(
                url,
                reason,
                "the relay cannot be reached, nor can nodes behind it; it is tried again and again"
            ),
            _ => {}
        }
        // A new attempt is no news.
        if connected || trouble.is_some() {
            told = Some(connected);
        }
        let updated = tokio::select! {
            updated = changes.updated() => updated.is_ok(),
            () = stop.cancelled() => false,
        };
        if !updated {
            return;
        }
    }
}
