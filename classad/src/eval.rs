//! Expressions into values.

use std::cell::Cell;
use std::cmp::Ordering;
use std::sync::Arc;

use crate::expr::{Binary, Name, Node, Side, Unary};
use crate::{Ad, Expr, MAX_DEPTH, MAX_STEPS, Value, functions};

/// Where names are looked up.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    my: Option<&'a Ad>,
    target: Option<&'a Ad>,
    steps: u32,
}

impl Default for Scope<'_> {
    fn default() -> Self {
        Self { my: None, target: None, steps: MAX_STEPS }
    }
}

impl<'a> Scope<'a> {
    /// In this ad.
    pub fn of(my: &'a Ad) -> Self {
        Self { my: Some(my), ..Self::default() }
    }

    /// And in this one, with which it may match.
    pub fn with_target(self, target: &'a Ad) -> Self {
        Self { target: Some(target), ..self }
    }

    /// Taking at most so many operations, where fewer than [`MAX_STEPS`] will do; more are an ERROR.
    pub fn within(self, steps: u32) -> Self {
        Self { steps: steps.min(MAX_STEPS), ..self }
    }

    /// What an expression comes to.
    pub fn eval(&self, expr: &Expr) -> Value {
        let budget = Cell::new(self.steps);
        self.env(&budget).eval(expr)
    }

    /// What an attribute of the ad comes to.
    pub fn attribute(&self, name: &str) -> Value {
        let budget = Cell::new(self.steps);
        let found = self.my.and_then(|my| my.get(name));
        found.map_or(Value::Undefined, |expr| self.env(&budget).eval(expr))
    }

    fn env<'e>(&self, budget: &'e Cell<u32>) -> Env<'e>
    where
        'a: 'e,
    {
        Env { ad: self.my, outer: None, my: self.my, target: self.target, budget, depth: 0 }
    }
}

/// A place in the evaluation.
#[derive(Clone, Copy)]
pub(crate) struct Env<'a> {
    /// Where names are looked up first.
    ad: Option<&'a Ad>,
    /// What is around that ad.
    outer: Option<&'a Env<'a>>,
    my: Option<&'a Ad>,
    target: Option<&'a Ad>,
    /// Steps that are left.
    budget: &'a Cell<u32>,
    depth: usize,
}

