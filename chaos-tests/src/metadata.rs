//! The stand-in for the Raft groups: linearizable, and as unhelpful as Raft may be. It owns the store and the dice
//! about delays, unavailability and lost answers; when things happen is the world's business.

use core::{ops::Range, time::Duration};
use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Error, ErrorKind,
    id::{ActorId, GroupId, NodeId},
    meta::{Command, ControlView, MetaAnswer, Query, Session},
};

use crate::{random::Stream, world::Asker};

/// What the groups hold: applies at once.
pub trait Groups {
    /// Applies a command.
    ///
    /// # Errors
    /// As the command's documentation says.
    fn propose(&mut self, command: &Command) -> Result<MetaAnswer, Error>;

    /// Answers a question.
    ///
    /// # Errors
    /// As the question's documentation says.
    fn query(&mut self, group: GroupId, query: &Query) -> Result<MetaAnswer, Error>;

    /// What the control group holds: the same until it holds something else.
    fn control(&mut self) -> Arc<ControlView>;
}

/// How the groups behave, apart from single faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataWeather {
    /// How long until a command or question takes effect, and how long from there to the answer.
    pub delay: Range<Duration>,
    /// Commands in a thousand whose answer is lost. Half of them take effect, some of those long after.
    pub unknown_per_mille: u32,
    /// Commands in a thousand that end with a broken link to the leader, which has them all the same: half of them take
    /// effect at once, half some time later.
    pub broken_per_mille: u32,
    /// Commands in a thousand that are applied twice before they are answered.
    pub twice_per_mille: u32,
    /// Commands in a thousand that are applied once more some time after they were answered: a copy that was sent again
    /// on another way than the one that brought the answer.
    pub late_copy_per_mille: u32,
    /// Whether questions are answered from what was so a while ago: a planted bug.
    pub stale_reads: bool,
}

impl MetadataWeather {
    /// Groups that are fast and always there.
    #[must_use]
    pub const fn calm() -> Self {
        Self {
            delay: Duration::from_micros(100)..Duration::from_millis(2),
            unknown_per_mille: 0,
            broken_per_mille: 0,
            twice_per_mille: 0,
            late_copy_per_mille: 0,
            stale_reads: false,
        }
    }
}

/// A command or a question.
#[derive(Clone, Debug)]
pub enum Matter {
    /// A change.
    Command(Arc<Command>),
    /// A read.
    Query(Arc<Query>),
}

/// What becomes of a matter: when it takes effect (perhaps more than once, perhaps never), and when it is answered:
/// with what the last effect gave, or with this error.
#[derive(Debug)]
pub struct Course {
    /// From now.
    pub applied: Vec<Duration>,
    /// From now, with an error that stands instead of the group's answer.
    pub answered: (Duration, Option<Error>),
}

/// Something under way.
#[derive(Debug)]
struct Running {
    group: GroupId,
    matter: Matter,
    asker: Asker,
    result: Option<Result<MetaAnswer, Error>>,
    applications: usize,
    error: Option<Error>,
    answered: bool,
}

/// The groups.
pub struct Quorum {
    seed: u64,
    store: Box<dyn Groups>,
    weather: MetadataWeather,
    streams: BTreeMap<NodeId, Stream>,
    running: BTreeMap<u64, Running>,
    /// What took effect last, after it was answered.
    last: Option<Running>,
    next: u64,
    /// Until when no group has a leader.
    away: u64,
    /// What each numbered command came to first.
    said: BTreeMap<(GroupId, ActorId, Session, u64), Result<MetaAnswer, ErrorKind>>,
    /// Two copies of one command that came to different things.
    contradiction: Option<String>,
    /// For the planted bug: what each question was answered first.
    memory: BTreeMap<Vec<u8>, Result<MetaAnswer, Error>>,
}

impl core::fmt::Debug for Quorum {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Quorum({} running)", self.running.len())
    }
}

