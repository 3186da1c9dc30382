//! The end of a replica that its group goes on without.

use std::{sync::Arc, time::Duration};

use mesh_core::{
    Error, ErrorKind,
    id::{GroupId, ReplicaId},
    meta::Query,
};

use super::{RaftMetadata, route::Ask};

/// How long a group's leader is asked who is a member of it.
const PATIENCE: Duration = Duration::from_secs(5);

impl RaftMetadata {
    /// Removes this node's replica of a group that has gone on without it, for good. It is asked before it is closed whether it
    /// is a member, so that none is closed for nothing; and again once it answers nothing any more, for until then it might
    /// have been taken in anew, and what it has said since be counted on. No effect if there is none.
    ///
    /// # Errors
    /// `Conflict` while it is a member, or somebody uses it: it goes on. `Timeout` if nobody knows. `DriveFailed`: it stays
    /// closed, and is there when the node starts again.
    pub async fn retire(&self, group: GroupId) -> Result<(), Error> {
        let Ok(replica) = self.replica(group) else { return Ok(()) };
        let id = replica.id();
        // Who has given the lead away asks nobody any more, and once it is no member nobody tells it that others lead: it takes itself
        // for the leader for ever, and whoever leads says whether it is a member.
        if replica.raft.is_leader() && replica.is_followed(self.timing.election_max) {
            return Err(Error::new(ErrorKind::Conflict, "this replica leads its metadata group").with("group", group));
        }
        self.expect_no_member(group, id).await?;
        let one_at_a_time = Arc::clone(&self.opening).lock_owned().await;
        // All may have been renewed meanwhile, or shut down.
        if !self.replica(group).is_ok_and(|now| Arc::ptr_eq(&now, &replica)) {
            return Ok(());
        }
        let left = match self.close_group(replica).await {
            Ok(()) => self.expect_no_member(group, id).await,
            still_used => still_used,
        };
        if let Err(error) = left {
            self.open(group).await?;
            return Err(error);
        }
        let store = self.store();
        let home = store.home();
        // Whoever waits for it may be gone: nobody opens it before that is done.
        let forget = move || {
            let forgotten = store.forget(group, id);
            drop(one_at_a_time);
            forgotten
        };
        let forgotten = home.aside(forget).await?;
        forgotten.map_err(|error| {
            let what = "a replica that is no member of its metadata group any more cannot be removed";
            Error::new(ErrorKind::DriveFailed, what).with("group", group).caused_by(error)
        })?;
        tracing::info!(node = %self.node, %group, replica = %id, "a replica of a metadata group was removed: others have its place");
        Ok(())
    }

    async fn expect_no_member(&self, group: GroupId, replica: ReplicaId) -> Result<(), Error> {
        let deadline = self.clock.now() + PATIENCE;
        self.ask(group, Ask::Query(Arc::new(Query::NoMember { replica })), deadline).await.map(drop)
    }
}
