//! Metadata that are damaged, set aside, and made anew from those of others; replicas that are lost, and those that are removed.

mod metadata_cluster;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mesh_core::{
    ErrorKind,
    id::{ClusterId, GroupId, ReplicaId, WriteId},
    meta::{MeshCommand, MetaAnswer, Query},
    topology::Code,
};
use mesh_dpu_runtime::metadata::RaftMetadata;
use metadata_cluster::{
    Cluster, QUICK, first_of, get_object, len_of, open_block, open_session, propose, put_object, query, until,
};

const BUDGET: Duration = Duration::from_secs(20);

/// What others remember more of is damaged at once and for good; the store that takes its place is not, however late the
/// old one is said to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_disowned_stays_damaged_until_another_takes_its_place() {
    let cluster = Cluster::start(3, &[0, 1], QUICK, 40).await;
    let groups = || vec![GroupId(0), GroupId(1)];
    let follower = (1..=3).find(|node| [0, 1].iter().all(|group| cluster.leader(*group) != *node)).expect("a follower");
    let why = "it was marked 9 times, and is as it was after 1";
    let node = cluster.node(follower);
    let replica = cluster.replica(follower, 0);
    node.disown(replica, why);
    assert!(node.is_damaged());
    assert!(node.status().iter().all(|said| said.trouble.as_ref().is_some_and(|trouble| trouble.contains(why))));
    let older = cluster.path().join(follower.to_string()).join("mark.older");
    until("the mark is taken away", || older.exists()).await;
    drop(node);
    cluster.close(follower).await;
    let node = cluster.open(follower, groups()).await;
    assert!(node.is_damaged(), "at the next start it is damaged still");
    node.renew().await.expect("renewed");
    assert!(!node.is_damaged());

    // A beat that was judged before, or comes late.
    (0..50).for_each(|_| node.disown(replica, why));
    assert!(!node.is_damaged());
    drop(node);
    cluster.close(follower).await;
    let node = cluster.open(follower, groups()).await;
    assert!(!node.is_damaged(), "the new store has its mark");
}

/// A group that is damaged while the others are sound is told of, and renewed, before anybody asks for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_damaged_group_is_renewed_although_nobody_has_asked_for_it() {
    let cluster = Cluster::start(3, &[0, 1], QUICK, 40).await;
    let follower = (1..=3).find(|node| [0, 1].iter().all(|group| cluster.leader(*group) != *node)).expect("a follower");
    let database = cluster.path().join(follower.to_string()).join("db");
    let before = cluster.path().join("before");
    cluster.close(follower).await;
    copy(&database, &before);
    let node = cluster.open(follower, vec![GroupId(0), GroupId(1)]).await;
    let applied = |node: &RaftMetadata| node.digests().expect("read").get(&GroupId(1)).map(|state| state.0);
    let leader = cluster.node(cluster.leader(1));
    assert!(propose(&leader, &*cluster.clock, open_session(1, 1, 1), BUDGET).await.is_ok());
    let last = applied(&leader);
    drop(leader);
    until("it has kept, and applied, what was not there before", || applied(&node) >= last).await;
    drop(node);
    cluster.close(follower).await;
    std::fs::remove_dir_all(&database).expect("removed");
    copy(&before, &database);

    let node = cluster.open(follower, vec![GroupId(0)]).await;
    let troubled = |node: &RaftMetadata| -> Vec<(GroupId, bool)> {
        node.status().into_iter().map(|said| (said.group, said.trouble.is_some())).collect()
    };
    // As a rule the other one has seen nothing meanwhile.
    assert!(troubled(&node).contains(&(GroupId(1), true)), "{:?}", troubled(&node));
    assert!(node.is_damaged());
    node.renew().await.expect("renewed");
    assert!(!node.is_damaged());
    assert_eq!(troubled(&node), [(GroupId(0), false), (GroupId(1), false)]);
}

/// A renewal that fails half way, and is tried again: what was known of the mesh stays known meanwhile, and the store is set
/// aside once, however often it fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_failed_is_tried_again_and_nothing_is_unknown_meanwhile() {
    let cluster = Cluster::start(3, &[0], QUICK, 40).await;
    let form = MeshCommand::Form { cluster: ClusterId([7; 16]), code: Code { data: 2, parity: 1 }, namespaces: 2 };
    let leader = cluster.leader(0);
    assert!(propose(&cluster.node(leader), &*cluster.clock, form, BUDGET).await.is_ok());
    let follower = 1 + leader % 3;
    let node = cluster.node(follower);
    until("it knows the mesh", || node.control().cluster.is_some()).await;
    let folder = cluster.path().join(follower.to_string());
    node.disown(cluster.replica(follower, 0), "the test says so");
    until("the mark is taken away", || folder.join("mark.older").exists()).await;
    // As where the store alone is damaged.
    std::fs::rename(folder.join("mark.older"), folder.join("mark")).expect("put back");
    // As on a drive that has no room left for a new mark.
    let hindrance = folder.join("mark.new");
    std::fs::create_dir(&hindrance).expect("made");
    let views = {
        let mut views = node.watch_control();
        views.mark_unchanged();
        views
    };
    for _ in 0..6 {
        node.renew().await.expect_err("there is no room for a mark");
        assert!(node.is_damaged());
    }
    let aside = |what: &str| (1..=4).filter(|number| folder.join(format!("{what}.damaged-{number}")).exists()).count();
    assert_eq!((aside("db"), aside("mark")), (1, 1));
    std::fs::remove_dir(&hindrance).expect("removed");
    node.renew().await.expect("renewed");
    assert!(!node.is_damaged());
    assert!(!views.has_changed().expect("it runs"), "what was known is forgotten: {:?}", views.borrow().cluster);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("read") {
        let path = entry.expect("read").path();
        let target = to.join(path.file_name().expect("named"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("copied");
        }
    }
}

