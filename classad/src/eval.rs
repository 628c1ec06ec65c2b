//! Expressions into values.

use std::cell::Cell;
use std::sync::Arc;

use crate::expr::{Node, Side};
use crate::name::Name;
use crate::operators::{binary, unary};
use crate::{Ad, Expr, MAX_DEPTH, MAX_STEPS, Value};

/// So many bytes are made or looked at in one step.
const BYTES_A_STEP: usize = 64;

/// Where names are looked up.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    my: Option<&'a Ad>,
    target: Option<&'a Ad>,
    steps: u32,
    now: Option<i64>,
}

impl Default for Scope<'_> {
    fn default() -> Self {
        Self { my: None, target: None, steps: MAX_STEPS, now: None }
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

    /// At this time, in seconds since 1970 UTC, instead of what the clock says.
    pub fn at(self, now: i64) -> Self {
        Self { now: Some(now), ..self }
    }

    /// What an expression comes to.
    pub fn eval(&self, expr: &Expr) -> Value {
        self.with_env(|env| env.eval(expr))
    }

    /// What an attribute of the ad comes to.
    pub fn attribute(&self, name: &str) -> Value {
        let found = self.my.and_then(|my| my.get(name));
        found.map_or(Value::Undefined, |expr| self.eval(expr))
    }

    fn with_env<R>(&self, work: impl FnOnce(&Env<'_>) -> R) -> R {
        let budget = Budget { steps: Cell::new(self.steps), now: self.now };
        let (my, target) = (self.my, self.target);
        work(&Env { ad: my, outer: None, my, target, budget: &budget, depth: 0 })
    }
}

/// What is the same all over an evaluation.
pub(crate) struct Budget {
    /// Steps that are left.
    steps: Cell<u32>,
    now: Option<i64>,
}

/// A place in the evaluation.
#[derive(Clone, Copy)]
pub(crate) struct Env<'a> {
    /// Where names are looked up first.
    pub(crate) ad: Option<&'a Ad>,
    /// What is around that ad.
    outer: Option<&'a Env<'a>>,
    my: Option<&'a Ad>,
    target: Option<&'a Ad>,
    budget: &'a Budget,
    depth: usize,
}

impl<'a> Env<'a> {
    pub(crate) fn eval(&self, expr: &Expr) -> Value {
        let Some(deeper) = self.step() else { return Value::Error };
        deeper.node(&expr.0)
    }

