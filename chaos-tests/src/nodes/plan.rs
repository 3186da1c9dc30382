//! What a seed draws: the mesh's shape, the weather, and what befalls it.

use mesh_core::{
    assignment::{Preference, Scope, Wish},
    bluefield::Generation,
    id::{ActorId, DriveId, NodeId, TenantId},
    meta::{LEVEL, Level},
    op::{AdminOp, NewMedium},
    topology::Code,
};

pub use super::net::Weather;
use mesh_dpu_runtime::metadata::SNAPSHOT_EVERY;

use crate::random::Stream;

/// No node, drive or tenant of a room has this number, or the next ones.
const NOBODY: u64 = 900;

/// Everything that a seed decides beforehand. Times are in milliseconds, which are windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Hosts, numbered from 1, of two drives each.
    pub hosts: u64,
    /// DPUs: one each of the first hosts. That of host 1 is node 11.
    pub dpus: u64,
    /// How stripes are coded.
    pub code: Code,
    /// Namespace groups.
    pub namespaces: u16,
    /// Every node is told of every host; else only of node 1.
    pub told_of_all: bool,
    /// The last hosts that are started only in the storm, so long after its beginning.
    pub late: Vec<u64>,
    /// Every other client is of a second tenant.
    pub second_tenant: bool,
    /// In every chain there is a function that panics at so many requests in a thousand; none: no such function.
    pub frail: Option<u16>,
    /// In every chain there is a function that keeps accounts, and panics if they do not add up.
    pub ledger: bool,
    /// A tenant comes, stores something, and is deleted.
    pub guest: bool,
    /// Entries of a metadata group's log between two snapshots.
    pub snapshot_every: u64,
    /// DPUs may not judge: the policy stays on the host, and the rest of a chain runs on its DPU.
    pub deft: bool,
    /// Hosts have front ends, and every other client comes by them.
    pub fronts: bool,
    /// What the builds speak that are started first.
    pub level: Level,
    /// Some clients work in a bucket that has this code, once the mesh can do that.
    pub coded: Option<Code>,
    /// Hosts say in which of so many racks they are; 0: they do not.
    pub racks: u64,
    /// Drives go out after so many milliseconds, and what was moved away is deleted after five seconds; `None`: as configured by
    /// default, which is longer than any storm.
    pub hurried: Option<u64>,
    /// The real QUIC between all of them; else links in memory.
    pub quic: bool,
    /// Clients.
    pub clients: usize,
    /// Keys that they use.
    pub keys: u64,
    /// The network.
    pub weather: Weather,
    /// How fast the clocks of nodes go, in thousandths of the room's.
    pub rates: Vec<u64>,
    /// How long the faults go on.
    pub storm: u64,
    /// So long after the storm's beginning a host is invited that nobody knew, and comes.
    pub newcomer: Option<u64>,
    /// In the end most of those that vote in the control group are lost for good; only then the newcomer is invited.
    pub bereft: bool,
    /// What befalls it, and when after the storm's beginning.
    pub faults: Vec<(u64, Fault)>,
}

