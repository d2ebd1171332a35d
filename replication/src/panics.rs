//! Panics at the edge of a thread, or of a library that asserts where it should return an error.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs it; a panic becomes its message. What it touched must not be used afterwards except to be dropped.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        format!("panic: {}", text.unwrap_or("without a message"))
    })
}
