//! The Rust examples run, and the README's program is one of them.

macro_rules! examples {
    ($($name:ident)*) => {
        $(mod $name {
            include!(concat!("../examples/", stringify!($name), ".rs"));

            #[test]
            fn runs() {
                main().expect("the demo model is part of the repository");
            }
        })*
    };
}

examples!(text streaming batch sessions tokens);

#[test]
fn the_program_of_the_readme_is_an_example() {
    let example = include_str!("../examples/text.rs");
    let (_, program) = example.split_once("\n\n").expect("a comment above the program");
    assert!(include_str!("../README.md").contains(program));
}
