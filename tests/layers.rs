//! The shape of the source: which room may import which, no circles, no long files, no `unsafe` out of place, plain words.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of `src/`, bottom up: each may import those before it. `docs/architecture.md` has the same table.
const ROOMS: [&str; 13] = [
    "error",
    "memory",
    "files",
    "interrupt",
    "quant",
    "gguf",
    "threads",
    "kernels",
    "cache",
    "model",
    "session",
    "generation",
    "capi",
];

/// Rooms and files in which `unsafe` is allowed.
const UNSAFE: [&str; 4] = ["kernels/", "threads/", "capi/", "model/storage.rs"];

const MAX_FILE: usize = 450;
/// Generated or tabular files, which may be longer.
const TABULAR: [&str; 0] = [];
/// A function with more lines has a comment that gives the reason.
const MAX_FUNCTION: usize = 80;

/// Another language's grammar, and what to write instead.
const WORDS: [(&str, &str); 9] = [
    ("behind", "after"),
    ("so many", "N, or the number"),
    ("not to be had", "not available, or out of"),
    ("come to be", "are reached, exist"),
    ("has come to be", "is reached, exists"),
    ("once and for all", "once"),
    ("tells about", "describes"),
    ("goes on where", "resumes"),
    ("none that the", "an errors section that lists the errors"),
];
/// Where a word of the list means itself.
const ALLOWED: [&str; 6] = [
    "left behind",
    "leaves nothing behind",
    "behind a handle",
    "behind one",
    "behind the table",
    "hides behind",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files under a folder of the repository whose names end so, with their text.
fn files(folder: &str, end: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path: PathBuf = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                let name = path.strip_prefix(root()).expect("inside").to_string_lossy().into_owned();
                found.insert(name, fs::read_to_string(&path).expect("text"));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no files that end in {end}");
    found
}

/// Code without comments, strings and the unit tests at its end.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().expect("a first part");
    let mut code = String::new();
    for line in text.lines() {
        let mut line = line.replace("\\\"", "");
        while let Some((before, rest)) = line.split_once('"') {
            let Some((_, after)) = rest.split_once('"') else { break };
            line = format!("{before}' '{after}");
        }
        code.push_str(line.split("//").next().expect("a first part"));
        code.push('\n');
    }
    code
}

/// The paths that a use tree names: `a::{b, c::d as e, self}` is `a::b`, `a::c::d` and `a`.
fn expand(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    if let Some((before, list)) = tree.split_once('{') {
        let list = list.trim().strip_suffix('}').expect("a closed list");
        let prefix: Vec<String> =
            before.split("::").map(str::trim).filter(|name| !name.is_empty()).map(String::from).collect();
        let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
        for (at, byte) in list.bytes().enumerate() {
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                b',' if depth == 0 => {
                    parts.push(&list[start..at]);
                    start = at + 1;
                }
                _ => {}
            }
        }
        parts.push(&list[start..]);
        let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
        return parts.flat_map(expand).map(|rest| [prefix.clone(), rest].concat()).collect();
    }
    let path = tree.split(" as ").next().expect("a first part");
    vec![path.split("::").map(|name| name.trim().to_string()).filter(|name| name != "self").collect()]
}

/// The module of a file of a crate in `folder`: `kernels/mod.rs` is `kernels`, `error.rs` is `error`.
fn module(folder: &str, file: &str) -> Vec<String> {
    let path = file.strip_prefix(folder).and_then(|path| path.strip_prefix('/')).expect("a source");
    let path = path.strip_suffix(".rs").expect("a source");
    let mut names: Vec<String> = path.split('/').map(String::from).collect();
    if names.last().is_some_and(|name| name == "mod" || name == "lib") {
        names.pop();
    }
    names
}

/// The source of a crate as modules, their imports, and what they export under another module's name.
struct Source {
    /// Module to file.
    files: BTreeMap<Vec<String>, String>,
    /// Module to the absolute paths that its code names, without `crate`, and whether as `pub use`.
    paths: BTreeMap<Vec<String>, Vec<(Vec<String>, bool)>>,
}

