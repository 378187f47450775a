//! Points in time as values: the crate has no clock, so time comes in as an argument.
//!
//! [`TrustedTime`] is what a device believes when its clock may have lost power: it never goes back, so a clock in 1970
//! cannot make expired metadata valid again, and what a clock claims is never kept, so a clock in 2099 does no harm once
//! it is set right.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

const SECONDS_PER_DAY: i64 = 86_400;
/// 0001-01-01T00:00:00Z.
const WRITABLE_MIN: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z.
const WRITABLE_MAX: i64 = 253_402_300_799;

/// Seconds since 1970-01-01T00:00:00Z, without leap seconds. Written as `YYYY-MM-DDTHH:MM:SSZ`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixSeconds(pub i64);

/// A text that is no date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a date; expected YYYY-MM-DDTHH:MM:SSZ")]
pub struct ParseDateError(String);

impl UnixSeconds {
    /// This many seconds later, as far as the type reaches.
    pub const fn plus(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

/// Days since 1970-01-01 of a day of the Gregorian calendar.
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day. Source: as above, `civil_from_days`.
const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0i64, |n, &c| c.is_ascii_digit().then(|| n * 10 + i64::from(c - b'0')))
}

fn parse(text: &str) -> Option<UnixSeconds> {
    let &[y1, y2, y3, y4, b'-', o1, o2, b'-', d1, d2, b'T', h1, h2, b':', m1, m2, b':', s1, s2, b'Z'] = text.as_bytes()
    else {
        return None;
    };
    let (year, month, day) = (number(&[y1, y2, y3, y4])?, number(&[o1, o2])?, number(&[d1, d2])?);
    let (hour, minute, second) = (number(&[h1, h2])?, number(&[m1, m2])?, number(&[s1, s2])?);
    if year == 0 || !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_from_civil(year, month, day);
    // Only a day that exists comes back as itself.
    if civil_from_days(days) != (year, month, day) {
        return None;
    }
    Some(UnixSeconds(days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second))
}

impl FromStr for UnixSeconds {
    type Err = ParseDateError;

    fn from_str(text: &str) -> Result<Self, ParseDateError> {
        parse(text).ok_or_else(|| ParseDateError(text.chars().take(40).flat_map(char::escape_default).collect()))
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !(WRITABLE_MIN..=WRITABLE_MAX).contains(&self.0) {
            return write!(f, "@{}", self.0);
        }
        let (year, month, day) = civil_from_days(self.0.div_euclid(SECONDS_PER_DAY));
        let second = self.0.rem_euclid(SECONDS_PER_DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl fmt::Debug for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for UnixSeconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !(WRITABLE_MIN..=WRITABLE_MAX).contains(&self.0) {
            return Err(serde::ser::Error::custom(format_args!("{self} lies outside the years 0001 to 9999")));
        }
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UnixSeconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The latest time that is known to have passed: of the build, of an earlier boot, or signed by someone trusted.
///
/// It only grows. Store [`TrustedTime::known`] and give it back with [`TrustedTime::learn`] at the next boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrustedTime(UnixSeconds);

impl TrustedTime {
    /// It is at least as late as when this program was built.
    pub const fn new(built: UnixSeconds) -> Self {
        Self(built)
    }

    /// It is at least this late: a time stored earlier, or one from verified metadata. Never the clock's.
    pub fn learn(&mut self, known: UnixSeconds) {
        self.0 = self.0.max(known);
    }

    /// The latest time that is known to have passed.
    pub const fn known(self) -> UnixSeconds {
        self.0
    }

    /// What to take for now when the clock says `clock`.
    pub fn now(self, clock: UnixSeconds) -> UnixSeconds {
        self.0.max(clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From `date -u -d TEXT +%s`.
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1985-10-21T01:21:00Z", 498_705_660),
            ("1969-12-31T23:59:59Z", -1),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2030-01-01T00:00:00Z", 1_893_456_000),
            ("0001-01-01T00:00:00Z", WRITABLE_MIN),
            ("9999-12-31T23:59:59Z", WRITABLE_MAX),
        ] {
            assert_eq!(text.parse(), Ok(UnixSeconds(seconds)), "{text}");
            assert_eq!(UnixSeconds(seconds).to_string(), text);
        }
    }

    #[test]
    fn every_day_survives_the_round_trip() {
        for day in (-719_162..2_932_896).step_by(13) {
            let at = UnixSeconds(day * SECONDS_PER_DAY + 7);
            assert_eq!(at.to_string().parse(), Ok(at));
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "2030-01-01",
            "2030-01-01T00:00:00",
            "2030-01-01T00:00:00+00:00",
            "2030-01-01T00:00:00.5Z",
            "2030-1-1T0:0:0Z",
            "2030-13-01T00:00:00Z",
            "2030-00-01T00:00:00Z",
            "2030-02-29T00:00:00Z",
            "2030-04-31T00:00:00Z",
            "2030-01-00T00:00:00Z",
            "2030-01-01T24:00:00Z",
            "2030-01-01T00:60:00Z",
            "2030-01-01T00:00:60Z",
            "0000-01-01T00:00:00Z",
            "+030-01-01T00:00:00Z",
            "2030-01-01t00:00:00z",
            " 2030-01-01T00:00:00Z",
        ] {
            let e = text.parse::<UnixSeconds>().expect_err(text);
            assert!(e.to_string().contains(&format!("`{text}`")), "{e}");
        }
    }

    #[test]
    fn trusted_time_only_grows_and_a_clock_leaves_no_trace() {
        let mut time = TrustedTime::new(UnixSeconds(100));
        assert_eq!(time.now(UnixSeconds(0)), UnixSeconds(100));
        time.learn(UnixSeconds(200));
        time.learn(UnixSeconds(150));
        assert_eq!(time.known(), UnixSeconds(200));
        assert_eq!(time.now(UnixSeconds(9_000)), UnixSeconds(9_000));
        assert_eq!(time.now(UnixSeconds(0)), UnixSeconds(200));
    }
}
