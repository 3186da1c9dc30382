//! What a node does of a live move, as its source or as its target, as machines: which step counts, and how the state goes
//! over.
//!
//! The state goes page by page from the source to the target, numbered and with a running digest, so that a page that is
//! missing, repeated or damaged is found before the move is committed. When to move is `migration`'s, and who runs an
//! actor is the metadata group's.
//!
//! ```text
//! target:  Warm ──► (Install)* ──► Activate            or  Discard
//! source:  PreCopy (Snapshot, Send)* ──► Freeze: Snapshot, Send, Settle, (Snapshot, Send)* ──► Retire   or  Thaw
//! ```
//!
//! [`Transfers`] is what a node knows of its moves, one for each node. Every step that it is asked for is a [`Course`] of its
//! own, which wants one thing at a time and hears what came of it; so several may be under way at once. The very same
//! machines run in a node's agent and in the simulator.

use core::{ops::ControlFlow, time::Duration};
use std::collections::BTreeMap;

use mesh_core::{
    Buf, Error, ErrorKind, Lane,
    assignment::MoveId,
    id::{ActorId, Epoch, NodeId},
    op::{MoveOp, MoveStep, Moved},
    snapshot::{self, Mark, Rounds, Snapshot},
    time::Instant,
};

/// What a course wants of its node, or of the target. Each is answered by exactly one [`Heard`].
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// To build the actor that is to arrive under an epoch. [`Heard::Done`].
    Warm {
        /// The actor.
        actor: ActorId,
        /// The epoch it is to arrive under.
        epoch: Epoch,
    },
    /// To give a warming actor a page of state. [`Heard::Done`].
    Restore {
        /// The actor.
        actor: ActorId,
        /// The epoch it is to arrive under.
        epoch: Epoch,
        /// The page.
        page: Snapshot,
    },
    /// A page of an actor's state. [`Heard::Page`].
    Snapshot {
        /// The actor.
        actor: ActorId,
        /// The epoch it runs under.
        epoch: Epoch,
        /// Where the page before ended.
        since: Option<Mark>,
    },
    /// To bring a page to the target, as a step of the same move. [`Heard::Sent`].
    Send {
        /// The target.
        to: NodeId,
        /// The step.
        step: MoveStep,
        /// The page.
        page: Buf,
        /// How urgent it is.
        lane: Lane,
    },
    /// To let requests wait, and to say when nothing is under way that the state depends on. [`Heard::Done`]; `Timeout` if
    /// that takes longer than [`SETTLE_MAX`].
    Settle {
        /// The actor.
        actor: ActorId,
        /// The epoch it runs under.
        epoch: Epoch,
    },
    /// To let an actor that has arrived run. [`Heard::Done`].
    Activate {
        /// The actor.
        actor: ActorId,
        /// The epoch it has arrived under.
        epoch: Epoch,
    },
    /// To send an actor away. [`Heard::Retired`].
    Retire {
        /// The actor.
        actor: ActorId,
        /// The epoch it ran under.
        epoch: Epoch,
        /// Where it runs now, under the next one.
        to: NodeId,
    },
    /// To let an actor that did not leave go on. [`Heard::Done`].
    Thaw {
        /// The actor.
        actor: ActorId,
        /// The epoch it runs under.
        epoch: Epoch,
    },
    /// To forget an actor that was to arrive. [`Heard::Done`].
    Discard {
        /// The actor.
        actor: ActorId,
    },
}

/// What a course wants next; `Break`: it is over, and this is what came of its step.
pub type Next = ControlFlow<Result<Moved, Error>, Ask>;

/// What came of an [`Ask`].
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// It was done, or not.
    Done(Result<(), Error>),
    /// The page.
    Page(Result<Snapshot, Error>),
    /// What the target said.
    Sent(Result<Moved, Error>),
    /// The actor is gone; so many requests waited.
    Retired(usize),
}

/// What a node knows of its moves.
#[derive(Clone, Debug, Default)]
pub struct Transfers {
    /// Actors that leave.
    leaving: BTreeMap<ActorId, Transfer>,
    /// Actors that arrive.
    arriving: BTreeMap<ActorId, Transfer>,
    /// The last move of each actor of which this node took a step: at most one entry for each actor of the mesh.
    on: BTreeMap<ActorId, MoveId>,
}

