//! What users wish of placement in a storm: actors pinned to nodes, or wanted on a DPU or not; and tails of chains that are to
//! run apart. The stewards see to it.

use core::time::Duration;

use mesh_core::{
    Error,
    assignment::{Assignment, Preference, Scope, Tail, Wish},
    id::{ActorId, NodeId},
    meta::{MeshCommand, MetaAnswer},
    spec::CustomSpec,
};

use super::{
    Cluster, Errand,
    chains::{GUEST, OTHER_GUEST},
};
use crate::world::World;

impl Cluster {
    /// Users wish things, or not any more.
    pub fn wish_on(&mut self, world: &mut World, wishes: bool) {
        let begins = wishes && !self.wishes;
        self.wishes = wishes;
        if begins && self.swarm.moves_per_mille > 0 {
            self.wish(world);
            self.election(world);
        }
        if begins && self.swarm.split {
            self.cut(world);
        }
        if begins && self.swarm.stages_per_mille > 0 {
            self.change_stages(world);
        }
    }

    /// Pins an actor to a node.
    pub fn pin(&mut self, world: &mut World, at: NodeId, actor: ActorId, to: NodeId) {
        let wish = Wish { pin: Some(to), ..Wish::default() };
        self.say(world, at, MeshCommand::SetWish { scope: Scope::Actor(actor), wish: Some(wish) });
    }

    fn say(&mut self, world: &mut World, at: NodeId, command: MeshCommand) {
        self.propose(world, at, command, Errand::Wished);
    }

    /// What a user has asked of the group has come to this: one that is never granted what it asks for has asked in vain.
    pub(super) fn wished(&mut self, world: &mut World, outcome: &Result<MetaAnswer, Error>) {
        match outcome {
            Ok(_) => self.wishes_granted += 1,
            Err(error) => {
                self.wishes_refused += 1;
                world.note(&[102, u64::from(error.kind().number())], || format!("a wish is refused: {error}"));
            }
        }
    }

    pub(super) fn wish(&mut self, world: &mut World) {
        if !self.wishes {
            return;
        }
        let up: Vec<NodeId> = self.swarm.members().filter(|node| world.is_up(*node)).collect();
        let actors: Vec<ActorId> = world.rows().keys().copied().collect();
        let wishes = self.dice.chance(self.swarm.moves_per_mille);
        let (at, to, actor) =
            (self.dice.pick(&up).copied(), self.dice.pick(&up).copied(), self.dice.pick(&actors).copied());
        let kind = self.dice.below(20);
        if let (true, Some(at), Some(to), Some(actor)) = (wishes, at, to, actor) {
            let preference = [Preference::Auto, Preference::PreferDpu, Preference::HostOnly];
            let preference = self.dice.pick(&preference).copied().unwrap_or_default();
            match kind {
                0 => self.say(world, at, MeshCommand::SetWish { scope: Scope::Actor(actor), wish: None }),
                1 => {
                    let wish = Some(Wish { preference, pin: None });
                    self.say(world, at, MeshCommand::SetWish { scope: Scope::Mesh, wish });
                }
                _ => self.pin(world, at, actor, to),
            }
        }
        self.after(world, WISH, Errand::Wish);
    }

    /// Users change what the tenant's chains are made of: they begin anew.
    pub(super) fn change_stages(&mut self, world: &mut World) {
        if !self.wishes {
            return;
        }
        let up: Vec<NodeId> = self.swarm.members().filter(|node| world.is_up(*node)).collect();
        let changes = self.guests.chance(self.swarm.stages_per_mille);
        let (at, guests) = (self.guests.pick(&up).copied(), self.guests.pick(&GUESTS).copied());
        if let (true, Some(at), Some(guests)) = (changes, at, guests) {
            let stages = guests.iter().map(|kind| CustomSpec::new(*kind, [])).collect();
            let scope = Scope::Tenant(self.tenant());
            self.say(world, at, MeshCommand::SetStages { scope, stages });
        }
        self.after(world, STAGES, Errand::Stages);
    }

    pub(super) fn cut(&mut self, world: &mut World) {
        if !self.wishes {
            return;
        }
        let up: Vec<NodeId> = self.swarm.members().filter(|node| world.is_up(*node)).collect();
        let rows: Vec<Assignment> = world.rows().values().copied().collect();
        let (at, node, row) =
            (self.dice.pick(&up).copied(), self.dice.pick(&up).copied(), self.dice.pick(&rows).copied());
        let (whole, here) = (self.dice.chance(300), self.dice.below(3));
        if let (Some(at), Some(node), Some(row)) = (at, node, row) {
            // What comes before them may hold state: Policy, and the ledger, and what else users have put there.
            let own = world.decided().stages_of(self.tenant()).count();
            let first = u8::try_from(1 + own).unwrap_or(u8::MAX);
            // Compress, and Encrypt, or neither, are where those are.
            let tail = Tail { cut: first.saturating_add(here as u8), node };
            let tail = (!whole && node != row.node).then_some(tail);
            self.say(world, at, MeshCommand::SetTail { actor: row.actor, epoch: row.epoch, tail });
        }
        let pause = self.dice.span(&CUT);
        self.after(world, pause, Errand::Cut);
    }
}

/// What users put into chains behind the mesh's own functions, and take out again.
const GUESTS: [&[&str]; 4] = [&[], &[GUEST], &[GUEST, OTHER_GUEST], &[OTHER_GUEST]];
/// How often the dice say whether what chains are made of changes.
const STAGES: Duration = Duration::from_millis(300);
/// How often the dice say whether somebody wishes something.
const WISH: Duration = Duration::from_millis(50);
/// Between two changes of tails.
const CUT: core::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_millis(1500);
