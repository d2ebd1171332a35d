//! Contract 3: no call key and no CDR id is ever given twice.

use super::calls::{BOB, alice, bob, finish, pair};
use crate::command::Command;
use crate::core::Sip;
use crate::record::CallKey;
use crate::testing::{Pool, config, target};
use crate::time::Timestamp;

const EPOCH: u64 = 7;

#[test]
fn numbers_go_on_when_a_lease_is_lost_and_regained_in_one_epoch() {
    let mut recorded = pair(alice(), bob());
    finish(&mut recorded);
    let (realm, source, invite) = recorded.received[0].clone();

    let mut sip = Sip::new(config(vec![target(BOB, 1)]), 1);
    let mut key_of_a_call = || -> CallKey {
        let mut pool = Pool {
            size: 20,
            ..Pool::default()
        };
        let now = Timestamp(1_700_000_000_000);
        sip.activate(EPOCH);
        sip.handle_datagram(realm, source, invite.clone(), now, &mut pool);
        let key = std::iter::from_fn(|| sip.next_command())
            .find_map(|command| match command {
                Command::Replicate { key, .. } => Some(key),
                Command::Send { .. } | Command::Media { .. } | Command::Cdr(_) => None,
            })
            .unwrap();
        // Nothing was committed.
        let mut pool = Pool {
            size: 20,
            ..Pool::default()
        };
        sip.deactivate(&mut pool);
        sip.apply(key, None, &mut pool);
        key
    };
    assert_eq!(key_of_a_call(), CallKey::new(EPOCH, 1));
    assert_eq!(key_of_a_call(), CallKey::new(EPOCH, 2));
}
