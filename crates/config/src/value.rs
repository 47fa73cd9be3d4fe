//! Durations and Ethernet addresses as text.

use std::time::Duration;

/// Units by name, in microseconds, the longest first.
const UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// Reads a duration as the configuration has it, a whole number and a unit: `50us`, `20ms`, `2s`,
/// `5m`, `1h`, `5d`. `None` for everything else.
pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let micros = number.parse::<u64>().ok()?.checked_mul(*factor)?;
    Some(Duration::from_micros(micros))
}

/// Writes a duration of whole microseconds with the longest unit that leaves no rest.
pub(crate) fn written(duration: Duration) -> String {
    let micros = duration.as_micros();
    let fits = |unit: &&(&str, u64)| micros.is_multiple_of(u128::from(unit.1)) && micros > 0;
    let (unit, factor) = UNITS.iter().find(fits).unwrap_or(&UNITS[5]);
    format!("{}{unit}", micros / u128::from(*factor))
}

/// Reads six bytes in hexadecimal with colons between them.
pub(crate) fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

/// Writes an Ethernet address.
pub(crate) fn mac_written(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write() {
        for (text, micros) in [
            ("50us", 50),
            ("20ms", 20_000),
            ("2s", 2_000_000),
            ("5m", 300_000_000),
            ("1h", 3_600_000_000),
            ("5d", 432_000_000_000),
            ("0us", 0),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_micros(micros)),
                "{text}"
            );
            assert_eq!(written(Duration::from_micros(micros)), text);
        }
        assert_eq!(written(Duration::from_millis(1500)), "1500ms");
        for text in [
            "",
            "20",
            "ms",
            "-1s",
            "+1s",
            "1.5s",
            "20 ms",
            "1S",
            "99999999999999d",
            "１s",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn ethernet_addresses_read_and_write() {
        let bytes = [3, 0x72, 0x76, 0x6c, 0, 1];
        assert_eq!(mac("03:72:76:6C:00:01"), Some(bytes));
        assert_eq!(mac_written(bytes), "03:72:76:6c:00:01");
        for text in [
            "",
            "03:72:76:6c:00",
            "03:72:76:6c:00:01:02",
            "3:72:76:6c:00:01",
            "+3:72:76:6c:00:01",
        ] {
            assert_eq!(mac(text), None, "{text}");
        }
    }
}
