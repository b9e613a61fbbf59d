//! The C library as its users meet it: installed, compiled against with gcc and clang, static and shared, and run
//! under Valgrind and AddressSanitizer. A tool that is missing skips its test by name, unless
//! `CINDERBLOCK_REQUIRE_TOOLS` is set.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::common::damage::{DAMAGE, File};
use crate::common::{Outcome, case, demo_model, quantize, root, run, skip_for_tool};
use crate::documents::row;
use tempfile::TempDir;

const COMPILERS: [&str; 2] = ["gcc", "clang"];
const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];

/// Whether all tools are there; reports the first that is not.
fn has(tools: &[&str]) -> bool {
    let missing = |tool: &&&str| Command::new(tool).arg("--version").output().is_err();
    let Some(missing) = tools.iter().find(missing) else { return true };
    skip_for_tool(missing);
    false
}

/// Where the library with the features is installed.
fn install(features: &str) -> PathBuf {
    // Two builds at once would take each other's files.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    // Linkers take a comma for their own.
    let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join(features.replace(',', "-"));
    let _ = fs::remove_dir_all(&prefix);
    // Its build may take longer than `run` allows.
    let output = Command::new(root().join("tools/install.sh")).arg(&prefix).arg(features).output();
    let output = output.expect("tools/install.sh");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    prefix
}

fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| install("capi,tokenizer"))
}

/// Where the library is installed, for the commands of README and docs; `None` without the tools.
pub fn prefix_for_pages() -> Option<&'static Path> {
    has(&["gcc", "pkg-config"]).then(prefix)
}

fn library() -> PathBuf {
    prefix().join("lib/libcinderblock.so")
}

fn words(outcome: Outcome) -> Vec<String> {
    outcome.success().split_whitespace().map(String::from).collect()
}

/// What pkg-config says of an installed library; a program only knows that.
fn flags(prefix: &Path, arguments: &[&str]) -> Vec<String> {
    let path = prefix.join("lib/pkgconfig");
    words(run(Command::new("pkg-config").args(arguments).arg("cinderblock").env("PKG_CONFIG_PATH", path)))
}

/// How a program gets the library.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Link {
    Static,
    Shared,
}

/// Compiles sources of the repository into a program in `folder`.
fn compile(compiler: &str, sources: &[&str], link: Link, extra: &[&str], folder: &Path) -> PathBuf {
    let name = Path::new(sources[0]).file_stem().expect("a name").to_string_lossy();
    let program = folder.join(format!("{name}-{}-{link:?}", compiler.replace('+', "p")));
    let mut command = Command::new(compiler);
    command.args(WARNINGS).args(extra).arg("-O1").arg("-g").arg("-o").arg(&program);
    command.args(sources.iter().map(|source| root().join(source))).args(flags(prefix(), &["--cflags"]));
    match link {
        Link::Shared => {
            let rpath = format!("-Wl,-rpath,{}", prefix().join("lib").display());
            command.args(flags(prefix(), &["--libs"])).args([&rpath, "-lpthread", "-ldl"])
        }
        // The library itself static, the system's as they usually are.
        Link::Static => {
            let libraries = flags(prefix(), &["--static", "--libs"]);
            let ours =
                |word: String| if word == "-lcinderblock" { "-l:libcinderblock.a".into() } else { word };
            command.args(libraries.into_iter().map(ours))
        }
    };
    let outcome = run(&mut command);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{command:?}");
    program
}

const C11: &[&str] = &["-std=c11", "-D_POSIX_C_SOURCE=200809L"];

/// Runs a program that must succeed and say nothing on standard error.
fn output<S: AsRef<OsStr>>(program: &Path, arguments: &[S]) -> String {
    let outcome = run(Command::new(program).args(arguments));
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{program:?}: {}", outcome.stdout);
    outcome.stdout
}

