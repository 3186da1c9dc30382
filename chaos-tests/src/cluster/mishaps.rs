//! What goes wrong between a steward and those who carry out what it wants, and in the steward itself: acts that fail, or that
//! are said to fail and were carried out; functions that cannot be built, or take long to build; a steward that begins anew,
//! and one that is lost with everything that it had under way while its node goes on.

use core::time::Duration;
use std::collections::VecDeque;

use mesh_core::{
    Error, ErrorKind,
    id::{ActorId, GroupId, NodeId},
    meta::{ControlView, MeshCommand},
};
use mesh_placement::steward::{Act, Deed, Event, Key, outs::Put};

use super::{Cluster, Errand, Life, node_info};
use crate::{random::Stream, world::World};

/// How often what a steward wants goes wrong, apart from single faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActWeather {
    /// Functions in a thousand that cannot be built when they are to be, nor configured.
    pub unbuilt_per_mille: u32,
    /// Functions in a thousand that take long to build.
    pub slow_per_mille: u32,
    /// All other acts in a thousand that end with an error. Half of those that can be were carried out all the same.
    pub failed_per_mille: u32,
}

impl ActWeather {
    /// Everything is carried out, and ends well.
    #[must_use]
    pub const fn calm() -> Self {
        Self { unbuilt_per_mille: 0, slow_per_mille: 0, failed_per_mille: 0 }
    }
}

/// The weather, and dice of its own: those of the cluster are not shifted by it.
#[derive(Debug)]
pub(super) struct Mishaps {
    weather: ActWeather,
    dice: Stream,
}

impl Mishaps {
    pub(super) fn new(seed: u64) -> Self {
        Self { weather: ActWeather::calm(), dice: Stream::new(seed, "mishaps", 0) }
    }

    /// How long something takes: mostly not long.
    fn pause(&mut self) -> Duration {
        let most = [Duration::from_millis(1), Duration::from_millis(300), ACT_MAX];
        let most = self.dice.pick(&most).copied().unwrap_or_default();
        self.dice.span(&(Duration::ZERO..most))
    }

    /// After how long an act ends with an error, if this one does, and whether it is carried out.
    fn fails(&mut self) -> Option<(Duration, bool)> {
        let (fails, done) = (self.dice.chance(self.weather.failed_per_mille), self.dice.chance(500));
        fails.then(|| (self.pause(), done))
    }

    /// What hinders a function from being built, if anything does.
    pub(super) fn unbuilt(&mut self) -> Result<(), Error> {
        match self.dice.chance(self.weather.unbuilt_per_mille) {
            true => Err(Error::new(ErrorKind::Overloaded, "the function cannot be built now")),
            false => Ok(()),
        }
    }

    /// How long a function takes to be built.
    fn build(&mut self) -> Duration {
        let slow = self.dice.chance(self.weather.slow_per_mille);
        if slow { self.pause() } else { Duration::ZERO }
    }
}

impl Cluster {
    /// From now on.
    pub fn set_weather(&mut self, weather: ActWeather) {
        self.mishaps.weather = weather;
    }

    /// Sees to an act that is to end with an error; gives back one that is not.
    pub(super) fn thwart(&mut self, world: &mut World, life: Life, act: Act) -> Option<Act> {
        // What is done to an actor fails by its deeds.
        let Some(key) = act.key().filter(|key| !matches!(key, Key::Actor(_))) else { return Some(act) };
        let Some((after, done)) = self.mishaps.fails() else { return Some(act) };
        // The operator of a storm that is over hears soon of a drive that has failed.
        let after = if key == Key::Stat { after.min(STAT_MAX) } else { after };
        let node = life.0;
        world.note(&[96, node.0, u64::from(done)], || {
            format!("{node}: {key:?} fails in {after:?}, carried out: {done}")
        });
        if done {
            self.carry_out_unheard(world, life, act);
        }
        self.after(world, after, Errand::Fails(life, key));
        None
    }

    /// Carries out an act of whose end its steward does not hear.
    fn carry_out_unheard(&mut self, world: &mut World, life: Life, act: Act) {
        let node = life.0;
        match act {
            Act::Peers { up, down } => {
                self.tell_replicas(world, life, &up, &down);
            }
            Act::Announce(_) => {
                let info = node_info(&self.swarm, node, life.1);
                self.propose(world, node, MeshCommand::PutNode(info), Errand::Said);
            }
            Act::LayOut(draft) => {
                if let Ok(made) = draft.carry_out() {
                    self.propose(world, node, MeshCommand::PutLayout(made), Errand::Said);
                }
            }
            Act::RaiseLevel(level) => self.propose(world, node, MeshCommand::RaiseLevel(level), Errand::Said),
            Act::Fence(command) => self.propose(world, node, command, Errand::Said),
            Act::PutOut(Put { drives, out }) => {
                self.propose(world, node, MeshCommand::PutOut { drives, out }, Errand::Said);
            }
            Act::TakeBack(actor, epoch, id) | Act::Settle(actor, epoch, id) => {
                self.propose(world, node, MeshCommand::AbortMove { actor, epoch, id }, Errand::Said);
            }
            Act::Elect(GroupId::CONTROL) => self.run_for_election(world, node),
            // What is found, or said, is lost with its end.
            _ => {}
        }
    }

