//! The vocabulary of mesh, and nothing else: no I/O, no clock, no runtime.
//!
//! Start with [`function::StorageFunction`]: every storage function is a deterministic machine that takes an
//! [`effect::Event`] and gives [`effect::Effect`]s. [`chain::Chain`] puts functions one after another and is itself a
//! function. [`op::Op`] is what they ask of each other, [`envelope::Envelope`] carries it between nodes, and
//! [`port`] has the small traits through which a node gives them a world. Why things are as they are:
#![doc = include_str!("decisions.md")]

pub mod assignment;
pub mod audit;
pub mod bluefield;
pub mod buf;
pub mod carried;
pub mod chain;
pub mod effect;
pub mod envelope;
pub mod error;
pub mod figures;
pub mod function;
pub mod happened;
pub mod id;
pub mod limits;
pub mod meta;
pub mod op;
pub mod plan;
pub mod port;
pub mod role;
pub mod shared;
pub mod size;
pub mod snapshot;
pub mod spec;
pub mod stream;
pub mod time;
pub mod topology;
pub mod trace;
pub mod wire;

pub use buf::{Buf, Pool};
pub use chain::Chain;
pub use effect::{Effect, Event, Job, Lane, Outcome, Principal, Request, Response, Target, WorkOutcome};
pub use error::{Certainty, Error, ErrorKind, Redirect};
pub use function::{Cx, Entropy, StorageFunction, Tokens};
pub use op::{Answer, Op};
pub use size::Bytes;
pub use trace::Trace;
