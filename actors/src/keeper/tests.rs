//! Keeper against a real group's state, and drives that are maps.

use core::time::Duration;
use std::collections::BTreeSet;

use mesh_core::{
    Answer, Effect, Entropy, Response, Tokens,
    id::{Epoch, LayoutId, NodeId, ShardId, TenantId, WriteId},
    limits::SHARD_BATCH_MAX,
    meta::{
        Attributes, Body, BucketRef, Compression, Count, Extent, MetaAnswer, ObjectCommand, ObjectRow, Precondition,
        Proposer, Query, RepairState, Run, Session, UpkeepCommand,
    },
    op::Head,
    port::ComputeJob,
    time::UnixMillis,
    topology::{Code, Layouts},
};

use self::count::counting;
use super::*;
use crate::metadata::{self, MemoryTable};

mod codes;
mod count;
mod damage;
mod losses;

const GROUP: GroupId = GroupId(1);
const CODE: Code = Code { data: 2, parity: 1 };
const TENANT: TenantId = TenantId(7);
const MS: u64 = 1_000_000;
const HEAD: Head = Head { epoch: Epoch(3), start: 4, lsn: 5 };

struct NoEntropy;

impl Entropy for NoEntropy {
    fn fill(&mut self, _: &mut [u8]) {
        panic!("Keeper draws no randomness")
    }
}

/// What is stored under a shard's name: its bytes, and whose they are.
type Stored = (Buf, TenantId);

struct Bench {
    keeper: Keeper,
    tokens: Tokens,
    now: Instant,
    table: MemoryTable,
    drives: BTreeMap<DriveId, BTreeMap<ShardId, Stored>>,
    /// What drives know to be damaged: it cannot be read.
    damaged: BTreeSet<(DriveId, ShardId)>,
    /// Drives that answer nothing but this.
    failing: BTreeMap<DriveId, ErrorKind>,
    /// So many of the next lists do not come.
    lists_fail: usize,
    spec: KeeperSpec,
    written: Vec<(DriveId, ShardId)>,
    read: Vec<(DriveId, ShardId)>,
    commands: Vec<UpkeepCommand>,
    number: u64,
    /// Before a question how far the group is that comes in the middle of a pass, another keeper begins with a later layout.
    overtaken: bool,
    /// A drive was listed since the group was asked anything.
    listing: bool,
    /// Pages of uses that were asked for, and drives' names of what is damaged.
    uses: usize,
    named: usize,
    /// Writes in another code than that of the layouts.
    others: BTreeMap<WriteId, Code>,
}

/// A layout of one group: the first three drives are the homes.
fn layout(id: u64, drives: &[u64]) -> Arc<Layout> {
    let group: Vec<DriveId> = drives.iter().copied().map(DriveId).collect();
    let domains = group.iter().map(|drive| (*drive, NodeId(drive.0))).collect();
    Arc::new(Layout {
        id: LayoutId(id),
        code: CODE,
        groups: vec![group],
        domains,
        line: 1,
        others: Vec::new(),
        places: mesh_core::topology::Places::default(),
        rule: mesh_core::topology::Rule::default(),
    })
}

impl Bench {
    /// A group in layout 1, whose homes are drives 1, 2 and 3, with drive 4 to spare.
    fn new() -> Self {
        let layouts: Layouts = [(LayoutId(1), layout(1, &[1, 2, 3, 4]))].into();
        let spec = KeeperSpec {
            groups: [GROUP].into(),
            layouts,
            drives: (1..=6).map(|drive| (DriveId(drive), DriveState::Up)).collect(),
            repair_bytes_per_s: 1 << 30,
            level: Level::LINES,
            grace_ms: 10_000,
            count_every_ms: 1_000_000,
            damaged: BTreeSet::new(),
            leaving: SharedMap::default(),
        };
        let mut bench = Self {
            keeper: Keeper::new(spec.clone()),
            tokens: Tokens::default(),
            now: Instant(1000 * MS),
            table: MemoryTable::default(),
            drives: (1..=6).map(|drive| (DriveId(drive), BTreeMap::new())).collect(),
            damaged: BTreeSet::new(),
            failing: BTreeMap::new(),
            lists_fail: 0,
            spec,
            written: Vec::new(),
            read: Vec::new(),
            commands: Vec::new(),
            number: 0,
            overtaken: false,
            listing: false,
            uses: 0,
            named: 0,
            others: BTreeMap::new(),
        };
        let session = Command::OpenSession { group: GROUP, actor: ActorId(1), session: session() };
        bench.apply(&session).expect("a session");
        bench
    }

