//! The functions that job files use.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use regex::RegexBuilder;

use crate::eval::{Env, binary, compare_text};
use crate::expr::Binary;
use crate::{Expr, MAX_TEXT, Value, value};

/// What a regular expression may take when it is compiled, in bytes.
const REGEX_BYTES: usize = 1 << 18;

/// Calls one; an unknown one, or one with the wrong arguments, is an ERROR.
pub(crate) fn call(env: &Env<'_>, name: &str, arguments: &[Expr]) -> Value {
    // Those that decide themselves what they evaluate.
    match (name, arguments) {
        ("ifthenelse", [condition, then, or]) => {
            let condition = env.eval(condition);
            return match condition.truth() {
                Some(true) => env.eval(then),
                Some(false) => env.eval(or),
                None if condition.is_undefined() => Value::Undefined,
                None => Value::Error,
            };
        }
        ("eval", [text]) => {
            return match env.eval(text) {
                Value::Text(text) => env.eval_text(&text),
                other => other,
            };
        }
        _ => {}
    }
    let values: Vec<Value> = arguments.iter().map(|argument| env.eval(argument)).collect();
    if let Some(found) = kind(name, &values) {
        return found;
    }
    let list = [
        "member",
        "identicalmember",
        "sum",
        "avg",
        "min",
        "max",
        "anycompare",
        "allcompare",
        "join",
        "size",
    ];
    if list.contains(&name) {
        return of_lists(name, &values);
    }
    let is_rounding = ["floor", "ceil", "ceiling", "round", "quantize", "pow"].contains(&name);
    if is_rounding && values.iter().any(Value::is_undefined) {
        return Value::Error;
    }
    if ["strcmp", "stricmp"].contains(&name) && values.iter().any(Value::is_undefined) {
        return Value::Undefined;
    }
    // The first that is no value decides.
    if let Some(none) = values.iter().find(|value| value.is_error() || value.is_undefined()) {
        return none.clone();
    }
    numbers(name, &values).or_else(|| texts(name, &values)).unwrap_or(Value::Error)
}

/// Those that ask what a value is.
fn kind(name: &str, values: &[Value]) -> Option<Value> {
    let [value] = values else { return None };
    let is = match name {
        "isundefined" => value.is_undefined(),
        "iserror" => value.is_error(),
        "isstring" => matches!(value, Value::Text(_)),
        "isinteger" => matches!(value, Value::Int(_)),
        "isreal" => matches!(value, Value::Real(_)),
        "isboolean" => matches!(value, Value::Bool(_)),
        "islist" => matches!(value, Value::List(_)),
        "isclassad" => matches!(value, Value::Ad(_)),
        _ => return None,
    };
    Some(Value::Bool(is))
}

fn numbers(name: &str, values: &[Value]) -> Option<Value> {
    Some(match (name, values) {
        ("int", [value]) => match value {
            Value::Text(text) => text.trim().parse().map(to_integer).unwrap_or(Value::Error),
            value => value.number().map_or(Value::Error, to_integer_of(value)),
        },
        ("real", [value]) => match value {
            Value::Text(text) => text.trim().parse().map_or(Value::Error, Value::Real),
            value => value.number().map_or(Value::Error, Value::Real),
        },
        ("floor", [value]) => to_integer(as_number(value)?.floor()),
        ("ceil" | "ceiling", [value]) => to_integer(as_number(value)?.ceil()),
        ("round", [value]) => to_integer(as_number(value)?.round_ties_even()),
        ("pow", [Value::Int(base), Value::Int(power @ 0..)]) => {
            let power = u32::try_from(*power).ok()?;
            base.checked_pow(power)
                .map_or_else(|| Value::Real((*base as f64).powf(f64::from(power))), Value::Int)
        }
        ("pow", [base, power]) => Value::Real(as_number(base)?.powf(as_number(power)?)),
        ("quantize", [Value::Int(value), Value::Int(step)]) if *step != 0 => {
            let up = value.wrapping_add(step.wrapping_sub(1)).wrapping_div(*step);
            Value::Int(up.wrapping_mul(*step))
        }
        ("time", []) => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Value::Int(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
        }
        _ => return None,
    })
}

/// The number of a value, or of a text that is one.
fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Text(text) => text.trim().parse().ok(),
        value => value.number(),
    }
}

fn to_integer(number: f64) -> Value {
    if number.is_finite() { Value::Int(number as i64) } else { Value::Error }
}

/// An integer stays as it is; a real loses its fraction.
fn to_integer_of(value: &Value) -> impl Fn(f64) -> Value {
    let integer = match value {
        Value::Int(number) => Some(*number),
        _ => None,
    };
    move |number| integer.map_or_else(|| to_integer(number), Value::Int)
}

