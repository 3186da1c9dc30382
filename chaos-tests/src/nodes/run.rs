//! One seed, from start to verdict.

use core::fmt;
use mesh_core::{id::NodeId, meta::Level, spec::CustomSpec};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{clients::Tally, log, plan::Plan, room::Room, time::RoomTime, toys};
use crate::harness::{
    Program,
    book::{Book, Brought},
};

pub use super::room::Planted;

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which.
    pub seed: u64,
    /// Everything that happened, as one number.
    pub trace: u64,
    /// What must not be.
    pub violation: Option<String>,
    /// How much happened.
    pub figures: Figures,
    /// Every message and what nodes said, if that was asked for.
    pub log: Vec<String>,
}

/// How much happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Milliseconds of the room.
    pub windows: u64,
    /// Messages that were delivered.
    pub messages: u64,
    /// Processes that died.
    pub crashes: u64,
    /// What clients saw.
    pub tally: Tally,
    /// Windows from the end of the faults until all was well.
    pub recovery: u64,
    /// How often it was looked whether clients are answered, with nobody hurt and with one node that was.
    pub looked: [u64; 2],
    /// How often the state of a metadata group's replica was compared with another's.
    pub compared: u64,
    /// The mesh's level in the end.
    pub level: u16,
    /// How often orders were refused that were given again until they were granted.
    pub refused_orders: u64,
    /// Whether something went for good, or in how many runs something did.
    pub departures: u64,
}

impl core::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.windows += other.windows;
        self.messages += other.messages;
        self.crashes += other.crashes;
        self.tally.well += other.tally.well;
        self.tally.refused += other.tally.refused;
        self.tally.unknown += other.tally.unknown;
        self.tally.longest = self.tally.longest.max(other.tally.longest);
        self.tally.longest_read = self.tally.longest_read.max(other.tally.longest_read);
        self.recovery = self.recovery.max(other.recovery);
        self.compared += other.compared;
        self.looked = [self.looked[0] + other.looked[0], self.looked[1] + other.looked[1]];
        self.level = self.level.max(other.level);
        self.refused_orders += other.refused_orders;
        self.departures += other.departures;
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { windows, messages, crashes, tally, recovery, refused_orders, departures, .. } = self.figures;
        let Tally { well, refused, unknown, longest, .. } = tally;
        write!(
            f,
            "seed {} {:016x} {windows} ms, {messages} messages, {crashes} crashes, {well} well, {refused} refused, \
             {unknown} unknown, longest {longest} ms, well again after {recovery} ms",
            self.seed, self.trace
        )?;
        if departures > 0 || refused_orders > 0 {
            write!(f, ", {departures} gone for good, {refused_orders} orders refused")?;
        }
        f.write_str(": ")?;
        match &self.violation {
            None => f.write_str("ok"),
            Some(why) => write!(f, "VIOLATION {}", why.replace('\n', " ")),
        }
    }
}

/// Runs a seed. With `wanted`, keeps the log.
#[must_use]
pub fn run(seed: u64, planted: Option<Planted>, wanted: bool) -> Verdict {
    run_plan(seed, &Plan::of(seed), planted, wanted)
}

/// Runs a plan with this seed's dice.
#[must_use]
pub fn run_plan(seed: u64, plan: &Plan, planted: Option<Planted>, wanted: bool) -> Verdict {
    run_with(seed, plan, planted, wanted, None)
}

/// Runs a seed with the functions and the clients of a program in place of its own.
#[must_use]
pub fn run_program(seed: u64, program: &dyn Program, wanted: bool) -> Verdict {
    // The room's own clients may have no business with what the program's functions do; and a function that breaks down
    // takes the state of all others in its chain with it.
    // What a chain keeps goes with its node.
    let plan = Plan { clients: 0, frail: None, ledger: false, guest: false, ..Plan::of(seed).without_partings() };
    run_with(seed, &plan, None, wanted, Some(program))
}

fn run_with(seed: u64, plan: &Plan, planted: Option<Planted>, wanted: bool, program: Option<&dyn Program>) -> Verdict {
    let time = Arc::new(RoomTime::default());
    log::hearing(time.clone(), wanted, || {
        let mut verdict = Verdict { seed, trace: 0, violation: None, figures: Figures::default(), log: Vec::new() };
        let ran = catch_unwind(AssertUnwindSafe(|| run_in(&mut verdict, plan, planted, time, program)));
        let said = ran.unwrap_or_else(|_| Err("the room itself broke down".to_owned())).err();
        if let Some(why) = &said {
            log::say(|| format!("VIOLATION {why}"));
        }
        // Also what was said while it was taken down; and what was said first is nearer to the cause.
        verdict.violation = log::broken().or(said);
        verdict.log = log::take_lines();
        verdict
    })
}

