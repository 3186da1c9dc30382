//! The one owner of what the node decides: it tells the [`Steward`] what has happened, carries out what that wants, checks
//! what must be so after every event, and publishes what the node knows. Nothing here decides, and nothing here waits for
//! anything but the next event: what takes time runs in tasks of its own, whose ends are events.

use core::time::Duration;
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
};

use futures_util::FutureExt as _;
use mesh_core::{
    Answer, Error, ErrorKind, Outcome,
    id::{ActorId, NodeId},
    limits::{DPU_HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL},
    meta::{ControlView, MeshCommand},
    op::Beat,
    port::{Completion, Role},
    time::Instant,
};
use mesh_placement::{
    fate::{Hosted, Known},
    migration::{Ask, Heard},
    steward::{Act, Event, Here, Key, Observed, Outlook, Steward, peers::Timing, specs::Upkeep},
};
use tokio::{
    sync::mpsc,
    task::{self, JoinError, JoinSet},
};

use super::{Inner, ability, acts, chains, media};
use crate::config::Span;

/// What the owner is told.
pub(super) enum News {
    /// Something has happened.
    Event(Event),
    /// A beat came then, and is to be answered.
    Beat(Arc<Beat>, Instant, Completion<Outcome>),
}

/// Events that wait to be heard at most. A beat that finds no room is refused; what is lost of another's answer, the next
/// beat says.
pub(super) const INBOX_MAX: usize = 8192;

impl Inner {
    /// Tells the owner that something has happened. Where it has no time to hear it, the next beat says the same.
    pub(super) fn tell(&self, event: Event) {
        if self.inbox.try_send(News::Event(event)).is_err() {
            tracing::debug!(node = %self.id, "an event was not heard: the node is stopping, or has too much to hear");
        }
    }

    /// A beat of another node, answered by this node's.
    pub(super) fn heard(&self, from: &Role, beat: Arc<Beat>, done: Completion<Outcome>) {
        if from.node() != Some(beat.node) {
            return done(Err(Error::new(ErrorKind::Denied, "a beat of somebody else")));
        }
        let at = self.env.clock.now();
        match self.inbox.try_send(News::Beat(beat, at, done)) {
            Err(mpsc::error::TrySendError::Full(News::Beat(_, _, done))) => {
                done(Err(Error::new(ErrorKind::Overloaded, "this node has more to hear than it can; beat again")));
            }
            // It is stopping, and here until the link closes: what is under way comes to its end.
            Err(mpsc::error::TrySendError::Closed(News::Beat(_, _, done))) => {
                let (node, incarnation, address) = (self.id, self.incarnation, self.link.address().to_string());
                let bare = Beat { node, incarnation, address, ..Beat::default() };
                done(Ok(Answer::Beat(Arc::new(bare)).into()));
            }
            _ => {}
        }
    }

    /// What the node knows now.
    pub(crate) fn outlook(&self) -> Arc<Outlook> {
        self.outlook.borrow().clone()
    }

    /// Which node it is, for its steward.
    pub(super) fn here(&self) -> Here {
        let timing = &self.config.timing;
        let ms = |span: Span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX);
        Here {
            info: self.info(),
            starts: self.starts.clone(),
            ability: self.ability.clone(),
            upkeep: Upkeep {
                reclaim_grace_ms: ms(timing.reclaim_grace),
                repair_bytes_per_s: self.config.repair.rate.0,
                count_every_ms: ms(self.config.repair.census),
                out_after_ms: ms(self.config.repair.out_after),
            },
            timing: Timing {
                beat: HEARTBEAT_INTERVAL,
                dpu_beat: DPU_HEARTBEAT_INTERVAL,
                look: LOOK_EVERY,
                silence: timing.silence.0,
                dpu_silence: timing.dpu_silence.0,
                late: LATE,
            },
        }
    }

    /// What the node observes of itself now.
    fn observe(&self, steward: &Steward) -> Observed {
        let inventory = self.host.inventory();
        let hosted: BTreeMap<_, _> =
            inventory.iter().map(|(stats, _)| (stats.id, Hosted { epoch: stats.epoch, phase: stats.phase })).collect();
        let known =
            |actor| (actor, Known { heard: self.host.heard_of(actor), on: self.agent.on(actor), caught_up: false });
        let data = hosted.keys().copied().filter(|actor| actor.as_data().is_some());
        Observed {
            groups: acts::groups(&self.metadata),
            kept: self.metadata.kept(),
            damage: self
                .metadata
                .is_damaged()
                .then(|| self.metadata.expect_room_aside().map(|()| self.metadata.kept())),
            waits: self.metadata.waits(),
            marked: self.metadata.marked(),
            known: data.chain(steward.concerns()).map(known).collect(),
            actors: inventory.into_iter().map(chains::report).collect(),
            hosted,
            load: ability::load(&self.load, &*self.env.machine),
            lost: self.losses.count(),
            stopping: self.leaving.load(Ordering::Acquire),
            leaving: self.is_leaving(),
            overdue: self.agent.overdue(self.env.clock.now()),
            complaint: self.link.complaint(),
        }
    }
}

