//! `include/cinderblock.h` is what the source says, and what it promises never changes.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<PathBuf> {
    // In the order in which a reader wants them.
    [
        "version", "failure", "error", "options", "model", "text", "session", "tokens", "settings",
        "generate", "batch", "state",
    ]
    .map(|name| root().join(format!("src/capi/{name}.rs")))
    .into()
}

/// Run with `CINDERBLOCK_WRITE_HEADER=1` to write the header anew.
#[test]
fn the_committed_header_equals_the_generated_one() {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).expect("cbindgen.toml");
    let builder = sources().into_iter().fold(cbindgen::Builder::new(), cbindgen::Builder::with_src);
    let mut text = Vec::new();
    builder.with_config(config).generate().expect("source that cbindgen understands").write(&mut text);
    let path = root().join("include/cinderblock.h");
    if std::env::var_os("CINDERBLOCK_WRITE_HEADER").is_some() {
        fs::write(&path, &text).expect("header");
    }
    let committed = fs::read(path).expect("header");
    assert!(committed == text, "write it with CINDERBLOCK_WRITE_HEADER=1 cargo test --test c_header");
}

/// Programs have these numbers compiled in.
#[test]
fn numbers_of_the_interface_are_frozen() {
    let header = fs::read_to_string(root().join("include/cinderblock.h")).expect("header");
    let expected = [
        ("OK", 0),
        ("IO", 1),
        ("FORMAT", 2),
        ("UNSUPPORTED", 3),
        ("ARGUMENT", 4),
        ("RESOURCE", 5),
        ("NUMERIC", 6),
        ("INTERNAL", 7),
        ("INTERRUPTED", 8),
        ("MISUSE", 9),
        ("POISONED", 10),
        ("BUFFER", 11),
        ("LOG_ERROR", 1),
        ("LOG_INFO", 2),
        ("ALIGN_AUTO", 0),
        ("ALIGN_LEFT", 1),
        ("ALIGN_TAIL", 2),
        ("CACHE_AUTO", 0),
        ("CACHE_F32", 1),
        ("CACHE_F16", 2),
        ("CACHE_Q8", 3),
        ("SPECULATE_AUTO", 0),
        ("SPECULATE_ON", 1),
        ("SPECULATE_OFF", 2),
        ("END_LENGTH", 0),
        ("END_OF_TEXT", 1),
        ("END_STOP", 2),
        ("END_CALLER", 3),
        ("END_TIME", 4),
    ];
    for (name, number) in expected {
        let line = format!("#define CINDER_{name} {number}\n");
        assert!(header.contains(&line), "{line}");
    }
    let defined =
        header.lines().filter(|line| line.starts_with("#define CINDER_") && !line.contains("VERSION"));
    assert_eq!(defined.count(), expected.len(), "a new number belongs into this list");
}

/// C++ can do everything that C can.
#[test]
fn the_cpp_header_uses_every_function() {
    let read = |name: &str| fs::read_to_string(root().join("include").join(name)).expect("header");
    let (c, cpp) = (read("cinderblock.h"), read("cinderblock.hpp"));
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(String::from).collect()
    };
    let used = words(&cpp);
    let declared = c.split("extern \"C\" {").nth(1).expect("declarations");
    let lines = declared
        .lines()
        .filter(|line| !line.starts_with(' ') && line.contains("(") && line.contains("cinder_"));
    let mut count = 0;
    for line in lines {
        let name = line.split_once('(').expect("parameters").0.rsplit([' ', '*']).next().expect("a name");
        assert!(used.iter().any(|word| word == name), "cinderblock.hpp does not use {name}");
        count += 1;
    }
    assert!((43..80).contains(&count), "{count} functions");
}

/// Every function that C can call catches panics, and has a comment for its parameters.
#[test]
fn every_exported_function_catches_panics() {
    let mut functions = 0;
    for path in sources() {
        let text = fs::read_to_string(&path).expect("source");
        let tail = text.split("#[unsafe(no_mangle)]\n").skip(1);
        for function in tail {
            functions += 1;
            let (signature, rest) = function.split_once(" {\n").expect("a body");
            let name = signature.split("fn ").nth(1).and_then(|text| text.split('(').next()).expect("a name");
            assert!(name.starts_with("cinder_"), "{name}");
            let body = rest.split_once("\n}\n").expect("an end").0;
            // These look up a constant or set a flag.
            let constant =
                ["cinder_version", "cinder_version_number", "cinder_status_name", "cinder_session_cancel"]
                    .contains(&name);
            let guarded = ["call(error, ", "quietly(", "open_with(", "initialize("];
            assert!(constant || guarded.iter().any(|guard| body.contains(guard)), "{name} catches no panic");
            let error = signature.contains("error: *mut *mut cinder_error");
            let status = signature.contains("-> cinder_status") && name != "cinder_error_status";
            assert_eq!(error, status, "{name}: a status comes with an error");
        }
    }
    assert!((43..80).contains(&functions), "{functions} functions");
    println!("{functions} functions");
}