/// Two acknowledge what the third does not have, and one of the two loses its files: what it has forgotten must not be
/// outvoted. It follows as another replica, and takes the old one's place once it has caught up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_replica_never_votes_as_what_it_was() {
    let cluster = Cluster::start(3, &[1], QUICK, 5000).await;
    let clock = &*cluster.clock;
    let leader = cluster.leader(1);
    let (behind, emptied) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let old = cluster.replica(emptied, 1);
    cluster.close(behind).await;
    let node = cluster.node(leader);
    assert!(propose(&node, clock, open_session(1, 1, 1), BUDGET).await.is_ok());
    let first = first_of(&propose(&node, clock, open_block(1, 1, 1, 0), BUDGET).await);
    for count in 1..=20 {
        let put = put_object(1, 1, &format!("key-{count}"), WriteId(first.0 + count), count);
        assert!(propose(&node, clock, put, BUDGET).await.is_ok());
    }
    drop(node);
    cluster.close(leader).await;
    cluster.close(emptied).await;
    cluster.empty(emptied);
    for node in [behind, emptied] {
        cluster.open(node, cluster.config.groups.clone()).await;
    }
    let new = cluster.replica(emptied, 1);
    assert_ne!(new, old);
    // As often as it may be asked: they are no majority of those who know.
    for _ in 0..20 {
        for node in [behind, emptied] {
            cluster.node(node).elect(GroupId(1)).await.expect("asked");
        }
        tokio::time::sleep(QUICK.heartbeat).await;
        assert!(cluster.nodes().iter().all(|node| !node.is_leader(GroupId(1))), "who forgot has voted");
    }
    cluster.open(leader, cluster.config.groups.clone()).await;
    let known = async || {
        for count in 1..=20 {
            let found = query(&cluster.node(behind), clock, 1, get_object(1, &format!("key-{count}")), BUDGET).await;
            assert_eq!(len_of(&found), Some(count));
        }
    };
    known().await;
    let leading = cluster.node(cluster.leader(1));
    leading.add_learner(GroupId(1), new).await.expect("added");
    until("it has caught up", || leading.caught_up(GroupId(1)).contains(&new)).await;
    let mut voters = leading.members(GroupId(1)).0;
    assert!(voters.remove(&old) && voters.insert(new));
    leading.change_voters(GroupId(1), &voters).await.expect("changed");
    until("it votes", || cluster.node(emptied).members(GroupId(1)).0 == voters).await;
    drop(leading);
    cluster.close(leader).await;
    for node in [behind, emptied] {
        cluster.node(node).elect(GroupId(1)).await.expect("asked");
    }
    known().await;
}

/// What a group goes on without is removed for good; what it does not is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_removed_once_its_group_goes_on_without_it() {
    let cluster = Cluster::start(3, &[0, 1], QUICK, 5000).await;
    let (clock, group) = (&*cluster.clock, GroupId(1));
    let leader = cluster.leader(1);
    let leading = cluster.node(leader);
    assert!(propose(&leading, clock, open_session(1, 1, 1), BUDGET).await.is_ok());
    let block = propose(&leading, clock, open_block(1, 1, 1, 0), BUDGET).await;
    assert!(propose(&leading, clock, put_object(1, 1, "key", first_of(&block), 7), BUDGET).await.is_ok());
    let goes = leader % 3 + 1;
    let (node, old) = (cluster.node(goes), cluster.replica(goes, 1));
    let refused = node.retire(group).await.expect_err("it votes");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let voters: BTreeSet<ReplicaId> = leading.members(group).0.into_iter().filter(|voter| *voter != old).collect();
    leading.change_voters(group, &voters).await.expect("changed");
    // As a follower it is a member, too.
    leading.add_learner(group, old).await.expect("added");
    until("it has caught up", || leading.caught_up(group).contains(&old)).await;
    assert_eq!(node.retire(group).await.map_err(|error| error.kind()), Err(ErrorKind::Conflict));
    assert!(node.kept().contains(&group), "it goes on");
    leading.remove_learner(group, old).await.expect("removed");
    node.retire(group).await.expect("removed");
    node.retire(group).await.expect("again: no effect");
    assert_eq!((node.replica_id(group), node.kept()), (None, [GroupId::CONTROL].into()));
    // It asks the others, also after a restart.
    drop(node);
    cluster.close(goes).await;
    let node = cluster.open(goes, vec![GroupId::CONTROL]).await;
    assert!(!node.is_damaged() && node.kept() == [GroupId::CONTROL].into());
    assert_eq!(len_of(&query(&node, clock, 1, get_object(1, "key"), BUDGET).await), Some(7));
    // Another one of it may come later.
    node.ensure_group(group).await.expect("begun");
    let new = cluster.replica(goes, 1);
    assert_ne!(new, old);
    let unknown = query(&node, clock, 1, Query::NoMember { replica: new }, BUDGET).await;
    assert_eq!(unknown, Ok(Arc::new(MetaAnswer::Done)));
    leading.add_learner(group, new).await.expect("added");
    until("it has caught up", || leading.caught_up(group).contains(&new)).await;
    // Without a majority nobody knows.
    for other in (1..=3).filter(|other| ![leader, goes].contains(other)) {
        cluster.close(other).await;
    }
    let unknown = query(&node, clock, 1, Query::NoMember { replica: old }, Duration::from_millis(300)).await;
    assert_eq!(unknown.map_err(|error| error.kind()), Err(ErrorKind::Timeout));
}
