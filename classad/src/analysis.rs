//! Why requirements are not met: which of their parts fail on how many ads, and what would help.

mod tally;

use crate::expr::{Binary, Node, Side};
use crate::name::Name;
use crate::{Ad, Comparison, Expr, Scope, Value};

use tally::Tally;

/// Into how many parts requirements are taken apart; what there is more is one part.
pub const MAX_PARTS: usize = 64;
/// How many names may stand for one another on the way to a part.
const MAX_WAY: usize = 16;
/// How many ways to make more ads match are named.
pub const MAX_RELAXATIONS: usize = 8;

/// What requirements come to on many ads.
#[derive(Debug, Clone, PartialEq)]
pub struct Analysis {
    /// How many ads there are.
    pub ads: usize,
    /// On how many of them the requirements are true.
    pub matching: usize,
    /// How many of those do not accept the ad in turn, by requirements of their own.
    pub unwilling: usize,
    /// What `&&` joins, in the order in which it is written. A name of an attribute of the ad itself
    /// stands for the parts of its expression.
    pub parts: Vec<Part>,
    /// Without which one or two parts more ads would match: those that help most come first, and
    /// fewer parts before more.
    pub relaxations: Vec<Relaxation>,
}

/// One of the parts that must all be true.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// What it says.
    pub expr: Expr,
    /// On how many ads it is true.
    pub holds: usize,
    /// On how many ads it is false.
    pub fails: usize,
    /// On how many ads it is UNDEFINED: they lack an attribute.
    pub undefined: usize,
    /// On how many ads it is an ERROR, or no condition at all.
    pub error: usize,
    /// On how many ads it alone is not true.
    pub alone: usize,
    /// If it compares something of an ad with a constant or with something of one's own: the least
    /// change that would help.
    pub suggestion: Option<Suggestion>,
}

/// A comparison that more ads would meet.
#[derive(Debug, Clone, PartialEq)]
pub struct Suggestion {
    /// What the ads are asked for.
    pub subject: Expr,
    /// How it would be compared.
    pub comparison: Comparison,
    /// With what: the value nearest to what is asked that any of the ads has which nothing else keeps
    /// from matching, or else that any ad has. Of texts it is the most frequent one.
    pub value: Value,
    /// What it is compared with now: a constant, or an expression of one's own that comes to `now`.
    pub instead_of: Expr,
    /// What that comes to.
    pub now: Value,
    /// On how many ads the part would then be true.
    pub holds: usize,
    /// How many ads would then match.
    pub matching: usize,
}

/// Parts without which more ads would match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relaxation {
    /// One or two places in [`Analysis::parts`].
    pub parts: Vec<usize>,
    /// How many ads would match without them.
    pub matching: usize,
}

/// What `requirements` come to on each of `ads`: those of the ad `my`, or, without one, such as are
/// asked of each ad by itself, whose names are all its own. Takes as many evaluations as there are ads
/// times parts, each of at most `steps` operations (more are an ERROR), and memory for a few thousand
/// values.
pub fn analyse<'a>(
    my: Option<&Ad>,
    requirements: &Expr,
    ads: impl IntoIterator<Item = &'a Ad>,
    steps: u32,
) -> Analysis {
    let nobody = Ad::default();
    let asker = my.unwrap_or(&nobody);
    let found = parts(asker, requirements).into_iter().map(|it| Found::new(asker, it, steps));
    let mut found: Vec<Found> = found.collect();
    let mut analysis =
        Analysis { ads: 0, matching: 0, unwilling: 0, parts: Vec::new(), relaxations: Vec::new() };
    // On how many ads exactly these two are not true.
    let mut pairs = vec![0_usize; found.len() * found.len()];
    for ad in ads {
        analysis.ads += 1;
        let scope = match my {
            Some(my) => Scope::of(my).with_target(ad).within(steps),
            None => Scope::of(ad).within(steps),
        };
        let mut failing = Vec::new();
        for (place, part) in found.iter_mut().enumerate() {
            if !part.count(&scope.eval(&part.expr)) {
                failing.push(place);
            }
        }
        match failing[..] {
            [] => {
                analysis.matching += 1;
                analysis.unwilling += usize::from(my.is_some_and(|my| !accepts(ad, my, steps)));
            }
            [alone] => found[alone].alone += 1,
            [one, other] => pairs[one * found.len() + other] += 1,
            _ => {}
        }
        let alone = failing.len() == 1;
        for place in failing {
            found[place].note(&scope, alone);
        }
    }
    analysis.relaxations = relaxations(&found, &pairs, analysis.matching);
    analysis.parts = found.into_iter().map(|part| part.into_part(analysis.matching)).collect();
    analysis
}