impl Source {
    fn read(folder: &str) -> Source {
        let mut source = Source { files: BTreeMap::new(), paths: BTreeMap::new() };
        let texts = files(folder, ".rs");
        source.files = texts.keys().map(|file| (module(folder, file), file.clone())).collect();
        for (file, text) in &texts {
            let (module, code) = (module(folder, file), code(text));
            let mut paths = Vec::new();
            let mut rest = String::new();
            for statement in code.split_inclusive(';') {
                let start = ["pub use ", "pub(crate) use ", "pub(super) use ", "use "]
                    .iter()
                    .filter_map(|word| statement.rfind(&format!("\n{word}")).map(|at| at + 1 + word.len()))
                    .min();
                // A file may begin with an import.
                let Some(start) = start.filter(|_| statement.ends_with(';')) else {
                    rest.push_str(statement);
                    continue;
                };
                let public = statement[..start]
                    .trim_end()
                    .rsplit('\n')
                    .next()
                    .is_some_and(|line| line.starts_with("pub"));
                for path in expand(statement[start..].trim_end_matches(';')) {
                    paths.extend(source.absolute(&module, &path).map(|path| (path, public)));
                }
            }
            for word in rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
                let path: Vec<String> = word.split("::").map(String::from).collect();
                if path.len() > 1 {
                    paths.extend(source.absolute(&module, &path).map(|path| (path, false)));
                }
            }
            source.paths.insert(module, paths);
        }
        source
    }

    /// A path as seen from a module; `None` where it leads out of the crate.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let supers = path.iter().take_while(|name| *name == "super").count();
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "super" => Some([&module[..module.len() - supers], &path[supers..]].concat()),
            child => {
                let inside = [module, &[child.to_string()]].concat();
                self.files.contains_key(&inside).then(|| [module, path].concat())
            }
        }
    }

    /// The module that a path leads to, through re-exports.
    fn resolve(&self, path: &[String]) -> Vec<String> {
        let mut length = path.len();
        while !self.files.contains_key(&path[..length]) {
            length -= 1;
        }
        let (module, rest) = path.split_at(length);
        if let (Some(name), Some(paths)) = (rest.first(), self.paths.get(module)) {
            let exported = paths.iter().find(|(path, public)| *public && path.last() == Some(name));
            if let Some((exported, _)) = exported.filter(|(exported, _)| exported != path) {
                return self.resolve(exported);
            }
        }
        module.to_vec()
    }

    /// Each module with those that it imports.
    fn imports(&self) -> BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> {
        let resolved = |module: &Vec<String>, paths: &Vec<(Vec<String>, bool)>| {
            let found = paths.iter().map(|(path, _)| self.resolve(path));
            found.filter(|import| import != module).collect()
        };
        self.paths.iter().map(|(module, paths)| (module, resolved(module, paths))).collect()
    }
}

fn floor(room: &str) -> usize {
    ROOMS
        .iter()
        .position(|name| *name == room)
        .unwrap_or_else(|| panic!("{room} is not in the table of rooms"))
}

