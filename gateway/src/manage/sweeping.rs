//! What stands in the way of a sweep by hand.

use super::{Refusal, Result, objects};
use crate::gateway::{Core, Started, is_served};
use crate::hint::listed;

/// Refuses a sweep that is meant for one account of several: it looks at all, and nothing brakes it.
///
/// # Errors
/// Names the others.
pub fn expect_all_accounts(core: &Core, account: Option<&str>) -> Result<()> {
    let all = objects(core)?;
    let others = all.accounts.keys().filter(|id| account.is_some_and(|account| account != *id));
    let others = listed(others.map(String::as_str), "");
    if others.is_empty() {
        return Ok(());
    }
    Err(Refusal::usage(
        "a sweep is not of one account",
        format!("it would go through {others} as well"),
        "as2gate lifecycle run --dry-run shows all that would go; without -a it goes",
    ))
}

/// Refuses a sweep by other figures than those of the server that runs here: it would take from view, or delete, what that one keeps.
///
/// # Errors
/// The keys that differ.
pub fn expect_figures_of_server(core: &Core) -> Result<()> {
    let started = Started::read(&core.journal).filter(|_| is_served(&core.config));
    let mut differing = started.map_or_else(Vec::new, |started| started.changed(&core.config));
    // When the server sweeps says nothing about what.
    differing.retain(|other| other.key.starts_with("lifecycle.") && other.key != "lifecycle.run_at");
    if differing.is_empty() {
        return Ok(());
    }
    let keys: Vec<String> = differing.iter().map(ToString::to_string).collect();
    let hint = if differing.iter().any(|other| other.variable.is_some()) {
        Started::ONE_ENVIRONMENT
    } else {
        "restart the server to take a changed file over, or name the server's own with -c; as2gate doctor tells"
    };
    Err(Refusal::failed(
        "other-settings",
        "cannot sweep",
        format!("the running server has other values of {}", keys.join(", ")),
        hint,
    ))
}
