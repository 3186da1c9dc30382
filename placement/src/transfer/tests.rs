use super::*;

const ACTOR: ActorId = ActorId(7);
const EPOCH: Epoch = Epoch(5);
const NEXT: Epoch = Epoch(6);
const ID: MoveId = MoveId(3);
const TO: NodeId = NodeId(2);

fn step(what: MoveOp) -> MoveStep {
    MoveStep { actor: ACTOR, epoch: EPOCH, id: ID, what }
}

fn of(id: u64, what: MoveOp) -> MoveStep {
    MoveStep { id: MoveId(id), ..step(what) }
}

/// A page that ends at a mark.
fn page(mark: u64, entries: usize, more: bool) -> Snapshot {
    let entries = (0..entries).map(|key| (vec![key as u8, mark as u8], None)).collect();
    let since = (mark > 1).then(|| Mark(mark - 1));
    Snapshot { mark: Mark(mark), since, more, entries, ..Snapshot::default() }
}

fn bytes(page: &Snapshot) -> Buf {
    Buf::copy_of(&page.encode().unwrap())
}

/// The step, the digest and the bytes of the `number`-th of these pages.
fn install(pages: &[Snapshot], number: usize) -> (MoveOp, u64, Buf) {
    let digest = pages[..=number].iter().fold(0, |before, page| snapshot::digest(before, &bytes(page)));
    (MoveOp::Install { page: number as u32, digest }, digest, bytes(&pages[number]))
}

fn ms(millis: u64) -> Instant {
    Instant(millis * 1_000_000)
}

/// Carries a step out: what it wanted, given what came of each thing, and what it came to. Each takes a millisecond.
fn carry_out(
    transfers: &mut Transfers,
    step: MoveStep,
    payload: &Buf,
    heard: impl IntoIterator<Item = Heard>,
) -> (Vec<Ask>, Result<Moved, ErrorKind>) {
    let (mut course, mut next) = transfers.begin(step, payload, ms(1));
    let (mut asks, mut heard, mut now) = (Vec::new(), heard.into_iter(), 1);
    loop {
        match next {
            Next::Break(outcome) => {
                assert_eq!(heard.next(), None, "it is over");
                return (asks, outcome.map_err(|error| error.kind()));
            }
            Next::Continue(ask) => {
                asks.push(ask);
                now += 1;
                let heard = heard.next().unwrap_or_else(|| panic!("nothing came of {asks:?}"));
                next = course.hear(transfers, heard, ms(now));
            }
        }
    }
}

fn done() -> Heard {
    Heard::Done(Ok(()))
}

fn sent(digest: u64) -> Heard {
    Heard::Sent(Ok(Moved { digest, ..Moved::default() }))
}

fn failed(kind: ErrorKind) -> Error {
    Error::new(kind, "as planned")
}

fn read(mark: Option<u64>) -> Ask {
    Ask::Snapshot { actor: ACTOR, epoch: EPOCH, since: mark.map(Mark) }
}

fn send(pages: &[Snapshot], number: usize, lane: Lane) -> Ask {
    let (what, _, page) = install(pages, number);
    Ask::Send { to: TO, step: step(what), page, lane }
}

/// A source that has copied these pages while its actor went on: the rounds of it end with an empty one.
fn copied(pages: &[Snapshot]) -> Transfers {
    let mut transfers = Transfers::default();
    let heard = pages
        .iter()
        .enumerate()
        .flat_map(|(number, page)| [Heard::Page(Ok(page.clone())), sent(install(pages, number).1)]);
    let (_, outcome) = carry_out(&mut transfers, step(MoveOp::PreCopy { to: TO }), &Buf::empty(), heard);
    assert!(outcome.is_ok());
    transfers
}

#[test]
fn a_target_warms_takes_pages_once_and_runs() {
    let (mut target, none) = (Transfers::default(), Buf::empty());
    let pages = [page(1, 2, true), page(2, 1, false)];
    let warm = carry_out(&mut target, step(MoveOp::Warm), &none, [done()]);
    assert_eq!(warm, (vec![Ask::Warm { actor: ACTOR, epoch: NEXT }], Ok(Moved::default())));
    for (number, entries) in [(0, 2), (1, 3)] {
        let (what, digest, payload) = install(&pages, number);
        let moved = Moved { entries, pages: number as u32 + 1, digest, took_us: 0 };
        let restore = Ask::Restore { actor: ACTOR, epoch: NEXT, page: pages[number].clone() };
        assert_eq!(carry_out(&mut target, step(what), &payload, [done()]), (vec![restore], Ok(moved)));
        // Again: it has it.
        assert_eq!(carry_out(&mut target, step(what), &payload, []), (vec![], Ok(moved)));
    }
    let run = carry_out(&mut target, step(MoveOp::Activate), &none, [done()]);
    assert_eq!(run, (vec![Ask::Activate { actor: ACTOR, epoch: NEXT }], Ok(Moved::default())));
    let (what, _, payload) = install(&pages, 1);
    let late = carry_out(&mut target, step(what), &payload, []);
    assert_eq!(late, (vec![], Err(ErrorKind::NoSuchActor)), "it is not arriving any more");
}

