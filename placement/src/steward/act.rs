//! What a steward is told, and what it wants done.

use core::net::SocketAddr;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Error, ErrorKind,
    assignment::MoveId,
    happened::Happened,
    id::{ActorId, Epoch, GroupId, Incarnation, NodeId, ReplicaId, TenantId},
    meta::{Command, ControlView, Level},
    op::{ActorReport, Beat, DriveReport, NodeLoad, Waits},
    time::Instant,
};

use super::{
    Deed, Group,
    layouts::Draft,
    members,
    outs::Put,
    plans::{Studied, Study},
};
use crate::{
    fate::{Hosted, Known},
    migration::{Ask, Heard},
    witness::Verdict,
};

/// What a node observes of itself.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Its replicas.
    pub groups: Vec<Group>,
    /// The groups of which it keeps a replica, open or not.
    pub kept: BTreeSet<GroupId>,
    /// Its metadata are damaged: the groups of which it knows that it had kept something, or why they could not be set aside.
    pub damage: Option<Result<BTreeSet<GroupId>, Error>>,
    /// What those of its metadata wait for that are to go on alone.
    pub waits: Option<Waits>,
    /// See [`Beat::marked`].
    pub marked: u64,
    /// What it hosts.
    pub hosted: BTreeMap<ActorId, Hosted>,
    /// What it knows of moves: of the actors that it hosts, and of those in [`Steward::concerns`](super::Steward::concerns).
    pub known: BTreeMap<ActorId, Known>,
    /// The actors that it runs, for others.
    pub actors: Vec<ActorReport>,
    /// What it has used.
    pub load: NodeLoad,
    /// See [`NodeReport::lost`](mesh_core::op::NodeReport::lost).
    pub lost: u64,
    /// It has been told to stop: it gives away what it leads.
    pub stopping: bool,
    /// It has been told to stop, and its actors are to go elsewhere.
    pub leaving: bool,
    /// Actors that have been frozen for long: see [`Transfers::overdue`](crate::transfer::Transfers::overdue).
    pub overdue: Vec<(ActorId, Epoch, MoveId)>,
    /// What stands between this node and all others.
    pub complaint: Option<Error>,
}

/// What has happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time has passed: see [`Steward::wake_at`](super::Steward::wake_at).
    Time,
    /// A node is alive, by its beat or its answer to one, and when that came here: it may have waited since.
    Heard(Arc<Beat>, Instant),
    /// A beat failed that was sent then.
    Unanswered(NodeId, Instant, ErrorKind),
    /// A person or the configuration says where a node listens.
    Given(NodeId, SocketAddr, Incarnation),
    /// The control group has decided something.
    Control(Arc<ControlView>),
    /// What the node observes of itself: to be told when [`Steward::is_curious`](super::Steward::is_curious).
    Observed(Box<Observed>),
    /// How its drives are.
    Drives(Vec<DriveReport>),
    /// Something has changed here that only an observation shows.
    Changed,
    /// [`Act::Plan`] has ended well.
    Planned(Box<Studied>),
    /// An act has ended.
    Ended(Key, Result<(), Error>),
    /// What was done for an actor's sake has come to this.
    Stepped(ActorId, u64, Heard),
}

/// What an act is about; at most one of each is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The node's drives are asked how they are.
    Stat,
    /// The metadata replicas are told who is there.
    Peers,
    /// The node is made known to the mesh.
    Announce,
    /// A replica forgets who led.
    Forsake(GroupId),
    /// An election.
    Elect(GroupId),
    /// A replica is begun.
    Ensure(GroupId),
    /// A replica is removed.
    Retire(GroupId),
    /// A change of who follows and votes.
    Members(GroupId),
    /// A new layout.
    LayOut,
    /// Drives go out, or come back.
    PutOut,
    /// A majority of the control group is asked whether it follows this node.
    Confirm,
    /// The mesh can do more.
    RaiseLevel,
    /// A node that has left is to begin nothing more.
    Fence,
    /// What a tenant leaves that was deleted goes.
    Clear,
    /// A look at the whole mesh: [`Study::number`].
    Plan(u64),
    /// Damaged metadata are set aside.
    Renew,
    /// Another replica is to lead, so that this one can be set aside.
    HandOver(GroupId),
    /// An actor is started, configured or let go.
    Actor(ActorId),
    /// A move of before this start is ended.
    TakeBack(ActorId, MoveId),
    /// A move that takes long is ended.
    Settle(ActorId, Epoch, MoveId),
}

