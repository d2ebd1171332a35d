//! A client and a server transaction over a network that loses, delays and duplicates, in virtual time.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Client,
    Server,
}

struct Network {
    random: StdRng,
    loss: f64,
    now: Timestamp,
    /// Ordered by arrival; the counter keeps equal times apart.
    flying: BTreeMap<(Timestamp, u64), (Side, Bytes)>,
    sent: u64,
}

impl Network {
    fn send(&mut self, to: Side, bytes: Bytes) {
        let copies = if self.random.random_bool(0.1) { 2 } else { 1 };
        for _ in 0..copies {
            if self.random.random_bool(self.loss) {
                continue;
            }
            self.sent += 1;
            let arrival = Timestamp(self.now.0 + self.random.random_range(1..100));
            self.flying
                .insert((arrival, self.sent), (to, bytes.clone()));
        }
    }
}

/// What the two transaction users saw.
#[derive(Debug, Default)]
struct Seen {
    finals: u32,
    client_timed_out: bool,
    server_timed_out: bool,
    requests: u32,
}

struct Pair {
    network: Network,
    client: TransactionRecord,
    server: Option<TransactionRecord>,
    status: u16,
    /// When the server's user answers.
    answer_at: Option<Timestamp>,
    seen: Seen,
}

impl Pair {
    fn new(method: &str, status: u16, loss: f64, seed: u64) -> Pair {
        let random = StdRng::seed_from_u64(seed);
        let mut network = Network {
            random,
            loss,
            now: START,
            flying: BTreeMap::new(),
            sent: 0,
        };
        let mut out = Vec::new();
        let timers = TimerConfig::default();
        let client = TransactionRecord::client(
            &request(method),
            flow(Transport::Udp),
            START,
            &timers,
            &mut out,
        );
        for output in out {
            if let Output::Send { bytes, .. } = output {
                network.send(Side::Server, bytes);
            }
        }
        Pair {
            network,
            client,
            server: None,
            status,
            answer_at: None,
            seen: Seen::default(),
        }
    }

    /// Runs until nothing is left to happen.
    fn run(mut self) -> Seen {
        for _ in 0..10_000 {
            let flying = self
                .network
                .flying
                .first_key_value()
                .map(|((at, _), _)| *at);
            let server = self
                .server
                .as_ref()
                .and_then(TransactionRecord::poll_timeout);
            let times = [flying, self.client.poll_timeout(), server, self.answer_at];
            let Some(next) = times.into_iter().flatten().min() else {
                assert!(self.client.is_terminated());
                assert!(self.server.is_none_or(|server| server.is_terminated()));
                return self.seen;
            };
            self.network.now = self.network.now.max(next);
            self.happen();
        }
        panic!("still running");
    }

    fn happen(&mut self) {
        let now = self.network.now;
        if let Some(entry) = self
            .network
            .flying
            .first_entry()
            .filter(|entry| entry.key().0 <= now)
        {
            let (to, bytes) = entry.remove();
            let message = Message::parse(bytes).unwrap();
            match to {
                Side::Client => self.client_step(Input::Received(&message)),
                Side::Server => self.arrive(&message),
            }
        } else if self.answer_at.is_some_and(|at| at <= now) {
            self.answer_at = None;
            let request = Message::parse(self.client.request().clone()).unwrap();
            self.server_step(Input::Send(&response(&request, self.status)));
        } else {
            self.client_step(Input::Timeout);
            self.server_step(Input::Timeout);
        }
    }

    fn arrive(&mut self, message: &Message) {
        if self.server.is_some() {
            return self.server_step(Input::Received(message));
        }
        if message.method() == Method::Ack {
            return;
        }
        self.seen.requests += 1;
        self.server = Some(TransactionRecord::server(message, flow(Transport::Udp)));
        self.answer_at = Some(Timestamp(self.network.now.0 + 3000));
        self.server_step(Input::Send(&response(message, 100)));
    }

    fn client_step(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        let is_final = matches!(input, Input::Received(message) if message.status() >= Some(200));
        self.client
            .step(input, self.network.now, &TimerConfig::default(), &mut out);
        for output in out {
            match output {
                Output::Send { bytes, .. } => self.network.send(Side::Server, bytes),
                Output::Deliver => self.seen.finals += u32::from(is_final),
                Output::TimedOut => self.seen.client_timed_out = true,
                Output::Failed | Output::Terminated => {}
            }
        }
    }

    fn server_step(&mut self, input: Input<'_>) {
        let Some(server) = &mut self.server else {
            return;
        };
        let mut out = Vec::new();
        server.step(input, self.network.now, &TimerConfig::default(), &mut out);
        for output in out {
            match output {
                Output::Send { bytes, .. } => self.network.send(Side::Client, bytes),
                Output::TimedOut => self.seen.server_timed_out = true,
                Output::Deliver | Output::Failed | Output::Terminated => {}
            }
        }
    }
}

/// Runs a seed range at one loss rate; returns how many exchanges ended with the final response delivered.
fn delivered(method: &str, status: u16, loss: f64) -> u32 {
    let mut delivered = 0;
    for seed in 0..200 {
        let seen = Pair::new(method, status, loss, seed).run();
        let label = format!("{method} {status} loss {loss} seed {seed}: {seen:?}");
        assert!(seen.finals <= 1, "one final response only; {label}");
        assert!(seen.requests <= 1, "one server transaction only; {label}");
        delivered += seen.finals;
        // In Proceeding an INVITE client waits for its user, which this one does not give up.
        assert!(
            method == "INVITE" || seen.finals == 1 || seen.client_timed_out,
            "{label}"
        );
    }
    delivered
}

#[test]
fn nothing_is_lost_on_a_good_network() {
    for (method, status) in [("INVITE", 486), ("OPTIONS", 200), ("OPTIONS", 404)] {
        for seed in 0..50 {
            let seen = Pair::new(method, status, 0.0, seed).run();
            assert_eq!(
                (seen.finals, seen.requests),
                (1, 1),
                "{method} seed {seed}: {seen:?}"
            );
            assert!(
                !seen.client_timed_out && !seen.server_timed_out,
                "{method} seed {seed}: {seen:?}"
            );
        }
    }
}

#[test]
fn retransmission_overcomes_loss() {
    assert!(delivered("INVITE", 486, 0.3) == 200);
    assert!(delivered("OPTIONS", 200, 0.3) >= 198);
}

#[test]
fn a_dead_network_ends_in_timeouts() {
    for method in ["INVITE", "OPTIONS"] {
        let seen = Pair::new(method, 200, 1.0, 1).run();
        assert!(seen.client_timed_out && seen.finals == 0, "{seen:?}");
    }
}