impl Quorum {
    /// Groups over a store.
    #[must_use]
    pub fn new(seed: u64, store: Box<dyn Groups>, weather: MetadataWeather) -> Self {
        Self {
            seed,
            store,
            weather,
            streams: BTreeMap::new(),
            running: BTreeMap::new(),
            last: None,
            next: 0,
            away: 0,
            said: BTreeMap::new(),
            contradiction: None,
            memory: BTreeMap::new(),
        }
    }

    /// From now on.
    pub fn set_weather(&mut self, weather: MetadataWeather) {
        self.weather = weather;
    }

    /// No group has a leader before `until`.
    pub const fn lose_leaders(&mut self, until: u64) {
        self.away = until;
    }

    /// What is so, at once and for certain: for the checkers, not for functions.
    ///
    /// # Errors
    /// The store's.
    pub fn peek(&mut self, group: GroupId, query: &Query) -> Result<MetaAnswer, Error> {
        self.store.query(group, query)
    }

    /// What the control group holds, at once and for certain.
    pub fn control(&mut self) -> Arc<ControlView> {
        self.store.control()
    }

    /// Changes what is so, at once: how a world is set up.
    ///
    /// # Errors
    /// The store's.
    pub fn establish(&mut self, command: &Command) -> Result<MetaAnswer, Error> {
        self.store.propose(command)
    }

    /// Begins a matter: its number, and its course.
    pub fn start(
        &mut self,
        now: u64,
        patience: Duration,
        group: GroupId,
        matter: Matter,
        asker: Asker,
    ) -> (u64, Course) {
        self.next += 1;
        let course = self.course(now, patience, &matter, asker.node());
        self.running.insert(
            self.next,
            Running {
                group,
                matter,
                asker,
                result: None,
                applications: course.applied.len(),
                error: course.answered.1.clone(),
                answered: false,
            },
        );
        (self.next, course)
    }

    /// All dice are thrown whatever the case, so that cases do not shift each other.
    fn course(&mut self, now: u64, patience: Duration, matter: &Matter, node: NodeId) -> Course {
        let seed = self.seed;
        let stream = self.streams.entry(node).or_insert_with(|| Stream::new(seed, "metadata", node.0));
        let weather = &self.weather;
        let (first, second, third) =
            (stream.span(&weather.delay), stream.span(&weather.delay), stream.span(&weather.delay));
        let unknown = stream.chance(weather.unknown_per_mille);
        let twice = stream.chance(weather.twice_per_mille);
        let broken = stream.chance(weather.broken_per_mille);
        let hidden = stream.chance(500);
        let copied = stream.chance(weather.late_copy_per_mille);
        let (kind, late) = (stream.below(4), stream.span(&(Duration::ZERO..Duration::from_secs(3))));
        let away = Duration::from_nanos(self.away.saturating_sub(now));
        let command = matches!(matter, Matter::Command(_));
        let timeout = |applied: Vec<Duration>| Course {
            applied,
            answered: (patience, Some(Error::new(ErrorKind::Timeout, "the metadata group did not answer in time"))),
        };
        if !away.is_zero() {
            return match kind {
                // Nobody to ask.
                0 | 1 => {
                    let error = Error::new(ErrorKind::NotLeader, "the group has no leader now; try again");
                    Course { applied: Vec::new(), answered: (first, Some(error)) }
                }
                // Waits for the leader, and may be too late.
                2 if away + first + second < patience => {
                    Course { applied: vec![away + first], answered: (away + first + second, None) }
                }
                2 if command => timeout(vec![away + first]),
                _ => timeout(Vec::new()),
            };
        }
        if unknown && command {
            return match kind {
                0 => timeout(Vec::new()),
                1 => timeout(vec![first]),
                2 => timeout(vec![patience + late]),
                _ => timeout(vec![first + second]),
            };
        }
        if broken && command {
            let error = Error::new(ErrorKind::LinkLost, "the way to the group's leader broke");
            // The leader has it all the same, now or once there is a majority again.
            let applied = if hidden { first + second + late } else { first };
            return Course { applied: vec![applied], answered: (first + second, Some(error)) };
        }
        if first + second >= patience {
            return timeout(vec![first]);
        }
        if twice && command && first + second + third < patience {
            return Course { applied: vec![first, first + second], answered: (first + second + third, None) };
        }
        if copied && command {
            // So late, often, that whoever sent it has gone, and a later life is there; or that its bucket is.
            let late = if hidden { late * 8 } else { late };
            return Course { applied: vec![first, first + second + late], answered: (first + second, None) };
        }
        Course { applied: vec![first], answered: (first + second, None) }
    }

