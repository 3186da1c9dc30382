//! What a node still waits for before it takes data.

use std::collections::BTreeSet;

use mesh_core::{
    Error, ErrorKind,
    id::{ActorId, DriveId, NodeId, TenantId},
    meta::ControlView,
    op::GroupReport,
};

/// What a node knows of itself.
#[derive(Debug)]
pub struct Own<'a> {
    /// Which.
    pub here: NodeId,
    /// Whether it has replicas of the namespace groups, and an ingress.
    pub is_host: bool,
    /// What the control group says, as far as it has heard.
    pub view: &'a ControlView,
    /// Its replicas.
    pub groups: &'a [GroupReport],
    /// The drives of the mesh that it sees up.
    pub drives_up: usize,
    /// The actors that run here.
    pub hosted: &'a BTreeSet<ActorId>,
    /// Those that are to run here, among others.
    pub concerns: &'a BTreeSet<ActorId>,
}

/// Whether it is ready.
///
/// # Errors
/// `Draining`: what is missing.
pub fn look(own: &Own<'_>) -> Result<(), Error> {
    let missing = |what: &'static str| Err(Error::new(ErrorKind::Draining, what));
    let view = own.view;
    let (Some(code), Some(newest)) = (view.code, view.layouts.values().next_back()) else {
        return missing(if view.cluster.is_some() {
            "there is no layout yet: too few drives are registered"
        } else {
            "this node knows nothing of the mesh yet: it waits for a member to take it in, or for the founding"
        });
    };
    if own.is_host && own.groups.len() <= usize::from(view.namespaces) {
        return missing("not every metadata group is here yet");
    }
    if let Some((group, trouble)) = own.groups.iter().find_map(|one| Some((one.group, one.trouble.as_ref()?))) {
        return Err(Error::new(ErrorKind::Draining, "a metadata group does not work here")
            .with("group", group)
            .with("why", trouble));
    }
    if let Some(group) = own.groups.iter().find(|one| one.leader.is_none()).map(|one| one.group) {
        return Err(Error::new(ErrorKind::Draining, "a metadata group has no leader").with("group", group));
    }
    if own.drives_up < code.shards() {
        return Err(Error::new(ErrorKind::Draining, "too few drives are up")
            .with("up", own.drives_up)
            .with("code", code));
    }
    if view.tenants.is_empty() {
        return missing("there is no tenant yet");
    }
    let has_place = |tenant: &TenantId| view.assignments.contains_key(&ActorId::data(*tenant, own.here));
    if own.is_host && !view.tenants.keys().all(has_place) {
        return missing("not every data chain of this node has a place yet");
    }
    let mut rows = own.concerns.iter().filter(|actor| actor.as_data().is_some());
    let is_to_run = |actor: &&ActorId| view.assignments.get(*actor).is_some_and(|row| row.node == own.here);
    if rows.any(|actor| is_to_run(&actor) && !own.hosted.contains(actor)) {
        return missing("a data chain of this node does not run: not yet, or it was given up, which the log says");
    }
    let laid_out = |drive: &DriveId| newest.domains.contains_key(drive);
    if view.staying().any(|drive| drive.node == own.here && !laid_out(&drive.id)) {
        return missing("the newest layout does not have this node's drives yet");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_core::{
        assignment::Assignment,
        id::{ClusterId, Epoch, GroupId, KeyId, LayoutId},
        meta::{TenantLimits, TenantRow, WrappedKey},
        topology::{Code, Leaving},
    };

    use super::*;
    use crate::steward::tests::{drive, group};

    const HERE: NodeId = NodeId(1);
    const TENANT: TenantId = TenantId(1);

    #[test]
    fn a_node_is_ready_once_nothing_is_missing_and_says_what_is() {
        let mut view = ControlView::default();
        let mut groups: Vec<GroupReport> = Vec::new();
        let mut hosted = BTreeSet::new();
        let says = |view: &ControlView, groups: &[GroupReport], drives_up, hosted: &BTreeSet<ActorId>| {
            let concerns = view.assignments.keys().copied().collect();
            let own = Own { here: HERE, is_host: true, view, groups, drives_up, hosted, concerns: &concerns };
            look(&own).map_err(|error| error.message().to_owned())
        };
        let expect = |said: Result<(), String>, what: &str| {
            assert!(said.as_ref().is_err_and(|said| said.contains(what)), "{said:?} is not: {what}");
        };
        expect(says(&view, &groups, 0, &hosted), "knows nothing of the mesh yet");
        view.cluster = Some(ClusterId([1; 16]));
        (view.code, view.namespaces) = (Some(Code { data: 2, parity: 1 }), 1);
        expect(says(&view, &groups, 0, &hosted), "no layout yet");
        let drives = [1, 2, 3].map(|node| drive(node, node));
        let layout = crate::layout::build(
            LayoutId(1),
            &crate::layout::Lineage::First(1, Code { data: 2, parity: 1 }),
            &drives,
            &mesh_core::topology::Places::default(),
        )
        .unwrap();
        view.layouts.insert(LayoutId(1), Arc::new(layout));
        view.drives = drives.into_iter().map(|drive| (drive.id, drive)).collect();
        groups.push(group(1, &[1, 2, 3]).report);
        expect(says(&view, &groups, 3, &hosted), "not every metadata group");
        groups.push(GroupReport { group: GroupId(1), ..groups[0].clone() });
        groups[1].trouble = Some("its disk failed".into());
        expect(says(&view, &groups, 3, &hosted), "a metadata group does not work here");
        groups[1].trouble = None;
        expect(says(&view, &groups, 3, &hosted), "has no leader");
        groups.iter_mut().for_each(|group| group.leader = Some(NodeId(2)));
        expect(says(&view, &groups, 2, &hosted), "too few drives are up");
        expect(says(&view, &groups, 3, &hosted), "no tenant yet");
        let wrapped = WrappedKey { key: KeyId(0), nonce: [0; 12], sealed: vec![0; 48] };
        let limits = TenantLimits::default();
        let row = TenantRow { id: TENANT, name: "tenant".into(), key: KeyId(0), wrapped, limits };
        view.tenants.insert(TENANT, Arc::new(row));
        expect(says(&view, &groups, 3, &hosted), "has a place yet");
        let chain = ActorId::data(TENANT, HERE);
        view.assignments.insert(chain, Assignment::new(chain, HERE, Epoch(1)));
        expect(says(&view, &groups, 3, &hosted), "does not run");
        hosted.insert(chain);
        view.drives.insert(DriveId(4), drive(4, 1));
        expect(says(&view, &groups, 3, &hosted), "does not have this node's drives");
        // Of one that is emptied, or out, there is nothing to be waited for.
        view.leaving.insert(DriveId(4), Leaving::Asked);
        assert_eq!(says(&view, &groups, 3, &hosted), Ok(()));
        view.drives.remove(&DriveId(4));
        assert_eq!(says(&view, &groups, 3, &hosted), Ok(()));
        // On a DPU it is its own business alone.
        view.assignments.insert(chain, Assignment::new(chain, NodeId(9), Epoch(2)));
        assert_eq!(says(&view, &groups, 3, &BTreeSet::new()), Ok(()));
    }
}
