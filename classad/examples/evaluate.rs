//! Evaluates each line of its input in one ad and prints what it comes to: `evaluate '[ a = 1 ]'`.

use std::io::BufRead;

use phantom_classad::{Ad, Expr, Scope};

fn main() {
    let text = std::env::args().nth(1).unwrap_or_else(|| "[]".to_owned());
    let ad = Ad::parse(&text).expect("an ad");
    for line in std::io::stdin().lock().lines() {
        match Expr::parse(&line.expect("a line")) {
            Ok(expr) => println!("{}", Scope::of(&ad).eval(&expr)),
            Err(error) => println!("syntax: {error}"),
        }
    }
}
