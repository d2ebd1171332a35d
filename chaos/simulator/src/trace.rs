//! What happened, in words. Kept only when asked for: a failing run is repeated with it.

use std::collections::VecDeque;
use std::time::Duration;

/// Lines kept; older ones are forgotten.
const LINES: usize = 2000;

#[derive(Debug, Default)]
pub(crate) struct Trace {
    enabled: bool,
    lines: VecDeque<String>,
}

impl Trace {
    pub(crate) fn new(enabled: bool) -> Trace {
        Trace {
            enabled,
            lines: VecDeque::new(),
        }
    }

    pub(crate) fn note(&mut self, now: Duration, line: impl FnOnce() -> String) {
        if !self.enabled {
            return;
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines
            .push_back(format!("{:>12.6} {}", now.as_secs_f64(), line()));
    }

    pub(crate) fn tail(&self, count: usize) -> Vec<String> {
        let skip = self.lines.len().saturating_sub(count);
        self.lines.iter().skip(skip).cloned().collect()
    }
}