    /// It takes effect. Gives a number that says what came out, for the trace.
    pub fn apply(&mut self, number: u64) -> Option<(GroupId, &Matter, &Result<MetaAnswer, Error>)> {
        let running = self.running.get_mut(&number)?;
        let result = match &running.matter {
            Matter::Command(command) => self.store.propose(command),
            Matter::Query(query) if self.weather.stale_reads => {
                let key = mesh_core::meta::encode(&(running.group, &**query)).unwrap_or_default();
                self.memory.entry(key).or_insert_with(|| self.store.query(running.group, query)).clone()
            }
            Matter::Query(query) => self.store.query(running.group, query),
        };
        if let Matter::Command(command) = &running.matter
            && let Some(proposer) = command.proposer()
        {
            let told = result.clone().map_err(|error| error.kind());
            let key = (running.group, proposer.actor, proposer.session, proposer.request);
            let first = self.said.entry(key).or_insert_with(|| told.clone());
            // What comes of a session that is over, or from below its floor, is refused whatever it came to before; and what
            // was refused so was not decided on.
            let undecided = [Err(ErrorKind::Fenced), Err(ErrorKind::Overloaded)];
            if undecided.contains(first) {
                first.clone_from(&told);
            } else if *first != told && !undecided.contains(&told) {
                self.contradiction.get_or_insert_with(|| format!("{command:?} came to {first:?}, and now to {told:?}"));
            }
        }
        running.applications = running.applications.saturating_sub(1);
        running.result = Some(result);
        if running.answered && running.applications == 0 {
            self.last = self.running.remove(&number);
            let last = self.last.as_ref()?;
            return Some((last.group, &last.matter, last.result.as_ref()?));
        }
        let running = self.running.get(&number)?;
        Some((running.group, &running.matter, running.result.as_ref()?))
    }

    /// A command that came to two different things, if there was one.
    pub const fn contradiction(&mut self) -> Option<String> {
        self.contradiction.take()
    }

