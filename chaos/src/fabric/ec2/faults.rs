//! How the EC2 endpoint misbehaves: settable while it runs, per action, per caller, per call.

use std::net::Ipv4Addr;
use std::time::Duration;

use rand::Rng;

/// What the endpoint does wrong. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    /// A change shows in the data plane and in Describe this long after its call returned.
    pub effect_delay: Duration,
    /// Describe answers with what was in force this long ago.
    pub staleness: Duration,
    /// Every call is answered this much later. Its effect counts from the answer.
    pub latency: Duration,
    /// Nobody reaches the endpoint at all.
    pub outage: Option<Outage>,
    /// The first rule that applies to a call decides.
    pub rules: Vec<Rule>,
}

/// How an unreachable endpoint looks from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// Open connections are reset and new ones too.
    Reset,
    /// Packets to it vanish.
    Silent,
}

/// A fault and the calls that it hits.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Only calls of this action.
    pub action: Option<String>,
    /// Only calls from this address.
    pub caller: Option<Ipv4Addr>,
    pub trigger: Trigger,
    pub fault: Fault,
}

/// Which of the matching calls are hit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trigger {
    Always,
    /// The next so many, then none.
    Next(u32),
    /// Each with this probability, 0 to 1.
    Probability(f64),
}

/// What happens to a call that is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// RequestLimitExceeded, 503.
    Throttled,
    /// UnauthorizedOperation, 403.
    Unauthorized,
    /// InternalError, 500.
    InternalError,
    /// Unavailable, 503.
    Unavailable,
    /// The call takes effect; the connection closes without an answer.
    LostResponse,
    /// Never answered, no effect; the connection stays open.
    Hang,
}

impl Rule {
    /// Hits the next `count` calls of any action by anyone.
    #[must_use]
    pub fn next(count: u32, fault: Fault) -> Rule {
        Rule {
            action: None,
            caller: None,
            trigger: Trigger::Next(count),
            fault,
        }
    }

    /// Hits every call of any action by anyone.
    #[must_use]
    pub fn always(fault: Fault) -> Rule {
        Rule {
            action: None,
            caller: None,
            trigger: Trigger::Always,
            fault,
        }
    }

    /// Narrows to one action.
    #[must_use]
    pub fn of_action(mut self, action: &str) -> Rule {
        self.action = Some(action.to_owned());
        self
    }

    /// Narrows to one caller.
    #[must_use]
    pub fn from_caller(mut self, caller: Ipv4Addr) -> Rule {
        self.caller = Some(caller);
        self
    }

    fn hits(&mut self, action: &str, caller: Ipv4Addr, random: &mut impl Rng) -> bool {
        let concerned = self.action.as_deref().is_none_or(|wanted| wanted == action)
            && self.caller.is_none_or(|wanted| wanted == caller);
        concerned
            && match &mut self.trigger {
                Trigger::Always => true,
                Trigger::Next(0) => false,
                Trigger::Next(left) => {
                    *left -= 1;
                    true
                }
                Trigger::Probability(probability) => {
                    random.random_bool(probability.clamp(0.0, 1.0))
                }
            }
    }
}

impl Faults {
    /// What happens to this call, and counts it against the rules.
    pub fn decide(
        &mut self,
        action: &str,
        caller: Ipv4Addr,
        random: &mut impl Rng,
    ) -> Option<Fault> {
        self.rules
            .iter_mut()
            .find_map(|rule| rule.hits(action, caller, random).then_some(rule.fault))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 12);

    fn decide(faults: &mut Faults, action: &str, caller: Ipv4Addr) -> Option<Fault> {
        faults.decide(action, caller, &mut StdRng::seed_from_u64(7))
    }

    #[test]
    fn next_counts_only_the_calls_it_concerns() {
        let rule = Rule::next(2, Fault::Throttled)
            .of_action("AssignPrivateIpAddresses")
            .from_caller(B);
        let mut faults = Faults {
            rules: vec![rule],
            ..Faults::default()
        };
        assert_eq!(decide(&mut faults, "AssignPrivateIpAddresses", A), None);
        assert_eq!(decide(&mut faults, "DescribeAddresses", B), None);
        for _ in 0..2 {
            let fault = decide(&mut faults, "AssignPrivateIpAddresses", B);
            assert_eq!(fault, Some(Fault::Throttled));
        }
        assert_eq!(decide(&mut faults, "AssignPrivateIpAddresses", B), None);
    }

    #[test]
    fn a_spent_rule_gives_way_to_the_next() {
        let mut faults = Faults {
            rules: vec![
                Rule::next(1, Fault::LostResponse),
                Rule::always(Fault::Hang),
            ],
            ..Faults::default()
        };
        assert_eq!(decide(&mut faults, "X", A), Some(Fault::LostResponse));
        assert_eq!(decide(&mut faults, "X", A), Some(Fault::Hang));
        assert_eq!(decide(&mut faults, "X", A), Some(Fault::Hang));
    }

    #[test]
    fn probability_hits_its_share() {
        let mut faults = Faults {
            rules: vec![Rule {
                trigger: Trigger::Probability(0.25),
                ..Rule::always(Fault::Throttled)
            }],
            ..Faults::default()
        };
        let mut random = StdRng::seed_from_u64(1);
        let hits = (0..4000)
            .filter(|_| faults.decide("X", A, &mut random).is_some())
            .count();
        assert!((900..1100).contains(&hits), "{hits} of 4000");
    }
}
