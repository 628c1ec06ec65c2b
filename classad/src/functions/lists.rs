//! Lists: what they hold and come to.

use super::convert::one;
use crate::eval::Env;
use crate::expr::Binary;
use crate::operators::binary;
use crate::{Expr, Value};

pub(super) fn size(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    Some(match one(env, given)? {
        Value::Undefined => Value::Undefined,
        Value::Text(text) => Value::length(text.len()),
        Value::List(items) => Value::length(items.len()),
        Value::Ad(ad) => Value::length(ad.len()),
        _ => return None,
    })
}

pub(super) fn member(env: &Env<'_>, given: &[Expr], identical: bool) -> Option<Value> {
    let [wanted, list] = given else { return None };
    let (wanted, list) = (env.eval(wanted), env.eval(list));
    if list.is_undefined() || (!identical && wanted.is_undefined()) {
        return Some(Value::Undefined);
    }
    let Value::List(items) = list else { return None };
    if matches!(wanted, Value::List(_) | Value::Ad(_)) || (!identical && wanted.is_error()) {
        return None;
    }
    let operator = if identical { Binary::Is } else { Binary::Equal };
    for item in items.iter() {
        if compared(env, operator, item, &wanted)?.is_true() {
            return Some(Value::Bool(true));
        }
    }
    Some(Value::Bool(false))
}

fn compared(env: &Env<'_>, operator: Binary, item: &Value, wanted: &Value) -> Option<Value> {
    let length = match (item, wanted) {
        (Value::Text(item), Value::Text(wanted)) => item.len().min(wanted.len()),
        _ => 0,
    };
    // At least half a step for each.
    env.charge(length.max(32))?;
    Some(binary(operator, item, wanted))
}

pub(super) fn compare(env: &Env<'_>, given: &[Expr], all: bool) -> Option<Value> {
    let [operator, list, wanted] = given else { return None };
    let operator = match env.eval(operator) {
        Value::Undefined => return Some(Value::Undefined),
        Value::Text(operator) => comparison(&operator)?,
        _ => return None,
    };
    let items = match env.eval(list) {
        Value::Undefined => return Some(Value::Undefined),
        Value::List(items) => items,
        _ => return None,
    };
    let wanted = env.eval(wanted);
    for item in items.iter() {
        match compared(env, operator, item, &wanted)? {
            // It ends the search, whatever is behind it.
            Value::Undefined => return Some(Value::Bool(false)),
            Value::Bool(holds) if holds != all => return Some(Value::Bool(holds)),
            Value::Bool(_) => {}
            _ => return None,
        }
    }
    Some(Value::Bool(all))
}

fn comparison(mark: &str) -> Option<Binary> {
    Some(match mark {
        "<" => Binary::Less,
        "<=" => Binary::LessEqual,
        "!=" => Binary::NotEqual,
        "==" => Binary::Equal,
        ">" => Binary::Greater,
        ">=" => Binary::GreaterEqual,
        "is" => Binary::Is,
        "isnt" => Binary::IsNot,
        _ => return None,
    })
}

/// The items of the only argument that are not UNDEFINED; `Err` for what is no list.
fn numbers(env: &Env<'_>, given: &[Expr]) -> Option<Result<Vec<Value>, Value>> {
    match one(env, given)? {
        Value::Undefined => Some(Err(Value::Undefined)),
        Value::List(items) => {
            let items: Vec<Value> = items.iter().filter(|it| !it.is_undefined()).cloned().collect();
            items.iter().all(|item| item.number().is_some()).then_some(Ok(items))
        }
        _ => None,
    }
}

pub(super) fn sum(env: &Env<'_>, given: &[Expr], average: bool) -> Option<Value> {
    let items = match numbers(env, given)? {
        Ok(items) => items,
        Err(none) => return Some(none),
    };
    let count = items.len();
    let sum = items.into_iter().reduce(|sum, item| binary(Binary::Add, &sum, &item));
    let Some(sum) = sum else { return Some(Value::Int(0)) };
    Some(if average { binary(Binary::Divide, &sum, &Value::Real(count as f64)) } else { sum })
}

/// The least or the greatest. A real among them makes it one, and a number a boolean.
pub(super) fn bound(env: &Env<'_>, given: &[Expr], greatest: bool) -> Option<Value> {
    let items = match numbers(env, given)? {
        Ok(items) => items,
        Err(none) => return Some(none),
    };
    let operator = if greatest { Binary::Greater } else { Binary::Less };
    let better = |best: Value, item: Value| {
        let (best, item) = promoted(best, item);
        if binary(operator, &item, &best).is_true() { item } else { best }
    };
    Some(items.into_iter().reduce(better).unwrap_or(Value::Undefined))
}

/// Two numbers as two of one kind.
fn promoted(one: Value, other: Value) -> (Value, Value) {
    if matches!(one, Value::Real(_)) || matches!(other, Value::Real(_)) {
        let real = |value: Value| value.number().map_or(Value::Error, Value::Real);
        return (real(one), real(other));
    }
    let integer = |value: Value| match value {
        Value::Bool(truth) => Value::Int(i64::from(truth)),
        value => value,
    };
    (integer(one), integer(other))
}
