//! ClassAds: the expression language in which nodes are described and asked for.
//!
//! The language of HTCondor's users (R. Raman et al., "Matchmaking: Distributed Resource Management
//! for High Throughput Computing", HPDC 1998; the ClassAd chapter of the HTCondor manual):
//!
//! ```text
//!  text ──Expr::parse──▶ Expr ──eval(scope)──▶ Value: UNDEFINED, ERROR, boolean, integer, real,
//!  text ──Ad::parse────▶ Ad ───── my, target ──┘      string, time, span, list, ad
//!  lines ─Ad::parse_old─▶ Ad ──to_old──▶ lines
//! ```
//!
//! - Attribute names and function names know no case; neither does `==` on strings. `=?=` and `is`
//!   do, never give UNDEFINED, and take an integer and a real for different things.
//! - UNDEFINED is what nobody has said, ERROR what makes no sense. Both go through operators, except
//!   that `false && x` is false, `true || x` true, and `undefined ?: x` is x.
//! - A name alone is looked up in the ad at hand, then in the ads around it, then in the other ad
//!   of a match. `MY.` leaves out the other ad, `TARGET.` all but it, and `.name` is of the outermost.
//!   An expression that is selected out of an ad is evaluated where it is written.
//! - Operators by how tightly they bind: `.` and `[]`; `?:`; `- + ! ~` of one side; `* / %`; `+ -`;
//!   `<< >> >>>`; `< <= > >=`; `== != =?= =!= is isnt`; `&`; `^`; `|`; `&&`; `||`; `? :`.
//! - Functions are those of the reference but for `userHome`, `userMap` and `unresolved`, which are
//!   ERROR like every unknown one. Local time is UTC. [`Scope::at`] says what `time()` says.
//! - Two ads match when the `Requirements` of each are true of the other ([`matches()`]); UNDEFINED
//!   and ERROR are not. [`rank()`] tells by which of several an ad is served best.
//! - What is written, in the new syntax (`Display`) or the old one ([`Ad::to_old`]), reads back as the
//!   same.
//! - [`Expr::constraints`] says what an expression needs of single attributes, so that a summary of
//!   many ads can tell that none of them matches. [`analyse`] says why requirements match so few ads.
//!
//! Whatever the text, parsing and evaluating end: nesting, steps and sizes are bounded
//! ([`MAX_DEPTH`], [`MAX_STEPS`], [`MAX_TEXT`]), what makes or looks at many bytes takes many steps,
//! patterns have a size and match in time that grows as the text does, and arithmetic wraps as the
//! reference's does.
//!
//! In what else it differs from the reference, and why, `tests/reference` lists.

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
pub use analysis::{Analysis, MAX_PARTS, MAX_RELAXATIONS, Part, Relaxation, Suggestion, analyse};
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
