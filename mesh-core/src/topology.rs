//! Nodes, drives, and which drives a stripe goes to.

mod places;
mod replicas;

use core::{fmt, ops::Bound, str::FromStr};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    bluefield::Generation,
    error::{Error, ErrorKind},
    id::{DriveId, Epoch, Incarnation, LayoutId, NodeId, StripeId},
    limits::{DATA_SHARDS_MAX, GROUP_DRIVES_MAX, PARITY_SHARDS_MAX},
    meta::Level,
};

pub use self::{
    places::{Location, Places},
    replicas::{KnownReplicas, REPLICAS_MAX, Replicas},
};

/// What a node runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// A host CPU.
    #[default]
    Host,
    /// A BlueField DPU.
    Dpu,
}

/// A member of the mesh, as the control group knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its number.
    pub id: NodeId,
    /// What it runs on.
    pub kind: NodeKind,
    /// Where its mesh listener is, `host:port`.
    pub address: String,
    /// Its present or last start.
    pub incarnation: Incarnation,
    /// The process, for people.
    pub pid: u32,
    /// Being emptied. Set by `Drain`; what the node says of itself does not change it.
    pub draining: bool,
    /// The host that a DPU is plugged into.
    pub attached_to: Option<NodeId>,
    /// A process that stands for a DPU of this kind: for development.
    pub emulated: Option<Generation>,
    /// Random, made with the node's data folder: a machine that was emptied, or another one, has another. A number
    /// stays with the life that took it.
    pub life: u64,
    /// The invitation that it joined by; 0: none.
    pub invitation: u64,
    /// What its build can do.
    #[serde(default)]
    pub level: Level,
    /// Where its machine is.
    #[serde(default)]
    pub location: Option<Location>,
}

/// A drive, as the control group knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveInfo {
    /// Its number.
    pub id: DriveId,
    /// The node that owns its medium.
    pub node: NodeId,
    /// Bytes that it can hold.
    pub capacity_bytes: u64,
    /// Its present owner's epoch.
    pub epoch: Epoch,
    /// The first of the drives that it took the place of, each after the one before; `None`: it has a place of its own.
    #[serde(default)]
    pub seat: Option<DriveId>,
}

impl DriveInfo {
    /// The number by which layouts place it: that of the first drive in its place, so that one that replaces another gets
    /// what that had, and nothing else moves.
    #[must_use]
    pub fn seat(&self) -> DriveId {
        self.seat.unwrap_or(self.id)
    }
}

/// What a node sees of a drive now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriveState {
    /// Takes reads and writes.
    Up,
    /// At its reserve: takes reads and deletes.
    Full,
    /// Not reachable, missing, or failed.
    Down,
    /// Declared lost for good by an administrator: never used again, whatever becomes of it.
    Lost,
}

/// Why a drive is of no layout to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leaving {
    /// An administrator has it emptied.
    Asked,
    /// It was away for long. Once it is back it is used again.
    Away,
}

/// Whether metadata can lose a voter after a host has left, if they can before, of these that stay until then.
///
/// # Errors
/// `Conflict` if not, or if it is the last one.
pub fn voters_left(hosts: &BTreeSet<NodeId>, leaves: NodeId) -> Result<(), Error> {
    let left = hosts.iter().filter(|host| **host != leaves).count();
    if left == hosts.len() || left >= VOTERS_MIN || (left == 1 && hosts.len() == 2) {
        return Ok(());
    }
    let what = if left == 0 {
        "it is the last host of the mesh: join another one first"
    } else {
        "two hosts would be left to vote on metadata, and neither could be lost: join another one first"
    };
    Err(Error::new(ErrorKind::Conflict, what).with("node", leaves))
}

/// Hosts that a mesh has which can lose one and still decide.
const VOTERS_MIN: usize = 3;

/// What a node is told that has left.
pub const IS_OUT: &str = "this node was taken out of the mesh for good: wipe its data folder, and invite the machine under \
                          another number";

/// What is said of a node whose metadata group goes on elsewhere, without it.
pub const IS_LEFT_BEHIND: &str = "the mesh goes on from a backup, or from less than it once had, and this node follows metadata that \
                                  do not: stop it, say `mesh metadata empty`, and start it again; or, if what it has is to \
                                  stay, stop the leader that is named, and say it there";