fn accepts(ad: &Ad, my: &Ad, steps: u32) -> bool {
    let scope = Scope::of(ad).with_target(my).within(steps);
    ad.get("Requirements").is_none_or(|requirements| scope.eval(requirements).is_true())
}

/// What `&&` joins, with what the ad's own attributes join in their place.
fn parts(my: &Ad, requirements: &Expr) -> Vec<Expr> {
    let mut parts = Vec::new();
    // With the attributes on the way, so that none stands for itself.
    let mut left: Vec<(&Expr, Vec<&str>)> = vec![(requirements, Vec::new())];
    while let Some((expr, way)) = left.pop() {
        if parts.len() + 1 == MAX_PARTS && !left.is_empty() {
            let rest = std::iter::once(expr).chain(left.into_iter().rev().map(|(expr, _)| expr));
            parts.push(joined(rest.cloned().collect()));
            return parts;
        }
        let named = match &*expr.bare().0 {
            Node::All(all) => {
                left.extend(all.iter().rev().map(|part| (part, way.clone())));
                continue;
            }
            Node::Name(name) | Node::Of(Side::My, name) => Some(name),
            _ => None,
        };
        let is_new = |name: &&Name| way.len() < MAX_WAY && !way.contains(&name.key());
        let own = named.filter(is_new).and_then(|name| {
            let own = my.named(name)?;
            // What is a value by itself says more by its name.
            let says_more =
                matches!(&*own.bare().0, Node::All(_) | Node::Binary(..) | Node::Any(_));
            says_more.then_some((own, name.key()))
        });
        match own {
            Some((own, key)) => left.push((own, way.into_iter().chain([key]).collect())),
            None => parts.push(expr.bare().clone()),
        }
    }
    parts
}

fn joined(mut parts: Vec<Expr>) -> Expr {
    match parts.len() {
        1 => parts.remove(0),
        _ => Expr::new(Node::All(parts)),
    }
}

/// A part while ads are looked at.
struct Found {
    expr: Expr,
    holds: usize,
    fails: usize,
    undefined: usize,
    error: usize,
    alone: usize,
    compared: Option<Compared>,
}

/// A comparison of something that ads have with something that is the same for all of them.
struct Compared {
    subject: Expr,
    comparison: Comparison,
    fixed: Expr,
    now: Value,
    tally: Tally,
}

impl Found {
    fn new(my: &Ad, expr: Expr, steps: u32) -> Self {
        let compared = compared(my, &expr, steps);
        Self { expr, holds: 0, fails: 0, undefined: 0, error: 0, alone: 0, compared }
    }

    /// Whether it is true.
    fn count(&mut self, value: &Value) -> bool {
        let counter = match value.truth() {
            Some(true) => &mut self.holds,
            Some(false) => &mut self.fails,
            None if value.is_undefined() => &mut self.undefined,
            None => &mut self.error,
        };
        *counter += 1;
        value.is_true()
    }

    /// Notes what an ad has on which it is not true.
    fn note(&mut self, scope: &Scope<'_>, alone: bool) {
        if let Some(compared) = &mut self.compared {
            compared.tally.add(&scope.eval(&compared.subject), alone);
        }
    }

