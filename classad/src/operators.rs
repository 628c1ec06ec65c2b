//! What operators make of values.

use std::cmp::Ordering;

use crate::Value;
use crate::expr::{Binary, Unary};
use crate::time::AbsoluteTime;

pub(crate) fn unary(operator: Unary, operand: &Value) -> Value {
    match (operator, operand) {
        (_, Value::Undefined) => Value::Undefined,
        (Unary::Minus, Value::Int(number)) => Value::Int(number.wrapping_neg()),
        (Unary::Minus, Value::Real(number)) => Value::Real(-number),
        (Unary::Minus, Value::RelativeTime(seconds)) => Value::RelativeTime(-seconds),
        (Unary::Plus, Value::Int(_) | Value::Real(_) | Value::RelativeTime(_)) => operand.clone(),
        (Unary::Complement, Value::Int(number)) => Value::Int(!number),
        (Unary::Not, value) => value.truth().map_or(Value::Error, |truth| Value::Bool(!truth)),
        _ => Value::Error,
    }
}

pub(crate) fn binary(operator: Binary, left: &Value, right: &Value) -> Value {
    match operator {
        Binary::Is => return identical(left, right).map_or(Value::Error, Value::Bool),
        Binary::IsNot => {
            return identical(left, right).map_or(Value::Error, |same| Value::Bool(!same));
        }
        _ => {}
    }
    if left.is_error() || right.is_error() {
        return Value::Error;
    }
    if left.is_undefined() || right.is_undefined() {
        return Value::Undefined;
    }
    match operator {
        Binary::Equal => compare(left, right, Ordering::is_eq),
        Binary::NotEqual => compare(left, right, Ordering::is_ne),
        Binary::Less => compare(left, right, Ordering::is_lt),
        Binary::LessEqual => compare(left, right, Ordering::is_le),
        Binary::Greater => compare(left, right, Ordering::is_gt),
        Binary::GreaterEqual => compare(left, right, Ordering::is_ge),
        _ => arithmetic(operator, left, right),
    }
}

/// The same thing, case and kind of number included. Lists and ads are not compared.
fn identical(left: &Value, right: &Value) -> Option<bool> {
    match (left, right) {
        (Value::List(_), Value::List(_)) | (Value::Ad(_), Value::Ad(_)) => None,
        (left, right) => Some(left == right),
    }
}

fn compare(left: &Value, right: &Value, holds: fn(Ordering) -> bool) -> Value {
    let ordering = match (left, right) {
        (Value::Text(left), Value::Text(right)) => Some(compare_text(left, right)),
        (Value::Int(left), Value::Int(right)) => Some(left.cmp(right)),
        (Value::AbsoluteTime(left), Value::AbsoluteTime(right)) => {
            Some(left.seconds.cmp(&right.seconds))
        }
        _ => {
            let numbers = match (left, right) {
                (Value::RelativeTime(left), Value::RelativeTime(right)) => Some((*left, *right)),
                _ => left.number().zip(right.number()),
            };
            let Some((left, right)) = numbers else { return Value::Error };
            match left.partial_cmp(&right) {
                Some(ordering) => Some(ordering),
                // What is no number is not equal to anything.
                None => return Value::Bool(holds(Ordering::Less) && holds(Ordering::Greater)),
            }
        }
    };
    ordering.map_or(Value::Error, |ordering| Value::Bool(holds(ordering)))
}

/// Without case.
pub(crate) fn compare_text(left: &str, right: &str) -> Ordering {
    let lower = |byte: u8| byte.to_ascii_lowercase();
    left.bytes().map(lower).cmp(right.bytes().map(lower))
}

/// A number in whose place booleans may stand.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Bool(truth) => Some(i64::from(*truth)),
        _ => None,
    }
}

