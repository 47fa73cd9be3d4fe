//! `ravelin drain` and `ravelin undrain`.

use std::time::Duration;

use serde_json::Value;
use telemetry::control::{Client, Drain, DrainPhase, Request};

use crate::args::DrainArgs;
use crate::error::Error;
use crate::output::{Output, plural};

/// Has the node go offline, and tells how far it is until it is.
pub(crate) fn run(client: &mut Client, args: &DrainArgs, output: &mut Output) -> Result<(), Error> {
    let mut said: Value = client.ask(&Request::Drain {
        stay: args.stay,
        bound_ms: args.timeout.as_millis() as u64,
        force: args.force,
    })?;
    loop {
        let now = known(&said)?;
        if output.json {
            output.json(&said)?;
        } else {
            output.line(progress(&now))?;
        }
        // Who waits for it wants to see it now.
        output.flush()?;
        if now.phase.is_final() {
            return end(client, &now, output);
        }
        loop {
            let next: Value = client.ask(&Request::DrainProgress { after: now.number })?;
            if known(&next)?.number != now.number {
                said = next;
                break;
            }
        }
    }
}

/// Takes it back.
pub(crate) fn undo(client: &mut Client, output: &mut Output) -> Result<(), Error> {
    let said: Value = client.ask(&Request::Undrain)?;
    if output.json {
        output.json(&said)?;
    } else {
        output.line("the node joins again; ravelin status tells when it is active")?;
    }
    Ok(())
}

/// What the answer means, whatever fields a later daemon has added.
fn known(said: &Value) -> Result<Drain, Error> {
    serde_json::from_value(said.clone()).map_err(|error| Error::Answer(error.to_string()))
}

fn end(client: &mut Client, last: &Drain, output: &mut Output) -> Result<(), Error> {
    match last.phase {
        DrainPhase::Abandoned => return Err(Error::DrainAbandoned),
        DrainPhase::None => return Err(Error::DrainTakenBack),
        DrainPhase::Leaving => {
            // Until the daemon is gone: then it can be started again. It closes the connection.
            while client
                .ask::<Value>(&Request::DrainProgress { after: last.number })
                .is_ok()
            {}
        }
        _ => {}
    }
    if let Some(why) = &last.cut {
        return Err(Error::DrainCut(why.clone()));
    }
    if !output.json {
        let where_to = match last.phase {
            DrainPhase::Leaving => "the daemon has ended",
            _ => "it stays without slots; ravelin undrain has it join again",
        };
        output.line(format_args!("done after {} ms: {where_to}", last.age_ms))?;
    }
    Ok(())
}

/// One line about how far it is.
pub(crate) fn progress(drain: &Drain) -> String {
    let mut line = drain.phase.name().to_owned();
    let Drain {
        slots,
        slots_handed_over: done,
        held_packets: held,
        ..
    } = drain;
    if !matches!(drain.phase, DrainPhase::None | DrainPhase::Abandoned) {
        line += &format!(": {done} of {slots} slot{} handed over", plural(*slots));
    }
    if !drain.waits_for.is_empty() {
        line += &format!(", waits for {}", drain.waits_for.join(", "));
    }
    if *held > 0 {
        line += &format!(", {held} packet{} held", plural(*held));
    }
    line
}

/// Reads `10s`, `500ms` or `2m`.
pub(crate) fn bound(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let factor = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        _ => None,
    };
    let ms = number.parse::<u64>().ok().zip(factor);
    ms.and_then(|(number, factor)| number.checked_mul(factor))
        .filter(|ms| (1..=3_600_000).contains(ms))
        .map(Duration::from_millis)
        .ok_or_else(|| "give a time from 1ms to 60m, for example 10s".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_read() {
        for (text, ms) in [("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("1ms", 1)] {
            assert_eq!(bound(text), Ok(Duration::from_millis(ms)));
        }
        for wrong in [
            "",
            "10",
            "s",
            "0s",
            "61m",
            "1.5s",
            "10 s",
            "-1s",
            "99999999999999999999s",
        ] {
            assert!(bound(wrong).is_err(), "{wrong}");
        }
    }
}
