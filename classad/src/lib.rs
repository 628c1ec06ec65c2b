//! ClassAds: the expression language in which nodes are described and asked for.
//!
//! The language of HTCondor's users (R. Raman et al., "Matchmaking: Distributed Resource Management
//! for High Throughput Computing", HPDC 1998; the ClassAd chapter of the HTCondor manual), as far as
//! it is here:
//!
//! ```text
//!  text ──Expr::parse──▶ Expr ──eval(scope)──▶ Value: UNDEFINED, ERROR, boolean, integer, real,
//!  text ──Ad::parse────▶ Ad ───── my, target ──┘      string, list, ad
//! ```
//!
//! - Attribute names and function names know no case; neither does `==` on strings. `=?=` and `is`
//!   do, never give UNDEFINED, and take an integer and a real for different things.
//! - UNDEFINED is what nobody has said, ERROR what makes no sense. Both go through operators, except
//!   that `false && x` is false, `true || x` true, and `undefined ?: x` is x.
//! - A name alone is looked up in the ad at hand, then in the ads around it, then in the other ad
//!   of a match. `MY.` and `TARGET.` say which.
//! - Two ads match when the `Requirements` of each are true of the other ([`matches()`]).
//! - [`Expr::constraints`] says what an expression needs of single attributes, so that a summary of
//!   many ads can tell that none of them matches.
//!
//! Whatever the text, parsing and evaluating end: nesting, steps and sizes are bounded
//! ([`MAX_DEPTH`], [`MAX_STEPS`], [`MAX_TEXT`]), and arithmetic wraps as the reference's does.
//!
//! Absent so far: absolute and relative times, the functions nobody uses in job files, and the
//! line-based old syntax of ads.

mod ad;
mod analysis;
mod constraint;
mod eval;
mod expr;
mod functions;
mod lex;
mod name;
mod old;
mod operators;
mod parse;
mod time;
mod value;
mod write;

pub use ad::{Ad, matches, rank};
pub use analysis::{
    Analysis, MAX_PARTS, MAX_RELAXATIONS, PART_STEPS, Part, Relaxation, Suggestion, analyse,
};
pub use constraint::{Comparison, Constraint};
pub use eval::Scope;
pub use expr::Expr;
pub use old::WriteError;
pub use parse::ParseError;
pub use time::AbsoluteTime;
pub use value::Value;

/// How deep parentheses, lists, ads, calls and references may be nested.
pub const MAX_DEPTH: usize = 100;
/// How many operations one evaluation may take; more are an ERROR.
pub const MAX_STEPS: u32 = 100_000;
/// The longest text that is parsed, and the longest string that comes out, in bytes.
pub const MAX_TEXT: usize = 1 << 20;
