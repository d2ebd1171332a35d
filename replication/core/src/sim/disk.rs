//! A store that loses what was not confirmed.

use std::collections::VecDeque;

use crate::{Restored, Write, WriteId};

#[derive(Debug, Default)]
pub(super) struct Disk {
    state: Restored,
    pending: VecDeque<Write>,
}

impl Disk {
    pub(super) fn restored(&self) -> Restored {
        assert!(self.pending.is_empty(), "start follows a crash");
        self.state.clone()
    }

    pub(super) fn write(&mut self, write: Write) {
        self.pending.push_back(write);
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn complete(&mut self, id: WriteId) {
        while self.pending.front().is_some_and(|write| write.id <= id) {
            if let Some(write) = self.pending.pop_front() {
                self.state.execute(write);
            }
        }
    }

    pub(super) fn crash(&mut self, survivors: usize) {
        for _ in 0..survivors {
            if let Some(write) = self.pending.pop_front() {
                self.state.execute(write);
            }
        }
        self.pending.clear();
    }
}
