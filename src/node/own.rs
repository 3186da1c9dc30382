//! What the table of roles leaves to who knows the mesh: whether what a DPU asks is about its own.
//!
//! A DPU's own are the chains that the control group gives it, and the metadata of their tenants in the name of the ingresses that
//! it has them for. What a chain had under way when it left goes on to its end, so it counts for as long as that may take.

use core::time::Duration;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use mesh_core::{
    Error, ErrorKind, Op,
    id::{ActorId, BucketId, GroupId, NodeId, TenantId},
    limits::BUDGET_DEFAULT,
    meta::{BucketCommand, BucketRef, Command, ControlView, MeshCommand, MetaAnswer, Proposer, Query},
    op::{MoveOp, MoveStep, NodeOp},
    port::Role,
    role::{Class, Kind, May},
    time::Instant,
    topology::{NodeInfo, NodeKind},
};
use mesh_transport::gate;

use super::{Inner, lock};

/// What a node knows of what is whose.
#[derive(Default)]
pub(crate) struct Standing {
    /// Chains that have left a DPU, and when.
    left: Mutex<BTreeMap<(NodeId, ActorId), Instant>>,
    /// Buckets whose tenant the control group has said: that of a number never changes.
    buckets: Mutex<BTreeMap<BucketId, TenantId>>,
    refusals: gate::Refusals,
}

impl Standing {
    /// The control group has decided something.
    pub(super) fn learn(&self, before: &ControlView, after: &ControlView, now: Instant) {
        let is_dpu = |node: &NodeId| before.nodes.get(node).is_some_and(|info| info.kind == NodeKind::Dpu);
        let mut left = lock(&self.left);
        for (actor, old, _) in before.assignments.diff(&after.assignments) {
            for node in old.into_iter().flat_map(|row| [Some(row.node), row.moving]).flatten().filter(is_dpu) {
                if left.len() >= LEFT_MAX {
                    left.retain(|_, at| now.since(*at) < LEFT_FOR);
                }
                if left.len() < LEFT_MAX {
                    left.insert((node, *actor), now);
                }
            }
        }
    }

    fn has_left_lately(&self, dpu: NodeId, actor: ActorId, now: Instant) -> bool {
        lock(&self.left).get(&(dpu, actor)).is_some_and(|at| now.since(*at) < LEFT_FOR)
    }

    fn left_lately(&self, dpu: NodeId, tenant: TenantId, now: Instant) -> bool {
        let chains = (dpu, ActorId::data(tenant, NodeId(0)))..=(dpu, ActorId::data(tenant, NodeId(u32::MAX.into())));
        lock(&self.left).range(chains).any(|(_, at)| now.since(*at) < LEFT_FOR)
    }

    fn tenant_of(&self, bucket: BucketId) -> Option<TenantId> {
        lock(&self.buckets).get(&bucket).copied()
    }

    fn keep(&self, bucket: BucketId, tenant: TenantId) {
        let mut buckets = lock(&self.buckets);
        if buckets.len() >= BUCKETS_MAX {
            buckets.clear();
        }
        buckets.insert(bucket, tenant);
    }
}