/// A node that has not looked for so long was itself asleep: it looks four times in that.
const LATE: Duration = DPU_HEARTBEAT_INTERVAL.saturating_mul(4);
/// Between two looks at everything without news.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The owner.
struct Owner {
    node: Arc<Inner>,
    steward: Steward,
    /// What the control group said last.
    view: Arc<ControlView>,
    /// What takes time; each ends with an event.
    tasks: JoinSet<Event>,
    /// What a task is about that ends without its event, because it panicked.
    about: BTreeMap<task::Id, About>,
}

#[derive(Clone, Copy)]
enum About {
    Key(Key),
    Proposal(ActorId, u64),
    Step(ActorId, u64, NodeId),
    Wait(ActorId, u64),
}

/// Works until the node stops.
pub(super) async fn run(node: Arc<Inner>, mut inbox: mpsc::Receiver<News>) {
    while AssertUnwindSafe(own(node.clone(), &mut inbox)).catch_unwind().await.is_err() {
        // Nobody else hears what happens: better one that knows nothing yet than none.
        tracing::error!(node = %node.id, "what carries out this node's decisions broke down, as said above, and begins anew: report this");
        tokio::time::sleep(LATE).await;
    }
}

async fn own(node: Arc<Inner>, inbox: &mut mpsc::Receiver<News>) {
    let stopped = node.stopped();
    tokio::pin!(stopped);
    let mut control = node.metadata.watch_control();
    let view = control.borrow_and_update().clone();
    chains::learn(&node, &ControlView::default(), &view);
    media::let_go(&node, &view);
    let steward = Steward::new(node.here(), view.clone(), node.env.clock.now());
    let mut owner = Owner { node, steward, view, tasks: JoinSet::new(), about: BTreeMap::new() };
    let given = owner.node.config.peers.iter().map(|peer| (peer.node.id(), peer.address));
    for (peer, address) in owner.node.metadata.remembered().iter().copied().chain(given) {
        let as_of = owner.node.env.starts_until_now();
        owner.node.tell(Event::Given(peer, address, as_of));
    }
    // Nobody is judged, or answered, before it is known what this node has itself.
    owner.observe();
    loop {
        owner.publish();
        owner.node.turned.now(owner.node.env.clock.now());
        let pause = owner.steward.wake_at().after(owner.node.env.clock.now());
        tokio::select! {
            () = &mut stopped => return,
            news = inbox.recv() => match news {
                Some(news) => owner.hear_all(Some(news), inbox),
                None => return,
            },
            changed = control.changed() => {
                if changed.is_err() {
                    return;
                }
                owner.learn(control.borrow_and_update().clone());
            }
            () = owner.node.changed.notified() => owner.hear(Event::Changed),
            Some(ended) = owner.tasks.join_next_with_id() => owner.ended(ended),
            () = tokio::time::sleep(pause) => {}
        }
        if owner.steward.wake_at() <= owner.node.env.clock.now() {
            // Who has spoken is not silent, whether or not there was time to listen.
            let waiting = inbox.try_recv().ok();
            owner.hear_all(waiting, inbox);
            owner.hear(Event::Time);
        }
        // What began this moment may have ended: all of it is one look.
        while let Some(ended) = owner.tasks.try_join_next_with_id() {
            owner.ended(ended);
        }
        if owner.steward.is_curious(owner.node.env.clock.now()) {
            // Of what it has proposed itself it has heard, if that is so.
            if control.has_changed().unwrap_or(false) {
                owner.learn(control.borrow_and_update().clone());
            }
            owner.observe();
        }
    }
}

impl Owner {
    fn publish(&mut self) {
        if let Some(outlook) = self.steward.publish() {
            self.node.outlook.send_replace(Arc::new(outlook));
        }
    }

