use std::sync::Arc;

use crate::functions::Function;
use crate::name::Name;
use crate::{Ad, ParseError, Value};

/// A parsed expression. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr(pub(crate) Arc<Node>);

#[derive(Debug, PartialEq)]
pub(crate) enum Node {
    Value(Value),
    Name(Name),
    /// `.name`: of the outermost ad.
    Absolute(Name),
    /// `MY.name` or `TARGET.name`.
    Of(Side, Name),
    /// `expression.name`.
    Select(Expr, Name),
    /// `expression[index]`.
    Index(Expr, Expr),
    Unary(Unary, Expr),
    Binary(Binary, Expr, Expr),
    /// What `&&` joins, however many: a long chain is not a deep one.
    All(Vec<Expr>),
    /// What `||` joins.
    Any(Vec<Expr>),
    /// `condition ? then : else`.
    If(Expr, Expr, Expr),
    /// `expression ?: otherwise`.
    Or(Expr, Expr),
    Call(Call),
    List(Vec<Expr>),
    Ad(Arc<Ad>),
    /// What stands in parentheses. They are kept, so that an expression is written as it was read.
    Group(Expr),
}

#[derive(Debug, PartialEq)]
pub(crate) struct Call {
    /// As it was written.
    pub(crate) name: Box<str>,
    /// `None` for one that nobody knows.
    pub(crate) function: Option<Function>,
    pub(crate) arguments: Vec<Expr>,
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

/// Operators of two sides. `&&` and `||` are tokens only: [`Node::All`] and [`Node::Any`] hold them.
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

impl Binary {
    /// How it is written.
    pub(crate) fn mark(self) -> &'static str {
        match self {
            Binary::Or => "||",
            Binary::And => "&&",
            Binary::BitOr => "|",
            Binary::BitXor => "^",
            Binary::BitAnd => "&",
            Binary::Equal => "==",
            Binary::NotEqual => "!=",
            Binary::Is => "=?=",
            Binary::IsNot => "=!=",
            Binary::Less => "<",
            Binary::LessEqual => "<=",
            Binary::Greater => ">",
            Binary::GreaterEqual => ">=",
            Binary::ShiftLeft => "<<",
            Binary::ShiftRight => ">>",
            Binary::ShiftRightLogical => ">>>",
            Binary::Add => "+",
            Binary::Subtract => "-",
            Binary::Multiply => "*",
            Binary::Divide => "/",
            Binary::Modulus => "%",
        }
    }

    /// How tightly it binds.
    pub(crate) fn tightness(self) -> u8 {
        match self {
            Binary::Or => 1,
            Binary::And => 2,
            Binary::BitOr => 3,
            Binary::BitXor => 4,
            Binary::BitAnd => 5,
            Binary::Equal | Binary::NotEqual | Binary::Is | Binary::IsNot => 6,
            Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => 7,
            Binary::ShiftLeft | Binary::ShiftRight | Binary::ShiftRightLogical => 8,
            Binary::Add | Binary::Subtract => 9,
            Binary::Multiply | Binary::Divide | Binary::Modulus => 10,
        }
    }
}

impl Expr {
    pub(crate) fn new(node: Node) -> Self {
        Self(Arc::new(node))
    }

    /// Reads an expression.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        crate::parse::expression(text)
    }

    /// The attributes that it looks up, as they are written, each once. What stands inside of an ad
    /// in it is not looked into.
    pub fn names(&self) -> Vec<&str> {
        let mut found: Vec<&Name> = Vec::new();
        let mut left = vec![self];
        while let Some(expr) = left.pop() {
            match &*expr.0 {
                Node::Name(name) | Node::Absolute(name) | Node::Of(_, name) => {
                    if !found.iter().any(|known| known.is(name)) {
                        found.push(name);
                    }
                }
                Node::Value(_) | Node::Ad(_) => {}
                Node::Select(one, _) | Node::Unary(_, one) | Node::Group(one) => left.push(one),
                Node::Index(one, other) | Node::Binary(_, one, other) | Node::Or(one, other) => {
                    left.extend([other, one]);
                }
                Node::If(one, other, last) => left.extend([last, other, one]),
                Node::All(all) | Node::Any(all) | Node::List(all) => left.extend(all.iter().rev()),
                Node::Call(call) => left.extend(call.arguments.iter().rev()),
            }
        }
        found.into_iter().map(Name::written).collect()
    }

    /// Without the parentheses around it.
    pub(crate) fn bare(&self) -> &Expr {
        let mut expr = self;
        while let Node::Group(inside) = &*expr.0 {
            expr = inside;
        }
        expr
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
