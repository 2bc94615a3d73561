//! `lacuna`: the command-line tool.

mod attend;
mod attention_call;
mod bench;
mod check;
mod config;
mod decode;
mod demo;
mod distill;
mod drawing;
mod failure;
mod fidelity;
mod files;
mod gates;
mod info;
mod model;
mod quality;
mod report;
mod show;
mod terminal;
mod train;
mod training;

use clap::Parser;
use clap::error::ErrorKind;
use failure::{Failure, Result};
use std::process::ExitCode;

/// Sparse attention from CUDA kernels, on a GPU or without one.
///
/// Exit codes: 0, 2 for a bad request, 1 for a failed check or device.
#[derive(Parser)]
#[command(name = "lacuna", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Attend(attend::Args),
    Decode(decode::Args),
    Demo(demo::Args),
    Distill(distill::Args),
    Train(train::Args),
    Quality(quality::Args),
    Fidelity(fidelity::Args),
    Show(show::Args),
    Check(check::Args),
    Bench(bench::Args),
    Info(info::Args),
}

fn main() -> ExitCode {
    let result = match Cli::try_parse() {
        Ok(cli) => run(&cli.command),
        Err(error) => usage(&error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("lacuna: {}", failure.line());
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Attend(args) => attend::run(args),
        Command::Decode(args) => decode::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Distill(args) => distill::run(args),
        Command::Train(args) => train::run(args),
        Command::Quality(args) => quality::run(args),
        Command::Fidelity(args) => fidelity::run(args),
        Command::Show(args) => show::run(args),
        Command::Check(args) => check::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Info(args) => info::run(args),
    }
}

/// Help goes out as it is; a wrong command line becomes one line like every other bad request.
fn usage(error: &clap::Error) -> Result<()> {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            terminal::print(&text);
            Ok(())
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Err(Failure::Request("a command is missing; try `lacuna --help`".into()))
        }
        _ => {
            // clap's advice follows after an empty line.
            let first = text.split("\n\n").next().unwrap_or(&text);
            Err(Failure::Request(first.trim_start_matches("error: ").to_owned()))
        }
    }
}