fn run_in(
    verdict: &mut Verdict,
    plan: &Plan,
    planted: Option<Planted>,
    time: Arc<RoomTime>,
    program: Option<&dyn Program>,
) -> Result<(), String> {
    let (book, stages, own) = match program.map(Brought::of).transpose()? {
        Some(Brought { book, stages, functions }) => (Some(book), stages, functions),
        None => (None, Vec::new(), Vec::new()),
    };
    let clients = book.as_ref().map_or(0, Book::clients);
    let functions = [toys::frail(), toys::ledger()].into_iter().chain(own).collect();
    let room = Room::new(verdict.seed, plan, (functions, book), planted, time);
    let mut room = room.map_err(|error| format!("the room could not be made: {error}"))?;
    let figures = &mut verdict.figures;
    let outcome = acts(&mut room, plan, figures, (&stages, clients));
    verdict.trace = room.trace();
    figures.windows = room.time.windows();
    (figures.messages, figures.crashes, figures.compared) = (room.messages, room.crashes, room.compared);
    figures.tally = room.clients.seen.tally();
    (figures.refused_orders, figures.departures) = (room.refused_orders(), u64::from(room.has_departed()));
    outcome
}

/// `own`: a program's stages, and how many clients it has.
fn acts(room: &mut Room, plan: &Plan, figures: &mut Figures, own: (&[CustomSpec], usize)) -> Result<(), String> {
    let early: Vec<NodeId> = plan.nodes().filter(|node| plan.late(*node).is_none()).collect();
    for (at, node) in early.iter().enumerate() {
        room.power_on(*node, 1 + at as u64 * 37);
    }
    until(room, FORM_MAX, "the mesh is formed", |room| room.missing(&early))?;
    let (stages, clients) = own;
    if !stages.is_empty() {
        room.declare(stages.to_vec());
        until(room, FORM_MAX, "every chain has the program's stages", |room| room.undeclared(stages))?;
    }
    room.formed = room.time.windows();
    for which in 0..clients {
        room.own_client(which);
    }
    for which in 0..plan.clients {
        room.client(which);
    }
    if plan.guest {
        room.entertain();
    }
    if let Some(per_mille) = plan.frail {
        room.frail(per_mille);
    }
    if plan.ledger {
        room.ledger();
    }
    for node in plan.nodes() {
        if let Some(after) = plan.late(node) {
            room.power_on(node, 1 + after);
        }
    }
    if let Some(after) = plan.newcomer.filter(|_| !plan.bereft) {
        room.expect_newcomer(1 + after);
    }
    for (after, fault) in &plan.faults {
        room.befall(*after, fault.clone());
    }
    for window in 0..plan.storm {
        step(room)?;
        // Who breaks down at what he is asked answers when he answers.
        if window.is_multiple_of(LOOK) && plan.frail.is_none() {
            room.expect_answers()?;
        }
    }
    room.calm();
    let ended = room.time.windows();
    let unwell = |room: &Room| room.missing(&room.wanted());
    until(room, RECOVER_MAX, "all is well again", unwell)?;
    figures.recovery = room.time.windows() - ended;
    for window in 0..CALM {
        step(room)?;
        if window.is_multiple_of(LOOK) && plan.frail.is_none() {
            room.expect_answers()?;
        }
    }
    until(room, PART_MAX, "what is to go has gone, and who is to come has come", Room::awaited)?;
    until(room, RECOVER_MAX, "all is well with who has come and without what has gone", unwell)?;
    until(room, SETTLE_MAX, "everything is where it should be", Room::unsettled)?;
    figures.looked = room.looked();
    figures.level = room.level()?;
    room.clients.seen.stop();
    let is_over = |room: &Room| (!room.clients.seen.is_over()).then(|| "operations are under way".to_owned());
    until(room, END_MAX, "clients come to their end", is_over)?;
    expect_gone(room)?;
    expect_audited(room)?;
    // Of what was moved for a newcomer, only where that is soon.
    let is_counted = plan.departs() || (plan.newcomer.is_some() && plan.hurried.is_some());
    if is_counted {
        room.ask_whether_whole();
        until(room, WHOLE_MAX, "everything is whole", Room::unwhole)?;
        room.ask_whether_out();
        until(room, TOLD_MAX, "who is out says so", Room::unconfessed)?;
        room.carry_away();
        room.take_one_more_away();
    }
    room.read_all();
    until(room, END_MAX, "everything is read through every host", is_over)?;
    room.clients.seen.check()?;
    if is_counted {
        room.bring_back();
        until(room, RECOVER_MAX, "who was away for a while is back", unwell)?;
        until(room, SETTLE_MAX, "everything is where it should be again", Room::unsettled)?;
    }
    if plan.bereft {
        lose_majority(room, plan)?;
    }
    room.read_own();
    until(room, END_MAX, "what the program's clients used is read through every host", is_over)?;
    let asked = room.time.windows();
    let chains = loop {
        room.ask_states();
        until(room, END_MAX, "every chain has said its state", Room::stateless)?;
        match room.states(stages.len()) {
            // One that has just broken down is not there until it is built again; nor is one that has just been placed.
            Err(_) if room.time.windows() - asked < END_MAX => {
                for _ in 0..LOOK {
                    step(room)?;
                }
            }
            chains => break chains?,
        }
    };
    room.clients.seen.conclude(&chains)
}

