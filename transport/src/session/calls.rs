//! The asking half of a connection: every call that is started is completed exactly once, whatever happens.
//!
//! ```text
//!  start -> Waiting --connected--> Unsent --sent--> Sent --answered--> done
//!              |                     |                |
//!              +-- broken: Unreachable (never sent) --+-- broken: LinkLost (may have been processed)
//!              +-- cancel: Cancelled, expire: Timeout, from anywhere
//! ```
//!
//! The driver asks [`Calls::sent`] before it hands over the last byte (the FIN) of a request, and the other end
//! delivers only whole requests: so what is `Unsent` was certainly not processed.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    Error, ErrorKind, Outcome,
    envelope::Envelope,
    limits::{BUDGET_DEFAULT, LINK_BYTES_MAX, LINK_JOBS_MAX},
    time::Instant,
};

use super::Terms;

/// The calls of one lane to one peer, over one connection after another. `C` is what the driver wants back with the
/// outcome, such as a completion.
#[derive(Debug)]
pub struct Calls<C> {
    terms: Terms,
    connected: bool,
    last: u64,
    bytes: usize,
    calls: BTreeMap<u64, Call<C>>,
    deadlines: BTreeSet<(Instant, u64)>,
}

#[derive(Debug)]
struct Call<C> {
    caller: C,
    deadline: Instant,
    bytes: usize,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// For a connection.
    Waiting(Box<Envelope>),
    /// On a connection, not wholly handed over.
    Unsent,
    /// The other end may have it.
    Sent,
}

/// What the driver is to do.
#[derive(Debug, PartialEq)]
pub enum Action<C> {
    /// Put the request on a stream of its own, with the budget that is left until the deadline.
    Send {
        /// Its number, as in its header.
        id: u64,
        /// When to give up; the driver keeps no timer for it, see [`Calls::wake_at`].
        deadline: Instant,
        /// What.
        envelope: Box<Envelope>,
    },
    /// Tell the caller. Comes exactly once for every call.
    Complete {
        /// Who asked.
        caller: C,
        /// What it came to.
        outcome: Outcome,
    },
    /// Reset the stream of this call: nobody wants its answer.
    Reset {
        /// Which.
        id: u64,
    },
}

impl<C> Default for Calls<C> {
    fn default() -> Self {
        Self { terms: OWN, connected: false, last: 0, bytes: 0, calls: BTreeMap::new(), deadlines: BTreeSet::new() }
    }
}

impl<C> Calls<C> {
    /// Takes a request. Gives its number, or `None` if there is no credit: then it is completed as `Overloaded`.
    pub fn start(
        &mut self,
        now: Instant,
        mut envelope: Envelope,
        caller: C,
        actions: &mut Vec<Action<C>>,
    ) -> Option<u64> {
        let bytes = envelope.payload.len();
        if let Err(error) = self.credit(bytes) {
            actions.push(Action::Complete { caller, outcome: Err(error) });
            return None;
        }
        self.last += 1;
        let id = self.last;
        envelope.header.id = id;
        let budget = match envelope.header.budget_us {
            0 => BUDGET_DEFAULT,
            micros => core::time::Duration::from_micros(micros),
        };
        let deadline = now + budget;
        let envelope = Box::new(envelope);
        let phase = if self.connected {
            actions.push(Action::Send { id, deadline, envelope });
            Phase::Unsent
        } else {
            Phase::Waiting(envelope)
        };
        self.bytes += bytes;
        self.deadlines.insert((deadline, id));
        self.calls.insert(id, Call { caller, deadline, bytes, phase });
        Some(id)
    }

