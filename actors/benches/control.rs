//! What one change of the control group costs each replica when many actors have places: the command is applied, the table
//! changed, and the view published. With the view made anew out of all rows, and with the one before brought up to date.
//!
//! `cargo bench -p mesh-actors --bench control`

use std::{
    hint::black_box,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use mesh_actors::metadata::{MemoryTable, apply, control_after, control_view, table::Change};
use mesh_core::{
    assignment::{Assignment, MoveId},
    id::{ActorId, Epoch, GroupId, Incarnation, NodeId, TenantId},
    meta::{ControlView, MeshCommand},
    topology::{NodeInfo, NodeKind},
};

/// Nodes of the mesh.
const NODES: u64 = 1000;
/// Each way goes on for so long, in turns.
const SPAN: Duration = Duration::from_millis(1500);
const TURNS: u32 = 5;

/// A replica, as far as this needs one.
struct Replica {
    table: MemoryTable,
    published: Mutex<Arc<ControlView>>,
    actors: u64,
    next: u64,
}

/// How the next view is made.
type Publish = fn(&Replica, &[Change]) -> Arc<ControlView>;

fn anew(replica: &Replica, _changes: &[Change]) -> Arc<ControlView> {
    Arc::new(control_view(&replica.table).expect("rows"))
}

fn updated(replica: &Replica, changes: &[Change]) -> Arc<ControlView> {
    let before = replica.shown();
    control_after(&before, changes).expect("rows").map_or(before, Arc::new)
}

impl Replica {
    fn with(actors: u64) -> Self {
        let mut replica = Self { table: MemoryTable::default(), published: Mutex::default(), actors, next: 0 };
        for id in 1..=NODES {
            replica.apply(MeshCommand::PutNode(node(id)));
        }
        for number in 0..actors {
            replica.apply(MeshCommand::Assign(Assignment::new(actor(number), NodeId(number % NODES + 1), Epoch(1))));
        }
        replica.publish(Arc::new(control_view(&replica.table).expect("rows")));
        replica
    }

    fn shown(&self) -> Arc<ControlView> {
        Arc::clone(&self.published.lock().expect("whole"))
    }

    /// The last one goes when nobody looks at it any more: here at once.
    fn publish(&self, view: Arc<ControlView>) {
        *self.published.lock().expect("whole") = view;
    }

    fn apply(&mut self, command: MeshCommand) -> Vec<Change> {
        let (changes, answer) = apply(&self.table, GroupId::CONTROL, &command.into());
        answer.expect("applied");
        self.table.commit(changes.clone());
        changes
    }

    /// A move of another actor begins, or ends, and everybody is told.
    fn change(&mut self, publish: Publish) {
        let number = (self.next / 2 * 7919) % self.actors;
        let row = self.shown().assignments.get(&actor(number)).copied().expect("a place");
        let to = NodeId(row.node.0 % NODES + 1);
        let (actor, epoch) = (row.actor, row.epoch);
        let changes = self.apply(if row.moving.is_none() {
            MeshCommand::BeginMove { actor, epoch, id: MoveId(row.moves.0 + 1), to }
        } else {
            MeshCommand::CommitMove { actor, epoch, id: row.moves }
        });
        let view = publish(self, &changes);
        self.publish(black_box(view));
        self.next += 1;
    }

    /// Microseconds a change.
    fn measure(&mut self, publish: Publish) -> f64 {
        let (begun, mut count) = (Instant::now(), 0_u32);
        while begun.elapsed() < SPAN / TURNS || count == 0 {
            self.change(publish);
            count += 1;
        }
        begun.elapsed().as_secs_f64() * 1e6 / f64::from(count)
    }
}

fn actor(number: u64) -> ActorId {
    ActorId::data(TenantId(number / NODES + 1), NodeId(number % NODES + 1))
}

fn node(id: u64) -> NodeInfo {
    NodeInfo {
        id: NodeId(id),
        kind: NodeKind::Host,
        address: format!("10.0.{}.{}:7000", id / 256, id % 256),
        incarnation: Incarnation(1),
        pid: 1,
        draining: false,
        attached_to: None,
        emulated: None,
        life: 1,
        invitation: 0,
        level: mesh_core::meta::LEVEL,
        location: None,
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() {
    // Test runners list and run benches too; only `cargo bench` measures.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!("one change of {NODES} nodes' control group, applied and published, median of {TURNS} turns:");
    println!("| assignments | view made anew, us | view updated, us | ratio |");
    println!("|---|---|---|---|");
    for actors in [1_000, 10_000, 100_000] {
        let mut replica = Replica::with(actors);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            before.push(replica.measure(anew));
            after.push(replica.measure(updated));
        }
        let (before, after) = (median(before), median(after));
        println!("| {actors:>7} | {before:>9.1} | {after:>6.2} | {:>7.0} |", before / after);
    }
}
