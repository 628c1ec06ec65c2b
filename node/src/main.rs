//! `phantom`.

fn main() -> std::process::ExitCode {
    phantom::main()
}