/// How much of an actor's state has gone over.
#[derive(Clone, Copy, Debug, Default)]
struct Transfer {
    id: MoveId,
    epoch: Epoch,
    /// Where the last page ended.
    mark: Option<Mark>,
    pages: u32,
    digest: u64,
    entries: u64,
    /// The last page said nothing, and the target has it: it has all that there was.
    confirmed: bool,
    /// Since when it takes no requests.
    frozen: Option<Instant>,
}

/// One step that is being carried out.
#[derive(Clone, Debug)]
pub struct Course {
    step: MoveStep,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    Warming,
    /// A page is being restored: its number, its digest, its entries.
    Installing {
        page: u32,
        digest: u64,
        entries: u64,
    },
    Activating,
    Retiring {
        frozen: Option<Instant>,
    },
    /// What it comes to is what the step comes to.
    Telling,
    /// It was frozen for a move that is over.
    TooLate,
    /// It was built for a move that is over, or could not be.
    Unwanted(Error),
    /// State goes to the target.
    Copying(Copying),
    Over,
}

#[derive(Clone, Debug)]
struct Copying {
    to: NodeId,
    part: Part,
    transfer: Transfer,
    began: Instant,
    /// Entries that had gone before this step.
    before: u64,
    /// The page that is on its way.
    page: Option<Page>,
}

/// Which part of the state goes.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// All, while the actor goes on.
    Before(Rounds),
    /// What came since: the target confirms that it is there and has all, before requests wait.
    Confirming,
    /// Requests are made to wait.
    Settling,
    /// The rest, while they do.
    Rest,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    mark: Mark,
    digest: u64,
    entries: u64,
    more: bool,
    confirms: bool,
}

impl Transfers {
    /// Begins a step, with what came with it.
    pub fn begin(&mut self, step: MoveStep, payload: &Buf, now: Instant) -> (Course, Next) {
        let mut course = Course { step, stage: Stage::Over };
        let first = match self.take_up(step.actor, step.id) {
            Ok(()) => course.first(self, payload, now),
            Err(error) => course.end(Err(error)),
        };
        (course, first)
    }

    /// The last move of an actor of which this node took a step.
    #[must_use]
    pub fn on(&self, actor: ActorId) -> Option<MoveId> {
        self.on.get(&actor).copied()
    }

    /// Forgets a move that an actor was to leave by, which has been aborted. Whether it was on that one: else a later
    /// move's end decides.
    #[must_use]
    pub fn take_back(&mut self, actor: ActorId, id: MoveId) -> bool {
        let is_on = self.leaving.get(&actor).is_some_and(|transfer| transfer.id == id);
        if is_on {
            self.leaving.remove(&actor);
        }
        is_on
    }

    /// Actors that have been frozen for longer than a move takes, with their moves, which whoever moved them has left alone:
    /// the group is to be asked to abort them.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Vec<(ActorId, Epoch, MoveId)> {
        let is_overdue = |transfer: &Transfer| transfer.frozen.is_some_and(|since| now.since(since) >= FROZEN_MAX);
        let overdue = self.leaving.iter().filter(|(_, transfer)| is_overdue(transfer));
        overdue.map(|(actor, transfer)| (*actor, transfer.epoch, transfer.id)).collect()
    }

    /// Forgets what it knew of an actor's moves: the group has said who runs it.
    pub fn forget(&mut self, actor: ActorId) {
        self.leaving.remove(&actor);
        self.arriving.remove(&actor);
    }

    /// Moves of one actor follow each other under one epoch, as long as they are aborted; so a step that a controller of
    /// an older one sends late must not thaw, discard or begin anew what is on the later one.
    fn take_up(&mut self, actor: ActorId, id: MoveId) -> Result<(), Error> {
        let on = self.on.entry(actor).or_insert(id);
        if id < *on {
            return Err(Error::new(ErrorKind::Conflict, "the actor is on a later move: this one is over")
                .with("actor", actor)
                .with("move", id)
                .with("later", *on));
        }
        *on = id;
        Ok(())
    }

    /// An actor is to arrive. Not twice by one move: two controllers may have begun the very same one, and what the first
    /// has brought over must not be lost to the second, which is to abort it instead.
    fn expect(&mut self, step: MoveStep) -> Result<(), Error> {
        let MoveStep { actor, epoch, id, .. } = step;
        if self.arriving.get(&actor).is_some_and(|transfer| transfer.id == id) {
            return Err(Error::new(ErrorKind::Conflict, "another controller carries out the same move")
                .with("actor", actor)
                .with("move", id));
        }
        self.arriving.insert(actor, Transfer { id, epoch, ..Transfer::default() });
        Ok(())
    }

    fn arriving(&mut self, step: MoveStep) -> Result<&mut Transfer, Error> {
        let transfer = self.arriving.get_mut(&step.actor).filter(|transfer| transfer.id == step.id);
        transfer.ok_or_else(|| not_moving(step))
    }

    fn leaving(&mut self, step: MoveStep) -> Result<&mut Transfer, Error> {
        let transfer = self.leaving.get_mut(&step.actor).filter(|transfer| transfer.id == step.id);
        transfer.ok_or_else(|| not_moving(step))
    }
}