    fn apply(&mut self, command: &Command) -> Result<MetaAnswer, Error> {
        let (changes, answer) = metadata::apply(&self.table, GROUP, command);
        self.table.commit(changes);
        answer
    }

    fn query(&self, query: &Query) -> Result<MetaAnswer, Error> {
        metadata::query(&self.table, GROUP, query)
    }

    fn proposer(&mut self) -> Proposer {
        self.number += 1;
        Proposer { actor: ActorId(1), session: session(), request: self.number, done_below: self.number }
    }

    /// An object of so many stripes under the newest layout, without these drives, on the drives that it goes to.
    fn put(&mut self, key: &str, stripes: u32, avoid: &[u64]) -> WriteId {
        self.put_in(None, key, stripes, avoid)
    }

    fn put_in(&mut self, code: Option<Code>, key: &str, stripes: u32, avoid: &[u64]) -> WriteId {
        let proposer = self.proposer();
        let open = Command::Upkeep(GROUP, UpkeepCommand::OpenBlock { proposer });
        let Ok(MetaAnswer::Block { first: write, .. }) = self.apply(&open) else { panic!("no block") };
        self.others.extend(code.map(|code| (write, code)));
        let layout = self.spec.layouts.values().next_back().expect("a layout").clone();
        let avoid: Vec<DriveId> = avoid.iter().copied().map(DriveId).collect();
        let run = Run { first: 0, count: stripes, attempt: 0, avoid: avoid.clone(), shared: false };
        let runs = if avoid.is_empty() { Vec::new() } else { vec![run] };
        for stripe in 0..stripes {
            let id = StripeId { write, stripe, attempt: 0 };
            let table = layout.table(code).expect("it has groups");
            let drives = table.place(id, &avoid).expect("it can be placed").drives;
            for (shard, drive) in (0..).zip(drives) {
                self.store(drive, id.shard(shard), coded(id, shard));
            }
        }
        let len = u64::from(stripes) * 10;
        let extent = Extent {
            write,
            len,
            stripe_bytes: 10,
            layout: layout.id,
            key: None,
            runs,
            compression: Compression::Off,
            code,
        };
        let row = ObjectRow {
            version: write,
            len,
            etag: "e".into(),
            modified: UnixMillis(1),
            attributes: Attributes::default(),
            body: Body::Whole(extent),
        };
        let (proposer, precondition) = (self.proposer(), Precondition::default());
        let put =
            ObjectCommand::PutObject { proposer, key: key.into(), row: row.into(), precondition, quota_bytes: None };
        self.apply(&Command::Object(bucket(), put)).expect("it is put");
        write
    }

    fn delete(&mut self, key: &str) {
        let (proposer, precondition) = (self.proposer(), Precondition::default());
        let delete = ObjectCommand::DeleteObject { proposer, key: key.into(), at: UnixMillis(2), precondition };
        self.apply(&Command::Object(bucket(), delete)).expect("it is deleted");
    }

    fn store(&mut self, drive: DriveId, id: ShardId, payload: Buf) {
        self.drives.get_mut(&drive).expect("a drive").insert(id, (payload, TENANT));
    }

    fn state(&self) -> RepairState {
        match self.query(&Query::Repair) {
            Ok(MetaAnswer::Repair(state)) => state,
            other => panic!("not told: {other:?}"),
        }
    }

