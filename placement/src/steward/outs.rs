//! Which drives go out by themselves: those that have been away for long, so that what they held is rebuilt on the others; and
//! which of those come back. Only drives of one node at a time, and only where what is stored is as safe without them.
//! [`Outlook::spare`] judges that, and for drives that an administrator has emptied.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    Error, ErrorKind,
    id::{DriveId, LayoutId, NodeId},
    limits::DRIVES_OUT_MAX,
    meta::ControlView,
    op::DriveReport,
    shared::SharedMap,
    time::Instant,
    topology::{DriveInfo, DriveState, Leaving},
};

use super::Outlook;
use crate::layout;

/// What the leader of the control group waits for.
#[derive(Clone, Debug, Default)]
pub struct Outs {
    /// Since when drives are away that are not out, and since when those that are out (`true`) are back.
    since: BTreeMap<DriveId, (bool, Instant)>,
    /// How often drives were taken back that had been out.
    returns: BTreeMap<DriveId, u32>,
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
        let node_of = |drive: &DriveId| view.drives.get(drive).map(|info| info.node);
        // Where only this node does not see a drive's node, nobody knows how the drive is.
        let is_missed = |drive: &DriveId| {
            let node = node_of(drive);
            !is_there(drive) && node.is_some_and(|node| outlook.is_up(node) || outlook.witness_of(node).is_none())
        };
        let is_astray = |drive: &DriveId| match view.leaving.get(drive) {
            Some(Leaving::Away) => is_there(drive),
            Some(Leaving::Asked) => false,
            None => newest.domains.contains_key(drive) && is_missed(drive),
        };
        // Who goes out and is back before anybody looks has not been back for as long as it was away.
        self.since.retain(|drive, (was_out, _)| {
            view.drives.contains_key(drive) && is_astray(drive) && *was_out == is_out(drive)
        });
        for drive in view.drives.keys().filter(|drive| is_astray(drive)) {
            self.since.entry(*drive).or_insert_with(|| (is_out(drive), now));
        }
        if self.since.is_empty() {
            // Who sees whom changes without any of these: where something is not there, it is looked for again.
            let is_needed = |drive: &&DriveId| view.drives.contains_key(drive) && !view.leaving.contains_key(drive);
            if newest.domains.keys().filter(is_needed).all(is_there) {
                self.quiet = Some(Grounds::of(view, &outlook.drives));
            }
            return Ok(None);
        }
        let back_after = |drive: &DriveId| {
            let doubled = self.returns.get(drive).map_or(1, |times| 1_u32.checked_shl(*times).unwrap_or(u32::MAX));
            (after / BACK_PART).min(BACK_MAX).saturating_mul(doubled).min(BACK_MOST)
        };
        let known = self.since.iter().map(|(drive, (_, since))| (*drive, *since));
        let for_long = |(drive, since): &(DriveId, Instant)| {
            now.since(*since) >= if is_out(drive) { back_after(drive) } else { after }
        };
        let (back, away): (Vec<_>, Vec<_>) = known.filter(for_long).partition(|(drive, _)| is_out(drive));
        if !back.is_empty() {
            let drives: Vec<DriveId> = back.into_iter().map(|(drive, _)| drive).take(DRIVES_OUT_MAX).collect();
            self.returns.retain(|drive, _| view.drives.contains_key(drive));
            for drive in &drives {
                *self.returns.entry(*drive).or_default() += 1;
            }
            return Ok(Some(Put { drives, out: false }));
        }
        if after.is_zero() {
            return Ok(None);
        }
        // Of each node, those that were away first; only of one that is out already others may follow.
        let mut by_node: BTreeMap<NodeId, (Instant, BTreeSet<DriveId>)> = BTreeMap::new();
        for (drive, since) in away {
            let Some(node) = node_of(&drive) else { continue };
            let (first, drives) = by_node.entry(node).or_insert((since, BTreeSet::new()));
            *first = since.min(*first);
            drives.insert(drive);
        }
        // What one machine of a rack had would have its place in the same rack.
        let places = view.places();
        let is_rack_away = |node: NodeId| {
            let rack = places.domains(node)[1];
            let is_beside = |drive: &&DriveInfo| drive.node != node && places.domains(drive.node)[1] == rack;
            let mut beside = view.staying().filter(is_beside).peekable();
            !outlook.is_up(node) && beside.peek().is_some() && beside.all(|drive| !outlook.is_up(drive.node))
        };
        let already = view.leaving.keys().filter(|drive| is_out(drive)).find_map(node_of);
        let mut nodes: Vec<_> = by_node.into_iter().collect();
        nodes.sort_by_key(|(node, (first, _))| (*first, *node));
        let mut kept_in = Ok(None);
        for (node, (_, going)) in nodes {
            let judged = match already {
                Some(out) if out != node => Err(Error::new(ErrorKind::Conflict, OF_ANOTHER_NODE).with("out", out)),
                _ if is_rack_away(node) => Err(Error::new(ErrorKind::Conflict, RACK_IS_AWAY)),
                // Without its figures, which change all the time: it is said once.
                _ => outlook.spare(view, &going).map_err(|error| Error::new(error.kind(), error.message().to_owned())),
            };
            match judged {
                Ok(_) => return Ok(Some(Put { drives: going.into_iter().take(DRIVES_OUT_MAX).collect(), out: true })),
                Err(error) => kept_in = kept_in.and(Err(error.with("node", node))),
            }
        }
        kept_in
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
    /// What is left for layouts without these drives. Of the others only those count that serve now.
    ///
    /// # Errors
    /// `Conflict` if a promise needs them: without them there would be no layout, or the loss of a node would take more of a
    /// stripe's shards than may be lost, and would not now, or what is on them would not fit.
    pub fn spare(&self, view: &ControlView, going: &BTreeSet<DriveId>) -> Result<Spare, Error> {
        let refused = |what| Error::new(ErrorKind::Conflict, what).with("drives", format_args!("{going:?}"));
        if view.code.is_none() {
            return Err(refused("the mesh is not formed: nothing is stored yet"));
        }
        let staying: Vec<_> = view.staying().cloned().collect();
        let usable = layout::usable(&staying);
        let serves = |said: &&DriveReport| matches!(said.state, DriveState::Up | DriveState::Full);
        let report = |info: &DriveInfo| self.report_of(info).filter(serves);
        let (then, left): (Vec<_>, Vec<_>) = usable
            .iter()
            .filter(|info| !going.contains(&info.id))
            .filter_map(|info| report(info).map(|said| (info.node, said)))
            .map(|(node, said)| (node, (node, said)))
            .unzip();
        let mut now = then.clone();
        now.extend(usable.iter().filter(|info| going.contains(&info.id)).map(|info| info.node));
        if then.len() < view.widest() {
            let error = refused("too few drives would be left for the code: add one first");
            return Err(error.with("left", then.len()).with("needed", view.widest()));
        }
        for code in view.all_codes() {
            let (most_now, most_then) = (crowd(&now, code.shards()), crowd(&then, code.shards()));
            if most_then > most_now && most_then > usize::from(code.parity) {
                let what = "a node would have more shards of one object than may be lost, and could not be lost any more: add \
                            a drive on another node first";
                return Err(refused(what).with("code", code).with("shards", most_then).with("parity", code.parity));
            }
        }
        let capacity: u128 = left.iter().map(|(_, said)| u128::from(said.capacity_bytes)).sum();
        let full: u128 = left.iter().map(|(_, said)| used(said)).sum();
        let on = |info: &DriveInfo| match report(info) {
            Some(said) => used(said),
            None => u128::from(info.capacity_bytes) * full / capacity.max(1),
        };
        // What leaves already goes to the same places, as far as it is still where it was.
        let others =
            view.leaving.keys().filter(|drive| !going.contains(drive)).filter_map(|drive| view.drives.get(drive));
        let before = others.filter(|info| report(info).is_some());
        let mut moved: BTreeMap<NodeId, u128> = BTreeMap::new();
        let mut used_bytes = 0;
        for (info, is_going) in going
            .iter()
            .filter_map(|drive| view.drives.get(drive))
            .map(|info| (info, true))
            .chain(before.map(|info| (info, false)))
        {
            used_bytes += if is_going { on(info) } else { 0 };
            *moved.entry(info.node).or_default() += on(info);
        }
        let room = |of: Option<NodeId>| -> u128 {
            let there = left.iter().filter(|(node, _)| of.is_none_or(|of| of == *node));
            there.map(|(_, said)| u128::from(said.free_bytes.saturating_sub(said.capacity_bytes / HEADROOM_PART))).sum()
        };
        let hosts = then.iter().collect::<BTreeSet<_>>();
        // Where stripes reach every node, what a node has stays on it.
        let stays = |node: &NodeId| hosts.len() <= view.widest() && hosts.contains(node);
        let tight = moved.iter().find(|(node, bytes)| stays(node) && room(Some(**node)) < **bytes);
        if let Some((node, bytes)) = tight {
            let error = refused(
                "what is on it does not fit on the other drives of its node, to which it has to go: add one there first",
            );
            return Err(error.with("node", node).with("bytes", bytes).with("free", room(Some(*node))));
        }
        let all: u128 = moved.values().sum();
        if room(None) < all {
            let error = refused("what is on it does not fit on the drives that are left: add one first");
            return Err(error.with("bytes", all).with("free", room(None)));
        }
        Ok(Spare { left: then.len(), used_bytes: u64::try_from(used_bytes).unwrap_or(u64::MAX) })
    }
}