/// What is said of a drive that was taken out before.
pub const DRIVE_IS_OUT: &str = "the drive is out already";

/// How far a node is that leaves the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Departure {
    /// An administrator has it emptied, and others vote in its place.
    Asked,
    /// It is out, and its number is never used again.
    Out,
    /// And nothing is taken any more of what it began.
    Fenced,
}

impl Departure {
    /// Whether it has left for good.
    #[must_use]
    pub const fn is_out(self) -> bool {
        matches!(self, Self::Out | Self::Fenced)
    }
}

/// How a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It answers.
    Up,
    /// It does not.
    #[default]
    Down,
    /// It answers, and is being emptied.
    Draining,
}

/// How stripes are coded: `data` data shards and `parity` parity shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// k
    pub data: u8,
    /// m
    pub parity: u8,
}

impl Code {
    /// k + m.
    #[must_use]
    pub const fn shards(self) -> usize {
        self.data as usize + self.parity as usize
    }

    /// Whether the numbers are within the limits.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.data >= 1 && self.data as usize <= DATA_SHARDS_MAX && self.parity as usize <= PARITY_SHARDS_MAX
    }

    /// The code of so many copies: one data shard and its parity shards, each of which gives the data back by itself.
    ///
    /// # Errors
    /// `Invalid` for none, and for more than there may be.
    pub fn copies(copies: u8) -> Result<Self, Error> {
        let code = copies.checked_sub(1).map(|parity| Self { data: 1, parity }).filter(|code| code.is_valid());
        code.ok_or_else(|| Error::invalid("1 to 9 copies can be kept").with("asked", copies))
    }

    /// Drives that a group of it lists where there are as many: those of a stripe, and as many again to take the place of
    /// drives that fail.
    #[must_use]
    pub const fn group_drives(self) -> usize {
        let wanted = self.shards() * 2;
        if wanted < GROUP_DRIVES_MIN {
            GROUP_DRIVES_MIN
        } else if wanted > GROUP_DRIVES_MAX {
            GROUP_DRIVES_MAX
        } else {
            wanted
        }
    }
}

const GROUP_DRIVES_MIN: usize = 8;
const _: () = assert!(GROUP_DRIVES_MIN <= GROUP_DRIVES_MAX);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.data, self.parity)
    }
}

/// As [`Display`](fmt::Display) has it.
impl FromStr for Code {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // A number may have a sign, and spaces are no part of one.
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let numbers = text.split_once('+').and_then(|(data, parity)| Some((number(data)?, number(parity)?)));
        let code = numbers.map(|(data, parity)| Self { data, parity }).filter(|code| code.is_valid());
        code.ok_or_else(|| {
            Error::invalid("a code is K+M: 1 to 16 data shards and up to 8 parity shards")
                .with("asked", text.escape_debug())
        })
    }
}

/// An immutable table of placement groups: what was written under a layout is found by it, or by a later one of its line to
/// which it has moved. It has groups for every code that stripes are stored in: its own, and those that buckets have asked for.
///
/// In a line of layouts a stripe belongs to the same group for good, and a shard keeps its number for life. That of number
/// `i` is at home on the `i`th drive of its group; where that drive cannot be used when the stripe is written, it goes to one
/// of the spare drives behind the homes, and no other shard goes elsewhere for that. From one layout to the next a drive that
/// stays a home stays the home of the same shard, so that only what was on drives that are homes no more has to move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Its number; writes use the newest of a line.
    pub id: LayoutId,
    /// The code of stripes that are written under it and name none.
    pub code: Code,
    /// Each group's drives, in order of preference: first the homes, one a shard, then spare ones.
    pub groups: Vec<Vec<DriveId>>,
    /// The failure domain of each drive: its node when the layout was made.
    pub domains: BTreeMap<DriveId, NodeId>,
    /// Layouts of the same line have the same code and as many groups, and the homes of each keep to those before. 0: of none,
    /// as older builds made them; shards of such a stripe are numbered by where they are.
    #[serde(default)]
    pub line: u32,
    /// The groups of other codes, in the order in which they were first asked for. Those of a layout before it in its line are
    /// the first ones.
    #[serde(default)]
    pub others: Vec<CodeGroups>,
    /// What those nodes fail with.
    #[serde(default)]
    pub places: Places,
    /// By what spare drives are chosen.
    #[serde(default)]
    pub rule: Rule,
}

