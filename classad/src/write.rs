//! Expressions, values and ads as text.

use std::cmp::Ordering;
use std::fmt::{self, Write};

use crate::expr::{Binary, Call, Node, Side, Unary};
use crate::name::Name;
use crate::parse::is_keyword;
use crate::{Ad, Expr, Value};

/// For whom it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// For whoever reads it back: it comes to the same, to the last digit of a real.
    Exact,
    /// As the reference's functions write things: attributes by their length and then their letters,
    /// sixteen digits of a real, letters beyond ASCII in octal.
    Reference,
    /// In the line-based syntax, where a backslash is a backslash.
    Old,
}

pub(crate) struct Writer<'a> {
    pub(crate) to: &'a mut dyn Write,
    pub(crate) style: Style,
}

/// As the reference's functions have it.
pub(crate) fn reference(write: impl FnOnce(&mut Writer<'_>) -> fmt::Result) -> String {
    let mut text = String::new();
    // A string takes whatever is written to it.
    let _ = write(&mut Writer { to: &mut text, style: Style::Reference });
    text
}

impl Writer<'_> {
    pub(crate) fn value(&mut self, value: &Value) -> fmt::Result {
        match value {
            Value::Undefined => self.to.write_str("undefined"),
            Value::Error => self.to.write_str("error"),
            Value::Bool(truth) => write!(self.to, "{truth}"),
            Value::Int(number) => write!(self.to, "{number}"),
            Value::Real(number) => self.to.write_str(&real(*number, self.style)),
            Value::Text(text) => self.quoted(text, '"'),
            Value::AbsoluteTime(time) => {
                let text = time.to_string();
                // An offset of seconds, or a year of five digits, is not read back.
                let is_same = || crate::time::parse_absolute(&text) == Some(*time);
                if self.style == Style::Reference || is_same() {
                    write!(self.to, "absTime(\"{text}\")")
                } else {
                    write!(self.to, "absTime({}, {})", time.seconds, time.offset)
                }
            }
            Value::RelativeTime(seconds) => {
                let mut text = crate::time::relative(*seconds);
                if self.style != Style::Reference {
                    let is_same = |text: &str| crate::time::parse_relative(text) == Some(*seconds);
                    if !is_same(&text) {
                        text = seconds.to_string();
                    }
                    if !is_same(&text) {
                        return write!(self.to, "relTime({})", real(*seconds, self.style));
                    }
                }
                write!(self.to, "relTime(\"{text}\")")
            }
            Value::List(values) => self.list(values, Self::value),
            Value::Ad(ad) => self.ad(ad),
        }
    }

    pub(crate) fn list<T>(
        &mut self,
        items: &[T],
        write: impl Fn(&mut Self, &T) -> fmt::Result,
    ) -> fmt::Result {
        self.to.write_str("{ ")?;
        self.comma(items, write)?;
        self.to.write_str(" }")
    }

    fn comma<T>(
        &mut self,
        items: &[T],
        write: impl Fn(&mut Self, &T) -> fmt::Result,
    ) -> fmt::Result {
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.to.write_str(if self.style == Style::Exact { ", " } else { "," })?;
            }
            write(self, item)?;
        }
        Ok(())
    }

    pub(crate) fn ad(&mut self, ad: &Ad) -> fmt::Result {
        let mut attributes: Vec<(&Name, &Expr)> = ad.attributes().collect();
        if self.style != Style::Exact {
            attributes.sort_by(|(one, _), (other, _)| order(one, other));
        }
        self.to.write_str("[ ")?;
        for (index, (name, expr)) in attributes.into_iter().enumerate() {
            if index > 0 {
                self.to.write_str("; ")?;
            }
            self.name(name)?;
            self.to.write_str(" = ")?;
            self.expr(expr)?;
        }
        self.to.write_str(" ]")
    }

    pub(crate) fn expr(&mut self, expr: &Expr) -> fmt::Result {
        match &*expr.0 {
            Node::Value(value) => self.value(value),
            Node::Name(name) => self.name(name),
            Node::Absolute(name) => self.selected(".", name),
            Node::Of(Side::My, name) => self.selected("MY.", name),
            Node::Of(Side::Target, name) => self.selected("TARGET.", name),
            Node::Select(from, name) => {
                self.expr(from)?;
                self.selected(".", name)
            }
            Node::Index(from, index) => {
                self.expr(from)?;
                self.to.write_str("[")?;
                self.expr(index)?;
                self.to.write_str("]")
            }
            Node::Unary(operator, operand) => self.unary(*operator, operand),
            Node::Binary(operator, left, right) => {
                let mark = match operator {
                    Binary::Is if self.style == Style::Reference => "is",
                    Binary::IsNot if self.style == Style::Reference => "isnt",
                    operator => operator.mark(),
                };
                self.joined(&[left, right], mark)
            }
            Node::All(parts) => self.joined(&parts.iter().collect::<Vec<_>>(), "&&"),
            Node::Any(parts) => self.joined(&parts.iter().collect::<Vec<_>>(), "||"),
            Node::If(condition, then, or) => {
                self.joined(&[condition, then], "?")?;
                self.to.write_str(" : ")?;
                self.expr(or)
            }
            Node::Or(left, right) => self.joined(&[left, right], "?:"),
            Node::Call(Call { name, arguments, .. }) => {
                self.name(&Name::new(name))?;
                self.to.write_str("(")?;
                self.comma(arguments, Self::expr)?;
                self.to.write_str(")")
            }
            Node::List(items) => self.list(items, Self::expr),
            Node::Ad(ad) => self.ad(ad),
            Node::Group(inside) => {
                self.to.write_str("(")?;
                self.expr(inside)?;
                self.to.write_str(")")
            }
        }
    }

    fn joined(&mut self, parts: &[&Expr], mark: &str) -> fmt::Result {
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                write!(self.to, " {mark} ")?;
            }
            self.expr(part)?;
        }
        Ok(())
    }

    fn unary(&mut self, operator: Unary, operand: &Expr) -> fmt::Result {
        let mark = match operator {
            Unary::Plus => "+",
            Unary::Minus => "-",
            Unary::Not => "!",
            Unary::Complement => "~",
        };
        if self.style != Style::Exact {
            self.to.write_str(" ")?;
        }
        self.to.write_str(mark)?;
        let is_digit = match &*operand.0 {
            Node::Value(Value::Int(number)) => *number >= 0,
            Node::Value(Value::Real(number)) => number.is_finite() && number.is_sign_positive(),
            _ => false,
        };
        if is_digit && operator == Unary::Minus && self.style != Style::Reference {
            // Next to a number, the minus would be part of it.
            self.to.write_str(" ")?;
        }
        self.expr(operand)
    }

    /// A name that something in front of it says whose it is.
    fn selected(&mut self, before: &str, name: &Name) -> fmt::Result {
        self.to.write_str(before)?;
        if self.style == Style::Reference {
            return self.to.write_str(name.written());
        }
        self.name(name)
    }

    pub(crate) fn name(&mut self, name: &Name) -> fmt::Result {
        let key = name.key();
        let mut plain = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !is_keyword(key);
        match self.style {
            Style::Reference | Style::Old => plain &= key != "parent",
            // Quoted, they are no sides of a match.
            Style::Exact => {}
        }
        if plain { self.to.write_str(name.written()) } else { self.quoted(name.written(), '\'') }
    }

    fn quoted(&mut self, text: &str, quote: char) -> fmt::Result {
        self.to.write_char(quote)?;
        for c in text.chars() {
            match c {
                c if c == quote => write!(self.to, "\\{c}")?,
                c if self.style == Style::Old => self.to.write_char(c)?,
                '\\' => self.to.write_str("\\\\")?,
                '\u{7}' => self.to.write_str("\\a")?,
                '\u{8}' => self.to.write_str("\\b")?,
                '\u{b}' => self.to.write_str("\\v")?,
                '\u{c}' => self.to.write_str("\\f")?,
                '\n' => self.to.write_str("\\n")?,
                '\t' => self.to.write_str("\\t")?,
                '\r' => self.to.write_str("\\r")?,
                c if c.is_ascii_control() => write!(self.to, "\\{:03o}", c as u32)?,
                c if self.style == Style::Reference && !c.is_ascii() => {
                    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                        write!(self.to, "\\{byte:03o}")?;
                    }
                }
                c => self.to.write_char(c)?,
            }
        }
        self.to.write_char(quote)
    }
}

