use super::*;
use crate::{matches, rank};
use proptest::prelude::*;

const AD: &str = r#"[ a = 1; b = 2.5; s = "Text"; n = [ c = 3; d = c + a ]; l = {1, "x"};
    loop = pool; pool = loop; Memory = 2048 ]"#;

fn eval(text: &str) -> String {
    let ad = Ad::parse(AD).unwrap();
    Scope::of(&ad).eval(&Expr::parse(text).unwrap()).to_string()
}

#[test]
fn what_the_reference_says() {
    // Each as HTCondor 25.14's classad2 module gives it.
    for (text, value) in [
        ("1/0", "error"),
        ("1.0/0.0", "error"),
        ("true+1", "2"),
        ("1 =?= 1.0", "false"),
        ("1 == 1.0", "true"),
        (r#""a" == "A""#, "true"),
        (r#""a" =?= "A""#, "false"),
        (r#""a" == 1"#, "error"),
        ("undefined && false", "false"),
        ("error && false", "error"),
        ("false && error", "false"),
        ("undefined || true", "true"),
        ("undefined && error", "error"),
        ("1.5 && true", "true"),
        ("-true", "error"),
        ("-8 >> 1", "-4"),
        ("-8 >>> 1", "9223372036854775804"),
        ("undefined =?= undefined", "true"),
        ("undefined == undefined", "undefined"),
        ("nobody", "undefined"),
        ("{1,2}[1]", "2"),
        ("{1,2}[5]", "error"),
        ("[a=1;b=a+1].b", "2"),
        ("n.d", "4"),
        ("undefined ? 2 : 3", "undefined"),
        ("undefined ?: 3", "3"),
        ("3 isnt 3", "false"),
        (r#"strcat("a",1,true,2.5)"#, r#""a1true2.500000000000000E+00""#),
        (r#"substr("abcdef",-2)"#, r#""ef""#),
        ("floor(undefined)", "error"),
        ("round(2.5)", "2"),
        ("7/2", "3"),
        ("-7%3", "-1"),
        ("2 - 3 - 4", "-5"),
        ("1 + 2 * 3", "7"),
        ("1 < 2 == true", "true"),
        ("9223372036854775807+1", "-9223372036854775808"),
        (r#"regexp("a.c","xabcx")"#, "true"),
        ("max({})", "undefined"),
        ("avg({1,2})", "1.500000000000000E+00"),
        (r#"anyCompare("<",{1,2},2)"#, "true"),
        (r#"eval("1+1")"#, "2"),
        ("true & false", "error"),
        ("MEMORY >= 1024 && s == \"TEXT\"", "true"),
    ] {
        assert_eq!(eval(text), value, "{text}");
    }
}

#[test]
fn two_ads_match_when_each_accepts_the_other() {
    let job = Ad::parse(
        r#"[ RequestMemory = 1024; Requirements = TARGET.Memory >= RequestMemory && Arch == "x86_64";
             Rank = Mflops / 1000 ]"#,
    )
    .unwrap();
    let node = |memory: i64| {
        let text = r#"[ Arch = "X86_64"; Mflops = 2500; Requirements = MY.Memory > TARGET.RequestMemory * 1.5 ]"#;
        let mut node = Ad::parse(text).unwrap();
        node.insert("Memory", Value::Int(memory));
        node
    };
    assert!(matches(&job, &node(2048)) && matches(&node(2048), &job));
    assert!(!matches(&job, &node(1400)), "the node does not want it");
    assert!(!matches(&job, &node(512)), "the job does not want it");
    assert!((rank(&job, &node(2048)) - 2.0).abs() < 1e-9);
    assert_eq!(rank(&node(1), &job), 0.0);
}

#[test]
fn what_never_ends_is_an_error() {
    assert_eq!(eval("loop"), "error");
    let mut ad = Ad::default();
    ad.insert("x0", Value::Int(1));
    for level in 1..64 {
        let twice = format!("x{0} + x{0}", level - 1);
        ad.insert(&format!("x{level}"), Expr::parse(&twice).unwrap());
    }
    assert_eq!(ad.value("x10"), Value::Int(1024));
    assert_eq!(ad.value("x63"), Value::Error, "2^63 steps");
    let deep = format!("{}1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(Expr::parse(&deep).unwrap_err().to_string().contains("nested more than 100"));
    let long = format!("1{}", "+1".repeat(5000));
    assert!(Expr::parse(&long).is_err());
    assert_eq!(eval(&format!("regexp(\"{}\", s)", "(a{1000}){1000}")), "error");
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (text, words) in [
        ("1 +", "a value, a name or `(` is wanted, and the end is there (at character 3"),
        ("(1", "`)` is wanted"),
        ("\"open", "the quote is not closed (at character 0"),
        ("a b", "an operator or the end is wanted, and `b` is there (at character 2"),
        ("12abc", "a number ends in letters"),
        ("a # b", "`#` has no meaning here"),
        ("[ a 1 ]", "`=` is wanted, and `1` is there"),
    ] {
        let said = Expr::parse(text).unwrap_err().to_string();
        assert!(said.contains(words), "{text}: {said}");
    }
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,60}|[-a-z0-9 .+*/(){}\\[\\]=?<>&|!~\"';:,]{0,80}") {
        if let Ok(expr) = Expr::parse(&text) {
            let ad = Ad::parse(AD).unwrap();
            let _ = Scope::of(&ad).eval(&expr).to_string();
            // What is printed reads back as the same.
            let printed = expr.to_string();
            let again = Expr::parse(&printed);
            prop_assert!(again.is_ok(), "{printed}: {again:?}");
        }
    }
}
