//! `ravelin pki`.

use serde_json::json;
use time::{OffsetDateTime, UtcOffset};
use transport::pki::{self, Validity, Written};

use crate::args::PkiCommand;
use crate::error::Error;
use crate::output::Output;

pub(crate) fn run(command: &PkiCommand, output: &mut Output) -> Result<(), Error> {
    match command {
        PkiCommand::Init { dir, cluster } => written(pki::init(dir, cluster)?, output),
        PkiCommand::Issue {
            node,
            dir,
            out,
            days,
        } => {
            let out = out.as_ref().unwrap_or(dir);
            written(
                pki::issue_with(dir, node, out, Validity::days(*days))?,
                output,
            )
        }
        PkiCommand::Show { file } => {
            let seen = pki::inspect(file)?;
            let now = OffsetDateTime::now_utc();
            let validity = if now > seen.not_after {
                "expired"
            } else if now < seen.not_before {
                "not valid yet"
            } else {
                "valid"
            };
            if output.json {
                output.json(&json!({
                    "subject": seen.subject,
                    "issuer": seen.issuer,
                    "cluster": seen.cluster,
                    "node": seen.node,
                    "authority": seen.is_authority,
                    "not_before": instant(seen.not_before),
                    "not_after": instant(seen.not_after),
                    "validity": validity,
                }))?;
                return Ok(());
            }
            let what = match (&seen.node, &seen.cluster) {
                (Some(node), Some(cluster)) => format!("node {node} of cluster {cluster}"),
                (_, Some(cluster)) if seen.is_authority => {
                    format!("authority of cluster {cluster}")
                }
                _ => "not of a Ravelin cluster".into(),
            };
            output.line(format_args!("{what}, {validity}"))?;
            output.line(format_args!("subject     {}", seen.subject))?;
            output.line(format_args!("issuer      {}", seen.issuer))?;
            output.line(format_args!("not before  {}", instant(seen.not_before)))?;
            output.line(format_args!("not after   {}", instant(seen.not_after)))?;
            Ok(())
        }
    }
}

fn written(pair: Written, output: &mut Output) -> Result<(), Error> {
    let until = instant(pair.not_after);
    if output.json {
        output.json(&json!({ "cert": pair.cert, "key": pair.key, "not_after": until }))?;
    } else {
        let (cert, key) = (pair.cert.display(), pair.key.display());
        output.line(format_args!("{cert} and {key}, valid until {until}"))?;
    }
    Ok(())
}

/// `2026-11-22T15:42:44Z` (RFC 3339).
fn instant(at: OffsetDateTime) -> String {
    let at = at.to_offset(UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}
