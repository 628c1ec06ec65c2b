//! Arithmetic beyond operators.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::convert::{one, to_real, whole};
use crate::eval::Env;
use crate::{Expr, Value};

pub(super) fn round(env: &Env<'_>, given: &[Expr], how: fn(f64) -> f64) -> Option<Value> {
    match one(env, given)? {
        number @ Value::Int(_) => Some(number),
        value => Some(Value::Int(whole(how(to_real(&value)?)))),
    }
}

pub(super) fn pow(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let [base, power] = given else { return None };
    let (base, power) = (env.eval(base), env.eval(power));
    if let (Value::Int(base), Value::Int(power @ 0..)) = (&base, &power) {
        return Some(Value::Int(whole((*base as f64).powf(*power as f64) + 0.5)));
    }
    Some(Value::Real(to_real(&base)?.powf(to_real(&power)?)))
}

/// Up to the next multiple of a step, or to the first of a list that is not less; what is above all
/// of the list, up to the next multiple of its last.
pub(super) fn quantize(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let [value, step] = given else { return None };
    let (value, mut step) = (env.eval(value), env.eval(step));
    let number = to_real(&value)?;
    if let Value::List(steps) = &step {
        let mut last = Value::Real(0.0);
        for step in steps.iter() {
            if to_real(step)? >= number {
                return Some(step.clone());
            }
            last = step.clone();
        }
        step = last;
    }
    Some(match (&value, &step) {
        (_, Value::Int(0)) => value,
        (Value::Int(value), Value::Int(step)) => {
            let up = value.wrapping_add(step.wrapping_sub(1)).wrapping_div(*step);
            Value::Int(up.wrapping_mul(*step))
        }
        _ => {
            let by = to_real(&step)?;
            let is_none = !matches!(step, Value::Int(_)) && by.abs() <= 1e-8;
            if is_none { value } else { Value::Real((number / by).ceil() * by) }
        }
    })
}

/// Some number below another, or below 1.
pub(super) fn random(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let below = match given {
        [] => Value::Real(1.0),
        given => one(env, given)?,
    };
    let chance = RandomState::new().hash_one(env.steps_left());
    Some(match below {
        Value::Int(below @ 1..) => Value::Int((chance >> 1) as i64 % below),
        // The highest 53 bits are all that a real between 0 and 1 holds.
        Value::Real(below) => Value::Real(below * (chance >> 11) as f64 / (1_u64 << 53) as f64),
        _ => return None,
    })
}
