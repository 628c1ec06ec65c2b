//! Moments and spans of time: read, written, split into fields. The calendar is the Gregorian one,
//! and whoever does not say how far from Greenwich a place is means UTC.

use std::fmt;

const DAY: i64 = 86_400;

/// A moment, and how many seconds ahead of UTC the clocks are where it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbsoluteTime {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Seconds ahead of UTC.
    pub offset: i32,
}

impl AbsoluteTime {
    /// What the clocks there show.
    pub(crate) fn local(&self) -> Fields {
        Fields::at(self.seconds.saturating_add(i64::from(self.offset)))
    }
}

impl fmt::Display for AbsoluteTime {
    /// As ISO 8601 has it, with the distance from UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let it = self.local();
        write!(f, "{:04}-{:02}-{:02}", it.year, it.month, it.day)?;
        write!(f, "T{:02}:{:02}:{:02}", it.hours, it.minutes, it.seconds)?;
        let (sign, ahead) = (if self.offset > 0 { '+' } else { '-' }, self.offset.unsigned_abs());
        write!(f, "{sign}{:02}:{:02}", ahead / 3600, ahead / 60 % 60)
    }
}

/// A moment as clocks and calendars show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) year: i64,
    /// From 1.
    pub(crate) month: i64,
    /// Of the month, from 1.
    pub(crate) day: i64,
    pub(crate) hours: i64,
    pub(crate) minutes: i64,
    pub(crate) seconds: i64,
}

impl Fields {
    pub(crate) fn at(seconds: i64) -> Self {
        let (days, rest) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        // Years that begin in March, in eras of four hundred of them.
        let from_march = days + 719_468;
        let (era, of_era) = (from_march.div_euclid(146_097), from_march.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: of_year - (153 * month_from_march + 2) / 5 + 1,
            hours: rest / 3600,
            minutes: rest / 60 % 60,
            seconds: rest % 60,
        }
    }

    /// Days since 1970-01-01; months and days beyond their bounds are carried.
    fn days(&self) -> i64 {
        let year = self.year + (self.month - 1).div_euclid(12);
        let month = (self.month - 1).rem_euclid(12) + 1;
        let year = year - i64::from(month <= 2);
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let from_march = if month > 2 { month - 3 } else { month + 9 };
        let of_year = (153 * from_march + 2) / 5 + self.day - 1;
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
    }

    /// Seconds since 1970-01-01T00:00:00 on the same clock.
    pub(crate) fn to_seconds(self) -> i64 {
        let within = self.hours * 3600 + self.minutes * 60 + self.seconds;
        self.days().saturating_mul(DAY).saturating_add(within)
    }

    /// From Sunday, which is 0.
    pub(crate) fn weekday(&self) -> i64 {
        (self.days() + 4).rem_euclid(7)
    }

    /// From 0.
    pub(crate) fn day_of_year(&self) -> i64 {
        self.days() - Self { month: 1, day: 1, ..*self }.days()
    }
}

/// Reads `2003-01-25T09:00:00-06:00`: digits of a year and, as far as they are there, of a month,
/// a day, hours, minutes and seconds, whatever stands between them; then `Z`, `+hhmm` or `-hh:mm`.
pub(crate) fn parse_absolute(text: &str) -> Option<AbsoluteTime> {
    let mut text = text.as_bytes().to_vec();
    let offset = take_zone(&mut text);
    let mut at = 0;
    let mut field = |width: usize| {
        at += text[at..].iter().take_while(|byte| !byte.is_ascii_digit()).count();
        let digits = text.get(at..at + width)?;
        at += width;
        let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
        Some(digits.fold(0, |number, byte| number * 10 + i64::from(byte - b'0')))
    };
    let fields = Fields {
        year: field(4)?,
        month: field(2).unwrap_or(1),
        day: field(2).unwrap_or(0),
        hours: field(2).unwrap_or(0),
        minutes: field(2).unwrap_or(0),
        seconds: field(2).unwrap_or(0),
    };
    if text[at.min(text.len())..].iter().any(u8::is_ascii_digit) {
        return None;
    }
    let seconds = fields.to_seconds();
    // The reference takes the last second of 1969 for a mistake.
    if seconds == -1 {
        return None;
    }
    Some(AbsoluteTime { seconds: seconds - i64::from(offset), offset })
}

