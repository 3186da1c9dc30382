//! When a new layout is made: once the drives that it would be made of have been the same for a moment, each in the same node.
//! It is the next one of its line. A mesh some of whose nodes cannot do lines yet makes layouts of none, and begins a line once
//! all can.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Error,
    id::{DriveId, LayoutId, NodeId},
    meta::{ControlView, Level},
    shared::SharedMap,
    time::Instant,
    topology::{Code, DriveInfo, Layout, Leaving, NodeInfo, NodeKind, Places, Rule},
};

use crate::layout::{self, Lineage};

/// What the leader of the control group waits for.
#[derive(Clone, Debug, Default)]
pub struct Layouts {
    /// The drives that a new layout would be made of, with the nodes that they are in, and since when it is these.
    settling: Option<(BTreeMap<DriveId, NodeId>, Places, Instant)>,
    /// Of these there is nothing to be made.
    quiet: Option<Grounds>,
}

/// What it depends on whether a layout is due.
#[derive(Clone, Debug)]
struct Grounds {
    drives: SharedMap<DriveId, DriveInfo>,
    leaving: SharedMap<DriveId, Leaving>,
    nodes: SharedMap<NodeId, NodeInfo>,
    newest: Option<LayoutId>,
    code: Option<Code>,
    codes: Vec<Code>,
    level: Level,
}

impl Grounds {
    fn of(view: &ControlView) -> Self {
        let newest = view.layouts.keys().next_back().copied();
        let ControlView { drives, leaving, nodes, code, codes, level, .. } = view.clone();
        Self { drives, leaving, nodes, newest, code, codes, level }
    }

    fn is_same(&self, view: &ControlView) -> bool {
        self.drives.is_same(&view.drives)
            && self.leaving.is_same(&view.leaving)
            && self.nodes.is_same(&view.nodes)
            && self.newest.as_ref() == view.layouts.keys().next_back()
            && self.code == view.code
            && self.codes == view.codes
            && self.level == view.level
    }
}

/// A layout that is to be made. That takes seconds of thousands of drives, and is done beside everything else.
#[derive(Clone, Debug)]
pub struct Draft {
    id: LayoutId,
    lineage: Lineage,
    drives: Vec<DriveInfo>,
    places: Places,
    rule: Rule,
}

impl Draft {
    /// Makes it.
    ///
    /// # Errors
    /// As [`layout::build`].
    pub fn carry_out(self) -> Result<Arc<Layout>, Error> {
        let layout = layout::build(self.id, &self.lineage, &self.drives, &self.places)?;
        Ok(Arc::new(Layout { rule: self.rule, ..layout }))
    }
}