impl Course {
    /// The step that it carries out.
    #[must_use]
    pub const fn step(&self) -> MoveStep {
        self.step
    }

    /// Takes what came of what was wanted last, and says what is wanted next.
    ///
    /// # Panics
    /// If it hears an answer to what it did not ask.
    pub fn hear(&mut self, transfers: &mut Transfers, heard: Heard, now: Instant) -> Next {
        let actor = self.step.actor;
        match (core::mem::replace(&mut self.stage, Stage::Over), heard) {
            (Stage::Warming, Heard::Done(warmed)) => {
                let is_expected = transfers.arriving(self.step).is_ok();
                if warmed.is_ok() && is_expected {
                    return self.end(Ok(Moved::default()));
                }
                if is_expected {
                    transfers.arriving.remove(&actor);
                }
                // What is here is not of this step, if it failed; or is what the next move takes pages in for.
                let leaves = if warmed.is_ok() { !transfers.arriving.contains_key(&actor) } else { is_expected };
                let error = warmed.err().unwrap_or_else(|| not_moving(self.step));
                if !leaves {
                    return self.end(Err(error));
                }
                // To build it took longer than the move: what warms here, if anything does, is of no move, and nobody else
                // sees to it.
                self.ask(Stage::Unwanted(error), Ask::Discard { actor })
            }
            (Stage::Installing { page, digest, entries }, Heard::Done(restored)) => {
                let installed =
                    restored.and_then(|()| transfers.arriving(self.step)?.installed(self.step, page, digest, entries));
                self.end(installed)
            }
            (Stage::Activating, Heard::Done(activated)) => {
                if activated.is_ok() && transfers.arriving(self.step).is_ok() {
                    transfers.arriving.remove(&actor);
                }
                self.end(activated.map(|()| Moved::default()))
            }
            (Stage::Retiring { frozen }, Heard::Retired(parked)) => self.end(Ok(Moved {
                entries: parked as u64,
                took_us: frozen.map_or(0, |at| micros(at, now)),
                ..Moved::default()
            })),
            // An actor that has gone elsewhere is not there to be thawed.
            (Stage::TooLate, Heard::Done(_)) => self.end(Err(not_moving(self.step))),
            (Stage::Unwanted(error), Heard::Done(_)) => self.end(Err(error)),
            (Stage::Telling, Heard::Done(told)) => self.end(told.map(|()| Moved::default())),
            (Stage::Copying(copying), heard) => match self.copy(transfers, copying, heard, now) {
                Ok(next) => next,
                Err(error) => self.end(Err(error)),
            },
            (stage, heard) => unreachable!("{stage:?} heard {heard:?}"),
        }
    }

    fn end(&mut self, outcome: Result<Moved, Error>) -> Next {
        self.stage = Stage::Over;
        Next::Break(outcome)
    }

    fn ask(&mut self, stage: Stage, ask: Ask) -> Next {
        self.stage = stage;
        Next::Continue(ask)
    }

