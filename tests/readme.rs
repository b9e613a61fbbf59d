//! The README's Rust program is the one in `examples`, and it runs.

mod program {
    include!("../examples/tokens.rs");

    pub fn run() -> cinderblock::Result<()> {
        main()
    }
}

#[test]
fn the_program_of_the_readme_runs() {
    assert!(include_str!("../README.md").contains(include_str!("../examples/tokens.rs")));
    program::run().expect("the demo model is part of the repository");
}