    /// The next layout, whose homes come first.
    fn lay_out(&mut self, drives: &[u64]) {
        let id = self.spec.layouts.len() as u64 + 1;
        self.spec.layouts.insert(LayoutId(id), layout(id, drives));
        self.configure();
    }

    fn set(&mut self, drive: u64, state: DriveState) {
        self.spec.drives.insert(DriveId(drive), state);
        self.configure();
    }

    fn configure(&mut self) {
        self.on(Event::Configure(Arc::new(FunctionSpec::Keeper(self.spec.clone()))));
    }

    /// Lets it do what it wants until it waits for time to pass.
    fn on(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut effects = Vec::new();
            let mut entropy = NoEntropy;
            let mut cx = Cx::new(self.now, UnixMillis(self.now.0 / MS), &mut effects, &mut self.tokens, &mut entropy);
            self.keeper.on_event(event, &mut cx);
            events.extend(effects.into_iter().map(|effect| self.serve(effect)));
        }
        assert_eq!((self.keeper.in_flight(), self.keeper.heals.len()), (0, 0));
    }

    /// Lets so much time pass.
    fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(at) = self.keeper.wake_at().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.on(Event::Wake);
        }
        self.now = until;
    }

    fn serve(&mut self, effect: Effect) -> Event {
        match effect {
            Effect::Call { to: Target::Metadata, call, request } => {
                let Op::Query { group: GROUP, query } = request.op else { panic!("no question: {request:?}") };
                if matches!(*query, Query::Repair) && self.listing && core::mem::take(&mut self.overtaken) {
                    self.apply(&Command::Upkeep(GROUP, begin(3))).expect("another knows more");
                }
                self.listing = false;
                self.uses += usize::from(matches!(*query, Query::Uses { .. }));
                let outcome = self.query(&query).map(|answer| Response::new(Answer::Meta(Arc::new(answer))));
                Event::Reply { call, outcome }
            }
            Effect::Start { work, job: Job::Propose { command, .. } } => {
                let Command::Upkeep(GROUP, said) = &*command else { panic!("not its own: {command:?}") };
                self.commands.push(said.clone());
                let outcome = self.apply(&command).map(|answer| WorkOutput::Meta(Arc::new(answer)));
                Event::Done { work, outcome }
            }
            Effect::Start { work, job: Job::Compute(job) } => Event::Done { work, outcome: compute(job) },
            Effect::Call { to: Target::Actor(actor), call, request } => {
                assert_eq!(request.lane, Lane::Bulk);
                let Op::Shard(op) = request.op else { panic!("drives hold shards") };
                let drive = actor.as_drive().expect("a drive");
                Event::Reply { call, outcome: self.drive(drive, *op, request.payload) }
            }
            other => panic!("{other:?}"),
        }
    }

    fn drive(&mut self, drive: DriveId, op: ShardOp, payload: Buf) -> Outcome {
        if let Some(kind) = self.failing.get(&drive) {
            return Err(Error::new(*kind, "as planned"));
        }
        let held = self.drives.get_mut(&drive).expect("a drive");
        match op {
            ShardOp::List { .. } if self.lists_fail > 0 => {
                self.lists_fail -= 1;
                Err(Error::new(ErrorKind::Timeout, "as planned"))
            }
            ShardOp::List { after, limit, relies } => {
                self.listing = true;
                let newest = self.spec.layouts.last_key_value().map(|(id, _)| *id);
                assert_eq!(relies.map(|of| (of.group, Some(of.layout))), Some((GROUP, newest)));
                assert_eq!(limit as usize, SHARD_BATCH_MAX);
                // Short pages, so that lists go on.
                let behind = held
                    .keys()
                    .filter(|id| after.is_none_or(|after| **id > after))
                    .map(|id| (*id, u32::from(!self.damaged.contains(&(drive, *id)))));
                let page: Vec<_> = behind.clone().take(5).collect();
                let more = behind.count() > page.len();
                Ok(Answer::Shards { page, more, head: HEAD }.into())
            }
            ShardOp::Damaged { group: GROUP, after, limit } => {
                assert_eq!(limit as usize, SHARD_BATCH_MAX);
                self.named += 1;
                let first = StripeId { write: WriteId(0), stripe: 0, attempt: 0 }.shard(0);
                let own = self.damaged.range((drive, after.unwrap_or(first))..).take_while(|(of, _)| *of == drive);
                let mut own = own.map(|(_, id)| *id).filter(|id| after.is_none_or(|after| *id > after));
                let page: Vec<(ShardId, u32)> = own.by_ref().take(2).map(|id| (id, 0)).collect();
                let more = own.next().is_some();
                Ok(Answer::Shards { page, more, head: HEAD }.into())
            }
            ShardOp::Delete { ids, until: Some(HEAD) } => {
                ids.iter().for_each(|id| drop(held.remove(id).expect("it has said that it has it")));
                Ok(Answer::Done.into())
            }
            ShardOp::Read { id } => {
                self.read.push((drive, id));
                if self.damaged.contains(&(drive, id)) {
                    return Err(Error::new(ErrorKind::Corrupt, "no"));
                }
                let (payload, tenant) = held.get(&id).cloned().ok_or_else(|| Error::new(ErrorKind::NotFound, "no"))?;
                let code = self.others.get(&id.stripe.write).copied().unwrap_or(CODE);
                let answer = Answer::Shard { code, sealed_len: 10, crc: crc(&payload), tenant };
                Ok(Response { answer, payload })
            }
            ShardOp::Write { id, tenant, code, sealed_len: 10, crc: said } => {
                assert_eq!(
                    (said, Some(code)),
                    (crc(&payload), self.others.get(&id.stripe.write).copied().or(Some(CODE)))
                );
                self.written.push((drive, id));
                self.damaged.remove(&(drive, id));
                held.insert(id, (payload, tenant));
                Ok(Answer::Done.into())
            }
            other => panic!("{other:?}"),
        }
    }

    /// What was written since, ascending.
    fn writes(&mut self) -> Vec<(u64, u32, u8)> {
        let mut written: Vec<_> = core::mem::take(&mut self.written)
            .into_iter()
            .map(|(drive, id)| (drive.0, id.stripe.stripe, id.shard))
            .collect();
        written.sort_unstable();
        written
    }

    /// Fails unless every shard of a write is at its home in the newest layout, as it was coded.
    fn assert_at_home(&self, write: WriteId, stripes: u32) {
        let layout = self.spec.layouts.values().next_back().expect("a layout");
        for stripe in 0..stripes {
            let id = StripeId { write, stripe, attempt: 0 };
            let table = layout.table(self.others.get(&write).copied()).expect("it has groups");
            for (shard, home) in (0..).zip(table.place(id, &[]).expect("it has homes").drives) {
                assert_eq!(
                    self.drives[&home].get(&id.shard(shard)),
                    Some(&(coded(id, shard), TENANT)),
                    "{id:?} {shard}"
                );
            }
        }
    }
}

