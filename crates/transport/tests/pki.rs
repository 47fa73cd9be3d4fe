//! The authority on disk: what is written, what is refused, and what the errors say.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use time::{Duration, OffsetDateTime};
use transport::pki::{self, PkiError, Validity};
use transport::{Identity, IdentityError};

fn load(dir: &Path, node: &str) -> Result<Identity, IdentityError> {
    Identity::load(
        &dir.join("ca.pem"),
        &dir.join(format!("{node}.pem")),
        &dir.join(format!("{node}.key")),
    )
}

#[test]
fn an_issued_certificate_loads_and_names_its_node() {
    let dir = tempfile::tempdir().unwrap();
    let ca = pki::init(dir.path(), "alpha").unwrap();
    let node = pki::issue(dir.path(), "n1", dir.path()).unwrap();
    for key in [&ca.key, &node.key] {
        let mode = std::fs::metadata(key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", key.display());
    }

    let seen = pki::inspect(&node.cert).unwrap();
    assert_eq!(seen.node.as_deref(), Some("n1"));
    assert_eq!(seen.cluster.as_deref(), Some("alpha"));
    assert!(!seen.is_authority);
    let days = (seen.not_after - OffsetDateTime::now_utc()).whole_days();
    assert!((729..=731).contains(&days), "{days}");

    let seen = pki::inspect(&ca.cert).unwrap();
    assert_eq!((seen.node, seen.cluster.as_deref()), (None, Some("alpha")));
    assert!(seen.is_authority);
    let days = (seen.not_after - OffsetDateTime::now_utc()).whole_days();
    assert!((3651..=3653).contains(&days), "{days}");

    let identity = load(dir.path(), "n1").unwrap();
    assert_eq!((identity.node(), identity.cluster()), ("n1", "alpha"));
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    pki::init(dir.path(), "alpha").unwrap();
    let before = std::fs::read(dir.path().join("ca.key")).unwrap();
    let error = pki::init(dir.path(), "alpha").unwrap_err();
    assert!(matches!(&error, PkiError::Exists { path } if path.ends_with("ca.key")));
    assert_eq!(std::fs::read(dir.path().join("ca.key")).unwrap(), before);

    // Only the certificate is in the way: the key must not stay behind alone.
    std::fs::write(dir.path().join("n1.pem"), "mine").unwrap();
    let error = pki::issue(dir.path(), "n1", dir.path()).unwrap_err();
    assert!(matches!(&error, PkiError::Exists { path } if path.ends_with("n1.pem")));
    assert!(!dir.path().join("n1.key").exists());
    assert_eq!(std::fs::read(dir.path().join("n1.pem")).unwrap(), b"mine");
}

#[test]
fn bad_names_and_bad_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        pki::init(dir.path(), "al pha"),
        Err(PkiError::Name(_))
    ));
    let error = pki::issue(dir.path(), "n1", dir.path()).unwrap_err();
    assert!(error.to_string().contains("ca.pem"), "{error}");
    pki::init(dir.path(), "alpha").unwrap();
    assert!(matches!(
        pki::issue(dir.path(), "../n1", dir.path()),
        Err(PkiError::Name(_))
    ));

    std::fs::write(dir.path().join("junk.pem"), "no certificate").unwrap();
    let error = pki::inspect(&dir.path().join("junk.pem")).unwrap_err();
    let shown = error.to_string();
    assert!(
        shown.contains("junk.pem") && shown.contains("BEGIN CERTIFICATE"),
        "{shown}"
    );
}

#[test]
fn an_authority_with_anothers_key_issues_nothing() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    pki::init(dir.path(), "alpha").unwrap();
    pki::init(other.path(), "alpha").unwrap();
    std::fs::copy(other.path().join("ca.key"), dir.path().join("ca.key")).unwrap();
    assert!(matches!(
        pki::issue(dir.path(), "n1", dir.path()),
        Err(PkiError::KeyMismatch { .. })
    ));
    assert!(!dir.path().join("n1.key").exists());
}

#[test]
fn a_node_certificate_is_no_authority_and_ends_with_its_authority() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    pki::init_with(dir.path(), "alpha", Validity::days(10)).unwrap();
    let written = pki::issue(dir.path(), "n1", dir.path()).unwrap();
    assert_eq!(
        written.not_after.unix_timestamp(),
        pki::inspect(&dir.path().join("ca.pem"))
            .unwrap()
            .not_after
            .unix_timestamp()
    );
    std::fs::copy(&written.cert, other.path().join("ca.pem")).unwrap();
    std::fs::copy(&written.key, other.path().join("ca.key")).unwrap();
    assert!(matches!(
        pki::issue(other.path(), "n2", other.path()),
        Err(PkiError::NotAuthority { .. })
    ));
}

#[test]
fn an_identity_is_checked_when_it_is_loaded() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (dir, other) = (dir.path(), other.path());
    pki::init(dir, "alpha").unwrap();
    pki::init(other, "alpha").unwrap();
    pki::issue(dir, "n1", dir).unwrap();
    pki::issue(dir, "n2", dir).unwrap();

    // The key of another node.
    let error = Identity::load(
        &dir.join("ca.pem"),
        &dir.join("n1.pem"),
        &dir.join("n2.key"),
    )
    .unwrap_err();
    assert!(
        matches!(error, IdentityError::KeyMismatch { .. }),
        "{error}"
    );

    // An authority of the same name but with another key.
    let error = Identity::load(
        &other.join("ca.pem"),
        &dir.join("n1.pem"),
        &dir.join("n1.key"),
    )
    .unwrap_err();
    assert!(
        matches!(error, IdentityError::ForeignAuthority { .. }),
        "{error}"
    );

    let now = OffsetDateTime::now_utc();
    let past = Validity {
        not_before: now - Duration::days(3),
        not_after: now - Duration::days(1),
    };
    pki::issue_with(dir, "old", dir, past).unwrap();
    let error = load(dir, "old").unwrap_err();
    assert!(matches!(error, IdentityError::Expired { .. }), "{error}");
    assert!(
        error.to_string().contains("ravelin pki issue old"),
        "{error}"
    );

    let future = Validity {
        not_before: now + Duration::days(1),
        not_after: now + Duration::days(2),
    };
    pki::issue_with(dir, "early", dir, future).unwrap();
    assert!(matches!(
        load(dir, "early").unwrap_err(),
        IdentityError::NotYetValid { .. }
    ));

    let error = load(dir, "missing").unwrap_err();
    assert!(error.to_string().contains("missing.pem"), "{error}");
    let error = Identity::load(
        &dir.join("ca.pem"),
        &dir.join("ca.pem"),
        &dir.join("ca.key"),
    )
    .unwrap_err();
    assert!(matches!(error, IdentityError::NoNode { .. }), "{error}");
}
