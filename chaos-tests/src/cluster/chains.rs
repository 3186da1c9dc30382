//! What is done to the actors of a node as its steward wants it, and what they are made of.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use mesh_actors::registry::{Make, Parts, Registry};
use mesh_core::{
    Error, ErrorKind, StorageFunction,
    id::{ActorId, Epoch},
    op::Phase,
    spec::{CustomSpec, FunctionSpec},
};
use mesh_placement::steward::{Deed, hosting::arriving, specs};

use super::{Cluster, Life};
use crate::{
    ledger::{self, Ledger},
    planted::{Bug, PassThrough, around_chain},
    world::{Setting, World},
};

/// The kinds of function that nodes have: the mesh's own, those of the simulator, and those of a program.
pub(super) fn registry(own: Vec<(String, Make)>) -> Result<Registry, Error> {
    let mut registry = Registry::default();
    // Each ledger is another one, and says which.
    let births = AtomicU64::new(0);
    let ledger = move || Ledger::new(1 + births.fetch_add(1, Ordering::Relaxed));
    registry.register(ledger::KIND, Arc::new(move |_, _| Ok(Box::new(ledger()))))?;
    for kind in [PASS_THROUGH, GUEST, OTHER_GUEST] {
        registry.register(kind, Arc::new(|_, _| Ok(Box::new(PassThrough::default()))))?;
    }
    for (kind, make) in own {
        registry.register(&kind, make)?;
    }
    Ok(registry)
}

/// What stands where Encrypt would.
const PASS_THROUGH: &str = "pass-through";
/// What users put into their chains, which does nothing there.
pub(super) const GUEST: &str = "guest";
/// See [`GUEST`].
pub(super) const OTHER_GUEST: &str = "other-guest";

impl Cluster {
    pub(super) fn do_deed(&mut self, world: &mut World, life: Life, actor: ActorId, deed: Deed) -> Result<(), Error> {
        let node = life.0;
        let gone = |kind, why| Error::new(kind, why).with("actor", actor);
        match deed {
            Deed::Forget => {
                if let Some(agent) = self.agent(world, life) {
                    agent.transfers.forget(actor);
                }
                Ok(())
            }
            Deed::Evict => {
                world.evict(node, actor);
                Ok(())
            }
            Deed::Open(epoch, phase) => world.open(node, actor, epoch, phase),
            Deed::Start(..) if world.hosts(node, actor) => Err(gone(ErrorKind::Conflict, "it is hosted here already")),
            Deed::Start(epoch, spec) => self.launch(world, life, (actor, epoch), &spec),
            Deed::Configure(_) if !world.hosts(node, actor) => Err(gone(ErrorKind::NoSuchActor, "it is not here")),
            Deed::Configure(spec) => {
                world.configure(node, actor, Arc::new(self.made_of(&spec)));
                Ok(())
            }
            Deed::Retire(to, epoch) => {
                world.retire(node, actor, epoch, (to, epoch));
                Ok(())
            }
            Deed::Discard => {
                world.discard(node, actor);
                Ok(())
            }
            Deed::Stop(_) => {
                world.stop(node, actor);
                Ok(())
            }
        }
    }

    fn launch(
        &mut self,
        world: &mut World,
        (node, _): Life,
        (actor, epoch): (ActorId, Epoch),
        spec: &FunctionSpec,
    ) -> Result<(), Error> {
        let (function, setting, spec) = self.build(actor, spec)?;
        world.launch(node, (actor, epoch), function, setting, Phase::Running)?;
        if actor.as_data().is_some() {
            world.born(node, actor, epoch);
        }
        world.configure(node, actor, Arc::new(spec));
        Ok(())
    }

    /// A planted bug: a source that was started anew in the middle of a move runs at once.
    pub(super) fn run_on(&mut self, world: &mut World, life: Life, (actor, epoch): (ActorId, Epoch)) {
        let view = self.replica(life.0);
        let Some(agent) = self.agent(world, life) else { return };
        let drives = agent.steward.outlook().drives.clone();
        let stages = specs::data_chain(&view, &drives, actor);
        let launched = stages.and_then(|stages| self.launch(world, life, (actor, epoch), &FunctionSpec::Chain(stages)));
        if let Err(error) = launched {
            world.violate(|| format!("a chain cannot be made: {error}"));
        }
    }

    /// Builds an actor that is to arrive by a move.
    pub(super) fn warm(
        &mut self,
        world: &mut World,
        life: Life,
        (actor, epoch): (ActorId, Epoch),
    ) -> Result<(), Error> {
        let (node, view) = (life.0, self.replica(life.0));
        let Some(agent) = self.agent(world, life) else { return Ok(()) };
        let known = agent.steward.outlook();
        let (ability, drives, looks_around) = (agent.ability.clone(), known.drives.clone(), known.looks_around);
        let stages = arriving(node, &ability, &view, &drives, looks_around, (actor, epoch))?;
        self.mishaps.unbuilt()?;
        let (function, setting, spec) = self.build(actor, &FunctionSpec::Chain(stages))?;
        world.warm(node, (actor, epoch), function, setting)?;
        world.configure(node, actor, Arc::new(spec));
        Ok(())
    }

    fn build(
        &self,
        actor: ActorId,
        spec: &FunctionSpec,
    ) -> Result<(Box<dyn StorageFunction>, Setting, FunctionSpec), Error> {
        let spec = self.made_of(spec);
        let parts = Parts { pool: self.pool.clone(), geometry: None };
        let function = self.registry.build(&spec, &parts)?;
        let function = if actor.as_data().is_some() { around_chain(self.bug, function) } else { function };
        // An ingress goes on to the data chain of the one tenant.
        let next = actor.as_ingress().map(|node| ActorId::data(self.tenant(), node));
        Ok((function, Setting { next, disk: None }, spec))
    }

    /// What a steward wants an actor to be made of, as it is in this world: stripes are small, and some worlds do without
    /// encryption; and the planted bugs that are in what actors are made of.
    fn made_of(&self, spec: &FunctionSpec) -> FunctionSpec {
        let each = |stages: &[FunctionSpec]| stages.iter().map(|stage| self.made_of(stage)).collect();
        match spec {
            FunctionSpec::Chain(stages) => FunctionSpec::Chain(each(stages)),
            FunctionSpec::Split(stages, cut) => FunctionSpec::Split(each(stages), *cut),
            FunctionSpec::Encrypt(_) if !self.swarm.encrypted || self.bug == Some(Bug::Plaintext) => {
                FunctionSpec::Custom(CustomSpec::new(PASS_THROUGH, []))
            }
            FunctionSpec::Object(spec) => {
                let mut spec = spec.clone();
                spec.stripe_bytes = self.swarm.stripe_bytes;
                if self.bug == Some(Bug::NoSweep) {
                    spec.drives.clear();
                }
                FunctionSpec::Object(spec)
            }
            other => other.clone(),
        }
    }
}