/// What somebody says to be his own by asking for it.
#[derive(Debug, PartialEq)]
enum Claim<'o> {
    /// Who he is.
    Itself(NodeId),
    /// A start of his.
    Start(&'o NodeInfo),
    /// A chain of a tenant; for this ingress, where it is in the name of one.
    Tenant(TenantId, Option<ActorId>),
    /// The same, of the tenant of a bucket.
    Bucket(&'o BucketRef, Option<ActorId>),
    /// An actor that moves, or has moved, from him or to him.
    Moves(ActorId),
    /// A page of a move from him to this node.
    Page(&'o MoveStep),
}

impl<'o> Claim<'o> {
    /// `None`: nobody's own.
    fn of(op: &'o Op) -> Option<Self> {
        match op {
            Op::Query { query, .. } => Self::of_query(query),
            Op::Propose(command) => Self::of_command(command),
            Op::Node(op) => match &**op {
                NodeOp::Beat(beat) => Some(Self::Itself(beat.node)),
                NodeOp::RelayQuery { query, .. } => Self::of_query(query),
                NodeOp::RelayPropose(command) => Self::of_command(command),
                NodeOp::Move(step) if matches!(step.what, MoveOp::Install { .. }) => Some(Self::Page(step)),
                NodeOp::Move(_)
                | NodeOp::Raft { .. }
                | NodeOp::Status
                | NodeOp::StatusPage { .. }
                | NodeOp::Admin(_) => None,
            },
            Op::Object(_) | Op::Stripe(_) | Op::Shard(_) => None,
        }
    }

    fn of_query(query: &'o Query) -> Option<Self> {
        match query {
            Query::Buckets { tenant } => Some(Self::Tenant(*tenant, None)),
            Query::Object { bucket, .. }
            | Query::List { bucket, .. }
            | Query::Upload { bucket, .. }
            | Query::Uploads { bucket, .. }
            | Query::Parts { bucket, .. }
            | Query::Extents { bucket, .. } => Some(Self::Bucket(bucket, None)),
            _ => None,
        }
    }

    fn of_command(command: &'o Command) -> Option<Self> {
        let actor = command.proposer().map(|Proposer { actor, .. }| *actor);
        match command {
            Command::Bucket(BucketCommand::CreateBucket { tenant, .. }) => Some(Self::Tenant(*tenant, Some(actor?))),
            Command::Object(bucket, _) => Some(Self::Bucket(bucket, Some(actor?))),
            Command::Mesh(MeshCommand::PutNode(info)) => Some(Self::Start(info)),
            Command::Mesh(MeshCommand::AbortMove { actor, .. }) => Some(Self::Moves(*actor)),
            _ => None,
        }
    }
}

/// Who asks, whom, and when.
#[derive(Clone, Copy)]
struct Asking<'s> {
    dpu: NodeId,
    /// The host that its certificate names; `None`: it has a host's, of before there were others.
    host: Option<NodeId>,
    here: NodeId,
    standing: &'s Standing,
    now: Instant,
}

impl Asking<'_> {
    /// Whether a claim is true, as far as the control group says.
    fn holds(self, claim: &Claim<'_>, view: &ControlView) -> bool {
        let Self { dpu, host, here, standing, now } = self;
        match claim {
            Claim::Itself(node) => *node == dpu,
            Claim::Start(info) => {
                let at = host.is_none_or(|host| info.attached_to == Some(host));
                info.id == dpu && info.kind == NodeKind::Dpu && at
            }
            Claim::Tenant(tenant, actor) | Claim::Bucket(BucketRef { tenant, .. }, actor) => match actor {
                Some(actor) => {
                    let Some(chain) = actor.as_ingress().map(|ingress| ActorId::data(*tenant, ingress)) else {
                        return false;
                    };
                    self.has(chain, view)
                }
                None => {
                    let chains = ActorId::data(*tenant, NodeId(0))..=ActorId::data(*tenant, NodeId(u32::MAX.into()));
                    view.assignments.range(chains).any(|(_, row)| row.is_on(&[dpu].into()))
                        || standing.left_lately(dpu, *tenant, now)
                }
            },
            Claim::Moves(actor) => self.has(*actor, view),
            Claim::Page(step) => view.assignments.get(&step.actor).is_some_and(|row| {
                row.node == dpu && row.epoch == step.epoch && row.move_under_way() == Some((step.id, here))
            }),
        }
    }

    fn has(self, chain: ActorId, view: &ControlView) -> bool {
        view.assignments.get(&chain).is_some_and(|row| row.is_on(&[self.dpu].into()))
            || self.standing.has_left_lately(self.dpu, chain, self.now)
    }
}

impl Inner {
    /// Who asks, as the mesh knows him: a node on a DPU may have the certificate of a host, of before there were others, and
    /// has no more to say for that.
    pub(super) fn known_as(&self, from: &Role) -> Role {
        let Role::Node(node) = from else { return from.clone() };
        match self.metadata.control().nodes.get(node) {
            Some(info) if info.kind == NodeKind::Dpu => {
                Role::Dpu { node: *node, host: info.attached_to.unwrap_or_default() }
            }
            _ => from.clone(),
        }
    }

    /// Refuses what a DPU may not ask whatever it is about. Says whether it is to be looked at what that is.
    ///
    /// # Errors
    /// `Denied`.
    pub(super) fn expect_may(&self, from: &Role, actor: ActorId, op: &Op) -> Result<May, Error> {
        if !matches!(from, Role::Dpu { .. }) {
            return Ok(May::Yes);
        }
        gate::expect(Class::Dpu, actor, op).inspect_err(|error| self.standing.refusals.log(from, Kind::of(op), error))
    }

