//! Who this node is: its certificate and key, and the authority that it trusts.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use crate::certificate::{Certificate, FileError, private_key, read, shown};
use crate::names::dns_name;

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file that cannot be read or is not what it should be.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificate and the key do not belong together.
    #[error("{} is not the key of {}: use the pair that one \"ravelin pki issue\" made", key.display(), cert.display())]
    KeyMismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The certificate was signed by another authority.
    #[error("{} is signed by \"{issuer}\" but not with the key of {}: issue it with this cluster's authority", cert.display(), ca.display())]
    ForeignAuthority {
        /// The certificate.
        cert: PathBuf,
        /// The authority's certificate.
        ca: PathBuf,
        /// The issuer that the certificate names.
        issuer: String,
    },
    /// The certificate names no node.
    #[error("{} names no node (it should carry NODE.CLUSTER.ravelin): make one with \"ravelin pki issue\"", cert.display())]
    NoNode {
        /// The certificate.
        cert: PathBuf,
    },
    /// The certificate has expired.
    #[error("{} expired on {}: issue a new one with \"ravelin pki issue {node}\"", cert.display(), shown(*not_after))]
    Expired {
        /// The certificate.
        cert: PathBuf,
        /// The node that it names.
        node: String,
        /// When it expired.
        not_after: OffsetDateTime,
    },
    /// The certificate is not valid yet.
    #[error("{} is valid only from {}: check this machine's clock", cert.display(), shown(*not_before))]
    NotYetValid {
        /// The certificate.
        cert: PathBuf,
        /// When it starts.
        not_before: OffsetDateTime,
    },
    /// The certificate or the authority is unusable for another reason.
    #[error("{} cannot be used: {detail}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the verifier said.
        detail: String,
    },
}

/// A checked identity: the certificate belongs to the key, is signed by the authority, is valid
/// now and names a node. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) certified: Arc<CertifiedKey>,
    pub(crate) provider: Arc<CryptoProvider>,
    /// SHA-256 of the key file; keys that must survive a restart derive from it.
    key_digest: [u8; 32],
    node: String,
    cluster: String,
    not_after: OffsetDateTime,
}

impl Identity {
    /// Loads and checks an identity from PEM files: the authority's certificate, the node's
    /// certificate, and the node's private key.
    pub fn load(ca: &Path, cert: &Path, key: &Path) -> Result<Self, IdentityError> {
        let provider = Arc::new(provider());
        let authority = Certificate::from_pem_file(ca)?;
        let leaf = Certificate::from_pem_file(cert)?;
        let key_pem = read(key)?;
        warn_if_readable_by_others(key);

        let certified = CertifiedKey::from_der(
            vec![leaf.der.clone()],
            private_key(key, &key_pem)?,
            &provider,
        )
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => IdentityError::KeyMismatch {
                cert: cert.to_owned(),
                key: key.to_owned(),
            },
            other => IdentityError::File(FileError::NotKey {
                path: key.to_owned(),
                detail: other.to_string(),
            }),
        })?;

        let mut roots = RootCertStore::empty();
        roots
            .add(authority.der)
            .map_err(|error| IdentityError::Unusable {
                path: ca.to_owned(),
                detail: error.to_string(),
            })?;
        let roots = Arc::new(roots);
        let (node, cluster) = leaf.node().ok_or_else(|| IdentityError::NoNode {
            cert: cert.to_owned(),
        })?;
        check_signed(&roots, &provider, &leaf, (node, cluster), ca, cert)?;

        Ok(Self {
            roots,
            certified: Arc::new(certified),
            provider,
            key_digest: sha256(&[&key_pem]),
            node: node.to_owned(),
            cluster: cluster.to_owned(),
            not_after: leaf.not_after,
        })
    }

    /// The node that the certificate names.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The cluster that the certificate names.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// When the certificate ends: from then on no peer accepts a new connection of this node.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// A secret for `purpose` that is the same each time that this node starts.
    pub(crate) fn lasting_secret(&self, purpose: &str) -> [u8; 32] {
        sha256(&[purpose.as_bytes(), &self.key_digest])
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("node", &self.node)
            .field("cluster", &self.cluster)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// ring's algorithms; AES-128-GCM first, because it is the fastest with AES instructions and its
/// strength is not the weakest part of anything here.
fn provider() -> CryptoProvider {
    use rustls::crypto::ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..rustls::crypto::ring::default_provider()
    }
}

/// Judges our own certificate as a peer will.
fn check_signed(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    leaf: &Certificate,
    (node, cluster): (&str, &str),
    ca: &Path,
    cert: &Path,
) -> Result<(), IdentityError> {
    use rustls::CertificateError as Bad;
    let unusable = |path: &Path, detail: String| IdentityError::Unusable {
        path: path.to_owned(),
        detail,
    };
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
            .build()
            .map_err(|error| unusable(ca, error.to_string()))?;
    let name = ServerName::try_from(dns_name(node, cluster))
        .map_err(|error| unusable(cert, error.to_string()))?;
    match verifier.verify_server_cert(&leaf.der, &[], &name, &[], UnixTime::now()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature)) => {
            Err(IdentityError::ForeignAuthority {
                cert: cert.to_owned(),
                ca: ca.to_owned(),
                issuer: leaf.issuer.clone(),
            })
        }
        Err(rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. })) => {
            Err(IdentityError::Expired {
                cert: cert.to_owned(),
                node: node.to_owned(),
                not_after: leaf.not_after,
            })
        }
        Err(rustls::Error::InvalidCertificate(
            Bad::NotValidYet | Bad::NotValidYetContext { .. },
        )) => Err(IdentityError::NotYetValid {
            cert: cert.to_owned(),
            not_before: leaf.not_before,
        }),
        Err(other) => Err(unusable(cert, other.to_string())),
    }
}

fn warn_if_readable_by_others(key: &Path) {
    if let Ok(meta) = std::fs::metadata(key)
        && meta.permissions().mode() & 0o077 != 0
    {
        tracing::warn!(path = %key.display(), "the private key is accessible to others: chmod 600 it");
    }
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}
