//! Names of nodes and clusters, and the DNS name that a certificate carries for them:
//! `NODE.CLUSTER.ravelin`.

/// The last label of every name in a certificate; not a registered top level domain, so that no
/// public authority can issue one.
const SUFFIX: &str = "ravelin";

/// The longest label of a DNS name, in bytes (RFC 1035, section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// A node or cluster name that cannot be part of a DNS name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("the {kind} name is empty: use letters, digits and '-', for example \"n1\"")]
    Empty {
        /// "node" or "cluster".
        kind: &'static str,
    },
    /// The name is longer than a DNS label may be.
    #[error(
        "the {kind} name {name:?} has {} bytes: use at most {LABEL_BYTES_MAX}",
        name.len()
    )]
    Long {
        /// "node" or "cluster".
        kind: &'static str,
        /// The offending name.
        name: String,
    },
    /// The name has a character that is not allowed.
    #[error("the {kind} name {name:?} contains {found:?}: use letters, digits and '-' only")]
    Character {
        /// "node" or "cluster".
        kind: &'static str,
        /// The offending name.
        name: String,
        /// The first character that is not allowed.
        found: char,
    },
    /// The name starts or ends with a hyphen.
    #[error("the {kind} name {name:?} starts or ends with '-': let a letter or digit be there")]
    Hyphen {
        /// "node" or "cluster".
        kind: &'static str,
        /// The offending name.
        name: String,
    },
}

/// Checks that `name` is one DNS label of letters, digits and inner hyphens (RFC 1123, section
/// 2.1). `kind` ("node" or "cluster") goes into the error.
pub fn check_name(kind: &'static str, name: &str) -> Result<(), NameError> {
    let name_owned = || name.to_owned();
    if name.is_empty() {
        return Err(NameError::Empty { kind });
    }
    if let Some(found) = name
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && *c != '-')
    {
        return Err(NameError::Character {
            kind,
            name: name_owned(),
            found,
        });
    }
    if name.len() > LABEL_BYTES_MAX {
        return Err(NameError::Long {
            kind,
            name: name_owned(),
        });
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(NameError::Hyphen {
            kind,
            name: name_owned(),
        });
    }
    Ok(())
}

/// The DNS name of a node in its certificate: `NODE.CLUSTER.ravelin`.
pub fn dns_name(node: &str, cluster: &str) -> String {
    format!("{node}.{cluster}.{SUFFIX}")
}

/// The DNS subtree that a cluster's authority may issue names in.
pub(crate) fn dns_subtree(cluster: &str) -> String {
    format!("{cluster}.{SUFFIX}")
}

/// Takes `NODE.CLUSTER.ravelin` apart; `None` when the name is of another form.
pub(crate) fn split_dns_name(name: &str) -> Option<(&str, &str)> {
    let (node, rest) = name.split_once('.')?;
    let (cluster, suffix) = rest.split_once('.')?;
    let valid = check_name("node", node).is_ok()
        && check_name("cluster", cluster).is_ok()
        && suffix.eq_ignore_ascii_case(SUFFIX);
    valid.then_some((node, cluster))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_checked() {
        for good in ["n1", "N1", "a", "rack-7-node-2", "7"] {
            assert_eq!(check_name("node", good), Ok(()));
        }
        assert!(matches!(
            check_name("node", ""),
            Err(NameError::Empty { kind: "node" })
        ));
        assert!(matches!(
            check_name("node", "n.1"),
            Err(NameError::Character { found: '.', .. })
        ));
        assert!(matches!(
            check_name("node", "../x"),
            Err(NameError::Character { found: '.', .. })
        ));
        assert!(matches!(
            check_name("node", "-n"),
            Err(NameError::Hyphen { .. })
        ));
        assert!(matches!(
            check_name("cluster", &"x".repeat(64)),
            Err(NameError::Long { .. })
        ));
        assert_eq!(check_name("cluster", &"x".repeat(63)), Ok(()));
    }

    #[test]
    fn dns_names_split_into_what_made_them() {
        assert_eq!(
            split_dns_name(&dns_name("n2", "alpha")),
            Some(("n2", "alpha"))
        );
        for foreign in [
            "n2",
            "n2.alpha",
            "n2.alpha.example",
            "x.n2.alpha.ravelin",
            "*.alpha.ravelin",
            ".alpha.ravelin",
        ] {
            assert_eq!(split_dns_name(foreign), None, "{foreign}");
        }
    }
}
