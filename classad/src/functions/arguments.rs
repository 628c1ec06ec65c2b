//! Arguments and environments of programs, as submit files write them: words between blanks, in
//! which quotes hold blanks and two quotes are one (version 2); or words between blanks and nothing
//! else, and variables between semicolons (version 1).

use std::collections::BTreeMap;

use super::convert::{made, one};
use crate::eval::Env;
use crate::{Expr, Value};

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// The words of a text; `None` if a quote is not closed.
fn words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word) = (Vec::new(), None);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if is_blank(c) {
            words.extend(word.take());
            continue;
        }
        let word: &mut String = word.get_or_insert_default();
        if c != '\'' {
            word.push(c);
            continue;
        }
        loop {
            match chars.next()? {
                '\'' if chars.peek() == Some(&'\'') => {
                    chars.next();
                    word.push('\'');
                }
                '\'' => break,
                c => word.push(c),
            }
        }
    }
    words.extend(word);
    Some(words)
}

/// A word so that it reads back as one, behind others.
fn push_word(text: &mut String, word: &str) {
    if !text.is_empty() {
        text.push(' ');
    }
    if word.is_empty() {
        text.push_str("''");
    }
    let mut quoted = false;
    for c in word.chars() {
        let wants = is_blank(c) || c == '\'';
        if wants != quoted {
            text.push('\'');
            quoted = wants;
        }
        text.push_str(if c == '\'' { "'" } else { "" });
        text.push(c);
    }
    if quoted {
        text.push('\'');
    }
}

/// Which of the two ways; the second if nothing is said.
fn version(env: &Env<'_>, given: Option<&Expr>) -> Option<i64> {
    match given.map(|given| env.eval(given)) {
        None => Some(2),
        Some(Value::Int(version @ (1 | 2))) => Some(version),
        Some(_) => None,
    }
}

/// The first argument and the version.
fn with_version(env: &Env<'_>, given: &[Expr]) -> Option<(Value, i64)> {
    match given {
        [value] | [value, _] => Some((env.eval(value), version(env, given.get(1))?)),
        _ => None,
    }
}

pub(super) fn args_to_list(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let (Value::Text(text), version) = with_version(env, given)? else { return None };
    env.charge(text.len())?;
    let words = match version {
        1 => text.split(is_blank).filter(|it| !it.is_empty()).map(str::to_owned).collect(),
        _ => words(&text)?,
    };
    let mut items = Vec::new();
    for word in words {
        // Each is a value of its own, however short.
        env.charge(64)?;
        items.push(made(env, word)?);
    }
    Some(Value::List(items.into()))
}

pub(super) fn list_to_args(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let (Value::List(items), version) = with_version(env, given)? else { return None };
    let mut text = String::new();
    for item in items.iter() {
        let Value::Text(word) = item else { return None };
        env.charge(word.len())?;
        if version == 2 {
            push_word(&mut text, word);
            continue;
        }
        if word.contains(is_blank) {
            return None;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    made(env, text)
}

/// Takes `NAME=value`; `None` if it is none.
fn set(variables: &mut BTreeMap<String, String>, word: &str) -> Option<()> {
    let (name, value) = word.split_once('=').filter(|(name, _)| !name.is_empty())?;
    variables.insert(name.to_owned(), value.to_owned());
    Some(())
}

fn environment(env: &Env<'_>, variables: &BTreeMap<String, String>) -> Option<Value> {
    let mut text = String::new();
    for (name, value) in variables {
        push_word(&mut text, &format!("{name}={value}"));
    }
    made(env, text)
}

pub(super) fn env_v1_to_v2(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let text = match one(env, given)? {
        Value::Undefined => return Some(Value::Undefined),
        Value::Text(text) => text,
        _ => return None,
    };
    env.charge(2 * text.len())?;
    let mut variables = BTreeMap::new();
    let separator = if text.starts_with('|') { '|' } else { ';' };
    for word in text.split(separator).map(|word| word.trim_start_matches(is_blank)) {
        if !word.is_empty() {
            set(&mut variables, word)?;
        }
    }
    environment(env, &variables)
}

pub(super) fn merge_environment(env: &Env<'_>, given: &[Expr]) -> Option<Value> {
    let mut variables = BTreeMap::new();
    for argument in given {
        match env.eval(argument) {
            Value::Undefined => {}
            Value::Text(text) => {
                env.charge(2 * text.len())?;
                words(&text)?.iter().try_for_each(|word| set(&mut variables, word))?;
            }
            _ => return None,
        }
    }
    environment(env, &variables)
}
