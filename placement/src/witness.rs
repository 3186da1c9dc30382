//! Whether a node that speaks is the one that is known, with all that it had promised.
//!
//! A metadata store that is put back from a copy is sound in itself, and has forgotten what it acknowledged since. It
//! cannot know, but others can: they remember the starts of the node, and how often it had marked its store. So every
//! beat carries what its sender remembers of the one it is for, both sides judge by it, and no message of Raft is taken
//! from a node before a beat of it was.
//!
//! What nobody remembers is not seen: a copy that was made in the very run that is restored, once all others have been
//! started again since; or one that is older than [`STARTS_MAX`] starts without any other node.

use core::cmp::Ordering;

use mesh_core::{
    id::{Incarnation, ReplicaId},
    op::{STARTS_MAX, Witness},
};

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// Of its data folder.
    pub life: u64,
    /// The starts that the folder remembers, the present one last.
    pub starts: &'a [Incarnation],
    /// Its replica of the control group.
    pub replica: Option<ReplicaId>,
    /// How often its store is marked.
    pub marked: u64,
}

impl Said<'_> {
    /// The present start.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.starts.last().copied().unwrap_or_default()
    }

    /// What to remember of it, given what is remembered already.
    #[must_use]
    pub fn remembered(&self, known: Option<&Witness>) -> Witness {
        let same = known.filter(|known| known.life == self.life && known.replica == self.replica);
        Witness {
            life: self.life,
            incarnation: self.incarnation(),
            replica: self.replica,
            marked: self.marked.max(same.map_or(0, |known| known.marked)),
        }
    }
}

/// What is to be thought of who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the node: what it says counts.
    Known,
    /// A start of it that is over.
    Earlier,
    /// Another machine under the number of a member.
    Stranger,
    /// A copy of the node, elsewhere, while it runs itself.
    Twin,
    /// Its files are older than what it has promised, and in what.
    SetBack(String),
    /// A copy of the node, or a later start of it: that is to be seen within a silence.
    TooSoon,
}

/// Whether the known start is there beside one that speaks, at another address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// Nothing says so.
    None,
    /// It may be: whoever is asked has not listened for long enough to say that it is not.
    Unheard,
    /// It was heard of just now.
    Alive,
}

/// Judges who speaks. `member` is the life of the node that has this number in the mesh, if one has. `rival`: how the known
/// start is.
#[must_use]
pub fn judge(said: &Said<'_>, known: Option<&Witness>, member: Option<u64>, rival: Rival) -> Verdict {
    if member.is_some_and(|life| life != said.life) {
        return Verdict::Stranger;
    }
    // Of another life under this number, which is no member, nothing is to be kept.
    let Some(known) = known.filter(|known| known.life == said.life || member.is_none()) else {
        return Verdict::Known;
    };
    if let Some(why) = set_back(said, known) {
        return Verdict::SetBack(why);
    }
    match said.incarnation().cmp(&known.incarnation) {
        // A process that has ended is silent soon, and one that runs stays where it is.
        _ if rival == Rival::Alive && known.life == said.life => Verdict::Twin,
        // The same start again is no other, wherever it is.
        Ordering::Less | Ordering::Greater if rival == Rival::Unheard && known.life == said.life => Verdict::TooSoon,
        Ordering::Less => Verdict::Earlier,
        Ordering::Equal | Ordering::Greater => Verdict::Known,
    }
}

/// Whether this node has files that are older than what is remembered of it, and in what.
#[must_use]
pub fn set_back(said: &Said<'_>, known: &Witness) -> Option<String> {
    // A new replica has promised nothing before.
    if known.life != said.life || known.replica.is_none() || known.replica != said.replica {
        return None;
    }
    // While it runs nobody can set it back, and what it says may come out of order. An earlier process says nothing of
    // what came after it.
    if known.incarnation >= said.incarnation() {
        return None;
    }
    // One mark may be lost to damage of one of its halves.
    if said.marked.saturating_add(1) < known.marked {
        return Some(format!("it was marked {} times, and is as it was after {}", known.marked, said.marked));
    }
    if !knows(said.starts, known.incarnation) {
        return Some(format!(
            "{} of this node was the last, of which its data folder knows nothing",
            known.incarnation
        ));
    }
    None
}

