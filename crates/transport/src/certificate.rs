//! Reading PEM files into what the rest of the crate needs of a certificate.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::names::split_dns_name;

/// A certificate or key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file holds no usable certificate.
    #[error("{} is no certificate: {detail}; expected one PEM block \"BEGIN CERTIFICATE\"", path.display())]
    NotCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file holds no usable private key.
    #[error("{} is no private key: {detail}; expected one PEM block \"BEGIN PRIVATE KEY\"", path.display())]
    NotKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// What a certificate says, without any judgement on whether to trust it.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) organization: Option<String>,
    pub(crate) dns_names: Vec<String>,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    pub(crate) is_authority: bool,
}

impl Certificate {
    pub(crate) fn from_pem_file(path: &Path) -> Result<Self, FileError> {
        let not_certificate = |detail| FileError::NotCertificate {
            path: path.to_owned(),
            detail,
        };
        let der = CertificateDer::from_pem_slice(&read(path)?)
            .map_err(|error| not_certificate(error.to_string()))?;
        Self::from_der(der).map_err(not_certificate)
    }

    /// The error is what is malformed.
    pub(crate) fn from_der(der: CertificateDer<'static>) -> Result<Self, String> {
        let (rest, x509) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow the certificate", rest.len()));
        }
        let dns_names = match x509.subject_alternative_name() {
            Ok(Some(names)) => names
                .value
                .general_names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some((*name).to_owned()),
                    _ => None,
                })
                .collect(),
            Ok(None) => Vec::new(),
            Err(error) => return Err(error.to_string()),
        };
        let organization = x509
            .subject()
            .iter_organization()
            .next()
            .and_then(|attribute| attribute.as_str().ok())
            .map(str::to_owned);
        Ok(Self {
            subject: x509.subject().to_string(),
            issuer: x509.issuer().to_string(),
            organization,
            dns_names,
            not_before: x509.validity().not_before.to_datetime(),
            not_after: x509.validity().not_after.to_datetime(),
            is_authority: x509.is_ca(),
            der,
        })
    }

    /// The (node, cluster) that the certificate names, from its first name of the form
    /// `NODE.CLUSTER.ravelin`.
    pub(crate) fn node(&self) -> Option<(&str, &str)> {
        self.dns_names.iter().find_map(|name| split_dns_name(name))
    }

    /// The names for an error message: node names where they are ours, else the raw ones.
    pub(crate) fn names_shown(&self) -> String {
        match self.node() {
            Some((node, _)) => node.to_owned(),
            None if self.dns_names.is_empty() => "no node".to_owned(),
            None => self.dns_names.join(", "),
        }
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Parses the private key in `pem`, which was read from `path`.
pub(crate) fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| FileError::NotKey {
        path: path.to_owned(),
        detail: error.to_string(),
    })
}

/// `2026-11-22 15:42:44 UTC`.
pub(crate) fn shown(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}
