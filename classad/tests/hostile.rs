//! Text and ads that somebody means harm with: everything ends, soon, and takes little.

use std::time::{Duration, Instant};

use phantom_classad::{Ad, Expr, MAX_TEXT, Scope, Value, analyse, matches, rank};
use proptest::prelude::*;

const AD: &str = r#"[ a = 1; b = 2.5; s = "Text"; n = [ c = 3; d = c + a; l = {a, c} ]; l = {1, "x", n};
    loop = pool; pool = loop; deep = { deep }; Memory = 2048; me = me.me; list = list[0];
    cond = cond ? 1 : 2; own = [ own = own.own ]; text = strcat(text, text) ]"#;

/// More than any evaluation takes on a busy machine without optimisation.
const SOON: Duration = Duration::from_secs(10);

fn soon<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let done = work();
    assert!(begin.elapsed() < SOON, "{what} took {:?}", begin.elapsed());
    done
}

/// How much a value holds, in bytes of texts and in values.
fn size(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::List(items) => 32 + items.iter().map(size).sum::<usize>(),
        _ => 32,
    }
}

fn eval(ad: &Ad, text: &str) -> Value {
    let head = text.get(..60).unwrap_or(text);
    let value = match soon(head, || Expr::parse(text)) {
        Ok(expr) => soon(head, || Scope::of(ad).at(0).eval(&expr)),
        Err(_) => return Value::Error,
    };
    assert!(size(&value) < 32 * MAX_TEXT, "{head} came to {} bytes", size(&value));
    value
}

#[test]
fn nothing_nests_too_deep() {
    let ad = Ad::parse(AD).unwrap();
    for (open, middle, close) in [
        ("(", "1", ")"),
        ("{", "1", "}"),
        ("[a=", "1", "]"),
        ("-", "a", ""),
        ("!", "a", ""),
        ("~ ", "a", ""),
        ("a[", "0", "]"),
        ("strcat(", "a", ")"),
        ("eval(", "a", ")"),
        ("a ? ", "1", " : 2"),
        ("a ? 1 : ", "1", ""),
        ("a + ", "1", ""),
        ("", "a", " + 1"),
        ("a && (", "1", ")"),
        ("", "n", ".n"),
        ("", "n", "[\"n\"]"),
        ("", "a", " ?: 1"),
        ("a ?: ", "1", ""),
        ("", "1", " == 1"),
        ("", "(1", ")+1"),
        ("unknown(", "1", ")"),
    ] {
        for count in [90, 99, 150, 5_000, 200_000] {
            let text = format!("{}{middle}{}", open.repeat(count), close.repeat(count));
            if text.len() > MAX_TEXT {
                continue;
            }
            eval(&ad, &text);
            if let Ok(expr) = Expr::parse(&text) {
                assert_eq!(Expr::parse(&expr.to_string()).as_ref(), Ok(&expr), "{open}{count}");
                assert_eq!(analyse(Some(&ad), &expr, [&ad], 10_000).ads, 1);
                let _ = expr.constraints();
            }
        }
    }
    // A hundred chains of a hundred links each, one inside the other.
    let chain = "1 + ".repeat(90);
    let text = format!("{}1{}", format!("({chain}").repeat(90), ")".repeat(90));
    assert!(Expr::parse(&text).is_err());
    let text = format!("{}1{}", "(".repeat(90), format!("{})", " + 1".repeat(90)).repeat(90));
    assert!(Expr::parse(&text).is_err());
    // A long chain of conditions is no deep one.
    let all = vec!["a == 1"; 5_000].join(" && ");
    assert_eq!(eval(&ad, &all), Value::Bool(true));
    assert_eq!(eval(&ad, &vec!["a == 2"; 5_000].join(" || ")), Value::Bool(false));
}

#[test]
fn attributes_that_need_themselves_come_to_an_error() {
    let ad = Ad::parse(AD).unwrap();
    for name in ["loop", "deep", "me", "list", "cond", "text"] {
        let value = soon(name, || ad.value(name));
        let innermost = |value: &Value| match value {
            Value::List(_) => true,
            value => *value == Value::Error,
        };
        assert!(innermost(&value), "{name}: {value}");
    }
    assert_ne!(eval(&ad, "own.own"), Value::Bool(true));
    let one = Ad::parse("[ x = TARGET.x; Requirements = TARGET.Requirements; Rank = x ]").unwrap();
    assert!(!soon("matches", || matches(&one, &one)));
    assert_eq!(soon("rank", || rank(&one, &one)), 0.0);
}

