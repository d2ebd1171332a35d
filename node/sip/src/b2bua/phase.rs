//! The call's phases: the table behind the diagram of the parent module.

use crate::record::Phase;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A target's 2xx was taken.
    Answer,
    /// The caller acknowledged it.
    Acknowledge,
    End,
}

/// None: the event changes nothing in this phase.
pub(super) fn next(phase: Phase, event: Event) -> Option<Phase> {
    match (phase, event) {
        (Phase::Calling, Event::Answer) => Some(Phase::Answered),
        (Phase::Answered, Event::Acknowledge) => Some(Phase::Established),
        (Phase::Calling | Phase::Answered | Phase::Established, Event::End) => Some(Phase::Ended),
        // Answers of other forks are hung up by their leg; a repeated ACK says nothing new.
        (Phase::Answered | Phase::Established | Phase::Ended, Event::Answer)
        | (Phase::Calling | Phase::Established | Phase::Ended, Event::Acknowledge)
        | (Phase::Ended, Event::End) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 4] = [
        Phase::Calling,
        Phase::Answered,
        Phase::Established,
        Phase::Ended,
    ];

    #[test]
    fn the_table_is_the_diagram() {
        let table = |event| PHASES.map(|phase| next(phase, event));
        assert_eq!(
            table(Event::Answer),
            [Some(Phase::Answered), None, None, None]
        );
        assert_eq!(
            table(Event::Acknowledge),
            [None, Some(Phase::Established), None, None]
        );
        let ended = Some(Phase::Ended);
        assert_eq!(table(Event::End), [ended, ended, ended, None]);
    }

    #[test]
    fn no_event_leads_back() {
        for phase in PHASES {
            for event in [Event::Answer, Event::Acknowledge, Event::End] {
                assert!(next(phase, event).is_none_or(|after| after > phase));
            }
        }
    }
}
