use std::fmt;
use std::sync::Arc;

use crate::{Ad, ParseError, Value};

/// A parsed expression. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr(pub(crate) Arc<Node>);

#[derive(Debug, PartialEq)]
pub(crate) enum Node {
    Value(Value),
    Name(Name),
    /// `MY.name` or `TARGET.name`.
    Of(Side, Name),
    /// `expression.name`.
    Select(Expr, Name),
    /// `expression[index]`.
    Index(Expr, Expr),
    Unary(Unary, Expr),
    Binary(Binary, Expr, Expr),
    /// `condition ? then : else`.
    If(Expr, Expr, Expr),
    /// `expression ?: otherwise`.
    Or(Expr, Expr),
    Call(Name, Vec<Expr>),
    List(Vec<Expr>),
    Ad(Arc<Ad>),
}

/// An attribute's name, as it was written and as it is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) written: Box<str>,
    pub(crate) key: Box<str>,
}

impl Name {
    pub(crate) fn new(written: &str) -> Self {
        Self { written: written.into(), key: written.to_ascii_lowercase().into() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    My,
    Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unary {
    Plus,
    Minus,
    Not,
    Complement,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binary {
    Or,
    And,
    BitOr,
    BitXor,
    BitAnd,
    Equal,
    NotEqual,
    Is,
    IsNot,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    ShiftLeft,
    ShiftRight,
    ShiftRightLogical,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulus,
}

/// Every operator of two sides: how it is written, and how tightly it binds.
pub(crate) const BINARY: [(&str, Binary, u8); 21] = [
    ("||", Binary::Or, 1),
    ("&&", Binary::And, 2),
    ("|", Binary::BitOr, 3),
    ("^", Binary::BitXor, 4),
    ("&", Binary::BitAnd, 5),
    ("==", Binary::Equal, 6),
    ("!=", Binary::NotEqual, 6),
    ("=?=", Binary::Is, 6),
    ("=!=", Binary::IsNot, 6),
    ("<", Binary::Less, 7),
    ("<=", Binary::LessEqual, 7),
    (">", Binary::Greater, 7),
    (">=", Binary::GreaterEqual, 7),
    ("<<", Binary::ShiftLeft, 8),
    (">>", Binary::ShiftRight, 8),
    (">>>", Binary::ShiftRightLogical, 8),
    ("+", Binary::Add, 9),
    ("-", Binary::Subtract, 9),
    ("*", Binary::Multiply, 10),
    ("/", Binary::Divide, 10),
    ("%", Binary::Modulus, 10),
];

impl Expr {
    pub(crate) fn new(node: Node) -> Self {
        Self(Arc::new(node))
    }

    /// Reads an expression.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        crate::parse::expression(text)
    }
}

impl From<Value> for Expr {
    fn from(value: Value) -> Self {
        Self::new(Node::Value(value))
    }
}

impl std::str::FromStr for Expr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl fmt::Display for Expr {
    /// With every operation in parentheses, so that it reads back as the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Node::Value(value) => write!(f, "{value}"),
            Node::Name(name) => write!(f, "{name}"),
            Node::Of(Side::My, name) => write!(f, "MY.{name}"),
            Node::Of(Side::Target, name) => write!(f, "TARGET.{name}"),
            Node::Select(from, name) => write!(f, "{from}.{name}"),
            Node::Index(from, index) => write!(f, "{from}[{index}]"),
            Node::Unary(operator, operand) => {
                let mark = match operator {
                    Unary::Plus => "+",
                    Unary::Minus => "-",
                    Unary::Not => "!",
                    Unary::Complement => "~",
                };
                write!(f, "({mark}{operand})")
            }
            Node::Binary(operator, left, right) => {
                let mark = BINARY.iter().find(|(_, known, _)| known == operator);
                write!(f, "({left} {} {right})", mark.map_or("", |(mark, _, _)| mark))
            }
            Node::If(condition, then, or) => write!(f, "({condition} ? {then} : {or})"),
            Node::Or(left, right) => write!(f, "({left} ?: {right})"),
            Node::Call(name, arguments) => {
                write!(f, "{}(", name.written)?;
                comma(f, arguments)?;
                f.write_str(")")
            }
            Node::List(items) => {
                f.write_str("{")?;
                comma(f, items)?;
                f.write_str("}")
            }
            Node::Ad(ad) => write!(f, "{ad}"),
        }
    }
}

fn comma(f: &mut fmt::Formatter<'_>, items: &[Expr]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
    }
    Ok(())
}

/// Words that are no names unless quoted.
pub(crate) const KEYWORDS: [&str; 6] = ["true", "false", "undefined", "error", "is", "isnt"];

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = self.key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && self.key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !KEYWORDS.contains(&&*self.key)
            && !["my", "target"].contains(&&*self.key);
        if plain {
            return f.write_str(&self.written);
        }
        f.write_str("'")?;
        for c in self.written.chars() {
            match c {
                '\'' => f.write_str("\\'")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("'")
    }
}