#[test]
fn what_doubles_ends() {
    for (first, next) in [
        ("1", "x{0} + x{0}"),
        ("\"0123456789abcdef\"", "strcat(x{0}, x{0})"),
        ("{1}", "{ x{0}, x{0} }"),
        ("\"a,b\"", "join(\",\", x{0}, x{0})"),
        ("\"aa\"", "replaceAll(\"a\", x{0}, x{0})"),
        ("\"a b\"", "split(join(\" \", x{0}, x{0}))"),
        ("[ y = 1 ]", "[ y = x{0}.y + x{0}.y ]"),
        ("{[ y = 1 ]}", "evalInEachContext(x{0}, x{0})"),
        ("\"1\"", "string({ x{0}, x{0} })"),
        ("\"1\"", "eval(strcat(x{0}, \"+\", x{0}))"),
        ("\"1\"", "mergeEnvironment(strcat(\"A=\", x{0}), strcat(\"B=\", x{0}))"),
        ("true", "x{0} ? x{0} : x{0}"),
        ("true", "ifThenElse(x{0}, x{0} && x{0}, x{0})"),
    ] {
        let mut ad = Ad::default();
        ad.insert("x0", Expr::parse(first).unwrap());
        for level in 1..70 {
            let text = next.replace("{0}", &(level - 1).to_string());
            ad.insert(&format!("x{level}"), Expr::parse(&text).unwrap());
        }
        for level in [10, 20, 30, 69] {
            soon(next, || ad.value(&format!("x{level}")));
        }
        assert_ne!(eval(&ad, "x69"), Value::Bool(true).clone(), "{next}: 2^69 of something");
    }
}

#[test]
fn large_texts_are_not_made_many_times() {
    let mut ad = Ad::default();
    ad.insert("big", Value::from(&*"a,".repeat(400_000)));
    ad.insert("flat", Value::from(&*"a".repeat(900_000)));
    ad.insert("many", Expr::parse(&format!("{{{}1}}", "1,".repeat(50_000))).unwrap());
    let many = |part: &str| format!("{{{}}}", vec![part; 20_000].join(","));
    for part in [
        "strcat(big,\"a\")",
        "toUpper(big)",
        "big == flat",
        "flat =?= flat",
        "flat < flat",
        "member(big, {flat,big,flat,big})",
        "stringListSize(big)",
        "stringListMember(\"b\", big)",
        "stringListSubsetMatch(big, big)",
        "split(big)",
        "substr(big, 1)",
        "regexp(\"(a|b)*c\", flat)",
        "regexp(\"(.*)(.*)(.*)(.*)(.*)[ab]{90}c\", flat)",
        "regexp(\"(a{50}){50}b\", flat)",
        "replaceAll(\"a\", flat, \"b\")",
        "many",
        "size(many)",
        "sum(many)",
        "many[0]",
        "countMatches(true, many)",
        "argsToList(big)",
        "eval(big)",
        "unparse(big)",
        "string(many)",
        "formatTime(0, flat)",
        "versioncmp(flat, flat)",
        "strcmp(flat, flat)",
        "quantize(2, many)",
        "anyCompare(\"<\", many, 0)",
        "identicalMember(2, many)",
        "random(5)",
    ] {
        eval(&ad, &many(part));
        eval(&ad, part);
    }
}

#[test]
fn patterns_are_bounded() {
    let ad = Ad::parse("[ s = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!\" ]").unwrap();
    for pattern in [
        "(a+)+$",
        "(a|a)*$",
        "(a|aa)+$",
        "(.*a){20}",
        "((a{100}){100}){100}",
        "(a{1000}){1000}",
        "[a-z]{1,1000}{1,1000}",
        "(((((((((((((((((((((((((((((((((((((((((((((((((((a)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*",
        "\\\\p{L}{1000}",
        "(?i)\\\\w{2000}",
    ] {
        eval(&ad, &format!("regexp(\"{pattern}\", s)"));
        eval(&ad, &format!("replaceAll(\"{pattern}\", s, \"\\\\0\\\\0\")"));
        eval(&ad, &format!("stringList_regexpMember(\"{pattern}\", s)"));
    }
    eval(&ad, &format!("regexp(\"{}\", s)", "a?".repeat(50_000)));
    let many: Vec<String> =
        (0..5_000).map(|it| format!("regexp(\"x{it}(a|b){{50}}\", s)")).collect();
    eval(&ad, &format!("{{{}}}", many.join(",")));
}