impl Env<'_> {
    pub(crate) fn eval(&self, expr: &Expr) -> Value {
        let left = self.budget.get();
        if left == 0 || self.depth > 4 * MAX_DEPTH {
            self.budget.set(0);
            return Value::Error;
        }
        self.budget.set(left - 1);
        let deeper = Env { depth: self.depth + 1, ..*self };
        deeper.node(&expr.0)
    }

    fn node(&self, node: &Node) -> Value {
        match node {
            Node::Value(value) => value.clone(),
            Node::Name(name) => self.look_up(name),
            Node::Of(Side::My, name) => self.my_side().own(name).unwrap_or(Value::Undefined),
            Node::Of(Side::Target, name) => self.other_side().own(name).unwrap_or(Value::Undefined),
            Node::Select(from, name) => self.select(&self.eval(from), &name.key),
            Node::Index(from, index) => self.index(from, index),
            Node::Unary(operator, operand) => unary(*operator, &self.eval(operand)),
            Node::Binary(Binary::And, left, right) => self.and_or(left, right, false),
            Node::Binary(Binary::Or, left, right) => self.and_or(left, right, true),
            Node::Binary(operator, left, right) => {
                binary(*operator, &self.eval(left), &self.eval(right))
            }
            Node::If(condition, then, or) => {
                let condition = self.eval(condition);
                match condition.truth() {
                    Some(true) => self.eval(then),
                    Some(false) => self.eval(or),
                    None if condition.is_undefined() => Value::Undefined,
                    None => Value::Error,
                }
            }
            Node::Or(left, right) => match self.eval(left) {
                Value::Undefined => self.eval(right),
                value => value,
            },
            Node::Call(name, arguments) => functions::call(self, &name.key, arguments),
            Node::List(items) => Value::List(items.iter().map(|item| self.eval(item)).collect()),
            Node::Ad(ad) => Value::Ad(Arc::clone(ad)),
        }
    }

    /// Text that is an expression, here.
    pub(crate) fn eval_text(&self, text: &str) -> Value {
        Expr::parse(text).map_or(Value::Error, |expr| self.eval(&expr))
    }

    fn my_side(&self) -> Env<'_> {
        Env { ad: self.my, outer: None, ..*self }
    }

    /// The other ad of the match: for it, this one is the other.
    fn other_side(&self) -> Env<'_> {
        Env { ad: self.target, outer: None, my: self.target, target: self.my, ..*self }
    }

    /// A name alone.
    fn look_up(&self, name: &Name) -> Value {
        let mut here = *self;
        loop {
            if let Some(value) = here.own(name) {
                return value;
            }
            match here.outer {
                Some(outer) => here = Env { depth: self.depth, ..*outer },
                None => return self.other_side().own(name).unwrap_or(Value::Undefined),
            }
        }
    }

    /// An attribute of the ad at hand.
    fn own(&self, name: &Name) -> Option<Value> {
        self.ad?.get_key(&name.key).map(|expr| self.eval(expr))
    }

    fn select(&self, from: &Value, key: &str) -> Value {
        match from {
            Value::Ad(ad) => {
                let inside = Env { ad: Some(ad), outer: Some(self), ..*self };
                ad.get_key(key).map_or(Value::Undefined, |expr| inside.eval(expr))
            }
            Value::Undefined => Value::Undefined,
            _ => Value::Error,
        }
    }

    fn index(&self, from: &Expr, index: &Expr) -> Value {
        match (self.eval(from), self.eval(index)) {
            (Value::Error, _) | (_, Value::Error) => Value::Error,
            (Value::Undefined, _) | (_, Value::Undefined) => Value::Undefined,
            (Value::List(values), Value::Int(at)) => {
                let at = usize::try_from(at).ok();
                at.and_then(|at| values.get(at)).cloned().unwrap_or(Value::Error)
            }
            (ad @ Value::Ad(_), Value::Text(name)) => self.select(&ad, &name.to_ascii_lowercase()),
            _ => Value::Error,
        }
    }

    /// `&&` and `||`: `decides` is the side's value that makes the other one irrelevant.
    fn and_or(&self, left: &Expr, right: &Expr, decides: bool) -> Value {
        let left = self.eval(left);
        let truth = left.truth();
        match truth {
            Some(truth) if truth == decides => return Value::Bool(decides),
            None if !left.is_undefined() => return Value::Error,
            _ => {}
        }
        let right = self.eval(right);
        match right.truth() {
            Some(truth) if truth == decides => Value::Bool(decides),
            Some(_) if truth.is_none() => Value::Undefined,
            Some(truth) => Value::Bool(truth),
            None if right.is_undefined() => Value::Undefined,
            None => Value::Error,
        }
    }
}

fn unary(operator: Unary, operand: &Value) -> Value {
    match (operator, operand) {
        (_, Value::Undefined) => Value::Undefined,
        (Unary::Minus, Value::Int(number)) => Value::Int(number.wrapping_neg()),
        (Unary::Minus, Value::Real(number)) => Value::Real(-number),
        (Unary::Plus, Value::Int(_) | Value::Real(_)) => operand.clone(),
        (Unary::Complement, Value::Int(number)) => Value::Int(!number),
        (Unary::Not, value) => value.truth().map_or(Value::Error, |truth| Value::Bool(!truth)),
        _ => Value::Error,
    }
}