/// Whether any rack or zone that can be lost now can be lost without these drives, too.
///
/// # Errors
/// `Conflict` if not.
pub fn expect_apart(view: &ControlView, going: &BTreeSet<DriveId>) -> Result<(), Error> {
    let (staying, places) = (view.staying().cloned().collect::<Vec<_>>(), view.places());
    let now = layout::usable(&staying);
    let then: Vec<_> = now.iter().copied().filter(|drive| !going.contains(&drive.id)).collect();
    for code in view.all_codes() {
        let limits = [&now, &then].map(|drives| layout::limits_of(code, drives, &places));
        for (level, what) in [(1, RACK_IS_CROWDED), (0, ZONE_IS_CROWDED)] {
            if limits[0][level].is_some() && limits[1][level].is_none() {
                let error = Error::new(ErrorKind::Conflict, what).with("code", code);
                return Err(error.with("drives", format_args!("{going:?}")));
            }
        }
    }
    Ok(())
}

const ZONE_IS_CROWDED: &str = "a zone would have more shards of one object than may be lost, and could not be lost any more: add as \
                               much in its place first";
const RACK_IS_CROWDED: &str = "a rack would have more shards of one object than may be lost, and could not be lost any more: add as \
                               much in its place first";

fn used(said: &DriveReport) -> u128 {
    u128::from(said.capacity_bytes.saturating_sub(said.free_bytes))
}

