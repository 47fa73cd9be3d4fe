//! The cluster's certificate authority: `ravelin pki init`, `issue` and `inspect`.
//!
//! One authority per cluster signs one certificate per node. The certificate names the node as
//! `NODE.CLUSTER.ravelin` in its subject alternative names; the authority itself is constrained to
//! the names of its cluster (RFC 5280, section 4.2.1.10), so that its key is of no use elsewhere.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData,
};
use time::{Duration, OffsetDateTime};

use crate::certificate::{Certificate, FileError, read, shown};
use crate::names::{NameError, check_name, dns_name, dns_subtree};

/// How long an authority is valid by default: ten years, in days.
pub const AUTHORITY_DAYS: u32 = 3653;
/// How long a node's certificate is valid by default: two years, in days.
pub const NODE_DAYS: u32 = 731;

/// File name of the authority's certificate in its directory.
pub const AUTHORITY_CERT: &str = "ca.pem";
/// File name of the authority's private key in its directory.
pub const AUTHORITY_KEY: &str = "ca.key";

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A name that cannot go into a certificate.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A file that cannot be read or is not what it should be.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is there already; nothing is ever overwritten.
    #[error("{} exists and is not overwritten: move it away, or choose another directory", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file or directory cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The authority's certificate was not made by [`init`].
    #[error("{} is not the authority of a cluster ({detail}): make one with \"ravelin pki init\"", path.display())]
    NotAuthority {
        /// The file.
        path: PathBuf,
        /// What is missing.
        detail: &'static str,
    },
    /// The authority's certificate and key do not belong together.
    #[error("{} is not the key of {}: use the pair that one \"ravelin pki init\" made", key.display(), cert.display())]
    KeyMismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The authority has expired.
    #[error("{} expired on {}: make a new authority with \"ravelin pki init\" and issue all nodes anew", path.display(), shown(*not_after))]
    Expired {
        /// The file.
        path: PathBuf,
        /// When it expired.
        not_after: OffsetDateTime,
    },
    /// The requested time span is empty.
    #[error("a certificate valid from {} until {} is never valid: choose an end after the start", shown(*not_before), shown(*not_after))]
    NeverValid {
        /// The requested start.
        not_before: OffsetDateTime,
        /// The requested end.
        not_after: OffsetDateTime,
    },
    /// The certificate could not be generated.
    #[error("cannot generate the certificate: {0}")]
    Generate(#[from] rcgen::Error),
}

/// The time span in which a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First instant of validity.
    pub not_before: OffsetDateTime,
    /// Last instant of validity.
    pub not_after: OffsetDateTime,
}

impl Validity {
    /// From yesterday, because the clocks of nodes differ, until `days` days from now.
    pub fn days(days: u32) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            not_before: now - Duration::days(1),
            not_after: now + Duration::days(i64::from(days)),
        }
    }

    fn check(self) -> Result<Self, PkiError> {
        if self.not_before < self.not_after {
            return Ok(self);
        }
        Err(PkiError::NeverValid {
            not_before: self.not_before,
            not_after: self.not_after,
        })
    }
}

/// A certificate and its key, as written to disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// The private key, PEM (PKCS #8), readable by its owner only.
    pub key: PathBuf,
    /// When the certificate ends.
    pub not_after: OffsetDateTime,
}

/// Makes the authority of a cluster: `ca.pem` and `ca.key` (mode 0600) in `dir`, valid for
/// [`AUTHORITY_DAYS`]. Creates `dir` when it is missing; refuses to overwrite.
pub fn init(dir: &Path, cluster: &str) -> Result<Written, PkiError> {
    init_with(dir, cluster, Validity::days(AUTHORITY_DAYS))
}

/// [`init`] with a validity of the caller's choice.
pub fn init_with(dir: &Path, cluster: &str, validity: Validity) -> Result<Written, PkiError> {
    check_name("cluster", cluster)?;
    let validity = validity.check()?;
    let mut params = CertificateParams::default();
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    params.distinguished_name = subject(&format!("Ravelin CA of {cluster}"), cluster);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(dns_subtree(cluster))],
        excluded_subtrees: Vec::new(),
    });
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    write_pair(
        dir,
        (AUTHORITY_CERT, &cert.pem()),
        (AUTHORITY_KEY, &key.serialize_pem()),
        validity.not_after,
    )
}

/// Issues the certificate of a node with the authority in `dir`: `NODE.pem` and `NODE.key` (mode
/// 0600) in `out_dir`, valid for [`NODE_DAYS`] or until the authority ends, whichever is sooner.
/// Creates `out_dir` when it is missing; refuses to overwrite.
pub fn issue(dir: &Path, node: &str, out_dir: &Path) -> Result<Written, PkiError> {
    issue_with(dir, node, out_dir, Validity::days(NODE_DAYS))
}