/// Whether the start that counts here, the last of `starts`, gives way to the one that the mesh has registered. Of two
/// machines that start at once from copies of one folder some nodes hear the one first and some the other; the group
/// registers one of them, and that one it is for all. A start that has the registered one behind it stays: it is about
/// to be registered itself.
#[must_use]
pub fn gives_way(starts: &[Incarnation], registered: Incarnation) -> bool {
    // What was registered before both, and one of them does not remember, is no sibling: its folder was set back.
    let [.., before, _] = starts else { return false };
    registered > *before && !knows(starts, registered)
}

/// Whether a folder with these starts was the one that had this start, as far as it remembers.
#[must_use]
pub fn knows(starts: &[Incarnation], start: Incarnation) -> bool {
    let oldest = starts.first().filter(|_| starts.len() >= STARTS_MAX);
    starts.contains(&start) || oldest.is_some_and(|oldest| start < *oldest)
}

#[cfg(test)]
mod tests {
    use mesh_core::id::NodeId;

    use super::*;

    const LIFE: u64 = 7;

    fn replica(number: u64) -> Option<ReplicaId> {
        Some(ReplicaId::new(NodeId(2), number))
    }

    fn known(incarnation: u64, marked: u64) -> Witness {
        Witness { life: LIFE, incarnation: Incarnation(incarnation), replica: replica(1), marked }
    }

    fn starts(of: impl IntoIterator<Item = u64>) -> Vec<Incarnation> {
        of.into_iter().map(Incarnation).collect()
    }