#[test]
fn of_two_copies_of_a_page_that_are_restored_at_once_one_counts() {
    let pages = [page(1, 2, true), page(2, 1, false)];
    let mut target = Transfers::default();
    assert!(carry_out(&mut target, step(MoveOp::Warm), &Buf::empty(), [done()]).1.is_ok());
    let (what, digest, payload) = install(&pages, 0);
    let (mut first, _) = target.begin(step(what), &payload, ms(1));
    let (mut second, _) = target.begin(step(what), &payload, ms(1));
    let moved = Moved { entries: 2, pages: 1, digest, took_us: 0 };
    assert_eq!(first.hear(&mut target, done(), ms(2)), Next::Break(Ok(moved)));
    assert_eq!(second.hear(&mut target, done(), ms(2)), Next::Break(Ok(moved)));
    let (what, digest, payload) = install(&pages, 1);
    let (_, outcome) = carry_out(&mut target, step(what), &payload, [done()]);
    assert_eq!(outcome, Ok(Moved { entries: 3, pages: 2, digest, took_us: 0 }));
}

#[test]
fn a_page_that_is_missing_damaged_or_refused_changes_nothing() {
    let pages = [page(1, 2, true), page(2, 1, false)];
    let mut target = Transfers::default();
    assert!(carry_out(&mut target, step(MoveOp::Warm), &Buf::empty(), [done()]).1.is_ok());
    let ((first, _, good), (second, _, _)) = (install(&pages, 0), install(&pages, 1));
    assert_eq!(carry_out(&mut target, step(second), &bytes(&pages[1]), []).1, Err(ErrorKind::Conflict));
    assert_eq!(carry_out(&mut target, step(first), &bytes(&pages[1]), []).1, Err(ErrorKind::Corrupt));
    let refused = Heard::Done(Err(failed(ErrorKind::Unsupported)));
    assert_eq!(carry_out(&mut target, step(first), &good, [refused]).1, Err(ErrorKind::Unsupported));
    assert!(carry_out(&mut target, step(first), &good, [done()]).1.is_ok());
}

#[test]
fn a_source_copies_until_little_is_left_then_lets_requests_wait_for_the_rest() {
    // A round of two pages, one of a page, and one that says nothing.
    let pages = [page(1, 2, true), page(2, 1, false), page(3, 1, false), page(4, 0, false)];
    let mut source = Transfers::default();
    let heard = (0..4).flat_map(|number| [Heard::Page(Ok(pages[number].clone())), sent(install(&pages, number).1)]);
    let (asks, outcome) = carry_out(&mut source, step(MoveOp::PreCopy { to: TO }), &Buf::empty(), heard);
    let expected = [None, Some(1), Some(2), Some(3)].into_iter().enumerate();
    let expected: Vec<Ask> =
        expected.flat_map(|(number, mark)| [read(mark), send(&pages, number, Lane::Bulk)]).collect();
    assert_eq!(asks, expected);
    let digest = install(&pages, 3).1;
    assert_eq!(outcome, Ok(Moved { entries: 4, pages: 4, digest, took_us: 8000 }));

    // The target confirms once more; then requests wait, and what came meanwhile goes over.
    let all: Vec<Snapshot> =
        pages.into_iter().chain([page(5, 0, false), page(6, 3, true), page(7, 1, false)]).collect();
    let heard = [
        Heard::Page(Ok(all[4].clone())),
        sent(install(&all, 4).1),
        done(),
        Heard::Page(Ok(all[5].clone())),
        sent(install(&all, 5).1),
        Heard::Page(Ok(all[6].clone())),
        sent(install(&all, 6).1),
    ];
    let (asks, outcome) = carry_out(&mut source, step(MoveOp::Freeze { to: TO }), &Buf::empty(), heard);
    let control = |number| send(&all, number, Lane::Control);
    let settle = Ask::Settle { actor: ACTOR, epoch: EPOCH };
    let expected = [read(Some(4)), control(4), settle, read(Some(5)), control(5), read(Some(6)), control(6)];
    assert_eq!(asks, expected);
    // Requests have waited since the third of these; the four entries are those of the freeze alone.
    assert_eq!(outcome, Ok(Moved { entries: 4, pages: 7, digest: install(&all, 6).1, took_us: 5000 }));
    assert_eq!(source.overdue(ms(3002)), []);
    assert_eq!(source.overdue(ms(3003)), [(ACTOR, EPOCH, ID)]);
    // Until it is settled: whoever was told may have been lost.
    assert_eq!(source.overdue(ms(4000)), [(ACTOR, EPOCH, ID)]);

    let retired = carry_out(&mut source, step(MoveOp::Retire { to: TO }), &Buf::empty(), [Heard::Retired(2)]);
    let moved = Moved { entries: 2, took_us: 0, ..Moved::default() };
    assert_eq!(retired, (vec![Ask::Retire { actor: ACTOR, epoch: EPOCH, to: TO }], Ok(moved)));
    assert_eq!(source.overdue(Instant::NEVER), []);
}