    /// Refuses what a DPU asks about what is not its own. The control group's word may be under way still: it is waited for.
    ///
    /// # Errors
    /// `Denied`; what the control group says of a bucket that is not known here.
    pub(super) async fn expect_own(
        &self,
        certified: &Role,
        from: &Role,
        op: &Op,
        deadline: Instant,
    ) -> Result<(), Error> {
        let Role::Dpu { node: dpu, .. } = from else { return Ok(()) };
        let host = match certified {
            Role::Dpu { host, .. } => Some(*host),
            Role::Node(_) | Role::Client(_) => None,
        };
        let denied = || {
            let error = gate::refusal(Class::Dpu, op);
            self.standing.refusals.log(from, Kind::of(op), &error);
            Err(error)
        };
        let Some(claim) = Claim::of(op) else { return denied() };
        let now = self.env.clock.now();
        let asking = Asking { dpu: *dpu, host, here: self.id, standing: &self.standing, now };
        let mut control = self.metadata.watch_control();
        let heard = control.wait_for(|view: &Arc<ControlView>| asking.holds(&claim, view));
        if !matches!(tokio::time::timeout(HEAR_MAX, heard).await, Ok(Ok(_))) {
            return denied();
        }
        match claim {
            Claim::Bucket(bucket, _) if !self.is_of_its_tenant(bucket, deadline).await? => denied(),
            _ => Ok(()),
        }
    }

    /// Whether a bucket is of the tenant that is said to have it.
    async fn is_of_its_tenant(&self, bucket: &BucketRef, deadline: Instant) -> Result<bool, Error> {
        if let Some(tenant) = self.standing.tenant_of(bucket.id) {
            return Ok(tenant == bucket.tenant);
        }
        let name = bucket.name.clone();
        match &*self.ask_group(GroupId::CONTROL, Query::Bucket { name }, deadline).await? {
            MetaAnswer::Bucket(row) if row.bucket.id == bucket.id => {
                self.standing.keep(bucket.id, row.bucket.tenant);
                Ok(row.bucket.tenant == bucket.tenant)
            }
            MetaAnswer::Bucket(_) => {
                Err(Error::new(ErrorKind::NoSuchBucket, "the bucket is gone, and another one has its name"))
            }
            _ => Err(Error::bug("the control group answered with something else than a bucket")),
        }
    }
}

