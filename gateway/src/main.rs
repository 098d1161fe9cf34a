//! The binary `as2gate`: the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    gateway::cli::run()
}
