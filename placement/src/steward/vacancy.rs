//! Elections called by who sees that there is no leader, so that nobody waits out Raft's (conservative) timeouts: after a
//! restart of all nodes, when a leader is lost, and when one has restarted before anybody has missed it.

use core::time::Duration;
use std::collections::BTreeMap;

use mesh_core::{
    id::{GroupId, Incarnation, NodeId, ReplicaId},
    op::GroupReport,
    time::Instant,
};

use super::{Group, Sight};

/// What is to be done in a group in which nobody leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Who led it in this term is there, and never leads again in it, for its node has restarted, its replica is damaged, or it
    /// knows of a later term: this replica no longer holds others back for its sake. Of those that are down, replicas hear by themselves.
    Forsake(NodeId, u64),
    /// This node stands for election.
    Stand,
}

/// The groups in which nobody leads, as far as this node sees.
#[derive(Clone, Debug, Default)]
pub struct Vacancies {
    vacant: BTreeMap<GroupId, Vacancy>,
    /// Who leads each group in which term, as far as this node's replica knows, and which start of that node it was when
    /// this became known.
    led: BTreeMap<GroupId, (NodeId, u64, Incarnation)>,
}

#[derive(Clone, Copy, Debug)]
struct Vacancy {
    since: Instant,
    /// Whose lead this replica was told to forget, and of which term.
    forsaken: Option<(NodeId, u64)>,
    /// When this node last stood for election.
    stood: Option<Instant>,
}

impl Vacancies {
    /// What is to be done now in groups in which nobody leads, apart from those of which something is under way (`is_free`).
    /// Each forgets first who led it. The first living voter stands at once then, and the others after it, one by one, if
    /// that led to nothing: its log may be behind. Only while a majority answers; and an election asks first whether it
    /// would be won, so that one too many disturbs nobody.
    #[must_use]
    pub fn look(&mut self, groups: &[Group], sight: &Sight, is_free: impl Fn(GroupId) -> bool) -> Vec<(GroupId, Step)> {
        let now = sight.now;
        self.vacant.retain(|known, _| groups.iter().any(|group| group.report.group == *known));
        self.led.retain(|known, _| groups.iter().any(|group| group.report.group == *known));
        let mut steps = Vec::new();
        for group in groups {
            let Group { report, voters, .. } = group;
            let gone = self.has_gone(report, sight);
            if is_led(group, sight) {
                self.vacant.remove(&report.group);
                continue;
            }
            let vacancy =
                self.vacant.entry(report.group).or_insert(Vacancy { since: now, forsaken: None, stood: None });
            if report.trouble.is_some() || !is_free(report.group) {
                continue;
            }
            if let Some((leader, term)) = gone.filter(|led| vacancy.forsaken != Some(*led)) {
                vacancy.forsaken = gone;
                steps.push((report.group, Step::Forsake(leader, term)));
                continue;
            }
            if vacancy.stood.is_some_and(|at| now.since(at) < STAND_PAUSE) {
                continue;
            }
            let living: Vec<ReplicaId> =
                voters.iter().copied().filter(|voter| answers(*voter, report, sight)).collect();
            let Some(turn) = living.iter().position(|voter| *voter == report.replica) else { continue };
            let turn = u32::try_from(turn).unwrap_or(u32::MAX);
            if 2 * living.len() > voters.len() && now.since(vacancy.since) >= STAND_TURN.saturating_mul(turn) {
                vacancy.stood = Some(now);
                steps.push((report.group, Step::Stand));
            }
        }
        steps
    }

    /// A group's replica did not forget who led: it is told again.
    pub fn did_not_forsake(&mut self, group: GroupId) {
        if let Some(vacancy) = self.vacant.get_mut(&group) {
            vacancy.forsaken = None;
        }
    }

