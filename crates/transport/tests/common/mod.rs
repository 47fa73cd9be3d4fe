//! A cluster's certificates, endpoints on loopback, and peers that do not behave.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part of this"
)]

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tempfile::TempDir;
use transport::pki::{self, Validity};
use transport::{Endpoint, Event, Identity, Options, Peer, PeerId, Refusal, Tuning};

/// Far above what anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An authority and the certificates of its nodes.
pub struct Site {
    dir: TempDir,
    cluster: &'static str,
}

impl Site {
    pub fn new(cluster: &'static str, nodes: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        pki::init(dir.path(), cluster).unwrap();
        for node in nodes {
            pki::issue(dir.path(), node, dir.path()).unwrap();
        }
        Self { dir, cluster }
    }

    pub fn issue_with(&self, node: &str, validity: Validity) {
        pki::issue_with(self.path(), node, self.path(), validity).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn identity(&self, node: &str) -> Identity {
        Identity::load(
            &self.file("ca.pem"),
            &self.file(&format!("{node}.pem")),
            &self.file(&format!("{node}.key")),
        )
        .unwrap()
    }

    pub fn options(&self, node: &str, peers: Vec<Peer>, tuning: Tuning) -> Options {
        Options {
            local: "127.0.0.1:0".parse().unwrap(),
            identity: self.identity(node),
            node: node.to_owned(),
            cluster: self.cluster.to_owned(),
            peers,
            tuning,
        }
    }

    /// Endpoints of `n1`, `n2`, ... that all know each other; the ids are 1, 2, ...
    pub fn endpoints(&self, tunings: &[Tuning]) -> Vec<Endpoint> {
        let sockets: Vec<_> = tunings.iter().map(|_| socket()).collect();
        let everybody: Vec<_> = sockets
            .iter()
            .enumerate()
            .map(|(i, socket)| peer(i as PeerId + 1, socket.local_addr().unwrap()))
            .collect();
        let mut endpoints = Vec::new();
        for (i, (socket, tuning)) in sockets.into_iter().zip(tunings).enumerate() {
            let name = format!("n{}", i + 1);
            let others = everybody
                .iter()
                .filter(|p| p.name != name)
                .cloned()
                .collect();
            let options = self.options(&name, others, tuning.clone());
            endpoints.push(Endpoint::over(socket, options).unwrap());
        }
        endpoints
    }

    /// Two endpoints, connected both ways.
    pub async fn pair(&self, first: Tuning, second: Tuning) -> (Endpoint, Endpoint) {
        let mut endpoints = self.endpoints(&[first, second]);
        let (mut b, mut a) = (endpoints.pop().unwrap(), endpoints.pop().unwrap());
        connected(&mut a, 2).await;
        connected(&mut b, 1).await;
        (a, b)
    }
}

pub fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

/// The peer `n<id>`.
pub fn peer(id: PeerId, addr: SocketAddr) -> Peer {
    Peer {
        name: format!("n{id}"),
        id,
        addr,
    }
}

/// Lets everything run until the condition holds.
pub async fn until(mut holds: impl FnMut() -> bool) {
    let reached = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(PATIENCE, reached).await.is_err() {
        panic!("the condition was not reached");
    }
}

/// The next event.
pub async fn next(endpoint: &mut Endpoint) -> Event {
    match tokio::time::timeout(PATIENCE, endpoint.events.recv()).await {
        Ok(event) => event.expect("the endpoint lives"),
        Err(_) => panic!("no event came"),
    }
}

/// Takes the next event, which must be that the peer is connected.
pub async fn connected(endpoint: &mut Endpoint, expected: PeerId) {
    match next(endpoint).await {
        Event::Connected { peer } => assert_eq!(peer, expected),
        other => panic!("expected Connected, got {other:?}"),
    }
}

/// Takes the next event, which must be a refusal.
pub async fn refused(endpoint: &mut Endpoint) -> (Option<PeerId>, Refusal) {
    match next(endpoint).await {
        Event::Refused { peer, error } => (peer, error),
        other => panic!("expected Refused, got {other:?}"),
    }
}

/// What a peer outside of this crate presents and requires.
pub struct Stranger<'a> {
    /// Directory and node name of its certificate; none presents none (as a dialer).
    pub cert: Option<(&'a Site, &'a str)>,
    /// The authority that a dialer's certificate must have; none asks for none.
    pub requires: Option<&'a Site>,
    pub protocol: &'a str,
}

impl Stranger<'_> {
    /// A bare quinn endpoint that accepts and dials with this behaviour.
    pub fn endpoint(&self, socket: UdpSocket) -> quinn::Endpoint {
        let provider = Arc::new(ring::default_provider());
        let tls13 = &[&rustls::version::TLS13];
        let alpn = vec![self.protocol.as_bytes().to_vec()];

        let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(tls13)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(Arc::clone(&provider))));
        let mut client = match self.cert {
            Some((site, node)) => {
                let (cert, key) = pem(site, node);
                client.with_client_auth_cert(vec![cert], key).unwrap()
            }
            None => client.with_no_client_auth(),
        };
        client.alpn_protocols.clone_from(&alpn);

        let server = self.cert.map(|(site, node)| {
            let (cert, key) = pem(site, node);
            let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(tls13)
                .unwrap();
            let server = match self.requires {
                Some(site) => {
                    let mut roots = rustls::RootCertStore::empty();
                    roots
                        .add(CertificateDer::from_pem_file(site.file("ca.pem")).unwrap())
                        .unwrap();
                    server.with_client_cert_verifier(
                        rustls::server::WebPkiClientVerifier::builder_with_provider(
                            Arc::new(roots),
                            Arc::clone(&provider),
                        )
                        .build()
                        .unwrap(),
                    )
                }
                None => server.with_no_client_auth(),
            };
            let mut server = server.with_single_cert(vec![cert], key).unwrap();
            server.alpn_protocols = alpn;
            let server = QuicServerConfig::try_from(server).unwrap();
            quinn::ServerConfig::with_crypto(Arc::new(server))
        });

        let mut endpoint = quinn::Endpoint::new(
            quinn::EndpointConfig::default(),
            server,
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .unwrap();
        let client = QuicClientConfig::try_from(client).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(client)));
        endpoint
    }
}

fn pem(site: &Site, node: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    (
        CertificateDer::from_pem_file(site.file(&format!("{node}.pem"))).unwrap(),
        PrivateKeyDer::from_pem_file(site.file(&format!("{node}.key"))).unwrap(),
    )
}

/// Believes every certificate.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
