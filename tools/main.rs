//! The command line: one file a verb.

mod arguments;
mod bench;
mod checkpoint;
mod inspect;
mod interrupt;
mod logits;
mod memory;
mod output;
mod perplexity;
mod plot;
mod quantize;
mod run;
mod synthesize;
mod tokenize;

use std::process::ExitCode;

use cinderblock::error::{Error, ErrorKind, Result};
use clap::{CommandFactory, Parser, Subcommand};

/// Run Block Transformer language models on the CPU.
#[derive(Parser)]
#[command(name = "cinderblock", version, about, max_term_width = 100, propagate_version = true)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(run::Arguments),
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

fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => return usage(&error),
    };
    let result = match line.verb {
        Verb::Run(arguments) => run::run(arguments),
        Verb::Quantize(arguments) => quantize::run(arguments),
        Verb::Perplexity(arguments) => perplexity::run(arguments),
        Verb::Logits(arguments) => logits::run(arguments),
        Verb::Inspect(arguments) => inspect::run(arguments),
        Verb::Tokenize(arguments) => tokenize::run(arguments),
        Verb::Bench(arguments) => bench::run(arguments),
        Verb::Synthesize(arguments) => synthesize::run(arguments),
        Verb::Completions(arguments) => completions(arguments.shell),
    };
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
        return match output::print(&error.render().to_string()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let text = error.render().to_string();
    let first: Vec<&str> = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    output::message(&format!("{} (see --help)", first.join(" ")));
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
