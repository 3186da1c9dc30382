//! Where things are.

use mesh_core::{
    id::{DriveId, LayoutId, NodeId},
    topology::{Code, CodeGroups, Layout, Location, Places, Rule},
};

pub(crate) fn location() -> Option<Location> {
    "zone-a/rack-3".parse().ok()
}

pub(crate) fn layout() -> Layout {
    Layout {
        id: LayoutId(9),
        code: Code { data: 2, parity: 1 },
        groups: vec![vec![DriveId(1), DriveId(2), DriveId(3)], vec![DriveId(3), DriveId(1), DriveId(2)]],
        domains: (1..=3).map(|number| (DriveId(number), NodeId(number + 100))).collect(),
        line: 4,
        others: vec![CodeGroups {
            code: Code { data: 1, parity: 1 },
            groups: vec![vec![DriveId(3), DriveId(1)], vec![DriveId(1), DriveId(2)]],
        }],
        places: Places::of([(NodeId(101), location().as_ref()), (NodeId(102), location().as_ref())]),
        rule: Rule::Losses,
    }
}
