//! What a node says in its beats, and what it makes of others'.

use super::*;

const NOTHING_DUE: Due = Due { look: false, hosting: false, plan: false, beat: false };

fn beats(room: &mut Room, event: Event) -> Vec<Arc<Beat>> {
    let acts = room.steward.on(event, room.now);
    acts.into_iter().filter_map(|act| if let Act::Beat(OTHER, beat) = act { Some(beat) } else { None }).collect()
}

/// Changed in one way.
fn saying(version: u64, how: impl FnOnce(&mut NodeReport)) -> Arc<Beat> {
    let mut said = report(2);
    how(&mut said);
    introduces(said, version)
}

#[test]
fn a_beat_says_which_replica_a_node_has_how_often_it_was_marked_and_what_is_new_of_it() {
    let mut room = Room::new(mesh(&[1, 2]));
    let own = Observed { marked: 7, ..leading() };
    let sent = beats(&mut room, Event::Observed(Box::new(own)));
    let [first] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((first.node, first.replica, first.marked), (HERE, Some(ReplicaId::new(HERE, 1)), 7));
    let said = first.news.as_ref().and_then(|news| news.report.as_ref()).expect("it introduces itself");
    assert_eq!((said.node, said.groups.len()), (HERE, 1));
    // To who asks with a beat it answers the same, until that one holds it.
    let answer = room.steward.answer_to(&beat(2));
    assert!(answer.news.is_some() && answer.replica == first.replica);
    let bare = Room::new(mesh(&[1, 2])).steward.answer_to(&beat(2));
    assert_eq!((bare.replica, bare.marked), (None, 0), "it has none");
}

#[test]
fn a_node_makes_nothing_of_its_own_beats() {
    let mut room = Room::new(mesh(&[1, 2]));
    assert_eq!(room.on(Event::Heard(beat(1), room.now)), [""; 0]);
    assert!(room.steward.outlook().witnesses.is_empty());
}

#[test]
fn what_actors_of_others_do_counts_for_who_leads_as_often_as_their_figures_come() {
    let chain = ActorId::data(TenantId(7), OTHER);
    let counts = |version: u64, requests: u64, figures: bool| {
        let actor = ActorReport { requests, ..runs(chain, 1) };
        let mut beat = (*introduces(report(2), version)).clone();
        let news = News { figures, actors: vec![actor], ..beat.news.as_deref().expect("just put there").clone() };
        beat.news = Some(Arc::new(news));
        Arc::new(beat)
    };
    let load = |leads: bool, figures: bool| {
        let mut room = Room::new(mesh(&[1, 2]));
        room.observes(if leads { leading() } else { Observed::default() });
        for (version, requests) in [(1, 100), (2, 300)] {
            room.on(Event::Heard(counts(version, requests, figures), room.now));
            room.now = room.now + Duration::from_secs(2);
        }
        room.steward.lead.meter.loads().get(&chain).map(|load| load.requests_per_s)
    };
    assert_eq!([load(true, true), load(false, true), load(true, false)], [Some(100), None, None]);
}

#[test]
fn what_of_a_peer_changes_what_is_to_be_done_here_is_looked_at_at_once() {
    let mut room = Room::new(mesh(&[1, 2]));
    room.on(Event::Heard(saying(1, |_| {}), room.now));
    let mut due = |version: u64, how: fn(&mut NodeReport)| {
        room.steward.due = NOTHING_DUE;
        room.on(Event::Heard(saying(version, how), room.now));
        let due = &room.steward.due;
        [due.look, due.hosting, due.plan]
    };
    let nothing = [false; 3];
    assert_eq!(due(1, |_| {}), nothing);
    assert_eq!(due(2, |said| said.lost = 9), nothing, "a figure");
    assert_eq!(due(3, |said| said.state = NodeState::Draining), [true, false, true]);
    assert_eq!(due(4, |said| said.state = NodeState::Draining), nothing);
    let unable = |said: &mut NodeReport| {
        said.state = NodeState::Draining;
        said.unable = vec![(ActorId(9), Epoch(1))];
    };
    assert_eq!(due(5, unable), [true, false, true]);
    assert_eq!(due(6, unable), nothing);
}

#[test]
fn a_start_that_is_turned_away_is_looked_at_once_it_has_gone_on_for_long() {
    let mut room = Room::new(mesh(&[1, 2]));
    room.on(Event::Heard(beat(2), room.now));
    let twin = || {
        let starts = vec![Incarnation(5)];
        introduces(NodeReport { incarnation: Incarnation(5), starts, address: "127.0.0.1:9".into(), ..report(2) }, 1)
    };
    let mut looks = Vec::new();
    for _ in 0..6 {
        room.now = room.now + Duration::from_millis(500);
        room.on(Event::Heard(beat(2), room.now));
        room.steward.due = NOTHING_DUE;
        room.on(Event::Heard(twin(), room.now));
        looks.push(room.steward.due.look);
        room.observes(Observed::default());
    }
    // It runs for certain after a silence of two seconds; then it is said, and is no news.
    assert_eq!(looks, [false, false, false, false, true, false]);
    assert_eq!(room.steward.outlook().own().turned_away, [(OTHER, Incarnation(5))]);
}

#[test]
fn what_changes_of_a_node_itself_is_looked_at_by_who_needs_it() {
    let mut room = Room::new(mesh(&[1, 2]));
    room.observes(Observed::default());
    let mut due = |own: Observed| {
        *room.steward.own = own;
        room.steward.due = NOTHING_DUE;
        room.steward.say(room.now);
        [room.steward.due.hosting, room.steward.due.plan]
    };
    assert_eq!(due(Observed::default()), [false; 2]);
    assert_eq!(due(leading()), [true, false], "which groups it has");
    assert_eq!(due(leading()), [false; 2]);
    assert_eq!(due(Observed { lost: 4, ..leading() }), [false; 2], "a figure");
}