/// Most of those that vote are lost for good, when nobody writes and everything is whole; the mesh goes on from what the others
/// have, once somebody accepts that. Nothing is lost, nobody listens to those that were, and somebody new makes it whole again.
fn lose_majority(room: &mut Room, plan: &Plan) -> Result<(), String> {
    let is_over = |room: &Room| (!room.clients.seen.is_over()).then(|| "operations are under way".to_owned());
    let unwell = |room: &Room| room.missing(&room.wanted());
    room.lose_majority()?;
    until(room, REBORN_MAX, "the metadata go on from what is left", Room::unrecovered)?;
    // With fewer drives than a stripe has shards nobody can write.
    if room.can_write(plan.code) {
        until(room, RECOVER_MAX, "all is well without those that are lost", unwell)?;
    }
    room.read_all();
    until(room, END_MAX, "everything is read without those that are lost", is_over)?;
    room.clients.seen.check()?;
    room.raise_the_lost();
    for _ in 0..RAISED {
        step(room)?;
    }
    room.ask_whether_out();
    until(room, TOLD_MAX, "those that were lost and are back say that they are out", Room::unconfessed)?;
    room.bury_the_lost();
    room.clients.seen.go_on();
    for which in 0..plan.clients {
        room.client(SECOND_LIFE + which);
    }
    room.expect_newcomer(1);
    for _ in 0..CALM {
        step(room)?;
    }
    until(room, PART_MAX, "who is to come has come", Room::awaited)?;
    until(room, RECOVER_MAX, "all is well with who has come", unwell)?;
    room.clients.seen.stop();
    until(room, END_MAX, "clients come to their end again", is_over)?;
    room.ask_whether_whole();
    until(room, WHOLE_MAX, "everything is whole again", Room::unwhole)?;
    until(room, SETTLE_MAX, "everything is where it should be without those that are lost", Room::unsettled)?;
    room.read_all();
    until(room, END_MAX, "everything is read with who has come", is_over)?;
    room.clients.seen.check()?;
    expect_audited(room)
}

/// The tenant that came is gone, if all nodes can do away with one.
fn expect_gone(room: &mut Room) -> Result<(), String> {
    if Level(room.level()?) < Level::ENDS {
        return Ok(());
    }
    until(room, TOLD_MAX, "the guest is deleted", Room::entertained)?;
    room.ask_whether_gone();
    until(room, TOLD_MAX, "nothing is left of the guest", Room::is_left)
}

/// The audit log has what was ordered, if all nodes know of one.
fn expect_audited(room: &mut Room) -> Result<(), String> {
    if Level(room.level()?) < Level::AUDIT {
        return Ok(());
    }
    room.ask_whether_audited();
    until(room, TOLD_MAX, "the audit log has what was ordered", Room::unaudited)
}

fn step(room: &mut Room) -> Result<(), String> {
    room.step().map_err(|error| format!("the room broke down: {error}"))?;
    log::broken().or_else(|| room.clients.seen.violation()).map_or(Ok(()), Err)?;
    if room.time.windows().is_multiple_of(LOOK) {
        room.expect_same_replicas()?;
        room.expect_no_robbery()?;
        if Level(room.level()?) >= Level::AUDIT {
            room.clients.seen.keeps_a_log();
        }
    }
    Ok(())
}

/// Goes on until nothing is missing.
fn until(room: &mut Room, max: u64, what: &str, missing: impl Fn(&Room) -> Option<String>) -> Result<(), String> {
    for window in 0..max {
        step(room)?;
        if window % LOOK == 0 && missing(room).is_none() {
            return Ok(());
        }
    }
    match missing(room) {
        None => Ok(()),
        Some(why) => Err(format!("{max} ms have passed and not yet: {what}: {why}")),
    }
}

/// Windows between two looks.
const LOOK: u64 = 20;
/// A mesh is formed within this.
const FORM_MAX: u64 = 60_000;
/// Once all faults are over, everything is well again within this.
const RECOVER_MAX: u64 = 30_000;
/// How long clients go on then.
const CALM: u64 = 8_000;
/// Then everything is where it should be within this.
const SETTLE_MAX: u64 = 20_000;
/// What is to go has gone within this: it is moved away, counted, and what was deleted has had its grace; what a write left
/// that nobody ended, for as long as it may still be open, too.
const PART_MAX: u64 = 600_000;
/// Then everything is whole within this.
const WHOLE_MAX: u64 = 60_000;
/// Who is out knows it within this.
const TOLD_MAX: u64 = 30_000;
/// Somebody has accepted what is lost, and it is done, within this: also where who does it dies meanwhile.
const REBORN_MAX: u64 = 120_000;
/// Those that were lost and come back are there after this.
const RAISED: u64 = 4_000;
/// Clients that begin after most of those that voted are lost are numbered from this.
const SECOND_LIFE: usize = 12;
/// What clients have under way ends within this.
const END_MAX: u64 = 60_000;
