//! Metadata that are damaged, set aside, and made anew from those of others; replicas that are lost, and those that are removed.

mod metadata_cluster;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mesh_core::{
    Answer, ErrorKind, Op,
    id::{ClusterId, GroupId, NodeId, ReplicaId, WriteId},
    meta::{MeshCommand, MetaAnswer, Query},
    op::{Condition, Force, GroupReport, LogEnd, Recovery},
    time::UnixMillis,
    topology::Code,
};
use mesh_dpu_runtime::metadata::{RaftMetadata, Restore};
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

/// Two of three are gone for good. The third goes on alone, with what it was asked and nobody had agreed to; gives out nothing
/// that they may have given out; and takes others in, among them one that was behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_goes_on_from_the_one_replica_that_is_left() {
    let cluster = Cluster::start(3, &[0, 1], QUICK, 20).await;
    let (clock, group) = (&*cluster.clock, GroupId(1));
    let leader = cluster.leader(1);
    let node = cluster.node(leader);
    assert!(propose(&node, clock, open_session(1, 1, 1), BUDGET).await.is_ok());
    let first = first_of(&propose(&node, clock, open_block(1, 1, 1, 0), BUDGET).await);
    let put = |count: u64| put_object(1, 1, &format!("key-{count}"), WriteId(first.0 + count), count);
    for count in 1..=30 {
        assert!(propose(&node, clock, put(count), BUDGET).await.is_ok());
    }
    let (behind, gone) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.close(behind).await;
    for count in 31..=60 {
        assert!(propose(&node, clock, put(count), BUDGET).await.is_ok());
    }
    cluster.close(gone).await;
    // Nobody agrees to this one, and nobody else has it.
    let unknown = propose(&node, clock, put(61), Duration::from_millis(200)).await;
    assert!(unknown.is_err_and(|error| error.kind() != ErrorKind::NotLeader));
    let leader_of = |said: &GroupReport| (said.group == group).then_some(said.leader);
    until("it leads no more", || node.status().iter().find_map(leader_of) == Some(None)).await;
    let reports = node.replica_reports().await;
    let said = reports.iter().find(|said| said.group == group).expect("a replica");
    assert_eq!((said.condition, said.leads, said.voters.concat().len()), (Condition::Sound, false, 3));
    let (old, end) = (said.replica, said.end.expect("it has something"));
    let force = |replica, end| Force { group, survivor: Some((replica, end)), recovery: Recovery::default() };
    for other in [LogEnd { index: end.index + 1, ..end }, LogEnd { term: end.term + 1, ..end }] {
        assert_eq!(node.force(force(old, other)).await.expect_err("it is another").kind(), ErrorKind::Conflict);
    }
    let new = node.force(force(old, end)).await.expect("it goes on");
    assert_ne!(new, old);
    until("it leads", || node.is_leader(group)).await;
    let again = node.force(force(new, end)).await.expect_err("it leads");
    assert_eq!(again.kind(), ErrorKind::Conflict);
    for count in 1..=61 {
        let found = query(&node, clock, 1, get_object(1, &format!("key-{count}")), BUDGET).await;
        assert_eq!(len_of(&found), Some(count));
    }
    let next = first_of(&propose(&node, clock, open_block(1, 1, 1, 100), BUDGET).await);
    assert!(next.0 - first.0 > 1 << 32, "{next} follows {first}");

    // Who was behind is told everything, as any stranger; and is asked once the other is gone, too.
    let late = cluster.open(behind, cluster.config.groups.clone()).await;
    let stranger = cluster.replica(behind, 1);
    node.add_learner(group, stranger).await.expect("added");
    until("it has caught up", || node.caught_up(group).contains(&stranger)).await;
    node.change_voters(group, &[new, stranger].into()).await.expect("changed");
    until("it votes", || late.members(group).0 == [new, stranger].into()).await;
    node.transfer_leader(group, NodeId(behind)).await.expect("asked");
    until("it leads", || late.is_leader(group)).await;
    assert_eq!(len_of(&query(&late, clock, 1, get_object(1, "key-61"), BUDGET).await), Some(61));
    // It is so after a restart.
    drop(node);
    cluster.close(leader).await;
    let node = cluster.open(leader, cluster.config.groups.clone()).await;
    assert_eq!((node.is_damaged(), node.replica_id(group)), (false, Some(new)));
    until("it follows", || node.status().iter().any(|said| said.group == group && said.leader == Some(NodeId(behind))))
        .await;
}