    fn credit(&self, bytes: usize) -> Result<(), Error> {
        // A payload over the credit of an empty link could never go: let it, alone.
        let fits = self.bytes + bytes <= self.terms.bytes_max || self.calls.is_empty();
        if self.calls.len() < self.terms.jobs_max && fits {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Overloaded, "no credit left on this link: back off")
            .with("jobs", self.calls.len())
            .with("bytes", self.bytes))
    }

    /// There is a connection, on these terms: what waited goes out, oldest first, as far as the terms allow.
    pub fn connected(&mut self, terms: Terms, actions: &mut Vec<Action<C>>) {
        self.connected = true;
        self.terms = terms;
        let waiting = core::mem::take(&mut self.calls);
        self.bytes = 0;
        for (id, mut call) in waiting {
            if let Err(error) = self.credit(call.bytes) {
                self.deadlines.remove(&(call.deadline, id));
                actions.push(Action::Complete { caller: call.caller, outcome: Err(error) });
                continue;
            }
            if let Phase::Waiting(envelope) = core::mem::replace(&mut call.phase, Phase::Unsent) {
                actions.push(Action::Send { id, deadline: call.deadline, envelope });
            }
            self.bytes += call.bytes;
            self.calls.insert(id, call);
        }
    }

    /// The last byte of a request is about to be handed over. `false`: do not, the call is over; reset its stream.
    #[must_use]
    pub fn sent(&mut self, id: u64) -> bool {
        self.calls.get_mut(&id).is_some_and(|call| {
            call.phase = Phase::Sent;
            true
        })
    }

    /// An answer has come. Late ones are ignored.
    pub fn answered(&mut self, id: u64, outcome: Outcome, actions: &mut Vec<Action<C>>) {
        if let Some(call) = self.remove(id) {
            actions.push(Action::Complete { caller: call.caller, outcome });
        }
    }

    /// The stream of one call broke, the connection did not.
    pub fn stream_broken(&mut self, id: u64, reason: &str, actions: &mut Vec<Action<C>>) {
        if let Some(call) = self.remove(id) {
            actions.push(Action::Complete { outcome: Err(call.lost(reason)), caller: call.caller });
        }
    }

    /// The caller gave up.
    pub fn cancel(&mut self, id: u64, actions: &mut Vec<Action<C>>) {
        let cancelled = || Error::new(ErrorKind::Cancelled, "the caller gave up");
        self.abandon(id, cancelled, actions);
    }

    /// Ends the calls whose deadline has come.
    pub fn expire(&mut self, now: Instant, actions: &mut Vec<Action<C>>) {
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            let late = || Error::new(ErrorKind::Timeout, "the budget ran out before an answer came");
            self.abandon(id, late, actions);
        }
    }

    /// When to call [`Self::expire`] next.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// The connection broke, or could not be made. All calls end: there is no resending here.
    pub fn broken(&mut self, reason: &str, actions: &mut Vec<Action<C>>) {
        self.connected = false;
        self.terms = OWN;
        self.bytes = 0;
        self.deadlines.clear();
        for (_, call) in core::mem::take(&mut self.calls) {
            actions.push(Action::Complete { outcome: Err(call.lost(reason)), caller: call.caller });
        }
    }

    /// How many calls are not over.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.calls.len()
    }

    fn abandon(&mut self, id: u64, error: impl FnOnce() -> Error, actions: &mut Vec<Action<C>>) {
        let Some(call) = self.remove(id) else { return };
        if !matches!(call.phase, Phase::Waiting(_)) {
            actions.push(Action::Reset { id });
        }
        actions.push(Action::Complete { caller: call.caller, outcome: Err(error()) });
    }

    fn remove(&mut self, id: u64) -> Option<Call<C>> {
        let call = self.calls.remove(&id)?;
        self.bytes -= call.bytes;
        self.deadlines.remove(&(call.deadline, id));
        Some(call)
    }
}

impl<C> Call<C> {
    fn lost(&self, reason: &str) -> Error {
        let error = match self.phase {
            Phase::Sent => Error::new(ErrorKind::LinkLost, "the link broke while the request was on it"),
            Phase::Waiting(_) | Phase::Unsent => {
                Error::new(ErrorKind::Unreachable, "the peer cannot be reached, and the request was not sent")
            }
        };
        error.with("reason", reason)
    }
}

/// Before the other end has said what it grants.
const OWN: Terms = Terms { jobs_max: LINK_JOBS_MAX, bytes_max: LINK_BYTES_MAX };
