//! How far a group's data are at their homes.

use mesh_core::{
    id::{DriveId, LayoutId},
    meta::{Count, RepairState, Run, Shape, UsesPage},
};

use super::*;

fn say(command: UpkeepCommand) -> Command {
    Command::Upkeep(NAMESPACE, command)
}

fn begin(layout: u64) -> Command {
    say(UpkeepCommand::BeginRepair { layout: LayoutId(layout) })
}

fn end(layout: u64) -> Command {
    say(UpkeepCommand::EndRepair { layout: LayoutId(layout), line: 0, layouts: Vec::new() })
}

/// The same, with the layouts of the line.
fn end_line(layout: u64, layouts: &[u64]) -> Command {
    let layouts = layouts.iter().copied().map(LayoutId).collect();
    say(UpkeepCommand::EndRepair { layout: LayoutId(layout), line: 1, layouts })
}

fn repaired(layout: u64, writes: &[WriteId]) -> Command {
    say(UpkeepCommand::Repaired { layout: LayoutId(layout), writes: writes.to_vec() })
}

fn state(group: &Group) -> (u64, u64, u64) {
    match group.query(&Query::Repair) {
        Ok(MetaAnswer::Repair(RepairState { marked, settled, unsettled, .. })) => (marked.0, settled.0, unsettled),
        other => panic!("not told: {other:?}"),
    }
}

fn page(group: &Group, query: &Query) -> UsesPage {
    match group.query(query) {
        Ok(MetaAnswer::Uses(page)) => page,
        other => panic!("no page: {other:?}"),
    }
}

fn uses(group: &Group, after: Option<WriteId>, limit: u32) -> (Vec<WriteId>, Option<WriteId>) {
    let page = page(group, &Query::Uses { after, limit });
    assert!(page.writes.iter().all(|(_, shape)| shape.is_some()));
    (page.writes.into_iter().map(|(write, _)| write).collect(), page.next)
}

fn unsettled(group: &Group) -> Vec<(WriteId, bool)> {
    let page = page(group, &Query::Unsettled { after: None, limit: 100 });
    assert_eq!(page.next, None);
    page.writes.into_iter().map(|(write, shape)| (write, shape.is_some())).collect()
}

/// Written under a layout, without these drives.
fn elsewhere(mut row: ObjectRow, layout: u64, avoid: &[u64]) -> ObjectRow {
    let Body::Whole(extent) = &mut row.body else { panic!("of parts") };
    extent.layout = LayoutId(layout);
    let avoid = avoid.iter().copied().map(DriveId).collect();
    extent.runs = vec![Run { first: 0, count: 1, attempt: 1, avoid, shared: false }];
    row
}

#[test]
fn repair_goes_from_layout_to_layout_and_never_back() {
    let mut group = Group::namespace();
    assert_eq!(state(&group), (0, 0, 0));
    assert_eq!(group.apply(&end(1)), Err(ErrorKind::Conflict), "it has not begun");
    assert_eq!(group.apply(&begin(2)), Ok(MetaAnswer::Done));
    assert_eq!(state(&group), (2, 0, 0));
    assert_eq!(group.apply(&begin(1)), Err(ErrorKind::Conflict));
    assert_eq!(group.apply(&end(2)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&begin(3)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&end(2)), Err(ErrorKind::Conflict), "of somebody who leads no more");
    assert_eq!(group.apply(&repaired(2, &[])), Err(ErrorKind::Conflict));
    assert_eq!(state(&group), (3, 2, 0));
}

