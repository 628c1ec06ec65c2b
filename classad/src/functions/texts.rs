//! Strings.

use std::cmp::Ordering;
use std::sync::Arc;

use super::convert::{made, one, text_of};
use crate::eval::Env;
use crate::{Expr, MAX_TEXT, Value};

pub(super) fn strcat(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let mut whole = String::new();
    for part in given {
        match text_of(env, part) {
            Ok(text) => whole.push_str(&text),
            Err(none) => return Some(none),
        }
        if whole.len() > MAX_TEXT {
            return None;
        }
    }
    made(env, whole)
}

/// The first text between the others, or between the items of a list. UNDEFINED is left out.
pub(super) fn join(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let mut between: Arc<str> = "".into();
    let mut parts = Vec::new();
    let mut add = |part: Result<Arc<str>, Value>| match part {
        Ok(text) => {
            parts.push(Some(text));
            Some(())
        }
        Err(Value::Undefined) => {
            parts.push(None);
            Some(())
        }
        Err(_) => None,
    };
    let list = given.last().filter(|_| given.len() <= 2).map(|last| env.eval(last));
    if let Some(Value::List(items)) = list {
        if let [first, _] = given {
            match text_of(env, first) {
                Ok(text) => between = text,
                Err(Value::Undefined) => {}
                Err(_) => return None,
            }
        }
        for item in items.iter() {
            add(super::convert::plain(item))?;
        }
    } else if let Some((first, rest)) = given.split_first() {
        match text_of(env, first) {
            Ok(text) => between = text,
            Err(Value::Undefined) if rest.is_empty() => return Some(Value::Undefined),
            Err(Value::Undefined) => {}
            Err(_) => return None,
        }
        for part in rest {
            add(text_of(env, part))?;
        }
    }
    let texts: Vec<&str> = parts.iter().flatten().map(|text| &**text).collect();
    if texts.is_empty() && !parts.is_empty() {
        return Some(Value::Undefined);
    }
    let whole: usize = texts.iter().map(|text| text.len() + between.len()).sum();
    if whole > MAX_TEXT {
        return None;
    }
    // As in the reference, what is empty has nothing behind it while it is the first.
    let first = texts.iter().position(|text| !text.is_empty()).unwrap_or(texts.len());
    made(env, texts[first..].join(&between))
}

pub(super) fn change(env: &Env<'_>, given: &[Expr], how: fn(&str) -> String) -> Option<Value> {
    let [argument] = given else { return None };
    match text_of(env, argument) {
        Ok(text) => made(env, how(&text)),
        Err(none) => Some(none),
    }
}

/// Part of a text by bytes; a negative place counts from the end, a negative length leaves so much.
pub(super) fn substring(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let (text, from, length) = match given {
        [text, from] => (text, from, None),
        [text, from, length] => (text, from, Some(length)),
        _ => return None,
    };
    let (text, from) = (env.eval(text), env.eval(from));
    let length = length.map(|length| env.eval(length));
    if [Some(&text), Some(&from), length.as_ref()].iter().flatten().any(|it| it.is_undefined()) {
        return Some(Value::Undefined);
    }
    let (Value::Text(text), Value::Int(from)) = (text, from) else { return None };
    // The reference looks at 32 bits.
    let (from, size) = (i64::from(from as i32), i64::try_from(text.len()).ok()?);
    let begin = if from < 0 { (size + from).max(0) } else { from.min(size) };
    let end = match length {
        None => size,
        Some(Value::Int(length)) => match i64::from(length as i32) {
            length @ 0.. => (begin + length).min(size),
            length => (size + length).max(begin),
        },
        Some(_) => return None,
    };
    let (begin, end) = (usize::try_from(begin).ok()?, usize::try_from(end).ok()?);
    made(env, String::from_utf8_lossy(&text.as_bytes()[begin..end]).into_owned())
}

/// Two texts; `Err` if one of them is UNDEFINED.
fn two(env: &Env<'_>, given: &[Expr]) -> Option<Result<[Arc<str>; 2], Value>> {
    let [one, other] = given else { return None };
    let (one, other) = (text_of(env, one), text_of(env, other));
    let is_undefined = |it: &Result<Arc<str>, Value>| matches!(it, Err(Value::Undefined));
    if is_undefined(&one) || is_undefined(&other) {
        return Some(Err(Value::Undefined));
    }
    Some(Ok([one.ok()?, other.ok()?]))
}

pub(super) fn compare(
    env: &Env<'_>,
    given: &[Expr],
    how: fn(&str, &str) -> Ordering,
) -> Option<Value> {
    Some(two(env, given)?.map_or_else(|none| none, |[one, other]| sign(how(&one, &other))))
}

