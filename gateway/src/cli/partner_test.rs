//! `partner test`: a line for each step, and what to do about the one that fails.

use std::sync::Arc;

use serde_json::json;

use super::error::{DONE, REMOTE};
use super::output::{Format, out, plain};
use super::{Ctx, Outcome};
use crate::gateway::Core;
use crate::manage::partner_test::{self, Step, Test};
use crate::manage::{Refusal, RefusalKind};

pub(super) async fn run(ctx: &Ctx, core: &Arc<Core>, test: Test) -> Outcome {
    let is_json = ctx.printer.format == Format::Json;
    let tell = |step: &Step| {
        if !is_json && !ctx.printer.quiet {
            let mark = if step.ok { "ok" } else { "no" };
            out(format!("{mark}   {:<24} {}", step.name, plain(&step.detail)).trim_end());
        }
    };
    let tested = partner_test::run(core, ctx.account(), &test, ctx.dry_run(), tell).await?;
    if is_json {
        ctx.printer.show(&json!(tested), "");
    }
    match tested.steps.into_iter().find(|step| !step.ok) {
        None => Ok(DONE),
        Some(_) if is_json => Ok(REMOTE),
        Some(step) => Err(failed(&test.id, step)),
    }
}

fn failed(id: &str, step: Step) -> Refusal {
    let hint = if step.hint.is_empty() {
        "as2gate message list --limit 1 shows what was sent".to_owned()
    } else {
        step.hint
    };
    Refusal::new(
        RefusalKind::Remote,
        "partner-test",
        format!("the test of {id} failed at: {}", step.name),
        step.detail,
        hint,
    )
}