    fn first(&mut self, transfers: &mut Transfers, payload: &Buf, now: Instant) -> Next {
        let MoveStep { actor, epoch, id, what } = self.step;
        let next = Epoch(epoch.0 + 1);
        match what {
            MoveOp::Warm => match transfers.expect(self.step) {
                Ok(()) => self.ask(Stage::Warming, Ask::Warm { actor, epoch: next }),
                Err(error) => self.end(Err(error)),
            },
            MoveOp::Install { page, digest } => match self.take_in(transfers, page, digest, payload) {
                Ok(ask) => ask,
                Err(error) => self.end(Err(error)),
            },
            MoveOp::PreCopy { to } => {
                let transfer = Transfer { id, epoch, ..Transfer::default() };
                self.read(Copying::new(to, Part::Before(Rounds::default()), transfer, now))
            }
            MoveOp::Freeze { to } => match transfers.leaving(self.step).map(|transfer| *transfer) {
                Ok(transfer) => self.read(Copying::new(to, Part::Confirming, transfer, now)),
                Err(error) => self.end(Err(error)),
            },
            MoveOp::Activate => self.ask(Stage::Activating, Ask::Activate { actor, epoch: next }),
            MoveOp::Retire { to } => {
                let frozen = transfers.leaving.remove(&actor).and_then(|transfer| transfer.frozen);
                self.ask(Stage::Retiring { frozen }, Ask::Retire { actor, epoch, to })
            }
            MoveOp::Thaw => {
                transfers.leaving.remove(&actor);
                self.ask(Stage::Telling, Ask::Thaw { actor, epoch })
            }
            MoveOp::Discard => {
                transfers.arriving.remove(&actor);
                self.ask(Stage::Telling, Ask::Discard { actor })
            }
        }
    }

    /// The target takes a page, unless it has it.
    fn take_in(&mut self, transfers: &mut Transfers, page: u32, digest: u64, payload: &Buf) -> Result<Next, Error> {
        let MoveStep { actor, epoch, .. } = self.step;
        let so_far = *transfers.arriving(self.step)?;
        if so_far.has(page, digest) {
            return Ok(self.end(Ok(so_far.moved())));
        }
        so_far.expects(self.step, page)?;
        if snapshot::digest(so_far.digest, payload) != digest {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the digest of an actor's state is wrong; the move is taken back",
            )
            .with("actor", actor)
            .with("page", page));
        }
        let state = Snapshot::decode(payload)?;
        let stage = Stage::Installing { page, digest, entries: state.len() as u64 };
        Ok(self.ask(stage, Ask::Restore { actor, epoch: Epoch(epoch.0 + 1), page: state }))
    }

    /// The source asks its actor for the next page.
    fn read(&mut self, copying: Copying) -> Next {
        let MoveStep { actor, epoch, .. } = self.step;
        let since = copying.transfer.mark;
        self.ask(Stage::Copying(copying), Ask::Snapshot { actor, epoch, since })
    }

    fn copy(
        &mut self,
        transfers: &mut Transfers,
        mut copying: Copying,
        heard: Heard,
        now: Instant,
    ) -> Result<Next, Error> {
        let MoveStep { actor, epoch, .. } = self.step;
        match (copying.part, heard) {
            (Part::Settling, Heard::Done(settled)) => {
                if !transfers.leaving.contains_key(&actor) {
                    // The move was taken back just before requests were made to wait: nobody else lets them in again.
                    return Ok(self.ask(Stage::TooLate, Ask::Thaw { actor, epoch }));
                }
                settled?;
                copying.part = Part::Rest;
                Ok(self.read(copying))
            }
            (Part::Rest, Heard::Page(Ok(page))) if !page.more && page.says_nothing() && copying.transfer.confirmed => {
                Ok(self.end(Ok(copying.moved(now))))
            }
            (_, Heard::Page(page)) => self.send(copying, &page?),
            (part, Heard::Sent(moved)) => {
                let page = copying.arrived(actor, moved?)?;
                match part {
                    Part::Before(mut rounds) => {
                        let ends = !page.more && rounds.end(copying.transfer.entries);
                        if ends || copying.transfer.pages >= PAGES_MAX {
                            if transfers.on(actor) != Some(self.step.id) {
                                // A later move has begun meanwhile, and what it has brought over counts.
                                return Err(not_moving(self.step));
                            }
                            transfers.leaving.insert(actor, copying.transfer);
                            return Ok(self.end(Ok(copying.moved(now))));
                        }
                        copying.part = Part::Before(rounds);
                        Ok(self.read(copying))
                    }
                    Part::Confirming => {
                        // The group may have said meanwhile that it is over.
                        let known = transfers.leaving(self.step)?;
                        copying.transfer.frozen = Some(now);
                        copying.began = now;
                        *known = copying.transfer;
                        copying.part = Part::Settling;
                        Ok(self.ask(Stage::Copying(copying), Ask::Settle { actor, epoch }))
                    }
                    Part::Rest if page.more => Ok(self.read(copying)),
                    Part::Rest => Ok(self.end(Ok(copying.moved(now)))),
                    Part::Settling => unreachable!("a page has arrived, and none was sent"),
                }
            }
            (part, heard) => unreachable!("{part:?} heard {heard:?}"),
        }
    }

    /// The source sends a page.
    fn send(&mut self, mut copying: Copying, page: &Snapshot) -> Result<Next, Error> {
        let bytes = page.encode()?;
        let digest = snapshot::digest(copying.transfer.digest, &bytes);
        copying.page = Some(Page {
            mark: page.mark,
            digest,
            entries: page.len() as u64,
            more: page.more,
            confirms: page.says_nothing() && !page.more,
        });
        let what = MoveOp::Install { page: copying.transfer.pages, digest };
        let lane = if matches!(copying.part, Part::Before(_)) { Lane::Bulk } else { Lane::Control };
        let send = Ask::Send { to: copying.to, step: MoveStep { what, ..self.step }, page: Buf::copy_of(&bytes), lane };
        Ok(self.ask(Stage::Copying(copying), send))
    }
}