/// What is to be done. Those that have a [`Key`] end with [`Event::Ended`], or as they say.
#[derive(Clone, Debug)]
pub enum Act {
    /// Tell a node that this one is alive. What it answers is [`Event::Heard`].
    Beat(NodeId, Arc<Beat>),
    /// A node listens there.
    Locate(NodeId, SocketAddr),
    /// This start of a node counts: links to earlier ones are over.
    Restarted(NodeId, Incarnation),
    /// A node is there.
    Up(NodeId),
    /// A node is there no more: what waits for it waits in vain.
    Down(NodeId),
    /// What a replica had promised is not in its files any more.
    Disown(ReplicaId, String),
    /// A beat of this address does not count.
    TurnAway(NodeId, String, Verdict),
    /// [`Key::Stat`]; then [`Event::Drives`].
    Stat,
    /// [`Key::Peers`].
    Peers {
        /// These are there.
        up: Vec<NodeId>,
        /// These are not.
        down: Vec<NodeId>,
    },
    /// [`Key::Announce`], by a proposal of its own, or through the first of these that takes it.
    Announce(Vec<NodeId>),
    /// [`Key::Forsake`]: whoever led in this term does not do so any more.
    Forsake(GroupId, NodeId, u64),
    /// [`Key::Elect`].
    Elect(GroupId),
    /// [`Key::Ensure`].
    Ensure(GroupId),
    /// [`Key::Retire`]: once its group has said that it goes on without it.
    Retire(GroupId),
    /// [`Key::Members`].
    Members(GroupId, members::Step),
    /// [`Key::LayOut`]: [`Draft::carry_out`] beside everything else, then a proposal of what it makes.
    LayOut(Box<Draft>),
    /// [`Key::PutOut`]: propose it.
    PutOut(Put),
    /// [`Key::Confirm`]: well if a majority follows this node that was asked just now.
    Confirm,
    /// [`Key::RaiseLevel`]: every node speaks this level; propose it.
    RaiseLevel(Level),
    /// [`Key::Fence`]: propose this.
    Fence(Command),
    /// [`Key::Clear`]: empty and remove this tenant's buckets, then what else there is of it.
    Clear(TenantId),
    /// [`Key::Plan`]: [`Study::carry_out`], beside everything else; then [`Event::Planned`], and [`Event::Ended`] only if that
    /// failed.
    Plan(Box<Study>),
    /// [`Key::Renew`].
    Renew,
    /// [`Key::Renew`]: what waits goes on.
    GoOn,
    /// [`Key::HandOver`].
    HandOver(GroupId, NodeId),
    /// [`Key::Actor`], each deed in turn until one fails.
    Actor(ActorId, Vec<Deed>),
    /// What is known of an actor's moves is over.
    Forget(ActorId),
    /// An actor cannot be hosted.
    Trouble(ActorId, Error),
    /// [`Key::TakeBack`]: propose that the move ends.
    TakeBack(ActorId, Epoch, MoveId),
    /// [`Key::Settle`]: propose that the move ends.
    Settle(ActorId, Epoch, MoveId),
    /// The move has ended, and the actor runs on if it still waits for that one.
    Settled(ActorId, Epoch, MoveId),
    /// Something is to be done for a move's sake; what comes of it is [`Event::Stepped`], with this number.
    Step(ActorId, u64, Ask),
    /// Something has happened.
    Note(Happened),
    /// The mesh does not take this node in; said once.
    Refused(Error),
    /// The mesh has taken this node out, for good, or goes on without what it has; said once.
    Expelled(Error),
    /// It serves again: what it was left behind by is there no more.
    Back,
    /// Why something that only a person can mend is not so; said once.
    Complain(&'static str, Error),
    /// The same of what may pass by itself.
    Warn(&'static str, Error),
}

impl Act {
    /// What it is about, if it ends.
    #[must_use]
    pub const fn key(&self) -> Option<Key> {
        Some(match self {
            Self::Stat => Key::Stat,
            Self::Peers { .. } => Key::Peers,
            Self::Announce(_) => Key::Announce,
            Self::Forsake(group, ..) => Key::Forsake(*group),
            Self::Elect(group) => Key::Elect(*group),
            Self::Ensure(group) => Key::Ensure(*group),
            Self::Retire(group) => Key::Retire(*group),
            Self::Members(group, _) => Key::Members(*group),
            Self::LayOut(_) => Key::LayOut,
            Self::PutOut(_) => Key::PutOut,
            Self::Confirm => Key::Confirm,
            Self::RaiseLevel(_) => Key::RaiseLevel,
            Self::Fence(_) => Key::Fence,
            Self::Clear(_) => Key::Clear,
            Self::Plan(study) => Key::Plan(study.number()),
            Self::Renew | Self::GoOn => Key::Renew,
            Self::HandOver(group, _) => Key::HandOver(*group),
            Self::Actor(actor, _) => Key::Actor(*actor),
            Self::TakeBack(actor, _, id) => Key::TakeBack(*actor, *id),
            Self::Settle(actor, epoch, id) => Key::Settle(*actor, *epoch, *id),
            _ => return None,
        })
    }
}

impl Key {
    /// Whether what it does may be seen only some time after it has ended.
    pub(super) const fn is_seen_late(&self) -> bool {
        matches!(
            self,
            Self::Announce
                | Self::Elect(_)
                | Self::Ensure(_)
                | Self::Retire(_)
                | Self::LayOut
                | Self::PutOut
                | Self::RaiseLevel
                | Self::Fence
                | Self::Renew
                | Self::HandOver(_)
                | Self::Settle(..)
        )
    }

    /// The actor to which something is done.
    pub(super) const fn actor(&self) -> Option<ActorId> {
        match self {
            Self::Actor(actor) => Some(*actor),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::meta::MeshCommand;

    use super::*;
    use crate::steward::{Outlook, layouts::Layouts, plans::Plans, tests};

    #[test]
    fn what_ends_is_about_something_and_what_does_not_is_about_nothing() {
        let (group, node, actor, id) = (GroupId(3), NodeId(2), ActorId(9), MoveId(4));
        let error = || Error::invalid("as planned");
        let study = Plans::default().study(Arc::default(), Outlook::new(node, Instant(0)), Instant(0));
        let mut view = ControlView {
            code: Some(mesh_core::topology::Code { data: 1, parity: 1 }),
            level: mesh_core::meta::LEVEL,
            nodes: [1, 2].map(|node| (NodeId(node), tests::host(node))).into(),
            ..ControlView::default()
        };
        view.drives = [1, 2].map(|node| (mesh_core::id::DriveId(node), tests::drive(node, node))).into();
        let mut layouts = Layouts::default();
        assert!(layouts.look(&view, Instant(0)).is_none());
        let draft = layouts.look(&view, Instant(60_000_000_000)).expect("one is due");
        let table = [
            (Act::Stat, Some(Key::Stat)),
            (Act::Peers { up: Vec::new(), down: Vec::new() }, Some(Key::Peers)),
            (Act::Announce(Vec::new()), Some(Key::Announce)),
            (Act::Forsake(group, node, 1), Some(Key::Forsake(group))),
            (Act::Elect(group), Some(Key::Elect(group))),
            (Act::Ensure(group), Some(Key::Ensure(group))),
            (Act::Retire(group), Some(Key::Retire(group))),
            (Act::Members(group, members::Step::Vote(BTreeSet::new())), Some(Key::Members(group))),
            (Act::LayOut(Box::new(draft)), Some(Key::LayOut)),
            (Act::PutOut(Put { drives: Vec::new(), out: true }), Some(Key::PutOut)),
            (Act::Confirm, Some(Key::Confirm)),
            (Act::RaiseLevel(Level(2)), Some(Key::RaiseLevel)),
            (Act::Fence(MeshCommand::FencedNode { node }.into()), Some(Key::Fence)),
            (Act::Clear(TenantId(3)), Some(Key::Clear)),
            (Act::Plan(Box::new(study)), Some(Key::Plan(1))),
            (Act::Renew, Some(Key::Renew)),
            (Act::HandOver(group, node), Some(Key::HandOver(group))),
            (Act::Actor(actor, Vec::new()), Some(Key::Actor(actor))),
            (Act::TakeBack(actor, Epoch(5), id), Some(Key::TakeBack(actor, id))),
            (Act::Settle(actor, Epoch(5), id), Some(Key::Settle(actor, Epoch(5), id))),
            (Act::Settled(actor, Epoch(5), id), None),
            (Act::Forget(actor), None),
            (Act::Up(node), None),
            (Act::Down(node), None),
            (Act::Refused(error()), None),
            (Act::Expelled(error()), None),
            (Act::Complain("it is so", error()), None),
            (Act::Warn("it is so", error()), None),
        ];
        for (act, key) in table {
            assert_eq!(act.key(), key, "{act:?}");
            let of = if matches!(act, Act::Actor(..)) { Some(actor) } else { None };
            assert_eq!(key.and_then(|key| key.actor()), of, "{act:?}");
        }
    }
}
