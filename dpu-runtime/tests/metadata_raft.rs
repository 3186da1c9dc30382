//! Three nodes of metadata in one process: elections, forwarding, lost leaders, lagging and restarted members, and
//! reads that are never stale.

mod metadata_cluster;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh_core::{
    ErrorKind, Op,
    id::{ClusterId, GroupId, Incarnation, NodeId, ReplicaId, WriteId},
    meta::{Command, LEVEL, Level, MeshCommand, MetaAnswer, ObjectCommand, PartRow, Query, UploadRow},
    op::NodeOp,
    time::{Instant, UnixMillis},
    topology::{Code, NodeInfo, NodeKind},
};
use mesh_dpu_runtime::metadata::{RaftMetadata, Timing};
use metadata_cluster::{
    Cluster, QUICK, bucket, first_of, get_object, len_of, open_block, open_session, propose, proposer, put_as,
    put_object, query, until,
};

const BUDGET: Duration = Duration::from_secs(20);

fn form() -> MeshCommand {
    MeshCommand::Form { cluster: ClusterId([7; 16]), code: Code { data: 2, parity: 1 }, namespaces: 2 }
}

fn node_info(id: u64, address: &str, level: Level) -> MeshCommand {
    MeshCommand::PutNode(NodeInfo {
        id: NodeId(id),
        kind: NodeKind::Host,
        address: address.to_owned(),
        incarnation: Incarnation(1),
        pid: 1,
        draining: false,
        attached_to: None,
        emulated: None,
        life: 1,
        invitation: 0,
        level,
        location: None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_answers_for_every_group() {
    let cluster = Cluster::start(3, &[0, 1, 2], QUICK, 5000).await;
    let clock = &*cluster.clock;
    let formed = propose(&cluster.node(2), clock, form(), BUDGET).await;
    assert_eq!(formed, Ok(Arc::new(MetaAnswer::Done)));
    for at in 1..=3 {
        for group in 1..=2 {
            assert!(propose(&cluster.node(at), clock, open_session(group, at, 1), BUDGET).await.is_ok());
            let block = propose(&cluster.node(at), clock, open_block(group, at, 1, 0), BUDGET).await;
            let put = put_object(at, group, &format!("key-{at}"), first_of(&block), at);
            assert!(propose(&cluster.node(at), clock, put, BUDGET).await.is_ok());
        }
    }
    for at in 1..=3 {
        for (group, written) in [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)] {
            let found =
                query(&cluster.node(at), clock, group, get_object(group, &format!("key-{written}")), BUDGET).await;
            assert_eq!(len_of(&found), Some(written));
        }
        // What the state machine refuses is told as it is, also through another node.
        let refused =
            propose(&cluster.node(at), clock, open_block(0, at, 1, 1), BUDGET).await.expect_err("of another kind");
        assert_eq!(refused.kind(), ErrorKind::Invalid);
    }
    assert!(cluster.carried("forwarded") > 0);
    until("every node sees the cluster", || cluster.nodes().iter().all(|node| node.control().cluster.is_some())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_replica_asks_its_peers() {
    let cluster = Cluster::start(3, &[0], QUICK, 5000).await;
    let guest = cluster.open(4, Vec::new()).await;
    assert!(propose(&guest, &*cluster.clock, form(), BUDGET).await.is_ok());
    let answer = query(&guest, &*cluster.clock, 0, Query::Control, BUDGET).await.expect("an answer");
    assert!(matches!(&*answer, MetaAnswer::Control(view) if view.namespaces == 2));
    let nowhere = query(&guest, &*cluster.clock, 9, Query::Control, Duration::from_millis(300)).await;
    assert_eq!(nowhere.expect_err("no such group").kind(), ErrorKind::Timeout);
    let nowhere = propose(&guest, &*cluster.clock, open_session(9, 1, 1), Duration::from_millis(300)).await;
    assert_eq!(nowhere.expect_err("no such group").kind(), ErrorKind::Timeout);
}

/// A DPU that has the control group alone, and whose configuration names one host.
async fn guest(cluster: &mut Cluster) -> Arc<RaftMetadata> {
    let clock = Arc::clone(&cluster.clock);
    let hosts = (1..=3).map(|host| node_info(host, "there:1", LEVEL).into());
    for command in [form().into(), open_session(1, 7, 1)].into_iter().chain(hosts) {
        assert!(propose(&cluster.node(1), &*clock, command, BUDGET).await.is_ok());
    }
    cluster.config.peers = vec![NodeId(1)];
    let guest = cluster.open(4, vec![GroupId::CONTROL]).await;
    let leader = cluster.node(cluster.leader(0));
    leader.add_learner(GroupId::CONTROL, cluster.replica(4, 0)).await.expect("added");
    until("the guest knows the hosts", || guest.control().nodes.len() == 3).await;
    guest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_replica_remembers_who_leads() {
    let mut cluster = Cluster::start(3, &[0, 1], QUICK, 5000).await;
    let (guest, clock) = (guest(&mut cluster).await, Arc::clone(&cluster.clock));
    let block = propose(&guest, &*clock, open_block(1, 7, 1, 0), BUDGET).await;
    let before = cluster.carried("forwarded");
    for request in 1..=5 {
        let put = put_as(proposer(7, 1, request), 1, "k", WriteId(first_of(&block).0 + request), request);
        assert!(propose(&guest, &*clock, put, BUDGET).await.is_ok());
        assert_eq!(len_of(&query(&guest, &*clock, 1, get_object(1, "k"), BUDGET).await), Some(request));
    }
    assert_eq!(cluster.carried("forwarded") - before, 10, "one round trip a request");
    assert_eq!(cluster.carried("relayed"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_replica_asks_every_host_of_the_mesh_when_the_only_one_of_its_configuration_is_gone() {
    // Group 1 is begun with on node 1, which leads it.
    let mut cluster = Cluster::start(3, &[1, 0], QUICK, 5000).await;
    let (guest, clock) = (guest(&mut cluster).await, Arc::clone(&cluster.clock));
    assert_eq!(cluster.leader(1), 1);
    let look = async || assert_eq!(len_of(&query(&guest, &*clock, 1, get_object(1, "k"), BUDGET).await), None);
    look().await;
    cluster.close(1).await;
    until("another leads", || [2, 3].iter().any(|node| cluster.node(*node).is_leader(GroupId(1)))).await;
    // By then it knows of somebody who leads, or can say who does; then of who does.
    look().await;
    look().await;
    let before = (cluster.carried("forwarded"), cluster.carried("relayed"));
    for _ in 0..3 {
        look().await;
    }
    assert_eq!((cluster.carried("forwarded") - before.0, cluster.carried("relayed") - before.1), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_never_forwards_what_was_forwarded() {
    let cluster = Cluster::start(3, &[0], QUICK, 5000).await;
    let leader = cluster.leader(0);
    let follower = cluster.node(1 + leader % 3);
    for op in [Op::Propose(Arc::new(form().into())), Op::Query { group: GroupId(0), query: Query::Control.into() }] {
        let refused = follower.serve(op, Instant::NEVER).await.expect_err("it does not lead");
        assert_eq!(refused.kind(), ErrorKind::NotLeader);
        assert_eq!(refused.redirect().and_then(|redirect| redirect.node), Some(NodeId(leader)));
    }
    assert_eq!(cluster.carried("forwarded"), 0);
    let gone = follower.serve(Op::Query { group: GroupId(5), query: Query::Control.into() }, Instant::NEVER).await;
    assert_eq!(gone.expect_err("no replica").kind(), ErrorKind::Unreachable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_leader_is_replaced_and_nothing_is_lost() {
    let cluster = Cluster::start(3, &[1], QUICK, 5000).await;
    let clock = &*cluster.clock;
    let leader = cluster.leader(1);
    let (other, third) = (1 + leader % 3, 1 + (leader + 1) % 3);
    assert!(propose(&cluster.node(other), clock, open_session(1, 1, 1), BUDGET).await.is_ok());
    let first = first_of(&propose(&cluster.node(other), clock, open_block(1, 1, 1, 0), BUDGET).await);
    let put = put_object(1, 1, "before", first, 10);
    assert!(propose(&cluster.node(other), clock, put, BUDGET).await.is_ok());
    cluster.close(leader).await;
    let put = put_object(1, 1, "after", WriteId(first.0 + 1), 20);
    assert!(propose(&cluster.node(other), clock, put, BUDGET).await.is_ok());
    for key in ["before", "after"] {
        let found = query(&cluster.node(third), clock, 1, get_object(1, key), BUDGET).await;
        assert!(len_of(&found).is_some());
    }
    // The old leader comes back from its files, and leads again if asked to.
    let back = cluster.open(leader, vec![GroupId(1)]).await;
    cluster.settle().await;
    let now = cluster.leader(1);
    cluster.node(now).transfer_leader(GroupId(1), NodeId(leader)).await.expect("asked");
    until("the old leader leads again", || back.is_leader(GroupId(1))).await;
    assert_eq!(len_of(&query(&back, clock, 1, get_object(1, "after"), BUDGET).await), Some(20));
}

/// With the conservative times a follower waits six seconds for a silent leader; one that is known to be gone is
/// replaced at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_everybody_lost_is_replaced_at_once() {
    let cluster = Cluster::start(3, &[0], Timing::default(), 5000).await;
    let leader = cluster.leader(0);
    let (other, third) = (cluster.node(1 + leader % 3), cluster.node(1 + (leader + 1) % 3));
    cluster.close(leader).await;
    let begun = tokio::time::Instant::now();
    // One alone that lost it changes nothing: the other still hears the leader, as far as it knows.
    other.peer_is_down(NodeId(leader)).await;
    other.elect(GroupId(0)).await.expect("asked");
    third.peer_is_down(NodeId(leader)).await;
    until_it_leads(&other).await;
    assert!(begun.elapsed() < Timing::default().election_min, "{:?}", begun.elapsed());
    assert!(propose(&third, &*cluster.clock, form(), BUDGET).await.is_ok());
}

/// One that restarts before it is missed never was down; it leads no more, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_has_restarted_is_replaced_at_once() {
    let cluster = Cluster::start(3, &[0], Timing::default(), 5000).await;
    let leader = cluster.leader(0);
    let (other, third) = (cluster.node(1 + leader % 3), cluster.node(1 + (leader + 1) % 3));
    let said_of = |node: &RaftMetadata| node.status().into_iter().find(|said| said.group == GroupId(0)).expect("open");
    let term = said_of(&other).term;
    cluster.close(leader).await;
    let begun = tokio::time::Instant::now();
    let back = cluster.open(leader, vec![GroupId(0)]).await;
    assert!(!back.is_leader(GroupId(0)));
    // What is said of another term forsakes nobody: it stands again and again, for as long as several elections take.
    third.forsake(GroupId(0), NodeId(leader), term + 1).await.expect("running");
    for _ in 0..40 {
        third.elect(GroupId(0)).await.expect("asked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((third.is_leader(GroupId(0)), said_of(&other).leader), (false, Some(NodeId(leader))));
    // Of the three, the one that has restarted holds nobody back.
    third.forsake(GroupId(0), NodeId(leader), term).await.expect("running");
    until_it_leads(&third).await;
    assert!(begun.elapsed() < Timing::default().election_min, "{:?}", begun.elapsed());
    assert!(propose(&back, &*cluster.clock, form(), BUDGET).await.is_ok());
}

/// What is said of an earlier term of who leads again takes nothing from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_leads_again_is_not_forsaken_for_what_it_was() {
    let cluster = Cluster::start(3, &[0], Timing::default(), 5000).await;
    let leader = cluster.leader(0);
    let (first, other, third) =
        (cluster.node(leader), cluster.node(1 + leader % 3), cluster.node(1 + (leader + 1) % 3));
    let said_of = |node: &RaftMetadata| node.status().into_iter().find(|said| said.group == GroupId(0)).expect("open");
    let term = said_of(&third).term;
    first.transfer_leader(GroupId(0), NodeId(1 + leader % 3)).await.expect("asked");
    until("the other leads", || other.is_leader(GroupId(0))).await;
    other.transfer_leader(GroupId(0), NodeId(leader)).await.expect("asked");
    until("the first leads again", || {
        first.is_leader(GroupId(0)) && [&other, &third].iter().all(|node| said_of(node).term == said_of(&first).term)
    })
    .await;
    assert!(propose(&third, &*cluster.clock, form(), BUDGET).await.is_ok());
    let now = said_of(&third).term;
    assert!(now > term);
    third.forsake(GroupId(0), NodeId(leader), term).await.expect("running");
    other.forsake(GroupId(0), NodeId(leader), term).await.expect("running");
    for _ in 0..40 {
        third.elect(GroupId(0)).await.expect("asked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((first.is_leader(GroupId(0)), said_of(&other).term), (true, now));
}

/// A node that is about to stop waits for no majority that is gone, long as a request may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_gives_up_what_nobody_answers() {
    let cluster = Cluster::start(3, &[0, 1], QUICK, 5000).await;
    let leader = cluster.leader(1);
    let (last, other) = (cluster.node(1 + leader % 3), 1 + (leader + 1) % 3);
    cluster.close(leader).await;
    cluster.close(other).await;
    last.close_soon();
    let (begun, long) = (tokio::time::Instant::now(), Duration::from_secs(30));
    let proposed = propose(&last, &*cluster.clock, open_session(1, 1, 1), long);
    assert_eq!(proposed.await.map_err(|error| error.kind()), Err(ErrorKind::Timeout));
    assert!(begun.elapsed() < long, "it was asked until its deadline");
}

async fn until_it_leads(node: &RaftMetadata) {
    until("another leads", || {
        let asked = node.elect(GroupId(0));
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(asked)).expect("asked");
        node.is_leader(GroupId(0))
    })
    .await;
}

/// One writer, whose every acknowledged value later reads must see, on whatever node, while leaders are cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_never_stale_while_leaders_come_and_go() {
    let cluster = Arc::new(Cluster::start(3, &[1], QUICK, 5000).await);
    let clock = Arc::clone(&cluster.clock);
    assert!(propose(&cluster.node(1), &*clock, open_session(1, 1, 1), BUDGET).await.is_ok());
    let first = first_of(&propose(&cluster.node(1), &*clock, open_block(1, 1, 1, 0), BUDGET).await);
    let written = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));

    let mut tasks = Vec::new();
    for at in 1..=3 {
        let (cluster, written, over) = (Arc::clone(&cluster), Arc::clone(&written), Arc::clone(&over));
        tasks.push(tokio::spawn(async move {
            let mut reads = 0_u64;
            while !over.load(Ordering::SeqCst) {
                let known = written.load(Ordering::SeqCst);
                let budget = Duration::from_millis(400);
                let found = query(&cluster.node(at), &*cluster.clock, 1, get_object(1, "key"), budget).await;
                match found {
                    // A node that is cut off must say nothing rather than something old.
                    Err(error) if error.kind() == ErrorKind::Timeout => {}
                    found => {
                        assert!(len_of(&found).unwrap_or(0) >= known, "node {at} answered {found:?} after {known}");
                        reads += 1;
                    }
                }
                tokio::task::yield_now().await;
            }
            reads
        }));
    }
    let writer = {
        let (cluster, written, over) = (Arc::clone(&cluster), Arc::clone(&written), Arc::clone(&over));
        tokio::spawn(async move {
            let (mut count, mut node) = (0, 1);
            while !over.load(Ordering::SeqCst) {
                count += 1;
                let put = put_object(1, 1, "key", WriteId(first.0 + count), count);
                // The same write until it is acknowledged, through whichever node: it takes effect once.
                let budget = Duration::from_millis(500);
                while propose(&cluster.node(node), &*cluster.clock, put.clone(), budget).await.is_err() {
                    node = 1 + node % 3;
                }
                written.store(count, Ordering::SeqCst);
                node = 1 + node % 3;
            }
            count
        })
    };
    for _ in 0..3 {
        let before = written.load(Ordering::SeqCst);
        cluster.isolate(cluster.leader(1));
        // The two others go on.
        until("writes go on without the leader", || written.load(Ordering::SeqCst) > before + 3).await;
        cluster.heal();
        cluster.settle().await;
    }
    over.store(true, Ordering::SeqCst);
    let writes = writer.await.expect("the writer");
    let mut reads = 0;
    for task in tasks {
        reads += task.await.expect("no stale read");
    }
    assert!(writes > 10 && reads > 10, "{writes} writes, {reads} reads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lags_is_brought_up_by_a_snapshot() {
    let cluster = Cluster::start(3, &[0, 1], QUICK, 40).await;
    let clock = &*cluster.clock;
    let lagging = (1..=3).find(|node| [0, 1].iter().all(|group| cluster.leader(*group) != *node)).expect("a follower");
    let writer = cluster.node(cluster.leader(1));
    assert!(propose(&writer, clock, open_session(1, 1, 1), BUDGET).await.is_ok());
    let first = first_of(&propose(&writer, clock, open_block(1, 1, 1, 0), BUDGET).await);
    cluster.isolate(lagging);
    // Long addresses: rows of several pieces, and a snapshot of several chunks.
    let address = "a".repeat(300);
    for count in 1..=200 {
        assert!(propose(&writer, clock, node_info(count, &address, LEVEL), BUDGET).await.is_ok());
        let put = put_object(1, 1, &format!("{count:04}{}", "k".repeat(900)), WriteId(first.0 + count), count);
        assert!(propose(&writer, clock, put, BUDGET).await.is_ok());
    }
    cluster.heal();
    let wanted = cluster.node(cluster.leader(0)).control();
    assert_eq!(wanted.nodes.len(), 200);
    until("the control group arrived", || cluster.node(lagging).control() == wanted).await;
    // It has the other group too: it can lead it, and answer from its own state.
    until("it leads", || {
        if let Some(leader) = cluster.nodes().into_iter().find(|node| node.is_leader(GroupId(1))) {
            let asked = leader.transfer_leader(GroupId(1), NodeId(lagging));
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(asked)).expect("asked");
        }
        cluster.node(lagging).is_leader(GroupId(1))
    })
    .await;
    let question =
        Query::List { bucket: bucket(1), prefix: String::new(), delimiter: None, after: String::new(), limit: 1000 };
    let listing = query(&cluster.node(lagging), clock, 1, question, BUDGET).await.expect("a listing");
    assert!(matches!(&*listing, MetaAnswer::Listing(listing) if listing.entries.len() == 200));
}

/// The state travels slowly, and in the meantime it is rewritten, and more entries are written than are kept behind a
/// snapshot. Still the first snapshot is enough, or the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_far_behind_catches_up_while_everything_is_rewritten() {
    const KEYS: u64 = 1500;
    const WRITERS: u64 = 8;
    /// No chunk for so long: the last one was sent.
    const SILENCE: Duration = Duration::from_secs(3);
    let cluster = Arc::new(Cluster::start(3, &[1], QUICK, 50).await);
    let leader = cluster.leader(1);
    let lagging = 1 + leader % 3;
    cluster.isolate(lagging);
    cluster.slow_snapshots(Duration::from_millis(700));
    let (written, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = Vec::new();
    for actor in 1..=WRITERS {
        let (cluster, written, over) = (Arc::clone(&cluster), Arc::clone(&written), Arc::clone(&over));
        tasks.push(tokio::spawn(async move {
            let via = cluster.node(leader);
            let session = open_session(1, actor, 1);
            assert!(propose(&via, &*cluster.clock, session, BUDGET).await.is_ok());
            let open = open_block(1, actor, 1, 0);
            let first = first_of(&propose(&via, &*cluster.clock, open, BUDGET).await);
            for count in 0..4096 {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let key = format!("{:04}{}", (count * WRITERS + actor) % KEYS, "k".repeat(900));
                let put = put_object(actor, 1, &key, WriteId(first.0 + count), count);
                propose(&via, &*cluster.clock, put, BUDGET).await.expect("committed");
                written.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    until("everything is written once", || written.load(Ordering::SeqCst) >= KEYS).await;
    let in_vain = cluster.carried("snapshot");
    cluster.heal();
    let before = written.load(Ordering::SeqCst);
    let last = std::cell::Cell::new((0, tokio::time::Instant::now()));
    until("the last chunk was sent", || {
        let chunks = cluster.carried("snapshot") - in_vain;
        if chunks != last.get().0 {
            last.set((chunks, tokio::time::Instant::now()));
        }
        chunks > 0 && last.get().1.elapsed() > SILENCE
    })
    .await;
    let (chunks, meanwhile) = (cluster.carried("snapshot") - in_vain, written.load(Ordering::SeqCst) - before);
    println!("{meanwhile} written meanwhile, {chunks} chunks");
    over.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.expect("a writer");
    }
    assert!(meanwhile > 62, "more than is kept behind a snapshot: {meanwhile}");
    assert!((2..=8).contains(&chunks), "{chunks} chunks");
    // It has everything: it can lead.
    until("it leads", || {
        if let Some(leader) = cluster.nodes().into_iter().find(|node| node.is_leader(GroupId(1))) {
            let asked = leader.transfer_leader(GroupId(1), NodeId(lagging));
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(asked)).expect("asked");
        }
        cluster.node(lagging).is_leader(GroupId(1))
    })
    .await;
    assert_eq!(cluster.carried("snapshot") - in_vain, chunks, "the log was enough");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_restart_from_their_files() {
    let cluster = Cluster::start(3, &[0, 1], QUICK, 50).await;
    let clock = &*cluster.clock;
    assert!(propose(&cluster.node(1), clock, form(), BUDGET).await.is_ok());
    assert!(propose(&cluster.node(1), clock, open_session(1, 1, 1), BUDGET).await.is_ok());
    let first = first_of(&propose(&cluster.node(1), clock, open_block(1, 1, 1, 0), BUDGET).await);
    for count in 1..=120 {
        let put = put_object(1, 1, &format!("key-{}", count % 7), WriteId(first.0 + count), count);
        assert!(propose(&cluster.node(1 + count % 3), clock, put, BUDGET).await.is_ok());
    }
    until("every node sees the cluster", || cluster.nodes().iter().all(|node| node.control().cluster.is_some())).await;
    for node in 1..=3 {
        cluster.close(node).await;
    }
    for node in 1..=3 {
        let opened = cluster.open(node, cluster.config.groups.clone()).await;
        // What was applied is known before there is any leader.
        assert_eq!(opened.control().cluster, Some(ClusterId([7; 16])));
    }
    // Peers are connected: an election is called, and nobody waits for a timeout.
    let begun = tokio::time::Instant::now();
    for group in &cluster.config.groups {
        cluster.node(2).elect(*group).await.expect("asked");
    }
    cluster.settle().await;
    println!("elected {} ms after the restart", begun.elapsed().as_millis());
    for key in 0..7 {
        let found = query(&cluster.node(3), clock, 1, get_object(1, &format!("key-{key}")), BUDGET).await;
        let last = (114..=120).find(|count| count % 7 == key);
        assert_eq!(len_of(&found), last);
    }
}

/// Once the mesh does more, an older build takes no part in it: it opens nothing that knows so, and where it does not know it,
/// nothing passes between it and the others, which go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_is_older_than_what_the_mesh_does_takes_no_part() {
    let mut cluster = Cluster::start(3, &[0, 1], QUICK, 40).await;
    let clock = cluster.clock.clone();
    let groups = cluster.config.groups.clone();
    for node in 1..=3 {
        cluster.close(node).await;
    }
    cluster.config.level = Level(2);
    for node in 1..=3 {
        cluster.open(node, groups.clone()).await;
    }
    cluster.settle().await;
    assert!(propose(&cluster.node(1), &*clock, form(), BUDGET).await.is_ok());
    for node in 1..=3 {
        assert!(propose(&cluster.node(1), &*clock, node_info(node, "127.0.0.1:1", Level(2)), BUDGET).await.is_ok());
    }
    cluster.close(3).await;
    let raised = propose(&cluster.node(1), &*clock, MeshCommand::RaiseLevel(Level(2)), BUDGET).await;
    assert_eq!(raised, Ok(Arc::new(MetaAnswer::Done)));
    let raised_at = cluster.node(cluster.leader(0)).applied(GroupId::CONTROL);

    // One that was away when it was raised.
    cluster.config.level = Level(1);
    let old = cluster.open(3, groups.clone()).await;
    let applied = || [GroupId::CONTROL, GroupId(1)].map(|group| old.applied(group));
    let had = applied();
    for count in 0..100 {
        let (others, address) = (cluster.node(1 + count % 2), format!("127.0.0.1:{}", 1 + count));
        for command in [open_session(1, 1, 1 + count), node_info(1, &address, Level(2)).into()] {
            let done = propose(&others, &*clock, command, BUDGET).await;
            assert!(done.is_ok(), "{done:?}");
        }
    }
    assert!(old.elect(GroupId::CONTROL).await.is_ok());
    let before = cluster.carried("raft");
    until("they have talked for a while", || cluster.carried("raft") > before + 60).await;
    assert_eq!((applied(), old.control().level), (had, Level(1)), "something came to it");
    assert!(old.status().iter().all(|group| group.leader != Some(NodeId(3))), "somebody voted for it");
    drop(old);
    cluster.close(3).await;

    // One that knows so by what it has applied, and by that alone: the entry is not in its log.
    let purged = |node| cluster.node(node).purged(GroupId::CONTROL) >= raised_at;
    until("the entry is in nobody's log any more", || purged(1) && purged(2)).await;
    cluster.config.level = Level(2);
    let snapshots = cluster.carried("snapshot");
    cluster.open(3, groups.clone()).await;
    until("it has caught up", || cluster.node(3).control().level == Level(2)).await;
    assert!(cluster.carried("snapshot") > snapshots, "it has come as a snapshot");
    cluster.close(3).await;
    cluster.config.level = Level(1);
    let refused = cluster.try_open(3, groups).await.expect_err("it opens nothing");
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains("run a newer build on it [level=1 needed=2"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_added_and_removed_while_it_runs() {
    let cluster = Cluster::start(3, &[0], QUICK, 5000).await;
    let clock = &*cluster.clock;
    assert!(propose(&cluster.node(1), clock, form(), BUDGET).await.is_ok());
    let fourth = cluster.open(4, Vec::new()).await;
    fourth.ensure_group(GroupId::CONTROL).await.expect("opened");
    fourth.ensure_group(GroupId::CONTROL).await.expect("again: no effect");
    let mut changes = fourth.watch_control();
    let leader = cluster.node(cluster.leader(0));
    let follower = cluster.nodes().into_iter().find(|node| !node.is_leader(GroupId::CONTROL)).expect("a follower");
    let refused = follower.add_learner(GroupId::CONTROL, cluster.replica(4, 0)).await.expect_err("it does not lead");
    assert_eq!(refused.kind(), ErrorKind::NotLeader);
    leader.add_learner(GroupId::CONTROL, cluster.replica(4, 0)).await.expect("added");
    tokio::time::timeout(BUDGET, changes.wait_for(|view| view.cluster.is_some()))
        .await
        .expect("in time")
        .expect("told");
    let removed = cluster.leader(0) % 3 + 1;
    let remaining = (1..=4).filter(|node| *node != removed);
    let voters: BTreeSet<ReplicaId> = remaining.map(|node| cluster.replica(node, 0)).collect();
    leader.change_voters(GroupId::CONTROL, &voters).await.expect("changed");
    cluster.close(removed).await;
    assert!(propose(&fourth, clock, node_info(1, "here:1", LEVEL), BUDGET).await.is_ok());
    until("the new member has it", || fourth.control().nodes.len() == 1).await;
}

/// The largest command there is: every part of the largest upload gets a new row in one batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_upload_completes_in_one_command() {
    let cluster = Cluster::start(1, &[1], QUICK, 5000).await;
    let clock = &*cluster.clock;
    let node = cluster.node(cluster.leader(1));
    assert!(propose(&node, clock, open_session(1, 1, 1), BUDGET).await.is_ok());
    let mut blocks = Vec::new();
    for request in 0..3 {
        blocks.push(first_of(&propose(&node, clock, open_block(1, 1, 1, request), BUDGET).await));
    }
    let write = |count: u64| WriteId(blocks[(count / 4096) as usize].0 + count % 4096);
    let numbered = |request| proposer(1, 1, request);
    let upload = write(0);
    let row = UploadRow {
        upload,
        key: "film".into(),
        attributes: Default::default(),
        created: UnixMillis(1),
        principal: "ann".into(),
    };
    let create = Command::Object(bucket(1), ObjectCommand::CreateUpload { proposer: numbered(10), row: row.into() });
    assert!(propose(&node, clock, create, BUDGET).await.is_ok());
    let etag = |number: u32| format!("{number:032x}");
    let begun = tokio::time::Instant::now();
    let mut waiting = tokio::task::JoinSet::new();
    for number in 1..=10_000_u32 {
        // Not all at once: the last would have to wait for all others within its own time, however slow the machine is.
        if waiting.len() == 512 {
            let stored = waiting.join_next().await.expect("there are some").expect("asked");
            assert_eq!(stored, Ok(Arc::new(MetaAnswer::Done)));
        }
        let Command::Object(_, ObjectCommand::PutObject { row, .. }) =
            put_object(1, 1, "x", write(u64::from(number)), 5 << 20)
        else {
            panic!("a put is a put")
        };
        let mesh_core::meta::Body::Whole(extent) = &row.body else { panic!("one write") };
        let part = PartRow {
            number,
            offset: 0,
            etag: etag(number),
            checksums: Default::default(),
            modified: UnixMillis(2),
            extent: extent.clone(),
        };
        let proposer = numbered(100 + u64::from(number));
        let command = Command::Object(
            bucket(1),
            ObjectCommand::PutPart { proposer, upload, part: part.into(), quota_bytes: None },
        );
        let (node, clock) = (Arc::clone(&node), Arc::clone(&cluster.clock));
        waiting.spawn(async move { propose(&node, &*clock, command, BUDGET).await });
    }
    while let Some(stored) = waiting.join_next().await {
        assert_eq!(stored.expect("asked"), Ok(Arc::new(MetaAnswer::Done)));
    }
    println!("10000 parts stored in {} ms", begun.elapsed().as_millis());
    let complete = Command::Object(
        bucket(1),
        ObjectCommand::CompleteUpload {
            proposer: numbered(11_000),
            key: "film".into(),
            upload,
            parts: (1..=10_000).map(|number| (number, etag(number))).collect(),
            etag: "whole".into(),
            checksums: Default::default(),
            at: UnixMillis(3),
            precondition: Default::default(),
        },
    );
    let begun = tokio::time::Instant::now();
    let completed = propose(&node, clock, complete, BUDGET).await;
    println!("10000 parts completed in {} ms", begun.elapsed().as_millis());
    assert!(matches!(completed.as_deref(), Ok(MetaAnswer::Committed { .. })), "{completed:?}");
    let question = Query::Extents { bucket: bucket(1), upload, offset: (9_999 * 5) << 20, limit: 10 };
    let found = query(&cluster.node(1), clock, 1, question, BUDGET).await.expect("extents");
    assert!(matches!(&*found, MetaAnswer::Parts(parts, false) if parts.len() == 1 && parts[0].number == 10_000));
}

/// One node that does not lead, and who leads; a group of three.
async fn follower_and_leader() -> (Cluster, u64, u64) {
    let cluster = Cluster::start(3, &[0], QUICK, 5000).await;
    propose(&cluster.node(1), &*cluster.clock, form(), BUDGET).await.expect("formed");
    let leader = cluster.leader(0);
    (cluster, 1 + leader % 3, leader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_from_the_leader_goes_by_a_third() {
    for silently in [false, true] {
        let (cluster, follower, leader) = follower_and_leader().await;
        // One way only: the leader's heartbeats go on, so nobody looks for another leader.
        if silently {
            cluster.swallow(follower, leader)
        } else {
            cluster.cut(follower, leader)
        }
        let began = std::time::Instant::now();
        let put = propose(&cluster.node(follower), &*cluster.clock, node_info(9, "nine", LEVEL), BUDGET).await;
        assert_eq!(put, Ok(Arc::new(MetaAnswer::Done)));
        let seen = query(&cluster.node(follower), &*cluster.clock, 0, Query::Control, BUDGET).await.expect("an answer");
        assert!(matches!(&*seen, MetaAnswer::Control(view) if view.nodes.contains_key(&NodeId(9))));
        // What the group refuses is refused, and not asked again until the time is up.
        let none = Query::Bucket { name: "none".into() };
        let refused = query(&cluster.node(follower), &*cluster.clock, 0, none, BUDGET).await.expect_err("no bucket");
        assert_eq!(refused.kind(), ErrorKind::NoSuchBucket, "{refused}");
        assert!(began.elapsed() < Duration::from_secs(8), "{:?} for three requests", began.elapsed());
        assert!(cluster.carried("relayed") >= 3, "by way of the third node");
    }
}

/// Two might ask for a node that only follows, and one of them, whichever it is, cannot be reached either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_from_the_leader_asks_each_of_the_others_in_turn() {
    let (cluster, ..) = follower_and_leader().await;
    let leader = 1;
    cluster.node(leader).elect(GroupId::CONTROL).await.expect("asked");
    until("it leads", || cluster.node(leader).is_leader(GroupId::CONTROL)).await;
    let fourth = cluster.open(4, Vec::new()).await;
    fourth.ensure_group(GroupId::CONTROL).await.expect("opened");
    cluster.node(leader).add_learner(GroupId::CONTROL, cluster.replica(4, 0)).await.expect("added");
    until("it knows who leads", || fourth.status().iter().any(|group| group.leader == Some(NodeId(leader)))).await;
    for other in (1..=3).filter(|node| *node != leader) {
        cluster.cut(4, leader);
        cluster.cut(4, other);
        let began = std::time::Instant::now();
        for _ in 0..3 {
            let asked = query(&fourth, &*cluster.clock, 0, Query::Control, BUDGET).await;
            assert!(asked.is_ok(), "{asked:?}");
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?} for three requests", began.elapsed());
        cluster.heal();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_relayed_is_not_relayed_again() {
    let (cluster, follower, leader) = follower_and_leader().await;
    let third = 6 - follower - leader;
    cluster.cut(follower, leader);
    cluster.cut(third, leader);
    let before = cluster.carried("relayed");
    let relayed = NodeOp::RelayQuery { group: GroupId(0), query: Query::Control.into() };
    let deadline = cluster.clock.now() + Duration::from_secs(1);
    let refused = cluster.node(third).relay(relayed, deadline).await.expect_err("it cannot reach the leader either");
    assert_eq!(refused.kind(), ErrorKind::Unreachable, "{refused}");
    assert_eq!(cluster.carried("relayed"), before, "it asked nobody else to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_majority_says_so_in_seconds() {
    let (cluster, _, leader) = follower_and_leader().await;
    for other in (1..=3).filter(|node| *node != leader) {
        for (from, to) in [(leader, other), (other, leader)] {
            cluster.swallow(from, to);
        }
        // Nor may the others make a leader of their own.
        for to in (1..=3).filter(|node| *node != other) {
            cluster.swallow(other, to);
        }
    }
    let (node, clock) = (cluster.node(leader), &*cluster.clock);
    let began = std::time::Instant::now();
    let (written, read) = tokio::join!(
        propose(&node, clock, node_info(9, "nine", LEVEL), Duration::from_secs(30)),
        query(&node, clock, 0, Query::Control, Duration::from_secs(30)),
    );
    for error in [written.expect_err("no majority"), read.expect_err("no majority")] {
        assert!(error.kind() == ErrorKind::Timeout && error.to_string().contains("majority"), "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
