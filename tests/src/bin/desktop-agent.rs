//! The agent of a test desktop; see `phantom_tests::desktops`.

fn main() -> anyhow::Result<()> {
    phantom_tests::desktops::agent::main()
}