    fn learn(&mut self, view: Arc<ControlView>) {
        chains::learn(&self.node, &self.view, &view);
        if !self.view.lost.is_same(&view.lost) {
            media::let_go(&self.node, &view);
        }
        self.view = view.clone();
        self.hear(Event::Control(view));
    }

    fn observe(&mut self) {
        let observed = self.node.observe(&self.steward);
        self.hear(Event::Observed(Box::new(observed)));
    }

    /// Hears everything that waits, or a good deal of it.
    fn hear_all(&mut self, first: Option<News>, inbox: &mut mpsc::Receiver<News>) {
        let mut next = first;
        for left in (0..INBOX_MAX).rev() {
            match next {
                Some(News::Event(event)) => self.hear(event),
                Some(News::Beat(beat, at, done)) => {
                    self.hear(Event::Heard(beat.clone(), at));
                    done(Ok(Answer::Beat(self.steward.answer_to(&beat)).into()));
                }
                None => return,
            }
            next = if left > 0 { inbox.try_recv().ok() } else { None };
        }
    }

    /// Has the steward hear an event, does what it wants, and checks that all is as it must be.
    fn hear(&mut self, event: Event) {
        let now = self.node.env.clock.now();
        let mut acts = Vec::new();
        let heard = catch_unwind(AssertUnwindSafe(|| self.steward.hear(event, now, &mut acts)));
        let broken = match heard {
            Ok(()) => self.steward.check(now).err().map(|broken| broken.to_string()),
            Err(_) => Some("it broke down, as said above".to_owned()),
        };
        if let Some(broken) = broken {
            tracing::error!(node = %self.node.id, %broken, "what this node decides is not as it must be, and begins anew: report this");
            acts.extend(self.steward.begin_anew(now));
        }
        for act in acts {
            self.carry_out(act);
        }
    }

    fn carry_out(&mut self, act: Act) {
        let node = &self.node;
        if let Act::Plan(study) = act {
            let (key, node) = (Key::Plan(study.number()), node.clone());
            let task = async move {
                match acts::plan(&node, *study).await {
                    Ok(studied) => Event::Planned(Box::new(studied)),
                    Err(error) => Event::Ended(key, Err(error)),
                }
            };
            return self.begin(About::Key(key), task);
        }
        if let Some(key) = act.key() {
            let (task, bound) = acts::keyed(node.clone(), act);
            let mut task = Box::pin(async move {
                let ended = match bound {
                    Some(bound) => tokio::time::timeout(bound, task).await.unwrap_or_else(|_| Err(acts::too_long())),
                    None => task.await,
                };
                Event::Ended(key, ended)
            });
            // Most of what is done to actors is done at once, and nothing comes between; nothing else may hold up the node.
            let ended = if matches!(key, Key::Actor(_)) { (&mut task).now_or_never() } else { None };
            match ended {
                Some(ended) => self.begin(About::Key(key), async move { ended }),
                None => self.begin(About::Key(key), task),
            }
            return;
        }
        match act {
            Act::Step(actor, number, ask) => {
                if let Ask::Propose(MeshCommand::BeginMove { .. }) = &ask {
                    node.events.moves.begun.count();
                }
                let about = match &ask {
                    Ask::Propose(_) => About::Proposal(actor, number),
                    Ask::Step(at, _) => About::Step(actor, number, *at),
                    Ask::Wait(_) => About::Wait(actor, number),
                };
                let node = node.clone();
                let task = async move { Event::Stepped(actor, number, acts::fulfil(&node, ask).await) };
                self.begin(about, task);
            }
            other => acts::at_once(node, other),
        }
    }

    fn begin(&mut self, about: About, task: impl Future<Output = Event> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.about.insert(id, about);
    }

    fn ended(&mut self, ended: Result<(task::Id, Event), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let about = self.about.remove(&id);
        let event = match (ended, about) {
            (Ok((_, event)), _) => event,
            (Err(_), None) => return,
            (Err(error), Some(about)) => {
                let error = Error::bug("an act broke down").caused_by(error);
                match about {
                    About::Key(key) => Event::Ended(key, Err(error)),
                    About::Proposal(actor, number) => Event::Stepped(actor, number, Heard::Proposed(Err(error))),
                    About::Step(actor, number, at) => Event::Stepped(actor, number, Heard::Stepped(at, Err(error))),
                    About::Wait(actor, number) => Event::Stepped(actor, number, Heard::Due),
                }
            }
        };
        self.hear(event);
    }
}