/// How many shards of a stripe the node has that has most of them, on drives of these nodes: layouts take one of each node, then
/// the second of each, and so on.
fn crowd(drives: &[NodeId], shards: usize) -> usize {
    let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
    for node in drives {
        *counts.entry(*node).or_default() += 1;
    }
    let placed = |rounds: usize| counts.values().map(|count| rounds.min(*count)).sum::<usize>();
    (1..=shards).find(|rounds| placed(*rounds) >= shards).unwrap_or(shards)
}

const OF_ANOTHER_NODE: &str = "drives of another node are out already, and those of one node at most go out by themselves: bring \
                               these back, or remove the others";
const RACK_IS_AWAY: &str = "all machines of its rack are away: bring the rack back, or take out its nodes by hand";
/// What is moved leaves this part of a drive free.
const HEADROOM_PART: u64 = 16;
/// Who was out is used again once it has been back for this part of the time after which it went out, twice as long with each
/// time, so that one that comes and goes is not moved to and fro: each time makes two layouts.
const BACK_PART: u32 = 20;
const BACK_MAX: Duration = Duration::from_secs(30);
const BACK_MOST: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_core::{op::NodeReport, topology::Code};

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
            let all: Vec<_> = view.drives.values().cloned().collect();
            let first = layout::build(
                LayoutId(1),
                &layout::Lineage::First(1, code),
                &all,
                &mesh_core::topology::Places::default(),
            )
            .expect("a layout");
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
            self.are(down, 3 << 28);
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
    fn who_comes_and_goes_has_to_stay_longer_each_time() {
        let mut bench = Bench::new(&TWO_EACH);
        let mut now = 0;
        for stays in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
            bench.are_away(&[31]);
            assert_eq!(bench.look(now), Ok(None));
            assert_eq!(bench.look(now + 600), Ok(Some((vec![31], true))));
            bench.are_away(&[]);
            assert_eq!(bench.look(now + 601), Ok(None));
            assert_eq!(bench.look(now + 600 + stays), Ok(None), "{stays}");
            assert_eq!(bench.look(now + 601 + stays), Ok(Some((vec![31], false))), "{stays}");
            now += 1000 + stays;
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
        assert!(bench.look(600).is_err_and(|why| why.contains("could not be lost any more")));
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
    fn what_a_bucket_s_code_needs_stays() {
        let mut bench = Bench::new(&TWO_EACH[..6]);
        bench.are_away(&[32]);
        bench.view.codes = vec![Code { data: 4, parity: 2 }];
        assert_eq!(bench.look(0), Ok(None));
        assert!(bench.look(600).is_err_and(|why| why.contains("too few drives")), "six shards on five drives");
        // Two copies lie on two nodes, and each may be lost: so they are with a node less, but not with one node.
        let going = |drives: &[u64]| drives.iter().copied().map(DriveId).collect::<BTreeSet<_>>();
        bench.are_away(&[]);
        bench.view.codes = vec![Code { data: 1, parity: 1 }];
        assert!(bench.outlook.spare(&bench.view, &going(&[32])).is_ok());
        bench.view.code = Some(Code { data: 1, parity: 0 });
        assert!(bench.outlook.spare(&bench.view, &going(&[31, 32])).is_ok());
        let refused = bench.outlook.spare(&bench.view, &going(&[21, 22, 31, 32])).map(|_| ());
        assert!(refused.is_err_and(|error| error.message().starts_with("a node would have more shards of one object")));
        bench.view.codes.clear();
        assert!(bench.outlook.spare(&bench.view, &going(&[21, 22, 31, 32])).is_ok());
    }

    /// Six hosts in three racks of two, each with two drives.
    fn in_racks() -> Bench {
        let drives: Vec<(u64, u64)> = (1..=6).flat_map(|node| [(10 * node + 1, node), (10 * node + 2, node)]).collect();
        let mut bench = Bench::new(&drives);
        bench.view.code = Some(Code { data: 4, parity: 2 });
        for node in 1..=6_u64 {
            let location = format!("rack-{}", node.div_ceil(2)).parse().ok();
            bench.view.nodes.insert(NodeId(node), mesh_core::topology::NodeInfo { location, ..host(node) });
        }
        bench
    }

    #[test]
    fn of_a_rack_that_is_away_nothing_goes_out_by_itself() {
        let mut bench = in_racks();
        let all_but = |gone: &[u64]| Arc::new((1..=6).filter(|node| !gone.contains(node)).map(NodeId).collect());
        bench.are_away(&[51, 52, 61, 62]);
        bench.outlook.sight.alive = all_but(&[5, 6]);
        assert_eq!(bench.look(0), Ok(None));
        assert!(bench.look(600).is_err_and(|why| why.contains("all machines of its rack are away")));
        // One of them is back: the other may go.
        bench.are_away(&[51, 52]);
        bench.outlook.sight.alive = all_but(&[5]);
        assert_eq!(bench.look(601), Ok(Some((vec![51, 52], true))));
        // A drive of a machine that is there, beside one that is not.
        let mut bench = in_racks();
        bench.are_away(&[51, 61, 62]);
        bench.outlook.sight.alive = all_but(&[6]);
        assert_eq!(bench.look(0), Ok(None));
        assert_eq!(bench.look(600), Ok(Some((vec![51], true))));
    }

    #[test]
    fn a_rack_that_can_be_lost_can_be_lost_afterwards() {
        let mut bench = in_racks();
        let going = |drives: &[u64]| drives.iter().copied().map(DriveId).collect::<BTreeSet<_>>();
        let says = |bench: &Bench, drives: &[u64]| {
            expect_apart(&bench.view, &going(drives)).map_err(|error| error.message().to_owned())
        };
        assert_eq!(says(&bench, &[61]), Ok(()));
        assert!(says(&bench, &[61, 62]).is_err_and(|why| why.starts_with("a rack would have more")));
        assert_eq!(bench.outlook.spare(&bench.view, &going(&[61, 62])).map(|spare| spare.left), Ok(10));
        // Of racks that cannot be lost anyway nothing is asked.
        bench.view.code = Some(Code { data: 5, parity: 1 });
        assert_eq!(says(&bench, &[61, 62]), Ok(()));
    }

    #[test]
    fn with_no_time_given_nothing_goes_out() {
        let mut bench = Bench::new(&TWO_EACH);
        bench.are_away(&[31]);
        for second in [0, 1, 100_000] {
            assert_eq!(bench.outs.look(&bench.view, &bench.outlook, Duration::ZERO, at(second)), Ok(None));
        }
    }

    #[test]
    fn a_node_that_has_to_stay_in_keeps_no_other_in() {
        let mut bench = Bench::new(&TWO_EACH[..6]);
        bench.are_away(&[31, 32]);
        assert_eq!(bench.look(0), Ok(None));
        bench.are_away(&[11, 31, 32]);
        assert!(bench.look(1000).is_err_and(|why| why.contains("could not be lost any more")));
        assert_eq!(bench.look(1600), Ok(Some((vec![11], true))));
    }

    #[test]
    fn where_another_node_sees_it_nobody_knows_that_a_drive_is_away() {
        let mut bench = Bench::new(&TWO_EACH);
        bench.are_away(&[41, 42]);
        bench.outlook.sight.alive = Arc::new([1, 2, 3].map(NodeId).into());
        let see = |bench: &mut Bench, sees: &[u64]| {
            let sees = sees.iter().map(|node| NodeId(*node)).collect();
            let said = NodeReport { sees, ..(*bench.outlook.sight.reports[&NodeId(2)]).clone() };
            bench.outlook.sight.reports.insert(NodeId(2), Arc::new(said));
        };
        see(&mut bench, &[1, 3, 4]);
        for second in [0, 600, 1200] {
            assert_eq!(bench.look(second), Ok(None));
        }
        see(&mut bench, &[1, 3]);
        // Nothing else has changed, and a look is taken all the same.
        assert_eq!(bench.look(1201), Ok(None));
        assert_eq!(bench.look(1801), Ok(Some((vec![41, 42], true))));
    }

    fn spare(bench: &Bench, drive: u64) -> Result<Spare, String> {
        bench.outlook.spare(&bench.view, &[DriveId(drive)].into()).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn no_node_gets_more_of_a_stripe_than_may_be_lost() {
        let three_each: Vec<(u64, u64)> =
            (1..=3).flat_map(|node| (1..=3).map(move |nth| (10 * node + nth, node))).collect();
        let mut bench = Bench::new(&three_each);
        bench.view.code = Some(Code { data: 4, parity: 2 });
        let mib = 256 << 20;
        assert_eq!(spare(&bench, 23), Ok(Spare { left: 8, used_bytes: mib }));
        bench.view.leaving.insert(DriveId(23), Leaving::Asked);
        assert!(spare(&bench, 22).is_err_and(|why| why.contains("could not be lost any more")), "three on one of two");
        assert_eq!(spare(&bench, 33), Ok(Spare { left: 7, used_bytes: mib }));
        // A node that does not answer is no place for anything.
        let mut bench = Bench::new(&TWO_EACH);
        bench.view.leaving.insert(DriveId(31), Leaving::Asked);
        assert_eq!(spare(&bench, 32), Ok(Spare { left: 6, used_bytes: mib }));
        bench.are_away(&[41, 42]);
        assert!(spare(&bench, 32).is_err_and(|why| why.contains("could not be lost any more")));
    }

    #[test]
    fn there_is_room_where_it_has_to_go_and_for_what_leaves_already() {
        let mut bench = Bench::new(&TWO_EACH[..6]);
        let free = |bench: &mut Bench, drive: u64, free_bytes: u64| {
            let node = bench.view.drives[&DriveId(drive)].node;
            let mut report = (*bench.outlook.sight.reports[&node]).clone();
            for said in report.drives.iter_mut().filter(|said| said.drive.0 == drive) {
                said.free_bytes = free_bytes;
            }
            bench.outlook.sight.reports.insert(node, Arc::new(report));
        };
        free(&mut bench, 31, 1 << 28);
        assert!(spare(&bench, 31).is_err_and(|why| why.contains("of its node")), "three quarters, and headroom");
        free(&mut bench, 32, 1 << 30);
        assert_eq!(spare(&bench, 31), Ok(Spare { left: 5, used_bytes: 3 << 28 }));
        // Four nodes for three shards: it may go anywhere, but not twice.
        let mut bench = Bench::new(&TWO_EACH);
        bench.are(&[], 1 << 29);
        assert!(spare(&bench, 11).is_ok());
        for drive in [11, 21, 31] {
            bench.view.leaving.insert(DriveId(drive), Leaving::Asked);
        }
        assert!(spare(&bench, 41).is_err_and(|why| why.contains("on the drives that are left")));
    }
}
