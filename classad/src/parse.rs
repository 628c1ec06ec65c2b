//! Tokens into expressions: precedence climbing.

use std::sync::Arc;

use thiserror::Error;

use crate::expr::{Binary, Call, Node, Side, Unary};
use crate::lex::{Dialect, Lexer, Token};
use crate::name::Name;
use crate::{Ad, Expr, MAX_DEPTH, MAX_TEXT, Value, functions, time};

/// How many operations may stand inside one another, however they are written.
pub(crate) const MAX_HEIGHT: usize = 4 * MAX_DEPTH;

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
    one(text, Dialect::New)
}

/// One expression, and nothing behind it.
pub(crate) fn one(text: &str, dialect: Dialect) -> Result<Expr, ParseError> {
    let mut parser = Parser::new(text, dialect)?;
    let built = parser.expr(0)?;
    parser.end()?;
    Ok(built.expr)
}

pub(crate) fn ad(text: &str) -> Result<Ad, ParseError> {
    let mut parser = Parser::new(text, Dialect::New)?;
    parser.want(b'[')?;
    let (ad, _) = parser.ad()?;
    parser.end()?;
    Ok(ad)
}

/// An expression, and how many operations stand inside one another in it.
struct Built {
    expr: Expr,
    height: usize,
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    at: usize,
    token: Token<'a>,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, dialect: Dialect) -> Result<Self, ParseError> {
        if text.len() > MAX_TEXT {
            return Err(ParseError::new(MAX_TEXT, "an expression has at most a mebibyte"));
        }
        let mut lexer = Lexer::new(text, dialect);
        let (at, token) = lexer.next()?;
        Ok(Self { lexer, at, token, depth: 0 })
    }

    fn take(&mut self) -> Result<Token<'a>, ParseError> {
        let (at, token) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn skip(&mut self, mark: u8) -> Result<bool, ParseError> {
        let found = self.token == Token::Mark(mark);
        if found {
            self.take()?;
        }
        Ok(found)
    }

    fn want(&mut self, mark: u8) -> Result<(), ParseError> {
        if self.skip(mark)? { Ok(()) } else { Err(self.wrong(&format!("`{}`", mark as char))) }
    }

    fn end(&self) -> Result<(), ParseError> {
        if self.token == Token::End { Ok(()) } else { Err(self.wrong("an operator or the end")) }
    }

    fn wrong(&self, wanted: &str) -> ParseError {
        let found = match &self.token {
            Token::Int(number) => format!("`{number}`"),
            Token::Real(number) => format!("`{number}`"),
            Token::Text(_) => "a string".to_owned(),
            Token::Name { name, .. } => format!("`{name}`"),
            Token::Operator(operator) => format!("`{}`", operator.mark()),
            Token::Otherwise => "`?:`".to_owned(),
            Token::Mark(mark) => format!("`{}`", *mark as char),
            Token::End => "the end".to_owned(),
        };
        ParseError::new(self.at, format!("{wanted} is wanted, and {found} is there"))
    }

    fn deeper<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, ParseError>,
    ) -> Result<T, ParseError> {
        if self.depth == MAX_DEPTH {
            let what = format!("nested more than {MAX_DEPTH} times");
            return Err(ParseError::new(self.at, what));
        }
        self.depth += 1;
        let found = work(self);
        self.depth -= 1;
        found
    }

    /// What stands above parts of these heights.
    fn build(&self, node: Node, heights: &[usize]) -> Result<Built, ParseError> {
        let height = heights.iter().copied().max().unwrap_or(0) + 1;
        if height > MAX_HEIGHT {
            let what = format!("more than {MAX_HEIGHT} operations inside one another");
            return Err(ParseError::new(self.at, what));
        }
        Ok(Built { expr: Expr::new(node), height })
    }

    /// Operators that bind at least as tightly as `least`; 0 takes conditions as well.
    fn expr(&mut self, least: u8) -> Result<Built, ParseError> {
        self.deeper(|parser| {
            let left = parser.operations(least.max(1))?;
            if least > 0 || !parser.skip(b'?')? {
                return Ok(left);
            }
            let then = parser.expr(0)?;
            parser.want(b':')?;
            let or = parser.expr(0)?;
            let heights = [left.height, then.height, or.height];
            parser.build(Node::If(left.expr, then.expr, or.expr), &heights)
        })
    }

    fn operations(&mut self, least: u8) -> Result<Built, ParseError> {
        let mut left = self.unary()?;
        while let Some(operator) = self.operator().filter(|it| it.tightness() >= least) {
            self.take()?;
            let right = self.expr(operator.tightness() + 1)?;
            let mut heights = vec![left.height, right.height];
            left = if matches!(operator, Binary::And | Binary::Or) {
                // The whole chain is one operation.
                let mut parts = vec![left.expr, right.expr];
                while self.operator() == Some(operator) {
                    self.take()?;
                    let more = self.expr(operator.tightness() + 1)?;
                    heights.push(more.height);
                    parts.push(more.expr);
                }
                let is_and = operator == Binary::And;
                let node = if is_and { Node::All(parts) } else { Node::Any(parts) };
                self.build(node, &heights)?
            } else {
                self.build(Node::Binary(operator, left.expr, right.expr), &heights)?
            };
        }
        Ok(left)
    }

    fn operator(&self) -> Option<Binary> {
        match &self.token {
            Token::Operator(operator) => Some(*operator),
            Token::Name { name, quoted: false } if name.eq_ignore_ascii_case("is") => {
                Some(Binary::Is)
            }
            Token::Name { name, quoted: false } if name.eq_ignore_ascii_case("isnt") => {
                Some(Binary::IsNot)
            }
            _ => None,
        }
    }

    fn unary(&mut self) -> Result<Built, ParseError> {
        let operator = match self.token {
            Token::Operator(Binary::Subtract) => Unary::Minus,
            Token::Operator(Binary::Add) => Unary::Plus,
            Token::Mark(b'!') => Unary::Not,
            Token::Mark(b'~') => Unary::Complement,
            _ => return self.otherwise(),
        };
        self.take()?;
        let operand = self.deeper(Self::unary)?;
        self.build(Node::Unary(operator, operand.expr), &[operand.height])
    }

    /// `?:` binds more tightly than any operator but `.` and `[]`.
    fn otherwise(&mut self) -> Result<Built, ParseError> {
        let mut built = self.postfix()?;
        while self.token == Token::Otherwise {
            self.take()?;
            let right = self.postfix()?;
            let heights = [built.height, right.height];
            built = self.build(Node::Or(built.expr, right.expr), &heights)?;
        }
        Ok(built)
    }

    fn postfix(&mut self) -> Result<Built, ParseError> {
        let mut built = self.primary()?;
        loop {
            if self.skip(b'.')? {
                let name = self.name("a name")?;
                built = self.build(select(&built.expr, name), &[built.height])?;
            } else if self.skip(b'[')? {
                let index = self.expr(0)?;
                self.want(b']')?;
                let heights = [built.height, index.height];
                built = self.build(Node::Index(built.expr, index.expr), &heights)?;
            } else {
                return Ok(built);
            }
        }
    }

    /// A name, where nothing else will do; keywords are none.
    fn name(&mut self, wanted: &str) -> Result<Name, ParseError> {
        match &self.token {
            Token::Name { name, quoted } if *quoted || !is_keyword(name) => {
                let name = Name::new(name);
                self.take()?;
                Ok(name)
            }
            _ => Err(self.wrong(wanted)),
        }
    }

    fn primary(&mut self) -> Result<Built, ParseError> {
        const WANTED: &str = "a value, a name or `(`";
        let value = match &self.token {
            Token::Int(number) => Value::Int(*number),
            Token::Real(number) => Value::Real(*number),
            Token::Text(text) => Value::text(&**text),
            Token::Name { quoted, .. } => return self.named(*quoted, WANTED),
            Token::Mark(b'(') => {
                self.take()?;
                let inside = self.expr(0)?;
                self.want(b')')?;
                return self.build(Node::Group(inside.expr), &[inside.height]);
            }
            Token::Mark(b'{') => {
                self.take()?;
                let (items, heights) = self.items(b'}', b",")?;
                return self.build(Node::List(items), &heights);
            }
            Token::Mark(b'[') => {
                self.take()?;
                let (ad, height) = self.deeper(Self::ad)?;
                return self.build(Node::Ad(Arc::new(ad)), &[height]);
            }
            Token::Mark(b'.') => {
                self.take()?;
                let name = self.name("a name")?;
                return self.build(Node::Absolute(name), &[]);
            }
            _ => return Err(self.wrong(WANTED)),
        };
        self.take()?;
        self.build(Node::Value(value), &[])
    }

    fn named(&mut self, quoted: bool, wanted: &str) -> Result<Built, ParseError> {
        let (at, wrong) = (self.at, self.wrong(wanted));
        let Token::Name { name, .. } = self.take()? else { return Err(wrong) };
        if !quoted {
            let value = match &*name {
                name if name.eq_ignore_ascii_case("true") => Some(Value::Bool(true)),
                name if name.eq_ignore_ascii_case("false") => Some(Value::Bool(false)),
                name if name.eq_ignore_ascii_case("undefined") => Some(Value::Undefined),
                name if name.eq_ignore_ascii_case("error") => Some(Value::Error),
                name if is_keyword(name) => return Err(wrong),
                _ => None,
            };
            if let Some(value) = value {
                return self.build(Node::Value(value), &[]);
            }
        }
        if self.skip(b'(')? {
            let (arguments, heights) = self.items(b')', b",;")?;
            if let Some(value) = constant_call(&name, &arguments, at)? {
                return self.build(Node::Value(value), &[]);
            }
            let function = functions::find(&name);
            let call = Call { name: (&*name).into(), function, arguments };
            return self.build(Node::Call(call), &heights);
        }
        // Alone, MY and TARGET are names like others.
        self.build(Node::Name(Name::new(&name)), &[])
    }

    fn items(&mut self, close: u8, part: &[u8]) -> Result<(Vec<Expr>, Vec<usize>), ParseError> {
        let (mut items, mut heights) = (Vec::new(), Vec::new());
        if self.skip(close)? {
            return Ok((items, heights));
        }
        loop {
            let built = self.expr(0)?;
            items.push(built.expr);
            heights.push(built.height);
            if self.skip(close)? {
                return Ok((items, heights));
            }
            match self.token {
                Token::Mark(mark) if part.contains(&mark) => self.take()?,
                _ => return Err(self.wrong("`,`")),
            };
        }
    }

    /// What is behind `[`.
    fn ad(&mut self) -> Result<(Ad, usize), ParseError> {
        let (mut ad, mut height) = (Ad::default(), 0);
        loop {
            while self.skip(b';')? {}
            if self.skip(b']')? {
                return Ok((ad, height));
            }
            let name = self.name("the name of an attribute or `]`")?;
            self.want(b'=')?;
            let built = self.expr(0)?;
            height = height.max(built.height);
            ad.set(name, built.expr);
            if !self.skip(b';')? {
                self.want(b']')?;
                return Ok((ad, height));
            }
        }
    }
}

