//! Values into numbers, texts and conditions.

use std::sync::Arc;

use crate::eval::Env;
use crate::expr::Node;
use crate::write::{Writer, reference};
use crate::{Expr, MAX_TEXT, Value, time};

/// The value of the only argument.
pub(super) fn one(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let [argument] = given else { return None };
    Some(env.eval(argument))
}

/// As a real; `None` for what is none, UNDEFINED included.
pub(super) fn to_real(value: &Value) -> Option<f64> {
    match value {
        Value::Text(text) => leading_number(text),
        Value::AbsoluteTime(time) => Some(time.seconds as f64),
        Value::RelativeTime(seconds) => Some(whole(*seconds) as f64),
        value => value.number(),
    }
}

/// As an integer; `None` for what is none, UNDEFINED included.
pub(super) fn to_integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::AbsoluteTime(time) => Some(time.seconds),
        Value::RelativeTime(seconds) => Some(whole(*seconds)),
        value => to_real(value).map(whole),
    }
}

/// As a processor makes an integer of a real: what does not fit is the least one.
pub(super) fn whole(number: f64) -> i64 {
    let bound = 9_223_372_036_854_775_808.0;
    if (-bound..bound).contains(&number) { number as i64 } else { i64::MIN }
}

/// The number with which a text begins, as C's `strtod` finds it.
pub(super) fn leading_number(text: &str) -> Option<f64> {
    let text = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}');
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let begins = |word: &str| {
        rest.as_bytes().get(..word.len()).is_some_and(|it| it.eq_ignore_ascii_case(word.as_bytes()))
    };
    let number = if begins("inf") {
        f64::INFINITY
    } else if begins("nan") {
        f64::NAN
    } else {
        hexadecimal(rest).or_else(|| decimal(rest))?
    };
    Some(if negative { -number } else { number })
}

fn decimal(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let digits = |from: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        from + rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let whole = digits(0);
    let mut end = whole;
    if bytes.get(end) == Some(&b'.') {
        end = digits(whole + 1);
    }
    if end <= whole + 1 && whole == 0 {
        return None;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let after = digits(end + 1 + sign);
        if after > end + 1 + sign {
            end = after;
        }
    }
    text[..end].parse().ok()
}

fn hexadecimal(text: &str) -> Option<f64> {
    let rest = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
    let (mut number, mut scale, mut count, mut used) = (0.0, 1.0, 0, 0);
    let mut in_fraction = false;
    for byte in rest.bytes() {
        match (byte as char).to_digit(16) {
            Some(digit) if in_fraction => {
                scale /= 16.0;
                number += f64::from(digit) * scale;
                count += 1;
            }
            Some(digit) => {
                number = number * 16.0 + f64::from(digit);
                count += 1;
            }
            None if byte == b'.' && !in_fraction => in_fraction = true,
            None => break,
        }
        used += 1;
    }
    if count == 0 {
        return None;
    }
    let power = rest[used..].strip_prefix(['p', 'P']).map(|power| {
        let sign = usize::from(power.starts_with(['+', '-']));
        let digits = power[sign..].bytes().take_while(u8::is_ascii_digit).count();
        power[..sign + digits].parse::<i32>().unwrap_or(0)
    });
    Some(number * f64::powi(2.0, power.unwrap_or(0)))
}

/// As a text: strings without quotes. What has none is given back, UNDEFINED or ERROR.
pub(super) fn plain(value: &Value) -> Result<Arc<str>, Value> {
    match value {
        Value::Undefined | Value::Error => Err(value.clone()),
        Value::Text(text) => Ok(Arc::clone(text)),
        Value::AbsoluteTime(time) => Ok(time.to_string().into()),
        Value::RelativeTime(seconds) => Ok(time::relative(whole(*seconds) as f64).into()),
        other => Ok(reference(|writer| writer.value(other)).into()),
    }
}

/// What an expression comes to, as a text. A list is written with the expressions that it holds.
pub(crate) fn text_of(env: &Env<'_>, expr: &Expr) -> Result<Arc<str>, Value> {
    let written = match &*expr.bare().0 {
        Node::Value(_) | Node::Call(_) | Node::Unary(..) | Node::Binary(..) => None,
        _ => env.follow(expr, &mut |_, node| match node {
            Node::List(items) => Some(reference(|writer| writer.list(items, Writer::expr))),
            _ => None,
        }),
    };
    let text = match written {
        Some(text) => text.into(),
        None => plain(&env.eval(expr))?,
    };
    paid(env, text)
}

/// A text that is not too long, with the steps for its length taken.
pub(super) fn paid(env: &Env<'_>, text: Arc<str>) -> Result<Arc<str>, Value> {
    if text.len() > MAX_TEXT || env.charge(text.len()).is_none() {
        return Err(Value::Error);
    }
    Ok(text)
}

/// A text as a result.
pub(super) fn made(env: &Env<'_>, text: impl Into<Arc<str>>) -> Option<Value> {
    paid(env, text.into()).ok().map(Value::Text)
}

pub(super) fn string(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let [argument] = given else { return None };
    Some(text_of(env, argument).map_or_else(|none| none, Value::Text))
}

pub(super) fn int(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    match one(env, given)? {
        Value::Undefined => Some(Value::Undefined),
        value => to_integer(&value).map(Value::Int),
    }
}

pub(super) fn real(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    match one(env, given)? {
        Value::Undefined => Some(Value::Undefined),
        value => to_real(&value).map(Value::Real),
    }
}

pub(super) fn bool(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    Some(match one(env, given)? {
        Value::Undefined => Value::Undefined,
        Value::Text(text) if text.eq_ignore_ascii_case("true") => Value::Bool(true),
        Value::Text(text) if text.eq_ignore_ascii_case("false") => Value::Bool(false),
        Value::Text(_) => Value::Undefined,
        Value::RelativeTime(seconds) => Value::Bool(seconds.trunc() != 0.0),
        value => Value::Bool(value.truth()?),
    })
}