/// One fault, or one order of an administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process dies at the so-manieth thing that it does outwards from then on, and is started again after a while.
    Crash {
        /// Whose.
        node: NodeId,
        /// Disk jobs, flushes and messages until then; 0: at once.
        steps: u64,
        /// The machine's power is gone with it.
        power: bool,
        /// Until it is started again.
        down: u64,
    },
    /// A process is told to stop, as by SIGTERM, and started again after it has.
    Stop {
        /// Whose.
        node: NodeId,
        /// Until it is started again.
        down: u64,
    },
    /// A process dies, and somebody removes its metadata before it is started again.
    LoseMetadata {
        /// Whose.
        node: NodeId,
        /// Until it is started again.
        down: u64,
    },
    /// A process dies, and is started again on a copy of its metadata.
    SetBack {
        /// Whose.
        node: NodeId,
        /// The copy is so old.
        span: u64,
        /// Until it is started again.
        down: u64,
    },
    /// As [`Self::Stop`], and what is started again is a build of this level; at first all are of the first.
    Upgrade {
        /// Whose.
        node: NodeId,
        /// The level.
        level: u16,
        /// Until it is started again.
        down: u64,
    },
    /// All processes die at once.
    Blackout {
        /// Until each is started again.
        down: Vec<u64>,
    },
    /// A process sleeps, as by SIGSTOP.
    Pause {
        /// Whose.
        node: NodeId,
        /// For how long.
        span: u64,
    },
    /// A process gets the CPU only now and then.
    Slow {
        /// Whose.
        node: NodeId,
        /// Every so many windows.
        every: u64,
        /// For how long.
        span: u64,
    },
    /// Nothing goes from one node to another.
    Cut {
        /// From here.
        from: NodeId,
        /// To there.
        to: NodeId,
        /// Nor back.
        both: bool,
        /// For how long.
        span: u64,
    },
    /// A node is cut off from everybody, clients among them.
    Isolate {
        /// Which.
        node: NodeId,
        /// For how long.
        span: u64,
    },
    /// A drive ends no job.
    Stall {
        /// Whose.
        node: NodeId,
        /// Which of its drives.
        drive: u64,
        /// For how long.
        span: u64,
    },
    /// A drive's jobs take longer.
    SlowDrive {
        /// Whose.
        node: NodeId,
        /// Which of its drives.
        drive: u64,
        /// So many times.
        times: u64,
        /// For how long.
        span: u64,
    },
    /// An administrator wishes something.
    Wish {
        /// Of what.
        scope: Scope,
        /// What; none: nothing any more.
        wish: Option<Wish>,
    },
    /// A client asks a great many things at once.
    Burst {
        /// How many.
        many: u64,
    },
    /// Clients of a host's front end begin large uploads as the first tenant, and send no more of them: they hold what the
    /// node has for its clients, while others have theirs to do. They are gone after so long.
    Dawdlers {
        /// Whose front end.
        host: NodeId,
        /// Uploads.
        many: u64,
        /// Milliseconds.
        span: u64,
    },
    /// An administrator asks something, or invites a node that never comes: neither changes what anybody sees.
    Question {
        /// What.
        op: AdminOp,
    },
    /// An administrator orders what cannot be.
    Folly {
        /// What.
        op: AdminOp,
    },
    /// Strangers ask for a tenant's data.
    Strangers {
        /// Which host.
        host: NodeId,
    },
    /// An administrator drains a node, and takes that back.
    Drain {
        /// Which.
        node: NodeId,
        /// After so long.
        span: u64,
    },
    /// An administrator has a node leave, and takes that back.
    Leave {
        /// Which.
        node: NodeId,
        /// After so long.
        span: u64,
    },
    /// Something goes for good: one of a room at most, for a second may be more than the code bears.
    Depart(Departure),
}

/// What goes for good. Orders are given again and again until they are granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departure {
    /// A host is emptied, and taken out with its DPU.
    Host(NodeId),
    /// A machine is gone, with all that is on it, and is taken out. It does not go while the mesh lacks something already.
    LostHost {
        /// Whose.
        host: NodeId,
        /// It only seemed to be gone, and is started so long after it was taken out.
        back: Option<u64>,
    },
    /// A drive is emptied, and taken out.
    Drive(DriveId),
    /// A drive is gone, and is taken out. As with a machine.
    LostDrive(DriveId),
    /// Another drive, in a bay that was empty, takes the place of one that works, which is emptied and taken out.
    Replaced(DriveId),
    /// A drive is gone, and one that is put in its bay takes its place. As with a machine.
    Exchanged(DriveId),
}

impl Departure {
    /// Whether what it has is gone before it is anywhere else.
    #[must_use]
    pub const fn is_loss(&self) -> bool {
        matches!(self, Self::LostHost { .. } | Self::LostDrive(_) | Self::Exchanged(_))
    }

    /// The drive that goes, if it is one.
    #[must_use]
    pub const fn drive(&self) -> Option<DriveId> {
        match self {
            Self::Drive(drive) | Self::LostDrive(drive) | Self::Replaced(drive) | Self::Exchanged(drive) => {
                Some(*drive)
            }
            Self::Host(_) | Self::LostHost { .. } => None,
        }
    }

