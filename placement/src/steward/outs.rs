//! Which drives go out by themselves: those that have been away for long, so that what they held is rebuilt on the others; and
//! which of those come back. Only drives of one node at a time, and only where what is stored is as safe without them.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    Error, ErrorKind,
    id::{DriveId, LayoutId},
    limits::DRIVES_OUT_MAX,
    meta::ControlView,
    shared::SharedMap,
    time::Instant,
    topology::{DriveInfo, DriveState, Leaving},
};

use super::Outlook;
use crate::layout;

/// What the leader of the control group waits for.
#[derive(Clone, Debug, Default)]
pub struct Outs {
    /// Since when drives are away that are not out, and since when those that are out are back.
    since: BTreeMap<DriveId, Instant>,
    /// Of these there is nothing to be said.
    quiet: Option<Grounds>,
}

#[derive(Clone, Debug)]
struct Grounds {
    states: SharedMap<DriveId, DriveState>,
    drives: SharedMap<DriveId, DriveInfo>,
    leaving: SharedMap<DriveId, Leaving>,
    newest: Option<LayoutId>,
}

impl Grounds {
    fn of(view: &ControlView, states: &SharedMap<DriveId, DriveState>) -> Self {
        Self {
            states: states.clone(),
            drives: view.drives.clone(),
            leaving: view.leaving.clone(),
            newest: view.layouts.keys().next_back().copied(),
        }
    }

    fn is_same(&self, view: &ControlView, states: &SharedMap<DriveId, DriveState>) -> bool {
        self.states.is_same(states)
            && self.drives.is_same(&view.drives)
            && self.leaving.is_same(&view.leaving)
            && self.newest.as_ref() == view.layouts.keys().next_back()
    }
}

/// Drives that go out, or come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Which; those that go out are of one node.
    pub drives: Vec<DriveId>,
    /// They go out.
    pub out: bool,
}

impl Outs {
    /// What is to be proposed now, if something is. `after`: see [`Upkeep::out_after_ms`](super::specs::Upkeep::out_after_ms).
    ///
    /// # Errors
    /// Why drives that have been away for so long stay in the layout.
    pub fn look(
        &mut self,
        view: &ControlView,
        outlook: &Outlook,
        after: Duration,
        now: Instant,
    ) -> Result<Option<Put>, Error> {
        let Some(newest) = view.layouts.values().next_back() else { return Ok(None) };
        if self.quiet.as_ref().is_some_and(|quiet| quiet.is_same(view, &outlook.drives)) {
            return Ok(None);
        }
        self.quiet = None;
        let is_out = |drive: &DriveId| view.leaving.get(drive) == Some(&Leaving::Away);
        let is_there = |drive: &DriveId| matches!(outlook.drives.get(drive), Some(DriveState::Up | DriveState::Full));
        let is_astray = |drive: &DriveId| match view.leaving.get(drive) {
            Some(Leaving::Away) => is_there(drive),
            Some(Leaving::Asked) => false,
            None => !is_there(drive) && newest.domains.contains_key(drive),
        };
        self.since.retain(|drive, _| view.drives.contains_key(drive) && is_astray(drive));
        for drive in view.drives.keys().filter(|drive| is_astray(drive)) {
            self.since.entry(*drive).or_insert(now);
        }
        if self.since.is_empty() {
            self.quiet = Some(Grounds::of(view, &outlook.drives));
            return Ok(None);
        }
        let back_after = (after / BACK_PART).min(BACK_MAX);
        let for_long = |(drive, since): &(&DriveId, &Instant)| {
            now.since(**since) >= if is_out(drive) { back_after } else { after }
        };
        let (back, away): (Vec<_>, Vec<_>) =
            self.since.iter().filter(for_long).map(|(drive, since)| (*drive, *since)).partition(|(id, _)| is_out(id));
        if !back.is_empty() {
            let drives = back.into_iter().map(|(drive, _)| drive).take(DRIVES_OUT_MAX).collect();
            return Ok(Some(Put { drives, out: false }));
        }
        if after.is_zero() {
            return Ok(None);
        }
        let node_of = |drive: &DriveId| view.drives.get(drive).map(|info| info.node);
        let already = view.leaving.keys().filter(|drive| is_out(drive)).find_map(node_of);
        let first = away.iter().min_by_key(|(_, since)| *since).and_then(|(drive, _)| node_of(drive));
        let Some(node) = already.or(first) else { return Ok(None) };
        let going: BTreeSet<DriveId> =
            away.iter().map(|(drive, _)| *drive).filter(|drive| node_of(drive) == Some(node)).collect();
        if going.is_empty() {
            let Some((drive, _)) = away.first() else { return Ok(None) };
            let what = "drives of another node are out already, and those of one node at most go out by themselves: bring these \
                        back, or remove the others";
            return Err(Error::new(ErrorKind::Conflict, what).with("drive", drive).with("out", node));
        }
        outlook.spare(view, &going)?;
        Ok(Some(Put { drives: going.into_iter().take(DRIVES_OUT_MAX).collect(), out: true }))
    }
}

