//! Which tensor gets which type: the standard of a base type, and rules by name that change it.

use std::path::Path;

use cinderblock::unstable::model::{Role, TensorSpec};
use cinderblock::unstable::quant::WeightType;
use cinderblock::{Error, Result};

use crate::arguments::read_text;
use crate::input;

/// A pattern of tensor names and the type that they get.
#[derive(Clone, Debug)]
pub struct Rule {
    pub pattern: String,
    pub kind: WeightType,
}

impl Rule {
    pub fn parse(text: &str) -> std::result::Result<Rule, String> {
        let (pattern, kind) = text.rsplit_once('=').ok_or("expected PATTERN=TYPE")?;
        let (pattern, kind) = (pattern.trim(), kind.trim());
        let names = WeightType::ALL.map(WeightType::name).join(", ");
        let kind =
            WeightType::from_name(kind).ok_or(format!("found type {kind:?}, expected one of {names}"))?;
        Ok(Rule { pattern: pattern.to_string(), kind })
    }

    /// Reads rules from a file: one a line, `#` begins a comment.
    pub fn read(path: &Path) -> Result<Vec<Rule>> {
        let text = read_text(path, input::SMALL)?;
        let lines = text.lines().enumerate();
        let content = lines.map(|(at, line)| (at, line.split('#').next().unwrap_or("").trim()));
        content
            .filter(|(_, line)| !line.is_empty())
            .map(|(at, line)| {
                let error =
                    |detail| Error::format(format!("recipe, line {}: {detail}", at + 1)).in_file(path);
                Rule::parse(line).map_err(error)
            })
            .collect()
    }

    /// Whether it speaks of a tensor. Vectors are always f32.
    pub fn matches(&self, spec: &TensorSpec) -> bool {
        spec.role != Role::Vector && matches(&self.pattern, &spec.name)
    }
}

/// Whether a name matches a pattern in which `*` stands for any text: each piece is found as early as possible.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(start) else { return false };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in middle.split('*') {
        match name.find(piece) {
            Some(at) => name = &name[at + piece.len()..],
            None => return false,
        }
    }
    name.ends_with(end)
}

/// The types of all tensors: those of the base type, changed by the rules, of which the last match counts.
///
/// In `q4`, tables and head stay at 8 bits. A table is looked up, not multiplied, so its bits cost no speed;
/// on the demo model they halve the loss of quality. The head alone accounts for most of the rest.
pub fn recipe(kind: WeightType, specs: &[TensorSpec], rules: &[Rule]) -> Result<Vec<WeightType>> {
    for rule in rules {
        if !specs.iter().any(|spec| rule.matches(spec)) {
            let pattern = &rule.pattern;
            return Err(Error::argument(format!("--tensor-type: no matrix is named {pattern:?}")));
        }
    }
    Ok(specs
        .iter()
        .map(|spec| {
            let standard = match (spec.role, kind) {
                (Role::Vector, _) => WeightType::F32,
                (Role::Table | Role::Head, WeightType::Q4) => WeightType::Q8,
                _ => kind,
            };
            rules.iter().rev().find(|rule| rule.matches(spec)).map_or(standard, |rule| rule.kind)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("*.b", "x.a.b", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcdef", false),
            ("*", "", true),
            ("a*a", "a", false),
            ("*b*b", "ab", false),
            ("**x**", "axb", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        assert!(Rule::parse("a=q5").is_err() && Rule::parse("a").is_err());
    }
}
