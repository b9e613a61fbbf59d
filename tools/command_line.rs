//! The command line: arguments to a verb, a result to an exit code.

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use cinderblock::{Error, ErrorKind, Result};
use clap::error::{ContextKind, ContextValue, ErrorKind as UsageErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

#[cfg(feature = "serve")]
use crate::verbs::serve;
use crate::verbs::{batch, bench, edit, inspect, logits, perplexity, quantize, run, synthesize, tokenize};
use crate::{interrupt, output, signals};

/// Run Block Transformer language models on the CPU
#[derive(Parser)]
#[command(
    name = "cinderblock",
    version,
    max_term_width = 100,
    propagate_version = true,
    args_override_self = true,
    arg_required_else_help = true,
    after_help = "cinderblock VERB --help explains a verb, with examples"
)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
#[command(subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
enum Verb {
    // These are far larger than the others.
    Run(Box<run::Arguments>),
    Batch(Box<batch::Arguments>),
    #[cfg(feature = "serve")]
    Serve(Box<serve::Arguments>),
    Quantize(Box<quantize::Arguments>),
    Edit(edit::Arguments),
    Perplexity(perplexity::Arguments),
    Logits(logits::Arguments),
    Inspect(inspect::Arguments),
    Tokenize(tokenize::Arguments),
    Bench(bench::Arguments),
    Synthesize(synthesize::Arguments),
    Completions(Completions),
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  cinderblock completions bash > ~/.bash_completion
  cinderblock completions fish > ~/.config/fish/completions/cinderblock.fish";

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_long_help = COMPLETIONS_EXAMPLES)]
struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

/// The arguments of a verb, from words as they follow its name on the command line.
///
/// # Errors
/// `Argument` if they do not fit.
pub fn parse<A: clap::Args>(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<A> {
    let command = A::augment_args(clap::Command::new("cinderblock")).no_binary_name(true);
    let arguments = command.args_override_self(true).try_get_matches_from(words);
    arguments
        .and_then(|matches| A::from_arg_matches(&matches))
        .map_err(|error| Error::argument(usage_line(&error)))
}

/// Runs the verb that the arguments of the process name.
pub fn main() -> ExitCode {
    ExitCode::from(main_with(std::env::args_os()))
}

/// Runs the verb that words name, of which the first is the program, and gives the exit code. The process is the
/// program's: it handles signals and panics as a program does.
pub fn main_with(words: impl IntoIterator<Item = OsString>) -> u8 {
    signals::survive_size_limits();
    let line = match CommandLine::try_parse_from(words) {
        Ok(line) => line,
        Err(error) => return usage(&error),
    };
    signals::explain_bus_errors();
    // A panic is a defect, but still one line: the hook keeps its text, which `internal` prints.
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string().lines().collect::<Vec<_>>().join(" ");
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }));
    finish(
        std::panic::catch_unwind(AssertUnwindSafe(|| dispatch(line.verb)))
            .unwrap_or_else(|_| Err(internal())),
    )
}

/// What the last panic said.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

fn internal() -> Error {
    let text = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
    Error::new(ErrorKind::Internal, format!("a defect in this program, please report it: {text}"))
}

fn dispatch(verb: Verb) -> Result<()> {
    match verb {
        Verb::Run(arguments) => run::run(*arguments),
        Verb::Batch(arguments) => batch::run(*arguments),
        #[cfg(feature = "serve")]
        Verb::Serve(arguments) => serve::run(*arguments),
        Verb::Quantize(arguments) => quantize::run(*arguments),
        Verb::Edit(arguments) => edit::run(arguments),
        Verb::Perplexity(arguments) => perplexity::run(arguments),
        Verb::Logits(arguments) => logits::run(arguments),
        Verb::Inspect(arguments) => inspect::run(arguments),
        Verb::Tokenize(arguments) => tokenize::run(arguments),
        Verb::Bench(arguments) => bench::run(arguments),
        Verb::Synthesize(arguments) => synthesize::run(arguments),
        Verb::Completions(arguments) => completions(arguments.shell),
    }
}