    /// Whether another drive takes its place.
    #[must_use]
    pub const fn is_replaced(&self) -> bool {
        matches!(self, Self::Replaced(_) | Self::Exchanged(_))
    }

    /// The host that goes.
    #[must_use]
    pub const fn host(&self) -> Option<NodeId> {
        match self {
            Self::Host(host) | Self::LostHost { host, .. } => Some(*host),
            Self::Drive(_) | Self::LostDrive(_) | Self::Replaced(_) | Self::Exchanged(_) => None,
        }
    }

    /// What is ordered, one after the other. `medium`: what takes a drive's place.
    #[must_use]
    pub fn orders(&self, medium: NewMedium) -> Vec<AdminOp> {
        match *self {
            Self::Host(node) => {
                vec![AdminOp::LeaveNode { node, leaving: true }, AdminOp::RemoveNode { node, lost: false }]
            }
            Self::LostHost { host, .. } => vec![AdminOp::RemoveNode { node: host, lost: true }],
            Self::Drive(drive) => vec![AdminOp::DrainDrive { drive, draining: true }, AdminOp::RemoveDrive { drive }],
            Self::LostDrive(drive) => vec![AdminOp::LoseDrive { drive }],
            Self::Replaced(drive) => vec![AdminOp::ReplaceDrive { drive, medium }, AdminOp::RemoveDrive { drive }],
            Self::Exchanged(drive) => vec![AdminOp::ReplaceDrive { drive, medium }, AdminOp::LoseDrive { drive }],
        }
    }
}

/// One of a host's drives: the number that its node gives to the one that it opens first, or next.
#[must_use]
pub const fn drive_of(host: u64, at: u64) -> DriveId {
    DriveId(1000 * host + 1 + at)
}

/// The DPU of a host.
#[must_use]
pub const fn dpu_of(host: u64) -> NodeId {
    NodeId(10 + host)
}

impl Plan {
    /// A plan in fair weather in which nothing happens: hosts and DPUs of code 2+1, whose chains go to the DPUs, and three
    /// clients.
    #[must_use]
    pub fn fair(hosts: u64, dpus: u64) -> Self {
        let wish =
            Fault::Wish { scope: Scope::Mesh, wish: Some(Wish { preference: Preference::PreferDpu, pin: None }) };
        Self {
            hosts,
            dpus,
            code: Code { data: 2, parity: 1 },
            namespaces: 1,
            told_of_all: true,
            late: Vec::new(),
            second_tenant: false,
            frail: None,
            ledger: false,
            guest: false,
            snapshot_every: SNAPSHOT_EVERY,
            deft: false,
            fronts: false,
            level: Level::FIRST,
            coded: None,
            racks: 0,
            hurried: None,
            quic: false,
            clients: 3,
            keys: 8,
            weather: Weather { latency: 1, stragglers: 0, straggling: 0, loss: 0 },
            rates: vec![1000; usize::try_from(hosts + dpus).unwrap_or(0)],
            storm: 10_000,
            newcomer: None,
            bereft: false,
            faults: vec![(0, wish)],
        }
    }

