//! What moves leave behind: nothing.

use phantom_tests::lab::Pair;
use phantom_tests::soak::moves;

#[test]
fn twenty_moves_leave_nothing() -> anyhow::Result<()> {
    Pair::scenario("twenty_moves_leave_nothing", |pair| moves::to_and_fro(pair, 2, 10, drop))
}
