//! What stands around a function of the embedding program: it is asked for whole stripes only.
//!
//! Whoever wants some bytes of a stripe says so, and may be given those alone. A function that looks at what is read, or makes
//! something else of it, would see only a part; so what it is asked for says nothing of that, and whoever asked takes the
//! part out of the whole.

use mesh_core::{
    Cx, Error, Event, Op, StorageFunction,
    op::StripeOp,
    snapshot::{Mark, Snapshot},
    time::Instant,
};

/// See the module's page.
pub(crate) struct Whole(pub(crate) Box<dyn StorageFunction>);

impl StorageFunction for Whole {
    fn on_event(&mut self, mut event: Event, cx: &mut Cx<'_>) {
        if let Event::Request { request, .. } = &mut event
            && let Op::Stripe(op) = &mut request.op
            && let StripeOp::Read { part, .. } = &mut **op
        {
            *part = None;
        }
        self.0.on_event(event, cx);
    }

    fn wake_at(&self) -> Option<Instant> {
        self.0.wake_at()
    }

    fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    fn unanswered(&self) -> usize {
        self.0.unanswered()
    }

    fn lingers(&self) -> bool {
        self.0.lingers()
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        self.0.snapshot(since)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        self.0.restore(snapshot)
    }
}
