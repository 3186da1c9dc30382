//! What happens to requests on a connection, without I/O: [`Calls`] is the half that asks, [`Serving`] the half that
//! answers. A driver feeds them events and does what they say; it decides nothing itself.

mod calls;
mod serving;
#[cfg(test)]
mod tests;

pub use calls::{Action, Calls};
pub use serving::{Reservation, Serving};

/// Credits of one connection: what the asking side may have in flight on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Requests.
    pub jobs_max: usize,
    /// Payload bytes of requests.
    pub bytes_max: usize,
}