#[test]
fn examples_run_with_both_compilers_static_and_shared() {
    let folder = TempDir::new().expect("temporary folder");
    let mut texts = Vec::new();
    for compiler in COMPILERS.into_iter().filter(|compiler| has(&[compiler, "pkg-config"])) {
        for link in [Link::Static, Link::Shared] {
            let build = |name: &str| {
                let source = format!("examples/c/{name}.c");
                compile(compiler, &[&source], link, C11, folder.path())
            };
            let minimal = output(&build("minimal"), &[demo_model()]);
            let batch = output(&build("batch"), &[demo_model()]);
            assert!(minimal.len() > 200 && batch.matches("---").count() == 4, "{minimal}\n{batch}");
            texts.push((minimal, batch));
            let threads = output(&build("threads"), &[demo_model()]);
            assert!(threads.starts_with("CINDER_OK") && threads.contains("CINDER_INTERRUPTED"), "{threads}");
            // Standard input is empty, so the conversation is short.
            assert_eq!(output(&build("chat"), &[demo_model()]), "> ");

            let compiler = if compiler == "gcc" { "g++" } else { "clang++" };
            if has(&[compiler]) {
                let story =
                    compile(compiler, &["examples/cpp/story.cpp"], link, &["-std=c++17"], folder.path());
                let text = output(&story, &[demo_model()]);
                assert!(text.contains("\nenough\ntoken id: found 4294967295"), "{text}");
            }
        }
    }
    assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "the same seed gives the same text: {texts:?}");
}