pub(crate) fn binary(operator: Binary, left: &Value, right: &Value) -> Value {
    match operator {
        Binary::Is => return identical(left, right),
        Binary::IsNot => {
            return match identical(left, right) {
                Value::Bool(same) => Value::Bool(!same),
                other => other,
            };
        }
        _ => {}
    }
    if left.is_error() || right.is_error() {
        return Value::Error;
    }
    if left.is_undefined() || right.is_undefined() {
        return Value::Undefined;
    }
    match operator {
        Binary::Equal => compare(left, right, Ordering::is_eq),
        Binary::NotEqual => compare(left, right, Ordering::is_ne),
        Binary::Less => compare(left, right, Ordering::is_lt),
        Binary::LessEqual => compare(left, right, Ordering::is_le),
        Binary::Greater => compare(left, right, Ordering::is_gt),
        Binary::GreaterEqual => compare(left, right, Ordering::is_ge),
        _ => arithmetic(operator, left, right),
    }
}

/// The same thing, case and kind of number included.
fn identical(left: &Value, right: &Value) -> Value {
    Value::Bool(match (left, right) {
        (Value::List(_), Value::List(_)) | (Value::Ad(_), Value::Ad(_)) => return Value::Error,
        (left, right) => left == right,
    })
}

fn compare(left: &Value, right: &Value, holds: fn(Ordering) -> bool) -> Value {
    let ordering = match (left, right) {
        (Value::Text(left), Value::Text(right)) => Some(compare_text(left, right)),
        (Value::Int(left), Value::Int(right)) => Some(left.cmp(right)),
        _ => match (left.number(), right.number()) {
            (Some(left), Some(right)) => match left.partial_cmp(&right) {
                Some(ordering) => Some(ordering),
                // What is no number is not equal to anything.
                None => return Value::Bool(holds(Ordering::Less) && holds(Ordering::Greater)),
            },
            _ => None,
        },
    };
    ordering.map_or(Value::Error, |ordering| Value::Bool(holds(ordering)))
}

/// Without case.
pub(crate) fn compare_text(left: &str, right: &str) -> Ordering {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let lower = |byte: &u8| byte.to_ascii_lowercase();
    left.iter().map(lower).cmp(right.iter().map(lower))
}

fn arithmetic(operator: Binary, left: &Value, right: &Value) -> Value {
    let integer = |value: &Value| match value {
        Value::Int(number) => Some(*number),
        Value::Bool(truth) => Some(i64::from(*truth)),
        _ => None,
    };
    let is_bitwise = matches!(
        operator,
        Binary::BitOr
            | Binary::BitXor
            | Binary::BitAnd
            | Binary::ShiftLeft
            | Binary::ShiftRight
            | Binary::ShiftRightLogical
    );
    let is_bool = |value: &Value| matches!(value, Value::Bool(_));
    if is_bitwise && (is_bool(left) || is_bool(right)) {
        return Value::Error;
    }
    if let (Some(left), Some(right)) = (integer(left), integer(right)) {
        return integers(operator, left, right);
    }
    let (Some(left), Some(right)) = (left.number(), right.number()) else { return Value::Error };
    match operator {
        Binary::Add => Value::Real(left + right),
        Binary::Subtract => Value::Real(left - right),
        Binary::Multiply => Value::Real(left * right),
        Binary::Divide if right != 0.0 => Value::Real(left / right),
        _ => Value::Error,
    }
}

fn integers(operator: Binary, left: i64, right: i64) -> Value {
    Value::Int(match operator {
        Binary::Add => left.wrapping_add(right),
        Binary::Subtract => left.wrapping_sub(right),
        Binary::Multiply => left.wrapping_mul(right),
        Binary::Divide if right != 0 => left.wrapping_div(right),
        Binary::Modulus if right != 0 => left.wrapping_rem(right),
        Binary::BitOr => left | right,
        Binary::BitXor => left ^ right,
        Binary::BitAnd => left & right,
        // As the processor does it.
        Binary::ShiftLeft => left.wrapping_shl(right as u32),
        Binary::ShiftRight => left.wrapping_shr(right as u32),
        Binary::ShiftRightLogical => (left as u64).wrapping_shr(right as u32) as i64,
        _ => return Value::Error,
    })
}

#[cfg(test)]
mod tests {
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
}