fn select(from: &Expr, name: Name) -> Node {
    match &*from.0 {
        Node::Name(side) if side.key() == "my" => Node::Of(Side::My, name),
        Node::Name(side) if side.key() == "target" => Node::Of(Side::Target, name),
        _ => Node::Select(from.clone(), name),
    }
}

/// Words that are no names unless quoted.
pub(crate) fn is_keyword(name: &str) -> bool {
    const KEYWORDS: [&str; 6] = ["true", "false", "undefined", "error", "is", "isnt"];
    KEYWORDS.iter().any(|word| name.eq_ignore_ascii_case(word))
}

/// What a call of a constant is by itself: times, and reals that no digits say.
fn constant_call(name: &str, arguments: &[Expr], at: usize) -> Result<Option<Value>, ParseError> {
    let [argument] = arguments else { return Ok(None) };
    let Node::Value(Value::Text(text)) = &*argument.0 else { return Ok(None) };
    let found = if name.eq_ignore_ascii_case("abstime") {
        time::parse_absolute(text).map(Value::AbsoluteTime)
    } else if name.eq_ignore_ascii_case("reltime") {
        time::parse_relative(text).map(Value::RelativeTime)
    } else if name.eq_ignore_ascii_case("real") {
        return Ok(match &**text {
            "NaN" => Some(Value::Real(f64::NAN)),
            "INF" => Some(Value::Real(f64::INFINITY)),
            "-INF" => Some(Value::Real(f64::NEG_INFINITY)),
            _ => None,
        });
    } else {
        return Ok(None);
    };
    let wrong = || ParseError::new(at, format!("`{}` is no time", text.escape_default()));
    found.map(Some).ok_or_else(wrong)
}