    /// A value that stands there as it is, or an attribute that is one: most of what is compared.
    /// `None` for what has to be evaluated.
    fn leaf<'b>(&self, expr: &'b Expr) -> Option<&'b Value>
    where
        'a: 'b,
    {
        static UNDEFINED: Value = Value::Undefined;
        let found = match &*expr.bare().0 {
            Node::Value(value) => return Some(value),
            Node::Name(name) => self.place(name),
            Node::Of(Side::My, name) => self.around(name),
            Node::Of(Side::Target, name) => self.other_side().own_place(name),
            _ => return None,
        };
        self.step()?;
        match found.map(|(_, expr)| &*expr.0) {
            None => Some(&UNDEFINED),
            Some(Node::Value(value)) => Some(value),
            Some(_) => None,
        }
    }

    /// One step deeper; `None` once there were too many of them.
    fn step(&self) -> Option<Env<'a>> {
        let left = self.budget.steps.get();
        if left == 0 || self.depth > 4 * MAX_DEPTH {
            self.budget.steps.set(0);
            return None;
        }
        self.budget.steps.set(left - 1);
        Some(Env { depth: self.depth + 1, ..*self })
    }

    /// Takes the steps for that many bytes; `None` if there are not as many left.
    pub(crate) fn charge(&self, bytes: usize) -> Option<()> {
        let steps = u32::try_from(bytes / BYTES_A_STEP).unwrap_or(u32::MAX);
        let left = self.budget.steps.get().checked_sub(steps);
        self.budget.steps.set(left.unwrap_or(0));
        left.map(|_| ())
    }

    /// What makes this evaluation's chances its own.
    pub(crate) fn steps_left(&self) -> u32 {
        self.budget.steps.get()
    }

    /// Seconds since 1970 UTC.
    pub(crate) fn now(&self) -> i64 {
        use std::time::{SystemTime, UNIX_EPOCH};
        self.budget.now.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
    }

    fn node(&self, node: &Node) -> Value {
        match node {
            Node::Value(value) => value.clone(),
            Node::Group(inside) => self.node(&inside.0),
            Node::Name(name) => self.look_up(name),
            Node::Absolute(name) => self.outermost().own(name).unwrap_or(Value::Undefined),
            Node::Of(Side::My, name) => match self.around(name) {
                Some((env, expr)) => env.eval(expr),
                None => Value::Undefined,
            },
            Node::Of(Side::Target, name) => self.other_side().own(name).unwrap_or(Value::Undefined),
            Node::Select(from, name) => self.select(from, name),
            Node::Index(from, index) => self.index(from, index),
            Node::Unary(operator, operand) => unary(*operator, &self.eval(operand)),
            Node::All(parts) => self.joined(parts, false),
            Node::Any(parts) => self.joined(parts, true),
            Node::Binary(operator, left, right) => {
                let (one, other);
                let left = match self.leaf(left) {
                    Some(value) => value,
                    None => {
                        one = self.eval(left);
                        &one
                    }
                };
                let right = match self.leaf(right) {
                    Some(value) => value,
                    None => {
                        other = self.eval(right);
                        &other
                    }
                };
                if let (Value::Text(left), Value::Text(right)) = (left, right)
                    && self.charge(left.len().min(right.len())).is_none()
                {
                    return Value::Error;
                }
                binary(*operator, left, right)
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
            Node::Call(call) => {
                let function = call.function.map(|function| function.run());
                let value = function.and_then(|run| run(self, &call.arguments));
                value.unwrap_or(Value::Error)
            }
            Node::List(items) => Value::List(items.iter().map(|item| self.eval(item)).collect()),
            Node::Ad(ad) => Value::Ad(Arc::clone(ad)),
        }
    }

    /// The other ad of the match: for it, this one is the other.
    fn other_side(&self) -> Env<'a> {
        Env { ad: self.target, outer: None, my: self.target, target: self.my, ..*self }
    }

    fn outermost(&self) -> Env<'a> {
        let mut here = *self;
        while let Some(outer) = here.outer {
            here = *outer;
        }
        Env { depth: self.depth, ..here }
    }

    /// Inside an ad that stands here.
    pub(crate) fn inside<'i>(&'i self, ad: &'i Ad) -> Env<'i> {
        Env { ad: Some(ad), outer: Some(self), ..*self }
    }

    /// Where a name alone is set, and to what.
    fn place(&self, name: &Name) -> Option<(Env<'a>, &'a Expr)> {
        self.around(name).or_else(|| self.other_side().own_place(name))
    }

    /// The same without the other ad: in this one, or else in those around it.
    fn around(&self, name: &Name) -> Option<(Env<'a>, &'a Expr)> {
        let mut here = *self;
        loop {
            if let Some(expr) = here.ad.and_then(|ad| ad.named(name)) {
                return Some((here, expr));
            }
            here = Env { depth: self.depth, ..*here.outer? };
        }
    }

    fn own_place(&self, name: &Name) -> Option<(Env<'a>, &'a Expr)> {
        self.ad?.named(name).map(|expr| (*self, expr))
    }

    /// A name alone.
    fn look_up(&self, name: &Name) -> Value {
        self.place(name).map_or(Value::Undefined, |(env, expr)| env.eval(expr))
    }

    /// An attribute of the ad at hand.
    fn own(&self, name: &Name) -> Option<Value> {
        self.own_place(name).map(|(env, expr)| env.eval(expr))
    }

    /// Follows an expression to the list or ad that it stands for, as it is written, and does
    /// something with it where it is written: there its names are looked up. `None` if it leads to
    /// something else.
    pub(crate) fn follow<R>(
        &self,
        expr: &Expr,
        then: &mut dyn FnMut(&Env<'_>, &Node) -> Option<R>,
    ) -> Option<R> {
        let env = self.step()?;
        match &*expr.0 {
            node @ (Node::List(_) | Node::Ad(_)) => then(&env, node),
            Node::Group(inside) => env.follow(inside, then),
            Node::Name(name) => {
                let (env, expr) = env.place(name)?;
                env.follow(expr, then)
            }
            Node::Absolute(name) => env.outermost().follow_own(name, then),
            Node::Of(Side::My, name) => {
                let (env, expr) = env.around(name)?;
                env.follow(expr, then)
            }
            Node::Of(Side::Target, name) => env.other_side().follow_own(name, then),
            Node::Select(from, name) => env.follow(from, &mut |env, node| match node {
                Node::Ad(ad) => {
                    let inside = env.inside(ad);
                    let (env, expr) = inside.around(name)?;
                    env.follow(expr, then)
                }
                _ => None,
            }),
            Node::Index(from, index) => {
                let index = env.eval(index);
                env.follow(from, &mut |env, node| match (node, &index) {
                    (Node::List(items), Value::Int(at)) => {
                        env.follow(items.get(usize::try_from(*at).ok()?)?, then)
                    }
                    (Node::Ad(ad), Value::Text(name)) => {
                        env.inside(ad).follow_own(&Name::new(name), then)
                    }
                    _ => None,
                })
            }
            Node::If(condition, yes, no) => {
                let yes = if env.eval(condition).truth()? { yes } else { no };
                env.follow(yes, then)
            }
            Node::Or(left, right) => {
                let left_counts = !env.eval(left).is_undefined();
                env.follow(if left_counts { left } else { right }, then)
            }
            _ => None,
        }
    }

    fn follow_own<R>(
        &self,
        name: &Name,
        then: &mut dyn FnMut(&Env<'_>, &Node) -> Option<R>,
    ) -> Option<R> {
        let (env, expr) = self.own_place(name)?;
        env.follow(expr, then)
    }

    fn select(&self, from: &Expr, name: &Name) -> Value {
        let found = self.follow(from, &mut |env, node| match node {
            // What it does not have, an ad around it may.
            Node::Ad(ad) => Some(match env.inside(ad).around(name) {
                Some((env, expr)) => env.eval(expr),
                None => Value::Undefined,
            }),
            _ => None,
        });
        found.unwrap_or_else(|| self.select_from(&self.eval(from), name))
    }

    fn select_from(&self, from: &Value, name: &Name) -> Value {
        match from {
            Value::Ad(ad) => self.inside(ad).own(name).unwrap_or(Value::Undefined),
            Value::Undefined => Value::Undefined,
            Value::List(items) => {
                let Some(deeper) = self.step() else { return Value::Error };
                let of_one = |item: &Value| match deeper.charge(64) {
                    Some(()) => deeper.select_from(item, name),
                    None => Value::Error,
                };
                Value::List(items.iter().map(of_one).collect())
            }
            _ => Value::Error,
        }
    }

    fn index(&self, from: &Expr, index: &Expr) -> Value {
        let index = self.eval(index);
        let found = self.follow(from, &mut |env, node| match (node, &index) {
            (Node::List(items), Value::Int(at)) => {
                let item = usize::try_from(*at).ok().and_then(|at| items.get(at));
                Some(item.map_or(Value::Error, |item| env.eval(item)))
            }
            (Node::Ad(ad), Value::Text(name)) => {
                Some(env.inside(ad).own(&Name::new(name)).unwrap_or(Value::Undefined))
            }
            _ => None,
        });
        found.unwrap_or_else(|| match (self.eval(from), index) {
            (Value::Error, _) | (_, Value::Error) => Value::Error,
            (Value::Undefined, _) | (_, Value::Undefined) => Value::Undefined,
            (Value::List(values), Value::Int(at)) => {
                let at = usize::try_from(at).ok();
                at.and_then(|at| values.get(at)).cloned().unwrap_or(Value::Error)
            }
            (ad @ Value::Ad(_), Value::Text(name)) => self.select_from(&ad, &Name::new(&name)),
            _ => Value::Error,
        })
    }

    /// `&&` and `||`: `decides` is the value of a part that makes those behind it irrelevant.
    fn joined(&self, parts: &[Expr], decides: bool) -> Value {
        let mut all_defined = true;
        for part in parts {
            let value = self.eval(part);
            match value.truth() {
                Some(truth) if truth == decides => return Value::Bool(decides),
                Some(_) => {}
                None if value.is_undefined() => all_defined = false,
                None => return Value::Error,
            }
        }
        if all_defined { Value::Bool(!decides) } else { Value::Undefined }
    }
}

#[cfg(test)]
mod tests;
