//! Both ends of the drill's calls: a phone system inside, a carrier outside, the pair between them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use tokio::time::timeout;

use crate::fabric::{CLIENT_SIP_PORT, Fabric, PBX_SIP_PORT, TRUNK_SIP_PORT};
use crate::host::HostId;
use crate::phone::voice::{CallIndex, Party, Voices};
use crate::phone::{CallReport, CallState, MAX_CALLS, Phone, PhoneGone, PhoneSettings};
use crate::report::{CallOutcome, CallPlan};

/// First RTP port of both phones.
const MEDIA_PORT: u16 = 30_000;

/// How long the callee lets it ring before it answers.
const ANSWER_AFTER: Duration = Duration::from_millis(200);

/// Between two INVITEs: 100 calls a second.
const DIAL_EVERY: Duration = Duration::from_millis(10);

/// Between two hang-ups: the same.
const HANG_UP_EVERY: Duration = Duration::from_millis(10);

/// The caller at the PBX and the callee at the trunk.
#[derive(Debug)]
pub struct PhonePair {
    caller: Phone,
    callee: Phone,
    /// Calls that are answered at once.
    pub talking: Vec<CallIndex>,
    /// Calls that ring until told.
    pub ringing: Vec<CallIndex>,
}

impl PhonePair {
    /// Starts both phones for `talking` calls that are answered at once and `ringing` that are not.
    pub fn start(
        fabric: &Fabric,
        talking: u32,
        ringing: u32,
        seed: u64,
    ) -> anyhow::Result<PhonePair> {
        if (talking + ringing) as usize > MAX_CALLS {
            bail!("at most {MAX_CALLS} calls");
        }
        let talking: Vec<CallIndex> = (0..talking).map(CallIndex).collect();
        let first = talking.len() as u32;
        let ringing: Vec<CallIndex> = (first..first + ringing).map(CallIndex).collect();
        let voices = Voices::new(seed);
        let settings = |party, here: HostId, proxy: SocketAddr| PhoneSettings {
            party,
            sip: at(fabric.address(here), CLIENT_SIP_PORT),
            proxy,
            first_media_port: MEDIA_PORT,
            seed,
            voices: voices.clone(),
            answer_after: ANSWER_AFTER,
            held: ringing.iter().copied().collect::<BTreeSet<_>>(),
        };
        let inside = settings(
            Party::Caller,
            HostId::Pbx,
            at(fabric.floating(), PBX_SIP_PORT),
        );
        let outside = settings(
            Party::Callee,
            HostId::Trunk,
            at(fabric.public(), TRUNK_SIP_PORT),
        );
        let network = |id| Arc::new(fabric.host(id).namespace().clone());
        Ok(PhonePair {
            caller: Phone::start(inside, network(HostId::Pbx))?,
            callee: Phone::start(outside, network(HostId::Trunk))?,
            talking,
            ringing,
        })
    }

    /// Every call, talking ones first.
    pub fn all(&self) -> Vec<CallIndex> {
        self.talking.iter().chain(&self.ringing).copied().collect()
    }

    /// Places every call and waits until each talks or rings as planned; returns those that do not.
    pub async fn place_calls(&self, limit: Duration) -> Result<Vec<CallIndex>, PhoneGone> {
        for index in self.all() {
            self.caller.dial(index).await?;
            tokio::time::sleep(DIAL_EVERY).await;
        }
        let rings = |call: &CallReport| call.state == CallState::Ringing;
        let (mut missing, quiet) = tokio::join!(
            self.await_established(&self.talking, limit),
            self.caller.await_calls(&self.ringing, limit, rings),
        );
        missing.extend(quiet);
        Ok(missing)
    }

    /// Answers the calls that ring and waits until the callers hear it; returns those that do not.
    pub async fn answer_ringing(&self, limit: Duration) -> Result<Vec<CallIndex>, PhoneGone> {
        for index in &self.ringing {
            self.callee.answer(*index).await?;
        }
        Ok(self.await_established(&self.ringing, limit).await)
    }

