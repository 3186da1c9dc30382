//! A replica that goes on as the only voter of its group, with all that is in its log, whoever else had agreed to that.
//!
//! Raft has no way to do this, for it is not safe: what only others had is lost, and if they come back they are a group of
//! their own. Somebody has accepted that. So it is done to the replica's files, while it is closed:
//!
//! ```text
//!   'f' says what it is to be: durable     a crash: opening goes on from here
//!   the state has all of the log, and what makes up for what is not known (see `mesh_actors::metadata::state::recover`),
//!     and the replica under a new number is the only member; in one batch
//!   the vote and the purged log, up to an entry behind all that there were
//!   the mark claims that, under the new number; then 'f' is removed
//! ```
//!
//! The other old replicas are strangers to the new number, and learn from it as new ones do.
//!
//! Where the control group's was cut short, whoever is to be lost may have come back before the node starts again, and may lead.
//! So such a replica waits, and so do all that were restored from a backup, until it is certain that nobody goes on already who
//! would be left behind: see [`Waits`]. If somebody does, what waits is set aside as what is damaged is.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::Arc,
};

use mesh_actors::metadata::state;
use mesh_core::{
    Error, ErrorKind,
    id::{GroupId, NodeId, ReplicaId},
    op::{Condition, Force, LogEnd, Recovery, ReplicaReport, Timeline, Waits},
    topology::NodeKind,
};
use openraft::{Membership as Members, StoredMembership, impls::leader_id_adv::LeaderId};
use serde::{Deserialize, Serialize};

use super::{
    RaftMetadata, lock,
    log::LogStore,
    machine::GroupState,
    mark::Claim,
    replica::Replica,
    store::{Health, Slot, Store},
    types::{LogId, Vote},
};

/// What a replica is to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Forced {
    /// Under which number.
    replica: ReplicaId,
    /// Behind all that it had.
    at: LogId,
    recovery: Recovery,
}

impl Forced {
    /// Makes a replica the only voter of its group. It must be closed. Blocks.
    ///
    /// # Errors
    /// `Conflict` if it is not the one that was judged, or has not what it had then; what `state::recover` refuses; or
    /// `DriveFailed`: where it may have been begun by then, the group is damaged until it goes on when the node starts again.
    pub(super) fn carry_out(store: &Arc<Store>, force: &Force) -> Result<ReplicaId, Error> {
        let group = force.group;
        let forced = Self::of(store, force).map_err(|error| refused(group, error))?;
        let begun = store.write(group, Slot::Forced, &forced).and_then(|()| store.finish());
        begun.and_then(|()| forced.finish(store, group)).map_err(|error| {
            store.note(group, &format!("it was to go on by itself, and that was not finished: {error}"));
            let what = "the replica is to go on by itself, and its files cannot be written: that is decided, and is done when this \
                        host starts anew, unless one runs then that was to be lost; so start none of those";
            Error::new(ErrorKind::DriveFailed, what).with("group", group).caused_by(error)
        })?;
        Ok(forced.replica)
    }

    /// Finishes what was begun before this start, or has it wait. A group of which that fails is damaged: it is neither what it was
    /// nor what it was to be. Gives the hosts, where what knows them waits.
    pub(super) fn go_on(store: &Arc<Store>) -> Vec<(NodeId, SocketAddr)> {
        let known = hosts(store);
        for group in store.groups_with(Slot::Forced) {
            match store.read::<Self>(group, Slot::Forced) {
                Ok(Some(Self { recovery: Recovery { lost, .. }, .. })) if !lost.is_empty() => {
                    let what = "this replica is to go on alone, as somebody has accepted, once it is certain that none of those runs \
                                that are to be lost";
                    let named: Vec<String> = lost.iter().map(ToString::to_string).collect();
                    store.hold(
                        group,
                        waits(what).with("group", group).with("lost", named.join(" ")),
                        Waits::Without(lost),
                    );
                }
                Ok(_) => drop(Self::end(store, group)),
                Err(error) => store.note(group, &cannot_be_finished(&error)),
            }
        }
        if is_restored(store) {
            let what = "these metadata were restored from a backup, and go on once it is certain that no other host that runs has \
                        metadata of its own: say `mesh metadata empty` where one has";
            store
                .replicas()
                .into_keys()
                .for_each(|group| store.hold(group, waits(what).with("group", group), Waits::Restored));
        }
        if store.held().contains(&GroupId::CONTROL) { known } else { Vec::new() }
    }

