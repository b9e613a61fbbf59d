//! The command line: arguments to a verb, a result to an exit code.

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use cinderblock::error::{Error, ErrorKind, Result};
use clap::{CommandFactory, Parser, Subcommand};

use crate::verbs::{batch, bench, inspect, logits, perplexity, run, synthesize, tokenize};
use crate::{output, quantize};

/// Run Block Transformer language models on the CPU.
#[derive(Parser)]
#[command(name = "cinderblock", version, about, max_term_width = 100, propagate_version = true)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    // These are far larger than the others.
    Run(Box<run::Arguments>),
    Batch(Box<batch::Arguments>),
    Quantize(quantize::Arguments),
    Perplexity(perplexity::Arguments),
    Logits(logits::Arguments),
    Inspect(inspect::Arguments),
    Tokenize(tokenize::Arguments),
    Bench(bench::Arguments),
    Synthesize(synthesize::Arguments),
    Completions(Completions),
}

/// Print a completion script for a shell
///
/// Example: cinderblock completions bash > ~/.local/share/bash-completion/completions/cinderblock
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

/// Runs the verb that the arguments of the process name.
pub fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => return usage(&error),
    };
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
        Verb::Quantize(arguments) => quantize::run(arguments),
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
fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A reader that has seen enough, as `head` has, is no failure.
            if output::is_closed_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            output::message(&format!("error: {error}"));
            match error.kind() {
                ErrorKind::Argument => ExitCode::from(2),
                ErrorKind::Interrupted => ExitCode::from(130),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Help and version go to stdout as they are; a usage error becomes one line.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return finish(output::print(&error.render().to_string()));
    }
    let text = error.render().to_string();
    let first: Vec<&str> = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let first = if text.starts_with("error") { first.join(" ") } else { "error: no verb given".to_string() };
    output::message(&format!("{first} (see --help)"));
    ExitCode::from(2)
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
}