    /// Waits until both ends of `calls` are established; returns those that are not.
    async fn await_established(&self, calls: &[CallIndex], limit: Duration) -> Vec<CallIndex> {
        let established = |call: &CallReport| call.state == CallState::Established;
        let (mut missing, at_callee) = tokio::join!(
            self.caller.await_calls(calls, limit, established),
            self.callee.await_calls(calls, limit, established),
        );
        missing.extend(at_callee);
        missing.sort();
        missing.dedup();
        missing
    }

    /// Waits until speech arrives both ways on `calls`, counted from now; returns those that stay
    /// silent.
    pub async fn await_flow(&self, calls: &[CallIndex], limit: Duration) -> Vec<CallIndex> {
        let (inside, outside) = (self.caller.media(), self.callee.media());
        let both = async { tokio::join!(inside.await_flow(calls), outside.await_flow(calls)) };
        // Whether all flow or time is up, the lists say who does not.
        let _ = timeout(limit, both).await;
        let mut silent = inside.silent(calls);
        silent.extend(outside.silent(calls));
        silent.sort();
        silent.dedup();
        silent
    }

    fn established_at(&self, phone: &Phone) -> Vec<CallIndex> {
        let calls = phone.calls();
        calls
            .into_iter()
            .filter(|(_, call)| call.established)
            .map(|(index, _)| index)
            .collect()
    }

    /// Starts the measurement of silences, just before the fault.
    pub fn open_window(&self) {
        self.caller.media().open_window();
        self.callee.media().open_window();
    }

    /// Ends it.
    pub fn close_window(&self) {
        self.caller.media().close_window();
        self.callee.media().close_window();
    }

    /// What is said from now on does not count as lost.
    pub fn end_count(&self) {
        self.caller.media().end_count();
        self.callee.media().end_count();
    }

    /// Ends every call, half by the caller and half by the callee, and waits until both ends know.
    pub async fn hang_up(&self, limit: Duration) -> Result<(), PhoneGone> {
        for index in self.all() {
            let phone = if index.0.is_multiple_of(2) {
                &self.caller
            } else {
                &self.callee
            };
            phone.hang_up(index).await?;
            tokio::time::sleep(HANG_UP_EVERY).await;
        }
        let over = |call: &CallReport| matches!(call.state, CallState::Ended | CallState::Failed);
        // Only established calls were hung up; who never ends is judged in the report.
        let (inside, outside) = (
            self.established_at(&self.caller),
            self.established_at(&self.callee),
        );
        let caller = self.caller.await_calls(&inside, limit, over);
        let callee = self.callee.await_calls(&outside, limit, over);
        // The lists name what the report shows anyway.
        let _ = tokio::join!(caller, callee);
        Ok(())
    }

    /// How late the worse of the two tickers was in the window.
    pub fn worst_lateness(&self) -> Duration {
        self.caller
            .media()
            .worst_lateness()
            .max(self.callee.media().worst_lateness())
    }

    /// What became of every call; `silent` are those whose speech did not come back.
    pub fn outcomes(&self, silent: &BTreeSet<CallIndex>) -> Vec<CallOutcome> {
        let (callers, callees) = (self.caller.calls(), self.callee.calls());
        let (inside, outside) = (self.caller.media(), self.callee.media());
        self.all()
            .into_iter()
            .map(|index| CallOutcome {
                index,
                plan: if self.ringing.contains(&index) {
                    CallPlan::Ringing
                } else {
                    CallPlan::Talking
                },
                speech_returned: !silent.contains(&index),
                caller: callers.get(&index).cloned(),
                callee: callees.get(&index).cloned(),
                caller_to_callee: outside.hearing(index, inside),
                callee_to_caller: inside.hearing(index, outside),
            })
            .collect()
    }
}

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}
