//! The functions of the language: those of the reference, except what asks the world outside (users
//! and their homes, maps of names) and `unresolved`.

mod arguments;
mod contexts;
mod convert;
mod lists;
mod numbers;
mod patterns;
mod string_lists;
mod texts;
mod times;

use crate::eval::Env;
use crate::{Expr, Value};

/// What a function does: `None` is ERROR, as for arguments of a wrong number or kind.
pub(crate) type Run = fn(&Env<'_>, &[Expr]) -> Option<Value>;

/// One of them, by its place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Function(usize);

impl Function {
    pub(crate) fn run(self) -> Run {
        TABLE[self.0].1
    }
}

/// The one that a name calls; names know no case.
pub(crate) fn find(name: &str) -> Option<Function> {
    const LONGEST: usize = 24;
    if name.len() > LONGEST {
        return None;
    }
    let mut lower = [0; LONGEST];
    let lower = &mut lower[..name.len()];
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    TABLE.binary_search_by(|(known, _)| known.as_bytes().cmp(lower)).ok().map(Function)
}

/// In the order of their names.
static TABLE: [(&str, Run); 91] = [
    ("abstime", times::absolute),
    ("allcompare", |env, given| lists::compare(env, given, true)),
    ("anycompare", |env, given| lists::compare(env, given, false)),
    ("argstolist", arguments::args_to_list),
    ("avg", |env, given| lists::sum(env, given, true)),
    ("bool", convert::bool),
    ("ceil", |env, given| numbers::round(env, given, f64::ceil)),
    ("ceiling", |env, given| numbers::round(env, given, f64::ceil)),
    ("countmatches", contexts::count_matches),
    ("currenttime", times::current),
    ("daytime", times::day_time),
    ("debug", |env, given| convert::one(env, given)),
    ("envv1tov2", arguments::env_v1_to_v2),
    ("eval", contexts::eval),
    ("evalineachcontext", contexts::eval_in_each),
    ("floor", |env, given| numbers::round(env, given, f64::floor)),
    ("formattime", times::format),
    ("getdayofmonth", |env, given| times::field(env, given, |it| it.day, |_| None)),
    ("getdayofweek", |env, given| times::field(env, given, |it| it.weekday(), |_| None)),
    ("getdayofyear", |env, given| times::field(env, given, |it| it.day_of_year(), |_| None)),
    ("getdays", times::days),
    ("gethours", |env, given| {
        times::field(env, given, |it| it.hours, |it| Some(it % 86400 / 3600))
    }),
    ("getminutes", |env, given| {
        times::field(env, given, |it| it.minutes, |it| Some(it % 3600 / 60))
    }),
    ("getmonth", |env, given| times::field(env, given, |it| it.month, |_| None)),
    ("getseconds", |env, given| times::field(env, given, |it| it.seconds, |it| Some(it % 60))),
    ("getyear", |env, given| times::field(env, given, |it| it.year, |_| None)),
    ("identicalmember", |env, given| lists::member(env, given, true)),
    ("ifthenelse", contexts::if_then_else),
    ("int", convert::int),
    ("interval", times::interval),
    ("isabstime", |env, given| is(env, given, |it| matches!(it, Value::AbsoluteTime(_)))),
    ("isboolean", |env, given| is(env, given, |it| matches!(it, Value::Bool(_)))),
    ("isclassad", |env, given| is(env, given, |it| matches!(it, Value::Ad(_)))),
    ("iserror", |env, given| is(env, given, Value::is_error)),
    ("isinteger", |env, given| is(env, given, |it| matches!(it, Value::Int(_)))),
    ("islist", |env, given| is(env, given, |it| matches!(it, Value::List(_)))),
    ("isreal", |env, given| is(env, given, |it| matches!(it, Value::Real(_)))),
    ("isreltime", |env, given| is(env, given, |it| matches!(it, Value::RelativeTime(_)))),
    ("isstring", |env, given| is(env, given, |it| matches!(it, Value::Text(_)))),
    ("isundefined", |env, given| is(env, given, Value::is_undefined)),
    ("join", texts::join),
    ("listtoargs", arguments::list_to_args),
    ("max", |env, given| lists::bound(env, given, true)),
    ("member", |env, given| lists::member(env, given, false)),
    ("mergeenvironment", arguments::merge_environment),
    ("min", |env, given| lists::bound(env, given, false)),
    ("pow", numbers::pow),
    ("quantize", numbers::quantize),
    ("random", numbers::random),
    ("real", convert::real),
    ("regexp", patterns::regexp),
    ("regexpmember", patterns::member),
    ("regexps", |env, given| patterns::substitute(env, given, "")),
    ("reltime", times::relative),
    ("replace", |env, given| patterns::substitute(env, given, "f")),
    ("replaceall", |env, given| patterns::substitute(env, given, "fg")),
    ("round", |env, given| numbers::round(env, given, f64::round_ties_even)),
    ("size", lists::size),
    ("split", texts::split),
    ("splitslotname", |env, given| texts::split_at(env, given, true)),
    ("splittime", times::split),
    ("splitusername", |env, given| texts::split_at(env, given, false)),
    ("strcat", texts::strcat),
    ("strcmp", |env, given| texts::compare(env, given, |one, other| one.cmp(other))),
    ("stricmp", |env, given| texts::compare(env, given, crate::operators::compare_text)),
    ("string", convert::string),
    ("stringlist_regexpmember", string_lists::regexp_member),
    ("stringlistavg", |env, given| string_lists::summary(env, given, string_lists::Summary::Avg)),
    ("stringlistimember", |env, given| string_lists::member(env, given, true)),
    ("stringlistisubsetmatch", |env, given| string_lists::subset(env, given, true)),
    ("stringlistmax", |env, given| string_lists::summary(env, given, string_lists::Summary::Max)),
    ("stringlistmember", |env, given| string_lists::member(env, given, false)),
    ("stringlistmin", |env, given| string_lists::summary(env, given, string_lists::Summary::Min)),
    ("stringlistsintersect", string_lists::intersect),
    ("stringlistsize", string_lists::size),
    ("stringlistsubsetmatch", |env, given| string_lists::subset(env, given, false)),
    ("stringlistsum", |env, given| string_lists::summary(env, given, string_lists::Summary::Sum)),
    ("substr", texts::substring),
    ("sum", |env, given| lists::sum(env, given, false)),
    ("time", times::time),
    ("timezoneoffset", times::zone),
    ("tolower", |env, given| texts::change(env, given, str::to_ascii_lowercase)),
    ("toupper", |env, given| texts::change(env, given, str::to_ascii_uppercase)),
    ("unparse", contexts::unparse),
    ("version_in_range", texts::version_in_range),
    ("versioncmp", texts::version_compare),
    ("versioneq", |env, given| texts::version(env, given, std::cmp::Ordering::is_eq)),
    ("versionge", |env, given| texts::version(env, given, std::cmp::Ordering::is_ge)),
    ("versiongt", |env, given| texts::version(env, given, std::cmp::Ordering::is_gt)),
    ("versionle", |env, given| texts::version(env, given, std::cmp::Ordering::is_le)),
    ("versionlt", |env, given| texts::version(env, given, std::cmp::Ordering::is_lt)),
];

fn is(env: &Env<'_>, given: &[Expr], kind: fn(&Value) -> bool) -> Option<Value> {
    let [argument] = given else { return None };
    Some(Value::Bool(kind(&env.eval(argument))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_is_found_by_its_name() {
        for (place, (name, _)) in TABLE.iter().enumerate() {
            assert_eq!(find(&name.to_uppercase()), Some(Function(place)), "{name}");
        }
        assert_eq!(find("userHome"), None);
        assert_eq!(find(&"x".repeat(99)), None);
    }
}