/// A replica that is not lost, and was ahead of the one from which its group goes on: it takes nothing of what comes for what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_ahead_of_the_one_that_went_on_is_told_everything_anew() {
    let cluster = Cluster::start(3, &[1], QUICK, 5000).await;
    let (clock, group) = (&*cluster.clock, GroupId(1));
    let leader = cluster.leader(1);
    let (behind, ahead) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let node = cluster.node(leader);
    assert!(propose(&node, clock, open_session(1, 1, 1), BUDGET).await.is_ok());
    let first = first_of(&propose(&node, clock, open_block(1, 1, 1, 0), BUDGET).await);
    let put = |count: u64| put_object(1, 1, &format!("key-{count}"), WriteId(first.0 + count), count);
    for count in 1..=60 {
        assert!(propose(&node, clock, put(count), BUDGET).await.is_ok());
        if count == 30 {
            // Others may have agreed to what it has not heard of yet.
            let has = |node: &RaftMetadata| node.digests().expect("read").get(&group).copied();
            let late = cluster.node(behind);
            until("it has all of them", || has(&late).is_some() && has(&late) == has(&node)).await;
            drop(late);
            cluster.close(behind).await;
        }
    }
    drop(node);
    cluster.close(ahead).await;
    cluster.close(leader).await;
    let node = cluster.open(behind, cluster.config.groups.clone()).await;
    let said = node.replica_reports().await.remove(0);
    let recovery = Recovery { at: UnixMillis(1_800_000_000_000), ..Recovery::default() };
    let force = Force { group, survivor: Some((said.replica, said.end.expect("some"))), recovery };
    node.force(force).await.expect("it goes on");
    until("it leads", || node.is_leader(group)).await;

    let other = cluster.open(ahead, cluster.config.groups.clone()).await;
    let stranger = cluster.replica(ahead, 1);
    node.add_learner(group, stranger).await.expect("added");
    until("it has caught up", || node.caught_up(group).contains(&stranger)).await;
    assert!(propose(&node, clock, put(99), BUDGET).await.is_ok());
    let both = |node: &RaftMetadata| node.digests().expect("read").get(&group).copied();
    until("both have the same", || both(&node).is_some() && both(&node) == both(&other)).await;
    for (count, len) in [(30, Some(30)), (60, None), (99, Some(99))] {
        assert_eq!(len_of(&query(&other, clock, 1, get_object(1, &format!("key-{count}")), BUDGET).await), len);
    }
}

/// Others that are a majority of what they were, and have heard of nothing, take in one that has gone on without them: it is not
/// theirs, they get nothing from it and it nothing from them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_gone_on_takes_nothing_from_those_that_have_not() {
    let cluster = Cluster::start(3, &[1], QUICK, 5000).await;
    let (clock, group) = (&*cluster.clock, GroupId(1));
    let leader = cluster.leader(1);
    let (alone, older) = (cluster.node(leader % 3 + 1), cluster.node(leader));
    assert!(propose(&older, clock, open_session(1, 1, 1), BUDGET).await.is_ok());
    let first = first_of(&propose(&older, clock, open_block(1, 1, 1, 0), BUDGET).await);
    let put = |count: u64| put_object(1, 1, &format!("key-{count}"), WriteId(first.0 + count), count);
    assert!(propose(&older, clock, put(1), BUDGET).await.is_ok());
    let state = |node: &RaftMetadata| node.digests().expect("read").get(&group).copied();
    until("it has all of them", || state(&alone).is_some() && state(&alone) == state(&older)).await;
    cluster.isolate(leader % 3 + 1);
    let said = alone.replica_reports().await.remove(0);
    let survivor = Some((said.replica, said.end.expect("some")));
    let new = alone.force(Force { group, survivor, recovery: Recovery::default() }).await.expect("it goes on");
    until("it leads", || alone.is_leader(group)).await;
    assert!(propose(&alone, clock, put(2), BUDGET).await.is_ok());
    let (before, term) = (state(&alone), |node: &RaftMetadata| node.status().remove(0).term);
    let (theirs, its) = (term(&older), term(&alone));
    assert!(theirs < its);

    cluster.heal();
    older.add_learner(group, new).await.expect("added");
    until("it has refused what they say", || cluster.carried("refused") > 9).await;
    for count in 3..=60 {
        assert!(propose(&older, clock, put(count), BUDGET).await.is_ok());
    }
    assert!(!older.caught_up(group).contains(&new), "it has nothing of theirs");
    assert_eq!((state(&alone), term(&alone), term(&older)), (before, its, theirs));
    assert!(older.is_leader(group) && alone.is_leader(group));

    // It takes in one of theirs, and that takes long: from its first word on that one has no part in what they do.
    cluster.slow_snapshots(Duration::from_millis(500));
    let goes = (leader + 1) % 3 + 1;
    let stranger = cluster.replica(goes, 1);
    alone.add_learner(group, stranger).await.expect("added");
    until("it is told", || cluster.carried("snapshot") > 0).await;
    let unknown = propose(&older, clock, put(61), Duration::from_millis(300)).await;
    assert!(unknown.is_err_and(|error| error.kind() != ErrorKind::NotLeader), "of three there is one that would agree");
    until("it has caught up", || alone.caught_up(group).contains(&stranger)).await;
    assert_eq!((state(&cluster.node(goes)), term(&alone)), (state(&alone), its));
    assert!(alone.is_leader(group));
    // Nor later.
    let refused = cluster.carried("refused");
    until("it refuses them again", || cluster.carried("refused") > refused).await;
    let unknown = propose(&older, clock, put(62), Duration::from_millis(300)).await;
    assert!(unknown.is_err(), "nobody else agrees");
    assert!(propose(&alone, clock, put(2), BUDGET).await.is_ok());
}

