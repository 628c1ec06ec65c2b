//! TLS 1.3 over TCP between two node keys (raw public keys, RFC 7250): each side proves its key,
//! there are no certificates and no authorities.

use std::sync::Arc;

use phantom_model::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime, alg_id,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, public_key_to_spki};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, ServerConfig, SignatureScheme,
};

use crate::key::NodeKey;

const ALPN: &[u8] = b"phantom/bulk/1";
/// PKCS#8 version 1 frame of a 32-byte Ed25519 secret (RFC 8410).
const PKCS8_ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// This node's key, ready for handshakes.
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    own: Arc<CertifiedKey>,
}

impl Tls {
    /// Prepares `key`.
    ///
    /// # Errors
    /// The crypto library does not take the key.
    pub fn new(key: &NodeKey) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut pkcs8 = PKCS8_ED25519.to_vec();
        pkcs8.extend(key.0.to_bytes());
        let signer = rustls::crypto::ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8))?;
        let public = CertificateDer::from(spki(key.id()).to_vec());
        let own = Arc::new(CertifiedKey::new(vec![public], signer));
        Ok(Self { provider, own })
    }

    /// For the side that listens; who came is told by [`peer_of`].
    ///
    /// # Errors
    /// The crypto library lacks TLS 1.3.
    pub fn server(&self) -> Result<Arc<ServerConfig>, Error> {
        let anyone = Arc::new(Verifier { provider: self.provider.clone(), wanted: None });
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(anyone)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.own.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For the side that dials `peer` and nobody else.
    ///
    /// # Errors
    /// The crypto library lacks TLS 1.3.
    pub fn client(&self, peer: NodeId) -> Result<Arc<ClientConfig>, Error> {
        let wanted = Arc::new(Verifier { provider: self.provider.clone(), wanted: Some(peer) });
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(wanted)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                self.own.clone(),
            )));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }
}

/// The key the other side of a finished handshake has proven.
pub(crate) fn peer_of(connection: &rustls::CommonState) -> Option<NodeId> {
    let [shown] = connection.peer_certificates()? else {
        return None;
    };
    node_of(shown)
}

fn spki(node: NodeId) -> SubjectPublicKeyInfoDer<'static> {
    public_key_to_spki(&alg_id::ED25519, node.0)
}

/// The Ed25519 key in a raw public key, if it is one.
fn node_of(shown: &CertificateDer<'_>) -> Option<NodeId> {
    let bytes = shown.as_ref();
    let key: [u8; 32] = bytes.get(bytes.len().checked_sub(32)?..)?.try_into().ok()?;
    // Comparing with what the key would look like checks the whole frame around it.
    (spki(NodeId(key)).as_ref() == bytes).then_some(NodeId(key))
}

/// Takes any Ed25519 key, or just one. That its holder is there is proven by the signature.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    wanted: Option<NodeId>,
}

impl Verifier {
    fn check(&self, shown: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), Error> {
        let node = node_of(shown).ok_or(CertificateError::BadEncoding)?;
        let is_wanted = self.wanted.is_none_or(|wanted| wanted == node);
        if !is_wanted || !rest.is_empty() {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(())
    }

    fn signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signed, known)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown, rest).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown, rest).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    async fn meet(
        dialler: &NodeKey,
        listener: &NodeKey,
        wanted: NodeId,
    ) -> Option<(NodeId, NodeId)> {
        let (a, b) = tokio::io::duplex(64 << 10);
        let acceptor = TlsAcceptor::from(Tls::new(listener).unwrap().server().unwrap());
        let connector = TlsConnector::from(Tls::new(dialler).unwrap().client(wanted).unwrap());
        let name = ServerName::try_from("node.invalid").unwrap();
        let (client, server) = tokio::join!(connector.connect(name, a), acceptor.accept(b));
        let (client, server) = (client.ok()?, server.ok()?);
        Some((peer_of(client.get_ref().1)?, peer_of(server.get_ref().1)?))
    }

    #[tokio::test]
    async fn both_keys_are_proven_and_a_wrong_one_is_refused() {
        let (a, b) = (NodeKey::ephemeral(), NodeKey::ephemeral());
        assert_eq!(meet(&a, &b, b.id()).await, Some((b.id(), a.id())));
        assert_eq!(meet(&a, &b, a.id()).await, None);
    }

    #[test]
    fn odd_public_keys_are_refused() {
        for bytes in [&[][..], &[0; 32], &[0; 44], &[0; 100]] {
            assert_eq!(node_of(&CertificateDer::from(bytes)), None);
        }
    }
}