/// By what a spare drive is chosen for a stripe in the place of a home that cannot be used. A layout keeps to its own for good: what
/// was written by it is looked for by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// First of all its node is to have no other shard of the stripe.
    #[default]
    Nodes,
    /// First of all neither its zone, nor its rack, nor its node is to have more shards of the stripe than may be lost. Since level
    /// 9.
    Losses,
}

/// The groups of a code that is not the layout's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeGroups {
    /// Which.
    pub code: Code,
    /// As [`Layout::groups`].
    pub groups: Vec<Vec<DriveId>>,
}

/// The groups of one code in a layout.
#[derive(Clone, Copy, Debug)]
pub struct Table<'l> {
    layout: &'l Layout,
    code: Code,
    groups: &'l [Vec<DriveId>],
}

/// Where the shards of one stripe go: `drives[i]` holds shard `i`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// A drive a shard, all distinct.
    pub drives: Vec<DriveId>,
    /// Whether two shards had to share a failure domain: the promise for nodes is reduced.
    pub shared: bool,
}

impl Layout {
    /// The groups of a code; `None`: of the layout's own. `None` if there are none for it.
    #[must_use]
    pub fn table(&self, code: Option<Code>) -> Option<Table<'_>> {
        match code.filter(|code| *code != self.code) {
            None => Some(self.own()),
            Some(code) => {
                let other = self.others.iter().find(|other| other.code == code)?;
                Some(Table { layout: self, code, groups: &other.groups })
            }
        }
    }

    /// The groups of its own code.
    #[must_use]
    pub fn own(&self) -> Table<'_> {
        Table { layout: self, code: self.code, groups: &self.groups }
    }

    /// All codes' groups, its own first.
    pub fn tables(&self) -> impl Iterator<Item = Table<'_>> {
        let other = |other| {
            let CodeGroups { code, groups }: &CodeGroups = other;
            Table { layout: self, code: *code, groups }
        };
        core::iter::once(self.own()).chain(self.others.iter().map(other))
    }
}