    /// What waits goes on. Gives the groups.
    ///
    /// # Errors
    /// `DriveFailed`: a group of which that cannot be written is damaged, until the next start.
    pub(super) fn let_go_on(store: &Arc<Store>) -> Result<BTreeSet<GroupId>, Error> {
        let held = store.held();
        if let Some(Waits::Restored) = store.waits() {
            let gone_on = store.remove(GroupId::CONTROL, Slot::Restored).and_then(|()| store.finish());
            gone_on.map_err(|error| refused(GroupId::CONTROL, error))?;
        }
        for group in &held {
            store.release(*group);
            Self::end(store, *group).map_err(|error| refused(*group, error))?;
        }
        Ok(held)
    }

    /// Finishes what was begun of a group, if anything was.
    fn end(store: &Arc<Store>, group: GroupId) -> io::Result<()> {
        let finished = match store.read::<Self>(group, Slot::Forced) {
            Ok(Some(forced)) => forced.finish(store, group),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        finished.inspect_err(|error| store.note(group, &cannot_be_finished(error)))
    }

    fn of(store: &Arc<Store>, force: &Force) -> io::Result<Self> {
        let Force { group, survivor, recovery } = force;
        if store.groups_with(Slot::Forced).contains(group) {
            let what = "the replica was to go on alone before, and does once its node starts anew";
            return Err(io::Error::other(Error::new(ErrorKind::Conflict, what).with("group", group)));
        }
        let own = store.replica(*group)?;
        let log = LogStore::open(Arc::clone(store), *group)?;
        let state = GroupState::open(Arc::clone(store), *group, None)?;
        let last = log.last_id()?;
        if survivor.as_ref().map(|(replica, end)| (*replica, Some(*end))) != Some((own, end_of(last)))
            && !(survivor.is_none() && last.is_none() && state.applied_index().is_none())
        {
            let what = "the replica is not as it was when this was planned: look again";
            return Err(io::Error::other(
                Error::new(ErrorKind::Conflict, what).with("group", group).with("replica", own),
            ));
        }
        // Before anything is written: it may be refused.
        drop(state.recovered(&log, recovery)?);
        let vote = store.read::<Vote>(*group, Slot::Vote)?.map_or(0, |vote| vote.leader_id.term);
        // Behind all replicas that there are, too: one that was ahead, of a node that is not lost, would take what comes for what
        // it has.
        let seconds = state.history().after(recovery).timeline.at.0 / 1000;
        let term = (vote.max(last.map_or(0, |last| last.leader_id.term)) + 1).max(seconds);
        let index = last.map_or(0, |last| last.index).max(state.applied_index().unwrap_or(0)) + 1;
        let index = index.max(seconds.saturating_mul(ENTRIES_A_SECOND));
        let replica = store.mint()?;
        let at = LogId { leader_id: LeaderId { term, node_id: replica.0 }, index };
        Ok(Self { replica, at, recovery: recovery.clone() })
    }

    /// Every step may have been done before.
    fn finish(&self, store: &Arc<Store>, group: GroupId) -> io::Result<()> {
        let Self { replica, at, recovery } = self;
        let state = GroupState::open(Arc::clone(store), group, None)?;
        if state.applied_index() != Some(at.index) {
            let log = LogStore::open(Arc::clone(store), group)?;
            let changes = state.recovered(&log, recovery)?;
            state.commit(&changes, Some(*at), alone(*replica, *at)?)?;
            store.finish()?;
        }
        drop(state);
        let vote = Vote { leader_id: at.leader_id, committed: false };
        store.write(group, Slot::Vote, &vote)?;
        store.write(group, Slot::Purged, at)?;
        store.finish()?;
        // What it purges is removed as it is opened.
        drop(LogStore::open(Arc::clone(store), group)?);
        store.claim(group, |claim| {
            let generation = claim.generation;
            let (vote, purged, applied) = (Some(vote), Some(*at), Some(*at));
            *claim = Claim { replica: *replica, generation, vote, last: None, purged, applied };
        });
        // Into both halves of the mark: what the older one claims of another number must not come back.
        store.finish().and_then(|()| store.finish())?;
        store.remove(group, Slot::Forced)?;
        store.finish()
    }
}

/// Whether all was restored and nobody has gone on from it since: a build that does not know the row may have run. Where that cannot
/// be read it is so.
fn is_restored(store: &Arc<Store>) -> bool {
    if !store.groups_with(Slot::Restored).contains(&GroupId::CONTROL) {
        return false;
    }
    let is_over = GroupState::open(Arc::clone(store), GroupId::CONTROL, None)
        .is_ok_and(|state| state.position().1.membership().nodes().count() > 1);
    if is_over && let Err(error) = store.remove(GroupId::CONTROL, Slot::Restored) {
        tracing::warn!(%error, "what says that metadata were restored cannot be removed");
    }
    !is_over
}

/// The hosts that the control group knows, as far as it can be read.
fn hosts(store: &Arc<Store>) -> Vec<(NodeId, SocketAddr)> {
    let waits =
        [Slot::Forced, Slot::Restored].into_iter().any(|slot| store.groups_with(slot).contains(&GroupId::CONTROL));
    if !waits {
        return Vec::new();
    }
    let state = GroupState::open(Arc::clone(store), GroupId::CONTROL, None);
    let view = state.ok().and_then(|state| state.with_table(|table| state::control_view(table)).ok());
    let all = view.iter().flat_map(|view| view.nodes.values().filter(|info| info.kind == NodeKind::Host));
    all.filter_map(|info| Some((info.id, info.address.parse().ok()?))).collect()
}

fn waits(what: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

fn cannot_be_finished(error: &io::Error) -> String {
    format!("it was to go on by itself, and that cannot be finished: {error}")
}

/// No group has had so many since 1970.
const ENTRIES_A_SECOND: u64 = 1 << 16;

/// The only member.
fn alone(replica: ReplicaId, at: LogId) -> io::Result<super::types::Membership> {
    let voters = vec![BTreeSet::from([replica.0])];
    let members = Members::new(voters, BTreeMap::from([(replica.0, ())])).map_err(io::Error::other)?;
    Ok(StoredMembership::new(Some(at), members))
}

fn end_of(last: Option<LogId>) -> Option<LogEnd> {
    last.map(|last| LogEnd { term: last.leader_id.term, index: last.index })
}

fn refused(group: GroupId, error: io::Error) -> Error {
    let why = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    if let Some(why) = why.filter(|why| !matches!(why.kind(), ErrorKind::Corrupt | ErrorKind::DriveFailed)) {
        return why.clone();
    }
    let what = "the replica cannot go on by itself: its files cannot be read or written";
    Error::new(ErrorKind::DriveFailed, what).with("group", group).caused_by(error)
}

impl RaftMetadata {
    /// The replicas of this node, open or not. Opens those that nobody has asked for since it started.
    pub async fn replica_reports(&self) -> Vec<ReplicaReport> {
        let mut reports = Vec::new();
        for group in self.kept() {
            let opened = self.ensure_group(group).await;
            let Ok(replica) = self.replica(group) else {
                if let Err(error) = opened {
                    tracing::warn!(node = %self.node, %group, %error, "a replica of a metadata group cannot be opened");
                }
                let Some(replica) = self.replica_id(group) else { continue };
                let condition = self.condition(group, Condition::Stopped);
                let (voters, end) = (Vec::new(), None);
                reports.push(ReplicaReport {
                    group,
                    replica,
                    condition,
                    leads: false,
                    voters,
                    end,
                    timeline: Timeline::default(),
                });
                continue;
            };
            let has_stopped = replica.trouble().is_some();
            reports.push(ReplicaReport {
                group,
                replica: replica.id(),
                condition: self.condition(group, if has_stopped { Condition::Stopped } else { Condition::Sound }),
                leads: !has_stopped && self.is_followed(&replica),
                voters: replica.voter_sets(),
                end: replica.last_id().ok().and_then(end_of),
                timeline: replica.state.history().timeline,
            });
        }
        reports
    }

    /// What can be expected of a replica whose files are as they were.
    fn condition(&self, group: GroupId, else_it_is: Condition) -> Condition {
        let store = self.store();
        match store.health(group) {
            Health::Damaged(_) if store.was_damaged(group) => Condition::Damaged,
            Health::Damaged(_) if store.held().contains(&group) => Condition::Forced,
            Health::Damaged(_) if store.groups_with(Slot::Forced).contains(&group) => Condition::Forced,
            // The next start may find it as it was.
            Health::Damaged(_) => Condition::Stopped,
            Health::Sound | Health::New => else_it_is,
        }
    }

    /// What replicas of this node wait for; none: none waits.
    #[must_use]
    pub fn waits(&self) -> Option<Waits> {
        self.store().waits()
    }

    /// The hosts that this node knew when it stopped, where what knows them waits: nobody else says where they are.
    #[must_use]
    pub fn remembered(&self) -> &[(NodeId, SocketAddr)] {
        &self.remembered
    }

    /// What waits goes on, for it is certain that nobody is left behind: see [`Self::waits`].
    ///
    /// # Errors
    /// `DriveFailed`: as far as it was not done it is when the node starts anew.
    pub async fn go_on(&self) -> Result<(), Error> {
        let one_at_a_time = Arc::clone(&self.opening).lock_owned().await;
        let store = self.store();
        if store.held().is_empty() {
            return Ok(());
        }
        let home = store.home();
        let groups = home.aside(move || Forced::let_go_on(&store)).await??;
        tracing::warn!(node = %self.node, "metadata that were to go on alone do: nobody runs who would be left behind");
        for group in &groups {
            lock(&self.damaged).remove(group);
            if self.replica(*group).is_err() {
                self.open(*group).await?;
            }
        }
        drop(one_at_a_time);
        for group in groups {
            self.elect(group).await?;
        }
        Ok(())
    }

    /// Whether nothing of the node's metadata can be used.
    #[must_use]
    pub fn is_unusable(&self) -> bool {
        self.store().is_unusable()
    }

    /// Whether a replica leads, and has been followed a moment ago: who has lost a majority does not know that at once.
    fn is_followed(&self, replica: &Replica) -> bool {
        // Several heartbeats, of which each is answered where there is a majority.
        replica.raft.is_leader() && replica.was_followed(self.timing.heartbeat.saturating_mul(4))
    }

    /// Has this node's replica of a group go on as the only voter, as somebody has judged that it must: see the module's page.
    /// Without a survivor a replica begins that has nothing.
    ///
    /// # Errors
    /// `Conflict` if it is not as it was judged, is led, or is in use still: it goes on as it was. Else as [`Forced::carry_out`].
    pub async fn force(&self, mut force: Force) -> Result<ReplicaId, Error> {
        let group = force.group;
        let one_at_a_time = Arc::clone(&self.opening).lock_owned().await;
        if let Ok(replica) = self.replica(group) {
            if self.is_followed(&replica) {
                let what = "this replica leads its metadata group: nothing has to be done for that";
                return Err(Error::new(ErrorKind::Conflict, what).with("group", group));
            }
            let (led, log) = (replica.raft.is_leader(), replica.log());
            if let Err(error) = self.close_group(replica).await {
                self.open(group).await?;
                return Err(error);
            }
            // Who has led goes on taking entries that nobody agrees to: it has them besides.
            let now = log.last_id().ok().and_then(end_of);
            if let (true, Some((_, end)), Some(now)) = (led, &mut force.survivor, now)
                && now.term == end.term
            {
                *end = now.max(*end);
            }
        }
        let store = self.store();
        if let Health::Damaged(error) = store.health(group) {
            return Err(error);
        }
        let home = store.home();
        // Whoever waits for it may be gone: nobody opens it before that is done.
        let work = move || {
            let forced = Forced::carry_out(&store, &force);
            drop(one_at_a_time);
            forced
        };
        let forced = home.aside(work).await?;
        let opened = {
            let _one_at_a_time = self.opening.lock().await;
            if self.replica(group).is_ok() { Ok(()) } else { self.open(group).await }
        };
        let replica = forced?;
        opened?;
        lock(&self.damaged).remove(&group);
        tracing::warn!(node = %self.node, %group, %replica, "a metadata group goes on from this replica alone, as somebody has accepted");
        self.elect(group).await?;
        Ok(replica)
    }
}