    /// It is answered. `None` if there is no such matter.
    pub fn answer(&mut self, number: u64) -> Option<(Asker, Result<MetaAnswer, Error>)> {
        let running = self.running.get_mut(&number)?;
        running.answered = true;
        let asker = running.asker;
        let result = match (running.error.take(), running.result.take()) {
            (Some(error), _) => Err(error),
            (None, Some(result)) => result,
            (None, None) => Err(Error::bug("a matter is answered before it took effect")),
        };
        if running.applications == 0 {
            self.running.remove(&number);
        }
        Some((asker, result))
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::meta::{ObjectCommand, UpkeepCommand};

    use super::*;

    /// Counts proposals; every query is answered with the count.
    struct Counter(u64);

    impl Groups for Counter {
        fn propose(&mut self, _: &Command) -> Result<MetaAnswer, Error> {
            self.0 += 1;
            Ok(MetaAnswer::Done)
        }

        fn query(&mut self, _: GroupId, _: &Query) -> Result<MetaAnswer, Error> {
            Ok(MetaAnswer::Usage { bytes: self.0, objects: 0 })
        }

        fn control(&mut self) -> Arc<ControlView> {
            Arc::default()
        }
    }

    fn start(quorum: &mut Quorum) -> (u64, Course) {
        let command =
            Matter::Command(Arc::new(Command::Upkeep(GroupId(1), UpkeepCommand::DropGarbage { writes: Vec::new() })));
        quorum.start(
            0,
            Duration::from_secs(5),
            GroupId(1),
            command,
            Asker::Node { node: NodeId(1), boot: 1, ticket: 0 },
        )
    }

    fn count(quorum: &mut Quorum) -> u64 {
        match quorum.peek(GroupId(1), &Query::Control) {
            Ok(MetaAnswer::Usage { bytes, .. }) => bytes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_calm_command_takes_effect_once_before_its_answer() {
        let mut quorum = Quorum::new(1, Box::new(Counter(0)), MetadataWeather::calm());
        let (number, course) = start(&mut quorum);
        assert_eq!(course.applied.len(), 1);
        assert!(course.applied[0] < course.answered.0);
        assert!(quorum.apply(number).is_some());
        assert!(matches!(quorum.answer(number), Some((_, Ok(MetaAnswer::Done)))));
        assert!(quorum.running.is_empty());
        assert_eq!(count(&mut quorum), 1);
    }

    #[test]
    fn a_command_that_comes_to_two_things_is_seen() {
        struct Forgetful(u64);
        impl Groups for Forgetful {
            fn propose(&mut self, _: &Command) -> Result<MetaAnswer, Error> {
                self.0 += 1;
                Ok(MetaAnswer::Deleted { existed: self.0 == 1 })
            }

            fn query(&mut self, _: GroupId, _: &Query) -> Result<MetaAnswer, Error> {
                Ok(MetaAnswer::Done)
            }

            fn control(&mut self) -> Arc<ControlView> {
                Arc::default()
            }
        }
        let weather = MetadataWeather { twice_per_mille: 1000, ..MetadataWeather::calm() };
        let mut quorum = Quorum::new(1, Box::new(Forgetful(0)), weather);
        let session = Session { epoch: mesh_core::id::Epoch(1), life: 1 };
        let proposer = mesh_core::meta::Proposer { actor: ActorId(1), session, request: 1, done_below: 1 };
        let (id, tenant) = (mesh_core::id::BucketId(1), mesh_core::id::TenantId(1));
        let bucket = mesh_core::meta::BucketRef { id, name: "photos".into(), tenant, group: GroupId(1) };
        let command = Command::Object(bucket, ObjectCommand::SealBucket { proposer });
        let asker = Asker::Node { node: NodeId(1), boot: 1, ticket: 0 };
        let matter = Matter::Command(Arc::new(command));
        let (number, course) = quorum.start(0, Duration::from_secs(5), GroupId(1), matter, asker);
        assert_eq!(course.applied.len(), 2);
        assert!(quorum.apply(number).is_some());
        assert_eq!(quorum.contradiction(), None);
        assert!(quorum.apply(number).is_some());
        assert!(quorum.contradiction().is_some());
    }

    #[test]
    fn an_unknown_outcome_has_an_uncertain_error_and_sometimes_an_effect() {
        let weather = MetadataWeather { unknown_per_mille: 1000, ..MetadataWeather::calm() };
        let mut quorum = Quorum::new(1, Box::new(Counter(0)), weather);
        let mut applied = 0;
        for _ in 0..100 {
            let (_, course) = start(&mut quorum);
            let error = course.answered.1.expect("the answer is lost");
            assert_eq!(error.certainty(), mesh_core::Certainty::MaybeProcessed);
            applied += course.applied.len();
        }
        assert!((25..95).contains(&applied), "{applied}");
    }

    #[test]
    fn without_a_leader_a_refusal_is_certain_and_has_no_effect() {
        let mut quorum = Quorum::new(1, Box::new(Counter(0)), MetadataWeather::calm());
        quorum.lose_leaders(u64::MAX);
        for _ in 0..100 {
            let (_, course) = start(&mut quorum);
            let error = course.answered.1.expect("nobody answers");
            assert!(error.certainty() == mesh_core::Certainty::MaybeProcessed || course.applied.is_empty());
        }
    }
}
