//! The second room: whole nodes. Every [`mesh::Node`] here is the daemon's: its steward, shell, agent, doors, functions and
//! client, and the real Raft. Only what a node takes from outside is the room's: links, media, files, clocks, dice.
//!
//! Each start of a node has a tokio runtime of its own, whose clock is paused, and all of them share one thread. The room
//! drives them in windows of a millisecond, one node after another; a message that is sent in one window arrives in a later
//! one, so that the nodes of a window cannot have anything to do with each other, and their order does not matter. To drop
//! a runtime is to kill a process, to leave it out is to stop one, and to give it longer or shorter windows is a clock that
//! goes at another rate.
//!
//! * `time`: the clocks. `medium`: drives. `machine`: what outlives a node's process, and how one is started and ended.
//! * `net`: when messages arrive, and what is lost. A [plan](plan::Plan::over_quic) can have the real QUIC instead, on the
//!   sockets of `air`: their order, times and sizes repeat, but for the sizes of handshakes; the bytes do not, for ciphers
//!   bring their own entropy.
//! * [`plan`]: what a seed draws. `room`: the windows, what befalls the nodes in them, and what must hold all the time:
//!   clients are answered, no chain is taken from a node that is well, replicas that have applied the same are the same.
//!   In its `partings` a host comes that nobody knew, and a host or a drive goes for good, emptied or lost: what is ordered is
//!   granted in the end, who is out says so and votes no more, and everything is read once what is out was carried away.
//!   In its `loss`, of a [plan](plan::Plan::bereft) that has one, most of those that vote are lost in the end.
//! * `street`: front ends, in memory. `clients`: who puts, gets, removes, creates, swaps, copies and lists, by the mesh's client
//!   or by S3, and what they saw; who is refused, who dawdles, and strangers. [`run`](mod@run): one seed from start to verdict.
//! * `log`: what nodes say, and whether one of them broke down. `toys`: functions that break down, or keep accounts.

#[cfg(not(tokio_unstable))]
compile_error!(
    "the simulator gives tokio's runtimes their seeds, which needs `--cfg tokio_unstable`: it is in the repository's \
     .cargo/config.toml, which RUSTFLAGS in the environment replaces; another workspace needs the same lines"
);

mod air;
mod clients;
mod log;
mod machine;
mod medium;
mod net;
pub mod plan;
mod room;
pub mod run;
mod street;
mod time;
mod toys;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use log::note_panic;

/// No code that holds one of these locks can leave its value half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
