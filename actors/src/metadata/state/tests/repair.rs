//! How far a group's data are at their homes.

use mesh_core::{
    id::{DriveId, LayoutId},
    meta::{RepairState, Run, Shape, UsesPage},
};

use super::*;

fn say(command: UpkeepCommand) -> Command {
    Command::Upkeep(NAMESPACE, command)
}

fn begin(layout: u64) -> Command {
    say(UpkeepCommand::BeginRepair { layout: LayoutId(layout) })
}

fn end(layout: u64) -> Command {
    say(UpkeepCommand::EndRepair { layout: LayoutId(layout) })
}

fn repaired(layout: u64, writes: &[WriteId]) -> Command {
    say(UpkeepCommand::Repaired { layout: LayoutId(layout), writes: writes.to_vec() })
}

fn state(group: &Group) -> (u64, u64, u64) {
    match group.query(&Query::Repair) {
        Ok(MetaAnswer::Repair(RepairState { marked, settled, unsettled })) => (marked.0, settled.0, unsettled),
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