/// Takes the zone off the end; what has none is UTC.
fn take_zone(text: &mut Vec<u8>) -> i32 {
    let length = text.len();
    let last = text.iter().rposition(|byte| !is_space(*byte));
    if let Some(last) = last.filter(|last| *last > 0 && matches!(text[*last], b'z' | b'Z')) {
        text.remove(last);
        return 0;
    }
    let is_sign = |at: usize| matches!(text[at], b'+' | b'-');
    if length > 6 && !is_sign(length - 5) && is_sign(length - 6) && text[length - 3] == b':' {
        text.remove(length - 3);
    } else if length <= 5 || !is_sign(length - 5) {
        return 0;
    }
    let begin = text.len() - 5;
    let zone = &text[begin + 1..];
    if !zone.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    let number = |at: usize| i32::from(zone[at] - b'0') * 10 + i32::from(zone[at + 1] - b'0');
    let ahead = number(0) * 3600 + number(2) * 60;
    let offset = if text[begin] == b'-' { -ahead } else { ahead };
    text.truncate(begin);
    offset
}

fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 11
}

/// Reads `[-][[[days+]hh:]mm:]ss[.fff]`, or the same with `d`, `h`, `m` and `s` behind the numbers.
pub(crate) fn parse_relative(text: &str) -> Option<f64> {
    let mut rest = text.as_bytes();
    let mut seconds = 0.0;
    trim(&mut rest);
    if rest.last().is_some_and(|byte| byte.is_ascii_digit() || matches!(byte, b's' | b'S')) {
        if !rest.last().is_some_and(u8::is_ascii_digit) {
            rest = &rest[..rest.len() - 1];
            trim(&mut rest);
        }
        let end = rest.len();
        digits(&mut rest);
        if rest.last() == Some(&b'.') {
            rest = &rest[..rest.len() - 1];
            digits(&mut rest);
        }
        seconds = text[rest.len()..end].parse().unwrap_or(0.0);
    }
    let mut unit = |marks: &[u8], length: i64| {
        trim(&mut rest);
        if !rest.last().is_some_and(|byte| marks.contains(byte)) {
            return 0;
        }
        rest = &rest[..rest.len() - 1];
        trim(&mut rest);
        let number = digits(&mut rest).and_then(|text| text.parse::<i32>().ok());
        i64::from(number.unwrap_or(0)) * length
    };
    let whole = unit(b"mM:", 60) + unit(b"hH:", 3600) + unit(b"dD+", DAY);
    trim(&mut rest);
    let negative = rest.last() == Some(&b'-');
    if negative {
        rest = &rest[..rest.len() - 1];
        trim(&mut rest);
    }
    let sum = whole as f64 + seconds;
    rest.is_empty().then_some(if negative { -sum } else { sum })
}

fn trim(rest: &mut &[u8]) {
    while rest.last().is_some_and(|byte| is_space(*byte)) {
        *rest = &rest[..rest.len() - 1];
    }
}

/// Takes digits off the end.
fn digits<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let whole = *rest;
    let count = whole.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    *rest = &whole[..whole.len() - count];
    std::str::from_utf8(&whole[whole.len() - count..]).ok()
}