/// [`issue`] with a validity of the caller's choice, cut off where the authority's ends.
pub fn issue_with(
    dir: &Path,
    node: &str,
    out_dir: &Path,
    validity: Validity,
) -> Result<Written, PkiError> {
    check_name("node", node)?;
    let authority = Authority::load(dir)?;
    let validity = Validity {
        not_after: validity.not_after.min(authority.cert.not_after),
        ..validity
    }
    .check()?;

    let mut params = CertificateParams::new([dns_name(node, &authority.cluster)])?;
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    params.distinguished_name = subject(node, &authority.cluster);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Every node both dials and accepts.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, &authority.issuer)?;
    write_pair(
        out_dir,
        (&format!("{node}.pem"), &cert.pem()),
        (&format!("{node}.key"), &key.serialize_pem()),
        validity.not_after,
    )
}

/// What a certificate file says; see [`inspect`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The subject's distinguished name.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The cluster that it belongs to; none when the certificate is not one of ours.
    pub cluster: Option<String>,
    /// The node that it names; none for an authority.
    pub node: Option<String>,
    /// Whether it is an authority.
    pub is_authority: bool,
    /// First instant of validity.
    pub not_before: OffsetDateTime,
    /// Last instant of validity.
    pub not_after: OffsetDateTime,
}

/// Reads a certificate file, for people to look at. Judges nothing.
pub fn inspect(file: &Path) -> Result<Inspection, PkiError> {
    let cert = Certificate::from_pem_file(file)?;
    let (node, cluster) = match cert.node() {
        Some((node, cluster)) => (Some(node.to_owned()), Some(cluster.to_owned())),
        None => (None, cert.organization.clone()),
    };
    Ok(Inspection {
        node,
        cluster,
        subject: cert.subject,
        issuer: cert.issuer,
        is_authority: cert.is_authority,
        not_before: cert.not_before,
        not_after: cert.not_after,
    })
}

struct Authority {
    cluster: String,
    cert: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn load(dir: &Path) -> Result<Self, PkiError> {
        let (cert_path, key_path) = (dir.join(AUTHORITY_CERT), dir.join(AUTHORITY_KEY));
        let cert = Certificate::from_pem_file(&cert_path)?;
        let not_authority = |detail| PkiError::NotAuthority {
            path: cert_path.clone(),
            detail,
        };
        if !cert.is_authority {
            return Err(not_authority("it may not sign certificates"));
        }
        let cluster = cert
            .organization
            .clone()
            .filter(|name| check_name("cluster", name).is_ok())
            .ok_or_else(|| not_authority("its organization names no cluster"))?;
        if cert.not_after < OffsetDateTime::now_utc() {
            return Err(PkiError::Expired {
                path: cert_path,
                not_after: cert.not_after,
            });
        }

        let not_key = |detail| FileError::NotKey {
            path: key_path.clone(),
            detail,
        };
        let pem = String::from_utf8(read(&key_path)?)
            .map_err(|_| not_key("it is not text".to_owned()))?;
        let key = KeyPair::from_pem(&pem).map_err(|error| not_key(error.to_string()))?;
        if !signs_for(&key, &cert) {
            return Err(PkiError::KeyMismatch {
                cert: cert_path,
                key: key_path,
            });
        }
        let issuer = Issuer::from_ca_cert_der(&cert.der, key)?;
        Ok(Self {
            cluster,
            cert,
            issuer,
        })
    }
}

fn signs_for(key: &KeyPair, cert: &Certificate) -> bool {
    x509_parser::parse_x509_certificate(&cert.der)
        .is_ok_and(|(_, x509)| x509.public_key().raw == key.subject_public_key_info())
}

fn subject(common_name: &str, cluster: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, cluster);
    name.push(DnType::CommonName, common_name);
    name
}

/// Writes both files or none.
fn write_pair(
    dir: &Path,
    (cert_name, cert_pem): (&str, &str),
    (key_name, key_pem): (&str, &str),
    not_after: OffsetDateTime,
) -> Result<Written, PkiError> {
    std::fs::create_dir_all(dir).map_err(|source| PkiError::Write {
        path: dir.to_owned(),
        source,
    })?;
    let (cert, key) = (dir.join(cert_name), dir.join(key_name));
    create(&key, key_pem, 0o600)?;
    if let Err(error) = create(&cert, cert_pem, 0o644) {
        remove(&key);
        return Err(error);
    }
    Ok(Written {
        cert,
        key,
        not_after,
    })
}

fn create(path: &Path, content: &str, mode: u32) -> Result<(), PkiError> {
    let write = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => PkiError::Exists {
            path: path.to_owned(),
        },
        _ => PkiError::Write {
            path: path.to_owned(),
            source,
        },
    };
    // The mode is given at creation, so that the key is never readable by others, not even
    // between two calls.
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(write)?;
    file.write_all(content.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|source| {
            remove(path);
            write(source)
        })
}

/// Takes back a file of a pair that could not be completed. That failing changes nothing for the
/// caller, who gets the first error either way.
fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "cannot take back a half-written pair");
    }
}