#[test]
fn what_is_committed_elsewhere_than_at_home_is_remembered_once_repair_has_begun() {
    let mut group = Group::namespace();
    let first = group.open_block(1);
    let write = |count| after(first, count);
    assert!(group.apply(&put("before", elsewhere(object(write(0), 1, 1), 1, &[5]))).is_ok());
    assert_eq!(state(&group), (0, 0, 0), "every use will be looked at");
    assert!(group.apply(&begin(2)).is_ok());
    assert!(group.apply(&put("old", elsewhere(object(write(1), 1, 1), 1, &[]))).is_ok());
    assert!(group.apply(&put("home", elsewhere(object(write(2), 1, 1), 2, &[]))).is_ok());
    assert!(group.apply(&put("avoids", elsewhere(object(write(3), 1, 1), 3, &[5]))).is_ok());
    assert!(group.apply(&create_upload(write(4), "parts")).is_ok());
    assert!(group.apply(&put_part(write(4), part(1, write(5), 6 * MIB))).is_ok(), "under layout 1");
    assert_eq!(unsettled(&group), [(write(1), true), (write(3), true), (write(5), true)]);
    assert_eq!(state(&group), (2, 0, 3));
    // What is deleted is named until somebody says that it is done with.
    assert!(group.apply(&delete("avoids", 9)).is_ok());
    assert_eq!(unsettled(&group), [(write(1), true), (write(3), false), (write(5), true)]);
    assert_eq!(group.apply(&repaired(2, &[write(1), write(2), write(3)])), Ok(MetaAnswer::Done));
    assert_eq!((unsettled(&group), state(&group)), (vec![(write(5), true)], (2, 0, 1)));
}

#[test]
fn what_is_settled_is_said_to_be_where_the_settled_layout_has_it() {
    let mut group = Group::namespace();
    let first = group.open_block(1);
    let write = |count| after(first, count);
    // Layouts 2, 4 and 5 are of the line, 1 is of none, 3 of another.
    for (key, count, layout, avoid) in
        [("none", 0, 1, &[][..]), ("old", 1, 2, &[5]), ("other", 2, 3, &[]), ("home", 3, 4, &[]), ("later", 4, 5, &[])]
    {
        assert!(group.apply(&put(key, elsewhere(object(write(count), 1, 1), layout, avoid))).is_ok());
    }
    assert!(group.apply(&create_upload(write(10), "p")).is_ok());
    let mut of_parts = part(1, write(11), 6 * MIB);
    of_parts.extent.layout = LayoutId(2);
    assert!(group.apply(&put_part(write(10), of_parts)).is_ok());
    assert!(group.apply(&complete(write(10), "p", &[(1, write(11))])).is_ok());
    let found = |group: &Group, key: &str| match group.query(&Query::Object { bucket: bucket(), key: key.into() }) {
        Ok(MetaAnswer::Object(row)) => match &row.body {
            Body::Whole(extent) => (extent.layout.0, extent.runs.iter().map(|run| run.avoid.len()).collect::<Vec<_>>()),
            Body::Parts { .. } => panic!("of parts"),
        },
        other => panic!("{other:?}"),
    };
    let all = |group: &Group| ["none", "old", "other", "home", "later"].map(|key| found(group, key));
    let said = |layouts: [u64; 5]| layouts.map(|layout| (layout, vec![0]));
    let parts = |group: &Group| {
        let query = Query::Extents { bucket: bucket(), upload: write(10), offset: 0, limit: 10 };
        match group.query(&query) {
            Ok(MetaAnswer::Parts(parts, _)) => parts[0].extent.layout.0,
            other => panic!("{other:?}"),
        }
    };
    let written = [(1, vec![0]), (2, vec![1]), (3, vec![0]), (4, vec![0]), (5, vec![0])];
    assert!(group.apply(&begin(4)).is_ok());
    assert!(group.apply(&end(4)).is_ok());
    assert_eq!(all(&group), written, "nobody has said what is of the line");
    assert!(group.apply(&end_line(4, &[2])).is_ok());
    assert_eq!((all(&group), parts(&group)), (said([1, 4, 3, 4, 5]), 4));
    assert_eq!(
        group.apply(&say(UpkeepCommand::EndRepair { layout: LayoutId(4), line: 2, layouts: vec![] })),
        Err(ErrorKind::Invalid)
    );
    // What is committed meanwhile as it was before is read as it was written, until it has come home.
    assert!(group.apply(&put("late", elsewhere(object(write(5), 1, 1), 2, &[6]))).is_ok());
    assert_eq!(found(&group, "late"), (2, vec![1]));
    let shapes = |group: &Group| {
        let page = page(group, &Query::Uses { after: None, limit: 100 });
        page.writes.into_iter().filter_map(|(_, shape)| Some(shape?.layout.0)).collect::<Vec<_>>()
    };
    assert_eq!(shapes(&group), [1, 4, 3, 4, 5, 2, 4]);
    assert!(group.apply(&repaired(4, &[write(5)])).is_ok());
    assert_eq!(found(&group, "late"), (4, vec![0]));
    // While it is moved on, it is said to be where it is.
    assert!(group.apply(&begin(5)).is_ok());
    assert_eq!(all(&group), said([1, 4, 3, 4, 5]));
    assert!(group.apply(&end_line(5, &[2, 4])).is_ok());
    assert_eq!((all(&group), parts(&group)), (said([1, 5, 3, 5, 5]), 5));
    // Whoever deletes is told every place.
    assert!(group.apply(&delete("old", 9)).is_ok());
    let garbage = group.query(&Query::Garbage { before: UnixMillis(u64::MAX), after: None, limit: 10 });
    let Ok(MetaAnswer::Garbage(garbage)) = garbage else { panic!("{garbage:?}") };
    assert_eq!((garbage.rows[0].extent.layout.0, garbage.rows[0].extent.runs[0].avoid.len()), (2, 1));
}