fn session() -> Session {
    Session { epoch: Epoch(1), life: 1 }
}

fn bucket() -> BucketRef {
    BucketRef { id: mesh_core::id::BucketId(3), name: "b".into(), tenant: TENANT, group: GROUP }
}

fn crc(payload: &Buf) -> u32 {
    payload.iter().fold(7, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)))
}

/// A code that is no code, but keeps the promise of one: each shard is its place and its stripe.
fn coded(id: StripeId, shard: u8) -> Buf {
    let mut bytes = vec![shard];
    bytes.extend_from_slice(&(id.write.0 as u32).to_le_bytes());
    bytes.extend_from_slice(&id.stripe.to_le_bytes());
    bytes.extend([0; 2]);
    Buf::copy_of(&bytes)
}

fn compute(job: ComputeJob) -> WorkOutcome {
    match job {
        ComputeJob::Encode { code, bytes } => {
            let one = |shard: u8| Buf::copy_of(&[&[shard], &bytes[..]].concat());
            Ok(WorkOutput::Shards((0..code.shards() as u8).map(|shard| (one(shard), crc(&one(shard)))).collect()))
        }
        ComputeJob::Decode { code, len: 10, shards } => {
            let places: BTreeSet<u8> = shards.iter().map(|(place, _)| *place).collect();
            assert_eq!((shards.len(), places.len()), (code.data.into(), code.data.into()));
            Ok(WorkOutput::Bytes(shards[0].1.slice(1..)))
        }
        other => panic!("{other:?}"),
    }
}

