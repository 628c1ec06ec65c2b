//! Expressions and ads, read, evaluated, matched and written here and by HTCondor's own module
//! (`htcondor` on PyPI).

mod ads;
mod expressions;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use phantom_classad::{Ad, Expr, Scope, Value, matches};

use expressions::{Dice, expression};

const AD: &str = r#"[ a = 1; b = 2.5; s = "Text"; t = true; u = undefined; l = {1, "x", 2.0};
    n = [ c = 3; d = c + a; a = 7 ]; m = a + b; Memory = 2048; Arch = "X86_64";
    ads = {[x = 1], [x = 2]}; span = relTime(90061); moment = absTime(1614834367, 7200) ]"#;
/// The other ad of a match.
const TARGET: &str = r#"[ Memory = 4096; Arch = "x86_64"; HasGpu = true; Idle = Memory / 1024 - 1;
    Share = TARGET.Memory * 2; Wants = MY.Memory > TARGET.Memory; n = [ c = Idle ]; a = undefined;
    Requirements = TARGET.Memory < MY.Memory && a =?= undefined ]"#;
const EXPRESSIONS: usize = 8000;
const MATCHES: usize = 1000;
const OLD: usize = 500;
/// At most this share of them may differ for a reason that is listed.
const LISTED: f64 = 0.01;

/// Why something may differ from the reference, and what it then holds: one of the first and, if there
/// are any, one of the second.
const DIFFERENCES: [(&str, &[&str], &[&str]); 13] = [
    (
        "the reference counts some seconds in 32 bits",
        &["4000000000.5", "interval(1e10)", "5000000000", "interval(2147483648)", "relTime(1e10)"],
        &[],
    ),
    (
        "the reference counts some seconds in 32 bits",
        &["9223372036854775808", "9223372036854775807"],
        &["interval(", "Time(", "get"],
    ),
    ("a time that a literal says is a real in the reference", &["relTime(\""], &[]),
    ("a time that a text says is no time in the reference", &["Time(strcat("], &[]),
    (
        "an integer of more than 64 bits is 0 in the reference, here it is a real",
        &["99999999999999999999999"],
        &[],
    ),
    ("the reference does not take a remark at the very end", &["//x"], &[]),
    ("`unresolved` is not offered", &["unresolved("], &[]),
    (
        "the greatest of a string list of negative numbers is 0 in the reference",
        &["stringListMax("],
        &[],
    ),
    (
        "there is nothing in patterns that takes more time than the text is long",
        &["(a)\\\\1", "(?=b)"],
        &[],
    ),
    ("`$` is the end of the text, not what is before its last line end", &["a$\",\"a\\n"], &[]),
    (
        "a list that a function gave is one of values, and of no other kind than the others",
        &["split", "evalInEachContext(", "argsToList(", "string(ifThenElse(true,{a}"],
        &["=?=", "=!=", " is ", " isnt ", "string("],
    ),
    (
        "in the ad of a list, the reference does not find names that an ad around it uses",
        &["evalInEachContext(", "countMatches("],
        &["n.d"],
    ),
    ("`unparse` writes lists and ads on one line", &["unparse(l)", "unparse(n)"], &[]),
];

/// The module in a folder of its own; `None` where it cannot be had.
fn module() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("htcondor");
    if folder.join("htcondor2").exists() {
        return Some(folder);
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]);
    pip.args(["--disable-pip-version-check", "--retries", "1", "--target"]).arg(&folder);
    let done = pip.arg("htcondor").stderr(Stdio::null()).status().ok()?;
    (done.success() && folder.join("htcondor2").exists()).then_some(folder)
}

fn form(value: &Value) -> String {
    match value {
        Value::Undefined => "undefined".into(),
        Value::Error => "error".into(),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) => format!("int {number}"),
        Value::Real(number) | Value::RelativeTime(number) => real(*number),
        Value::Text(text) => format!("text {}", hex(text)),
        Value::AbsoluteTime(time) => format!("time {}", time.seconds),
        Value::List(items) => {
            format!("list({})", items.iter().map(form).collect::<Vec<_>>().join(", "))
        }
        Value::Ad(_) => "ad".into(),
    }
}

