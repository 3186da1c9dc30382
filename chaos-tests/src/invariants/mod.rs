//! What must hold at every moment, one promise a file. Histories of clients are the oracle's; these see inside.

use mesh_core::{
    Buf, Op, Outcome,
    assignment::Assignment,
    id::{ActorId, DriveId, Epoch, NodeId},
    topology::Layouts,
};

mod admission;
mod answers;
mod census;
mod ciphertext;
mod ownership;
mod parked;
mod placement;
mod reclaim;
mod rest;
mod soft_state;
mod tails;

pub use admission::Admission;
pub use answers::Answers;
pub use census::{Where, astray, missing, visible};
pub use ciphertext::{Ciphertext, MARKER};
pub use ownership::Ownership;
pub use parked::parked_since;
pub use placement::Placement;
pub use reclaim::{garbage, owing};
pub use rest::unfinished;
pub use soft_state::{SoftState, kept};
pub use tails::Tails;

/// Sees what happens and says what is wrong with it.
pub trait Invariant {
    /// An actor has answered a request.
    ///
    /// # Errors
    /// What is wrong.
    fn answered(&mut self, actor: ActorId, op: &Op, outcome: &Outcome) -> Result<(), String> {
        let _unused = (actor, op, outcome);
        Ok(())
    }

    /// A drive's medium is given bytes.
    ///
    /// # Errors
    /// What is wrong.
    fn written(&mut self, drive: DriveId, bufs: &[Buf]) -> Result<(), String> {
        let _unused = (drive, bufs);
        Ok(())
    }

    /// The control group has changed an actor's place, by the commit of a move or otherwise.
    ///
    /// # Errors
    /// What is wrong.
    fn assigned(&mut self, before: Option<&Assignment>, row: &Assignment, commits: bool) -> Result<(), String> {
        let _unused = (before, row, commits);
        Ok(())
    }

    /// The control group has these layouts.
    ///
    /// # Errors
    /// What is wrong.
    fn laid_out(&mut self, layouts: &Layouts) -> Result<(), String> {
        let _unused = layouts;
        Ok(())
    }

    /// An actor that may move has taken a request in.
    ///
    /// # Errors
    /// What is wrong.
    fn taken(&mut self, node: NodeId, actor: ActorId, epoch: Epoch) -> Result<(), String> {
        let _unused = (node, actor, epoch);
        Ok(())
    }

    /// The tail of a chain has taken in, under this epoch, what a head of `head` has sent.
    ///
    /// # Errors
    /// What is wrong.
    fn tail_taken(&mut self, node: NodeId, tail: (ActorId, Epoch), head: Epoch) -> Result<(), String> {
        let _unused = (node, tail, head);
        Ok(())
    }

    /// A request came in over a link.
    ///
    /// # Errors
    /// What is wrong.
    fn admitted(&mut self, session: u64, id: u64) -> Result<(), String> {
        let _unused = (session, id);
        Ok(())
    }
}

/// All invariants of a world.
#[derive(Default)]
pub struct Invariants(Vec<Box<dyn Invariant>>);

impl core::fmt::Debug for Invariants {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} invariants", self.0.len())
    }
}

impl Invariants {
    /// These.
    #[must_use]
    pub fn new(list: Vec<Box<dyn Invariant>>) -> Self {
        Self(list)
    }

    pub(crate) fn answered(&mut self, actor: ActorId, op: &Op, outcome: &Outcome) -> Result<(), String> {
        self.0.iter_mut().try_for_each(|one| one.answered(actor, op, outcome))
    }

    pub(crate) fn assigned(
        &mut self,
        before: Option<&Assignment>,
        row: &Assignment,
        commits: bool,
    ) -> Result<(), String> {
        self.0.iter_mut().try_for_each(|one| one.assigned(before, row, commits))
    }

    pub(crate) fn laid_out(&mut self, layouts: &Layouts) -> Result<(), String> {
        self.0.iter_mut().try_for_each(|one| one.laid_out(layouts))
    }

    pub(crate) fn taken(&mut self, node: NodeId, actor: ActorId, epoch: Epoch) -> Result<(), String> {
        self.0.iter_mut().try_for_each(|one| one.taken(node, actor, epoch))
    }

    pub(crate) fn tail_taken(&mut self, node: NodeId, tail: (ActorId, Epoch), head: Epoch) -> Result<(), String> {
        self.0.iter_mut().try_for_each(|one| one.tail_taken(node, tail, head))
    }

    pub(crate) fn written(&mut self, drive: DriveId, bufs: &[Buf]) -> Result<(), String> {
        self.0.iter_mut().try_for_each(|one| one.written(drive, bufs))
    }

    pub(crate) fn admitted(&mut self, session: u64, id: u64) -> Result<(), String> {
        self.0.iter_mut().try_for_each(|one| one.admitted(session, id))
    }
}