/// What is left without some drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spare {
    /// Drives of which layouts are made then.
    pub left: usize,
    /// Bytes on those that go, as far as they say; of the others as many as on the rest, for their size.
    pub used_bytes: u64,
}

impl Outlook {
    /// What is left for layouts without these drives.
    ///
    /// # Errors
    /// `Conflict` if a promise needs them: without them there would be no layout, or shards of an object would have to share
    /// nodes that need not now, or what is on them would not fit on the others.
    pub fn spare(&self, view: &ControlView, going: &BTreeSet<DriveId>) -> Result<Spare, Error> {
        let refused = |what| Error::new(ErrorKind::Conflict, what).with("drives", format_args!("{going:?}"));
        let Some(code) = view.code else { return Err(refused("the mesh is not formed: nothing is stored yet")) };
        let nodes: Vec<_> = view.nodes.values().cloned().collect();
        let now: Vec<_> = view.staying().cloned().collect();
        let then: Vec<_> = now.iter().filter(|info| !going.contains(&info.id)).cloned().collect();
        let (now, then) = (layout::usable(&now, &nodes), layout::usable(&then, &nodes));
        let serves = |said: &&mesh_core::op::DriveReport| matches!(said.state, DriveState::Up | DriveState::Full);
        let report = |info: &DriveInfo| self.report_of(info).filter(serves);
        let there = then.iter().filter(|info| report(info).is_some()).count();
        if there < code.shards() {
            let error = refused("too few drives would be left for the code: add one first");
            return Err(error.with("left", there).with("needed", code.shards()));
        }
        let hosts = |drives: &[&DriveInfo]| drives.iter().map(|info| info.node).collect::<BTreeSet<_>>().len();
        if hosts(&now) >= code.shards() && hosts(&then) < code.shards() {
            let what = "shards of one object would have to share a node, and a node could not be lost any more: add a drive on \
                        another node first";
            return Err(refused(what).with("nodes", hosts(&then)).with("needed", code.shards()));
        }
        let (mut capacity, mut free) = (0_u128, 0_u128);
        for said in then.iter().filter_map(|info| report(info)) {
            capacity += u128::from(said.capacity_bytes);
            free += u128::from(said.free_bytes);
        }
        let used = |info: &DriveInfo| match report(info) {
            Some(said) => u128::from(said.capacity_bytes.saturating_sub(said.free_bytes)),
            None => u128::from(info.capacity_bytes) * capacity.saturating_sub(free) / capacity.max(1),
        };
        let used: u128 = going.iter().filter_map(|drive| view.drives.get(drive)).map(used).sum();
        if free < used {
            let error = refused("what is on it does not fit on the drives that are left: add one first");
            return Err(error.with("bytes", used).with("free", free));
        }
        Ok(Spare { left: then.len(), used_bytes: u64::try_from(used).unwrap_or(u64::MAX) })
    }
}

