//! Functions that decide themselves what is evaluated, and where.

use super::convert::{made, text_of};
use crate::eval::Env;
use crate::expr::Node;
use crate::write::reference;
use crate::{Expr, Value};

pub(super) fn if_then_else(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let [condition, then, or] = given else { return None };
    let condition = env.eval(condition);
    match condition.truth() {
        Some(true) => Some(env.eval(then)),
        Some(false) => Some(env.eval(or)),
        None => condition.is_undefined().then_some(Value::Undefined),
    }
}

/// What a text comes to as an expression, here.
pub(super) fn eval(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let [argument] = given else { return None };
    let text = text_of(env, argument).ok()?;
    // Reading it is work, too.
    env.charge(16 * text.len())?;
    Expr::parse(&text).ok().map(|expr| env.eval(&expr))
}

/// The expression of the attribute that is named, as text; empty if there is none.
pub(super) fn unparse(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let [argument] = given else { return None };
    let name = match &*argument.0 {
        Node::Name(name) => name,
        Node::Of(..) | Node::Select(..) | Node::Absolute(_) => return made(env, ""),
        _ => return None,
    };
    let expr = env.ad.and_then(|ad| ad.named(name));
    made(env, expr.map_or(String::new(), |expr| reference(|writer| writer.expr(expr))))
}

/// What an expression comes to in each ad of a list.
pub(super) fn eval_in_each(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let [expr, list] = given else { return None };
    let results = env.follow(list, &mut |place, node| {
        let Node::List(items) = node else { return None };
        Some(items.iter().map(|item| in_one(env, place, expr, item)).collect::<Vec<_>>())
    });
    Some(match results {
        Some(results) => Value::List(results.into()),
        None => match env.eval(list) {
            Value::List(items) => {
                Value::List(items.iter().map(|item| in_value(env, expr, item)).collect())
            }
            Value::Undefined => Value::Undefined,
            _ => return None,
        },
    })
}

/// In an ad that stands in a list, or that an expression there leads to.
fn in_one(env: &Env<'_>, place: &Env<'_>, expr: &Expr, item: &Expr) -> Value {
    let found = place.follow(item, &mut |place, node| match node {
        Node::Ad(ad) => Some(place.inside(ad).eval(expr)),
        _ => None,
    });
    found.unwrap_or_else(|| in_value(env, expr, &place.eval(item)))
}

fn in_value(env: &Env<'_>, expr: &Expr, item: &Value) -> Value {
    match item {
        Value::Ad(ad) => env.inside(ad).eval(expr),
        Value::Undefined => Value::Undefined,
        _ => Value::Error,
    }
}

/// Of how many ads of a list an expression is true. Nobody's list has none.
pub(super) fn count_matches(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let [_, list] = given else { return None };
    match eval_in_each(env, given) {
        Some(Value::List(results)) => {
            Some(Value::length(results.iter().filter(|result| result.is_true()).count()))
        }
        _ => env.eval(list).is_undefined().then_some(Value::Int(0)),
    }
}