    /// What this seed draws.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut dice = Stream::new(seed, "plan", 0);
        let hosts = 3 + dice.below(3);
        let dpus = dice.below(3).min(hosts);
        let code = match (hosts, dice.below(2)) {
            (5, 0) => Code { data: 3, parity: 2 },
            (4 | 5, 1) => Code { data: 2, parity: 2 },
            _ => Code { data: 2, parity: 1 },
        };
        let weather = Weather {
            latency: 1 + dice.below(4),
            stragglers: [0, 5, 30][dice.below(3) as usize],
            straggling: 20 + dice.below(400),
            loss: 0,
        };
        let storm = 8_000 + dice.below(12_000);
        let mut plan = Self {
            hosts,
            dpus,
            code,
            namespaces: 1 + dice.below(3) as u16,
            told_of_all: dice.chance(500),
            late: Vec::new(),
            second_tenant: dice.chance(400),
            frail: None,
            ledger: false,
            guest: false,
            snapshot_every: SNAPSHOT_EVERY,
            deft: Stream::new(seed, "deft", 0).chance(250),
            fronts: Stream::new(seed, "fronts", 0).chance(500),
            level: if Stream::new(seed, "level", 0).chance(700) { LEVEL } else { Level::FIRST },
            coded: [None, None, Some(Code { data: 1, parity: 1 }), Some(Code { data: 1, parity: 2 })]
                [Stream::new(seed, "code", 0).below(4) as usize],
            racks: [0, 0, 2, 3][Stream::new(seed, "racks", 0).below(4) as usize],
            hurried: None,
            quic: false,
            clients: 2 + dice.below(3) as usize,
            keys: 4 + dice.below(12),
            weather,
            rates: Vec::new(),
            storm,
            newcomer: None,
            bereft: false,
            faults: Vec::new(),
        };
        let skewed = dice.chance(300);
        plan.rates = plan.nodes().map(|_| if skewed { 990 + dice.below(21) } else { 1000 }).collect();
        if dice.chance(200) {
            plan.frail = Some(1 + dice.below(60) as u16);
        }
        // Streams of their own, as for front ends: what came later shifts nobody's dice. Who breaks down takes the state of
        // his whole chain with him.
        plan.ledger = plan.frail.is_none() && Stream::new(seed, "ledger", 0).chance(500);
        plan.guest = plan.frail.is_none() && Stream::new(seed, "guest", 0).chance(500);
        let mut logs = Stream::new(seed, "logs", 0);
        if logs.chance(500) {
            plan.snapshot_every = 20 + logs.below(300);
        }
        // What is there from the beginning holds a whole stripe.
        let spare = hosts - u64::from(code.data) - u64::from(code.parity);
        plan.late = (0..dice.below(3).min(spare).min(hosts - 3)).map(|_| dice.below(storm)).collect();
        if dpus > 0 {
            let wish = Wish { preference: Preference::PreferDpu, pin: None };
            plan.faults.push((0, Fault::Wish { scope: Scope::Mesh, wish: Some(wish) }));
        }
        // Some come all at once, and many of them to one node.
        let (crowded, from) = (dice.chance(400), 500 + dice.below(storm));
        let focus = plan.nodes().nth(dice.below(hosts + dpus) as usize).filter(|_| dice.chance(400));
        for number in 0..dice.below(14) {
            // A stream of its own for each: to leave one out shifts no other's dice.
            let mut dice = Stream::new(seed, "fault", number);
            let at = if crowded { from + dice.below(3_000) } else { 500 + dice.below(storm) };
            let focus = focus.filter(|_| dice.chance(700));
            plan.faults.push((at.min(storm), plan.draw(&mut dice, focus)));
        }
        // One after another gets the next build, whatever else befalls it. A host that comes later with an older one would
        // not be let in.
        let mut rolls = Stream::new(seed, "rolls", 0);
        if plan.late.is_empty() && plan.level < LEVEL && rolls.chance(500) {
            let upgrade = |node| Fault::Upgrade { node, level: LEVEL.0, down: 50 + rolls.below(800) };
            let upgrades: Vec<Fault> = plan.nodes().map(upgrade).collect();
            let step = storm / (upgrades.len() as u64 + 1);
            plan.faults.extend((1..).map(|turn| turn * step).zip(upgrades));
        }
        let mut losses = Stream::new(seed, "losses", 0);
        if losses.chance(200) {
            let (at, node) = (500 + losses.below(storm), NodeId(1 + losses.below(hosts)));
            plan.faults.push((at.min(storm), Fault::LoseMetadata { node, down: 50 + losses.below(4_000) }));
        }
        let mut questions = Stream::new(seed, "questions", 0);
        for _ in 0..questions.below(4) {
            let at = questions.below(storm);
            plan.faults.push((at, Fault::Question { op: plan.question(&mut questions) }));
        }
        let mut hurry = Stream::new(seed, "hurry", 0);
        if hurry.chance(600) {
            plan.hurried = Some(1_000 + hurry.below(5_000));
        }
        for _ in 0..if plan.level == LEVEL { hurry.below(5) } else { 0 } {
            let (at, host) = (500 + hurry.below(storm), 1 + hurry.below(hosts));
            let (drive, draining) = (drive_of(host, hurry.below(2)), hurry.chance(600));
            plan.faults.push((at.min(storm), Fault::Question { op: AdminOp::DrainDrive { drive, draining } }));
        }
        if plan.level == LEVEL && hurry.chance(400) {
            let (at, node, span) =
                (500 + hurry.below(storm), NodeId(1 + hurry.below(hosts)), 1_000 + hurry.below(15_000));
            plan.faults.push((at.min(storm), Fault::Leave { node, span }));
        }
        let mut follies = Stream::new(seed, "follies", 0);
        for _ in 0..follies.below(4) {
            let at = follies.below(storm);
            plan.faults.push((at, Fault::Folly { op: plan.folly(&mut follies) }));
        }
        let mut strangers = Stream::new(seed, "strangers", 0);
        for _ in 0..strangers.below(3) {
            let (at, host) = (strangers.below(storm), NodeId(1 + strangers.below(hosts)));
            plan.faults.push((at, Fault::Strangers { host }));
        }
        let mut dawdlers = Stream::new(seed, "dawdlers", 0);
        for _ in 0..if plan.fronts { dawdlers.below(4) } else { 0 } {
            let (at, host) = (dawdlers.below(storm), NodeId(1 + dawdlers.below(hosts)));
            let (many, span) = (1 + dawdlers.below(40), 500 + dawdlers.below(8_000));
            plan.faults.push((at, Fault::Dawdlers { host, many, span }));
        }
        if plan.level == LEVEL {
            plan.part(&mut Stream::new(seed, "partings", 0));
        }
        plan.faults.sort_by_key(|(at, _)| *at);
        plan
    }

    /// Something goes for good, or somebody comes.
    fn part(&mut self, dice: &mut Stream) {
        let Self { hosts, storm, .. } = *self;
        if dice.chance(200) {
            self.newcomer = Some(dice.below(storm));
        }
        if !dice.chance(400) {
            return;
        }
        let host = NodeId(1 + dice.below(hosts - self.late.len() as u64));
        // What is deleted goes through the chain, many writes at a time, and where a function breaks down all of them come to
        // nothing: nothing is empty then within any room's time.
        let can_be_emptied = self.frail.is_none();
        let departure = match dice.below(14) {
            0..4 if can_be_emptied => Departure::Host(host),
            7 | 8 if can_be_emptied => Departure::Drive(drive_of(host.0, dice.below(2))),
            9 => Departure::LostDrive(drive_of(host.0, dice.below(2))),
            10 | 11 if can_be_emptied => Departure::Replaced(drive_of(host.0, dice.below(2))),
            12 | 13 => Departure::Exchanged(drive_of(host.0, dice.below(2))),
            _ => Departure::LostHost { host, back: dice.chance(500).then(|| dice.below(5_000)) },
        };
        // Of few machines in racks none can be spared: what would cost the loss of a rack is refused.
        if matches!(departure, Departure::Host(_) | Departure::Drive(_)) {
            self.racks = 0;
        }
        // Those that are left hold a whole stripe, and three of them vote.
        let left = hosts - u64::from(departure.host().is_some());
        if left < self.needed() || dice.chance(300) {
            self.newcomer.get_or_insert_with(|| dice.below(storm));
        }
        let is_loss = departure.is_loss();
        self.faults.retain(|(_, fault)| match fault {
            // Nobody may take back what is to go, nor may anybody else go who is needed until then.
            Fault::Leave { .. } => false,
            // Of three that vote one may be lost.
            Fault::LoseMetadata { .. } | Fault::SetBack { .. } => !is_loss,
            Fault::Question { op: AdminOp::DrainDrive { drive, .. } } => departure.drive() != Some(*drive),
            _ => true,
        });
        // Else nothing is emptied within a room's time.
        self.hurried.get_or_insert_with(|| 1_000 + dice.below(5_000));
        self.faults.push(((500 + dice.below(storm)).min(storm), Fault::Depart(departure)));
    }

    /// So many hosts there have to be.
    fn needed(&self) -> u64 {
        (u64::from(self.code.data) + u64::from(self.code.parity)).max(3)
    }

    /// The host that comes, by a number that nobody has had.
    #[must_use]
    pub fn newcomer(&self) -> Option<NodeId> {
        self.newcomer.map(|_| NodeId(self.hosts + 1))
    }

    /// Whether something goes for good.
    #[must_use]
    pub fn departs(&self) -> bool {
        self.faults.iter().any(|(_, fault)| matches!(fault, Fault::Depart(_)))
    }

    /// Nobody comes or goes.
    #[must_use]
    pub fn without_partings(mut self) -> Self {
        self.newcomer = None;
        self.faults.retain(|(_, fault)| !matches!(fault, Fault::Depart(_)));
        self
    }

    /// What this seed draws, with a code that bears the loss of as many hosts as most of those that vote in the control group are:
    /// these are lost in the end, when nobody writes, so that nothing may be lost with them.
    #[must_use]
    pub fn bereft(seed: u64) -> Self {
        let mut dice = Stream::new(seed, "bereft", 0);
        let mut plan = Self::of(seed).without_partings();
        let parity = if plan.hosts > 4 { 3 } else { 2 };
        // Those that are left hold a whole stripe with the one that comes.
        plan.code = Code { data: if plan.hosts > 3 && dice.chance(500) { 2 } else { 1 }, parity };
        plan.coded = plan.coded.map(|_| Code { data: 1, parity });
        (plan.bereft, plan.newcomer, plan.level, plan.frail, plan.racks) = (true, Some(0), LEVEL, None, 0);
        plan.late.clear();
        // Else nothing is whole within a room's time.
        plan.hurried.get_or_insert_with(|| 1_000 + dice.below(5_000));
        plan.faults.retain(|(_, fault)| {
            let empties = matches!(fault, Fault::Question { op: AdminOp::DrainDrive { .. } });
            !empties && !matches!(fault, Fault::Leave { .. } | Fault::Upgrade { .. })
        });
        plan
    }

    /// What this seed draws, over QUIC: smaller, for handshakes cost.
    #[must_use]
    pub fn over_quic(seed: u64) -> Self {
        let mut plan = Self { quic: true, clients: 2, ..Self::of(seed) };
        plan.weather.loss = [0, 1, 10][Stream::new(seed, "loss", 0).below(3) as usize];
        plan.weather.stragglers = plan.weather.stragglers.min(5);
        let is_much =
            |fault: &Fault| matches!(fault, Fault::Burst { .. } | Fault::Dawdlers { .. } | Fault::Strangers { .. });
        plan.faults.retain(|(_, fault)| !is_much(fault));
        plan
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.hosts).map(NodeId).chain((1..=self.dpus).map(dpu_of))
    }

    /// When a host is first started, if that is in the storm.
    #[must_use]
    pub fn late(&self, node: NodeId) -> Option<u64> {
        let last = self.hosts.checked_sub(node.0)?;
        self.late.get(usize::try_from(last).ok()?).copied()
    }

    fn question(&self, dice: &mut Stream) -> AdminOp {
        let nodes: Vec<NodeId> = self.nodes().collect();
        let some = |dice: &mut Stream| nodes.iter().copied().filter(|_| dice.chance(300)).collect::<Vec<_>>();
        let generations = [Generation::Bf2, Generation::Bf3, Generation::Bf4];
        match dice.below(4) {
            0 => AdminOp::Events { after: dice.below(20) },
            // Nobody comes by that number.
            1 => AdminOp::Invite { node: NodeId(NOBODY + dice.below(3)), invitation: 1 + dice.below(5) },
            _ => AdminOp::Plan {
                with_dpus: some(dice)
                    .into_iter()
                    .filter(|node| node.0 > self.dpus && node.0 <= self.hosts)
                    .map(|host| (host, *dice.pick(&generations).unwrap_or(&Generation::Bf3)))
                    .collect(),
                without: some(dice),
            },
        }
    }

    /// What an administrator may order, and nobody can do.
    fn folly(&self, dice: &mut Stream) -> AdminOp {
        let (nobody, preference) = (NodeId(NOBODY), Preference::PreferDpu);
        let host = NodeId(1 + dice.below(self.hosts));
        let wish = |scope, pin| AdminOp::Wish { scope, wish: Some(Wish { preference, pin }) };
        match dice.below(8) {
            0 => AdminOp::Drain { node: nobody, draining: dice.chance(500) },
            1 => AdminOp::LoseDrive { drive: DriveId(NOBODY) },
            2 => AdminOp::Plan { with_dpus: Vec::new(), without: vec![nobody] },
            3 => wish(Scope::Tenant(TenantId(NOBODY)), None),
            4 => wish(Scope::Actor(ActorId::ingress(host)), None),
            5 => wish(Scope::Actor(ActorId::drive(DriveId(NOBODY))), Some(host)),
            6 => AdminOp::Invite { node: NodeId(0), invitation: 1 + dice.below(5) },
            _ => wish(Scope::Actor(ActorId::data(TenantId(1), host)), Some(nobody)),
        }
    }

    fn draw(&self, dice: &mut Stream, focus: Option<NodeId>) -> Fault {
        let nodes: Vec<NodeId> = self.nodes().collect();
        let node = focus.unwrap_or_else(|| *dice.pick(&nodes).unwrap_or(&NodeId(1)));
        let others: Vec<NodeId> = nodes.iter().copied().filter(|other| *other != node).collect();
        let to = *dice.pick(&others).unwrap_or(&NodeId(2));
        let host = NodeId(1 + dice.below(self.hosts));
        // Most are shorter than it takes to notice them.
        let span = match dice.below(3) {
            0 => 50 + dice.below(400),
            1 => 300 + dice.below(2_000),
            _ => 1_500 + dice.below(8_000),
        };
        let (drive, down) = (dice.below(2), span);
        match dice.below(17) {
            0..4 => Fault::Crash { node, steps: dice.below(300), power: dice.chance(500), down },
            4 => Fault::Stop { node, down },
            5 => Fault::Blackout { down: nodes.iter().map(|_| 10 + dice.below(3_000)).collect() },
            6 | 7 => Fault::Pause { node, span },
            8 => Fault::Slow { node, every: 5 + dice.below(80), span },
            9 | 10 => Fault::Cut { from: node, to, both: dice.chance(500), span },
            11 => Fault::Isolate { node, span },
            12 => Fault::Stall { node: host, drive, span: span.min(4_000) },
            13 => Fault::SlowDrive { node: host, drive, times: 2 + dice.below(30), span },
            14 if self.dpus > 0 => {
                let preference = match dice.below(3) {
                    0 => Preference::HostOnly,
                    1 => Preference::Auto,
                    _ => Preference::PreferDpu,
                };
                Fault::Wish { scope: Scope::Mesh, wish: Some(Wish { preference, pin: None }) }
            }
            16 => Fault::Burst { many: 200 + dice.below(2_500) },
            15 if self.dpus > 0 => Fault::Drain { node: dpu_of(1 + dice.below(self.dpus)), span },
            _ => Fault::Crash { node, steps: 1 + dice.below(2_000), power: false, down: 20 + dice.below(300) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_draws_the_same_and_another_seed_something_else() {
        assert_eq!(Plan::of(7), Plan::of(7));
        assert_ne!(Plan::of(7), Plan::of(8));
        for seed in 0..200 {
            let plan = Plan::of(seed);
            let nodes: Vec<NodeId> = plan.nodes().collect();
            assert!(u64::from(plan.code.data) + u64::from(plan.code.parity) <= plan.hosts, "{plan:?}");
            assert_eq!(plan.rates.len(), nodes.len());
            let early = nodes.iter().filter(|node| node.0 <= plan.hosts && plan.late(**node).is_none()).count() as u64;
            assert!(early >= plan.needed(), "{plan:?}");
            let gone = plan.faults.iter().filter_map(|(_, fault)| match fault {
                Fault::Depart(departure) => Some(departure.host()),
                _ => None,
            });
            let gone: Vec<Option<NodeId>> = gone.collect();
            let left = plan.hosts + u64::from(plan.newcomer.is_some()) - gone.iter().flatten().count() as u64;
            assert!(left >= plan.needed() && gone.len() < 2, "{plan:?}");
        }
    }
}