fn texts(name: &str, values: &[Value]) -> Option<Value> {
    let text = |at: usize| match values.get(at) {
        Some(Value::Text(text)) => Some(&**text),
        _ => None,
    };
    let count = values.len();
    Some(match (name, count) {
        ("string", 1) => Value::text(plain(&values[0])),
        ("bool", 1) => match &values[0] {
            Value::Text(text) if text.eq_ignore_ascii_case("true") => Value::Bool(true),
            Value::Text(text) if text.eq_ignore_ascii_case("false") => Value::Bool(false),
            Value::Text(_) => Value::Undefined,
            value => Value::Bool(value.truth()?),
        },
        ("strcat", _) => {
            let whole: String = values.iter().map(plain).collect();
            if whole.len() > MAX_TEXT { Value::Error } else { Value::text(whole) }
        }
        ("toupper", 1) => Value::text(plain(&values[0]).to_ascii_uppercase()),
        ("tolower", 1) => Value::text(plain(&values[0]).to_ascii_lowercase()),
        ("substr", 2 | 3) => substring(text(0)?, &values[1], values.get(2))?,
        ("strcmp", 2) => sign(plain(&values[0]).cmp(&plain(&values[1]))),
        ("stricmp", 2) => sign(compare_text(&plain(&values[0]), &plain(&values[1]))),
        ("regexp", 2 | 3) => {
            let options = if count == 3 { text(2)? } else { "" };
            let regex = RegexBuilder::new(text(0)?)
                .size_limit(REGEX_BYTES)
                .case_insensitive(options.contains(['i', 'I']))
                .multi_line(options.contains(['m', 'M']))
                .dot_matches_new_line(options.contains(['s', 'S']))
                .ignore_whitespace(options.contains(['x', 'X']))
                .build();
            regex.map_or(Value::Error, |regex| {
                text(1).map_or(Value::Error, |text| Value::Bool(regex.is_match(text)))
            })
        }
        ("stringlistsize", 1 | 2) => {
            Value::Int(i64::try_from(parts(text(0)?, text(1)).count()).unwrap_or(i64::MAX))
        }
        ("stringlistmember", 2 | 3) => {
            let wanted = text(0)?;
            Value::Bool(parts(text(1)?, text(2)).any(|part| part == wanted))
        }
        ("stringlistimember", 2 | 3) => {
            let wanted = text(0)?;
            Value::Bool(parts(text(1)?, text(2)).any(|part| part.eq_ignore_ascii_case(wanted)))
        }
        ("versioneq", 2) => Value::Bool(versions(text(0)?, text(1)?).is_eq()),
        ("versionlt" | "version_lt", 2) => Value::Bool(versions(text(0)?, text(1)?).is_lt()),
        ("versionle" | "version_le", 2) => Value::Bool(versions(text(0)?, text(1)?).is_le()),
        ("versiongt" | "version_gt", 2) => Value::Bool(versions(text(0)?, text(1)?).is_gt()),
        ("versionge" | "version_ge", 2) => Value::Bool(versions(text(0)?, text(1)?).is_ge()),
        _ => return None,
    })
}

/// A value in a text: strings without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::Text(text) => text.to_string(),
        Value::Real(number) => value::real(*number),
        other => other.to_string(),
    }
}

fn sign(ordering: Ordering) -> Value {
    Value::Int(match ordering {
        Ordering::Less => -1,
        Ordering::Equal => 0,
        Ordering::Greater => 1,
    })
}

/// Part of a text by bytes; a negative place counts from the end, a negative length leaves so much.
fn substring(text: &str, from: &Value, length: Option<&Value>) -> Option<Value> {
    let Value::Int(from) = from else { return None };
    let size = i64::try_from(text.len()).ok()?;
    let begin = if *from < 0 { size.saturating_add(*from).max(0) } else { (*from).min(size) };
    let end = match length {
        None => size,
        Some(Value::Int(length @ 0..)) => begin.saturating_add(*length).min(size),
        Some(Value::Int(length)) => size.saturating_add(*length).max(begin),
        Some(_) => return None,
    };
    let (begin, end) = (usize::try_from(begin).ok()?, usize::try_from(end).ok()?);
    let bytes = &text.as_bytes()[begin..end];
    Some(Value::text(String::from_utf8_lossy(bytes).into_owned()))
}

/// The parts of a string list; commas and blanks part them unless others are given.
fn parts<'a>(list: &'a str, separators: Option<&'a str>) -> impl Iterator<Item = &'a str> {
    let separators = separators.unwrap_or(", ");
    list.split(move |c: char| separators.contains(c)).map(str::trim).filter(|part| !part.is_empty())
}