#[test]
fn nothing_goes_while_requests_wait_if_the_target_has_all() {
    let pages = [page(1, 2, false), page(2, 0, false), page(3, 0, false), page(4, 0, false)];
    let mut source = copied(&pages[..2]);
    let heard =
        [Heard::Page(Ok(pages[2].clone())), sent(install(&pages, 2).1), done(), Heard::Page(Ok(pages[3].clone()))];
    let (asks, outcome) = carry_out(&mut source, step(MoveOp::Freeze { to: TO }), &Buf::empty(), heard);
    let settle = Ask::Settle { actor: ACTOR, epoch: EPOCH };
    assert_eq!(asks, [read(Some(2)), send(&pages, 2, Lane::Control), settle, read(Some(3))]);
    assert_eq!(outcome, Ok(Moved { entries: 0, pages: 3, digest: install(&pages, 2).1, took_us: 2000 }));
}

/// The page that confirms is read before requests wait: what a request changes in between is in a later page alone.
#[test]
fn what_changed_between_the_confirmation_and_the_gate_goes_over() {
    let pages = [page(1, 2, false), page(2, 0, false), page(3, 0, false), page(4, 1, false)];
    let mut source = copied(&pages[..2]);
    let heard = [
        Heard::Page(Ok(pages[2].clone())),
        sent(install(&pages, 2).1),
        done(),
        Heard::Page(Ok(pages[3].clone())),
        sent(install(&pages, 3).1),
    ];
    let (asks, outcome) = carry_out(&mut source, step(MoveOp::Freeze { to: TO }), &Buf::empty(), heard);
    let settle = Ask::Settle { actor: ACTOR, epoch: EPOCH };
    let control = |number| send(&pages, number, Lane::Control);
    assert_eq!(asks, [read(Some(2)), control(2), settle, read(Some(3)), control(3)]);
    assert_eq!(outcome, Ok(Moved { entries: 1, pages: 4, digest: install(&pages, 3).1, took_us: 3000 }));
}

#[test]
fn a_copy_that_fails_leaves_the_actor_as_it_is() {
    let pages = [page(1, 2, false), page(2, 0, false), page(3, 0, false)];
    let copy = MoveOp::PreCopy { to: TO };
    let none = Buf::empty();
    let table: [(Vec<Heard>, ErrorKind); 4] = [
        (vec![Heard::Page(Err(failed(ErrorKind::NoSuchActor)))], ErrorKind::NoSuchActor),
        (vec![Heard::Page(Ok(pages[0].clone())), Heard::Sent(Err(failed(ErrorKind::LinkLost)))], ErrorKind::LinkLost),
        (vec![Heard::Page(Ok(pages[0].clone())), sent(1)], ErrorKind::Corrupt),
        (
            vec![Heard::Page(Ok(Snapshot { entries: vec![(vec![0; 64 << 20], None)], ..pages[0].clone() }))],
            ErrorKind::TooLarge,
        ),
    ];
    for (heard, kind) in table {
        let mut source = Transfers::default();
        assert_eq!(carry_out(&mut source, step(copy), &none, heard).1, Err(kind));
        let (asks, outcome) = carry_out(&mut source, step(MoveOp::Freeze { to: TO }), &none, []);
        assert_eq!((asks, outcome), (vec![], Err(ErrorKind::NoSuchActor)), "nothing has gone over");
    }
    // Before the target has confirmed, no request waits.
    let mut source = copied(&pages[..2]);
    let lost = [Heard::Page(Ok(pages[2].clone())), Heard::Sent(Err(failed(ErrorKind::NoSuchActor)))];
    let (asks, outcome) = carry_out(&mut source, step(MoveOp::Freeze { to: TO }), &none, lost);
    assert_eq!((asks.len(), outcome), (2, Err(ErrorKind::NoSuchActor)));
    assert_eq!(source.overdue(Instant::NEVER), []);
    // One that does not come to rest waits for the end of its move.
    let stuck =
        [Heard::Page(Ok(pages[2].clone())), sent(install(&pages, 2).1), Heard::Done(Err(failed(ErrorKind::Timeout)))];
    let (_, outcome) = carry_out(&mut source, step(MoveOp::Freeze { to: TO }), &none, stuck);
    assert_eq!(outcome, Err(ErrorKind::Timeout));
    assert_eq!(source.overdue(Instant::NEVER), [(ACTOR, EPOCH, ID)]);
    let thaw = carry_out(&mut source, step(MoveOp::Thaw), &none, [done()]);
    assert_eq!(thaw, (vec![Ask::Thaw { actor: ACTOR, epoch: EPOCH }], Ok(Moved::default())));
    assert_eq!(source.overdue(Instant::NEVER), []);
}

