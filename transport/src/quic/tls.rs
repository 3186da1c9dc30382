//! Mutual TLS 1.3 with the cluster's authority and nothing else.

use core::time::Duration;
use std::sync::Arc;

use mesh_core::{
    Error, ErrorKind,
    id::{ClusterId, NodeId},
    port::{Clock, Role},
};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::WebPkiClientVerifier,
    time_provider::TimeProvider,
};

use crate::{
    handshake::Expected,
    identity::{Identity, name_of, role_of, server_name},
};

/// The application protocol. Its number is that of the transport's use of QUIC, not of the wire format.
const ALPN: &[u8] = b"mesh/1";

/// For the side that accepts: only certificates of the cluster's authority come in.
pub(super) fn server(identity: &Identity, clock: &Arc<dyn Clock>) -> Result<QuicServerConfig, Error> {
    let provider = provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(identity)?, provider.clone())
        .build()
        .map_err(|error| unusable().caused_by(error))?;
    let mut config = rustls::ServerConfig::builder_with_details(provider, dates(clock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable().caused_by(error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(), identity.key())
        .map_err(|error| unusable().caused_by(error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Every connection proves its identity afresh.
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map_err(|error| unusable().caused_by(error))
}

/// For the side that dials.
pub(super) fn client(
    identity: &Identity,
    expected: Expected,
    clock: &Arc<dyn Clock>,
) -> Result<QuicClientConfig, Error> {
    let provider = provider();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(identity)?, provider.clone())
        .build()
        .map_err(|error| unusable().caused_by(error))?;
    let any = expected == Expected::AnyNode;
    let verifier = Arc::new(NodeVerifier { inner: verifier, cluster: identity.cluster(), any });
    let mut config = rustls::ClientConfig::builder_with_details(provider, dates(clock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable().caused_by(error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(identity.chain(), identity.key())
        .map_err(|error| unusable().caused_by(error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    QuicClientConfig::try_from(config).map_err(|error| unusable().caused_by(error))
}

/// By whose clock certificates are valid: the node's, as everything else.
struct Dates(Arc<dyn Clock>);

fn dates(clock: &Arc<dyn Clock>) -> Arc<dyn TimeProvider> {
    Arc::new(Dates(clock.clone()))
}

impl core::fmt::Debug for Dates {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Dates")
    }
}

impl TimeProvider for Dates {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.wall().0)))
    }
}

/// The name to dial under.
pub(super) fn dial_name(expected: Expected, cluster: ClusterId) -> String {
    match expected {
        Expected::Node(node) => server_name(node, cluster),
        // Nobody has this name; the verifier looks for the one in the certificate.
        Expected::AnyNode => server_name(NodeId(0), cluster),
    }
}

/// Who is at the other end of a connection whose TLS handshake is done.
pub(super) fn role(connection: &quinn::Connection, cluster: ClusterId) -> Result<Role, Error> {
    let identity = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let chain = identity.ok_or_else(|| Error::new(ErrorKind::Denied, "the peer showed no certificate"))?;
    let first = chain.first().ok_or_else(|| Error::new(ErrorKind::Denied, "the peer showed no certificate"))?;
    role_of(first, cluster)
}

/// Takes a node of the cluster, be it on a host or a DPU: the one that was dialled, or any. As strict as for a known name, but
/// that is read from the certificate, for who dials a number does not know what it runs on. Which node any was is looked at
/// once the handshake is done.
#[derive(Debug)]
struct NodeVerifier {
    inner: Arc<WebPkiServerVerifier>,
    cluster: ClusterId,
    any: bool,
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let bad = rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForName);
        let Ok(role) = role_of(end_entity, self.cluster) else { return Err(bad) };
        let Some(node) = role.node() else { return Err(bad) };
        if !self.any && dialled.to_str() != server_name(node, self.cluster) {
            return Err(bad);
        }
        let name = name_of(&role, self.cluster).ok().and_then(|name| ServerName::try_from(name).ok()).ok_or(bad)?;
        self.inner.verify_server_cert(end_entity, intermediates, &name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Never the process-wide default: another library may have set it.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(identity: &Identity) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.authority().clone()).map_err(|error| unusable().caused_by(error))?;
    Ok(Arc::new(roots))
}

fn unusable() -> Error {
    Error::invalid("this identity cannot be used for TLS: issue another")
}