impl<'l> Table<'l> {
    /// Which code.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// The groups.
    #[must_use]
    pub const fn groups(&self) -> &'l [Vec<DriveId>] {
        self.groups
    }

    /// The group of a stripe.
    ///
    /// # Panics
    /// If the table has no groups: a layout with such a one is refused when it is proposed.
    #[must_use]
    pub fn group_of(&self, stripe: StripeId) -> &'l [DriveId] {
        let hash = mix(stripe.write.0 ^ mix(u64::from(stripe.stripe)));
        &self.groups[(hash % self.groups.len() as u64) as usize]
    }

    /// Where the shards of a stripe go if the drives in `avoid` cannot be used: each to its home, or else to the spare drive
    /// whose node, or then zone, or then rack, has the fewest of the others. `None` with fewer than k+m usable drives. The same
    /// arguments give the same answer forever, so that a manifest stores only `avoid`.
    #[must_use]
    pub fn place(&self, stripe: StripeId, avoid: &[DriveId]) -> Option<Placement> {
        self.place_in(self.group_of(stripe), avoid)
    }

    /// Where the shards of a stripe of this group go, as [`Self::place`].
    #[must_use]
    pub fn place_in(&self, group: &[DriveId], avoid: &[DriveId]) -> Option<Placement> {
        if self.layout.line == 0 {
            return self.place_in_order(group, avoid);
        }
        let (homes, spare) = group.split_at_checked(self.code.shards())?;
        let domains = |drive: &DriveId| match self.layout.domains.get(drive) {
            Some(node) => self.layout.places.domains(*node).map(Some),
            None => [None; 3],
        };
        let is_usable = |drive: &DriveId| !avoid.contains(drive);
        // Few enough to be looked through: the zone, rack and node of each drive that has a shard.
        let mut used: Vec<[Option<NodeId>; 3]> = homes.iter().filter(|home| is_usable(home)).map(domains).collect();
        let mut spare: Vec<DriveId> = spare.iter().copied().filter(is_usable).collect();
        let mut drives = Vec::with_capacity(homes.len());
        for home in homes {
            if is_usable(home) {
                drives.push(*home);
                continue;
            }
            // The first of those that share least.
            let shares = |at: &usize| {
                let of = domains(&spare[*at]);
                let there = [0, 1, 2].map(|level| used.iter().filter(|one| one[level] == of[level]).count());
                let [zone, rack, node] = there;
                let lost = match self.layout.rule {
                    Rule::Nodes => 0,
                    Rule::Losses => there.iter().filter(|count| **count >= usize::from(self.code.parity)).count(),
                };
                [lost, node, zone, rack]
            };
            let drive = spare.remove((0..spare.len()).min_by_key(shares)?);
            used.push(domains(&drive));
            drives.push(drive);
        }
        let is_shared =
            |(at, [.., node]): (usize, &[Option<NodeId>; 3])| used[..at].iter().any(|[.., other]| other == node);
        Some(Placement { drives, shared: used.iter().enumerate().any(is_shared) })
    }

    /// The homes of a stripe's shards, which are what [`place`](Self::place) gives where no drive is avoided; empty for a layout
    /// of no line.
    #[must_use]
    pub fn homes(&self, stripe: StripeId) -> &'l [DriveId] {
        let homes = self.group_of(stripe).get(..self.code.shards());
        homes.filter(|_| self.layout.line > 0).unwrap_or_default()
    }

    /// The first of the group's drives that can be used and share no failure domain, in their order; where there are too few
    /// domains, further drives from the least used ones.
    fn place_in_order(&self, group: &[DriveId], avoid: &[DriveId]) -> Option<Placement> {
        let wanted = self.code.shards();
        let domains = &self.layout.domains;
        let usable: Vec<DriveId> = group.iter().copied().filter(|drive| !avoid.contains(drive)).collect();
        let mut used: BTreeMap<Option<NodeId>, usize> = BTreeMap::new();
        let mut drives: Vec<DriveId> = Vec::with_capacity(wanted);
        let mut share = 0;
        while drives.len() < wanted {
            let next = usable.iter().copied().find(|drive| {
                !drives.contains(drive) && used.get(&domains.get(drive).copied()).copied().unwrap_or(0) <= share
            });
            match next {
                Some(drive) => {
                    *used.entry(domains.get(&drive).copied()).or_default() += 1;
                    drives.push(drive);
                }
                None if share < usable.len() => share += 1,
                None => return None,
            }
        }
        Some(Placement { drives, shared: used.values().any(|&count| count > 1) })
    }
}

/// A mesh's layouts, by their numbers.
pub type Layouts = BTreeMap<LayoutId, Arc<Layout>>;

/// Where the shards of a stripe that was written under a layout in a code may be: of each the drives, first the one that took
/// it, then those that are its home, in that layout and in later ones of the line, to which it may have been moved. `None` for
/// a layout that is not known, or in which the stripe has no place.
#[must_use]
pub fn holders(
    layouts: &Layouts,
    layout: LayoutId,
    code: Option<Code>,
    stripe: StripeId,
    avoid: &[DriveId],
) -> Option<Vec<Vec<DriveId>>> {
    let own = layouts.get(&layout)?;
    let placed = own.table(code)?.place(stripe, avoid)?;
    let mut holders: Vec<Vec<DriveId>> = placed.drives.into_iter().map(|drive| vec![drive]).collect();
    for table in core::iter::once(&**own).chain(later(layouts, own)).filter_map(|layout| layout.table(code)) {
        for (holders, home) in holders.iter_mut().zip(table.homes(stripe)) {
            if !holders.contains(home) {
                holders.push(*home);
            }
        }
    }
    Some(holders)
}

/// The layouts of the same line that came after it, in their order.
pub fn later<'l>(layouts: &'l Layouts, layout: &Layout) -> impl Iterator<Item = &'l Layout> {
    let (id, line) = (layout.id, layout.line);
    let newer = layouts.range((Bound::Excluded(id), Bound::Unbounded)).map(|(_, layout)| &**layout);
    newer.filter(move |layout| line > 0 && layout.line == line)
}

/// What goes on when any one node is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survival {
    /// What is stored can be read.
    pub reads: bool,
    /// New data are taken.
    pub writes: bool,
    /// Why not, and what helps; empty if all goes on.
    pub reason: String,
}

/// SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014): part of the format, for it decides groups.
#[must_use]
pub const fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::WriteId;

    fn layout() -> Layout {
        // Three nodes of two drives.
        let drives: Vec<DriveId> = (1..=6).map(DriveId).collect();
        Layout {
            id: LayoutId(1),
            code: Code { data: 2, parity: 1 },
            groups: vec![drives.clone()],
            domains: drives.iter().map(|drive| (*drive, NodeId((drive.0 - 1) / 2))).collect(),
            line: 0,
            others: Vec::new(),
            places: Places::default(),
            rule: Rule::default(),
        }
    }

    fn stripe() -> StripeId {
        StripeId { write: WriteId(1), stripe: 0, attempt: 0 }
    }

    #[test]
    fn spreads_over_domains_while_they_last() {
        let all = layout().own().place(stripe(), &[]);
        assert_eq!(all, Some(Placement { drives: vec![DriveId(1), DriveId(3), DriveId(5)], shared: false }));
        let two_nodes = layout().own().place(stripe(), &[DriveId(1), DriveId(2)]);
        assert_eq!(two_nodes, Some(Placement { drives: vec![DriveId(3), DriveId(5), DriveId(4)], shared: true }));
        let one_drive = layout().own().place(stripe(), &[DriveId(1)]);
        assert_eq!(one_drive, Some(Placement { drives: vec![DriveId(2), DriveId(3), DriveId(5)], shared: false }));
    }

    #[test]
    fn refuses_with_fewer_than_k_plus_m() {
        let avoid: Vec<DriveId> = (1..=4).map(DriveId).collect();
        assert_eq!(layout().own().place(stripe(), &avoid), None);
    }

    #[test]
    fn a_shard_whose_home_cannot_be_used_goes_where_domains_are_shared_least_and_no_other_goes_elsewhere() {
        let groups = vec![[1, 3, 5, 2, 4, 6].map(DriveId).to_vec()];
        let layout = Layout { line: 1, groups, ..layout() };
        let placed = |avoid: &[u64]| {
            let avoid: Vec<DriveId> = avoid.iter().copied().map(DriveId).collect();
            let placement = layout.own().place(stripe(), &avoid)?;
            Some((placement.drives.into_iter().map(|drive| drive.0).collect::<Vec<_>>(), placement.shared))
        };
        assert_eq!(placed(&[]), Some((vec![1, 3, 5], false)));
        assert_eq!(placed(&[1]), Some((vec![2, 3, 5], false)));
        assert_eq!(placed(&[5]), Some((vec![1, 3, 6], false)));
        assert_eq!(placed(&[3, 4]), Some((vec![1, 2, 5], true)));
        assert_eq!(placed(&[1, 2]), Some((vec![4, 3, 5], true)));
        assert_eq!(placed(&[1, 3]), Some((vec![2, 4, 5], false)));
        assert_eq!(placed(&[1, 2, 3]), Some((vec![4, 6, 5], true)));
        // What is no home is not missed.
        assert_eq!(placed(&[2, 4, 6]), Some((vec![1, 3, 5], false)));
        assert_eq!(placed(&[1, 2, 3, 4]), None);
        assert_eq!(layout.own().homes(stripe()), [1, 3, 5].map(DriveId));
        assert!(Layout { line: 0, ..layout }.own().homes(stripe()).is_empty());
    }

    #[test]
    fn a_spare_drive_is_chosen_so_that_no_rack_has_more_than_may_be_lost() {
        // Drives 1 to 8 of nodes 1 to 4, two in each; nodes 1 and 2 are in one rack, 3 and 4 in another.
        let domains: BTreeMap<DriveId, NodeId> =
            (1..=8).map(|drive| (DriveId(drive), NodeId(drive.div_ceil(2)))).collect();
        let place = |rule: Rule, avoid: &[u64]| {
            let at = |rack: &str| rack.parse().ok();
            let located = [(1, at("a")), (2, at("a")), (3, at("b")), (4, at("b"))];
            let places = Places::of(located.iter().map(|(node, location)| (NodeId(*node), location.as_ref())));
            // Homes: two of each rack, on nodes 1, 3, 2 and 3; the spare drives are of nodes 4, 1, 2 and 4.
            let groups = vec![[1, 5, 3, 6, 7, 2, 4, 8].map(DriveId).to_vec()];
            let (code, domains) = (Code { data: 2, parity: 2 }, domains.clone());
            let layout = Layout { line: 1, groups, domains, places, rule, code, ..layout() };
            let avoid: Vec<DriveId> = avoid.iter().copied().map(DriveId).collect();
            let placement = layout.own().place(stripe(), &avoid).expect("a place");
            placement.drives.into_iter().map(|drive| drive.0).collect::<Vec<_>>()
        };
        for rule in [Rule::Nodes, Rule::Losses] {
            assert_eq!(place(rule, &[]), [1, 5, 3, 6]);
            assert_eq!(place(rule, &[5]), [1, 7, 3, 6]);
            assert_eq!(place(rule, &[1]), [2, 5, 3, 6]);
        }
        // Node 4 has none of it, but its rack would have three; rather two on a node of the other one.
        assert_eq!(place(Rule::Nodes, &[1, 2]), [7, 5, 3, 6]);
        assert_eq!(place(Rule::Losses, &[1, 2]), [4, 5, 3, 6]);
        assert_eq!(place(Rule::Losses, &[1, 2, 4]), [7, 5, 3, 6], "where there is no other");
    }

    #[test]
    fn a_shard_is_where_it_was_put_or_at_its_home_in_a_later_layout_of_the_line() {
        let of = |id, line, drives: [u64; 6]| {
            let groups = vec![drives.map(DriveId).to_vec()];
            (LayoutId(id), Arc::new(Layout { id: LayoutId(id), line, groups, ..layout() }))
        };
        let layouts: Layouts = [
            of(1, 0, [6, 5, 4, 3, 2, 1]),
            of(2, 1, [1, 3, 5, 2, 4, 6]),
            of(3, 2, [6, 4, 2, 1, 3, 5]),
            of(4, 1, [1, 4, 5, 2, 3, 6]),
            of(5, 1, [2, 4, 5, 1, 3, 6]),
        ]
        .into();
        let held = |layout, avoid: &[u64]| {
            let avoid: Vec<DriveId> = avoid.iter().copied().map(DriveId).collect();
            let holders = holders(&layouts, LayoutId(layout), None, stripe(), &avoid)?;
            Some(holders.into_iter().map(|drives| drives.into_iter().map(|drive| drive.0).collect()).collect())
        };
        assert_eq!(held(2, &[]), Some(vec![vec![1, 2], vec![3, 4], vec![5]]));
        assert_eq!(held(2, &[5]), Some(vec![vec![1, 2], vec![3, 4], vec![6, 5]]));
        assert_eq!(held(4, &[]), Some(vec![vec![1, 2], vec![4], vec![5]]));
        assert_eq!(held(5, &[]), Some(vec![vec![2], vec![4], vec![5]]));
        // What is of no line stays where it is, and what is of another is no concern.
        assert_eq!(held(1, &[]), Some(vec![vec![6], vec![4], vec![2]]));
        assert_eq!(held(3, &[]), Some(vec![vec![6], vec![4], vec![2]]));
        assert_eq!(held(6, &[]), None);
        assert_eq!(held(2, &[1, 2, 3, 4]), None::<Vec<Vec<u64>>>);
    }

    #[test]
    fn a_stripe_of_another_code_is_in_that_code_s_groups_of_every_layout_of_the_line() {
        let copies = Code { data: 1, parity: 1 };
        let of = |id, own: [u64; 6], other: [u64; 3]| {
            let others = vec![CodeGroups { code: copies, groups: vec![other.map(DriveId).to_vec()] }];
            let groups = vec![own.map(DriveId).to_vec()];
            (LayoutId(id), Arc::new(Layout { id: LayoutId(id), line: 1, groups, others, ..layout() }))
        };
        let mut layouts: Layouts = [of(2, [1, 3, 5, 2, 4, 6], [6, 4, 2]), of(3, [1, 3, 5, 2, 4, 6], [6, 1, 2])].into();
        let before = Layout { others: Vec::new(), ..Layout::clone(&layouts[&LayoutId(2)]) };
        layouts.insert(LayoutId(1), Arc::new(Layout { id: LayoutId(1), ..before }));
        let held = |layout, code, avoid: &[u64]| {
            let avoid: Vec<DriveId> = avoid.iter().copied().map(DriveId).collect();
            let holders = holders(&layouts, LayoutId(layout), code, stripe(), &avoid)?;
            Some(
                holders
                    .into_iter()
                    .map(|drives| drives.into_iter().map(|drive| drive.0).collect())
                    .collect::<Vec<Vec<_>>>(),
            )
        };
        assert_eq!(held(2, Some(copies), &[]), Some(vec![vec![6], vec![4, 1]]));
        assert_eq!(held(2, Some(copies), &[6]), Some(vec![vec![2, 6], vec![4, 1]]));
        assert_eq!(held(3, Some(copies), &[]), Some(vec![vec![6], vec![1]]));
        // Its own code is the same whether it is named or not, and what has no groups yet has no place.
        assert_eq!(held(2, Some(Code { data: 2, parity: 1 }), &[]), held(2, None, &[]));
        assert_eq!(held(2, None, &[]), Some(vec![vec![1], vec![3], vec![5]]));
        assert_eq!(held(1, Some(copies), &[]), None);
        assert_eq!(held(3, Some(Code { data: 1, parity: 2 }), &[]), None);
        let codes =
            |layout| layouts[&LayoutId(layout)].tables().map(|table| table.code().to_string()).collect::<Vec<_>>();
        assert_eq!((codes(1), codes(3)), (vec!["2+1".to_owned()], vec!["2+1".to_owned(), "1+1".to_owned()]));
    }

    #[test]
    fn codes_are_written_as_they_are_read_and_copies_are_a_code() {
        for text in ["4+2", "1+0", "1+2", "16+8"] {
            assert_eq!(text.parse::<Code>().map(|code| code.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "4", "4+", "+2", "0+1", "17+1", "4+9", "4 + 2", "4+2+1", "256+1", "-1+2", "1++2", "+1+2"] {
            assert_eq!(text.parse::<Code>().map_err(|error| error.kind()), Err(ErrorKind::Invalid), "{text}");
        }
        assert_eq!(Code::copies(3), Ok(Code { data: 1, parity: 2 }));
        assert_eq!(Code::copies(9), Ok(Code { data: 1, parity: 8 }));
        for copies in [0, 10, 255] {
            assert_eq!(Code::copies(copies).map_err(|error| error.kind()), Err(ErrorKind::Invalid), "{copies}");
        }
        let drives = |data, parity| Code { data, parity }.group_drives();
        assert_eq!([drives(1, 1), drives(4, 2), drives(16, 8)], [8, 12, 32]);
    }

    #[test]
    fn a_shard_whose_home_cannot_be_used_goes_to_another_zone_and_rack_if_there_is_one() {
        // A drive on each of five nodes, the homes on the first three.
        let groups = vec![[1, 3, 5, 7, 9].map(DriveId).to_vec()];
        let domains = (0..5).map(|node| (DriveId(2 * node + 1), NodeId(node))).collect();
        let placed = |racks: [&str; 5], avoid: &[u64]| {
            let locations: Vec<Option<Location>> = racks.iter().map(|rack| rack.parse().ok()).collect();
            let places =
                Places::of((0..).map(NodeId).zip(&locations).map(|(node, location)| (node, location.as_ref())));
            let layout =
                Layout { line: 1, groups: groups.clone(), domains: BTreeMap::clone(&domains), places, ..layout() };
            let avoid: Vec<DriveId> = avoid.iter().copied().map(DriveId).collect();
            let placed = layout.own().place(stripe(), &avoid)?;
            Some(placed.drives.into_iter().map(|drive| drive.0).collect::<Vec<_>>())
        };
        let nowhere = [""; 5];
        assert_eq!(placed(nowhere, &[5]), Some(vec![1, 3, 7]));
        // The fourth is in the rack of the second, or in the zone that has two already.
        assert_eq!(placed(["a", "b", "c", "b", "d"], &[5]), Some(vec![1, 3, 9]));
        assert_eq!(placed(["y/a", "y/b", "z/c", "y/d", "z/e"], &[5]), Some(vec![1, 3, 9]));
        assert_eq!(placed(["y/a", "z/b", "y/c", "y/d", "z/e"], &[3]), Some(vec![1, 9, 5]));
        // Where there is no choice it goes there all the same.
        assert_eq!(placed(["a", "b", "c", "b", "d"], &[5, 9]), Some(vec![1, 3, 7]));
        assert_eq!(Places::default().domains(NodeId(9)), [NodeId(9); 3]);
    }
}