#[test]
fn arithmetic_knows_its_ends() {
    let ad = Ad::default();
    for (text, value) in [
        ("-9223372036854775808 / -1", "9223372036854775807"),
        ("-9223372036854775808 % -1", "0"),
        ("-(-9223372036854775808)", "-9223372036854775808"),
        ("9223372036854775807 * 9223372036854775807", "1"),
        ("1 << 9223372036854775807", "-9223372036854775808"),
        ("-1 >> -9223372036854775808", "-1"),
        ("-1 >>> -9223372036854775808", "0"),
        ("1 / 0", "error"),
        ("1 % 0", "error"),
        ("1.0 / 0", "error"),
        ("1e308 * 1e308", "error"),
        ("quantize(-9223372036854775808, -1)", "9223372036854775806"),
        ("pow(10, 9223372036854775807)", "-9223372036854775808"),
        ("round(1e300)", "-9223372036854775808"),
        ("interval(-9223372036854775808)", "\"-106751991167300+15:30:08\""),
        ("substr(\"abc\", -9223372036854775808, 9223372036854775807)", "\"ab\""),
        ("random(-5)", "error"),
        ("random(0)", "error"),
        ("getYear(absTime(9223372036854775807, 2147483647))", "292277026596"),
        ("size(string(absTime(-9223372036854775808, -2147483648))) > 0", "true"),
        ("isError(splitTime(relTime(1e308)))", "false"),
        ("isError(formatTime(-9223372036854775808))", "false"),
        ("absTime(9223372036854775807, 0) + relTime(1e300) == absTime(0, 0)", "false"),
    ] {
        assert_eq!(eval(&ad, text).to_string(), value, "{text}");
    }
}

#[test]
fn no_number_wins_a_rank_that_is_none() {
    let node = |rank: &str| Ad::parse(&format!("[ Rank = {rank} ]")).unwrap();
    let of = |text: &str| rank(&node(text), &Ad::default());
    for text in [
        "real(\"NaN\")",
        "real(\"INF\")",
        "real(\"-INF\")",
        "0.0 / 0.0",
        "-1e308 * 10",
        "1e400",
        "-(-1e308 * 10)",
        "real(\"infinity\")",
        "pow(10, 400.0)",
    ] {
        assert_eq!(of(text), f64::MIN, "{text}");
    }
    for text in
        ["undefined", "error", "\"9\"", "{9}", "relTime(9)", "1.0 / 0.0", "Rank + 1", "TARGET.x"]
    {
        assert_eq!(of(text), 0.0, "{text}");
    }
    assert_eq!((of("true"), of("-3"), of("2.5")), (1.0, -3.0, 2.5));
    assert_eq!(rank(&Ad::default(), &Ad::default()), 0.0);
}

#[test]
fn what_is_neither_true_nor_false_matches_nothing() {
    let any = Ad::default();
    for text in [
        "undefined",
        "error",
        "zz",
        "\"true\"",
        "{true}",
        "[ x = true ]",
        "relTime(1)",
        "0.0",
        "TARGET",
    ] {
        let job = Ad::parse(&format!("[ Requirements = {text} ]")).unwrap();
        assert!(!matches(&job, &any) && !matches(&any, &job), "{text}");
    }
    for text in ["true", "1", "0.5", "undefined || true", "TARGET.zz =?= undefined"] {
        let job = Ad::parse(&format!("[ Requirements = {text} ]")).unwrap();
        assert!(matches(&job, &any) && matches(&any, &job), "{text}");
    }
}

#[test]
fn an_ad_of_a_mebibyte_is_read_and_searched() {
    let text: String = (0..40_000).map(|at| format!("Attribute{at} = {at};")).collect();
    let ad = soon("reading", || Ad::parse(&format!("[{text}]"))).unwrap();
    assert_eq!(ad.value("attribute39999"), Value::Int(39_999));
    assert_eq!(ad.len(), 40_000);
    let again: String = (0..100_000).map(|_| "a = 1;").collect();
    assert_eq!(soon("reading", || Ad::parse(&format!("[{again}]"))).unwrap().len(), 1);
    assert!(Ad::parse(&format!("[ a = \"{}\" ]", "x".repeat(MAX_TEXT))).is_err());
    assert!(Ad::parse_old(&"a = 1\n".repeat(200_000)).is_err());
}

/// Pieces of which expressions are made, and some of which none is.
const PIECES: [&str; 74] = [
    "a",
    "b",
    "s",
    "n",
    "l",
    "loop",
    "deep",
    "own",
    "text",
    ".",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    ",",
    ";",
    "=",
    "==",
    "=?=",
    "=!=",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    ">>",
    ">>>",
    "<<",
    "&&",
    "||",
    "&",
    "|",
    "^",
    "~",
    "!",
    "+",
    "-",
    "*",
    "/",
    "%",
    "?",
    ":",
    "?:",
    " ",
    "\n",
    "//",
    "/*",
    "*/",
    "\"",
    "'",
    "\\",
    "0",
    "1",
    "-5",
    "2.5",
    "1e3",
    "9223372036854775808",
    "true",
    "undefined",
    "error",
    "is",
    "isnt",
    "MY.",
    "TARGET.",
    "\"x\"",
    "strcat(",
    "regexp(\"a\",",
    "eval(",
    "relTime(",
    "absTime(\"2020\")",
    "evalInEachContext(a,",
    "é",
];

