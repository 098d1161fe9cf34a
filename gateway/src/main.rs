//! The binary `as2gate`: a runtime around the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(gateway::cli::run());
            // What still runs on blocking threads is covered by the journal; nobody waits for it.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("error: cannot start\nwhy:   {error}\nhint:  look at the limits of this process (ulimit -u)");
            ExitCode::FAILURE
        }
    }
}
