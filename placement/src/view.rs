//! What a plan is made from: the nodes, the actors, and the rules, as one value. Whoever builds it has asked the
//! nodes and the control group; nothing here asks anybody.
//!
//! Functions go by the names that nodes announce (`"policy"`, `"encrypt"`, a user's own): a capability of a node, a
//! measured cost and a stage of a chain meet by that name.
//!
//! Times are milliseconds on one clock, the one of [`View::now_ms`]; which clock that is does not matter.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use mesh_core::assignment::Preference;
use mesh_core::{
    id::{ActorId, NodeId, TenantId},
    plan::Spot,
    topology::NodeKind,
};

/// Everything that a plan depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Every known node, up or not.
    pub nodes: BTreeMap<NodeId, NodeView>,
    /// Every actor that is to run.
    pub actors: BTreeMap<ActorId, ActorView>,
    /// What a move must be worth, and how full a DPU may be.
    pub rules: Rules,
    /// Now.
    pub now_ms: u64,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// What it runs on.
    pub kind: NodeKind,
    /// The host that a DPU is attached to.
    pub attached_to: Option<NodeId>,
    /// It only stands for such hardware.
    pub emulated: bool,
    /// It answers.
    pub up: bool,
    /// It is being emptied: nothing enters, everything leaves.
    pub draining: bool,
    /// It has what it needs to serve: what is not ready is not entered for preference or gain.
    pub ready: bool,
    /// What runs there can do nothing, and its host could: everything leaves, and nothing enters.
    pub blind: bool,
    /// When it came up.
    pub up_since_ms: u64,
    /// Bytes that all actors on it may use together, those that run there now included. Not a momentary reading: it
    /// would swing with every move.
    pub memory_free_bytes: u64,
    /// Names of the functions that it can run.
    pub capabilities: BTreeSet<Arc<str>>,
    /// What each function costs there, as measured there.
    pub costs: BTreeMap<Arc<str>, Cost>,
    /// Thousandths of a core that it has.
    pub millicores: u32,
    /// Thousandths of a core that others than actors use: they cannot be planned with.
    pub load_millicores: u32,
    /// What a busy core draws.
    pub milliwatts_per_core: u32,
    /// Its failure domain: the host of a DPU, the node itself otherwise.
    pub domain: NodeId,
}

/// One actor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActorView {
    /// The functions of its chain, first to last.
    pub stages: Arc<[Stage]>,
    /// Whose data it handles.
    pub tenant: Option<TenantId>,
    /// The first stage, counted from 0, that may begin a part which runs apart: those before it stay together. At least 1.
    pub cut_min: usize,
    /// The node whose requests it serves.
    pub ingress: Option<NodeId>,
    /// The nodes from which its medium is visible, if it has one: it runs on one of these.
    pub media: Option<BTreeSet<NodeId>>,
    /// Bytes that it uses on every node that a part of it runs on, beside the state of its stages.
    pub needs_memory_bytes: u64,
    /// What it serves.
    pub load: Load,
    /// Its own preference, else its tenant's: see [`Policies::of`].
    pub preference: Preference,
    /// The node that a person wants it on. It yields to a node that is down or being emptied: an actor somewhere else
    /// serves better than none.
    pub pin: Option<NodeId>,
    /// Nodes that have tried to run it of late, in vain.
    pub failed_on: BTreeSet<NodeId>,
    /// Where it runs.
    pub at: Option<Spot>,
    /// Where it is being moved to: it is left alone, and its room is kept at both ends.
    pub moving: Option<Spot>,
    /// When it last changed its place.
    pub moved_at_ms: Option<u64>,
    /// It must not share a DPU with another tenant's.
    pub isolate: bool,
    /// A small group of actors no two of which should be in one failure domain.
    pub apart: Option<u64>,
}

/// One function of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The function's name.
    pub kind: Arc<str>,
    /// Bytes of state that it holds.
    pub state_bytes: u64,
    /// By how much fewer bytes leave than enter, in thousandths; negative where more leave. Compression to two thirds
    /// is 333, erasure coding 2+1 is -500, a drive that keeps all of it 1000.
    pub reduces_bytes_permille: i32,
    /// Nobody measures it, and it counts for nothing: what it costs depends on what is asked of it.
    pub uncounted: bool,
}

/// What an actor is asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests a second.
    pub requests_per_s: u64,
    /// Bytes a second that enter its first stage.
    pub bytes_per_s: u64,
}

/// What a function costs a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Nanoseconds a request.
    pub ns_per_request: u64,
    /// Picoseconds a byte.
    pub ps_per_byte: u64,
}