/// Who was out is used again once it has been back for this part of the time after which it went out, so that one that comes
/// and goes is not moved to and fro.
const BACK_PART: u32 = 20;
const BACK_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_core::{
        id::NodeId,
        op::{DriveReport, NodeReport},
        topology::Code,
    };

    use super::*;
    use crate::steward::tests::{drive, host};

    const AFTER: Duration = Duration::from_secs(600);

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    /// Drives of hosts, all in the newest layout.
    struct Bench {
        view: ControlView,
        outlook: Outlook,
        outs: Outs,
    }

    impl Bench {
        fn new(drives: &[(u64, u64)]) -> Self {
            let code = Code { data: 2, parity: 1 };
            let mut view = ControlView {
                code: Some(code),
                level: mesh_core::meta::LEVEL,
                drives: drives.iter().map(|(id, node)| (DriveId(*id), drive(*id, *node))).collect(),
                ..ControlView::default()
            };
            for (_, node) in drives {
                view.nodes.insert(NodeId(*node), host(*node));
            }
            let (all, nodes): (Vec<_>, Vec<_>) =
                (view.drives.values().cloned().collect(), view.nodes.values().cloned().collect());
            let first = layout::build(LayoutId(1), &layout::Lineage::First(1, code), &all, &nodes).expect("a layout");
            view.layouts.insert(LayoutId(1), Arc::new(first));
            let mut bench = Self { view, outlook: Outlook::new(NodeId(1), at(0)), outs: Outs::default() };
            bench.are_away(&[]);
            bench
        }

        /// Of all drives these are down; the others have so much free.
        fn are(&mut self, down: &[u64], free_bytes: u64) {
            let mut reports: BTreeMap<NodeId, NodeReport> = BTreeMap::new();
            for info in self.view.drives.values() {
                let state = if down.contains(&info.id.0) { DriveState::Down } else { DriveState::Up };
                self.outlook.drives.insert(info.id, state);
                let said = DriveReport {
                    drive: info.id,
                    state,
                    capacity_bytes: info.capacity_bytes,
                    free_bytes,
                    shards: 0,
                    corrupt: 0,
                    reason: None,
                    damaged: 0,
                    scrub: Default::default(),
                };
                reports.entry(info.node).or_default().drives.push(said);
            }
            self.outlook.sight.alive = Arc::new(reports.keys().copied().collect());
            for (node, report) in reports {
                self.outlook.sight.reports.insert(node, Arc::new(NodeReport { node, ..report }));
            }
        }

        fn are_away(&mut self, down: &[u64]) {
            self.are(down, 1 << 29);
        }

        /// What is put out or taken back at this second, which is then so.
        fn look(&mut self, second: u64) -> Result<Option<(Vec<u64>, bool)>, String> {
            let looked = self.outs.look(&self.view, &self.outlook, AFTER, at(second));
            let put = looked.map_err(|error| error.message().to_owned())?;
            for drive in put.iter().flat_map(|put| &put.drives) {
                match put.as_ref().is_some_and(|put| put.out) {
                    true => drop(self.view.leaving.insert(*drive, Leaving::Away)),
                    false => drop(self.view.leaving.remove(drive)),
                }
            }
            Ok(put.map(|put| (put.drives.into_iter().map(|drive| drive.0).collect(), put.out)))
        }
    }

    const TWO_EACH: [(u64, u64); 8] = [(11, 1), (12, 1), (21, 2), (22, 2), (31, 3), (32, 3), (41, 4), (42, 4)];

    #[test]
    fn who_is_away_for_long_goes_out_and_comes_back() {
        let mut bench = Bench::new(&TWO_EACH);
        assert_eq!(bench.look(0), Ok(None));
        bench.are_away(&[31]);
        assert_eq!(bench.look(1), Ok(None));
        // It was there for a moment.
        bench.are_away(&[]);
        assert_eq!(bench.look(500), Ok(None));
        bench.are_away(&[31]);
        for (second, put) in [(501, None), (1100, None), (1101, Some((vec![31], true))), (1102, None), (9000, None)] {
            assert_eq!(bench.look(second), Ok(put), "{second}");
        }
        bench.are_away(&[]);
        for (second, put) in [(9001, None), (9030, None), (9031, Some((vec![31], false))), (9032, None)] {
            assert_eq!(bench.look(second), Ok(put), "{second}");
        }
    }

    #[test]
    fn drives_of_one_node_go_out_together_and_those_of_no_other() {
        let mut bench = Bench::new(&TWO_EACH);
        bench.are_away(&[31, 32]);
        assert_eq!(bench.look(0), Ok(None));
        bench.are_away(&[21, 31, 32]);
        assert_eq!(bench.look(100), Ok(None));
        assert_eq!(bench.look(600), Ok(Some((vec![31, 32], true))));
        assert_eq!(bench.look(699), Ok(None));
        assert!(bench.look(700).is_err_and(|why| why.contains("of another node")));
        // Once those are taken out for good, it goes.
        for drive in [31, 32] {
            bench.view.leaving.remove(&DriveId(drive));
            bench.view.drives.remove(&DriveId(drive));
        }
        assert_eq!(bench.look(701), Ok(Some((vec![21], true))));
    }

    #[test]
    fn nothing_goes_out_that_is_needed_or_that_somebody_empties() {
        let mut bench = Bench::new(&TWO_EACH[..6]);
        bench.are_away(&[31, 32]);
        assert_eq!(bench.look(0), Ok(None));
        assert!(bench.look(600).is_err_and(|why| why.contains("share a node")));
        bench.are(&[32], 1 << 10);
        bench.view.leaving.insert(DriveId(31), Leaving::Asked);
        bench.view.leaving.insert(DriveId(32), Leaving::Asked);
        assert_eq!(bench.look(2000), Ok(None));
        bench.view.leaving.remove(&DriveId(32));
        bench.view.leaving.remove(&DriveId(31));
        assert_eq!(bench.look(2001), Ok(None));
        assert!(bench.look(2601).is_err_and(|why| why.contains("does not fit")));
        bench.are_away(&[32]);
        assert_eq!(bench.look(2602), Ok(Some((vec![32], true))));
        let mut few = Bench::new(&[(11, 1), (21, 2), (31, 3), (32, 3)]);
        few.are_away(&[21, 32]);
        assert_eq!(few.look(0), Ok(None));
        assert!(few.look(600).is_err_and(|why| why.contains("too few drives")), "two of them answer");
    }

    #[test]
    fn with_no_time_given_nothing_goes_out() {
        let mut bench = Bench::new(&TWO_EACH);
        bench.are_away(&[31]);
        for second in [0, 1, 100_000] {
            assert_eq!(bench.outs.look(&bench.view, &bench.outlook, Duration::ZERO, at(second)), Ok(None));
        }
    }
}
