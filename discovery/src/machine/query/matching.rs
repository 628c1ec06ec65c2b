//! Which members match.

use phantom_classad::{Ad, Expr, ParseError, Scope};
use phantom_model::{NodeId, SubgridId};
use thiserror::Error;

use super::{MAX_ATTRIBUTE, MAX_ATTRIBUTES, MAX_EXPRESSION, MAX_VO, MAX_WANTED, Match, Query};
use crate::machine::region::is_plausible;
use crate::machine::region::power::Need;

/// Operations that matching one member may take: hundreds of times what an expression of the longest
/// text does without references that run wild.
const STEPS: u32 = 2_000;
/// What is told of a match beside what its requirements are about.
const ALWAYS: [&str; 5] = ["Name", "Cpus", "Idle", "FreeMemory", "Mflops"];

/// The members of a sub-grid as a registry keeps them.
pub trait Directory {
    /// Their descriptions: of all, or of those in a virtual organisation.
    fn ads<'a>(&'a self, vo: Option<&str>) -> Box<dyn Iterator<Item = (NodeId, &'a Ad)> + 'a>;

    /// Whether all members are in it. One that is still being gathered may meet a query, but that it
    /// does not is no answer.
    fn is_whole(&self) -> bool {
        true
    }
}

/// A query that is not asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadQuery {
    /// An expression does not parse.
    #[error("`{text}` is no expression: {error}")]
    Expression {
        /// What was written.
        text: String,
        /// What is wrong with it.
        error: ParseError,
    },
    /// Requirements and rank are too long.
    #[error("requirements and rank have {0} bytes, more than {MAX_EXPRESSION}: shorten them")]
    TooLong(usize),
    /// The name of the virtual organisation is too long.
    #[error("the name of a virtual organisation has at most {MAX_VO} bytes, this one has {0}")]
    Vo(usize),
    /// None or too many are asked for.
    #[error("{0} nodes cannot be asked for: ask for 1 to {MAX_WANTED}")]
    Count(u8),
}

/// A query's expressions, parsed once.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The query's own ad: its requirements, its rank, and the virtual organisation it is asked for.
    ad: Ad,
    need: Need,
    names: Vec<String>,
    count: usize,
    is_ranked: bool,
}

impl Wanted {
    /// Reads them.
    pub fn of(query: &Query) -> Result<Self, BadQuery> {
        let length = query.requirements.len() + query.rank.as_ref().map_or(0, String::len);
        if length > MAX_EXPRESSION {
            return Err(BadQuery::TooLong(length));
        }
        if let Some(vo) = query.vo.as_ref().filter(|vo| vo.len() > MAX_VO) {
            return Err(BadQuery::Vo(vo.len()));
        }
        if !(1..=MAX_WANTED).contains(&query.wanted) {
            return Err(BadQuery::Count(query.wanted));
        }
        let requirements = parse(&query.requirements)?;
        let need = Need::of(&requirements);
        let mut names: Vec<String> = need.names().map(str::to_owned).collect();
        names.extend(ALWAYS.map(str::to_owned));
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(name.to_ascii_lowercase()));
        let mut ad = Ad::default();
        ad.insert("Requirements", requirements);
        if let Some(rank) = &query.rank {
            ad.insert("Rank", parse(rank)?);
        }
        if let Some(vo) = &query.vo {
            ad.insert("VO", phantom_classad::Value::from(vo.as_str()));
        }
        let is_ranked = query.rank.is_some();
        Ok(Self { ad, need, names, count: query.wanted.into(), is_ranked })
    }

    /// What it needs of single attributes.
    pub fn need(&self) -> &Need {
        &self.need
    }

    /// Whether what `found` has of `directory` would be the same of all members.
    pub(super) fn is_settled(&self, found: &[Match], directory: &dyn Directory) -> bool {
        directory.is_whole() || found.len() >= self.count && !self.is_ranked
    }

    /// Those that match, best first, at most as many as are wanted. A member's own `Requirements` must
    /// be true of the query; one whose description cannot be true matches nothing.
    pub fn find(&self, vo: Option<&str>, directory: &dyn Directory, of: SubgridId) -> Vec<Match> {
        let mut found: Vec<(f64, NodeId, &Ad)> = Vec::new();
        for (node, ad) in directory.ads(vo) {
            if !accepts(&self.ad, ad) || !accepts(ad, &self.ad) || !is_plausible(ad) {
                continue;
            }
            found.push((self.rank(ad), node, ad));
            if !self.is_ranked && found.len() == self.count {
                // Without a rank nobody is better than the first.
                break;
            }
        }
        found.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
        found.truncate(self.count);
        let matched = found.into_iter();
        matched
            .map(|(rank, node, ad)| Match { node, subgrid: of, rank, attributes: self.told(ad) })
            .collect()
    }

    fn rank(&self, ad: &Ad) -> f64 {
        let scope = Scope::of(&self.ad).with_target(ad).within(STEPS);
        match scope.attribute("rank").number() {
            // No negative zero, so that equal ranks are equal.
            Some(rank) if rank.is_finite() => rank + 0.0,
            // As in [`phantom_classad::rank`]: below every number, and never an advantage.
            Some(_) => f64::MIN,
            None => 0.0,
        }
    }

    fn told(&self, ad: &Ad) -> Vec<(String, String)> {
        let scope = Scope::of(ad).with_target(&self.ad).within(STEPS);
        // As the member writes them.
        let written = |name: &String| ad.iter().find(|(it, _)| it.eq_ignore_ascii_case(name));
        let there = self.names.iter().filter_map(written);
        let told = there.map(|(name, _)| (name.to_owned(), scope.attribute(name).to_string()));
        let fits = |(name, value): &(String, String)| {
            name.len() <= MAX_ATTRIBUTE && value.len() <= MAX_ATTRIBUTE
        };
        told.filter(fits).take(MAX_ATTRIBUTES).collect()
    }
}

fn accepts(one: &Ad, other: &Ad) -> bool {
    one.get("requirements").is_none()
        || Scope::of(one).with_target(other).within(STEPS).attribute("requirements").is_true()
}

fn parse(text: &str) -> Result<Expr, BadQuery> {
    Expr::parse(text).map_err(|error| BadQuery::Expression { text: text.to_owned(), error })
}