#[test]
fn no_room_imports_a_higher_one() {
    let source = Source::read("src");
    let mut wrong = Vec::new();
    for (module, imports) in source.imports() {
        let Some(room) = module.first() else { continue };
        for import in imports {
            match import.first() {
                None => wrong.push(format!("{} imports from the root of the crate", source.files[module])),
                Some(other) if floor(other) > floor(room) => {
                    wrong.push(format!("{} imports {}", source.files[module], source.files[&import]));
                }
                Some(_) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

type Edges<'a> = BTreeMap<&'a Vec<String>, BTreeSet<&'a Vec<String>>>;

/// The modules that a module imports, directly or through others.
fn reached<'a>(edges: &Edges<'a>, from: &Vec<String>) -> BTreeSet<&'a Vec<String>> {
    let (mut reached, mut left) = (BTreeSet::new(), vec![from]);
    while let Some(module) = left.pop() {
        for import in &edges[module] {
            if reached.insert(*import) {
                left.push(import);
            }
        }
    }
    reached
}

/// The files of a crate that import each other, directly or through others. A child may import its ancestors, and they
/// it.
fn circles(folder: &str) -> Vec<String> {
    let source = Source::read(folder);
    let imports = source.imports();
    let related = |a: &[String], b: &[String]| a.starts_with(b) || b.starts_with(a);
    let edges: Edges = imports
        .iter()
        .map(|(module, found)| (*module, found.iter().filter(|import| !related(module, import)).collect()))
        .collect();
    let mut circles = Vec::new();
    for (module, found) in &edges {
        let found: Vec<&str> = found
            .iter()
            .filter(|import| reached(&edges, import).contains(*module))
            .map(|import| source.files[*import].as_str())
            .collect();
        if !found.is_empty() {
            circles.push(format!("{} imports {}", source.files[*module], found.join(", ")));
        }
    }
    circles
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let wrong = ["src", "tools"].map(circles).concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The table of rooms has a row for each, bottom up or top down: "| `kernels` | ...".
#[test]
fn the_architecture_has_the_same_rooms() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).expect("docs/architecture.md");
    let mut rooms: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(|name| name.trim_start_matches("src/").trim_end_matches('/').trim_end_matches(".rs"))
        .filter(|name| ROOMS.contains(name))
        .collect();
    if rooms.first() == Some(&"capi") {
        rooms.reverse();
    }
    assert_eq!(rooms, ROOMS);
}

#[test]
fn no_file_is_long() {
    let long = |(file, text): (String, String)| {
        let lines = text.lines().count();
        (lines > MAX_FILE && !TABULAR.contains(&file.as_str())).then(|| format!("{file}: {lines} lines"))
    };
    let found: Vec<String> = files("src", ".rs").into_iter().filter_map(long).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The reason stands above the function or on the first line of its body.
#[test]
fn a_long_function_has_a_reason() {
    let mut found = Vec::new();
    for (file, text) in files("src", ".rs").into_iter().chain(files("tools", ".rs")) {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let words = line.trim_start();
            let indent = &line[..line.len() - words.len()];
            let Some(("", name) | (_, name)) = words.split_once("fn ").filter(|(before, _)| {
                before
                    .split_whitespace()
                    .all(|word| word.chars().all(|c| c.is_lowercase() || "()\"C".contains(c)))
            }) else {
                continue;
            };
            let end = format!("{indent}}}");
            let Some(length) = lines[start..].iter().position(|line| *line == end) else { continue };
            let comment = |line: &&str| line.trim_start().starts_with("// ");
            let body = lines[start..].iter().position(|line| line.ends_with('{')).unwrap_or(0);
            let above = lines[..start].iter().rev().take_while(|line| {
                let line = line.trim_start();
                line.starts_with("//") || line.starts_with("#[")
            });
            let reason = above.copied().any(|line| comment(&line)) || comment(&lines[start + body + 1]);
            if length >= MAX_FUNCTION && !reason {
                let name = name.split(['(', '<']).next().unwrap_or(name);
                found.push(format!("{file}: {name} has {} lines", length + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn unsafe_code_is_forbidden_outside_its_rooms() {
    const FORBIDDEN: &str = "#![forbid(unsafe_code)]";
    let sources = files("src", ".rs");
    let mut wrong = Vec::new();
    for (file, text) in &sources {
        let path = file.strip_prefix("src/").expect("a source");
        // `forbid` cannot be taken back, so what is above an exception denies.
        let above = ["lib.rs", "model/mod.rs"].contains(&path);
        if above || UNSAFE.iter().any(|place| path.starts_with(place)) {
            continue;
        }
        let room = path.split('/').next().expect("a room");
        let inherited =
            sources.get(&format!("src/{room}/mod.rs")).is_some_and(|text| text.contains(FORBIDDEN));
        if !inherited && !text.contains(FORBIDDEN) {
            wrong.push(file.as_str());
        }
    }
    assert!(wrong.is_empty(), "without {FORBIDDEN}: {}", wrong.join(", "));
}

/// README, docs, header, comments and messages, of which `--help` is made.
#[test]
fn prose_is_plain() {
    let mut texts = files("docs", ".md");
    for (folder, end) in
        [("src", ".rs"), ("tools", ".rs"), ("include", ".h"), ("include", ".hpp"), ("examples", ".rs")]
    {
        texts.extend(files(folder, end));
    }
    texts.insert("README.md".into(), fs::read_to_string(root().join("README.md")).expect("README.md"));
    let mut found = Vec::new();
    for (file, text) in texts {
        for (number, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            let plain = ALLOWED.iter().fold(lower, |line, phrase| line.replace(phrase, ""));
            let words: Vec<&str> =
                plain.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
            let text = format!(" {} ", words.join(" "));
            for (word, better) in WORDS {
                // A name in the code is no prose.
                let code = file.ends_with(".rs") && !line.contains("//") && !line.contains('"');
                if text.contains(&format!(" {word} ")) && !code {
                    found.push(format!(
                        "{file}:{}: {word:?}, better {better:?}: {}",
                        number + 1,
                        line.trim()
                    ));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