fn settled(layout: u64, unsettled: u64) -> RepairState {
    RepairState { marked: LayoutId(layout), settled: LayoutId(layout), unsettled, ..RepairState::default() }
}

fn begin(layout: u64) -> UpkeepCommand {
    UpkeepCommand::BeginRepair { layout: LayoutId(layout) }
}

fn end(layout: u64) -> UpkeepCommand {
    UpkeepCommand::EndRepair { layout: LayoutId(layout), line: 0, layouts: Vec::new() }
}

#[test]
fn what_is_at_home_is_not_asked_about_and_the_group_is_settled() {
    let mut bench = Bench::new();
    bench.put("a", 3, &[]);
    bench.pass(Duration::ZERO);
    assert_eq!((bench.state(), bench.commands.clone()), (settled(1, 0), vec![begin(1), end(1)]));
    assert!(bench.written.is_empty() && bench.read.is_empty());
    // And then it only asks how far the group is, now and then.
    bench.pass(Duration::from_secs(3600));
    assert_eq!(bench.commands.len(), 2);
}

/// The group is told which layouts are of the line, of each once.
#[test]
fn a_group_is_told_of_each_layout_of_the_line_once() {
    let mut bench = Bench::new();
    bench.spec.level = Level::SETTLED;
    bench.lay_out(&[1, 2, 3, 4]);
    bench.lay_out(&[1, 2, 4, 3]);
    bench.pass(Duration::ZERO);
    bench.lay_out(&[1, 2, 3, 4]);
    bench.lay_out(&[4, 2, 3, 1]);
    let told = bench.commands.iter().filter_map(|command| match command {
        UpkeepCommand::EndRepair { layout, layouts, .. } => Some((layout.0, layouts.iter().map(|id| id.0).collect())),
        _ => None,
    });
    let told: Vec<(u64, Vec<u64>)> = told.collect();
    assert_eq!(told, [(2, vec![1]), (3, vec![2]), (4, vec![3]), (5, vec![4])]);
    assert_eq!(bench.state().line, 1);
}

#[test]
fn what_was_on_a_drive_that_is_lost_is_rebuilt_on_the_one_that_has_its_place_now() {
    let mut bench = Bench::new();
    let writes = [("a", 3), ("b", 1), ("c", 20)].map(|(key, stripes)| (bench.put(key, stripes, &[]), stripes));
    bench.pass(Duration::ZERO);
    bench.drives.insert(DriveId(2), BTreeMap::new());
    bench.set(2, DriveState::Lost);
    bench.lay_out(&[1, 5, 3, 4]);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.state(), settled(2, 0));
    writes.iter().for_each(|(write, stripes)| bench.assert_at_home(*write, *stripes));
    let written = bench.writes();
    assert!(written.len() == 24 && written.iter().all(|(drive, _, shard)| (*drive, *shard) == (5, 1)), "{written:?}");
}

#[test]
fn what_is_on_a_drive_that_gives_its_place_away_is_copied() {
    let mut bench = Bench::new();
    let write = bench.put("a", 4, &[]);
    bench.pass(Duration::ZERO);
    bench.lay_out(&[1, 2, 6, 3]);
    assert_eq!(bench.state(), settled(2, 0));
    bench.assert_at_home(write, 4);
    assert_eq!(bench.writes(), [0, 1, 2, 3].map(|stripe| (6, stripe, 2)));
    // Nothing else was read for that.
    assert!(bench.read.len() == 4 && bench.read.iter().all(|(drive, id)| (drive.0, id.shard) == (3, 2)));
    // The same again writes nothing: what is there is there.
    bench.lay_out(&[1, 2, 6, 4]);
    assert_eq!((bench.state(), bench.writes()), (settled(3, 0), vec![]));
}

