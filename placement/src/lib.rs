//! Pure placement decisions: no I/O, no clock, no randomness; the same arguments give the same answer everywhere.
//!
//! What there is: [`layout`], which turns the drives of a cluster into placement groups. Which actor runs on which node
//! is not decided here yet: drives and ingresses stay on the node they belong to.

pub mod layout;