/// A group is read page by page while it goes on, and put back on a node that never had it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_backed_up_as_it_was_at_one_moment_and_restored() {
    let cluster = Cluster::start(3, &[1], QUICK, 5000).await;
    let (clock, group) = (&*cluster.clock, GroupId(1));
    let node = cluster.node(cluster.leader(1));
    assert!(propose(&node, clock, open_session(1, 1, 1), BUDGET).await.is_ok());
    let first = first_of(&propose(&node, clock, open_block(1, 1, 1, 0), BUDGET).await);
    let key = |count: u64| format!("{count}-{}", "k".repeat(900));
    let put = |count: u64| put_object(1, 1, &key(count), WriteId(first.0 + count), count);
    // More than two pages.
    for count in 1..=2500 {
        assert!(propose(&node, clock, put(count), BUDGET).await.is_ok());
    }
    let follower = cluster.nodes().into_iter().find(|node| !node.is_leader(group)).expect("a follower");
    let refused = follower.backup(group, None).await.expect_err("it may be behind");
    assert_eq!(refused.kind(), ErrorKind::NotLeader);
    let (mut pages, mut from) = (Vec::new(), None);
    let end = loop {
        let (page, rows) = node.backup(group, from).await.expect("a page");
        if let Some(end) = page.end {
            break end;
        }
        // What changes meanwhile is not in it.
        assert!(propose(&node, clock, put(2501 + pages.len() as u64), BUDGET).await.is_ok());
        pages.push(rows);
        from = page.next;
    };
    assert!(pages.len() > 2, "{}", pages.len());
    let over = node.backup(group, from).await.map(drop);
    assert_eq!(over.map_err(|error| error.kind()), Err(ErrorKind::Conflict), "it has come to its end");
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(node.backup(group, None).await.expect("begun").0.next);
    }
    let many = node.backup(group, None).await.map(drop);
    assert_eq!(many.map_err(|error| error.kind()), Err(ErrorKind::Overloaded));
    node.backup(group, open[0]).await.expect("the second page");
    let twice = node.backup(group, open[0]).await.map(drop);
    assert_eq!(twice.map_err(|error| error.kind()), Err(ErrorKind::Conflict), "the page before did not arrive");

    let folder = cluster.path().join("9");
    let begin = || Restore::begin(&folder, NodeId(9), metadata_cluster::entropy()).expect("begun");
    let mut damaged = begin();
    damaged.rows(group, &pages[0]).expect("rows");
    let why = damaged.end(group, end, &Recovery::default()).expect_err("some are missing");
    assert_eq!(why.kind(), ErrorKind::Corrupt);
    assert!(damaged.rows(group, &pages[1][1..]).is_err_and(|error| error.kind() == ErrorKind::Corrupt));
    drop(damaged);
    // As it is found without a folder.
    let checked = |which: &[usize]| {
        let mut check = Restore::check();
        which.iter().try_for_each(|page| check.rows(group, &pages[*page]))?;
        check.end(group, end, &Recovery::default())?;
        assert!(check.has(group));
        check.finish().map(drop)
    };
    let all: Vec<usize> = (0..pages.len()).collect();
    assert_eq!(checked(&all).map_err(|error| error.kind()), Err(ErrorKind::Bug), "there is nothing to put in place");
    let (twice, swapped) = ([&[0][..], &all[..]].concat(), [&[1, 0][..], &all[2..]].concat());
    for which in [all[1..].to_vec(), all[..all.len() - 1].to_vec(), twice, swapped] {
        assert_eq!(checked(&which).map_err(|error| error.kind()), Err(ErrorKind::Corrupt), "{which:?}");
    }
    let mut mixed = Restore::check();
    mixed.rows(group, &pages[0]).expect("rows");
    let other = mixed.rows(GroupId(2), &pages[1]).expect_err("the first has not ended");
    assert_eq!(other.kind(), ErrorKind::Corrupt);
    for before in [None, Some(cluster.path().join("9.before-1"))] {
        let mut restore = begin();
        pages.iter().for_each(|page| restore.rows(group, page).expect("rows"));
        restore.end(group, end, &Recovery::default()).expect("all of them");
        assert!(restore.has(group) && !restore.has(GroupId::CONTROL));
        assert_eq!(restore.finish().expect("put in place"), before);
    }
    let restored = cluster.open(9, vec![group]).await;
    let held = Restore::begin(&folder, NodeId(9), metadata_cluster::entropy()).map(drop);
    assert_eq!(held.map_err(|error| error.kind()), Err(ErrorKind::Conflict), "it runs");
    until("it leads", || restored.is_leader(group)).await;
    for count in [1, 2, 750, 2500, 2501] {
        let found =
            restored.serve(Op::Query { group, query: Arc::new(get_object(1, &key(count))) }, clock.now() + BUDGET);
        let found = found.await.map(|response| match response.answer {
            Answer::Meta(answer) => answer,
            other => panic!("{other:?}"),
        });
        assert_eq!(len_of(&found), Some(count).filter(|count| *count <= 2500));
    }
}
