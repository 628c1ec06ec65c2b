//! Times. There is no place here whose clocks could be meant, so what is local is UTC.

use std::fmt::Write;

use super::convert::{made, one, to_integer, whole};
use crate::eval::Env;
use crate::time::{self, AbsoluteTime, Fields};
use crate::{Ad, Expr, Scope, Value};

/// The longest text that comes of a format.
const FORMATTED: usize = 1022;

pub(super) fn time(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    given.is_empty().then(|| Value::Int(env.now()))
}

pub(super) fn current(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let now = || Value::AbsoluteTime(AbsoluteTime { seconds: env.now(), offset: 0 });
    given.is_empty().then(now)
}

pub(super) fn zone(_: &Env<'_>, given: &[Expr]) -> Option<Value> {
    given.is_empty().then_some(Value::RelativeTime(0.0))
}

pub(super) fn day_time(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    given.is_empty().then(|| Value::RelativeTime(env.now().rem_euclid(86_400) as f64))
}

pub(super) fn absolute(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let (value, offset) = match given {
        [] => return current(env, given),
        [value] => (env.eval(value), None),
        [value, offset] => (env.eval(value), Some(env.eval(offset))),
        _ => return None,
    };
    let ahead = match &offset {
        None => 0,
        Some(Value::Int(seconds)) => *seconds as i32,
        Some(Value::Real(seconds) | Value::RelativeTime(seconds)) => *seconds as i32,
        Some(_) => return None,
    };
    let seconds = match value {
        Value::Undefined => return Some(Value::Undefined),
        value @ Value::AbsoluteTime(_) => return Some(value),
        Value::Text(text) => return time::parse_absolute(&text).map(Value::AbsoluteTime),
        Value::Int(seconds) => seconds,
        Value::Real(seconds) | Value::RelativeTime(seconds) => whole(seconds),
        _ => return None,
    };
    // The reference's mark for no offset at all.
    (ahead != -1).then_some(Value::AbsoluteTime(AbsoluteTime { seconds, offset: ahead }))
}

pub(super) fn relative(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    Some(match one(env, given)? {
        Value::Undefined => Value::Undefined,
        Value::Int(seconds) => Value::RelativeTime(seconds as f64),
        Value::Real(seconds) | Value::RelativeTime(seconds) => Value::RelativeTime(seconds),
        Value::AbsoluteTime(time) => Value::RelativeTime(time.seconds as f64),
        Value::Text(text) => Value::RelativeTime(time::parse_relative(&text)?),
        _ => return None,
    })
}

/// Some field of a moment, in UTC, or of a span.
pub(super) fn field(
    env: &Env<'_>,
    given: &[Expr],
    of_moment: fn(&Fields) -> i64,
    of_span: fn(i64) -> Option<i64>,
) -> Option<Value> {
    match one(env, given)? {
        Value::AbsoluteTime(time) => Some(Value::Int(of_moment(&Fields::at(time.seconds)))),
        Value::RelativeTime(seconds) => of_span(whole(seconds)).map(Value::Int),
        _ => None,
    }
}

/// Whole days, which only a span has.
pub(super) fn days(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    match one(env, given)? {
        Value::RelativeTime(seconds) => Some(Value::Int(whole(seconds) / 86_400)),
        _ => None,
    }
}

pub(super) fn split(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    match one(env, given)? {
        Value::Undefined => Some(Value::Undefined),
        Value::RelativeTime(seconds) => Some(Value::Ad(split_span(seconds).into())),
        value => moment(&value).map(|time| Value::Ad(split_moment(&time).into())),
    }
}

/// A moment, or the number of its seconds.
fn moment(value: &Value) -> Option<AbsoluteTime> {
    let seconds = match value {
        Value::AbsoluteTime(time) => return Some(*time),
        Value::Int(seconds) => *seconds,
        Value::Real(seconds) => whole(*seconds),
        _ => return None,
    };
    Some(AbsoluteTime { seconds, offset: 0 })
}

fn split_moment(time: &AbsoluteTime) -> Ad {
    let fields = time.local();
    let mut ad = Ad::default();
    ad.insert("Type", Value::from("AbsoluteTime"));
    for (name, number) in [
        ("Year", fields.year),
        ("Month", fields.month),
        ("Day", fields.day),
        ("Hours", fields.hours),
        ("Minutes", fields.minutes),
        ("Seconds", fields.seconds),
        ("Offset", i64::from(time.offset)),
    ] {
        ad.insert(name, Value::Int(number));
    }
    ad
}