/// In which order the reference writes attributes.
pub(crate) fn order(one: &Name, other: &Name) -> Ordering {
    let (one, other) = (one.key(), other.key());
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

/// A real as the reference writes it, C's `%1.15E`, or with one more digit if it takes that to be
/// read back as the same; in the old syntax C's `%.16G`.
pub(crate) fn real(number: f64, style: Style) -> String {
    if number.is_nan() {
        return "real(\"NaN\")".to_owned();
    }
    if number.is_infinite() {
        return format!("real(\"{}INF\")", if number < 0.0 { "-" } else { "" });
    }
    if number == 0.0 {
        return if number.is_sign_negative() { "-0.0" } else { "0.0" }.to_owned();
    }
    if style == Style::Old {
        // What looks like an integer would be one.
        let mut text = crate::time::general(number, 16);
        if text.parse() != Ok(number) {
            text = crate::time::general(number, 17);
        }
        let text = text.to_uppercase();
        return if text.contains(['.', 'E']) { text } else { text + ".0" };
    }
    let mut text = format!("{number:.15E}");
    if style == Style::Exact && text.parse() != Ok(number) {
        text = format!("{number:.16E}");
    }
    let (mantissa, exponent) = text.split_once('E').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}E{sign}{digits:0>2}")
}

impl fmt::Display for Value {
    /// As an expression that comes to the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Writer { to: f, style: Style::Exact }.value(self)
    }
}

impl fmt::Display for Expr {
    /// So that it reads back as the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Writer { to: f, style: Style::Exact }.expr(self)
    }
}

impl fmt::Display for Ad {
    /// In the new syntax, so that it reads back as the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Writer { to: f, style: Style::Exact }.ad(self)
    }
}