impl Cost {
    /// Nanoseconds of one core a second under this load.
    #[must_use]
    pub fn ns_per_s(self, load: Load) -> u64 {
        let requests = u128::from(self.ns_per_request) * u128::from(load.requests_per_s);
        let bytes = u128::from(self.ps_per_byte) * u128::from(load.bytes_per_s) / 1000;
        u64::try_from(requests.saturating_add(bytes)).unwrap_or(u64::MAX)
    }
}

/// What users asked for, actor by actor and tenant by tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// For single actors: these win.
    pub actors: BTreeMap<ActorId, Preference>,
    /// For all actors of a tenant.
    pub tenants: BTreeMap<TenantId, Preference>,
    /// For everything else.
    pub default: Preference,
}

impl Policies {
    /// What holds for this actor.
    #[must_use]
    pub fn of(&self, actor: ActorId, tenant: Option<TenantId>) -> Preference {
        let by_tenant = || tenant.and_then(|tenant| self.tenants.get(&tenant));
        self.actors.get(&actor).or_else(by_tenant).copied().unwrap_or(self.default)
    }
}

/// What a move must be worth, and how full a DPU may be. These concern gain only: what must move, moves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A node is entered for preference or gain only once it has been up for so long.
    pub settle_ms: u64,
    /// An actor does not move for gain sooner than this after its last move.
    pub hold_ms: u64,
    /// The least gain, in thousandths of what the actor costs now.
    pub gain_permille: u64,
    /// The least gain in host CPU: nanoseconds a second.
    pub gain_ns_min: u64,
    /// The least gain in bytes that cross: bytes a second.
    pub gain_bytes_min: u64,
    /// The least gain in power.
    pub gain_microwatts_min: u64,
    /// Actors enter a DPU until so many thousandths of its cores are planned; they stay up to all of them. The room
    /// between keeps a swinging load from moving them to and fro.
    pub fill_permille: u64,
    /// What it costs the host to hand on what crosses to a DPU or leaves for the network. Zero: not measured.
    pub link: Cost,
    /// The part of a chain's output that goes to drives of its own host, in thousandths.
    pub local_permille: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            settle_ms: 500,
            hold_ms: 30_000,
            gain_permille: 200,
            gain_ns_min: 10_000_000,
            gain_bytes_min: 1 << 20,
            gain_microwatts_min: 1_000_000,
            fill_permille: 800,
            link: Cost::default(),
            local_permille: 0,
        }
    }
}

impl NodeView {
    /// A host that is up, with nothing measured, no memory and no cores: to be filled in.
    #[must_use]
    pub const fn host(id: NodeId) -> Self {
        Self {
            kind: NodeKind::Host,
            attached_to: None,
            emulated: false,
            up: true,
            draining: false,
            ready: true,
            blind: false,
            up_since_ms: 0,
            memory_free_bytes: 0,
            capabilities: BTreeSet::new(),
            costs: BTreeMap::new(),
            millicores: 0,
            load_millicores: 0,
            milliwatts_per_core: 0,
            domain: id,
        }
    }

    /// A DPU of that host, likewise.
    #[must_use]
    pub const fn dpu(host: NodeId) -> Self {
        let mut node = Self::host(host);
        node.kind = NodeKind::Dpu;
        node.attached_to = Some(host);
        node
    }

    /// Whether actors may be here.
    #[must_use]
    pub const fn usable(&self) -> bool {
        self.up && !self.draining && !self.blind
    }

    /// Nanoseconds a second of all cores together that actors may use.
    #[must_use]
    pub(crate) const fn capacity_ns(&self) -> u64 {
        self.millicores.saturating_sub(self.load_millicores) as u64 * 1_000_000
    }
}

impl ActorView {
    /// An actor of these stages that serves that ingress, with no load and nothing asked for: to be filled in.
    #[must_use]
    pub fn chain(stages: impl Into<Arc<[Stage]>>, ingress: NodeId) -> Self {
        Self {
            stages: stages.into(),
            tenant: None,
            cut_min: 1,
            ingress: Some(ingress),
            media: None,
            needs_memory_bytes: 0,
            load: Load::default(),
            preference: Preference::Auto,
            pin: None,
            failed_on: BTreeSet::new(),
            at: None,
            moving: None,
            moved_at_ms: None,
            isolate: false,
            apart: None,
        }
    }
}

impl Stage {
    /// A function that passes on as many bytes as it gets, and holds no state.
    #[must_use]
    pub fn new(kind: impl Into<Arc<str>>) -> Self {
        Self { kind: kind.into(), state_bytes: 0, reduces_bytes_permille: 0, uncounted: false }
    }

    /// One that counts for nothing where places are compared.
    #[must_use]
    pub fn uncounted(kind: impl Into<Arc<str>>) -> Self {
        Self { uncounted: true, ..Self::new(kind) }
    }
}
