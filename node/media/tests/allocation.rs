//! `handle_packet` allocates nothing: neither for packets it forwards, nor for latches, nor for garbage.

mod common;

use common::{CALLEE, CALLEE_PORT, CALLER, CALLER_PORT, NAT, STRANGER, address, plan, port, rtp};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::Duration,
};
use tandem_media::{SETTLE, SessionKey, Sessions};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the allocations of each thread.
struct Counting;

// SAFETY: all calls are handed to the system allocator as they are; the counter is a thread local without a
// destructor and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System.alloc` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

#[test]
fn a_packet_costs_no_allocation() {
    let mut sessions = Sessions::new();
    sessions
        .set(SessionKey(1), vec![plan()])
        .expect("a valid plan");
    let packets = [
        rtp(1),
        rtp(2),
        vec![0, 1, 2],
        vec![0x80, 201, 0, 1, 0, 0, 0, 1],
        vec![],
    ];
    let sources = [NAT, STRANGER, CALLER, CALLEE].map(address);
    let before = allocations();
    assert_ne!(before, 0, "the counter counts");
    for round in 0..100u32 {
        for local in [
            CALLER_PORT,
            CALLER_PORT + 1,
            CALLEE_PORT,
            CALLEE_PORT + 1,
            9,
        ] {
            for source in sources {
                for packet in &packets {
                    sessions.handle_packet(port(local), source, packet, SETTLE / 50 * round);
                }
            }
        }
    }
    assert_eq!(allocations(), before);
    assert!(sessions.next_event().is_some(), "latches locked meanwhile");
    assert!(sessions.last_activity(SessionKey(1)) > Some(Duration::ZERO));
}