#[test]
fn a_move_that_the_group_has_ended_meanwhile_freezes_nothing() {
    let pages = [page(1, 2, false), page(2, 0, false), page(3, 0, false)];
    let mut source = copied(&pages[..2]);
    let (mut course, _) = source.begin(step(MoveOp::Freeze { to: TO }), &Buf::empty(), ms(1));
    let Next::Continue(Ask::Send { .. }) = course.hear(&mut source, Heard::Page(Ok(pages[2].clone())), ms(2)) else {
        panic!("the target confirms first")
    };
    source.forget(ACTOR);
    let next = course.hear(&mut source, sent(install(&pages, 2).1), ms(3));
    assert!(matches!(next, Next::Break(Err(error)) if error.kind() == ErrorKind::NoSuchActor));
    assert_eq!(source.overdue(Instant::NEVER), []);
}

#[test]
fn steps_of_a_move_that_is_over_do_nothing() {
    let none = Buf::empty();
    let mut node = Transfers::default();
    assert!(carry_out(&mut node, of(4, MoveOp::Warm), &none, [done()]).1.is_ok());
    let (install, _, payload) = install(&[page(1, 2, false)], 0);
    for what in [
        MoveOp::Warm,
        MoveOp::PreCopy { to: TO },
        MoveOp::Freeze { to: TO },
        install,
        MoveOp::Activate,
        MoveOp::Retire { to: TO },
        MoveOp::Thaw,
        MoveOp::Discard,
    ] {
        let late = carry_out(&mut node, of(3, what), &payload, []);
        assert_eq!(late, (vec![], Err(ErrorKind::Conflict)), "{what:?}");
    }
    assert_eq!(node.on(ACTOR), Some(MoveId(4)));
    // Another controller has begun the very same move.
    assert_eq!(carry_out(&mut node, of(4, MoveOp::Warm), &none, []), (vec![], Err(ErrorKind::Conflict)));
    // It is discarded, and the next one begins.
    let discarded = carry_out(&mut node, of(4, MoveOp::Discard), &none, [done()]);
    assert_eq!(discarded, (vec![Ask::Discard { actor: ACTOR }], Ok(Moved::default())));
    assert!(carry_out(&mut node, of(5, MoveOp::Warm), &none, [done()]).1.is_ok());
}

#[test]
fn a_target_that_could_not_be_built_may_be_built_by_the_same_move() {
    let none = Buf::empty();
    let mut target = Transfers::default();
    let refused = Heard::Done(Err(failed(ErrorKind::Unsupported)));
    let asks = vec![Ask::Warm { actor: ACTOR, epoch: NEXT }, Ask::Discard { actor: ACTOR }];
    let failed = carry_out(&mut target, step(MoveOp::Warm), &none, [refused, done()]);
    assert_eq!(failed, (asks, Err(ErrorKind::Unsupported)));
    assert!(carry_out(&mut target, step(MoveOp::Warm), &none, [done()]).1.is_ok());
}

