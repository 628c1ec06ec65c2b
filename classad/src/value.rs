use std::sync::Arc;

use crate::Ad;
use crate::time::AbsoluteTime;

/// What an expression comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nobody has said.
    Undefined,
    /// It makes no sense.
    Error,
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A real number.
    Real(f64),
    /// A string.
    Text(Arc<str>),
    /// A moment.
    AbsoluteTime(AbsoluteTime),
    /// A span of time, in seconds.
    RelativeTime(f64),
    /// A list.
    List(Arc<[Value]>),
    /// An ad.
    Ad(Arc<Ad>),
}

impl Value {
    pub(crate) fn text(text: impl Into<Arc<str>>) -> Self {
        Value::Text(text.into())
    }

    /// As a condition: numbers other than zero are true. `None` for what is no condition.
    pub fn truth(&self) -> Option<bool> {
        match self {
            Value::Bool(truth) => Some(*truth),
            Value::Int(number) => Some(*number != 0),
            Value::Real(number) => Some(*number != 0.0),
            _ => None,
        }
    }

    /// Whether it is true, as a requirement has to be.
    pub fn is_true(&self) -> bool {
        self.truth() == Some(true)
    }

    /// As a number, booleans being 1 and 0.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Bool(truth) => Some(f64::from(u8::from(*truth))),
            Value::Int(number) => Some(*number as f64),
            Value::Real(number) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined)
    }

    pub(crate) fn is_error(&self) -> bool {
        matches!(self, Value::Error)
    }

    /// How long a list, a text or an ad is.
    pub(crate) fn length(length: usize) -> Self {
        Value::Int(i64::try_from(length).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Value::Bool(truth)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Int(number)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Value::Real(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::text(text)
    }
}
