//! What is known from each source, and when to look again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::source::{Failure, ObservationId, Presence, Source, SourcePolicy};
use super::status::SourceStatus;

#[derive(Debug)]
pub(super) struct View {
    pub(super) policy: SourcePolicy,
    /// The look in flight: at most one counts.
    pub(super) pending: Option<ObservationId>,
    /// Something changed during the look in flight: look again after it.
    pub(super) again: bool,
    pub(super) next_at: Duration,
    pub(super) last: Option<Result<Presence, Failure>>,
    /// Looks in a row that failed or showed something else than wanted: the input of the backoff.
    pub(super) misses: u32,
}

impl View {
    fn new(policy: SourcePolicy, now: Duration) -> View {
        View {
            policy,
            pending: None,
            again: false,
            next_at: now,
            last: None,
            misses: 0,
        }
    }

    fn shows(&self, presence: Presence) -> bool {
        matches!(&self.last, Some(Ok(seen)) if *seen == presence)
    }

    fn failure(&self) -> Option<&Failure> {
        match &self.last {
            Some(Err(failure)) => Some(failure),
            Some(Ok(_)) | None => None,
        }
    }

    fn status(&self) -> SourceStatus {
        let presence = match &self.last {
            Some(Ok(presence)) => Some(*presence),
            Some(Err(_)) | None => None,
        };
        SourceStatus {
            presence,
            error: self.failure().map(|failure| failure.text.clone()),
            error_kind: self.failure().map(|failure| failure.kind),
        }
    }
}

/// All sources of one mover.
#[derive(Debug)]
pub(super) struct Views {
    views: BTreeMap<Source, View>,
    next_id: u64,
}

impl Views {
    pub(super) fn new(policies: &[SourcePolicy], now: Duration) -> Views {
        let view = |policy: &SourcePolicy| (policy.source, View::new(*policy, now));
        Views {
            views: policies.iter().map(view).collect(),
            next_id: 0,
        }
    }

    /// The view that waits for the look `id`.
    pub(super) fn awaiting(&mut self, source: Source, id: ObservationId) -> Option<&mut View> {
        self.views
            .get_mut(&source)
            .filter(|view| view.pending == Some(id))
    }

    pub(super) fn last(&self, source: Source) -> Option<(SourcePolicy, Presence)> {
        let view = self.views.get(&source)?;
        match &view.last {
            Some(Ok(presence)) => Some((view.policy, *presence)),
            // A source that cannot be asked contradicts nothing.
            Some(Err(_)) | None => None,
        }
    }

    /// Begins a look. While one is in flight it is only noted that another one is needed.
    pub(super) fn look(&mut self, source: Source, now: Duration) -> Option<ObservationId> {
        let view = self.views.get_mut(&source)?;
        if view.pending.is_some() {
            view.again = true;
            return None;
        }
        self.next_id += 1;
        let id = ObservationId(self.next_id);
        view.pending = Some(id);
        view.next_at = now + view.policy.interval;
        Some(id)
    }

    /// Drops the looks in flight of some sources, and names these.
    pub(super) fn drop_looks(&mut self, of: impl Fn(&SourcePolicy) -> bool) -> Vec<Source> {
        let mut sources = Vec::with_capacity(self.views.len());
        for view in self.views.values_mut().filter(|view| of(&view.policy)) {
            view.pending = None;
            view.again = false;
            sources.push(view.policy.source);
        }
        sources
    }

    /// What was seen before a claim or release says nothing about after it.
    pub(super) fn forget(&mut self) {
        for view in self.views.values_mut() {
            view.pending = None;
            view.again = false;
            view.last = None;
            view.misses = 0;
        }
    }

    pub(super) fn due(&self, now: Duration) -> Vec<Source> {
        let due = self.idle().filter(|view| view.next_at <= now);
        due.map(|view| view.policy.source).collect()
    }

    pub(super) fn poll_timeout(&self) -> Option<(Duration, Source)> {
        self.idle()
            .map(|view| (view.next_at, view.policy.source))
            .min()
    }

    fn idle(&self) -> impl Iterator<Item = &View> {
        self.views.values().filter(|view| view.pending.is_none())
    }

    pub(super) fn all_show(&self, presence: Presence, of: impl Fn(&SourcePolicy) -> bool) -> bool {
        self.views
            .values()
            .filter(|view| of(&view.policy))
            .all(|view| view.shows(presence))
    }

    pub(super) fn showing(&self, presence: Presence) -> Vec<Source> {
        let showing = self.views.values().filter(|view| view.shows(presence));
        showing.map(|view| view.policy.source).collect()
    }

    pub(super) fn first_failure(&self) -> Option<&Failure> {
        self.views.values().find_map(View::failure)
    }

    pub(super) fn status(&self) -> BTreeMap<Source, SourceStatus> {
        self.views
            .iter()
            .map(|(source, view)| (*source, view.status()))
            .collect()
    }
}
