//! What a node still waits for before it takes data.

use std::collections::BTreeSet;

use mesh_core::{
    Error, ErrorKind,
    id::{ActorId, DriveId, GroupId, NodeId, TenantId},
    meta::ControlView,
    op::GroupReport,
    topology::{NodeKind, Replicas},
};

use super::members::is_to_have;

/// What a node knows of itself.
#[derive(Debug)]
pub struct Own<'a> {
    /// Which.
    pub here: NodeId,
    /// What it runs on: hosts have an ingress.
    pub kind: NodeKind,
    /// Who is to have replicas of the namespace groups; none: every host.
    pub replicas: Option<&'a Replicas>,
    /// The groups of which somebody who is there leads.
    pub led: &'a BTreeSet<GroupId>,
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
    let namespaces = || (1..=u64::from(view.namespaces)).map(GroupId);
    let is_host = own.kind == NodeKind::Host;
    let is_to_have = |group: &GroupId| is_to_have(*group, own.here, own.kind, own.replicas);
    let is_here = |group: &GroupId| own.groups.iter().any(|one| one.group == *group);
    if namespaces().filter(is_to_have).any(|group| !is_here(&group)) {
        return missing("not every metadata group of this node is here yet");
    }
    if let Some((group, trouble)) = own.groups.iter().find_map(|one| Some((one.group, one.trouble.as_ref()?))) {
        return Err(Error::new(ErrorKind::Draining, "a metadata group does not work here")
            .with("group", group)
            .with("why", trouble));
    }
    // One that others have in this node's place does not know who leads it any more.
    let unled = own.groups.iter().filter(|one| one.leader.is_none()).map(|one| one.group).find(is_to_have);
    let unled = unled.or_else(|| namespaces().find(|group| is_host && !own.led.contains(group)));
    if let Some(group) = unled {
        return Err(Error::new(ErrorKind::Draining, "a metadata group has no leader; if most of its hosts are gone for good, `mesh metadata recover` says what can be done").with("group", group));
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
    if is_host && !view.tenants.keys().all(has_place) {
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

    /// A drive on each of three nodes, and a layout of them.
    fn laid_out() -> ControlView {
        let mut view = ControlView::default();
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
        view
    }

    #[test]
    fn a_node_has_the_groups_that_it_is_to_have_and_every_other_one_is_led() {
        let nodes = (1..=9).map(|node| (NodeId(node), crate::steward::tests::host(node))).collect();
        let view = ControlView {
            namespaces: 1,
            code: Some(Code { data: 2, parity: 1 }),
            level: mesh_core::meta::LEVEL,
            nodes,
            ..ControlView::default()
        };
        let view = ControlView { layouts: laid_out().layouts, ..view };
        let replicas = Replicas::of(&view).unwrap();
        let chosen = *replicas.hosts(GroupId(1)).and_then(BTreeSet::first).unwrap();
        let other = *view.nodes.keys().find(|node| !replicas.hosts(GroupId(1)).unwrap().contains(node)).unwrap();
        let control = GroupReport { leader: Some(NodeId(1)), ..group(1, &[1]).report };
        let stale = GroupReport { group: GroupId(1), leader: None, ..control.clone() };
        let says = |here, groups: &[GroupReport], led: &[GroupId]| {
            let (led, none) = (led.iter().copied().collect(), BTreeSet::new());
            let own = Own {
                here,
                kind: NodeKind::Host,
                replicas: Some(&replicas),
                led: &led,
                view: &view,
                groups,
                drives_up: 0,
                hosted: &none,
                concerns: &BTreeSet::new(),
            };
            look(&own).map_err(|error| error.message().to_owned()).unwrap_err()
        };
        let (one, led) = (std::slice::from_ref(&control), [GroupId(1)]);
        assert!(says(chosen, one, &led).contains("not every metadata group"));
        // Then drives are what is missing next.
        assert!(says(other, one, &led).contains("too few drives"));
        assert!(says(other, one, &[]).contains("has no leader"));
        // What others have in its place hears of no leader.
        let both = [control, stale];
        assert!(says(other, &both, &led).contains("too few drives"));
        assert!(says(chosen, &both, &led).contains("has no leader"));
    }

    #[test]
    fn a_node_is_ready_once_nothing_is_missing_and_says_what_is() {
        let mut view = ControlView::default();
        let mut groups: Vec<GroupReport> = Vec::new();
        let mut hosted = BTreeSet::new();
        let says = |view: &ControlView, groups: &[GroupReport], drives_up, hosted: &BTreeSet<ActorId>| {
            let concerns = view.assignments.keys().copied().collect();
            let led = groups.iter().filter(|group| group.leader.is_some()).map(|group| group.group).collect();
            let own = Own {
                here: HERE,
                kind: NodeKind::Host,
                replicas: None,
                led: &led,
                view,
                groups,
                drives_up,
                hosted,
                concerns: &concerns,
            };
            look(&own).map_err(|error| error.message().to_owned())
        };
        let expect = |said: Result<(), String>, what: &str| {
            assert!(said.as_ref().is_err_and(|said| said.contains(what)), "{said:?} is not: {what}");
        };
        expect(says(&view, &groups, 0, &hosted), "knows nothing of the mesh yet");
        view.cluster = Some(ClusterId([1; 16]));
        (view.code, view.namespaces) = (Some(Code { data: 2, parity: 1 }), 1);
        expect(says(&view, &groups, 0, &hosted), "no layout yet");
        (view.layouts, view.drives) = (laid_out().layouts, laid_out().drives);
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