fn pieces() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..40).prop_map(|it| it.concat())
}

/// An expression of the reference's test, and how it is spoiled.
fn spoiled() -> impl Strategy<Value = String> {
    let known: Vec<&'static str> = include_str!("reference/expressions.txt").lines().collect();
    let known = prop::sample::select(known);
    (
        known.clone(),
        known,
        any::<prop::sample::Index>(),
        prop::sample::select(PIECES.to_vec()),
        0..4_u8,
    )
        .prop_map(|(one, other, at, piece, how)| {
            let places: Vec<usize> = one.char_indices().map(|(at, _)| at).collect();
            let Some(at) = (!places.is_empty()).then(|| places[at.index(places.len())]) else {
                return piece.to_owned();
            };
            match how {
                0 => format!("{}{piece}{}", &one[..at], &one[at..]),
                1 => one[..at].to_owned(),
                2 => format!("{}{other}{}", &one[..at], &one[at..]),
                _ => one[..at].chars().chain(one[at..].chars().skip(1)).collect(),
            }
        })
}

/// Whether two are the same, where what is no number is the same as itself.
fn same(one: &Expr, other: &Expr) -> bool {
    one == other || (one.to_string() == other.to_string() && one.to_string().contains("NaN"))
}

fn check(text: &str) -> Result<(), TestCaseError> {
    let ad = Ad::parse(AD).unwrap();
    let other = Ad::parse("[ a = MY.b + TARGET.a; Memory = TARGET.Memory; z = loop ]").unwrap();
    if let Ok(expr) = Expr::parse(text) {
        let written = expr.to_string();
        match Expr::parse(&written) {
            Ok(again) => prop_assert!(same(&expr, &again), "{written}: {again:?}, not {expr:?}"),
            Err(error) => prop_assert!(false, "{written}: {error}"),
        }
        for scope in
            [Scope::of(&ad), Scope::of(&ad).with_target(&other), Scope::of(&other).with_target(&ad)]
        {
            let value = scope.at(0).within(5_000).eval(&expr);
            prop_assert!(size(&value) < 4 * MAX_TEXT);
            // A value is written so that it comes to itself.
            if let Ok(expr) = Expr::parse(&value.to_string())
                && !matches!(value, Value::Ad(_) | Value::List(_))
            {
                let again = Scope::default().eval(&expr);
                prop_assert!(
                    again == value || value.to_string().contains("NaN"),
                    "{value}: {again}"
                );
            }
        }
        let mut whole = Ad::default();
        whole.insert("Requirements", expr.clone());
        whole.insert("Rank", expr.clone());
        prop_assert!(rank(&whole, &ad).is_finite());
        matches(&whole, &ad);
        let found = analyse(Some(&ad), &expr, [&other, &ad], 10_000);
        prop_assert_eq!(found.ads, 2);
        let text = whole.to_string();
        let again = Ad::parse(&text);
        prop_assert!(again.is_ok_and(|it| same(it.get("rank").unwrap(), &expr)), "{text}");
        if let Ok(text) = whole.to_old() {
            let again = Ad::parse_old(&text);
            prop_assert!(again.is_ok_and(|it| same(it.get("rank").unwrap(), &expr)), "{text}");
        }
    }
    let _ = Ad::parse(text);
    if let Ok(ad) = Ad::parse_old(text)
        && let Ok(written) = ad.to_old()
    {
        let again = Ad::parse_old(&written);
        prop_assert!(
            again.as_ref().is_ok_and(|it| *it == ad || written.contains("NaN")),
            "{written}: {again:?}"
        );
    }
    let _ = Ad::parse_old_all(text).count();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn pieces_put_together_are_answered(text in pieces()) {
        check(&text)?;
    }

    #[test]
    fn spoiled_expressions_are_answered(text in spoiled()) {
        check(&text)?;
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        check(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn any_text_is_a_string(text in "[^\\x00]{0,40}", name in "[^\\x00]{1,12}") {
        let mut ad = Ad::default();
        ad.insert(&name, Value::from(&*text));
        ad.insert("it", Expr::parse("1").unwrap());
        let written = ad.to_string();
        let again = Ad::parse(&written);
        prop_assert_eq!(again.as_ref(), Ok(&ad), "{}", written);
        if let Ok(old) = ad.to_old() {
            prop_assert_eq!(Ad::parse_old(&old), Ok(ad), "{}", old);
        }
    }

    #[test]
    fn any_number_is_written_to_the_last_digit(number in any::<f64>(), integer in any::<i64>()) {
        for value in [Value::Real(number), Value::Int(integer)] {
            let again = Scope::default().eval(&Expr::parse(&value.to_string()).unwrap());
            prop_assert!(again == value || number.is_nan(), "{} is not {}", again, value);
        }
    }
}
