//! Tokens into expressions: precedence climbing.

use std::sync::Arc;

use thiserror::Error;

use crate::expr::{BINARY, Binary, Name, Node, Side, Unary};
use crate::lex::{Token, tokens};
use crate::{Ad, Expr, MAX_DEPTH, MAX_TEXT, Value};

/// A text that is no expression or no ad.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} (at character {at} of the expression)")]
pub struct ParseError {
    /// Where, in bytes from the beginning.
    pub at: usize,
    /// What is wrong there.
    pub what: String,
}

impl ParseError {
    pub(crate) fn new(at: usize, what: impl Into<String>) -> Self {
        Self { at, what: what.into() }
    }
}

pub(crate) fn expression(text: &str) -> Result<Expr, ParseError> {
    let mut parser = Parser::new(text)?;
    let expr = parser.expr(0)?;
    parser.end()?;
    Ok(expr)
}

pub(crate) fn ad(text: &str) -> Result<Ad, ParseError> {
    let mut parser = Parser::new(text)?;
    parser.want("[")?;
    let ad = parser.ad()?;
    parser.end()?;
    Ok(ad)
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

impl Parser {
    fn new(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_TEXT {
            return Err(ParseError::new(MAX_TEXT, "an expression has at most a mebibyte"));
        }
        Ok(Self { tokens: tokens(text)?, next: 0, depth: 0 })
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.next].1
    }

    fn at(&self) -> usize {
        self.tokens[self.next].0
    }

    fn take(&mut self) -> Token {
        let token = self.tokens[self.next].1.clone();
        // The last one is the end, which stays.
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn skip(&mut self, mark: &str) -> bool {
        let found = matches!(self.peek(), Token::Mark(known) if *known == mark);
        if found {
            self.take();
        }
        found
    }

    fn want(&mut self, mark: &str) -> Result<(), ParseError> {
        if self.skip(mark) { Ok(()) } else { Err(self.wrong(&format!("`{mark}`"))) }
    }

    fn end(&self) -> Result<(), ParseError> {
        if *self.peek() == Token::End { Ok(()) } else { Err(self.wrong("an operator or the end")) }
    }

    fn wrong(&self, wanted: &str) -> ParseError {
        let found = match self.peek() {
            Token::Int(number) => format!("`{number}`"),
            Token::Real(number) => format!("`{number}`"),
            Token::Text(_) => "a string".to_owned(),
            Token::Name { name, .. } => format!("`{name}`"),
            Token::Mark(mark) => format!("`{mark}`"),
            Token::End => "the end".to_owned(),
        };
        ParseError::new(self.at(), format!("{wanted} is wanted, and {found} is there"))
    }

    fn deeper<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, ParseError>,
    ) -> Result<T, ParseError> {
        if self.depth == MAX_DEPTH {
            let what = format!("nested more than {MAX_DEPTH} times");
            return Err(ParseError::new(self.at(), what));
        }
        self.depth += 1;
        let found = work(self);
        self.depth -= 1;
        found
    }

    /// Operators that bind at least as tightly as `least`; 0 takes conditions as well.
    fn expr(&mut self, least: u8) -> Result<Expr, ParseError> {
        self.deeper(|parser| {
            let mut left = parser.unary()?;
            // A chain of operators nests as deep as it is long.
            let mut links = 0;
            while let Some((operator, tightness)) =
                parser.operator().filter(|it| it.1 >= least.max(1))
            {
                parser.take();
                links += 1;
                if links > MAX_DEPTH {
                    let what = format!("more than {MAX_DEPTH} operators in a row");
                    return Err(ParseError::new(parser.at(), what));
                }
                let right = parser.expr(tightness + 1)?;
                left = Expr::new(Node::Binary(operator, left, right));
            }
            if least > 0 {
                return Ok(left);
            }
            if parser.skip("?:") {
                let right = parser.expr(0)?;
                return Ok(Expr::new(Node::Or(left, right)));
            }
            if parser.skip("?") {
                let then = parser.expr(0)?;
                parser.want(":")?;
                let or = parser.expr(0)?;
                return Ok(Expr::new(Node::If(left, then, or)));
            }
            Ok(left)
        })
    }

    fn operator(&self) -> Option<(Binary, u8)> {
        let mark = match self.peek() {
            Token::Mark(mark) => mark,
            Token::Name { name, quoted: false } if name.eq_ignore_ascii_case("is") => "=?=",
            Token::Name { name, quoted: false } if name.eq_ignore_ascii_case("isnt") => "=!=",
            _ => return None,
        };
        let found = BINARY.iter().find(|(known, ..)| *known == mark);
        found.map(|(_, operator, tightness)| (*operator, *tightness))
    }

    fn unary(&mut self) -> Result<Expr, ParseError> {
        let operator = match self.peek() {
            Token::Mark("-") => Unary::Minus,
            Token::Mark("+") => Unary::Plus,
            Token::Mark("!") => Unary::Not,
            Token::Mark("~") => Unary::Complement,
            _ => return self.postfix(),
        };
        self.take();
        let operand = self.deeper(Self::unary)?;
        Ok(Expr::new(Node::Unary(operator, operand)))
    }

    fn postfix(&mut self) -> Result<Expr, ParseError> {
        let mut expr = self.primary()?;
        for _ in 0..=MAX_DEPTH {
            if self.skip(".") {
                let Token::Name { name, .. } = self.peek().clone() else {
                    return Err(self.wrong("a name"));
                };
                self.take();
                expr = Expr::new(select(&expr, Name::new(&name)));
            } else if self.skip("[") {
                let index = self.expr(0)?;
                self.want("]")?;
                expr = Expr::new(Node::Index(expr, index));
            } else {
                return Ok(expr);
            }
        }
        Err(ParseError::new(self.at(), format!("selected from more than {MAX_DEPTH} times")))
    }

    fn primary(&mut self) -> Result<Expr, ParseError> {
        let wrong = self.wrong("a value, a name or `(`");
        let node = match self.take() {
            Token::Int(number) => Node::Value(Value::Int(number)),
            Token::Real(number) => Node::Value(Value::Real(number)),
            Token::Text(text) => Node::Value(Value::text(text)),
            Token::Name { name, quoted } => return self.named(name, quoted, wrong),
            Token::Mark("(") => {
                let inside = self.expr(0)?;
                self.want(")")?;
                return Ok(inside);
            }
            Token::Mark("{") => Node::List(self.items("}")?),
            Token::Mark("[") => Node::Ad(Arc::new(self.deeper(Self::ad)?)),
            _ => return Err(wrong),
        };
        Ok(Expr::new(node))
    }

    fn named(&mut self, name: String, quoted: bool, wrong: ParseError) -> Result<Expr, ParseError> {
        if !quoted {
            let value = match name.to_ascii_lowercase().as_str() {
                "true" => Some(Value::Bool(true)),
                "false" => Some(Value::Bool(false)),
                "undefined" => Some(Value::Undefined),
                "error" => Some(Value::Error),
                "is" | "isnt" => return Err(wrong),
                _ => None,
            };
            if let Some(value) = value {
                return Ok(value.into());
            }
            if self.skip("(") {
                let arguments = self.items(")")?;
                return Ok(Expr::new(Node::Call(Name::new(&name), arguments)));
            }
        }
        // Alone, MY and TARGET are names like others.
        Ok(Expr::new(Node::Name(Name::new(&name))))
    }

    fn items(&mut self, close: &str) -> Result<Vec<Expr>, ParseError> {
        let mut items = Vec::new();
        if self.skip(close) {
            return Ok(items);
        }
        loop {
            items.push(self.expr(0)?);
            if self.skip(close) {
                return Ok(items);
            }
            self.want(",")?;
        }
    }

    /// What is behind `[`.
    fn ad(&mut self) -> Result<Ad, ParseError> {
        let mut ad = Ad::default();
        loop {
            while self.skip(";") {}
            if self.skip("]") {
                return Ok(ad);
            }
            let Token::Name { name, .. } = self.peek().clone() else {
                return Err(self.wrong("the name of an attribute or `]`"));
            };
            self.take();
            self.want("=")?;
            ad.insert(&name, self.expr(0)?);
            if !self.skip(";") {
                self.want("]")?;
                return Ok(ad);
            }
        }
    }
}

fn select(from: &Expr, name: Name) -> Node {
    match &*from.0 {
        Node::Name(side) if &*side.key == "my" => Node::Of(Side::My, name),
        Node::Name(side) if &*side.key == "target" => Node::Of(Side::Target, name),
        _ => Node::Select(from.clone(), name),
    }
}
