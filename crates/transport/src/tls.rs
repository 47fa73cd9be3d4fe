//! Mutual TLS 1.3, and a witness of each handshake that knows afterwards why it failed.
//!
//! quinn reduces a failed handshake to an alert number and a text. What an operator needs (whose
//! certificate, which name, which version) is known only inside the verifiers while they run, so
//! each handshake gets verifiers of its own that write it down.

use std::sync::{Arc, Mutex, PoisonError};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};

use crate::certificate::Certificate;
use crate::fault::{Error, Fault};
use crate::identity::Identity;

/// The protocol between nodes and its version, as TLS application protocol (RFC 7301).
pub const PROTOCOL: &str = "ravelin/1";

/// What one handshake showed.
#[derive(Debug, Default)]
pub(crate) struct Witness(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    fault: Option<Fault>,
    offered: Option<String>,
}

impl Witness {
    /// What the verifier found wrong with the peer.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.seen().fault.clone()
    }

    /// The protocols that the dialer offered, when it offered any.
    pub(crate) fn offered(&self) -> Option<String> {
        self.seen().offered.clone()
    }

    fn blame(&self, fault: Fault) {
        self.seen().fault = Some(fault);
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the TLS configuration of each handshake.
pub(crate) struct Tls {
    identity: Identity,
    server_verifier: Arc<WebPkiServerVerifier>,
    client_verifier: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    pub(crate) fn new(identity: Identity) -> Result<Self, Error> {
        let tls = |error: rustls::server::VerifierBuilderError| Error::Tls {
            detail: error.to_string(),
        };
        let (roots, provider) = (&identity.roots, &identity.provider);
        Ok(Self {
            server_verifier: WebPkiServerVerifier::builder_with_provider(
                Arc::clone(roots),
                Arc::clone(provider),
            )
            .build()
            .map_err(tls)?,
            client_verifier: WebPkiClientVerifier::builder_with_provider(
                Arc::clone(roots),
                Arc::clone(provider),
            )
            .build()
            .map_err(tls)?,
            identity,
        })
    }

    /// To dial `node`, and nobody else.
    pub(crate) fn dial(
        &self,
        node: &str,
        witness: &Arc<Witness>,
    ) -> Result<QuicClientConfig, Error> {
        let mut config =
            rustls::ClientConfig::builder_with_provider(Arc::clone(&self.identity.provider))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(refused)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(DialVerifier {
                    inner: Arc::clone(&self.server_verifier),
                    judge: self.judge(Some(node), witness),
                }))
                .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
                    &self.identity.certified,
                ))));
        config.alpn_protocols = vec![PROTOCOL.as_bytes().to_vec()];
        // A resumed session skips the certificates, which may have expired since.
        config.resumption = rustls::client::Resumption::disabled();
        QuicClientConfig::try_from(config).map_err(no_suite)
    }

    /// To accept whoever this cluster's authority vouches for.
    pub(crate) fn accept(&self, witness: &Arc<Witness>) -> Result<QuicServerConfig, Error> {
        let mut config =
            rustls::ServerConfig::builder_with_provider(Arc::clone(&self.identity.provider))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(refused)?
                .with_client_cert_verifier(Arc::new(AcceptVerifier {
                    inner: Arc::clone(&self.client_verifier),
                    judge: self.judge(None, witness),
                }))
                .with_cert_resolver(Arc::new(WitnessedCert {
                    certified: Arc::clone(&self.identity.certified),
                    witness: Arc::clone(witness),
                }));
        config.alpn_protocols = vec![PROTOCOL.as_bytes().to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        QuicServerConfig::try_from(config).map_err(no_suite)
    }

    fn judge(&self, expected: Option<&str>, witness: &Arc<Witness>) -> Judge {
        Judge {
            expected: expected.map(str::to_owned),
            cluster: self.identity.cluster().to_owned(),
            witness: Arc::clone(witness),
        }
    }
}

/// The node that the peer's verified certificate names, when it is one of `cluster`.
pub(crate) fn peer_node(conn: &quinn::Connection, cluster: &str) -> Option<String> {
    let chain = conn
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    let leaf = Certificate::from_der(chain.first()?.clone()).ok()?;
    let (node, found) = leaf.node()?;
    found.eq_ignore_ascii_case(cluster).then(|| node.to_owned())
}

fn refused(error: rustls::Error) -> Error {
    Error::Tls {
        detail: error.to_string(),
    }
}

fn no_suite(error: quinn::crypto::rustls::NoInitialCipherSuite) -> Error {
    Error::Tls {
        detail: error.to_string(),
    }
}

/// Turns a verifier's error into a [`Fault`] and hands it to the witness.
#[derive(Debug)]
struct Judge {
    expected: Option<String>,
    cluster: String,
    witness: Arc<Witness>,
}

impl Judge {
    fn blame(&self, error: &rustls::Error, leaf: &CertificateDer<'_>) {
        self.witness.blame(self.fault(error, leaf));
    }

    fn fault(&self, error: &rustls::Error, leaf: &CertificateDer<'_>) -> Fault {
        use rustls::CertificateError as Bad;
        let Ok(cert) = Certificate::from_der(leaf.clone().into_owned()) else {
            return self.bad(error);
        };
        let node = cert.names_shown();
        match error {
            rustls::Error::InvalidCertificate(bad) => match bad {
                Bad::UnknownIssuer | Bad::BadSignature => Fault::ForeignAuthority {
                    issuer: cert.issuer,
                    cluster: self.cluster.clone(),
                },
                Bad::Expired | Bad::ExpiredContext { .. } => Fault::Expired {
                    node,
                    not_after: cert.not_after,
                },
                Bad::NotValidYet | Bad::NotValidYetContext { .. } => Fault::NotYetValid {
                    node,
                    not_before: cert.not_before,
                },
                Bad::NotValidForName | Bad::NotValidForNameContext { .. } => Fault::WrongNode {
                    found: node,
                    expected: self.expected.clone().unwrap_or_default(),
                },
                _ => self.bad(error),
            },
            _ => self.bad(error),
        }
    }

    fn bad(&self, error: &rustls::Error) -> Fault {
        Fault::BadCertificate {
            detail: error.to_string(),
            expected: self.expected.clone().unwrap_or_else(|| "NODE".to_owned()),
        }
    }
}

#[derive(Debug)]
struct DialVerifier {
    inner: Arc<WebPkiServerVerifier>,
    judge: Judge,
}

impl ServerCertVerifier for DialVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .inspect_err(|error| self.judge.blame(error, end_entity))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct AcceptVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    judge: Judge,
}

impl ClientCertVerifier for AcceptVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.inner
            .verify_client_cert(end_entity, intermediates, now)
            .inspect_err(|error| self.judge.blame(error, end_entity))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Presents our certificate, and notes what the dialer offers: rustls asks for the certificate
/// before it compares application protocols, so this sees the versions of one that is refused.
#[derive(Debug)]
struct WitnessedCert {
    certified: Arc<CertifiedKey>,
    witness: Arc<Witness>,
}

impl ResolvesServerCert for WitnessedCert {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(protocols) = hello.alpn() {
            // A client hello is at most 64 KiB, but an error message should be short.
            let shown: Vec<_> = protocols
                .take(4)
                .map(|p| p.get(..32).unwrap_or(p).escape_ascii().to_string())
                .collect();
            self.witness.seen().offered = Some(shown.join(" or "));
        }
        Some(Arc::clone(&self.certified))
    }
}
