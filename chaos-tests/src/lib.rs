//! The simulator: machines of mesh on one virtual clock, with faults, thousands of times faster than real time.
//!
//! This is the first of four rooms. It has the very storage functions that a node runs, on the path from Object to
//! Drive; in place of the network, the media and the Raft groups it has stand-ins that fail as the real ones may.
//!
//! * [`world`]: nodes, actors, the clock and the heap of events. It knows nothing of storage.
//! * [`network`], [`disk`], [`metadata`]: what the world is made of, faults included.
//! * [`cluster`]: starts the storage functions on nodes, as the daemon does, moves their chains as its agent does, and has
//!   controllers, one or two at once, that drive the very machine of a move, `mesh_placement::migration`. What a node does
//!   about a chain by what the group says, whom it takes to be there and what its leader has moved is the daemon's own code
//!   too: `mesh_placement::steward`.
//! * [`ledger`]: a toy stage that keeps state, so that a move has something to lose.
//! * [`swarm`]: what a seed draws: the cluster's shape, the weather, the list of faults.
//! * [`workload`]: clients. [`oracle`]: what they may see. [`invariants`]: what must hold inside.
//! * [`run`](mod@run): one seed from start to verdict. [`planted`]: bugs on request, to prove the checkers.
//! * [`sweep`](mod@sweep): one move under load, with a crash of each party and a cut of each link at each of its events:
//!   `mesh-chaos sweep --seed 1`; one run of it again, with every event: `mesh-chaos move source:100 --seed 1 --log`.
//! * [`shrink`]: the fewest faults that still show a violation.

pub mod cluster;
pub mod content;
pub mod disk;
pub mod invariants;
pub mod ledger;
pub mod metadata;
pub mod network;
pub mod oracle;
pub mod planted;
pub mod random;
pub mod run;
pub mod shrink;
pub mod swarm;
pub mod sweep;
pub mod trace;
pub mod workload;
pub mod world;
