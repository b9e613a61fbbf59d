//! The program `cinderblock`.

fn main() -> std::process::ExitCode {
    cinderblock_tools::main()
}