fn real(number: f64) -> String {
    if !number.is_finite() {
        return format!("real {number}").to_lowercase();
    }
    let text = format!("{number:.11e}");
    let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = power.strip_prefix('-').map_or(("+", power), |it| ("-", it));
    format!("real {mantissa}e{sign}{digits:0>2}")
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// What is compared: a kind, and its text.
type Line = (&'static str, String);

/// What the reference says of each line.
fn told(folder: &Path, lines: &[Line]) -> Vec<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/reference.py");
    let mut python = Command::new("python3")
        .args([script.as_ref(), folder.as_os_str(), AD.as_ref(), TARGET.as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut input = python.stdin.take().expect("piped");
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('\n', "\\n");
    let line = |(kind, text): &Line| match *kind {
        "old" => format!("{kind}\t{}\n", escaped(text)),
        _ => format!("{kind}\t{text}\n"),
    };
    let lines: String = lines.iter().map(line).collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = python.wait_with_output().expect("it ends");
    writer.join().unwrap().expect("it reads");
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

/// The same from here.
fn own((kind, text): &Line) -> String {
    let refused = || "refused".to_owned();
    let mut my = Ad::parse(AD).unwrap();
    match *kind {
        "eval" => {
            Expr::parse(text).map_or_else(|_| refused(), |expr| form(&Scope::of(&my).eval(&expr)))
        }
        "match" => {
            let Ok(expr) = Expr::parse(text) else { return refused() };
            let target = Ad::parse(TARGET).unwrap();
            let accepts = Scope::of(&my).with_target(&target).eval(&expr).is_true();
            my.insert("Requirements", expr);
            format!("{accepts} {}", matches(&my, &target)).replace('t', "T").replace('f', "F")
        }
        _ => match Ad::parse_old(text) {
            Ok(ad) => format!("ad {}", hex(&ad.to_old().expect("it can be written"))),
            Err(_) => refused(),
        },
    }
}

#[test]
fn expressions_and_ads_are_what_the_reference_says() {
    let test = "expressions_and_ads_are_what_the_reference_says";
    let Some(folder) = module() else {
        println!("SKIP {test}: HTCondor's Python module cannot be fetched");
        return;
    };
    let seed = std::env::var("PHANTOM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    let mut dice = Dice(seed);
    let mut lines: Vec<Line> =
        include_str!("expressions.txt").lines().map(|text| ("eval", text.to_owned())).collect();
    lines.extend((0..EXPRESSIONS).map(|_| ("eval", expression(&mut dice, 3))));
    lines.extend((0..MATCHES).map(|_| ("match", ads::requirements(&mut dice))));
    lines.extend((0..OLD).map(|_| ("old", ads::old(&mut dice))));
    let told = told(&folder, &lines);
    assert_eq!(told.len(), lines.len(), "the reference ended early, seed {seed}");

    let mut listed = vec![0; DIFFERENCES.len()];
    let mut unlisted = 0;
    for (line, told) in lines.iter().zip(&told) {
        let own = own(line);
        if own == *told {
            continue;
        }
        let (kind, text) = line;
        let has = |marks: &[&str]| marks.iter().any(|mark| text.contains(mark));
        let reason = DIFFERENCES
            .iter()
            .position(|(_, one, other)| has(one) && (other.is_empty() || has(other)));
        let known = reason.map_or("for no reason", |reason| DIFFERENCES[reason].0);
        println!("differs, {known}: {kind} {}: {own}, not {told}", text.escape_debug());
        match reason {
            Some(reason) => listed[reason] += 1,
            None => unlisted += 1,
        }
    }
    for ((reason, ..), count) in DIFFERENCES.iter().zip(&listed) {
        println!("{count} of {}: {reason}", lines.len());
    }
    assert_eq!(unlisted, 0, "differ for no reason that is listed, seed {seed}");
    let all: usize = listed.iter().sum();
    assert!(all as f64 <= LISTED * lines.len() as f64, "{all} of {} differ", lines.len());
}