/// How long a chain that has left a DPU counts as its own: requests that it had under way are over by then.
const LEFT_FOR: Duration = BUDGET_DEFAULT;
/// Chains that have left DPUs within [`LEFT_FOR`], and are remembered, at most.
const LEFT_MAX: usize = 1 << 16;
/// Buckets whose tenant is remembered, at most.
const BUCKETS_MAX: usize = 1 << 16;
/// How long the control group's word may be under way to here.
const HEAR_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use mesh_core::{
        assignment::{Assignment, MoveId},
        id::{Epoch, Incarnation},
        meta::{Level, ObjectCommand, Session, UpkeepCommand},
    };

    use super::*;

    const DPU: NodeId = NodeId(11);
    const OURS: TenantId = TenantId(1);
    const THEIRS: TenantId = TenantId(2);

    fn info(id: NodeId, kind: NodeKind, attached_to: Option<NodeId>) -> NodeInfo {
        NodeInfo {
            id,
            kind,
            address: "127.0.0.1:1".into(),
            incarnation: Incarnation(1),
            pid: 1,
            draining: false,
            attached_to,
            emulated: None,
            life: 1,
            invitation: 0,
            level: Level::FIRST,
            location: None,
        }
    }

    /// Tenant 1's chain for node 1 is on the DPU, on its way to node 1; for node 2 it is there; tenant 2's is on node 1.
    fn view() -> ControlView {
        let mut view = ControlView::default();
        for info in [info(NodeId(1), NodeKind::Host, None), info(DPU, NodeKind::Dpu, Some(NodeId(1)))] {
            view.nodes.insert(info.id, info);
        }
        let moving =
            Assignment { moves: MoveId(3), moving: Some(NodeId(1)), ..Assignment::new(chain(OURS, 1), DPU, Epoch(5)) };
        for row in [
            moving,
            Assignment::new(chain(OURS, 2), NodeId(2), Epoch(1)),
            Assignment::new(chain(THEIRS, 1), NodeId(1), Epoch(1)),
        ] {
            view.assignments.insert(row.actor, row);
        }
        view
    }

    fn chain(tenant: TenantId, ingress: u64) -> ActorId {
        ActorId::data(tenant, NodeId(ingress))
    }

    fn proposer(ingress: u64) -> Proposer {
        let actor = ActorId::ingress(NodeId(ingress));
        Proposer { actor, session: Session::default(), request: 0, done_below: 0 }
    }

    fn seal(tenant: TenantId, ingress: u64) -> Op {
        let bucket = BucketRef { id: BucketId(1), name: "b".into(), tenant, group: GroupId(1) };
        let command = Command::Object(bucket, ObjectCommand::SealBucket { proposer: proposer(ingress) });
        Op::Propose(Arc::new(command))
    }

    fn buckets(tenant: TenantId) -> Op {
        Op::Query { group: GroupId::CONTROL, query: Arc::new(Query::Buckets { tenant }) }
    }

    fn propose(command: MeshCommand) -> Op {
        Op::Propose(Arc::new(command.into()))
    }

    fn node(op: NodeOp) -> Op {
        Op::Node(Box::new(op))
    }

    fn holds(op: &Op, host: Option<NodeId>, standing: &Standing, view: &ControlView, at: u64) -> bool {
        let now = Instant(at);
        let asking = Asking { dpu: DPU, host, here: NodeId(1), standing, now };
        Claim::of(op).is_some_and(|claim| asking.holds(&claim, view))
    }

    #[test]
    fn a_dpu_s_own_is_what_its_chains_need_and_nothing_else() {
        let standing = Standing::default();
        let own = |op: &Op| holds(op, Some(NodeId(1)), &standing, &view(), 1);
        let step = |actor, id| {
            NodeOp::Move(MoveStep {
                actor,
                epoch: Epoch(5),
                id: MoveId(id),
                what: MoveOp::Install { page: 0, digest: 0 },
            })
        };
        let warm = NodeOp::Move(MoveStep { actor: chain(OURS, 1), epoch: Epoch(5), id: MoveId(3), what: MoveOp::Warm });
        let abort = |actor| propose(MeshCommand::AbortMove { actor, epoch: Epoch(5), id: MoveId(3) });
        let relayed = |op: Op| {
            let Op::Propose(command) = op else { panic!("a proposal") };
            node(NodeOp::RelayPropose(command))
        };
        for (op, is_own) in [
            (buckets(OURS), true),
            (buckets(THEIRS), false),
            (seal(OURS, 1), true),
            // In the name of an ingress whose chain it does not have.
            (seal(OURS, 2), false),
            (seal(THEIRS, 1), false),
            (relayed(seal(OURS, 1)), true),
            (relayed(seal(THEIRS, 1)), false),
            (abort(chain(OURS, 1)), true),
            (abort(chain(OURS, 2)), false),
            (node(step(chain(OURS, 1), 3)), true),
            (node(step(chain(OURS, 1), 2)), false),
            (node(step(chain(THEIRS, 1), 3)), false),
            (node(warm), false),
            (propose(MeshCommand::Drain { node: DPU, draining: true }), false),
            (
                Op::Propose(Arc::new(Command::Upkeep(GroupId(1), UpkeepCommand::OpenBlock { proposer: proposer(1) }))),
                false,
            ),
            (node(NodeOp::Status), false),
        ] {
            assert_eq!(own(&op), is_own, "{op:?}");
        }
    }

    #[test]
    fn a_dpu_registers_as_itself_and_at_its_host() {
        let standing = Standing::default();
        let put = |id, kind, at| propose(MeshCommand::PutNode(info(id, kind, at)));
        let (one, two) = (Some(NodeId(1)), Some(NodeId(2)));
        for (op, host, is_own) in [
            (put(DPU, NodeKind::Dpu, one), one, true),
            (put(DPU, NodeKind::Dpu, two), one, false),
            (put(DPU, NodeKind::Dpu, two), None, true),
            (put(DPU, NodeKind::Host, None), one, false),
            (put(DPU, NodeKind::Host, None), None, false),
            (put(NodeId(1), NodeKind::Host, None), one, false),
            (put(NodeId(12), NodeKind::Dpu, one), one, false),
        ] {
            assert_eq!(holds(&op, host, &standing, &view(), 1), is_own, "{op:?} {host:?}");
        }
    }

    #[test]
    fn what_a_chain_had_under_way_when_it_left_is_its_own_until_it_is_over() {
        let (standing, before) = (Standing::default(), view());
        let mut after = before.clone();
        let gone = Assignment::new(chain(OURS, 1), NodeId(1), Epoch(6));
        after.assignments.insert(gone.actor, gone);
        standing.learn(&before, &after, Instant(1_000));
        let end = 1_000 + u64::try_from(LEFT_FOR.as_nanos()).unwrap();
        for (at, is_own) in [(2_000, true), (end - 1, true), (end, false)] {
            assert_eq!(holds(&seal(OURS, 1), Some(NodeId(1)), &standing, &after, at), is_own, "at {at}");
            assert_eq!(holds(&buckets(OURS), Some(NodeId(1)), &standing, &after, at), is_own, "at {at}");
            assert!(!holds(&seal(THEIRS, 1), Some(NodeId(1)), &standing, &after, at));
        }
    }
}
