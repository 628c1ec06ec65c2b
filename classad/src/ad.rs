use std::sync::LazyLock;

use crate::name::Name;
use crate::{Expr, ParseError, Scope, Value};

/// Up to so many attributes are looked through one after the other.
const FEW: usize = 8;

/// A description: attributes and their expressions.
#[derive(Debug, Clone, Default)]
pub struct Ad {
    attributes: Vec<(Name, Expr)>,
    /// Where each is, from 1, by the lowest bits of its name's hash or the next free place behind:
    /// a power of two of places, more than half of them 0. Empty while the attributes are few.
    places: Vec<u32>,
}

/// In whatever order the attributes were set.
impl PartialEq for Ad {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self.attributes.iter().all(|(name, expr)| other.named(name) == Some(expr))
    }
}

impl Ad {
    /// Reads `[ name = expression; … ]`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        crate::parse::ad(text)
    }

    /// Sets an attribute; the last one of a name counts.
    pub fn insert(&mut self, name: &str, expr: impl Into<Expr>) {
        self.set(Name::new(name), expr.into());
    }

    pub(crate) fn set(&mut self, name: Name, expr: Expr) {
        match self.place(&name) {
            Some(place) => self.attributes[place] = (name, expr),
            None => {
                self.attributes.push((name, expr));
                self.note_last();
            }
        }
    }

    /// An attribute's expression.
    pub fn get(&self, name: &str) -> Option<&Expr> {
        self.named(&Name::new(name))
    }

    pub(crate) fn named(&self, name: &Name) -> Option<&Expr> {
        self.place(name).map(|place| &self.attributes[place].1)
    }

    fn place(&self, name: &Name) -> Option<usize> {
        if self.places.is_empty() {
            return self.attributes.iter().position(|(known, _)| known.is(name));
        }
        let mut at = self.first_place(name);
        loop {
            let place = self.places[at].checked_sub(1)? as usize;
            if self.attributes[place].0.is(name) {
                return Some(place);
            }
            at = (at + 1) & (self.places.len() - 1);
        }
    }

    fn first_place(&self, name: &Name) -> usize {
        (name.hash() as usize) & (self.places.len() - 1)
    }

    fn note_last(&mut self) {
        let count = self.attributes.len();
        if count <= FEW {
            return;
        }
        if count * 2 > self.places.len() {
            self.places = vec![0; (count * 4).next_power_of_two()];
            (0..count).for_each(|place| self.note(place));
        } else {
            self.note(count - 1);
        }
    }

    fn note(&mut self, place: usize) {
        let mut at = self.first_place(&self.attributes[place].0);
        while self.places[at] != 0 {
            at = (at + 1) & (self.places.len() - 1);
        }
        // An expression is far shorter than four thousand million bytes.
        self.places[at] = u32::try_from(place + 1).unwrap_or(u32::MAX);
    }

    /// Names and expressions in the order in which they were set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Expr)> {
        self.attributes.iter().map(|(name, expr)| (name.written(), expr))
    }

    pub(crate) fn attributes(&self) -> impl Iterator<Item = (&Name, &Expr)> {
        self.attributes.iter().map(|(name, expr)| (name, expr))
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

/// Whether two ads accept each other: the `Requirements` of each are true of the other. An ad
/// without any accepts all; UNDEFINED and ERROR accept nothing.
pub fn matches(one: &Ad, other: &Ad) -> bool {
    accepts(one, other) && accepts(other, one)
}

fn accepts(one: &Ad, other: &Ad) -> bool {
    static REQUIREMENTS: LazyLock<Name> = LazyLock::new(|| Name::new("Requirements"));
    match one.named(&REQUIREMENTS) {
        Some(requirements) => Scope::of(one).with_target(other).eval(requirements).is_true(),
        None => true,
    }
}

/// How much an ad likes another: its `Rank` of it, and 0 for what is no number. Infinities and what
/// is not a number rank below every number: [`f64::MIN`].
pub fn rank(one: &Ad, other: &Ad) -> f64 {
    match Scope::of(one).with_target(other).attribute("rank").number() {
        Some(rank) if rank.is_finite() => rank,
        Some(_) => f64::MIN,
        None => 0.0,
    }
}
