use std::collections::HashMap;
use std::fmt;

use crate::expr::Name;
use crate::{Expr, ParseError, Scope, Value};

/// A description: attributes and their expressions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ad {
    attributes: Vec<(Name, Expr)>,
    /// Where each is, by its name without case.
    places: HashMap<Box<str>, usize>,
}

impl Ad {
    /// Reads `[ name = expression; … ]`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        crate::parse::ad(text)
    }

    /// Sets an attribute; the last one of a name counts.
    pub fn insert(&mut self, name: &str, expr: impl Into<Expr>) {
        let name = Name::new(name);
        match self.places.get(&name.key) {
            Some(place) => self.attributes[*place] = (name, expr.into()),
            None => {
                self.places.insert(name.key.clone(), self.attributes.len());
                self.attributes.push((name, expr.into()));
            }
        }
    }

    /// An attribute's expression.
    pub fn get(&self, name: &str) -> Option<&Expr> {
        self.get_key(&name.to_ascii_lowercase())
    }

    pub(crate) fn get_key(&self, key: &str) -> Option<&Expr> {
        self.places.get(key).map(|place| &self.attributes[*place].1)
    }

    /// Names and expressions in the order in which they were set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Expr)> {
        self.attributes.iter().map(|(name, expr)| (&*name.written, expr))
    }

    /// How many attributes there are.
    pub fn len(&self) -> usize {
        self.attributes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty()
    }

    /// What an attribute comes to by itself.
    pub fn value(&self, name: &str) -> Value {
        Scope::of(self).attribute(name)
    }
}

impl fmt::Display for Ad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, (name, expr)) in self.attributes.iter().enumerate() {
            write!(f, "{}{name} = {expr}", if index == 0 { " " } else { "; " })?;
        }
        f.write_str(if self.attributes.is_empty() { "]" } else { " ]" })
    }
}

/// Whether two ads accept each other: the `Requirements` of each are true of the other. An ad
/// without any accepts all.
pub fn matches(one: &Ad, other: &Ad) -> bool {
    accepts(one, other) && accepts(other, one)
}

fn accepts(one: &Ad, other: &Ad) -> bool {
    one.get_key("requirements").is_none()
        || Scope::of(one).with_target(other).attribute("requirements").is_true()
}

/// How much an ad likes another: its `Rank` of it, and 0 for what is no number.
pub fn rank(one: &Ad, other: &Ad) -> f64 {
    let rank = Scope::of(one).with_target(other).attribute("rank");
    rank.number().filter(|rank| rank.is_finite()).unwrap_or(0.0)
}