fn arithmetic(operator: Binary, left: &Value, right: &Value) -> Value {
    let is_bitwise = matches!(
        operator,
        Binary::BitOr
            | Binary::BitXor
            | Binary::BitAnd
            | Binary::ShiftLeft
            | Binary::ShiftRight
            | Binary::ShiftRightLogical
    );
    let is_bool = |value: &Value| matches!(value, Value::Bool(_));
    if is_bitwise && (is_bool(left) || is_bool(right)) {
        return Value::Error;
    }
    if let (Some(left), Some(right)) = (integer(left), integer(right)) {
        return integers(operator, left, right).map_or(Value::Error, Value::Int);
    }
    let (Some(one), Some(other)) = (left.number(), right.number()) else {
        return times(operator, left, right).unwrap_or(Value::Error);
    };
    let number = match operator {
        Binary::Add => one + other,
        Binary::Subtract => one - other,
        Binary::Multiply => one * other,
        Binary::Divide => one / other,
        _ => return Value::Error,
    };
    // Too much is an error, too little is not: so it is in the reference.
    if number == f64::INFINITY { Value::Error } else { Value::Real(number) }
}

fn integers(operator: Binary, left: i64, right: i64) -> Option<i64> {
    Some(match operator {
        Binary::Add => left.wrapping_add(right),
        Binary::Subtract => left.wrapping_sub(right),
        Binary::Multiply => left.wrapping_mul(right),
        Binary::Divide if right != 0 => left.saturating_div(right),
        Binary::Modulus if right != 0 => left.wrapping_rem(right),
        Binary::BitOr => left | right,
        Binary::BitXor => left ^ right,
        Binary::BitAnd => left & right,
        // As the processor does it, by the lowest six bits.
        Binary::ShiftLeft => left.wrapping_shl(right as u32),
        Binary::ShiftRight if left >= 0 => left.wrapping_shr(right as u32),
        Binary::ShiftRight => left >> right.clamp(0, 63),
        Binary::ShiftRightLogical if left >= 0 => left.wrapping_shr(right as u32),
        Binary::ShiftRightLogical => {
            // By one, and then by the rest.
            (((left as u64) >> 1) as i64).wrapping_shr(right.wrapping_sub(1) as u32)
        }
        _ => return None,
    })
}

fn times(operator: Binary, left: &Value, right: &Value) -> Option<Value> {
    let later = |time: &AbsoluteTime, seconds: i64| {
        Value::AbsoluteTime(AbsoluteTime { seconds: time.seconds.wrapping_add(seconds), ..*time })
    };
    Some(match (operator, left, right) {
        (Binary::Add, Value::AbsoluteTime(time), Value::RelativeTime(span))
        | (Binary::Add, Value::RelativeTime(span), Value::AbsoluteTime(time)) => {
            later(time, *span as i64)
        }
        (Binary::Subtract, Value::AbsoluteTime(time), Value::RelativeTime(span)) => {
            later(time, (*span as i64).wrapping_neg())
        }
        (Binary::Subtract, Value::AbsoluteTime(one), Value::AbsoluteTime(other)) => {
            Value::RelativeTime(one.seconds.wrapping_sub(other.seconds) as f64)
        }
        (Binary::Add, Value::RelativeTime(one), Value::RelativeTime(other)) => {
            Value::RelativeTime(one + other)
        }
        (Binary::Subtract, Value::RelativeTime(one), Value::RelativeTime(other)) => {
            Value::RelativeTime(one - other)
        }
        (Binary::Multiply, Value::RelativeTime(span), Value::Int(_) | Value::Real(_)) => {
            Value::RelativeTime(span * right.number()?)
        }
        (Binary::Multiply, Value::Int(_) | Value::Real(_), Value::RelativeTime(span)) => {
            Value::RelativeTime(left.number()? * span)
        }
        (Binary::Divide, Value::RelativeTime(span), Value::Int(_) | Value::Real(_)) => {
            Value::RelativeTime(span / right.number()?)
        }
        _ => return None,
    })
}
