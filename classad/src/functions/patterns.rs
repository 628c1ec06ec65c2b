//! Regular expressions. Their matching takes time in proportion to the text, and what one may take
//! when it is compiled is bounded.

use std::cell::RefCell;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use crate::eval::Env;
use crate::{Expr, MAX_TEXT, Value};

/// The longest pattern, in bytes.
const PATTERN: usize = 4096;
/// What a pattern may take when it is compiled, in bytes, and how many bytes a byte of text then
/// counts for: what is larger may be slower.
const SIZES: [(usize, usize); 3] = [(1 << 14, 2), (1 << 16, 8), (1 << 18, 32)];
/// What it may take while it matches.
const CACHE: usize = 1 << 20;
/// Compiling one costs as much as so many bytes of text.
const COST: usize = 64 * 200;
/// And finding one of many matches as much as so many.
const MATCH: usize = 64 * 4;
/// How many of the last ones are kept compiled: one expression is often asked of many ads.
const KEPT: usize = 16;

/// A pattern, and what a byte of text counts for.
#[derive(Clone)]
struct Pattern {
    regex: Regex,
    weight: usize,
}

struct Kept {
    pattern: String,
    options: String,
    /// `None` for what is no pattern.
    compiled: Option<Pattern>,
}

thread_local! {
    static LAST: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
}

/// A pattern, compiled; `None` if it is none or takes too much.
fn compiled(env: &Env<'_>, pattern: &str, options: &str) -> Option<Pattern> {
    if pattern.len() > PATTERN {
        return None;
    }
    let letters = ['i', 'm', 's', 'x'].iter().filter(|it| has(options, **it)).collect::<String>();
    // It costs the same whether it is kept or not, so that an expression comes to the same everywhere.
    env.charge(COST + 16 * pattern.len())?;
    LAST.with_borrow_mut(|kept| {
        if let Some(at) = kept.iter().position(|it| it.pattern == pattern && it.options == letters)
        {
            // The last one asked for comes last.
            kept[at..].rotate_left(1);
        } else {
            if kept.len() == KEPT {
                kept.remove(0);
            }
            let compiled = compile(pattern, &letters);
            kept.push(Kept { pattern: pattern.to_owned(), options: letters, compiled });
        }
        kept.last().and_then(|it| it.compiled.clone())
    })
}

fn compile(pattern: &str, options: &str) -> Option<Pattern> {
    SIZES.iter().find_map(|(size, weight)| {
        let regex = RegexBuilder::new(pattern)
            .size_limit(*size)
            .dfa_size_limit(CACHE)
            .case_insensitive(has(options, 'i'))
            .multi_line(has(options, 'm'))
            .dot_matches_new_line(has(options, 's'))
            .ignore_whitespace(has(options, 'x'))
            .build();
        regex.ok().map(|regex| Pattern { regex, weight: *weight })
    })
}

impl Pattern {
    /// Takes the steps for looking through a text.
    fn pay(&self, env: &Env<'_>, text: &str) -> Option<&Regex> {
        env.charge(text.len().saturating_mul(self.weight))?;
        Some(&self.regex)
    }
}

fn has(options: &str, letter: char) -> bool {
    options.contains(letter)
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
    let pattern = compiled(env, &texts[0], texts.get(2).map_or("", |options| options))?;
    Some(Value::Bool(pattern.pay(env, &texts[1])?.is_match(&texts[1])))
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
    let pattern = compiled(env, &pattern, &options);
    let mut found = Value::Bool(false);
    for item in items.iter() {
        match item {
            Value::Undefined => found = Value::Undefined,
            Value::Text(text) => {
                let Some(pattern) = &pattern else { continue };
                if pattern.pay(env, text)?.is_match(text) {
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
    let pattern = compiled(env, pattern, &options)?;
    let regex = pattern.pay(env, text)?;
    let (mut made, mut begin) = (String::new(), 0);
    for found in regex.captures_iter(text) {
        env.charge(MATCH)?;
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
    let pattern = compiled(env, pattern, &options.to_ascii_lowercase())?;
    if parts.is_empty() {
        return Some(Value::Undefined);
    }
    for part in parts {
        if pattern.pay(env, part)?.is_match(part) {
            return Some(Value::Bool(true));
        }
    }
    Some(Value::Bool(false))
}