    /// Who led in which term, if that is over for good: its replica is damaged, or knows of a later term; or its node is another
    /// start of itself than when it was known to lead, and does not lead any more. That it does not say so is not enough: what it
    /// said last may be of when it stood.
    fn has_gone(&mut self, report: &GroupReport, sight: &Sight) -> Option<(NodeId, u64)> {
        let leader = report.leader.filter(|leader| *leader != sight.here && sight.alive.contains(leader))?;
        let start = sight.reports.get(&leader)?.incarnation;
        let led = self.led.entry(report.group).or_insert((leader, report.term, start));
        if (led.0, led.1) != (leader, report.term) {
            *led = (leader, report.term, start);
        }
        let said = sight.said_of(leader, report.group);
        let is_over = said.is_some_and(|said| said.trouble.is_some() || said.term > report.term);
        (is_over || start > led.2).then_some((leader, report.term))
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
    // What it said in an earlier term it said of another time; a replica that is damaged has forgotten its term.
    let leads = |said: &GroupReport| said.trouble.is_none() && (said.leader == Some(leader) || said.term < term);
    sight.alive.contains(&leader) && said.is_none_or(leads)
}

/// A voter that is damaged, that its node has lost, or that has gone on from a later recovery, answers nothing.
fn answers(voter: ReplicaId, own: &GroupReport, sight: &Sight) -> bool {
    let said = sight.said_of(voter.node(), own.group);
    let is_sound = said.is_none_or(|said| said.is_sound(voter, own.timeline));
    sight.alive.contains(&voter.node()) && is_sound
}

pub(super) const STAND_PAUSE: Duration = Duration::from_millis(500);
/// How much later the next voter stands: longer than an election takes.
const STAND_TURN: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
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
        steps(vacancies, group, &sight).contains(&Step::Stand)
    }

    fn steps(vacancies: &mut Vacancies, group: Group, sight: &Sight) -> Vec<Step> {
        let steps = vacancies.look(&[group], sight, |_| true);
        assert!(steps.iter().all(|(group, _)| *group == GROUP));
        steps.into_iter().map(|(_, step)| step).collect()
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
        assert_eq!(steps(&mut Vacancies::default(), own, &sight(2, &[2, 3], GROUP, None)), []);
    }

    #[test]
    fn a_leader_that_is_lost_or_does_not_say_so_leads_nothing() {
        // It is lost.
        assert!(looks(&mut Vacancies::default(), Some(1), sight(2, &[2, 3], GROUP, Some(1)), 0));
        // It said so in an earlier term: it is asked to say it again.
        let mut earlier = sight(2, &[2, 3], GROUP, None);
        earlier.change(3, |report| report.groups[0].term = 0);
        assert!(!looks(&mut Vacancies::default(), Some(3), earlier.clone(), 0));
        // It has lost its metadata with its restart, and with them the term.
        let mut damaged = earlier.clone();
        damaged.change(3, |report| report.groups[0].trouble = Some("damaged".into()));
        let mut led = group(2, &[1, 2, 3]);
        led.report.leader = Some(NodeId(3));
        assert_eq!(steps(&mut Vacancies::default(), led, &damaged), [Step::Forsake(NodeId(3), 1)]);
        // This node, by its own replica.
        let mut own = group(2, &[1, 2, 3]);
        own.report.leader = Some(NodeId(2));
        let of_others = sight(2, &[2, 3], GROUP, None);
        assert_eq!(steps(&mut Vacancies::default(), own.clone(), &of_others), [Step::Stand]);
        own.leads = true;
        assert_eq!(steps(&mut Vacancies::default(), own, &of_others), []);
    }

    #[test]
    fn who_says_that_it_leads_no_more_is_forsaken_once_for_a_term_and_then_somebody_stands() {
        let mut vacancies = Vacancies::default();
        let mut led = group(2, &[1, 2, 3]);
        led.report.leader = Some(NodeId(3));
        let term = led.report.term;
        // It has just been elected: what it said last is of when it stood.
        let mut of_others = sight(2, &[2, 3], GROUP, None);
        assert_eq!(steps(&mut vacancies, led.clone(), &of_others), [Step::Stand], "which asks first");
        assert_eq!(steps(&mut vacancies, led.clone(), &sight(2, &[2, 3], GROUP, Some(3))), []);
        // It has restarted.
        of_others.change(3, |report| report.incarnation = Incarnation(7));
        let forsakes = |term| vec![Step::Forsake(NodeId(3), term)];
        assert_eq!(steps(&mut vacancies, led.clone(), &of_others), forsakes(term));
        // As long as that is under way nothing else is begun; and if it comes to nothing it is told again.
        assert_eq!(vacancies.look(&[led.clone()], &of_others, |_| false), []);
        vacancies.did_not_forsake(GROUP);
        assert_eq!(steps(&mut vacancies, led.clone(), &of_others), forsakes(term));
        assert_eq!(steps(&mut vacancies, led.clone(), &of_others), [Step::Stand]);
        // This start of it leads in the next term, and then another one is there.
        let mut again = of_others.clone();
        again.change(3, |report| report.groups[0].term = term + 1);
        led.report.term += 1;
        assert_eq!(steps(&mut vacancies, led.clone(), &again), [], "it has stood just now");
        again.change(3, |report| report.incarnation = Incarnation(8));
        assert_eq!(steps(&mut vacancies, led.clone(), &again), forsakes(term + 1));
        // Who only follows, or whose turn has not come, holds nobody back either.
        let (mut learner, mut vacancies) = (led, Vacancies::default());
        learner.voters.remove(&learner.report.replica);
        assert_eq!(steps(&mut vacancies, learner.clone(), &again), []);
        again.change(3, |report| report.groups[0].trouble = Some("damaged".into()));
        assert_eq!(steps(&mut vacancies, learner, &again), forsakes(term + 1));
    }

    /// It has heard of somebody who stood in a later term and was not elected: those who follow it would wait for it, and it does
    /// not lead any more.
    #[test]
    fn who_knows_of_a_later_term_than_it_led_in_is_forsaken() {
        let mut led = group(2, &[1, 2, 3]);
        led.report.leader = Some(NodeId(3));
        let term = led.report.term;
        let mut later = sight(2, &[2, 3], GROUP, None);
        later.change(3, |report| report.groups[0].term = term + 1);
        let mut vacancies = Vacancies::default();
        assert_eq!(steps(&mut vacancies, led.clone(), &later), [Step::Forsake(NodeId(3), term)]);
        assert_eq!(steps(&mut vacancies, led.clone(), &later), [Step::Stand]);
        // It leads in that one: this node is about to hear of it.
        later.change(3, |report| report.groups[0].leader = Some(NodeId(3)));
        assert_eq!(steps(&mut Vacancies::default(), led, &later), []);
    }

    #[test]
    fn a_majority_is_more_than_half_of_the_voters() {
        let stands = |voters: &[u64], alive: &[u64]| {
            let mut own = group(2, voters);
            own.report.leader = None;
            steps(&mut Vacancies::default(), own, &sight(2, alive, GROUP, None)).contains(&Step::Stand)
        };
        assert!(!stands(&[1, 2, 3, 4], &[2, 3]));
        assert!(stands(&[1, 2, 3, 4], &[2, 3, 4]));
        assert!(!stands(&[1, 2, 3, 4, 5], &[2, 3]));
        assert!(stands(&[1, 2, 3, 4, 5], &[2, 3, 4]));
    }

    #[test]
    fn one_that_is_not_there_is_not_forsaken_whatever_start_it_was() {
        let mut led = group(2, &[1, 2, 3]);
        led.report.leader = Some(NodeId(3));
        let mut vacancies = Vacancies::default();
        assert_eq!(steps(&mut vacancies, led.clone(), &sight(2, &[2, 3], GROUP, Some(3))), []);
        // It has restarted, and was heard, and is missed again: replicas hear of that by themselves.
        let mut gone = sight(2, &[1, 2, 3], GROUP, None);
        gone.change(3, |report| report.incarnation = Incarnation(7));
        gone.alive = std::sync::Arc::new([NodeId(1), NodeId(2)].into());
        assert!(!steps(&mut vacancies, led, &gone).iter().any(|step| matches!(step, Step::Forsake(..))));
    }
}
