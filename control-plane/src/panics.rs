//! Panics: each one is a defect, ends the call or task it happened in and nothing else, and is counted.
//!
//! What contains one is [`crate::doors::services::Services`], for calls, and tokio, for tasks and what a call streams; this counts all
//! of them, whatever they ended.

use std::panic::{PanicHookInfo, set_hook, take_hook};

use crate::metrics::Counter;

/// How many there were in this process.
pub static COUNT: Counter = Counter::new();

/// Counts panics from now on, and logs where they happen: after the log was started, once in a process.
pub fn watch() {
    let before = take_hook();
    set_hook(Box::new(move |panic| {
        note(panic);
        before(panic);
    }));
}

fn note(panic: &PanicHookInfo<'_>) {
    COUNT.increment();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    // The message may quote what a caller sent; standard error has it, with the backtrace, for whoever reports it.
    tracing::error!(place, "a defect of this program ended one call or task; please report it");
}