#[test]
fn a_full_drive_is_read_and_not_written() {
    let mut bench = Bench::new();
    let write = bench.put("a", 2, &[]);
    bench.pass(Duration::ZERO);
    bench.set(3, DriveState::Full);
    bench.lay_out(&[1, 2, 6, 3]);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.state(), settled(2, 0));
    bench.assert_at_home(write, 2);
    bench.set(5, DriveState::Full);
    bench.lay_out(&[1, 2, 5, 3]);
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.state().settled, bench.writes().len()), (LayoutId(2), 2));
    bench.set(5, DriveState::Up);
    bench.pass(Duration::from_secs(1));
    assert_eq!((bench.state(), bench.writes().len()), (settled(3, 0), 2));
}

#[test]
fn a_full_drive_that_has_what_is_to_be_there_holds_nothing_up() {
    let mut bench = Bench::new();
    let write = bench.put("a", 3, &[]);
    bench.pass(Duration::ZERO);
    bench.set(6, DriveState::Full);
    let shard = |stripe| StripeId { write, stripe, attempt: 0 }.shard(2);
    let bring = |bench: &mut Bench, stripe| bench.store(DriveId(6), shard(stripe), coded(shard(stripe).stripe, 2));
    (0..2).for_each(|stripe| bring(&mut bench, stripe));
    bench.lay_out(&[1, 2, 6, 3]);
    bench.pass(Duration::from_secs(60));
    // The third is not there, and there is no room for it: nothing is read in vain.
    let half = RepairState { settled: LayoutId(1), ..settled(2, 0) };
    assert_eq!((bench.state(), bench.writes(), bench.read.len()), (half, vec![], 0));
    // What is there and damaged is written in its own place.
    bring(&mut bench, 2);
    bench.damaged.insert((DriveId(6), shard(2)));
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.state(), bench.writes()), (settled(2, 0), vec![(6, 2, 2)]));
    bench.assert_at_home(write, 3);
}

#[test]
fn others_have_their_turn_while_much_is_looked_at_that_is_at_home() {
    let mut bench = Bench::new();
    let many = 3 * 4096;
    bench.put("a", many, &[]);
    bench.on(Event::Wake);
    let mut turns = 1;
    while bench.keeper.wake_at() <= Some(bench.now) {
        bench.on(Event::Wake);
        turns += 1;
    }
    assert_eq!((bench.state(), turns), (settled(1, 0), 3));
}

#[test]
fn what_was_written_without_a_drive_comes_home_once_that_is_back() {
    let mut bench = Bench::new();
    bench.pass(Duration::ZERO);
    bench.set(2, DriveState::Down);
    let write = bench.put("a", 2, &[2]);
    let gone = bench.put("b", 2, &[2]);
    bench.delete("b");
    let whole = bench.put("c", 1, &[]);
    assert_eq!(bench.state(), settled(1, 2), "but not of {whole}");
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.state(), bench.writes()), (settled(1, 1), vec![]), "{gone} is forgotten");
    bench.set(2, DriveState::Up);
    bench.pass(Duration::from_secs(1));
    assert_eq!((bench.state(), bench.writes()), (settled(1, 0), vec![(2, 0, 1), (2, 1, 1)]));
    bench.assert_at_home(write, 2);
}

