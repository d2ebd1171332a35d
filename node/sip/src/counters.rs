//! What happened, counted. One counter per refusal and per bound, so that nothing is lost in silence.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Monotonic since the process started.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            /// Names and values, for metrics.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    datagrams_received,
    /// Datagrams that came while this node does not serve.
    dropped_inactive,
    /// Datagrams that are no SIP message worth an answer.
    dropped_malformed,
    /// Keep-alives and other empty datagrams.
    keep_alives,
    /// Messages from a realm that is not configured.
    dropped_unknown_realm,
    answered_malformed,
    responses_stray,
    responses_too_large,
    acknowledgements_stray,
    calls_started,
    calls_answered,
    calls_ended,
    /// Refused INVITEs, by reason.
    rejected_calls_limit,
    /// The disk is running full, and no standby is there to take over.
    rejected_closed,
    rejected_ports_exhausted,
    rejected_no_route,
    rejected_loop,
    rejected_merged,
    rejected_too_many_hops,
    rejected_extension,
    rejected_body,
    rejected_too_large,
    rejected_method,
    rejected_unknown_dialog,
    rejected_out_of_order,
    rejected_glare,
    rejected_transactions_limit,
    rejected_uri,
    targets_skipped,
    targets_cut,
    forks_hung_up,
    forks_dropped,
    forwarded_in_dialog,
    retransmissions_sent,
    /// Repeats held back because what they show was not committed yet.
    retransmissions_suppressed,
    /// A message could not be built or has nowhere to go.
    sends_failed,
    media_latched,
    media_first_packets,
    /// Media reports for calls or streams that are gone.
    media_events_stray,
    /// Ports a record names that the pool would not give on activation.
    port_conflicts,
    cdrs_written,
    takeovers,
}