#[test]
fn what_took_longer_to_build_than_its_move_goes_again_unless_the_next_one_waits_for_it() {
    let none = Buf::empty();
    let discard = || Next::Continue(Ask::Discard { actor: ACTOR });
    let over = |next| matches!(next, Next::Break(Err(error)) if Error::kind(&error) == ErrorKind::NoSuchActor);
    let mut target = Transfers::default();
    let (mut slow, _) = target.begin(of(3, MoveOp::Warm), &none, ms(1));
    assert!(carry_out(&mut target, of(3, MoveOp::Discard), &none, [done()]).1.is_ok());
    assert_eq!(slow.hear(&mut target, done(), ms(2)), discard());
    assert!(over(slow.hear(&mut target, done(), ms(3))));
    // It could not be built after all: what is here is not its own.
    let (mut slow, _) = target.begin(of(3, MoveOp::Warm), &none, ms(4));
    target.forget(ACTOR);
    let conflict = || Heard::Done(Err(failed(ErrorKind::Conflict)));
    assert!(matches!(slow.hear(&mut target, conflict(), ms(4)), Next::Break(Err(_))));
    // The next move has begun, and builds it too: one of the two is there, and whoever comes second sees to that.
    let (mut slow, _) = target.begin(of(3, MoveOp::Warm), &none, ms(4));
    assert!(carry_out(&mut target, of(3, MoveOp::Discard), &none, [done()]).1.is_ok());
    let (mut next, _) = target.begin(of(5, MoveOp::Warm), &none, ms(5));
    assert!(over(slow.hear(&mut target, done(), ms(6))));
    assert_eq!(next.hear(&mut target, conflict(), ms(7)), discard());
}

#[test]
fn only_the_move_that_is_meant_is_taken_back() {
    let mut source = copied(&[page(1, 2, false), page(2, 0, false)]);
    assert!(!source.take_back(ACTOR, MoveId(2)));
    assert!(source.take_back(ACTOR, ID));
    assert!(!source.take_back(ACTOR, ID), "again");
}

#[test]
fn a_copy_that_ends_late_does_not_count_for_a_later_move() {
    let pages = [page(1, 2, false), page(2, 0, false)];
    let mut source = Transfers::default();
    let (mut late, _) = source.begin(step(MoveOp::PreCopy { to: TO }), &Buf::empty(), ms(1));
    let mut ended = None;
    for (number, page) in pages.iter().enumerate() {
        assert!(late.hear(&mut source, Heard::Page(Ok(page.clone())), ms(2)).is_continue());
        if number == 1 {
            assert!(matches!(
                source.begin(of(4, MoveOp::PreCopy { to: NodeId(9) }), &Buf::empty(), ms(3)).1,
                Next::Continue(_)
            ));
        }
        ended = Some(late.hear(&mut source, sent(install(&pages, number).1), ms(4)));
    }
    assert!(matches!(ended, Some(Next::Break(Err(error))) if error.kind() == ErrorKind::NoSuchActor));
    assert!(!source.take_back(ACTOR, ID), "nothing is kept of it");
}

#[test]
fn an_actor_that_was_frozen_for_a_move_that_was_just_taken_back_goes_on() {
    let pages = [page(1, 2, false), page(2, 0, false), page(3, 0, false)];
    let mut source = copied(&pages[..2]);
    let (mut course, _) = source.begin(step(MoveOp::Freeze { to: TO }), &Buf::empty(), ms(1));
    assert!(course.hear(&mut source, Heard::Page(Ok(pages[2].clone())), ms(2)).is_continue());
    let settle = course.hear(&mut source, sent(install(&pages, 2).1), ms(3));
    assert_eq!(settle, Next::Continue(Ask::Settle { actor: ACTOR, epoch: EPOCH }));
    let thaw = carry_out(&mut source, step(MoveOp::Thaw), &Buf::empty(), [done()]);
    assert!(thaw.1.is_ok());
    let again = course.hear(&mut source, done(), ms(4));
    assert_eq!(again, Next::Continue(Ask::Thaw { actor: ACTOR, epoch: EPOCH }));
    assert!(matches!(course.hear(&mut source, done(), ms(5)), Next::Break(Err(_))));
}

#[test]
fn who_could_not_be_let_run_still_takes_pages_each_once() {
    let mut transfers = Transfers::default();
    assert!(carry_out(&mut transfers, step(MoveOp::Warm), &Buf::empty(), [done()]).1.is_ok());
    let refused = Heard::Done(Err(failed(ErrorKind::Restarted)));
    let activated = carry_out(&mut transfers, step(MoveOp::Activate), &Buf::empty(), [refused]).1;
    assert_eq!(activated, Err(ErrorKind::Restarted));
    let pages = [page(1, 2, true), page(2, 1, false)];
    let (what, _, payload) = install(&pages, 0);
    assert!(carry_out(&mut transfers, step(what), &payload, [done()]).1.is_ok());
    // A copy of the last page is there already; another page under its number is none.
    let MoveOp::Install { page, digest } = what else { unreachable!("a page") };
    assert!(carry_out(&mut transfers, step(what), &payload, []).1.is_ok());
    let other = MoveOp::Install { page, digest: digest + 1 };
    assert_eq!(carry_out(&mut transfers, step(other), &payload, []).1, Err(ErrorKind::Conflict));
}