#[test]
fn a_group_is_not_settled_before_everything_could_be_done() {
    for drive in [3, 5] {
        let mut bench = Bench::new();
        let write = bench.put("a", 2, &[]);
        bench.pass(Duration::ZERO);
        bench.failing.insert(DriveId(drive), ErrorKind::Unreachable);
        // Drive 2 is gone: without drive 3 nothing can be rebuilt, and without drive 5 there is nowhere to.
        bench.drives.insert(DriveId(2), BTreeMap::new());
        bench.set(2, DriveState::Lost);
        bench.lay_out(&[1, 5, 3, 4]);
        bench.pass(Duration::from_secs(120));
        let half = RepairState { settled: LayoutId(1), ..settled(2, 0) };
        assert_eq!((bench.state(), bench.writes()), (half, vec![]));
        // It tries again by itself.
        bench.failing.clear();
        bench.pass(Duration::from_secs(61));
        assert_eq!(bench.state(), settled(2, 0));
        bench.assert_at_home(write, 2);
    }
}

#[test]
fn shards_that_do_not_belong_together_are_not_made_more_of() {
    let mut bench = Bench::new();
    let write = bench.put("a", 1, &[]);
    bench.pass(Duration::ZERO);
    let id = StripeId { write, stripe: 0, attempt: 0 };
    bench.store(DriveId(3), id.shard(2), coded(StripeId { stripe: 9, ..id }, 2));
    bench.drives.insert(DriveId(2), BTreeMap::new());
    bench.set(2, DriveState::Lost);
    bench.lay_out(&[1, 5, 3, 4]);
    bench.pass(Duration::from_secs(10));
    assert_eq!((bench.state().settled, bench.writes()), (LayoutId(1), vec![]));
}

#[test]
fn no_more_is_moved_than_the_budget_allows() {
    let mut bench = Bench::new();
    bench.spec.repair_bytes_per_s = 22;
    bench.configure();
    bench.put("a", 60, &[]);
    bench.pass(Duration::ZERO);
    bench.lay_out(&[1, 2, 6, 3]);
    // A shard has 11 bytes: read once and written once.
    bench.pass(Duration::from_secs(20));
    let count = bench.writes().len();
    assert!((20..=20 + HEALS_MAX).contains(&count), "{count}");
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.state(), settled(2, 0));
}

#[test]
fn a_group_that_is_led_elsewhere_is_left_and_taken_up_again_where_it_is() {
    let mut bench = Bench::new();
    let write = bench.put("a", 60, &[]);
    bench.spec.repair_bytes_per_s = 22;
    bench.pass(Duration::ZERO);
    bench.lay_out(&[1, 2, 6, 3]);
    bench.pass(Duration::from_secs(10));
    bench.spec.groups.clear();
    bench.configure();
    let written = bench.writes().len();
    bench.pass(Duration::from_secs(1000));
    assert!(bench.writes().is_empty());
    assert_eq!(bench.state().settled, LayoutId(1));
    bench.spec.groups.insert(GROUP);
    bench.spec.repair_bytes_per_s = 1 << 30;
    bench.configure();
    bench.pass(Duration::from_secs(1));
    assert_eq!((bench.state(), written + bench.writes().len()), (settled(2, 0), 60), "nothing is done twice");
    bench.assert_at_home(write, 60);
}

#[test]
fn who_lags_behind_says_nothing_and_layouts_of_no_line_are_left_alone() {
    let mut bench = Bench::new();
    bench.put("a", 1, &[]);
    bench.apply(&Command::Upkeep(GROUP, begin(2))).expect("another knows more");
    bench.pass(Duration::from_secs(100));
    assert!(bench.commands.is_empty());
    let mut bench = Bench::new();
    let old = Layout { line: 0, ..Layout::clone(&bench.spec.layouts[&LayoutId(1)]) };
    bench.spec.layouts.insert(LayoutId(1), Arc::new(old));
    bench.configure();
    bench.put("a", 1, &[]);
    bench.pass(Duration::from_secs(100));
    assert!(bench.commands.is_empty() && bench.keeper.wake_at().is_none());
    // What was written under them stays where it is when a line begins.
    bench.lay_out(&[4, 5, 6, 1]);
    assert_eq!((bench.state(), bench.writes()), (settled(2, 0), vec![]));
}