#[test]
fn the_cpp_header_covers_every_function() {
    let folder = TempDir::new().expect("temporary folder");
    for compiler in ["g++", "clang++"].into_iter().filter(|compiler| has(&[compiler, "pkg-config"])) {
        let extra = ["-std=c++17", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"];
        let program = compile(compiler, &["tests/c/whole.cpp"], Link::Static, &extra, folder.path());
        output(&program, &[demo_model(), folder.path().to_path_buf()]);
    }
}

#[test]
fn the_chat_example_answers() {
    if !has(&["gcc", "pkg-config"]) {
        return;
    }
    let folder = TempDir::new().expect("temporary folder");
    let chat = compile("gcc", &["examples/c/chat.c"], Link::Static, C11, folder.path());
    let script = r#"printf 'The old house\nWho?\n' | "$0" "$1""#;
    let text = run(Command::new("sh").arg("-c").arg(script).arg(chat).arg(demo_model())).success();
    assert!(text.matches("> ").count() >= 3 && text.len() > 100, "{text}");
}

#[test]
fn the_python_example_runs() {
    if !has(&["python3"]) {
        return;
    }
    let script = root().join("examples/python/story.py");
    let text = output(Path::new("python3"), &[script, library(), demo_model()]);
    assert!(
        text.len() > 200 && text.ends_with("\nenough\nno such file: no such file or directory\n"),
        "{text}"
    );
}

/// As Swift's importer does, which is clang's.
#[test]
fn clang_finds_and_links_the_module() {
    if !has(&["clang"]) {
        return;
    }
    let folder = TempDir::new().expect("temporary folder");
    let (source, program) = (folder.path().join("version.m"), folder.path().join("version"));
    let text = "@import Cinderblock;\nint main(void) { return *cinder_version() == 0; }\n";
    fs::write(&source, text).expect("a source");
    let mut command = Command::new("clang");
    command.args(WARNINGS).args(["-x", "objective-c", "-fmodules", "-I"]);
    command
        .arg(prefix().join("include/cinderblock"))
        .arg(format!("-fmodules-cache-path={}", folder.path().display()));
    command.arg(source).arg("-o").arg(&program);
    // The language is the source's, not the library's.
    command.args(["-x", "none"]).arg(library()).arg(format!("-Wl,-rpath,{}", prefix().join("lib").display()));
    let outcome = run(&mut command);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{command:?}");
    output::<&str>(&program, &[]);
}

#[test]
fn the_header_compiles_alone_in_two_units() {
    let folder = TempDir::new().expect("temporary folder");
    let languages = [
        ("gcc", "c", "-std=c11"),
        ("gcc", "c++", "-std=c++17"),
        ("clang", "c", "-std=c11"),
        ("clang", "c++", "-std=c++17"),
    ];
    for (compiler, language, standard) in languages {
        if has(&[compiler, "pkg-config"]) {
            let extra = ["-x", language, standard];
            // `-x` must not reach the libraries, so these are found by the shared library's name alone.
            let program = compile(
                compiler,
                &["tests/c/abi_one.c", "tests/c/abi_two.c"],
                Link::Shared,
                &extra,
                folder.path(),
            );
            output(&program, &[] as &[&str]);
        }
    }
}

/// A model without a tokenizer, an empty folder, and files that lie.
struct Abuse(TempDir);

impl Abuse {
    /// With at most `count` of the hostile files.
    fn new(count: usize) -> Abuse {
        let folder = TempDir::new().expect("temporary folder");
        for name in ["scratch", "hostile"] {
            fs::create_dir(folder.path().join(name)).expect("folder");
        }
        let (_quantized, plain) = quantize(&case("main"), "q4");
        fs::copy(plain, folder.path().join("plain.gguf")).expect("model");
        let file = File::new("block1");
        for (index, (name, skip, bytes, _)) in DAMAGE.iter().enumerate().take(count) {
            let damaged = file.patched(file.after(name).strict_add_signed(*skip), bytes);
            fs::write(folder.path().join(format!("hostile/{index}.gguf")), damaged).expect("file");
        }
        for tenth in 0..10.min(count) {
            let part = &file.0[..file.0.len() * tenth / 10];
            fs::write(folder.path().join(format!("hostile/part{tenth}.gguf")), part).expect("file");
        }
        Abuse(folder)
    }

    fn arguments(&self) -> Vec<PathBuf> {
        let path = |name: &str| self.0.path().join(name);
        let hostile =
            fs::read_dir(path("hostile")).expect("folder").map(|entry| entry.expect("entry").path());
        [demo_model(), path("plain.gguf"), path("scratch")].into_iter().chain(hostile).collect()
    }
}

#[test]
fn misuse_is_answered_with_a_status() {
    let folder = TempDir::new().expect("temporary folder");
    for compiler in COMPILERS.into_iter().filter(|compiler| has(&[compiler, "pkg-config"])) {
        let abuse = Abuse::new(usize::MAX);
        let extra = ["-std=c11", "-Wno-missing-field-initializers"];
        let program = compile(compiler, &["tests/c/abuse.c"], Link::Static, &extra, folder.path());
        output(&program, &abuse.arguments());
    }
}

#[test]
fn address_sanitizer_finds_no_errors() {
    let folder = TempDir::new().expect("temporary folder");
    for compiler in COMPILERS.into_iter().filter(|compiler| has(&[compiler, "pkg-config"])) {
        let sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"];
        let build = |source: &str| {
            let extra = [C11, &sanitize, &["-Wno-missing-field-initializers"]].concat();
            compile(compiler, &[source], Link::Static, &extra, folder.path())
        };
        for name in ["minimal", "threads", "batch", "chat"] {
            output(&build(&format!("examples/c/{name}.c")), &[demo_model()]);
        }
        // Memory that is not to be had is null, as without the sanitizer.
        let program = build("tests/c/abuse.c");
        let abuse = Abuse::new(usize::MAX);
        let mut command = Command::new(program);
        command.args(abuse.arguments()).env("ASAN_OPTIONS", "allocator_may_return_null=1");
        let outcome = run(&mut command);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    }
}

#[test]
fn valgrind_finds_no_errors() {
    if !has(&["gcc", "pkg-config", "valgrind"]) {
        return;
    }
    let folder = TempDir::new().expect("temporary folder");
    let build = |source: &str| {
        let extra = [C11, &["-Wno-missing-field-initializers"]].concat();
        compile("gcc", &[source], Link::Static, &extra, folder.path())
    };
    let valgrind = |program: &Path, arguments: &[PathBuf]| {
        // "Possibly" lost is what tables of the standard library and of rayon look like, whose pointers do not
        // point to the start of their memory; it is not lost and does not grow.
        let options = [
            "--quiet",
            "--error-exitcode=9",
            "--leak-check=full",
            "--show-leak-kinds=definite,indirect",
            "--errors-for-leak-kinds=definite,indirect",
        ];
        let mut command = Command::new("valgrind");
        command.args(options).arg(program).args(arguments);
        let outcome = run(&mut command);
        assert_eq!(outcome.code, Some(0), "{program:?} {:?}\n{}", outcome.time, outcome.stderr);
    };
    for name in ["minimal", "threads", "batch", "chat"] {
        valgrind(&build(&format!("examples/c/{name}.c")), &[demo_model()]);
    }
    valgrind(&build("tests/c/abuse.c"), &Abuse::new(12).arguments());
    let copy = folder.path().join("libcopy.so");
    fs::copy(library(), &copy).expect("library");
    let reload =
        compile("gcc", &["tests/c/reload.c"], Link::Shared, &["-std=gnu11", "-Wno-pedantic"], folder.path());
    valgrind(&reload, &[library(), copy, demo_model()]);
}

/// The library and the program are instrumented, the standard library is not.
#[test]
fn thread_sanitizer_finds_no_races() {
    if !has(&["clang"]) {
        return;
    }
    let folder = TempDir::new().expect("temporary folder");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let sysroot = words(run(Command::new("rustc").args(["--print", "sysroot"]))).concat();
    let runtime = Path::new(&sysroot).join(format!("lib/rustlib/{target}/lib/librustc-stable_rt.tsan.a"));
    if !runtime.exists() {
        skip_for_tool(&runtime.display().to_string());
        return;
    }
    let build = Path::new(env!("CARGO_TARGET_TMPDIR")).join("thread-sanitizer");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root()).args(["rustc", "--release", "--quiet", "--lib", "--no-default-features"]);
    cargo.args(["--features", "capi,tokenizer", "--crate-type", "staticlib", "--target", &target]);
    // The sanitizer is not a stable option of the compiler.
    cargo.env("RUSTC_BOOTSTRAP", "1").env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_TARGET_DIR", &build);
    cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    cargo.env("RUSTFLAGS", "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer");
    let output = cargo.output().expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let library = build.join(&target).join("release/libcinderblock.a");
    for name in ["threads", "batch"] {
        let (object, program) = (folder.path().join(format!("{name}.o")), folder.path().join(name));
        let mut compile = Command::new("clang");
        compile.args(C11).args(["-g", "-O1", "-fsanitize=thread", "-c", "-o"]).arg(&object);
        compile.arg("-I").arg(root().join("include"));
        run(compile.arg(root().join(format!("examples/c/{name}.c")))).success();
        let mut link = Command::new("clang");
        link.arg("-o").arg(&program).arg(&object).arg(&library);
        link.arg("-Wl,--whole-archive").arg(&runtime).arg("-Wl,--no-whole-archive");
        run(link.args(["-lm", "-lpthread", "-ldl", "-lresolv", "-lrt"])).success();
        let suppressions = root().join("tests/c/thread_sanitizer.supp");
        for _ in 0..3 {
            let mut command = Command::new(&program);
            command.arg(demo_model());
            let outcome =
                run(command.env("TSAN_OPTIONS", format!("suppressions={}", suppressions.display())));
            assert_eq!(outcome.code, Some(0), "{name}: {}", outcome.stderr);
        }
    }
}

