use mesh_core::{
    assignment::MoveId,
    id::{DriveId, Epoch, Incarnation},
    op::{ActorReport, News, Phase, Settled, Timeline},
    topology::{DriveInfo, NodeInfo, NodeKind},
};

use super::*;

mod starts;

mod heard;

mod beats;
mod clears;
mod kept;
mod leads;
mod level;
mod looks;
mod replicas;

/// The control group with these voters, as the replica of a node knows it.
pub(super) fn group(node: u64, voters: &[u64]) -> Group {
    let replica = |node: u64| ReplicaId::new(NodeId(node), 1);
    let report = GroupReport {
        group: GroupId::CONTROL,
        replica: replica(node),
        leader: None,
        term: 1,
        trouble: None,
        voters: Vec::new(),
        settled: Settled::Unsaid,
        timeline: Timeline::default(),
        restored: Timeline::default(),
        is_new: false,
    };
    let voters = voters.iter().map(|node| replica(*node)).collect();
    Group { report, leads: false, voters, learners: BTreeSet::new(), caught_up: BTreeSet::new(), unfinished: None }
}

/// What a node sees, if these answer and follow that leader.
pub(super) fn sight(here: u64, alive: &[u64], of: GroupId, leader: Option<u64>) -> Sight {
    let report = |node: u64| {
        let groups = vec![GroupReport { group: of, leader: leader.map(NodeId), ..group(node, &[]).report }];
        (NodeId(node), Arc::new(NodeReport { node: NodeId(node), groups, ..NodeReport::default() }))
    };
    Sight {
        here: NodeId(here),
        now: Instant(0),
        alive: Arc::new(alive.iter().copied().map(NodeId).collect()),
        reports: alive.iter().map(|node| report(*node)).collect(),
    }
}

impl Sight {
    /// Changes what a node said.
    pub(super) fn change(&mut self, node: u64, how: impl FnOnce(&mut NodeReport)) {
        how(Arc::make_mut(self.reports.get_mut(&NodeId(node)).expect("it said something")));
    }
}

