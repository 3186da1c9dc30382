//! Pure placement decisions: no I/O, no clock, no randomness, no floating point; the same arguments give the same
//! answer everywhere. Nothing is moved here, and nobody is asked: whoever builds a [`View`] has asked already, and
//! whoever gets a [`Plan`] carries it out.
//!
//! - [`layout`] turns the drives of a cluster into placement groups.
//! - [`plan`](plan()) turns a [`View`] (nodes, actors, rules, the time) into a [`Plan`]: where each actor runs, whole or
//!   [cut](fuse) between its host and a DPU, what has to move, and the [`Reason`] for every actor, moved or not.
//! - [`Planner`] does the same change by change (or many at once), looking only at what the change can have a bearing on.
//! - [`migration`] is one live move, as a machine; [`transfer`] what its source and its target do of it; [`doors`] who takes a
//!   request meanwhile.
//! - [`steward`] is what a node decides, one machine, a file a duty: who is there and leads, who follows and votes, when a
//!   layout is made, what it hosts, what its leader has moved, whether it is ready; [`survey`] makes the [`View`] that its
//!   leader plans from.
//! - [`fate`] is what a node does about one actor by what the group says of it.
//! - [`witness`] judges whether a node that speaks is the one that is known, with all that it had promised.
//! - [`survival()`] says what goes on when a node is lost; [`rescue`] what becomes of metadata groups when too many are.
//! - [`View::with_dpu`] and [`View::without`] ask what would happen.
//!
//! ```
//! use mesh_core::id::{ActorId, NodeId, TenantId};
//! use mesh_placement::{ActorView, NodeView, Preference, Spot, Stage, View, plan};
//!
//! let (host, dpu) = (NodeId(1), NodeId(4));
//! let mut view = View { now_ms: 60_000, ..View::default() };
//! for (id, mut node) in [(host, NodeView::host(host)), (dpu, NodeView::dpu(host))] {
//!     node.capabilities = ["policy", "encrypt", "erasure"].map(Into::into).into();
//!     (node.memory_free_bytes, node.millicores) = (1 << 30, 8_000);
//!     view.nodes.insert(id, node);
//! }
//! let stages = ["policy", "encrypt", "erasure"].map(Stage::new);
//! let actor = ActorId::data(TenantId(7), host);
//! let chain = ActorView {
//!     preference: Preference::PreferDpu,
//!     at: Some(Spot::whole(host)),
//!     ..ActorView::chain(stages, host)
//! };
//! view.actors.insert(actor, chain);
//!
//! let plan = plan(&view);
//! assert_eq!(plan.decisions[&actor].spot, Some(Spot::whole(dpu)));
//! assert_eq!(
//!     plan.moves[0].to_string(),
//!     "move  chain-7-1: node-1 -> node-4: node-4 is a DPU of its ingress host node-1 and is preferred"
//! );
//! ```
//!
//! # What decides
//!
//! Constraints: a node is up and not being drained, has a capability for every stage, has memory and (a DPU) cores for
//! all that is planned on it; a medium is visible; a policy allows it; a DPU serves only its own host's ingress, or what
//! is pinned to it; a tenant that insists on isolation shares no DPU. Among places that satisfy these, the order of the
//! fields of [`Score`] decides; a [pin](ActorView::pin) and a [preference](Preference) come before cost.
//!
//! What must move (its node is down, drained or overfull, a policy changed, a preferred DPU is there) moves at once. For
//! gain alone an actor moves only if the gain is large enough and it has not moved for a while ([`Rules`]).
//!
//! # What it does not do
//!
//! It looks for a placement from which no single actor has a better place to go, not for the best of all placements:
//! actors do not swap places. An actor without ingress, medium or pin is not placed. Members of an `apart` group that can
//! be in one failure domain only (a drive on one host) are taken as they are. A cost that nobody measured counts as the
//! ingress's, else as nothing, and never as a gain.

mod candidates;
mod index;
mod plan;
mod planner;
mod room;
mod solve;
mod survival;
mod view;
mod what_if;

pub mod doors;
pub mod fate;
pub mod fuse;
pub mod layout;
pub mod migration;
pub mod rescue;
pub mod steward;
pub mod survey;
pub mod transfer;
pub mod witness;

pub use mesh_core::plan::{Decision, Move, Objective, Plan, Reason, Score, Spot};
pub use plan::plan;
pub use planner::{Change, Planner};
pub use survival::{HOSTS_MIN, Outage, drives_each, survival};
pub use view::{ActorView, Cost, Load, NodeView, Policies, Preference, Rules, Stage, View};