    fn said(starts: &[Incarnation], marked: u64) -> Said<'_> {
        Said { life: LIFE, starts, replica: replica(1), marked }
    }

    #[test]
    fn a_node_that_starts_again_is_known() {
        let starts = starts([10, 20, 30]);
        assert_eq!(judge(&said(&starts, 0), None, None, Rival::None), Verdict::Known);
        assert_eq!(judge(&said(&starts, 5), Some(&known(20, 5)), Some(LIFE), Rival::None), Verdict::Known);
        assert_eq!(judge(&said(&starts, 5), Some(&known(10, 3)), Some(LIFE), Rival::None), Verdict::Known);
        assert_eq!(judge(&said(&starts, 9), Some(&known(30, 8)), Some(LIFE), Rival::None), Verdict::Known);
    }

    #[test]
    fn a_folder_from_before_a_start_that_others_remember_was_set_back() {
        // The copy is of the start 20; 30 ran since; now it is 40.
        let starts = starts([10, 20, 40]);
        assert!(matches!(judge(&said(&starts, 9), Some(&known(30, 0)), Some(LIFE), Rival::None), Verdict::SetBack(_)));
        // However often it is started again.
        let starts = self::starts([10, 20, 40, 50, 60]);
        assert!(matches!(judge(&said(&starts, 9), Some(&known(30, 0)), Some(LIFE), Rival::None), Verdict::SetBack(_)));
    }

    #[test]
    fn a_store_that_was_marked_less_often_than_others_remember_was_set_back() {
        let starts = starts([10, 20]);
        assert!(matches!(
            judge(&said(&starts, 97), Some(&known(10, 99)), Some(LIFE), Rival::None),
            Verdict::SetBack(_)
        ));
        // One half of the mark may be damaged.
        assert_eq!(judge(&said(&starts, 98), Some(&known(10, 99)), Some(LIFE), Rival::None), Verdict::Known);
    }

    #[test]
    fn of_two_starts_from_one_folder_the_registered_one_counts() {
        // Both came after 20.
        assert!(gives_way(&starts([10, 20, 40]), Incarnation(41)));
        assert!(gives_way(&starts([10, 20, 41]), Incarnation(40)));
        // Not registered yet.
        assert!(!gives_way(&starts([10, 20, 40]), Incarnation(20)));
        assert!(!gives_way(&starts([10, 20, 40]), Incarnation(40)));
        // A folder that has lost its starts, and one from before the registered start: others say that they were set back.
        assert!(!gives_way(&starts([40]), Incarnation(20)));
        assert!(!gives_way(&starts([10, 30, 40]), Incarnation(20)));
        // From before what it remembers.
        let many: Vec<Incarnation> = starts(100..100 + STARTS_MAX as u64);
        assert!(!gives_way(&many, Incarnation(20)));
        assert!(gives_way(&many, Incarnation(1000)));
    }

    #[test]
    fn a_new_replica_has_promised_nothing() {
        let starts = starts([10, 20, 40]);
        let renewed = Said { replica: replica(2), ..said(&starts, 1) };
        assert_eq!(judge(&renewed, Some(&known(30, 99)), Some(LIFE), Rival::None), Verdict::Known);
        assert_eq!(renewed.remembered(Some(&known(30, 99))).marked, 1);
        let unopened = Said { replica: None, ..said(&starts, 0) };
        assert_eq!(judge(&unopened, Some(&known(30, 99)), Some(LIFE), Rival::None), Verdict::Known);
    }

    #[test]
    fn who_starts_more_often_than_a_folder_remembers_is_known_all_the_same() {
        let starts = starts(100..100 + STARTS_MAX as u64);
        assert_eq!(judge(&said(&starts, 9), Some(&known(50, 0)), Some(LIFE), Rival::None), Verdict::Known);
        let few = &starts[1..];
        assert!(matches!(judge(&said(few, 9), Some(&known(50, 0)), Some(LIFE), Rival::None), Verdict::SetBack(_)));
    }

    #[test]
    fn what_comes_out_of_order_is_no_sign() {
        let starts = starts([10, 20]);
        assert_eq!(judge(&said(&starts, 3), Some(&known(20, 9)), Some(LIFE), Rival::None), Verdict::Known);
    }

    #[test]
    fn an_earlier_process_is_only_over() {
        let starts = starts([10, 20]);
        assert_eq!(judge(&said(&starts, 9), Some(&known(30, 9)), Some(LIFE), Rival::None), Verdict::Earlier);
    }

    #[test]
    fn a_copy_does_not_take_the_place_of_who_runs_elsewhere() {
        let starts = starts([10, 20, 30]);
        assert_eq!(judge(&said(&starts, 9), Some(&known(20, 9)), Some(LIFE), Rival::Alive), Verdict::Twin);
        let renewed = Said { replica: replica(2), ..said(&starts, 1) };
        assert_eq!(judge(&renewed, Some(&known(20, 9)), Some(LIFE), Rival::Alive), Verdict::Twin);
        // Or in the very same moment.
        assert_eq!(judge(&said(&starts, 9), Some(&known(30, 9)), Some(LIFE), Rival::Alive), Verdict::Twin);
        // Or just before.
        assert_eq!(judge(&said(&starts, 9), Some(&known(31, 9)), Some(LIFE), Rival::Alive), Verdict::Twin);
    }

    #[test]
    fn who_has_only_just_started_takes_no_copy_for_a_successor() {
        // It comes after 20 and knows nothing of 30, the registered one, which may be there.
        let copy = starts([10, 20, 40]);
        let renewed = Said { replica: replica(2), ..said(&copy, 1) };
        assert_eq!(judge(&renewed, Some(&known(30, 9)), Some(LIFE), Rival::Unheard), Verdict::TooSoon);
        assert_eq!(judge(&renewed, Some(&known(30, 9)), Some(LIFE), Rival::None), Verdict::Known, "it is not");
        // A folder may be copied while its node runs, and knows everything then.
        let copy = starts([10, 20, 30, 40]);
        assert_eq!(judge(&said(&copy, 9), Some(&known(30, 9)), Some(LIFE), Rival::Unheard), Verdict::TooSoon);
        assert_eq!(judge(&said(&copy, 9), Some(&known(30, 9)), Some(LIFE), Rival::None), Verdict::Known);
        let same = starts([10, 20, 30]);
        assert_eq!(judge(&said(&same, 9), Some(&known(30, 9)), Some(LIFE), Rival::Unheard), Verdict::Known);
    }

    #[test]
    fn another_machine_never_takes_the_place_of_a_member() {
        let starts = starts([900]);
        let other = Said { life: 8, ..said(&starts, 0) };
        assert_eq!(judge(&other, Some(&known(30, 9)), Some(LIFE), Rival::None), Verdict::Stranger);
        // But the member takes its own place back from whoever was there before it was one.
        let stranger = Witness { life: 8, ..known(900, 0) };
        let starts = self::starts([10]);
        assert_eq!(judge(&said(&starts, 0), Some(&stranger), Some(LIFE), Rival::None), Verdict::Known);
        // As long as neither is a member, the later one counts.
        assert_eq!(judge(&said(&starts, 0), Some(&stranger), None, Rival::None), Verdict::Earlier);
    }
}