#[test]
fn a_count_is_remembered_if_it_is_for_the_layout_that_is_repaired_for() {
    let mut group = Group::namespace();
    let counted = |layout, shards| {
        let count = Count { layout: LayoutId(layout), at: UnixMillis(7), shards, ..Count::default() };
        (say(UpkeepCommand::Counted { count }), count)
    };
    let known = |group: &Group| match group.query(&Query::Repair) {
        Ok(MetaAnswer::Repair(state)) => state.count,
        other => panic!("not told: {other:?}"),
    };
    assert!(group.apply(&begin(2)).is_ok() && group.apply(&end(2)).is_ok());
    let (command, count) = counted(2, 9);
    assert_eq!((group.apply(&command), known(&group)), (Ok(MetaAnswer::Done), count));
    assert!(group.apply(&begin(3)).is_ok());
    assert_eq!(group.apply(&counted(2, 10).0), Err(ErrorKind::Conflict));
    assert_eq!((known(&group), state(&group)), (count, (3, 2, 0)));
}

#[test]
fn every_write_whose_shards_may_be_read_is_named_once_page_by_page() {
    let mut group = Group::namespace();
    let first = group.open_block(1);
    let write = |count| after(first, count);
    for count in [0, 1, 2, 3] {
        assert!(group.apply(&put(&format!("k{count}"), object(write(count), 1, 1))).is_ok());
    }
    assert!(group.apply(&delete("k1", 9)).is_ok());
    // An upload, with a part that is left out, one that is replaced, and one that becomes an object.
    assert!(group.apply(&create_upload(write(10), "p")).is_ok());
    for (number, count) in [(1, 11), (2, 12), (2, 13)] {
        assert!(group.apply(&put_part(write(10), part(number, write(count), 6 * MIB))).is_ok());
    }
    assert_eq!(uses(&group, None, 100), ([0, 2, 3, 11, 13].map(write).to_vec(), None));
    assert!(group.apply(&complete(write(10), "p", &[(2, write(13))])).is_ok());
    assert_eq!(uses(&group, None, 100), ([0, 2, 3, 13].map(write).to_vec(), None));
    assert_eq!(uses(&group, None, 2), ([0, 2].map(write).to_vec(), Some(write(2))));
    assert_eq!(uses(&group, Some(write(2)), 2).0, [3, 13].map(write));
    // What is garbage as a whole has no parts in use.
    assert!(group.apply(&delete("p", 9)).is_ok());
    assert_eq!(uses(&group, Some(write(2)), 100), (vec![write(3)], None));
    let page = page(&group, &Query::Uses { after: None, limit: 1 });
    assert_eq!(page.writes, [(write(0), Some(Shape::of(&extent(write(0), 1))))]);
}
