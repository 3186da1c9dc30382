//! Elections called by who sees that there is no leader, so that nobody waits out Raft's (conservative) timeouts: after a
//! restart of all nodes, and when a leader is lost.

use core::time::Duration;
use std::collections::BTreeMap;

use mesh_core::{
    id::{GroupId, ReplicaId},
    op::GroupReport,
    time::Instant,
};

use super::{Group, Sight};

/// The groups in which nobody leads, as far as this node sees.
#[derive(Clone, Debug, Default)]
pub struct Vacancies(BTreeMap<GroupId, Vacancy>);

#[derive(Clone, Copy, Debug)]
struct Vacancy {
    since: Instant,
    /// When this node last stood for election.
    stood: Option<Instant>,
}

impl Vacancies {
    /// The groups in which this node is to stand for election now. The first living voter does so at once and the others
    /// after it, one by one, if that led to nothing: its log may be behind. Only while a majority answers; and an election
    /// asks first whether it would be won, so that one too many disturbs nobody.
    #[must_use]
    pub fn look(&mut self, groups: &[Group], sight: &Sight) -> Vec<GroupId> {
        let now = sight.now;
        self.0.retain(|known, _| groups.iter().any(|group| group.report.group == *known));
        let mut stands = Vec::new();
        for group in groups {
            let Group { report, voters, .. } = group;
            if is_led(group, sight) {
                self.0.remove(&report.group);
                continue;
            }
            let vacancy = self.0.entry(report.group).or_insert(Vacancy { since: now, stood: None });
            if report.trouble.is_some() || vacancy.stood.is_some_and(|at| now.since(at) < STAND_PAUSE) {
                continue;
            }
            let living: Vec<ReplicaId> =
                voters.iter().copied().filter(|voter| answers(*voter, report.group, sight)).collect();
            let Some(turn) = living.iter().position(|voter| *voter == report.replica) else { continue };
            let turn = u32::try_from(turn).unwrap_or(u32::MAX);
            if 2 * living.len() > voters.len() && now.since(vacancy.since) >= STAND_TURN.saturating_mul(turn) {
                vacancy.stood = Some(now);
                stands.push(report.group);
            }
        }
        stands
    }
}

/// Whether somebody who answers leads a group, and says so. After a restart a replica remembers whom it had elected, and
/// who that was has to stand again like anybody else.
fn is_led(group: &Group, sight: &Sight) -> bool {
    let GroupReport { group: id, leader: Some(leader), term, .. } = group.report else { return false };
    if leader == sight.here {
        return group.leads;
    }
    let said = sight.said_of(leader, id);
    // What it said in an earlier term it said of another time.
    sight.alive.contains(&leader) && said.is_none_or(|said| said.leader == Some(leader) || said.term < term)
}

/// A voter that is damaged, or that its node has lost, answers nothing.
fn answers(voter: ReplicaId, group: GroupId, sight: &Sight) -> bool {
    let said = sight.said_of(voter.node(), group);
    let is_sound = said.is_none_or(|said| said.replica == voter && said.trouble.is_none());
    sight.alive.contains(&voter.node()) && is_sound
}

const STAND_PAUSE: Duration = Duration::from_millis(500);
/// How much later the next voter stands: longer than an election takes.
const STAND_TURN: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use mesh_core::id::NodeId;

    use super::*;
    use crate::steward::tests::{group, sight};

    const GROUP: GroupId = GroupId::CONTROL;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    /// As node 2 sees it, one of three voters.
    fn looks(vacancies: &mut Vacancies, leader: Option<u64>, mut sight: Sight, millis: u64) -> bool {
        sight.now = at(millis);
        let mut group = group(2, &[1, 2, 3]);
        group.report.leader = leader.map(NodeId);
        let stands = vacancies.look(&[group], &sight);
        assert!(stands.is_empty() || stands == [GROUP]);
        !stands.is_empty()
    }

    #[test]
    fn the_first_living_voter_stands_at_once_and_the_next_ones_after_it() {
        // Node 1 is there, and stands first.
        let mut vacancies = Vacancies::default();
        let others = || sight(2, &[1, 2, 3], GROUP, None);
        assert!(!looks(&mut vacancies, None, others(), 0));
        assert!(!looks(&mut vacancies, None, others(), 249));
        assert!(looks(&mut vacancies, None, others(), 250));
        // That led to nothing.
        assert!(!looks(&mut vacancies, None, others(), 749));
        assert!(looks(&mut vacancies, None, others(), 750));
        // Somebody leads: a later vacancy begins anew.
        assert!(!looks(&mut vacancies, Some(3), sight(2, &[1, 2, 3], GROUP, Some(3)), 800));
        assert!(!looks(&mut vacancies, None, others(), 900));
        // Node 1 is lost: it is the turn of this one.
        assert!(looks(&mut Vacancies::default(), None, sight(2, &[2, 3], GROUP, None), 0));
    }

    #[test]
    fn nobody_stands_without_a_majority_or_with_damage() {
        assert!(!looks(&mut Vacancies::default(), None, sight(2, &[2], GROUP, None), 0));
        // Node 3 is there, and its replica is not.
        let mut damaged = sight(2, &[2, 3], GROUP, None);
        damaged.change(3, |report| report.groups[0].trouble = Some("damaged".into()));
        assert!(!looks(&mut Vacancies::default(), None, damaged, 0));
        let mut another = sight(2, &[2, 3], GROUP, None);
        another.change(3, |report| report.groups[0].replica = ReplicaId::new(NodeId(3), 9));
        assert!(!looks(&mut Vacancies::default(), None, another, 0));
        let mut own = group(2, &[1, 2, 3]);
        own.report.trouble = Some("damaged".into());
        assert_eq!(Vacancies::default().look(&[own], &sight(2, &[2, 3], GROUP, None)), []);
    }

    #[test]
    fn a_leader_that_is_lost_or_does_not_say_so_leads_nothing() {
        // Remembered from before a restart: node 3 says that it does not lead.
        assert!(looks(&mut Vacancies::default(), Some(3), sight(2, &[2, 3], GROUP, None), 0));
        // It is lost.
        assert!(looks(&mut Vacancies::default(), Some(1), sight(2, &[2, 3], GROUP, Some(1)), 0));
        // It said so in an earlier term: it is asked to say it again.
        let mut earlier = sight(2, &[2, 3], GROUP, None);
        earlier.change(3, |report| report.groups[0].term = 0);
        assert!(!looks(&mut Vacancies::default(), Some(3), earlier, 0));
        // This node, by its own replica.
        let mut own = group(2, &[1, 2, 3]);
        own.report.leader = Some(NodeId(2));
        let of_others = sight(2, &[2, 3], GROUP, None);
        assert_eq!(Vacancies::default().look(&[own.clone()], &of_others), [GROUP]);
        own.leads = true;
        assert_eq!(Vacancies::default().look(&[own], &of_others), []);
    }
}
