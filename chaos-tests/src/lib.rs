//! The simulator: machines of mesh on one virtual clock, with faults, thousands of times faster than real time.
//!
//! There are two rooms. In the second, [`nodes`], everything but sockets and files is the daemon's own: whole nodes with the
//! real Raft. What is said here is of the first.
//!
//! It has the very machines that a node runs: its steward, its doors, the transfers of its
//! moves, and the storage functions from Object to Drive. In place of the network, the media and the Raft groups it has
//! stand-ins that fail as the real ones may.
//!
//! * [`world`]: nodes, actors, the clock and the heap of events. It knows nothing of storage.
//! * [`network`], [`disk`], [`metadata`]: what the world is made of, faults included.
//! * [`cluster`]: nodes, each with a `mesh_placement::steward::Steward`. It is told what happens, beats of others by way of the
//!   world's links among it, and what it wants is carried out: who is there, who leads, what runs where and what is moved are
//!   decided by no other code than the daemon's. Of the replicas of the control group there is a stand-in: one or several
//!   nodes believe to lead it, and each hears late what it has decided. Users' wishes are by dice.
//! * [`ledger`]: a toy function that keeps state, registered as an embedding program's would be, so that a move has something
//!   to lose.
//! * [`swarm`]: what a seed draws: the cluster's shape, the weather, the list of faults.
//! * [`workload`]: clients. [`oracle`]: what they may see. [`invariants`]: what must hold inside.
//! * [`run`](mod@run): one seed from start to verdict. [`planted`]: bugs on request, to prove the checkers.
//! * [`sweep`](mod@sweep): one move under load, with a crash of each party, other leaders, and a cut of each link at each of
//!   its events:
//!   `mesh-chaos sweep --seed 1`; one run of it again, with every event: `mesh-chaos move source:100 --seed 1 --log`.
//! * [`shrink`]: the fewest faults that still show a violation.
//!
//! [`harness`]: both rooms, for functions, workloads and invariants of others.

pub mod cluster;
pub mod content;
pub mod disk;
pub mod harness;
pub mod invariants;
pub mod ledger;
pub mod metadata;
pub mod network;
pub mod nodes;
pub mod oracle;
mod panics;
pub mod planted;
pub mod random;
pub mod run;
pub mod shrink;
pub mod swarm;
pub mod sweep;
pub mod trace;
pub mod workload;
pub mod world;
