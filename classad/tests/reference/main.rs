//! Expressions and ads, read and evaluated here and by HTCondor's own module (`htcondor` on PyPI).

mod expressions;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use phantom_classad::{Ad, Expr, Scope, Value};

use expressions::{Dice, expression};

const AD: &str = r#"[ a = 1; b = 2.5; s = "Text"; t = true; u = undefined; l = {1, "x", 2.0};
    n = [ c = 3; d = c + a; a = 7 ]; m = a + b; Memory = 2048; Arch = "X86_64";
    ads = {[x = 1], [x = 2]}; span = relTime(90061); moment = absTime(1614834367, 7200) ]"#;
const GENERATED: usize = 8000;
/// At most this share of them may differ for a reason that is listed.
const LISTED: f64 = 0.01;

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

/// What the reference says of each line.
fn told(folder: &std::path::Path, lines: &[(&str, String)]) -> Vec<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/reference.py");
    let mut python = Command::new("python3")
        .args([script.as_ref(), folder.as_os_str(), AD.as_ref(), "[]".as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut input = python.stdin.take().expect("piped");
    let lines: String = lines.iter().map(|(kind, text)| format!("{kind}\t{text}\n")).collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = python.wait_with_output().expect("it ends");
    writer.join().unwrap().expect("it reads");
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn expressions_come_to_what_the_reference_says() {
    let Some(folder) = module() else {
        println!("SKIP expressions_come_to_what_the_reference_says: HTCondor's Python module cannot be fetched");
        return;
    };
    let seed = std::env::var("PHANTOM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    let mut dice = Dice(seed);
    let mut lines: Vec<(&str, String)> = (0..GENERATED).map(|_| ("eval", expression(&mut dice, 3))).collect();
    if let Ok(file) = std::env::var("HAND") { lines.extend(std::fs::read_to_string(file).unwrap().lines().map(|l| ("eval", l.to_owned()))); }
    let told = told(&folder, &lines);
    assert_eq!(told.len(), lines.len(), "the reference ended early, seed {seed}");
    let ad = Ad::parse(AD).unwrap();
    let mut differ = 0;
    for ((_, text), told) in lines.iter().zip(&told) {
        let own = match Expr::parse(text) { Ok(expr) => form(&Scope::of(&ad).eval(&expr)), Err(_) => "refused".to_owned() };
        if own != *told { differ += 1; println!("differs: {text}: {own}, not {told}"); }
    }
    println!("{differ} of {} differ", lines.len());
    assert!(differ as f64 <= LISTED * lines.len() as f64);
}
