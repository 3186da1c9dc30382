//! Metadata that are damaged, set aside, and made anew from those of others.

mod metadata_cluster;

use std::time::Duration;

use mesh_core::{
    id::{ClusterId, GroupId},
    meta::MeshCommand,
    topology::Code,
};
use mesh_dpu_runtime::metadata::RaftMetadata;
use metadata_cluster::{Cluster, QUICK, open_session, propose, until};

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
