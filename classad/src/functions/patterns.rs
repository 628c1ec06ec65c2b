//! Regular expressions. Their matching takes time in proportion to the text, and what one may take
//! when it is compiled is bounded.

use std::cell::RefCell;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use crate::eval::Env;
use crate::{Expr, MAX_TEXT, Value};

/// The longest pattern, in bytes.
const PATTERN: usize = 4096;
/// What a pattern may take when it is compiled, in bytes.
const COMPILED: usize = 1 << 18;
/// What it may take while it matches.
const CACHE: usize = 1 << 20;
/// Compiling one costs as much as so many bytes of text.
const COST: usize = 64 * 50;
/// How many of the last ones are kept compiled: one expression is often asked of many ads.
const KEPT: usize = 16;

thread_local! {
    static COMPILED_LAST: RefCell<Vec<(String, String, Option<Regex>)>> = const {
        RefCell::new(Vec::new())
    };
}

/// A pattern, compiled; `None` if it is none or takes too much.
fn compiled(env: &Env<'_>, pattern: &str, options: &str) -> Option<Regex> {
    if pattern.len() > PATTERN {
        return None;
    }
    let letters = ['i', 'm', 's', 'x'].iter().filter(|it| has(options, **it)).collect::<String>();
    let kept = COMPILED_LAST.with_borrow_mut(|kept| {
        let at = kept.iter().position(|it| it.0 == pattern && it.1 == letters)?;
        // The last one asked for comes last.
        kept[at..].rotate_left(1);
        kept.last().map(|it| it.2.clone())
    });
    // It costs the same either way, so that an expression comes to the same on every thread.
    env.charge(COST + 16 * pattern.len())?;
    kept.unwrap_or_else(|| {
        let regex = RegexBuilder::new(pattern)
            .size_limit(COMPILED)
            .dfa_size_limit(CACHE)
            .case_insensitive(letters.contains('i'))
            .multi_line(letters.contains('m'))
            .dot_matches_new_line(letters.contains('s'))
            .ignore_whitespace(letters.contains('x'))
            .build()
            .ok();
        COMPILED_LAST.with_borrow_mut(|kept| {
            if kept.len() == KEPT {
                kept.remove(0);
            }
            kept.push((pattern.to_owned(), letters, regex.clone()));
        });
        regex
    })
}

fn has(options: &str, letter: char) -> bool {
    options.contains(letter)
}

/// What looking through a text costs: a slow pattern takes some steps for each byte.
fn pay(env: &Env<'_>, pattern: &str, text: &str) -> Option<()> {
    env.charge(text.len().saturating_mul(1 + pattern.len() / 16))
}

/// Arguments that all have to be strings: any that is an ERROR, and then any that is UNDEFINED,
/// decides.
fn strings(env: &Env<'_>, given: &[Expr]) -> Option<Result<Vec<Arc<str>>, Value>> {
    let values: Vec<Value> = given.iter().map(|argument| env.eval(argument)).collect();
    if values.iter().any(Value::is_error) {
        return None;
    }
    if values.iter().any(Value::is_undefined) {
        return Some(Err(Value::Undefined));
    }
    let texts = values.into_iter().map(|value| match value {
        Value::Text(text) => Some(text),
        _ => None,
    });
    texts.collect::<Option<_>>().map(Ok)
}

pub(super) fn regexp(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    if !matches!(given.len(), 2 | 3) {
        return None;
    }
    let texts = match strings(env, given)? {
        Ok(texts) => texts,
        Err(none) => return Some(none),
    };
    let regex = compiled(env, &texts[0], texts.get(2).map_or("", |options| options))?;
    pay(env, &texts[0], &texts[1])?;
    Some(Value::Bool(regex.is_match(&texts[1])))
}

/// Whether it matches any of a list. A pattern that is none matches nothing.
pub(super) fn member(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let (pattern, list, options) = match given {
        [pattern, list] => (pattern, list, None),
        [pattern, list, options] => (pattern, list, Some(options)),
        _ => return None,
    };
    let pattern = env.eval(pattern);
    let list = env.eval(list);
    let options = options.map_or(Value::from(""), |options| env.eval(options));
    let all = [&pattern, &list, &options];
    if all.iter().any(|value| value.is_error()) {
        return None;
    }
    if all.iter().any(|value| value.is_undefined()) {
        return Some(Value::Undefined);
    }
    let (Value::Text(pattern), Value::List(items), Value::Text(options)) = (pattern, list, options)
    else {
        return None;
    };
    let regex = compiled(env, &pattern, &options);
    let mut found = Value::Bool(false);
    for item in items.iter() {
        match item {
            Value::Undefined => found = Value::Undefined,
            Value::Text(text) => {
                pay(env, &pattern, text)?;
                if regex.as_ref().is_some_and(|regex| regex.is_match(text)) {
                    return Some(Value::Bool(true));
                }
            }
            _ => return None,
        }
    }
    Some(found)
}

/// What matches, put into another text. With `f` the rest of the text stays around it, with `g` so
/// it is done wherever it matches.
pub(super) fn substitute(env: &Env<'_>, given: &[Expr], more: &str) -> Option<Value> {
    if !matches!(given.len(), 3 | 4) {
        return None;
    }
    let texts = match strings(env, given)? {
        Ok(texts) => texts,
        Err(none) => return Some(none),
    };
    let options = format!("{}{more}", texts.get(3).map_or("", |options| options));
    let (full, all) = (has(&options, 'f'), has(&options, 'g'));
    let (pattern, text, with) = (&*texts[0], &*texts[1], &*texts[2]);
    let regex = compiled(env, pattern, &options)?;
    pay(env, pattern, text)?;
    let (mut made, mut begin) = (String::new(), 0);
    for found in regex.captures_iter(text) {
        let whole = found.get(0)?;
        // As in the reference, nothing is put everywhere.
        if all && whole.is_empty() {
            return None;
        }
        if full {
            made.push_str(&text[begin..whole.start()]);
        }
        put(&mut made, with, &found)?;
        begin = whole.end();
        if made.len() > MAX_TEXT {
            return None;
        }
        if !all {
            break;
        }
    }
    if full {
        made.push_str(&text[begin..]);
    }
    super::convert::made(env, made)
}

/// `\1` stands for what the first group matched. A group behind the last that matched is an ERROR.
fn put(made: &mut String, with: &str, found: &regex::Captures<'_>) -> Option<()> {
    let last = (0..found.len()).rev().find(|group| found.get(*group).is_some()).unwrap_or(0);
    let mut chars = with.chars().peekable();
    while let Some(c) = chars.next() {
        let group = chars.peek().filter(|_| c == '\\').and_then(|next| next.to_digit(10));
        let Some(group) = group else {
            made.push(c);
            continue;
        };
        chars.next();
        let group = usize::try_from(group).ok()?;
        if group > last {
            return None;
        }
        made.push_str(found.get(group).map_or("", |found| found.as_str()));
    }
    Some(())
}

/// Whether it matches a part of a string list; UNDEFINED if there is none.
pub(super) fn any(env: &Env<'_>, pattern: &str, options: &str, parts: &[&str]) -> Option<Value> {
    let regex = compiled(env, pattern, &options.to_ascii_lowercase())?;
    if parts.is_empty() {
        return Some(Value::Undefined);
    }
    for part in parts {
        pay(env, pattern, part)?;
        if regex.is_match(part) {
            return Some(Value::Bool(true));
        }
    }
    Some(Value::Bool(false))
}
