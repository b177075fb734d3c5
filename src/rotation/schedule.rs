//! When a failed announcement is sent again. How often it was tried lies in its row, so that the
//! schedule goes on where it was after a restart, on whatever gateway.

use std::time::Duration;

/// How long after the `failed`th failed attempt, from 1, the next one follows: what `retries` says, a
/// fifth more or less as `random` has it, so that announcements that failed together do not come back
/// together. None after the last.
pub(super) fn wait_after(retries: &[Duration], failed: u32, random: [u8; 4]) -> Option<Duration> {
    let place = usize::try_from(failed.checked_sub(1)?).ok()?;
    let base = *retries.get(place)?;
    let per_mille = 800 + u32::from_le_bytes(random) % 401;
    Some(base.saturating_mul(per_mille) / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::Settings;

    #[test]
    fn the_schedule_stretches_over_days_and_ends() {
        let retries = Settings::default().retries;
        let waits: Vec<_> = (1..).map_while(|failed| wait_after(&retries, failed, [0; 4])).collect();
        assert_eq!(waits.len(), retries.len());
        assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
        let total: Duration = waits.iter().sum();
        assert!((Duration::from_secs(2 * 86_400)..Duration::from_secs(4 * 86_400)).contains(&total), "{total:?}");
        assert_eq!(wait_after(&retries, 0, [0; 4]), None);
        assert_eq!(wait_after(&retries, u32::MAX, [0; 4]), None);
    }

    proptest::proptest! {
        #[test]
        fn no_wait_is_a_fifth_off(random: [u8; 4]) {
            let wait = wait_after(&[Duration::from_secs(100)], 1, random).expect("one retry");
            proptest::prop_assert!((80..=120).contains(&wait.as_secs()), "{wait:?}");
        }
    }
}