    fn into_part(self, matching: usize) -> Part {
        let holds = self.holds;
        let suggestion = self.compared.and_then(|it| {
            let nearest = it.tally.nearest()?;
            let comparison = match it.comparison {
                Comparison::Less | Comparison::LessEqual => Comparison::LessEqual,
                Comparison::Greater | Comparison::GreaterEqual => Comparison::GreaterEqual,
                Comparison::Equal => Comparison::Equal,
            };
            Some(Suggestion {
                subject: it.subject,
                comparison,
                value: nearest.value,
                instead_of: it.fixed,
                now: it.now,
                // Another text or number instead loses those that have the one of now.
                holds: nearest.all + if comparison == Comparison::Equal { 0 } else { holds },
                matching: nearest.alone
                    + if comparison == Comparison::Equal { 0 } else { matching },
            })
        });
        Part {
            expr: self.expr,
            holds,
            fails: self.fails,
            undefined: self.undefined,
            error: self.error,
            alone: self.alone,
            suggestion,
        }
    }
}

fn compared(my: &Ad, part: &Expr, steps: u32) -> Option<Compared> {
    let Node::Binary(operator, left, right) = &*part.bare().0 else { return None };
    let (subject, fixed, swapped) = match (is_fixed(my, left, 0), is_fixed(my, right, 0)) {
        (false, true) => (left, right, false),
        (true, false) => (right, left, true),
        _ => return None,
    };
    let comparison = match operator {
        Binary::Equal | Binary::Is => Comparison::Equal,
        Binary::Less => Comparison::Less,
        Binary::LessEqual => Comparison::LessEqual,
        Binary::Greater => Comparison::Greater,
        Binary::GreaterEqual => Comparison::GreaterEqual,
        _ => return None,
    };
    let comparison = if swapped { comparison.swapped() } else { comparison };
    let now = Scope::of(my).within(steps).eval(fixed);
    let tally = Tally::new(comparison, &now)?;
    let (subject, fixed) = (subject.bare().clone(), fixed.bare().clone());
    Some(Compared { subject, comparison, fixed, now, tally })
}

/// Whether it comes to the same whatever the other ad: a constant, or a name of the ad's own that
/// stands for one.
fn is_fixed(my: &Ad, expr: &Expr, depth: usize) -> bool {
    match &*expr.bare().0 {
        Node::Value(_) => true,
        Node::Name(name) | Node::Of(Side::My, name) if depth < 8 => {
            my.named(name).is_some_and(|own| is_fixed(my, own, depth + 1))
        }
        Node::Unary(_, operand) => is_fixed(my, operand, depth),
        Node::Binary(_, left, right) => is_fixed(my, left, depth) && is_fixed(my, right, depth),
        _ => false,
    }
}

fn relaxations(found: &[Found], pairs: &[usize], matching: usize) -> Vec<Relaxation> {
    let mut all = Vec::new();
    for (one, first) in found.iter().enumerate() {
        if first.alone > 0 {
            all.push(Relaxation { parts: vec![one], matching: matching + first.alone });
        }
        for (other, second) in found.iter().enumerate().skip(one + 1) {
            let both = first.alone + second.alone + pairs[one * found.len() + other];
            // Only if it takes both.
            if both > first.alone.max(second.alone) {
                all.push(Relaxation { parts: vec![one, other], matching: matching + both });
            }
        }
    }
    all.sort_by_key(|it| (std::cmp::Reverse(it.matching), it.parts.len()));
    all.truncate(MAX_RELAXATIONS);
    all
}

impl Comparison {
    /// With its sides the other way round.
    fn swapped(self) -> Self {
        match self {
            Comparison::Less => Comparison::Greater,
            Comparison::LessEqual => Comparison::GreaterEqual,
            Comparison::Greater => Comparison::Less,
            Comparison::GreaterEqual => Comparison::LessEqual,
            Comparison::Equal => Comparison::Equal,
        }
    }

    /// How it is written.
    pub fn mark(self) -> &'static str {
        match self {
            Comparison::Less => "<",
            Comparison::LessEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterEqual => ">=",
            Comparison::Equal => "==",
        }
    }
}

#[cfg(test)]
mod tests;