/// The largest field that is not zero has the sign.
fn split_span(span: f64) -> Ad {
    let seconds = span.abs() as i64;
    let fraction = span.abs() - span.abs().floor();
    let (mut days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (mut hours, mut minutes) = (of_day / 3600, of_day % 3600 / 60);
    let mut rest = (seconds % 60) as f64 + fraction;
    if span < 0.0 {
        if days > 0 {
            days = -days;
        } else if hours > 0 {
            hours = -hours;
        } else if minutes > 0 {
            minutes = -minutes;
        } else {
            rest = -rest;
        }
    }
    let mut ad = Ad::default();
    ad.insert("Type", Value::from("RelativeTime"));
    ad.insert("Days", Value::Int(days));
    ad.insert("Hours", Value::Int(hours));
    ad.insert("Minutes", Value::Int(minutes));
    ad.insert("Seconds", Value::Real(rest));
    ad
}

/// `d+hh:mm:ss`, as short as it may be.
pub(super) fn interval(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let seconds = to_integer(&one(env, given)?)?;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (hours, minutes, rest) = (of_day / 3600, of_day % 3600 / 60, of_day % 60);
    made(
        env,
        if days != 0 {
            format!("{days}+{:02}:{:02}:{:02}", hours.abs(), minutes.abs(), rest.abs())
        } else if hours != 0 {
            format!("{hours}:{:02}:{:02}", minutes.abs(), rest.abs())
        } else if minutes != 0 {
            format!("{minutes}:{:02}", rest.abs())
        } else {
            rest.to_string()
        },
    )
}

pub(super) fn format(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let fields = match given {
        [] => Fields::at(env.now()),
        [value] | [value, _] => match env.eval(value) {
            Value::Ad(ad) => fields_of(&ad),
            value => moment(&value)?.local(),
        },
        _ => return None,
    };
    let format = match given.get(1) {
        None => "%c".into(),
        Some(format) => match env.eval(format) {
            Value::Text(format) => format,
            _ => return None,
        },
    };
    let mut text = String::new();
    write_format(&mut text, &format, &fields)?;
    made(env, text)
}

/// As `splitTime` makes them; what is missing or no integer is 0.
fn fields_of(ad: &Ad) -> Fields {
    let scope = Scope::of(ad).within(1000);
    let number = |name: &str| match scope.attribute(name) {
        Value::Int(number) => Some(i64::from(number as i32)),
        _ => None,
    };
    Fields {
        year: number("Year").unwrap_or(1900),
        month: number("Month").unwrap_or(1),
        day: number("Day").unwrap_or(0),
        hours: number("Hours").unwrap_or(0),
        minutes: number("Minutes").unwrap_or(0),
        seconds: number("Seconds").unwrap_or(0),
    }
}

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// C's `strftime` in its own locale. What is no specification stays as it is.
fn write_format(text: &mut String, format: &str, it: &Fields) -> Option<()> {
    let mut chars = format.char_indices();
    while let Some((at, c)) = chars.next() {
        if c != '%' {
            text.push(c);
        } else {
            let mut last = chars.next();
            // How it is filled up; other digits and names of eras, of which there are none here.
            let mut flag = None;
            while let Some((_, letter @ ('E' | 'O' | '-' | '_' | '0' | '^'))) = last {
                flag = Some(letter).filter(|it| !matches!(it, 'E' | 'O')).or(flag);
                last = chars.next();
            }
            let begin = text.len();
            let known = last.map(|(_, letter)| write_field(text, letter, it));
            if known == Some(Some(())) {
                let field = text.split_off(begin);
                text.push_str(&filled(&field, flag));
            } else {
                let end = last.map_or(format.len(), |(at, letter)| at + letter.len_utf8());
                text.push_str(&format[at..end]);
            }
        }
        if text.len() > FORMATTED {
            return None;
        }
    }
    Some(())
}

/// A field as its flag wants it: `-` not filled up, `_` with blanks, `0` with zeros, `^` in capitals.
fn filled(field: &str, flag: Option<char>) -> String {
    let is_number = field.trim_start().bytes().all(|byte| byte.is_ascii_digit());
    let bare = field.trim_start_matches([' ', '0']);
    let bare = if bare.is_empty() { &field[field.len().saturating_sub(1)..] } else { bare };
    match flag {
        Some('-') if is_number => bare.to_owned(),
        Some('_') if is_number => format!("{bare:>0$}", field.len()),
        Some('0') if is_number => format!("{bare:0>0$}", field.len()),
        Some('^') => field.to_ascii_uppercase(),
        _ => field.to_owned(),
    }
}

/// One field; `None` for a letter that says none.
fn write_field(text: &mut String, letter: char, it: &Fields) -> Option<()> {
    let (weekday, year_day) = (it.weekday(), it.day_of_year());
    let twelve = if it.hours % 12 == 0 { 12 } else { it.hours % 12 };
    let named = |names: &'static [&'static str], at: i64| {
        usize::try_from(at).ok().and_then(|at| names.get(at).copied()).unwrap_or("?")
    };
    let short = |name: &'static str| &name[..name.len().min(3)];
    let composed = match letter {
        'c' => Some("%a %b %e %H:%M:%S %Y"),
        'D' | 'x' => Some("%m/%d/%y"),
        'F' => Some("%Y-%m-%d"),
        'r' => Some("%I:%M:%S %p"),
        'R' => Some("%H:%M"),
        'T' | 'X' => Some("%H:%M:%S"),
        _ => None,
    };
    if let Some(composed) = composed {
        return write_format(text, composed, it);
    }
    let (week_year, week) = iso_week(it);
    // A string takes whatever is written to it.
    let _ = match letter {
        'a' => write!(text, "{}", short(named(&DAYS, weekday))),
        'A' => write!(text, "{}", named(&DAYS, weekday)),
        'b' | 'h' => write!(text, "{}", short(named(&MONTHS, it.month - 1))),
        'B' => write!(text, "{}", named(&MONTHS, it.month - 1)),
        'C' => write!(text, "{:02}", it.year.div_euclid(100)),
        'd' => write!(text, "{:02}", it.day),
        'e' => write!(text, "{:2}", it.day),
        'g' => write!(text, "{:02}", week_year.rem_euclid(100)),
        'G' => write!(text, "{week_year}"),
        'H' => write!(text, "{:02}", it.hours),
        'I' => write!(text, "{twelve:02}"),
        'j' => write!(text, "{:03}", year_day + 1),
        'k' => write!(text, "{:2}", it.hours),
        'l' => write!(text, "{twelve:2}"),
        'm' => write!(text, "{:02}", it.month),
        'M' => write!(text, "{:02}", it.minutes),
        'n' => writeln!(text),
        'p' => write!(text, "{}", if it.hours >= 12 { "PM" } else { "AM" }),
        'P' => write!(text, "{}", if it.hours >= 12 { "pm" } else { "am" }),
        's' => write!(text, "{}", it.to_seconds()),
        'S' => write!(text, "{:02}", it.seconds),
        't' => write!(text, "\t"),
        'u' => write!(text, "{}", if weekday == 0 { 7 } else { weekday }),
        'U' => write!(text, "{:02}", (year_day + 7 - weekday) / 7),
        'V' => write!(text, "{week:02}"),
        'w' => write!(text, "{weekday}"),
        'W' => write!(text, "{:02}", (year_day + 7 - (weekday + 6) % 7) / 7),
        'y' => write!(text, "{:02}", it.year.rem_euclid(100)),
        'Y' => write!(text, "{}", it.year),
        'z' => write!(text, "+0000"),
        'Z' => write!(text, "UTC"),
        '%' => write!(text, "%"),
        _ => return None,
    };
    Some(())
}

/// The year and the number of the week whose Thursday is nearest.
fn iso_week(it: &Fields) -> (i64, i64) {
    let from_monday = (it.weekday() + 6) % 7;
    let thursday =
        Fields { day: it.day - from_monday + 3, hours: 0, minutes: 0, seconds: 0, ..*it };
    let thursday = Fields::at(thursday.to_seconds());
    (thursday.year, thursday.day_of_year() / 7 + 1)
}