#[test]
fn the_library_can_be_loaded_twice_and_unloaded() {
    if !has(&["gcc", "pkg-config"]) {
        return;
    }
    let folder = TempDir::new().expect("temporary folder");
    let copy = folder.path().join("libcopy.so");
    fs::copy(library(), &copy).expect("library");
    let reload =
        compile("gcc", &["tests/c/reload.c"], Link::Shared, &["-std=gnu11", "-Wno-pedantic"], folder.path());
    output(&reload, &[library(), copy, demo_model()]);
}

#[test]
fn only_the_functions_of_the_header_are_visible() {
    if !has(&["nm"]) {
        return;
    }
    let symbols = |arguments: &[&str], file: PathBuf| -> Vec<String> {
        let text = run(Command::new("nm").args(arguments).arg(file)).success();
        let mut names: Vec<String> =
            text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(_, name)| name.to_string()).collect();
        names.sort();
        names
    };
    let header = fs::read_to_string(root().join("include/cinderblock.h")).expect("header");
    let shared = symbols(&["--dynamic", "--defined-only", "--extern-only"], library());
    let archive = symbols(&["--defined-only", "--extern-only"], prefix().join("lib/libcinderblock.a"));
    assert_eq!(shared, archive);
    assert!(shared.len() >= 43, "{shared:?}");
    for name in &shared {
        assert!(name.starts_with("cinder_") && header.contains(&format!("{name}(")), "{name}");
    }
}