impl Layouts {
    /// The layout that is to be made and proposed now, if one is.
    pub fn look(&mut self, view: &ControlView, now: Instant) -> Option<Draft> {
        if self.quiet.as_ref().is_some_and(|quiet| quiet.is_same(view)) {
            return None;
        }
        self.quiet = None;
        let code = view.code?;
        let newest = view.layouts.values().next_back();
        // As builds do it that may lead next: what was only drained had no place then.
        let has_place = |info: &&DriveInfo| {
            view.level >= Level::LEAVES || view.nodes.get(&info.node).is_none_or(|node| !node.draining)
        };
        let infos: Vec<_> = view.staying().filter(has_place).cloned().collect();
        // What a layout would leave out must not make one look outdated: it would be made anew for ever.
        let domains: BTreeMap<DriveId, NodeId> =
            layout::usable(&infos).into_iter().map(|drive| (drive.id, drive.node)).collect();
        let lineage = match newest {
            // The mesh is about to be able to: no layout is made that the next look replaces.
            _ if view.level < Level::LINES && view.level_to_come() >= Some(Level::LINES) => return None,
            _ if view.level < Level::LINES => Lineage::None(code),
            Some(newest) if newest.line > 0 => {
                let new = view.codes.iter().copied().filter(|code| newest.table(Some(*code)).is_none());
                Lineage::Next(newest.clone(), new.collect())
            }
            _ => Lineage::First(FIRST_LINE, code),
        };
        let owners: BTreeSet<NodeId> = infos.iter().map(|info| info.node).collect();
        let places = view.places().among(&owners);
        // What it says of spare drives every build has to know.
        let rule = if view.level >= Level::RECOVERY { Rule::Losses } else { Rule::Nodes };
        let is_of_line = |layout: &Layout| layout.line > 0 || matches!(lineage, Lineage::None(_));
        let laid_out = newest.is_some_and(|layout| {
            // A drive whose medium was put into another node fails with that one now.
            is_of_line(layout) && layout.domains == domains && layout.places == places
        });
        let is_asked_for = matches!(&lineage, Lineage::Next(_, new) if !new.is_empty());
        if (laid_out && !is_asked_for) || domains.len() < view.widest() {
            (self.settling, self.quiet) = (None, Some(Grounds::of(view)));
            return None;
        }
        if laid_out {
            // Of the same drives: nothing has to settle, and who has made a bucket waits.
            return newest.map(|newest| Draft { id: LayoutId(newest.id.0 + 1), lineage, drives: infos, places, rule });
        }
        let is_same = |(of, at, _): &&(BTreeMap<DriveId, NodeId>, Places, Instant)| (of, at) == (&domains, &places);
        let Some((_, _, since)) = self.settling.as_ref().filter(is_same) else {
            self.settling = Some((domains, places, now));
            return None;
        };
        // Every node that is a member has had time to register; the very first layout waits for them all, and one of which only
        // places are others for all to say theirs.
        let only_places = newest.is_some_and(|layout| layout.domains == domains && layout.places != places);
        let waits = only_places || (newest.is_none() && !everybody_has_drives(view));
        let quiet = if waits { SETTLE_FIRST } else { SETTLE };
        if now.since(*since) < quiet {
            return None;
        }
        let id = LayoutId(newest.map_or(1, |layout| layout.id.0 + 1));
        Some(Draft { id, lineage, drives: infos, places, rule })
    }
}

fn everybody_has_drives(view: &ControlView) -> bool {
    let mut hosts = view.nodes.values().filter(|info| info.kind == NodeKind::Host);
    hosts.all(|info| view.drives.values().any(|drive| drive.node == info.id))
}