pub(crate) fn host(node: u64) -> NodeInfo {
    NodeInfo {
        id: NodeId(node),
        kind: NodeKind::Host,
        address: String::new(),
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

/// An actor that runs, and has counted nothing.
pub(crate) fn runs(actor: ActorId, epoch: u64) -> ActorReport {
    let (functions, epoch, phase) = (Vec::new(), Epoch(epoch), Phase::Running);
    let (jobs, bytes, requests, traffic_bytes, restarts) = (0, 0, 0, 0, 0);
    ActorReport { actor, functions, epoch, phase, jobs, bytes, requests, traffic_bytes, restarts }
}

pub(super) fn drive(id: u64, node: u64) -> DriveInfo {
    DriveInfo { id: DriveId(id), node: NodeId(node), epoch: Epoch(1), capacity_bytes: 1 << 30, seat: None }
}

/// A steward in a mesh of two hosts and a DPU of the first, told things by hand.
struct Room {
    steward: Steward,
    now: Instant,
}

const HERE: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

fn timing() -> Timing {
    Timing {
        beat: Duration::from_millis(500),
        dpu_beat: Duration::from_millis(50),
        look: Duration::from_millis(100),
        silence: Duration::from_millis(2000),
        dpu_silence: Duration::from_millis(150),
        late: Duration::from_millis(200),
    }
}

/// A mesh of these hosts, which know each other.
fn mesh(nodes: &[u64]) -> ControlView {
    let info = |node: u64| NodeInfo { address: format!("127.0.0.1:{node}"), ..host(node) };
    ControlView {
        cluster: Some(mesh_core::id::ClusterId([1; 16])),
        level: mesh_core::meta::LEVEL,
        nodes: nodes.iter().map(|node| (NodeId(*node), info(*node))).collect(),
        ..ControlView::default()
    }
}

fn report(node: u64) -> NodeReport {
    NodeReport {
        node: NodeId(node),
        life: 1,
        incarnation: Incarnation(1),
        starts: vec![Incarnation(1)],
        address: format!("127.0.0.1:{node}"),
        ..NodeReport::default()
    }
}

/// The first beat of a node, with all that it says of itself; as it is once that is known, too.
fn beat(node: u64) -> Arc<Beat> {
    introduces(report(node), 1)
}

fn introduces(report: NodeReport, version: u64) -> Arc<Beat> {
    let news = News { version, figures: true, report: Some(Box::new(report)), ..News::default() };
    let report = news.report.as_ref().expect("just put there");
    let (node, incarnation, address) = (report.node, report.incarnation, report.address.clone());
    Arc::new(Beat { node, incarnation, address, news: Some(Arc::new(news)), ..Beat::default() })
}

impl Room {
    fn new(control: ControlView) -> Self {
        let info = NodeInfo { address: "127.0.0.1:1".into(), ..host(1) };
        let here = Here {
            info,
            starts: vec![Incarnation(1)],
            ability: Arc::default(),
            upkeep: Upkeep::default(),
            timing: timing(),
        };
        Self { steward: Steward::new(here, Arc::new(control), Instant(0)), now: Instant(0) }
    }

    /// What it wants when this happens, without beats and the errands of every look.
    fn on(&mut self, event: Event) -> Vec<String> {
        let acts = self.steward.on(event, self.now);
        self.steward.check(self.now).expect("all is as it must be");
        let is_news = |act: &&Act| !matches!(act, Act::Beat(..) | Act::Stat | Act::Restarted(..) | Act::Plan(_));
        acts.iter().filter(is_news).map(|act| format!("{act:?}")).collect()
    }

    fn observes(&mut self, own: Observed) -> Vec<String> {
        self.on(Event::Observed(Box::new(own)))
    }

    /// Lets time pass, in ticks.
    fn passes(&mut self, millis: u64) -> Vec<String> {
        let end = self.now + Duration::from_millis(millis);
        let mut acts = Vec::new();
        while self.now < end {
            self.now = (self.now + Duration::from_millis(50)).min(end);
            acts.extend(self.on(Event::Time));
        }
        acts
    }
}

fn leading() -> Observed {
    let own = Group { leads: true, ..group(1, &[1]) };
    let report = GroupReport { leader: Some(HERE), ..own.report.clone() };
    Observed { groups: vec![Group { report, ..own }], ..Observed::default() }
}

#[test]
fn a_node_is_up_from_its_first_beat_until_its_silence() {
    let mut room = Room::new(mesh(&[1, 2]));
    assert_eq!(room.on(Event::Time), Vec::<String>::new());
    let up = ["Locate(node-2, 127.0.0.1:2)", "Note(NodeUp(node-2))", "Up(node-2)"];
    let mut acts = room.on(Event::Heard(beat(2), room.now));
    assert_eq!(acts.pop().unwrap(), "Peers { up: [node-2], down: [] }");
    assert_eq!(acts, up);
    assert_eq!(*room.steward.outlook().sight.alive, BTreeSet::from([HERE, OTHER]));
    assert!(room.steward.outlook().has_met(OTHER, Incarnation(1)));
    // It goes on to beat, and nothing is new.
    room.passes(500);
    assert_eq!(room.on(Event::Heard(beat(2), room.now)), ["Locate(node-2, 127.0.0.1:2)"]);
    // The replicas are told once they have heard of the first change.
    assert_eq!(room.passes(2000), Vec::<String>::new());
    assert_eq!(room.passes(50), ["Note(NodeDown(node-2))", "Down(node-2)"]);
    assert_eq!(room.on(Event::Ended(Key::Peers, Ok(()))), ["Peers { up: [], down: [node-2] }"]);
    // A broken link is proof, one that was only late is not.
    room.on(Event::Heard(beat(2), room.now));
    let (now, later) = (room.now, room.now + Duration::from_millis(10));
    room.now = later;
    assert_eq!(room.on(Event::Unanswered(OTHER, now, ErrorKind::Timeout)), Vec::<String>::new());
    assert_eq!(room.on(Event::Unanswered(OTHER, now, ErrorKind::LinkLost)), ["Note(NodeDown(node-2))", "Down(node-2)"]);
}

/// Its host and the leader miss it after six of its beats.
#[test]
fn a_dpu_beats_briskly_however_long_it_waits_to_see_what_has_changed() {
    let mut room = Room::new(mesh(&[1, 2]));
    (room.steward.here.info.kind, room.steward.here.info.attached_to) = (NodeKind::Dpu, Some(OTHER));
    room.on(Event::Changed);
    let mut beats = Vec::new();
    for _ in 0..4 {
        room.now = room.now + timing().dpu_beat;
        let acts = room.steward.on(Event::Time, room.now);
        beats.push(acts.iter().filter(|act| matches!(act, Act::Beat(OTHER, ..))).count());
    }
    assert_eq!(beats, [1; 4]);
    assert!(room.steward.due.look && room.steward.due.beat, "nothing has been observed");
}

#[test]
fn a_dpu_beats_briskly_to_who_leads_and_to_all_that_may_where_it_does_not_know() {
    let mut room = Room::new(mesh(&[1, 2, 3, 4]));
    (room.steward.here.info.kind, room.steward.here.info.attached_to) = (NodeKind::Dpu, Some(OTHER));
    let of = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
    assert_eq!(room.steward.brisk_to(), of(&[2]));
    let own = group(1, &[2, 3, 4]);
    room.observes(Observed { groups: vec![own.clone()], ..Observed::default() });
    assert_eq!(room.steward.brisk_to(), of(&[2, 3, 4]));
    let report = GroupReport { leader: Some(NodeId(4)), ..own.report };
    let led = Group { report, voters: own.voters, ..group(1, &[]) };
    room.observes(Observed { groups: vec![led.clone()], ..Observed::default() });
    assert_eq!(room.steward.brisk_to(), of(&[2, 4]));
    // Its own replica is damaged, or not there: others say whom they follow.
    room.steward.outlook.sight = sight(1, &[1, 2, 3], GroupId::CONTROL, Some(3));
    let report = GroupReport { trouble: Some("rot".into()), ..led.report };
    room.steward.own.groups = vec![Group { report, ..group(1, &[]) }];
    assert_eq!(room.steward.brisk_to(), of(&[2, 3]));
    room.steward.own.groups.clear();
    assert_eq!(room.steward.brisk_to(), of(&[2, 3]));
}

/// As when the files could not be opened while damaged metadata were set aside.
#[test]
fn a_replica_of_the_control_group_that_is_not_open_is_opened() {
    let mut room = Room::new(mesh(&[1, 2]));
    assert!(room.observes(Observed::default()).contains(&"Ensure(group-0)".to_owned()));
    assert!(!room.observes(leading()).iter().any(|act| act.starts_with("Ensure")));
}

#[test]
fn a_silence_ends_at_its_moment_and_not_at_the_next_tick() {
    let mut room = Room::new(mesh(&[1, 2]));
    room.passes(30);
    room.on(Event::Heard(beat(2), room.now));
    room.passes(1990);
    assert_eq!(room.steward.wake_at(), Instant(2_030_000_001));
    room.now = room.steward.wake_at();
    assert_eq!(room.on(Event::Time), ["Note(NodeDown(node-2))", "Down(node-2)"]);
}

#[test]
fn an_act_is_under_way_once_and_what_failed_is_wanted_anew() {
    let mut room = Room::new(ControlView { namespaces: 1, ..mesh(&[1, 2]) });
    let ensure = "Ensure(group-1)".to_owned();
    assert!(room.observes(Observed::default()).contains(&ensure));
    assert!(!room.observes(Observed::default()).contains(&ensure));
    room.on(Event::Ended(Key::Ensure(GroupId(1)), Err(Error::invalid("no"))));
    // What failed at once would fail at once again.
    assert!(!room.steward.is_curious(room.now));
    room.passes(100);
    assert!(room.steward.is_curious(room.now));
    assert!(room.observes(Observed::default()).contains(&ensure));
    // What went well may be followed by more.
    room.on(Event::Ended(Key::Ensure(GroupId(1)), Ok(())));
    assert!(room.steward.due.look);
}

/// Nobody else thaws it: whoever moved it may be gone.
#[test]
fn what_has_waited_long_for_the_end_of_a_move_is_settled_once_and_again_if_that_failed() {
    let mut room = Room::new(mesh(&[1, 2]));
    let (actor, epoch, id) = (ActorId(9), Epoch(5), MoveId(3));
    let key = || Key::Settle(actor, epoch, id);
    let settle = format!("{:?}", Act::Settle(actor, epoch, id));
    let settled = format!("{:?}", Act::Settled(actor, epoch, id));
    let overdue = || Observed { overdue: vec![(actor, epoch, id)], ..Observed::default() };
    let of = |acts: Vec<String>| acts.into_iter().filter(|act| act.starts_with("Settle")).collect::<Vec<_>>();
    assert_eq!(of(room.observes(Observed::default())), [""; 0]);
    assert_eq!(of(room.observes(overdue())), core::slice::from_ref(&settle));
    assert_eq!(of(room.observes(overdue())), [""; 0], "it is under way");
    assert_eq!(of(room.on(Event::Ended(key(), Err(Error::new(ErrorKind::Timeout, "as planned"))))), [""; 0]);
    room.passes(200);
    assert_eq!(of(room.observes(overdue())), [settle]);
    assert_eq!(of(room.on(Event::Ended(key(), Ok(())))), [settled]);
}

#[test]
fn a_dpu_that_beats_briskly_is_missed_after_its_own_short_silence() {
    let mut room = Room::new(split_mesh(OTHER, 1));
    let dpu = NodeReport { kind: NodeKind::Dpu, attached_to: Some(HERE), ..report(2) };
    let down = |acts: Vec<String>| acts.contains(&"Down(node-2)".to_owned());
    room.on(Event::Heard(introduces(dpu.clone(), 1), room.now));
    assert!(!down(room.passes(50)));
    room.on(Event::Heard(introduces(dpu, 1), room.now));
    assert!(!down(room.passes(150)));
    assert!(down(room.passes(50)));
    // A host does not beat so often: it is given the long silence.
    let mut room = Room::new(mesh(&[1, 2]));
    for _ in 0..2 {
        room.on(Event::Heard(beat(2), room.now));
        assert!(!down(room.passes(50)));
    }
    assert!(!down(room.passes(1950)));
    assert!(down(room.passes(50)));
}

#[test]
fn beats_go_out_by_time_and_at_once_when_something_changed() {
    let beats = |room: &mut Room, event: Event| {
        let acts = room.steward.on(event, room.now);
        acts.iter().filter(|act| matches!(act, Act::Beat(OTHER, _))).count()
    };
    let mut room = Room::new(mesh(&[1, 2]));
    assert_eq!(beats(&mut room, Event::Observed(Box::default())), 1);
    let mut count = 0;
    for _ in 0..20 {
        room.now = room.now + Duration::from_millis(50);
        count += beats(&mut room, Event::Time);
        if room.steward.is_curious(room.now) {
            count += beats(&mut room, Event::Observed(Box::default()));
        }
    }
    assert_eq!(count, 2, "two in a second");
    assert_eq!(beats(&mut room, Event::Changed), 0, "first it is seen what has changed");
    assert_eq!(beats(&mut room, Event::Observed(Box::default())), 1);
}

#[test]
fn the_leader_gives_places_and_hears_what_came_of_it() {
    let mut room = Room::new(mesh(&[1]));
    let wrapped = mesh_core::meta::WrappedKey { key: mesh_core::id::KeyId(0), nonce: [0; 12], sealed: vec![0; 48] };
    let limits = mesh_core::meta::TenantLimits::default();
    let tenant = TenantId(7);
    let row = TenantRow { id: tenant, name: "tenant".into(), key: mesh_core::id::KeyId(0), wrapped, limits };
    let mut control = mesh(&[1]);
    control.tenants.insert(tenant, Arc::new(row));
    room.on(Event::Control(Arc::new(control)));
    let chain = ActorId::data(tenant, HERE);
    let begun = room.observes(leading());
    let step = begun.iter().find(|act| act.starts_with("Step(")).expect("a proposal");
    assert!(step.contains("Propose(Assign("), "{step}");
    assert_eq!(room.steward.lead.driver.under_way(), 1);
    // Of a number that is over nothing is heard.
    let stale = Event::Stepped(chain, 99, Heard::Proposed(Err(Error::invalid("of another time"))));
    assert_eq!(room.on(stale), Vec::<String>::new());
    let heard = Event::Stepped(chain, 1, Heard::Proposed(Ok(mesh_core::meta::MetaAnswer::Done)));
    assert_eq!(room.on(heard), [format!("Note(Placed({chain:?}))")]);
    assert_eq!(room.steward.lead.driver.under_way(), 0);
}

#[test]
fn what_only_a_person_can_mend_is_said_once_and_keeps_the_node_from_taking_data() {
    let mut room = Room::new(ControlView::default());
    room.on(Event::Heard(beat(2), room.now));
    let wanted = room.observes(Observed::default());
    assert!(wanted.contains(&"Announce([node-2])".to_owned()), "{wanted:?}");
    let refused = || Event::Ended(Key::Announce, Err(Error::new(ErrorKind::Denied, "never invited")));
    assert_eq!(room.on(refused()).len(), 1);
    room.observes(Observed::default());
    assert!(room.steward.outlook().missing.as_ref().is_some_and(|missing| missing.message() == "never invited"));
    assert_eq!(room.on(refused()), Vec::<String>::new());
    // Damage of which no majority has a copy.
    let damaged = || Observed { damage: Some(Ok([GroupId::CONTROL].into())), ..Observed::default() };
    let complaints = |acts: Vec<String>| acts.into_iter().filter(|act| act.starts_with("Complain")).count();
    // Who has just started has not heard of everybody yet.
    assert_eq!(complaints(room.observes(damaged())), 0);
    room.passes(2_100);
    assert_eq!(complaints(room.observes(damaged())), 1);
    assert_eq!(complaints(room.observes(damaged())), 0);
}

/// Each invariant with what trips it: whatever is spoilt is found by the check after the next event.
#[test]
fn every_invariant_is_tripped_by_what_it_forbids() {
    use invariants::Broken;
    type Spoil = fn(&mut Steward);
    let table: &[(Spoil, Broken)] = &[
        (|it| Arc::make_mut(&mut it.outlook.sight.alive).retain(|node| *node != HERE), Broken::NotHere),
        (|it| drop(it.outlook.sight.reports.remove(&OTHER)), Broken::Unintroduced(OTHER)),
        (|it| Arc::make_mut(&mut it.outlook.sight.alive).retain(|node| *node != OTHER), Broken::ToldOtherwise),
        (|it| it.outlook.up_since = Arc::default(), Broken::NeverCameUp),
        (|it| it.lead.hands.extend([(ActorId(9), (1, 1))]), Broken::Hands),
        (
            // Nothing is waited for, or for another actor than the one for which something is under way.
            |it| {
                drop(it.lead.driver.place(Assignment::new(ActorId(9), HERE, Epoch(1)), Instant(0)));
                it.lead.hands.extend([(ActorId(9), (1, 0))]);
            },
            Broken::Hands,
        ),
        (
            |it| {
                drop(it.lead.driver.place(Assignment::new(ActorId(9), HERE, Epoch(1)), Instant(0)));
                it.lead.hands.extend([(ActorId(8), (1, 1))]);
            },
            Broken::Hands,
        ),
        (
            |it| {
                let row = Assignment::new(ActorId(9), HERE, Epoch(1));
                drop(it.lead.driver.place(row, Instant(0)));
            },
            Broken::Hands,
        ),
        (
            |it| {
                let mut view = crate::View::default();
                view.nodes.insert(HERE, crate::NodeView { up: true, ..crate::NodeView::host(HERE) });
                view.actors.insert(ActorId(9), crate::ActorView::chain(Vec::new(), HERE));
                it.lead.plans.look(view, Instant(0));
            },
            Broken::PlansWithoutLeading,
        ),
        (|it| it.busy.extend([(Key::LayOut, Instant(0))]), Broken::Stuck(Key::LayOut)),
        (|it| it.acquaintances.refuse_for_ever(OTHER), Broken::Unbounded),
        (|it| it.outlook.witnesses = SharedMap::default(), Broken::Stale),
    ];
    for (at, (spoil, broken)) in table.iter().enumerate() {
        let mut room = Room::new(mesh(&[1, 2]));
        room.on(Event::Heard(beat(2), room.now));
        let later = Instant(0) + invariants::ACT_MAX + Duration::from_secs(1);
        room.on(Event::Ended(Key::Peers, Ok(())));
        assert_eq!(room.steward.check(later), Ok(()), "before it is spoilt");
        spoil(&mut room.steward);
        room.steward.seen_anew = true;
        assert_eq!(room.steward.check(later), Err(*broken), "row {at}");
    }
}

#[test]
fn whoever_begins_anew_keeps_what_it_knows_and_nothing_that_it_had_under_way() {
    let mut room = Room::new(mesh(&[1, 2]));
    room.on(Event::Heard(beat(2), room.now));
    drop(room.steward.lead.driver.place(Assignment::new(ActorId(9), HERE, Epoch(1)), Instant(0)));
    assert!(room.steward.check(room.now).is_err());
    assert_eq!(format!("{:?}", room.steward.begin_anew(room.now)), "[Up(node-2)]");
    assert_eq!(room.steward.check(room.now), Ok(()));
    assert!(room.steward.outlook().is_up(OTHER) && room.steward.is_curious(room.now));
}

#[test]
fn a_beat_counts_from_when_it_came_and_not_from_when_there_was_time_to_hear_it() {
    let mut room = Room::new(mesh(&[1, 2]));
    room.passes(1000);
    let came = room.now;
    room.now = room.now + Duration::from_millis(150);
    room.on(Event::Heard(beat(2), came));
    room.passes(1849);
    assert!(room.steward.outlook().is_up(OTHER));
    room.passes(2);
    assert!(!room.steward.outlook().is_up(OTHER));
    // Of before this node took it for down: it is down all the same until it speaks again.
    assert_eq!(room.on(Event::Heard(beat(2), came)), ["Locate(node-2, 127.0.0.1:2)"]);
    assert!(!room.steward.outlook().is_up(OTHER));
}

#[test]
fn only_a_broken_link_says_that_a_node_is_gone() {
    let mut room = Room::new(mesh(&[1, 2]));
    room.on(Event::Heard(beat(2), room.now));
    let alive =
        [ErrorKind::Overloaded, ErrorKind::Timeout, ErrorKind::Draining, ErrorKind::Denied, ErrorKind::Restarted];
    for kind in alive {
        assert_eq!(room.on(Event::Unanswered(OTHER, room.now, kind)), Vec::<String>::new());
        assert!(room.steward.outlook().is_up(OTHER), "{kind:?}");
    }
    room.on(Event::Unanswered(OTHER, room.now, ErrorKind::LinkLost));
    assert!(!room.steward.outlook().is_up(OTHER));
}

#[test]
fn figures_of_drives_are_told_with_the_next_beat_and_their_state_at_once() {
    let drive = |free_bytes, state| DriveReport {
        drive: DriveId(1),
        state,
        capacity_bytes: 100,
        free_bytes,
        shards: 0,
        corrupt: 0,
        damaged: 0,
        scrub: Default::default(),
        reason: None,
    };
    let mut room = Room::new(mesh(&[1, 2]));
    room.on(Event::Drives(vec![drive(50, DriveState::Up)]));
    room.observes(Observed::default());
    assert!(!room.steward.due.beat);
    for free_bytes in 0..50 {
        room.on(Event::Drives(vec![drive(free_bytes, DriveState::Up)]));
        room.on(Event::Ended(Key::Stat, Ok(())));
        room.observes(Observed::default());
        assert!(!room.steward.due.beat && !room.steward.busy.contains_key(&Key::Stat));
    }
    assert_eq!(room.steward.outlook().own().drives[0].free_bytes, 49);
    room.on(Event::Drives(vec![drive(49, DriveState::Full)]));
    assert!(room.steward.due.beat);
}

#[test]
fn however_much_happens_looks_are_milliseconds_apart() {
    let mut room = Room::new(mesh(&[1, 2]));
    let mut looks = 0;
    for _ in 0..10_000 {
        room.on(Event::Changed);
        if room.steward.is_curious(room.now) {
            room.observes(Observed::default());
            looks += 1;
        }
        assert!(!room.steward.due.look || room.steward.wake_at() <= room.now + LOOK_GAP);
        room.now = room.now + Duration::from_micros(100);
    }
    assert_eq!(looks, 200, "in a second");
}

#[test]
fn what_is_seen_late_is_not_begun_again_at_once_though_it_went_well() {
    let mut room = Room::new(ControlView::default());
    room.on(Event::Heard(beat(2), room.now));
    let announces = |acts: Vec<String>| acts.iter().filter(|act| act.starts_with("Announce")).count();
    let mut count = 0;
    for _ in 0..=100 {
        if announces(room.observes(Observed::default())) == 1 {
            count += 1;
            room.on(Event::Ended(Key::Announce, Ok(())));
        }
        room.now = room.now + Duration::from_millis(10);
    }
    assert_eq!(count, 11, "in a second");
}

#[test]
fn replicas_that_did_not_hear_who_is_there_are_told_again() {
    let mut room = Room::new(mesh(&[1, 2]));
    let peers = "Peers { up: [node-2], down: [] }";
    assert_eq!(room.on(Event::Heard(beat(2), room.now)).last().unwrap(), peers);
    let timeout = || Error::new(ErrorKind::Timeout, "it takes long");
    assert_eq!(room.on(Event::Ended(Key::Peers, Err(timeout()))), [""; 0]);
    assert!(room.observes(Observed::default()).contains(&peers.to_owned()), "by the next look");
    assert_eq!(room.on(Event::Ended(Key::Peers, Ok(()))), [""; 0]);
    // It may have been carried out: that the node is back by then does not mean that they know.
    room.passes(2500);
    assert!(!room.steward.outlook().is_up(OTHER));
    let acts = room.on(Event::Heard(beat(2), room.now));
    assert!(!acts.iter().any(|act| act.starts_with("Peers")), "they are being told that it is down");
    room.on(Event::Ended(Key::Peers, Err(timeout())));
    assert!(room.observes(Observed::default()).contains(&peers.to_owned()));
}

#[test]
fn whoever_begins_anew_says_who_has_fallen_silent_and_remembers_what_the_replicas_know() {
    let mut room = Room::new(mesh(&[1, 2, 3]));
    room.on(Event::Heard(beat(2), room.now));
    room.on(Event::Heard(beat(3), room.now));
    room.on(Event::Ended(Key::Peers, Ok(())));
    room.on(Event::Ended(Key::Peers, Ok(())));
    room.passes(1000);
    room.on(Event::Heard(beat(3), room.now));
    room.passes(900);
    assert!(room.steward.outlook().is_up(OTHER));
    room.now = room.now + Duration::from_millis(150);
    let said = format!("{:?}", room.steward.begin_anew(room.now));
    assert_eq!(said, "[Up(node-3), Down(node-2), Peers { up: [], down: [node-2] }]");
    assert_eq!(room.steward.check(room.now), Ok(()));
    assert_eq!(room.on(Event::Ended(Key::Peers, Ok(()))), [""; 0]);
}

#[test]
fn what_was_under_way_while_the_node_was_asleep_is_not_late() {
    let mut room = Room::new(ControlView { namespaces: 1, ..mesh(&[1]) });
    room.observes(Observed::default());
    assert!(room.steward.busy.contains_key(&Key::Ensure(GroupId(1))));
    room.now = room.now + Duration::from_secs(3600);
    room.on(Event::Time);
}

/// A tenant's chain for this node, on its DPU.
fn split_mesh(at: NodeId, epoch: u64) -> ControlView {
    let mut control = mesh(&[1, 2]);
    let dpu = control.nodes.get_mut(&OTHER).expect("it is there");
    (dpu.kind, dpu.attached_to) = (NodeKind::Dpu, Some(HERE));
    let wrapped = mesh_core::meta::WrappedKey { key: mesh_core::id::KeyId(0), nonce: [0; 12], sealed: vec![0; 48] };
    let (id, key, limits) = (TenantId(7), mesh_core::id::KeyId(0), mesh_core::meta::TenantLimits::default());
    control.tenants.insert(id, Arc::new(TenantRow { id, name: "tenant".into(), key, wrapped, limits }));
    let chain = ActorId::data(id, HERE);
    control.assignments.insert(chain, Assignment::new(chain, at, Epoch(epoch)));
    control
}

/// The leader, which has waited for the DPU and taken a look at the whole mesh: that look.
fn plans_without_its_dpu() -> (Room, Box<plans::Study>) {
    let mut room = Room::new(split_mesh(OTHER, 1));
    let functions = ["policy", "compress", "encrypt", "erasure"].map(|kind| (kind.to_owned(), (0, 0))).into();
    room.steward.here.ability = Arc::new(Ability { functions, millicores: 8000, memory_bytes: 1 << 30 });
    room.observes(Observed::default());
    room.passes(2500);
    let acts = room.steward.on(Event::Observed(Box::new(leading())), room.now);
    let study = acts.into_iter().find_map(|act| if let Act::Plan(study) = act { Some(study) } else { None });
    (room, study.expect("a look"))
}

#[test]
fn what_came_late_is_seen_by_the_next_look_although_nobody_has_said_anything() {
    let mut room = Room::new(split_mesh(OTHER, 5));
    room.on(Event::Heard(beat(2), room.now));
    room.observes(Observed::default());
    room.passes(2500);
    room.on(Event::Heard(beat(2), room.now));
    room.observes(Observed::default());
    let chain = ActorId::data(TenantId(7), HERE);
    let deeds =
        |acts: &[String]| acts.iter().filter(|act| act.starts_with("Actor(") && act.contains("Discard")).count();
    assert_eq!(deeds(&room.observes(Observed::default())), 0);
    // It was built for a move that is over.
    let hosted = crate::fate::Hosted { epoch: Epoch(6), phase: Phase::Warming };
    let late = || Observed { hosted: [(chain, hosted)].into(), ..Observed::default() };
    assert_eq!(deeds(&room.observes(late())), 1);
}

fn steps(acts: &[String]) -> Vec<&String> {
    acts.iter().filter(|act| act.starts_with("Step(")).collect()
}

#[test]
fn a_plan_is_made_beside_the_owner_and_carried_out_by_its_next_look() {
    let (mut room, study) = plans_without_its_dpu();
    assert_eq!(steps(&room.observes(leading())), [""; 0], "it is under way, once");
    assert_eq!(room.on(Event::Planned(Box::new(study.carry_out()))), [""; 0]);
    assert_eq!(room.observes(leading()), ["Confirm"]);
    assert_eq!(steps(&room.observes(leading())), [""; 0], "it is under way, once");
    assert_eq!(room.on(Event::Ended(Key::Confirm, Ok(()))), [""; 0]);
    let acts = room.observes(leading());
    let [step] = steps(&acts)[..] else { panic!("{acts:?}") };
    assert!(step.contains("Propose(Assign(Assignment {") && step.contains("node: node-1, epoch: e2"), "{step}");
}

#[test]
fn a_leader_that_nobody_follows_any_more_takes_nothing_from_who_is_missed() {
    let (mut room, study) = plans_without_its_dpu();
    room.on(Event::Planned(Box::new(study.carry_out())));
    assert_eq!(room.observes(leading()), ["Confirm"]);
    let deposed = Error::new(ErrorKind::NotLeader, "another replica leads this metadata group");
    assert_eq!(room.on(Event::Ended(Key::Confirm, Err(deposed))), [""; 0]);
    assert_eq!(room.observes(leading()), ["Confirm"], "it asks again");
    // The DPU is heard before the majority is: its chain stays where it is.
    room.on(Event::Heard(beat(2), room.now));
    room.on(Event::Ended(Key::Confirm, Ok(())));
    room.now = room.now + Duration::from_millis(1);
    let acts = room.steward.on(Event::Observed(Box::new(leading())), room.now);
    let [Act::Plan(_), Act::Beat(..)] = &acts[..] else { panic!("it is to be looked at anew: {acts:?}") };
}

#[test]
fn what_does_not_fit_any_more_of_a_plan_is_not_carried_out() {
    // Another leader has given the actor away meanwhile.
    let (mut room, study) = plans_without_its_dpu();
    room.on(Event::Control(Arc::new(split_mesh(HERE, 2))));
    room.on(Event::Planned(Box::new(study.carry_out())));
    assert_eq!(steps(&room.observes(leading())), [""; 0]);
    // It leads no more.
    let (mut room, study) = plans_without_its_dpu();
    room.observes(Observed::default());
    assert_eq!(room.on(Event::Planned(Box::new(study.carry_out()))), [""; 0]);
    assert_eq!(steps(&room.observes(leading())), [""; 0]);
}

#[test]
fn a_plan_that_fails_is_said_once_and_made_anew_after_a_while() {
    let (mut room, study) = plans_without_its_dpu();
    let plans = |room: &mut Room, millis| {
        room.passes(millis);
        let acts = room.steward.on(Event::Observed(Box::new(leading())), room.now);
        acts.iter().find_map(|act| if let Act::Plan(study) = act { Some(study.number()) } else { None })
    };
    let fails = |room: &mut Room, number| room.on(Event::Ended(Key::Plan(number), Err(Error::bug("it broke down"))));
    let said = fails(&mut room, study.number());
    assert!(said.len() == 1 && said[0].starts_with("Complain(\"what runs where is not planned"), "{said:?}");
    assert_eq!(plans(&mut room, 999), None);
    let second = plans(&mut room, 1).expect("a look");
    assert_eq!(fails(&mut room, study.number()), [""; 0], "that one has ended before");
    assert_eq!(fails(&mut room, second), [""; 0], "it is said already");
    assert_eq!(plans(&mut room, 1999), None);
    assert!(plans(&mut room, 1).is_some());
}

#[test]
fn figures_are_shown_every_few_milliseconds_and_who_is_there_at_once() {
    let mut room = Room::new(mesh(&[1, 2]));
    room.observes(Observed::default());
    let shown = |room: &mut Room| room.steward.publish().is_some();
    assert!(shown(&mut room) && !shown(&mut room));
    room.on(Event::Heard(beat(2), room.now));
    assert!(shown(&mut room), "a node is there");
    let mut count = 0;
    for version in 2..102 {
        room.now = room.now + Duration::from_millis(1);
        let load = mesh_core::op::NodeLoad { cpu_ns: version, ..Default::default() };
        let since = mesh_core::op::AsOf { states: 1, figures: version - 1 };
        let news = News { since, version, figures: true, load: Some(load), ..News::default() };
        room.on(Event::Heard(Arc::new(Beat { news: Some(Arc::new(news)), ..(*beat(2)).clone() }), room.now));
        count += usize::from(shown(&mut room));
    }
    assert_eq!(count, 5, "in a tenth of a second");
    assert!(room.steward.wake_at() <= room.now + SHOW_GAP);
    let mut draining = report(2);
    draining.state = NodeState::Draining;
    room.on(Event::Heard(introduces(draining, 200), room.now));
    assert!(shown(&mut room));
}

#[test]
fn a_bare_beat_of_a_node_that_is_known_is_a_sign_of_life_and_of_no_other() {
    let mut room = Room::new(mesh(&[1, 2]));
    let bare = |start| Arc::new(Beat { incarnation: Incarnation(start), news: None, ..(*beat(2)).clone() });
    assert_eq!(room.on(Event::Heard(bare(1), room.now)), [""; 0]);
    assert!(!room.steward.outlook().is_up(OTHER), "it has not introduced itself");
    assert_eq!(room.steward.answer_to(&bare(1)).held, None);
    room.on(Event::Heard(beat(2), room.now));
    for _ in 0..5 {
        room.passes(1500);
        assert_eq!(room.on(Event::Heard(bare(1), room.now)), ["Locate(node-2, 127.0.0.1:2)"]);
    }
    assert!(room.steward.outlook().is_up(OTHER));
    // Another start of it says nothing before it has introduced itself.
    room.passes(1500);
    assert_eq!(room.on(Event::Heard(bare(2), room.now)), [""; 0]);
    room.passes(600);
    assert!(!room.steward.outlook().is_up(OTHER));
}

#[test]
fn what_a_node_remembers_goes_with_every_beat_and_with_an_answer_that_could_tell_something() {
    let mut room = Room::new(mesh(&[1, 2]));
    room.observes(Observed::default());
    room.on(Event::Heard(beat(2), room.now));
    room.passes(500);
    let acts = room.steward.on(Event::Observed(Box::default()), room.now);
    let beats: Vec<_> =
        acts.iter().filter_map(|act| if let Act::Beat(_, beat) = act { Some(beat) } else { None }).collect();
    let known = beats.first().and_then(|beat| beat.witness).map(|witness| witness.incarnation);
    assert_eq!((beats.len(), known), (1, Some(Incarnation(1))));
    assert_eq!(room.steward.answer_to(&beat(2)).witness, None);
    let later = Beat { incarnation: Incarnation(5), ..(*beat(2)).clone() };
    assert_eq!(room.steward.answer_to(&later).witness.map(|witness| witness.incarnation), Some(Incarnation(1)));
}
