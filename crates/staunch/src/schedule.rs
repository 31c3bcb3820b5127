//! When is something tried again? Pure: the caller passes the time and the dice.

use std::time::Duration;

use jiff::Timestamp;

/// Our choice: waits are spread by this share of themselves either way, so that what was deferred
/// together does not come back together.
const JITTER_PERCENT: i64 = 20;

/// The wait after `failures` failed attempts in a row, by the operator's list `retry`.
///
/// The last entry repeats. `failures` counts the one that just happened: 1 takes the first entry; 0
/// counts as 1. `dice` is a random byte: 0 gives 20 % less, 255 gives 20 % more. An empty list (the
/// configuration refuses one) waits an hour.
pub(crate) fn retry_delay(retry: &[Duration], failures: u32, dice: u8) -> Duration {
    let index = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX);
    let base =
        retry.get(index).or_else(|| retry.last()).copied().unwrap_or(Duration::from_secs(3600));
    spread(base, dice)
}

/// `base` with jitter: between 80 % and 120 % of it.
pub(crate) fn spread(base: Duration, dice: u8) -> Duration {
    let millis = i64::try_from(base.as_millis()).unwrap_or(i64::MAX / 200);
    let percent_times_255 = (100 - JITTER_PERCENT) * 255 + 2 * JITTER_PERCENT * i64::from(dice);
    let spread = millis.saturating_mul(percent_times_255) / (100 * 255);
    Duration::from_millis(u64::try_from(spread).unwrap_or(0))
}

/// `now + delay`, at the end of time at the latest.
pub(crate) fn after(now: Timestamp, delay: Duration) -> Timestamp {
    now.saturating_add(jiff::SignedDuration::try_from(delay).unwrap_or(jiff::SignedDuration::MAX))
        .unwrap_or(Timestamp::MAX)
}

/// A random byte, for spreading waits. Without randomness the middle.
pub(crate) fn dice() -> u8 {
    let mut byte = [127];
    let _middle = aws_lc_rs::rand::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_list_is_walked_and_its_last_entry_repeats() {
        let retry = [5 * MINUTE, 15 * MINUTE, 60 * MINUTE];
        let middle = 127; // just under the base
        let cases = [(0, 5), (1, 5), (2, 15), (3, 60), (4, 60), (u32::MAX, 60)];
        for (failures, minutes) in cases {
            let delay = retry_delay(&retry, failures, middle);
            let base = minutes * MINUTE;
            assert!(delay > base * 99 / 100 && delay <= base, "{failures}: {delay:?}");
        }
    }

    #[test]
    fn jitter_stays_within_a_fifth() {
        for dice in 0..=255 {
            let delay = retry_delay(&[10 * MINUTE], 1, dice);
            assert!((8 * MINUTE..=12 * MINUTE).contains(&delay), "{dice}: {delay:?}");
        }
        assert_eq!(retry_delay(&[10 * MINUTE], 1, 0), 8 * MINUTE);
        assert_eq!(retry_delay(&[10 * MINUTE], 1, 255), 12 * MINUTE);
    }

    #[test]
    fn the_end_of_time_is_a_limit_and_not_an_overflow() {
        assert_eq!(after(Timestamp::MAX, MINUTE), Timestamp::MAX);
        assert_eq!(after(Timestamp::UNIX_EPOCH, MINUTE).as_second(), 60);
        assert_eq!(after(Timestamp::UNIX_EPOCH, Duration::MAX), Timestamp::MAX);
    }
}