fn sign(ordering: Ordering) -> Value {
    Value::Int(ordering as i64)
}

pub(super) fn version(env: &Env<'_>, given: &[Expr], holds: fn(Ordering) -> bool) -> Option<Value> {
    let holds = |[one, other]: [Arc<str>; 2]| Value::Bool(holds(natural(&one, &other).cmp(&0)));
    Some(two(env, given)?.map_or_else(|none| none, holds))
}

pub(super) fn version_compare(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let compared = |[one, other]: [Arc<str>; 2]| Value::Int(natural(&one, &other));
    Some(two(env, given)?.map_or_else(|none| none, compared))
}

pub(super) fn version_in_range(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let [tested, least, most] = given else { return None };
    let [tested, least, most] = [tested, least, most].map(|it| text_of(env, it));
    if [&least, &most].iter().any(|it| matches!(it, Err(Value::Undefined))) {
        return Some(Value::Undefined);
    }
    let (tested, least, most) = (tested.ok()?, least.ok()?, most.ok()?);
    Some(Value::Bool(natural(&least, &tested) <= 0 && natural(&tested, &most) <= 0))
}

/// Byte by byte, but numbers within as numbers, as C's `strverscmp` does it; those with zeros in
/// front are fractions. By how much the first is greater.
fn natural(one: &str, other: &str) -> i64 {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let at = |text: &[u8], at: usize| text.get(at).copied().unwrap_or(0);
    let Some(differ) = (0..one.len().max(other.len())).find(|it| at(one, *it) != at(other, *it))
    else {
        return 0;
    };
    // C's characters have a sign.
    let bytes = i64::from(at(one, differ) as i8) - i64::from(at(other, differ) as i8);
    let digit = |text: &[u8], place: usize| at(text, place).is_ascii_digit();
    let begin = one[..differ].iter().rposition(|it| !it.is_ascii_digit()).map_or(0, |it| it + 1);
    if begin == differ && !(digit(one, differ) && digit(other, differ)) {
        return bytes;
    }
    let count = |text: &[u8], from: usize, is: fn(&u8) -> bool| -> i64 {
        text[from..].iter().take_while(|byte| is(byte)).count() as i64
    };
    let zeros = |text: &[u8]| {
        let zeros = count(text, begin, |byte| *byte == b'0');
        // A zero that no digit follows is one itself.
        zeros - i64::from(zeros > 0 && !digit(text, begin + zeros as usize))
    };
    if zeros(one) != zeros(other) {
        return zeros(other) - zeros(one);
    }
    let digits = |text: &[u8]| count(text, begin, u8::is_ascii_digit);
    match digits(one) - digits(other) {
        more if more != 0 && zeros(one) == 0 => more,
        _ => bytes,
    }
}

/// Before and behind the first `@`; without one, all is the user or the machine.
pub(super) fn split_at(env: &Env<'_>, given: &[Expr], slot: bool) -> Option<Value> {
    let Value::Text(text) = one(env, given)? else { return None };
    let (first, second) = match text.split_once('@') {
        Some(parts) => parts,
        None if slot => ("", &*text),
        None => (&*text, ""),
    };
    Some(Value::List([made(env, first)?, made(env, second)?].into()))
}

/// Parts between separators, which are blanks and commas unless others are given. Blanks around a
/// separator belong to it, and between two others of a kind there is an empty part.
pub(super) fn split(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let (text, separators) = match given {
        [text] => (env.eval(text), None),
        [text, separators] => (env.eval(text), Some(env.eval(separators))),
        _ => return None,
    };
    let separators = match separators {
        None => Arc::from(", \t"),
        Some(Value::Text(separators)) => separators,
        Some(_) => return None,
    };
    let Value::Text(text) = text else { return None };
    let (mut parts, mut begin, mut last) = (Vec::new(), 0, None);
    let mut add = |part: &str| {
        // Each is a value of its own, however short.
        env.charge(64)?;
        parts.push(made(env, part)?);
        Some(())
    };
    for (at, c) in text.char_indices().filter(|(_, c)| separators.contains(*c)) {
        let is_blank = c.is_ascii_whitespace();
        if at > begin {
            add(&text[begin..at])?;
        } else if !is_blank && last == Some(c) {
            add("")?;
        }
        if !is_blank {
            last = Some(c);
        }
        begin = at + c.len_utf8();
    }
    if begin < text.len() {
        add(&text[begin..])?;
    }
    Some(Value::List(parts.into()))
}