/// The mesh's own line, of which all its layouts are.
const FIRST_LINE: u32 = 1;
const SETTLE: Duration = Duration::from_millis(300);
const SETTLE_FIRST: Duration = Duration::from_millis(3000);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steward::tests::{drive, host};

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    /// Three hosts, with a drive on each of these.
    fn view(with_drives: &[u64]) -> ControlView {
        ControlView {
            code: Some(Code { data: 2, parity: 1 }),
            level: Level::LINES,
            nodes: [1, 2, 3].map(|node| (NodeId(node), host(node))).into(),
            drives: with_drives.iter().map(|node| (DriveId(*node), drive(*node, *node))).collect(),
            ..ControlView::default()
        }
    }

    fn id(draft: &Option<Draft>) -> Option<u64> {
        draft.as_ref().map(|draft| draft.id.0)
    }

    fn made(draft: Option<Draft>) -> Arc<Layout> {
        draft.expect("one is due").carry_out().expect("it can be made")
    }

    #[test]
    fn a_layout_is_made_once_the_drives_have_been_the_same_for_a_moment() {
        let mut layouts = Layouts::default();
        let mut view = view(&[1, 2, 3]);
        assert_eq!(id(&layouts.look(&view, at(0))), None);
        assert_eq!(id(&layouts.look(&view, at(299))), None);
        // One more: the moment begins anew.
        view.drives.insert(DriveId(4), drive(4, 1));
        assert_eq!(id(&layouts.look(&view, at(300))), None);
        assert_eq!(id(&layouts.look(&view, at(599))), None);
        let first = made(layouts.look(&view, at(600)));
        assert_eq!((first.id, first.domains.len()), (LayoutId(1), 4));
        view.layouts.insert(first.id, first);
        assert_eq!(id(&layouts.look(&view, at(5000))), None);
        // One fewer.
        view.drives.remove(&DriveId(4));
        assert_eq!(id(&layouts.look(&view, at(5000))), None);
        assert_eq!(id(&layouts.look(&view, at(5300))), Some(2));
    }

    #[test]
    fn spare_drives_are_chosen_by_what_every_build_knows() {
        let rule = |level| {
            let view = ControlView { level, ..view(&[1, 2, 3]) };
            let mut layouts = Layouts::default();
            assert!(layouts.look(&view, at(0)).is_none());
            made(layouts.look(&view, at(60_000))).rule
        };
        assert_eq!([Level::LINES, Level::REPLICAS].map(rule), [Rule::Nodes; 2]);
        assert_eq!(rule(Level::RECOVERY), Rule::Losses);
    }

    #[test]
    fn a_drive_that_is_emptied_is_of_no_layout_to_come() {
        let mut layouts = Layouts::default();
        let mut view = view(&[1, 2, 3]);
        view.drives.insert(DriveId(4), drive(4, 1));
        assert_eq!(id(&layouts.look(&view, at(0))), None);
        let first = made(layouts.look(&view, at(300)));
        view.layouts.insert(first.id, first);
        assert_eq!(id(&layouts.look(&view, at(5000))), None);
        view.leaving.insert(DriveId(4), Leaving::Asked);
        assert_eq!(id(&layouts.look(&view, at(5000))), None);
        let second = made(layouts.look(&view, at(5300)));
        assert_eq!(second.domains.keys().map(|drive| drive.0).collect::<Vec<_>>(), [1, 2, 3]);
        view.layouts.insert(second.id, second);
        assert_eq!(id(&layouts.look(&view, at(9000))), None);
        view.leaving.remove(&DriveId(4));
        assert_eq!(id(&layouts.look(&view, at(9000))), None);
        let third = made(layouts.look(&view, at(9300)));
        assert_eq!(third.domains.len(), 4);
    }

    /// Two drives in each of three nodes, and the first layout of them.
    fn pairs() -> (Layouts, ControlView, Arc<Layout>) {
        let mut layouts = Layouts::default();
        let mut view = view(&[1, 2, 3]);
        view.drives.extend([4, 5, 6].map(|id| (DriveId(id), drive(id, id - 3))));
        assert_eq!(id(&layouts.look(&view, at(0))), None);
        let first = made(layouts.look(&view, at(300)));
        view.layouts.insert(first.id, first.clone());
        assert_eq!(id(&layouts.look(&view, at(1000))), None);
        (layouts, view, first)
    }

    #[test]
    fn a_drive_that_was_put_into_another_node_fails_with_that_one_in_the_next_layout() {
        let (mut layouts, mut view, first) = pairs();
        view.drives.insert(DriveId(4), drive(4, 3));
        assert_eq!(id(&layouts.look(&view, at(5000))), None);
        assert_eq!(id(&layouts.look(&view, at(5299))), None);
        // Into a third one: the moment begins anew.
        view.drives.insert(DriveId(4), drive(4, 2));
        assert_eq!(id(&layouts.look(&view, at(5300))), None);
        assert_eq!(id(&layouts.look(&view, at(5599))), None);
        let second = made(layouts.look(&view, at(5600)));
        assert_eq!((second.id, second.line, second.domains[&DriveId(4)]), (LayoutId(2), first.line, NodeId(2)));
        view.layouts.insert(second.id, second);
        assert_eq!(id(&layouts.look(&view, at(9000))), None);
        // And back again, while others come.
        view.drives.insert(DriveId(4), drive(4, 1));
        view.drives.insert(DriveId(7), drive(7, 1));
        assert_eq!(id(&layouts.look(&view, at(9000))), None);
        let third = made(layouts.look(&view, at(9300)));
        assert_eq!((third.domains[&DriveId(4)], third.domains.len()), (NodeId(1), 7));
    }

    #[test]
    fn no_node_has_more_of_a_stripe_than_may_be_lost_once_a_drive_was_put_into_it() {
        let (mut layouts, mut view, first) = pairs();
        view.drives.insert(DriveId(4), drive(4, 2));
        assert_eq!(id(&layouts.look(&view, at(5000))), None);
        let second = made(layouts.look(&view, at(5300)));
        let none = crate::Outage::default();
        // The first one, as it has become.
        let moved = Layout { domains: second.domains.clone(), ..(*first).clone() };
        assert!(!crate::survival(&moved, 3, &none).reads);
        assert!(crate::survival(&second, 3, &none).reads);
        let mut kept = 0;
        for (before, after) in first.groups.iter().zip(&second.groups) {
            let (before, after) = (&before[..3], &after[..3]);
            let nodes: BTreeSet<NodeId> = after.iter().map(|home| view.drives[home].node).collect();
            assert_eq!(nodes.len(), 3, "{after:?}");
            // What stays a home stays that of the same shard.
            assert!((0..3).all(|seat| !after.contains(&before[seat]) || after[seat] == before[seat]));
            kept += (0..3).filter(|seat| before[*seat] == after[*seat]).count();
        }
        // Only drive 1 is left in its node, which has a shard of every stripe as before; in the second node three take turns.
        assert!(kept * 10 > first.groups.len() * 3 * 6, "{kept} of {}", first.groups.len() * 3);
    }

    #[test]
    fn a_layout_is_made_once_nodes_say_where_they_are() {
        let mut layouts = Layouts::default();
        let mut view = view(&[1, 2, 3]);
        assert_eq!(id(&layouts.look(&view, at(0))), None);
        let first = made(layouts.look(&view, at(300)));
        view.layouts.insert(first.id, first);
        let say = |view: &mut ControlView, node, location: &str| {
            let info = NodeInfo { location: location.parse().ok(), ..host(node) };
            view.nodes.insert(NodeId(node), info);
        };
        say(&mut view, 1, "r1");
        say(&mut view, 2, "r1");
        assert_eq!(id(&layouts.look(&view, at(1000))), None, "not all nodes can know it");
        assert_eq!(id(&layouts.look(&view, at(2000))), None);
        view.level = Level::PLACES;
        assert_eq!(id(&layouts.look(&view, at(2000))), None);
        say(&mut view, 3, "r3");
        assert_eq!(id(&layouts.look(&view, at(4000))), None);
        say(&mut view, 3, "r1");
        assert_eq!(id(&layouts.look(&view, at(4999))), None, "it waits until all have said it");
        assert_eq!(id(&layouts.look(&view, at(7998))), None);
        say(&mut view, 3, "r3");
        assert_eq!(id(&layouts.look(&view, at(7999))), None);
        let second = made(layouts.look(&view, at(10_999)));
        assert_eq!(second.places.domains(NodeId(2)), [NodeId(1), NodeId(1), NodeId(2)]);
        view.layouts.insert(second.id, second);
        assert_eq!(id(&layouts.look(&view, at(20_000))), None);
        // A name that nobody else has says nothing new, nor does a host without drives.
        say(&mut view, 3, "r4");
        say(&mut view, 4, "r1");
        assert_eq!(id(&layouts.look(&view, at(20_000))), None);
        assert_eq!(id(&layouts.look(&view, at(30_000))), None);
        say(&mut view, 2, "r2");
        assert_eq!(id(&layouts.look(&view, at(30_000))), None);
        assert_eq!(id(&layouts.look(&view, at(33_000))), Some(3));
    }

    #[test]
    fn groups_for_a_code_that_a_bucket_asks_for_are_made_at_once() {
        let code = |data, parity| Code { data, parity };
        let mut layouts = Layouts::default();
        let mut view = view(&[1, 2, 3]);
        view.codes = vec![code(1, 1)];
        // The first has the mesh's own alone: it is of nothing before it.
        assert_eq!(id(&layouts.look(&view, at(0))), None);
        let first = made(layouts.look(&view, at(300)));
        assert_eq!((first.id, first.others.len()), (LayoutId(1), 0));
        view.layouts.insert(first.id, first);
        let second = made(layouts.look(&view, at(300)));
        view.layouts.insert(second.id, second.clone());
        assert_eq!(id(&layouts.look(&view, at(301))), None);
        view.codes.push(code(1, 2));
        let third = made(layouts.look(&view, at(301)));
        let codes = |layout: &Layout| layout.tables().map(|table| table.code()).collect::<Vec<_>>();
        assert_eq!((second.id, codes(&second)), (LayoutId(2), vec![code(2, 1), code(1, 1)]));
        assert_eq!((third.id, codes(&third)), (LayoutId(3), vec![code(2, 1), code(1, 1), code(1, 2)]));
        assert_eq!((&third.groups, &third.others[0]), (&second.groups, &second.others[0]));
        view.layouts.insert(third.id, third);
        assert_eq!(id(&layouts.look(&view, at(301))), None);
        // A code that is wider than what is left holds up every layout; the next one has groups for all again.
        view.codes.push(code(3, 1));
        assert_eq!(id(&layouts.look(&view, at(302))), None);
        assert_eq!(id(&layouts.look(&view, at(9000))), None);
        view.drives.insert(DriveId(4), drive(4, 1));
        assert_eq!(id(&layouts.look(&view, at(9000))), None);
        let fourth = made(layouts.look(&view, at(9300)));
        assert_eq!((fourth.domains.len(), codes(&fourth).len()), (4, 4));
    }

    #[test]
    fn the_first_layout_waits_for_every_host_but_not_for_ever() {
        let mut layouts = Layouts::default();
        let mut view = view(&[1, 2]);
        view.drives.insert(DriveId(4), drive(4, 1));
        assert_eq!(id(&layouts.look(&view, at(0))), None);
        assert_eq!(id(&layouts.look(&view, at(2999))), None);
        assert_eq!(id(&layouts.look(&view, at(3000))), Some(1));
    }

    #[test]
    fn what_a_layout_would_leave_out_makes_none() {
        let mut layouts = Layouts::default();
        let mut view = view(&[1, 2, 3]);
        assert_eq!(id(&layouts.look(&view, at(0))), None);
        let first = made(layouts.look(&view, at(300)));
        view.layouts.insert(first.id, first);
        // Without capacity.
        let mut empty = drive(4, 1);
        empty.capacity_bytes = 0;
        view.drives.insert(DriveId(4), empty);
        for millis in [300, 600, 900] {
            assert_eq!(id(&layouts.look(&view, at(millis))), None);
        }
        // Too few are left: the newest stays.
        view.drives.remove(&DriveId(3));
        for millis in [1000, 2000, 9000] {
            assert_eq!(id(&layouts.look(&view, at(millis))), None);
        }
    }

    #[test]
    fn a_line_begins_once_every_node_can_do_lines() {
        let mut layouts = Layouts::default();
        let mut view = view(&[1, 2, 3]);
        view.level = Level::FIRST;
        let older = view.nodes.insert(NodeId(3), NodeInfo { level: Level::FIRST, ..host(3) });
        assert!(older.is_some());
        assert_eq!(id(&layouts.look(&view, at(0))), None);
        let first = made(layouts.look(&view, at(300)));
        assert_eq!((first.id, first.line), (LayoutId(1), 0));
        view.layouts.insert(first.id, first);
        assert_eq!(id(&layouts.look(&view, at(5000))), None);
        // All can, which the mesh does not say yet.
        view.nodes.insert(NodeId(3), host(3));
        view.drives.insert(DriveId(5), drive(5, 1));
        for millis in [5000, 5500] {
            assert_eq!(id(&layouts.look(&view, at(millis))), None);
        }
        // The same drives, and a line all the same.
        view.drives.remove(&DriveId(5));
        view.level = Level::LINES;
        assert_eq!(id(&layouts.look(&view, at(6000))), None);
        let second = made(layouts.look(&view, at(6300)));
        assert_eq!((second.id, second.line), (LayoutId(2), 1));
        view.layouts.insert(second.id, second.clone());
        assert_eq!(id(&layouts.look(&view, at(9000))), None);
        view.drives.insert(DriveId(4), drive(4, 1));
        assert_eq!(id(&layouts.look(&view, at(9000))), None);
        let third = made(layouts.look(&view, at(9300)));
        assert_eq!((third.id, third.line, third.groups.len()), (LayoutId(3), 1, second.groups.len()));
    }
}