/// A span as the reference writes it: `[-][[[days+]hh:]mm:]ss`, with a fraction if it has one.
pub(crate) fn relative(seconds: f64) -> String {
    let sign = if seconds < 0.0 { "-" } else { "" };
    let seconds = seconds.abs();
    let whole = seconds as i64;
    let fraction = seconds - seconds.floor();
    let (days, of_day) = (whole / 86_400, whole % 86_400);
    let (hours, minutes) = (of_day / 3600, of_day % 3600 / 60);
    let last = whole % 60;
    let last = if fraction == 0.0 {
        format!("{last:02}")
    } else {
        format!("{:0>2}", general(last as f64 + fraction, 6))
    };
    if days != 0 {
        format!("{sign}{days}+{hours:02}:{minutes:02}:{last}")
    } else if hours != 0 {
        format!("{sign}{hours:02}:{minutes:02}:{last}")
    } else if minutes != 0 {
        format!("{sign}{minutes:02}:{last}")
    } else {
        format!("{sign}{last}")
    }
}

/// C's `%g`, with so many digits.
pub(crate) fn general(number: f64, digits: i32) -> String {
    let precision = usize::try_from(digits - 1).unwrap_or(0);
    let text = format!("{number:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i32 = exponent.parse().unwrap_or(0);
    let shorter = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..digits).contains(&power) {
        let places = usize::try_from(digits - 1 - power).unwrap_or(0);
        return shorter(&format!("{number:.places$}"));
    }
    let sign = if power < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", shorter(mantissa), power.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read_as_the_reference_reads_them() {
        for (text, written) in [
            ("2020-01-02T03:04:05+01:00", "2020-01-02T03:04:05+01:00"),
            ("20200102T030405", "2020-01-02T03:04:05-00:00"),
            ("2020-01-02T03:04:05-0600", "2020-01-02T03:04:05-06:00"),
            ("2020", "2019-12-31T00:00:00-00:00"),
            ("2020-02", "2020-01-31T00:00:00-00:00"),
            ("2020-02-30", "2020-03-01T00:00:00-00:00"),
            ("2020-13-01", "2021-01-01T00:00:00-00:00"),
            ("1960-01-01 00:00 z", "1960-01-01T00:00:00-00:00"),
        ] {
            let read = parse_absolute(text).map(|time| time.to_string());
            assert_eq!(read.as_deref(), Some(written), "{text}");
        }
        for text in ["", "202", "1969-12-31T23:59:59Z", "2020-01-02T03:04:05.678Z", "bad"] {
            assert_eq!(parse_absolute(text), None, "{text}");
        }
        for (text, seconds) in [
            ("1:00", 60.0),
            ("-3+02:03:04.5", -266_584.5),
            ("1d2h3m4s", 93_784.0),
            ("1d 2h", 93_600.0),
            ("", 0.0),
            (" 5 ", 5.0),
        ] {
            assert_eq!(parse_relative(text), Some(seconds), "{text}");
        }
        assert_eq!(parse_relative("x"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(seconds in -60_000_000_000_i64..250_000_000_000, minutes in -840..840_i32) {
            let time = AbsoluteTime { seconds, offset: minutes * 60 };
            if seconds + i64::from(time.offset) != -1 {
                prop_assert_eq!(parse_absolute(&time.to_string()), Some(time));
            }
            let whole = (seconds % 100_000_000) as f64;
            prop_assert_eq!(parse_relative(&relative(whole)), Some(whole));
        }

        #[test]
        fn any_text_is_answered(text in "\\PC{0,40}|[-+0-9:.TZzdhms ]{0,40}", number in any::<f64>()) {
            let _ = parse_absolute(&text).map(|time| time.to_string());
            let _ = parse_relative(&text).map(relative);
            let _ = (relative(number), general(number, 6));
        }

        #[test]
        fn any_second_has_its_fields(seconds in any::<i64>(), offset in any::<i32>()) {
            let fields = Fields::at(seconds);
            if seconds.abs() < i64::MAX / 2 {
                prop_assert_eq!(fields.to_seconds(), seconds);
            }
            let _ = AbsoluteTime { seconds, offset }.to_string();
        }
    }
}
