//! What an expression needs of single attributes, for whoever has only a summary of many ads.

use crate::expr::{Binary, Node, Side};
use crate::{Expr, Value};

/// How an attribute is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterEqual,
    /// `==`, `=?=`, and a name alone, which has to be true.
    Equal,
}

/// Something that must hold wherever the expression is true: an attribute compared with a constant.
#[derive(Debug, Clone, PartialEq)]
pub struct Constraint<'a> {
    /// The attribute's name in lower case. It is not said in which of two ads it is looked up first.
    pub name: &'a str,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what: a boolean, a number or a string.
    pub value: Value,
}

impl Expr {
    /// What must hold of attributes of the other ad, or of a name that does not say of which, wherever
    /// this is true: the parts that `&&` joins, as far as they compare a name with a constant. There
    /// may be more to it, so an ad that meets all of them need not match; one that fails any does not.
    pub fn constraints(&self) -> Vec<Constraint<'_>> {
        let mut found = Vec::new();
        let mut parts = vec![self];
        while let Some(part) = parts.pop() {
            let part = part.bare();
            match &*part.0 {
                Node::All(all) => parts.extend(all.iter().rev()),
                Node::Binary(operator, left, right) => {
                    found.extend(compared(*operator, left, right));
                }
                _ => found.extend(part.name().map(|name| Constraint {
                    name,
                    comparison: Comparison::Equal,
                    value: Value::Bool(true),
                })),
            }
        }
        found
    }

    /// The attribute that this names, if that is all it does and the name is not `MY.`.
    fn name(&self) -> Option<&str> {
        match &*self.bare().0 {
            Node::Name(name) | Node::Of(Side::Target, name) => Some(name.key()),
            _ => None,
        }
    }

    /// The boolean, number or string that this is as it stands, whatever the scope.
    pub fn constant(&self) -> Option<&Value> {
        match &*self.bare().0 {
            Node::Value(value @ (Value::Bool(_) | Value::Int(_) | Value::Real(_))) => Some(value),
            Node::Value(value @ Value::Text(_)) => Some(value),
            _ => None,
        }
    }
}

fn compared<'a>(operator: Binary, left: &'a Expr, right: &'a Expr) -> Option<Constraint<'a>> {
    let (name, value, swapped) = match (left.name(), right.constant()) {
        (Some(name), Some(value)) => (name, value, false),
        _ => (right.name()?, left.constant()?, true),
    };
    let comparison = match (operator, swapped) {
        (Binary::Equal | Binary::Is, _) => Comparison::Equal,
        (Binary::Less, false) | (Binary::Greater, true) => Comparison::Less,
        (Binary::LessEqual, false) | (Binary::GreaterEqual, true) => Comparison::LessEqual,
        (Binary::Greater, false) | (Binary::Less, true) => Comparison::Greater,
        (Binary::GreaterEqual, false) | (Binary::LessEqual, true) => Comparison::GreaterEqual,
        _ => return None,
    };
    Some(Constraint { name, comparison, value: value.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ad, Scope};
    use proptest::prelude::*;

    fn written(text: &str) -> Vec<String> {
        let expr = Expr::parse(text).unwrap();
        let all = expr.constraints();
        all.iter().map(|it| format!("{} {:?} {}", it.name, it.comparison, it.value)).collect()
    }

    #[test]
    fn parts_joined_by_and_are_found_and_others_are_not() {
        assert_eq!(
            written("Idle >= 2 && 4096 < TARGET.Memory && (Arch == \"x86_64\" && HasGpu)"),
            [
                "idle GreaterEqual 2",
                "memory Greater 4096",
                "arch Equal \"x86_64\"",
                "hasgpu Equal true"
            ]
        );
        assert!(written("Idle >= 2 || Memory > 1").is_empty());
        assert!(written("!(Idle >= 2) && Cpus != 3 && MY.x > 2 && member(\"a\", b)").is_empty());
        assert_eq!(written("2 =?= Cpus && Idle > Cpus"), ["cpus Equal 2"]);
    }

    fn part() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec!["a", "b", "TARGET.a"]);
        let operator = prop::sample::select(vec!["<", "<=", ">", ">=", "==", "=?=", "!=", "||"]);
        let literal = prop::sample::select(vec!["1", "2.5", "\"x\"", "true", "undefined"]);
        prop_oneof![
            (name.clone(), operator.clone(), literal.clone())
                .prop_map(|(name, operator, literal)| format!("({name} {operator} {literal})")),
            (name.clone(), operator, literal)
                .prop_map(|(name, operator, literal)| format!("({literal} {operator} {name})")),
            name.prop_map(str::to_owned),
        ]
    }

    proptest! {
        #[test]
        fn whatever_matches_meets_them(
            parts in prop::collection::vec(part(), 1..5),
            a in prop::sample::select(vec!["1", "2.5", "3", "\"X\"", "true", "false", "undefined"]),
            b in prop::sample::select(vec!["1", "0", "\"x\"", "true", "1.0"]),
        ) {
            let expr = Expr::parse(&parts.join(" && ")).unwrap();
            let ad = Ad::parse(&format!("[ a = {a}; b = {b} ]")).unwrap();
            if Scope::default().with_target(&ad).eval(&expr).is_true() {
                for it in expr.constraints() {
                    let mark = match it.comparison {
                        Comparison::Less => "<",
                        Comparison::LessEqual => "<=",
                        Comparison::Greater => ">",
                        Comparison::GreaterEqual => ">=",
                        Comparison::Equal if it.value == Value::Bool(true) => "&& true ==",
                        Comparison::Equal => "==",
                    };
                    let again = Expr::parse(&format!("{} {mark} {}", it.name, it.value)).unwrap();
                    prop_assert!(Scope::of(&ad).eval(&again).is_true(), "{} of {}", again, expr);
                }
            }
        }
    }
}
