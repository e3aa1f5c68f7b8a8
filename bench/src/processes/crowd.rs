//! Many sleeping processes are released: the time of `set`, and the time until the last process has returned.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::thread;
use std::time::Duration;

use super::children::{self, Alone, Member};
use super::peers::Signal;
use super::workloads::median;
use crate::names::Figures;
use crate::pin;

#[derive(Default)]
struct Exit {
    out: Alone<AtomicU64>,
    last_out: Alone<AtomicU64>,
}

/// Processes that sleep on two events alternately. The setter shares their processors.
pub fn release<E: Signal>(processes: usize, cpus: &[usize], smoke: bool) -> Figures {
    pin::to(cpus);
    let turns = if smoke { 1 } else { (8_000 / processes).clamp(8, 32) };
    let places = [E::make("one", processes), E::make("other", processes)];
    let exit: &Exit = children::in_common();
    let children: Vec<Member> = (0..processes)
        .map(|_| {
            children::start(|| {
                let events = places.each_ref().map(E::open);
                for turn in 0..turns {
                    events[turn % 2].wait();
                    exit.last_out.0.fetch_max(children::now(), AcqRel);
                    exit.out.0.fetch_add(1, AcqRel);
                }
            })
        })
        .collect();
    let events = places.each_ref().map(E::open);
    let (mut set, mut all_out) = (Vec::new(), Vec::new());
    for turn in 0..turns {
        events[(turn + 1) % 2].clear();
        children::until_asleep(&children);
        assert_eq!(exit.out.0.load(Acquire), (processes * turn) as u64, "nobody is released without a set");
        let began = children::now();
        events[turn % 2].set();
        set.push(children::now() - began);
        while exit.out.0.load(Acquire) < (processes * (turn + 1)) as u64 {
            thread::sleep(Duration::from_micros(500));
        }
        all_out.push(exit.last_out.0.load(Acquire) - began);
    }
    children.into_iter().for_each(Member::join);
    let each = |times| median(times) / processes as f64;
    vec![("set, per process", each(set)), ("all out, per process", each(all_out))]
}
