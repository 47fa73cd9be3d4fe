//! `ravelin version`.

use serde_json::json;
use telemetry::control::{Client, PROTOCOL, Request, Version};

use crate::error::Error;
use crate::output::Output;

/// Tells this release, and the daemon's if there is one: that none runs is an answer, no error.
pub(crate) fn run(client: Result<Client, Error>, output: &mut Output) -> Result<(), Error> {
    let daemon = match client {
        Ok(mut client) => Ok(client.ask::<Version>(&Request::Version)?),
        Err(error) => Err(error),
    };
    let mine = env!("CARGO_PKG_VERSION");
    if output.json {
        output.json(&json!({
            "ravelin": { "version": mine, "protocol": PROTOCOL },
            "ravelind": daemon.ok(),
        }))?;
        return Ok(());
    }
    output.line(format_args!("ravelin {mine} (control protocol {PROTOCOL})"))?;
    match daemon {
        Ok(daemon) => output.line(format_args!(
            "ravelind {} (control protocol {})",
            daemon.version, daemon.protocol
        ))?,
        Err(error) => output.line(format_args!("ravelind is not reached: {error}"))?,
    }
    Ok(())
}