/// Versions part by part, numbers as numbers.
fn versions(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left, right);
    loop {
        let numbers = [left, right].map(|text| text.bytes().take_while(u8::is_ascii_digit).count());
        if numbers.iter().all(|digits| *digits > 0) {
            let value =
                |text: &str, digits: usize| text[..digits].trim_start_matches('0').to_owned();
            let (one, other) = (value(left, numbers[0]), value(right, numbers[1]));
            let ordering = one.len().cmp(&other.len()).then_with(|| one.cmp(&other));
            if ordering.is_ne() {
                return ordering;
            }
            (left, right) = (&left[numbers[0]..], &right[numbers[1]..]);
            continue;
        }
        match (left.chars().next(), right.chars().next()) {
            (None, None) => return Ordering::Equal,
            (one, other) if one != other => return one.cmp(&other),
            (Some(same), _) => {
                (left, right) = (&left[same.len_utf8()..], &right[same.len_utf8()..]);
            }
            (None, Some(_)) => return Ordering::Less,
        }
    }
}

fn of_lists(name: &str, values: &[Value]) -> Value {
    match (name, values) {
        ("size", [Value::Text(text)]) => Value::Int(i64::try_from(text.len()).unwrap_or(i64::MAX)),
        ("size", [Value::List(items)]) => {
            Value::Int(i64::try_from(items.len()).unwrap_or(i64::MAX))
        }
        ("size", [Value::Ad(ad)]) => Value::Int(i64::try_from(ad.len()).unwrap_or(i64::MAX)),
        ("size", [Value::Undefined]) => Value::Undefined,
        ("member" | "identicalmember", [_, Value::Undefined]) => Value::Undefined,
        ("member" | "identicalmember", [Value::List(_) | Value::Ad(_), _] | [_, Value::Error]) => {
            Value::Error
        }
        ("member", [none @ (Value::Error | Value::Undefined), _]) => none.clone(),
        ("member" | "identicalmember", [wanted, Value::List(items)]) => {
            let same = if name == "member" { Binary::Equal } else { Binary::Is };
            Value::Bool(items.iter().any(|item| binary(same, wanted, item).is_true()))
        }
        ("anycompare" | "allcompare", [Value::Text(operator), Value::List(items), wanted]) => {
            let Some(operator) = comparison(operator) else { return Value::Error };
            let compared: Vec<Value> =
                items.iter().map(|item| binary(operator, item, wanted)).collect();
            if compared.iter().any(Value::is_error) {
                return Value::Error;
            }
            let mut holds = compared.iter().map(Value::is_true);
            Value::Bool(if name == "anycompare" { holds.any(|it| it) } else { holds.all(|it| it) })
        }
        ("join", [Value::Text(between), Value::List(items)]) => {
            let texts: Vec<String> = items.iter().map(plain).collect();
            let whole: usize = texts.iter().map(|text| text.len() + between.len()).sum();
            if whole > MAX_TEXT { Value::Error } else { Value::text(texts.join(between)) }
        }
        ("sum" | "avg" | "min" | "max", [Value::List(items)]) => fold(name, items),
        (_, [Value::Undefined, ..]) => Value::Undefined,
        _ => Value::Error,
    }
}

fn comparison(mark: &str) -> Option<Binary> {
    let known = crate::expr::BINARY.iter().find(|(known, ..)| *known == mark);
    known.map(|(_, operator, _)| *operator).filter(|operator| {
        use Binary::*;
        matches!(
            operator,
            Equal | NotEqual | Is | IsNot | Less | LessEqual | Greater | GreaterEqual
        )
    })
}

/// One number of many. A real among them makes it one.
fn fold(name: &str, items: &Arc<[Value]>) -> Value {
    let numbers: Option<Vec<f64>> = items.iter().map(Value::number).collect();
    let Some(numbers) = numbers else { return Value::Error };
    if numbers.is_empty() {
        return match name {
            "sum" => Value::Int(0),
            "avg" => Value::Real(0.0),
            _ => Value::Undefined,
        };
    }
    let is_real = items.iter().any(|item| matches!(item, Value::Real(_)));
    let number = match name {
        "sum" if !is_real => {
            let whole = |item: &Value| match item {
                Value::Int(number) => *number,
                other => i64::from(other.is_true()),
            };
            return Value::Int(items.iter().map(whole).fold(0, i64::wrapping_add));
        }
        "sum" => numbers.iter().sum(),
        "avg" => return Value::Real(numbers.iter().sum::<f64>() / numbers.len() as f64),
        "min" => numbers.iter().copied().fold(f64::INFINITY, f64::min),
        _ => numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    };
    if is_real { Value::Real(number) } else { Value::Int(number as i64) }
}
