//! Panics of what a room runs: caught, kept with the place where they were, and not printed.

use core::cell::{Cell, RefCell};
use std::{
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook},
    sync::Once,
};

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

/// Once a process: a panic goes to whoever listens on its thread, else to the room of whole nodes if one runs there, else
/// where panics went before.
pub(crate) fn install() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = take_hook();
        set_hook(Box::new(move |info| {
            if LISTENING.get() {
                LAST.set(Some(text(info)));
            } else if !crate::nodes::note_panic(info) {
                loud(info);
            }
        }));
    });
}

/// What a panic says, and where.
fn text(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
    format!("{}{place}", info.payload_as_str().unwrap_or("(no text)"))
}

/// Runs something; its panic is not printed but returned, with where it was.
pub(crate) fn quietly<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    install();
    let outer = LISTENING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    LISTENING.set(outer);
    result.map_err(|_| LAST.take().unwrap_or_default())
}