    pub(super) fn fails(&mut self, world: &mut World, life: Life, key: Key) {
        let error = Error::new(ErrorKind::Timeout, "it takes long, and is tried again");
        self.hear(world, life, Event::Ended(key, Err(error)));
    }

    /// Does to an actor what its steward wants, one by one until something fails; `None`: the rest comes later.
    pub(super) fn do_deeds(
        &mut self,
        world: &mut World,
        life: Life,
        actor: ActorId,
        mut deeds: VecDeque<Deed>,
    ) -> Option<Result<(), Error>> {
        let node = life.0;
        while let Some(deed) = deeds.pop_front() {
            if !self.is_alive(world, life) {
                return None;
            }
            let is_built = matches!(deed, Deed::Start(..) | Deed::Configure(_));
            if let Err(error) = if is_built { self.mishaps.unbuilt() } else { Ok(()) } {
                world.note(&[97, node.0, actor.0], || format!("{node} {actor}: {error}"));
                return Some(Err(error));
            }
            if matches!(deed, Deed::Start(..))
                && let Some(pause) = self.build_time(world, life, actor)
            {
                deeds.push_front(deed);
                self.after(world, pause, Errand::Built(life, actor, deeds));
                return None;
            }
            if let Err(error) = self.do_deed(world, life, actor, deed) {
                world.violate(|| format!("{node} cannot do to {actor} what it has just found possible: {error}"));
            }
        }
        Some(Ok(()))
    }

    /// How long it takes until a function is built, if it takes any time: a node builds one after another.
    pub(super) fn build_time(&mut self, world: &mut World, life: Life, actor: ActorId) -> Option<Duration> {
        let (node, now, own) = (life.0, world.clock(life.0), self.mishaps.build());
        let agent = self.agent(world, life)?;
        let pause = agent.built.after(now) + own;
        if pause.is_zero() {
            return None;
        }
        agent.built = now + pause;
        world.note(&[98, node.0, actor.0], || format!("{node} {actor} is built in {pause:?}"));
        Some(pause)
    }

    /// A function has been built that took long: what was found possible when that began may not be so any more.
    pub(super) fn built(&mut self, world: &mut World, life: Life, actor: ActorId, mut deeds: VecDeque<Deed>) {
        if !self.is_alive(world, life) {
            return;
        }
        let started = deeds.pop_front().map_or(Ok(()), |deed| self.do_deed(world, life, actor, deed));
        let ended = match started {
            Ok(()) => self.do_deeds(world, life, actor, deeds),
            Err(error) => Some(Err(error)),
        };
        if let Some(outcome) = ended {
            self.hear(world, life, Event::Ended(Key::Actor(actor), outcome));
        }
    }

    /// A steward is told that what must be so is not: it begins anew, and hears the ends of what it had under way.
    pub fn begin_anew(&mut self, world: &mut World, node: NodeId) {
        let Some(life) = self.life(world, node) else { return };
        world.note(&[99, node.0], || format!("{node}: its steward begins anew"));
        let now = world.clock(node);
        let Some(agent) = self.agent(world, life) else { return };
        let acts = agent.steward.begin_anew(now);
        self.act(world, life, acts);
    }

    /// A steward is lost with everything that it had under way, and there is another one; all else on its node stays.
    pub fn break_down(&mut self, world: &mut World, node: NodeId) {
        let Some(life) = self.life(world, node) else { return };
        world.note(&[100, node.0], || format!("{node}: its steward is lost, and there is another one"));
        // What builds a function ends that for itself.
        for errand in self.errands.values_mut() {
            if let Errand::Built(of, actor, deeds) = errand
                && *of == life
            {
                let start = deeds.drain(..).take(1).collect();
                *errand = Errand::BuiltUnheard(life, *actor, start);
            }
        }
        self.errands.retain(|_, errand| !errand.is_of_steward(life));
        let view = self.replica(node);
        world.follow(node, &ControlView::default(), &view);
        let now = world.clock(node);
        let here = self.here(life);
        let Some(agent) = self.agent(world, life) else { return };
        agent.renew(here, view, now);
        let observed = self.observe(world, life);
        if let Some(observed) = observed {
            self.hear(world, life, Event::Observed(Box::new(observed)));
        }
    }

    /// A function has been built for a steward that is not there any more.
    pub(super) fn built_unheard(&mut self, world: &mut World, life: Life, actor: ActorId, deeds: VecDeque<Deed>) {
        for deed in deeds {
            if self.is_alive(world, life)
                && let Err(error) = self.do_deed(world, life, actor, deed)
            {
                world.note(&[101], || format!("{} {actor}: nobody hears that this failed: {error}", life.0));
            }
        }
    }
}

/// Within this drives have said how they are, or have not.
const STAT_MAX: Duration = Duration::from_millis(500);
/// An act that takes longer is given up.
const ACT_MAX: Duration = Duration::from_secs(10);