/// The exit code, and the line on standard error if something went wrong.
fn finish(result: Result<()>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            // A reader that has seen enough, as `head` has, is no failure.
            if output::is_closed_pipe(&error) {
                return 0;
            }
            // The end of a verb that has reported it itself is empty.
            if !error.detail().is_empty() {
                output::message(&format!("error: {error}"));
            }
            match (error.kind(), interrupt::signal()) {
                (ErrorKind::Argument, _) => 2,
                // The parent sees the signal; a shell reports 128 + its number.
                (ErrorKind::Interrupted, Some(signal)) => signals::die(signal),
                (ErrorKind::Interrupted, None) => signals::exit_code(signals::INTERRUPT) as u8,
                _ => 1,
            }
        }
    }
}

/// Help and version go to stdout; a bare program gets its help on stderr; a usage error becomes one line.
fn usage(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        return finish(output::print(&error.render().to_string()));
    }
    if error.kind() == UsageErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        output::message(error.render().to_string().trim_end());
    } else {
        output::message(&format!("error: {} (see --help)", usage_line(error)));
    }
    2
}

/// A usage error as one line, with a name like the one that was found if there is one.
fn usage_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let first: Vec<&str> = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let mut line = first.join(" ");
    if let Some(rest) = line.strip_prefix("error: ") {
        line = rest.to_string();
    }
    let suggestion =
        [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue]
            .into_iter()
            .find_map(|kind| match error.get(kind)? {
                ContextValue::String(name) => Some(name.clone()),
                ContextValue::Strings(names) => names.first().cloned(),
                _ => None,
            });
    match suggestion {
        Some(name) => format!("{line}; did you mean {name}?"),
        None => line,
    }
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "cinderblock", &mut script);
    let script = String::from_utf8(script)
        .map_err(|_| Error::new(ErrorKind::Format, "the completion script is not UTF-8"))?;
    output::print(&script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    /// Words of a line of shell without escapes outside of quotes.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, false);
        for c in line.chars() {
            match c {
                '\'' => {
                    quote = !quote;
                    word.get_or_insert_default();
                }
                c if c.is_whitespace() && !quote => words.extend(word.take()),
                c => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        words
    }

    #[test]
    fn the_examples_of_the_help_are_commands() {
        let mut command = CommandLine::command();
        command.build();
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let help =
                verb.get_after_long_help().unwrap_or_else(|| panic!("{verb} has no example")).to_string();
            assert!(help.lines().all(|line| line.len() <= 80), "{help}");
            let mut count = 0;
            for line in help.lines().filter(|line| line.starts_with("  ")) {
                let start = line.find("cinderblock").expect("an example calls the program");
                let words = words(&line[start..]);
                let end = words.iter().position(|word| word == ">").unwrap_or(words.len());
                let parsed = CommandLine::try_parse_from(&words[..end]);
                assert!(parsed.is_ok(), "{line}: {}", parsed.err().map_or(String::new(), |e| e.to_string()));
                count += 1;
            }
            assert!(count > 0, "{help}");
        }
    }

    #[test]
    fn a_usage_error_names_what_may_have_been_meant() {
        let line = |words: &[&str]| {
            usage_line(
                &CommandLine::try_parse_from([&["cinderblock"], words].concat()).err().expect("an error"),
            )
        };
        for (words, expected) in [
            (&["rum"][..], "; did you mean run?"),
            (&["run", "--max-token", "3"], "; did you mean --max-tokens?"),
            (&["inspect", "--versoin"], "; did you mean --version?"),
            (&["run", "--cache-type", "f31"], "; did you mean f32?"),
        ] {
            let line = line(words);
            assert!(line.ends_with(expected) && line.lines().count() == 1, "{line}");
        }
    }

    #[test]
    fn arguments_are_parsed_from_words() {
        assert!(parse::<tokenize::Arguments>(["-p", "a", "--json", "--json"]).is_ok());
        let error = parse::<run::Arguments>(["--tokens", "1", "-n", "x"]).err().expect("an error");
        assert_eq!(error.kind(), ErrorKind::Argument);
        assert!(error.to_string().ends_with("expected a whole number, or -1 for no limit"), "{error}");
    }
}
