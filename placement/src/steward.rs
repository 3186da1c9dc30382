//! What a node decides, a file a duty: pure machines that the daemon and the simulator drive alike.
//!
//! - [`peers`]: who is there, and since when;
//! - [`chains`]: what to do about each actor by what the control group says of it;
//! - [`plans`]: what the placement engine wants;
//! - [`driver`]: what the leader of the control group does so that every actor runs where the plan wants it.
//!
//! None of them waits, and none keeps what another one owns: what is wanted is computed anew at every look from what the
//! group says and what is there, so that an answer and the news of what it did may come in either order.

pub mod chains;
pub mod driver;
pub mod peers;
pub mod plans;