/// A program that is nothing but gcc and the installed package, without a shared library of any kind.
#[test]
fn a_static_program_is_small() {
    if !has(&["gcc", "pkg-config", "strip"]) {
        return;
    }
    let folder = TempDir::new().expect("temporary folder");
    for features in ["capi,tokenizer", "capi"] {
        let installed = if features == "capi" { install(features) } else { prefix().to_path_buf() };
        let program = folder.path().join(features);
        let source = if features == "capi" { "tests/c/tokens.c" } else { "examples/c/minimal.c" };
        let mut command = Command::new("gcc");
        command.args(["-O2", "-static", "-Wl,--gc-sections", "-o"]).arg(&program).arg(root().join(source));
        run(command.args(flags(&installed, &["--static", "--cflags", "--libs"]))).success();
        run(Command::new("strip").arg(&program)).success();
        let bytes = fs::metadata(&program).expect("program").len();
        let measured = bytes as f64 / 1e6;
        println!("static, stripped, {features}: {measured:.2} MB");
        let start = if features == "capi" { "| the same without the tokenizer" } else { "| static program" };
        let quoted: f64 = row("docs/embedding.md", start)[1].trim_end_matches(" MB").parse().expect("a size");
        // Compilers differ a little.
        assert!((measured / quoted - 1.0).abs() < 0.05, "{features}: {measured:.2} MB, docs say {quoted} MB");
        assert!(output(&program, &[demo_model()]).len() > 50);
    }
}

#[test]
fn cmake_finds_the_package() {
    if !has(&["cmake", "gcc"]) {
        return;
    }
    let folder = TempDir::new().expect("temporary folder");
    let lists = format!(
        "cmake_minimum_required(VERSION 3.16)\nproject(host C)\nfind_package(cinderblock {} REQUIRED)\n\
         foreach(kind IN ITEMS cinderblock static)\nadd_executable(host_${{kind}} {})\n\
         target_link_libraries(host_${{kind}} cinderblock::${{kind}})\nendforeach()\n",
        env!("CARGO_PKG_VERSION"),
        root().join("examples/c/minimal.c").display()
    );
    fs::write(folder.path().join("CMakeLists.txt"), lists).expect("lists");
    let build = folder.path().join("build");
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(folder.path()).arg("-B").arg(&build);
    run(configure.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix().display()))).success();
    run(Command::new("cmake").arg("--build").arg(&build)).success();
    for kind in ["cinderblock", "static"] {
        assert!(output(&build.join(format!("host_{kind}")), &[demo_model()]).len() > 200);
    }
}
