//! Durations like `"5m"` and sizes like `"64KiB"`: a number and its unit, never one without the
//! other.

use std::time::Duration;

pub(super) const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Longest duration accepted: far over any use, far below any overflow of a time.
const DURATION_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// Why a text is not a duration or size.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum UnitError {
    /// Not digits and a unit of time.
    #[error("not a duration like \"90s\" (units: ms, s, m, h, d)")]
    NotDuration,
    /// Not digits and a unit of size.
    #[error("not a size like \"64KiB\" (units: B, KiB, MiB, GiB, TiB)")]
    NotSize,
    /// Over [`DURATION_MAX`], or what a number holds.
    #[error("too large")]
    TooLarge,
}

/// Reads digits and one of `ms`, `s`, `m`, `h`, `d`.
///
/// # Errors
///
/// [`UnitError`].
pub(crate) fn duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text).ok_or(UnitError::NotDuration)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(UnitError::NotDuration),
    };
    let number: u64 = number.parse().map_err(|_| UnitError::TooLarge)?;
    let total = number.checked_mul(milliseconds).map(Duration::from_millis);
    total.filter(|total| *total <= DURATION_MAX).ok_or(UnitError::TooLarge)
}

/// Reads digits and one of `B`, `KiB`, `MiB`, `GiB`, `TiB`; the result is bytes.
///
/// # Errors
///
/// [`UnitError`].
pub(crate) fn size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text).ok_or(UnitError::NotSize)?;
    let bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(UnitError::NotSize),
    };
    let number: u64 = number.parse().map_err(|_| UnitError::TooLarge)?;
    // Sizes become file offsets and SQLite integers, which are signed.
    number
        .checked_mul(bytes)
        .filter(|total| i64::try_from(*total).is_ok())
        .ok_or(UnitError::TooLarge)
}

/// Digits, at least one, and the rest.
fn split(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    text.split_at_checked(end).filter(|(number, _)| !number.is_empty())
}

/// As [`duration`] reads it, in the largest unit that keeps it whole.
pub(crate) fn show_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")]
        .into_iter()
        .find(|(unit, _)| milliseconds > 0 && milliseconds.is_multiple_of(*unit))
        .map_or_else(
            || format!("{milliseconds}ms"),
            |(unit, name)| format!("{}{name}", milliseconds / unit),
        )
}

/// As [`size`] reads it, in the largest unit that keeps it whole.
pub(crate) fn show_size(bytes: u64) -> String {
    [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift))
        .map_or_else(|| format!("{bytes}B"), |(shift, name)| format!("{}{name}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_number_and_a_unit() {
        let cases = [
            ("5m", Ok("5m")),
            ("90s", Ok("90s")),
            ("3600s", Ok("1h")),
            ("1500ms", Ok("1500ms")),
            ("0s", Ok("0ms")),
            ("5d", Ok("5d")),
            ("3660d", Ok("3660d")),
            ("3661d", Err(UnitError::TooLarge)),
            ("99999999999999999999s", Err(UnitError::TooLarge)),
            ("18446744073709551615d", Err(UnitError::TooLarge)),
            ("5", Err(UnitError::NotDuration)),
            ("m", Err(UnitError::NotDuration)),
            ("5 m", Err(UnitError::NotDuration)),
            ("-5m", Err(UnitError::NotDuration)),
            ("1.5h", Err(UnitError::NotDuration)),
            ("5min", Err(UnitError::NotDuration)),
            ("", Err(UnitError::NotDuration)),
        ];
        for (text, want) in cases {
            assert_eq!(duration(text).map(show_duration), want.map(str::to_owned), "{text:?}");
        }
    }

    #[test]
    fn sizes_need_a_number_and_a_binary_unit() {
        let cases = [
            ("64KiB", Ok("64KiB")),
            ("1024MiB", Ok("1GiB")),
            ("1500B", Ok("1500B")),
            ("0B", Ok("0B")),
            ("1TiB", Ok("1TiB")),
            ("9999999999TiB", Err(UnitError::TooLarge)),
            ("9223372036854775808B", Err(UnitError::TooLarge)),
            ("64KB", Err(UnitError::NotSize)),
            ("64k", Err(UnitError::NotSize)),
            ("64", Err(UnitError::NotSize)),
            ("KiB", Err(UnitError::NotSize)),
        ];
        for (text, want) in cases {
            assert_eq!(size(text).map(show_size), want.map(str::to_owned), "{text:?}");
        }
    }
}
