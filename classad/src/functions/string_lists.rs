//! Lists that are strings: parts between commas and blanks.

use std::collections::HashSet;
use std::sync::Arc;

use super::convert::leading_number;
use super::patterns;
use crate::eval::Env;
use crate::{Expr, Value};

/// Taking a list apart is as much work as looking at a text of so many times its length.
const WORK: usize = 8;

/// Arguments, of which some at the end may be missing, as strings.
fn strings(env: &Env<'_>, given: &[Expr], least: usize, most: usize) -> Option<Vec<Arc<str>>> {
    if !(least..=most).contains(&given.len()) {
        return None;
    }
    let texts = given.iter().map(|argument| match env.eval(argument) {
        Value::Text(text) => Some(text),
        _ => None,
    });
    let texts: Vec<Arc<str>> = texts.collect::<Option<_>>()?;
    texts.iter().try_for_each(|text| env.charge(WORK * text.len()))?;
    Some(texts)
}

/// The parts of a string list; commas and blanks part them unless others are given.
fn parts<'a>(list: &'a str, separators: Option<&'a Arc<str>>) -> impl Iterator<Item = &'a str> {
    let separators = separators.map_or(", ", |separators| separators);
    list.split(move |c: char| separators.contains(c)).map(str::trim).filter(|part| !part.is_empty())
}

pub(super) fn size(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let texts = strings(env, given, 1, 2)?;
    Some(Value::length(parts(&texts[0], texts.get(1)).count()))
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Summary {
    Sum,
    Avg,
    Min,
    Max,
}

/// One number of those in a list; an integer if all look like integers.
pub(super) fn summary(env: &Env<'_>, given: &[Expr], which: Summary) -> Option<Value> {
    let texts = strings(env, given, 1, 2)?;
    let (mut numbers, mut is_real) = (Vec::new(), false);
    for part in parts(&texts[0], texts.get(1)) {
        numbers.push(leading_number(part)?);
        is_real |= !part.bytes().all(|byte| b"+-0123456789".contains(&byte));
    }
    let count = numbers.len() as f64;
    let numbers = numbers.into_iter();
    let found = match which {
        Summary::Sum if count == 0.0 => return Some(Value::Real(0.0)),
        Summary::Avg if count == 0.0 => return Some(Value::Real(0.0)),
        Summary::Sum => numbers.sum(),
        Summary::Avg => numbers.sum::<f64>() / count,
        _ if count == 0.0 => return Some(Value::Undefined),
        Summary::Min => numbers.fold(f64::INFINITY, f64::min),
        Summary::Max => numbers.fold(f64::NEG_INFINITY, f64::max),
    };
    Some(if is_real { Value::Real(found) } else { Value::Int(super::convert::whole(found)) })
}

/// An item or a list, a list, and maybe separators: what is UNDEFINED is empty, or as it is usually.
/// `Err` if the first two are UNDEFINED.
fn two_lists(env: &Env<'_>, given: &[Expr]) -> Option<Result<Vec<Arc<str>>, Value>> {
    if !matches!(given.len(), 2 | 3) {
        return None;
    }
    let (mut texts, mut undefined): (Vec<Arc<str>>, _) = (Vec::new(), 0);
    for (place, argument) in given.iter().enumerate() {
        match env.eval(argument) {
            Value::Text(text) => {
                env.charge(WORK * text.len())?;
                texts.push(text);
            }
            Value::Undefined if place < 2 => {
                undefined += 1;
                texts.push("".into());
            }
            Value::Undefined => {}
            _ => return None,
        }
    }
    Some(if undefined == 2 { Err(Value::Undefined) } else { Ok(texts) })
}

pub(super) fn member(env: &Env<'_>, given: &[Expr], any_case: bool) -> Option<Value> {
    let texts = match two_lists(env, given)? {
        Ok(texts) => texts,
        Err(none) => return Some(none),
    };
    let wanted = &*texts[0];
    let is = |part: &str| part == wanted || any_case && part.eq_ignore_ascii_case(wanted);
    Some(Value::Bool(parts(&texts[1], texts.get(2)).any(is)))
}

/// Whether every part of the first list is in the second.
pub(super) fn subset(env: &Env<'_>, given: &[Expr], any_case: bool) -> Option<Value> {
    let texts = match two_lists(env, given)? {
        Ok(texts) => texts,
        Err(none) => return Some(none),
    };
    let key = |part: &str| if any_case { part.to_ascii_lowercase() } else { part.to_owned() };
    let all: HashSet<String> = parts(&texts[1], texts.get(2)).map(key).collect();
    Some(Value::Bool(parts(&texts[0], texts.get(2)).all(|part| all.contains(&key(part)))))
}

/// Whether both lists have a part in common.
pub(super) fn intersect(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    if !matches!(given.len(), 2 | 3) {
        return None;
    }
    let values: Vec<Value> = given.iter().map(|argument| env.eval(argument)).collect();
    if values.iter().any(Value::is_error) {
        return None;
    }
    if values.iter().any(Value::is_undefined) {
        return Some(Value::Undefined);
    }
    let texts = values.iter().map(|value| match value {
        Value::Text(text) => env.charge(WORK * text.len()).map(|()| &**text),
        _ => None,
    });
    let texts: Vec<&str> = texts.collect::<Option<_>>()?;
    let separators = texts.get(2).filter(|given| !given.is_empty()).map_or(" ,", |given| given);
    let parts = |list: usize| {
        let split = texts[list].split(|c: char| separators.contains(c));
        split.filter(|part| !part.is_empty())
    };
    let all: HashSet<&str> = parts(1).collect();
    Some(Value::Bool(parts(0).any(|part| all.contains(part))))
}

pub(super) fn regexp_member(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let texts = strings(env, given, 2, 4)?;
    let parts: Vec<&str> = parts(&texts[1], texts.get(2)).collect();
    patterns::any(env, &texts[0], texts.get(3).map_or("", |options| options), &parts)
}