impl Copying {
    const fn new(to: NodeId, part: Part, transfer: Transfer, began: Instant) -> Self {
        Self { to, part, began, before: transfer.entries, transfer, page: None }
    }

    /// The target has the page that was on its way, or says that it has another state.
    fn arrived(&mut self, actor: ActorId, moved: Moved) -> Result<Page, Error> {
        match self.page.take() {
            Some(page) if page.digest == moved.digest => {
                let transfer = &mut self.transfer;
                (transfer.mark, transfer.digest) = (Some(page.mark), page.digest);
                transfer.pages += 1;
                transfer.entries += page.entries;
                transfer.confirmed = page.confirms;
                Ok(page)
            }
            _ => {
                Err(Error::new(ErrorKind::Corrupt, "the target has another state than was sent to it")
                    .with("actor", actor))
            }
        }
    }

    /// What this step has carried.
    fn moved(&self, now: Instant) -> Moved {
        Moved {
            entries: self.transfer.entries - self.before,
            took_us: micros(self.began, now),
            ..self.transfer.moved()
        }
    }
}

impl Transfer {
    /// Whether a page is the last one that came.
    const fn has(&self, page: u32, digest: u64) -> bool {
        page + 1 == self.pages && digest == self.digest
    }

    fn expects(&self, step: MoveStep, page: u32) -> Result<(), Error> {
        if page == self.pages {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, "a page of an actor's state is missing; the move begins anew")
            .with("actor", step.actor)
            .with("page", page)
            .with("expected", self.pages))
    }

    /// A page has been restored; of two copies that came at once, the first to end counts.
    fn installed(&mut self, step: MoveStep, page: u32, digest: u64, entries: u64) -> Result<Moved, Error> {
        if !self.has(page, digest) {
            self.expects(step, page)?;
            self.pages += 1;
            self.digest = digest;
            self.entries += entries;
        }
        Ok(self.moved())
    }

    const fn moved(&self) -> Moved {
        Moved { entries: self.entries, pages: self.pages, digest: self.digest, took_us: 0 }
    }
}

fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.since(from).as_micros()).unwrap_or(u64::MAX)
}

fn not_moving(step: MoveStep) -> Error {
    Error::new(ErrorKind::NoSuchActor, "the actor is not on this move here")
        .with("actor", step.actor)
        .with("move", step.id)
}

/// Pages of one pre-copy at most, for a state that grows as fast as it is carried: the rest goes when it is frozen.
const PAGES_MAX: u32 = 65_536;
/// An actor comes to rest within this, or does not move now.
pub const SETTLE_MAX: Duration = Duration::from_millis(1000);
/// One step at a node: longest, to carry over a large state while the actor goes on.
pub const STEP_MAX: Duration = Duration::from_secs(120);
/// The target answers a page within this.
pub const PAGE_MAX: Duration = Duration::from_secs(5);
/// A follower that is behind by more than this does not take actors in.
pub const HEAR_MAX: Duration = Duration::from_secs(2);
/// What was under way when an actor left ends within this.
pub const LINGER_MAX: Duration = Duration::from_secs(30);
/// An actor that is frozen for longer has been left alone.
const FROZEN_MAX: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests;
