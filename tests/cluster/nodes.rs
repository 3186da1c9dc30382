//! Nodes that leave: one that is emptied while clients write, and some that never come back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh::Client;
use mesh_core::Error;

use crate::{
    Acknowledged, BUCKET, Failures,
    drives::{is_whole, with_a_short_grace},
    processes::{Cluster, bytes_of, until},
    read_all, stream,
};

/// Waits until three vote in every metadata group, and none of them is this one.
pub(crate) async fn three_vote_without(client: &Client, node: u64) {
    until(&format!("three vote, without node-{node}"), Duration::from_secs(60), async || {
        let status = client.status().await?;
        let led = status.iter().flat_map(|report| {
            let leads = |group: &&mesh_core::op::GroupReport| group.leader == Some(report.node);
            report.groups.iter().filter(leads)
        });
        let voters: Vec<Vec<u64>> =
            led.map(|group| group.voters.iter().map(|voter| voter.node().0).collect()).collect();
        let good = voters.len() >= 2 && voters.iter().all(|voters| voters.len() == 3 && !voters.contains(&node));
        if good { Ok(()) } else { Err(Error::invalid(format!("{voters:?}"))) }
    })
    .await;
}

/// Waits until so many more objects are written.
pub(crate) async fn written(acknowledged: &Acknowledged, more: usize) {
    let before = acknowledged.lock().unwrap().len();
    until("objects are written", Duration::from_secs(60), async || {
        let now = acknowledged.lock().unwrap().len();
        if now >= before + more { Ok(()) } else { Err(Error::invalid(format!("{now} objects"))) }
    })
    .await;
}

/// Why a node that is being emptied may not be taken out yet.
pub(crate) const UNTIL_EMPTY: [&str; 6] = [
    "counted elsewhere",
    "no layout without it",
    "are on the drive yet",
    "meanwhile",
    "an actor is there still",
    "leads the metadata group still",
];

/// Waits until a command of administrators goes well, which until then is refused for one of these reasons.
pub(crate) async fn once_it_may(cluster: &Cluster, arguments: &[&str], reasons: &[&str]) {
    until(&format!("{arguments:?} goes well"), Duration::from_secs(180), async || {
        let (good, said) = cluster.administer(arguments, "");
        assert!(good || reasons.iter().any(|why| said.contains(why)), "{said}");
        if good { Ok(()) } else { Err(Error::invalid(said)) }
    })
    .await;
}

/// Another has joined before, clients write all the time, and one more may be lost after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_emptied_under_load_can_be_taken_out() {
    let mut cluster = Cluster::start_with(with_a_short_grace).await;
    let refused = |cluster: &Cluster, arguments: &[&str], why: &str| {
        let (good, said) = cluster.administer(&[&["node"], arguments].concat(), "");
        assert!(!good && said.contains(why), "{said}");
    };
    refused(&cluster, &["drain", "3"], "neither could be lost");
    refused(&cluster, &["remove", "3", "--yes"], "the node is in use");
    refused(&cluster, &["remove", "3", "--lost", "--yes"], "the node is up");
    refused(&cluster, &["drain", "9"], "no node of this number");
    let (acknowledged, stop) = (Acknowledged::default(), Arc::new(AtomicBool::new(false)));
    let client = cluster.client(&[1, 2]).await;
    let writer = tokio::spawn(stream(client, "load", acknowledged.clone(), stop.clone()));
    written(&acknowledged, 20).await;
    assert_eq!(cluster.grow(&with_a_short_grace), 4);
    let client = cluster.client(&[1, 2, 4]).await;
    cluster.all_up(&client, 8).await;
    let (good, said) = cluster.administer(&["node", "drain", "3"], "");
    assert!(good && said.contains("goes to the 6 of others"), "{said}");
    three_vote_without(&client, 3).await;
    once_it_may(&cluster, &["node", "remove", "3", "--yes"], &UNTIL_EMPTY).await;
    written(&acknowledged, 20).await;
    stop.store(true, Ordering::Release);
    assert_eq!(writer.await.unwrap(), Failures::default());
    // It is told while it runs still, and again once it is started.
    for times in 1..=2 {
        until("it says that it is out", Duration::from_secs(60), async || {
            let log = cluster.log(3);
            let told = log.matches("the mesh has taken this node out").count();
            if told >= times { Ok(()) } else { Err(Error::invalid(log)) }
        })
        .await;
        cluster.terminate(3);
        if times == 1 {
            cluster.serve(3);
        }
    }
    assert!(cluster.invite(3).is_err_and(|why| why.contains("numbers are used once")));
    cluster.all_up(&client, 6).await;
    until("every group is whole", Duration::from_secs(120), async || is_whole(&cluster)).await;
    cluster.kill(1);
    read_all(&cluster.client(&[2, 4]).await, &acknowledged, "after another one is lost").await;
}

/// Each is replaced before the next: in the end none of those is there that had been at first.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_are_lost_for_good_one_after_another_and_replaced() {
    let mut cluster = Cluster::start_with(with_a_short_grace).await;
    let body = |number: u64| bytes_of(number, 3000 + 900 * number as usize);
    let acknowledged = Acknowledged::default();
    for lost in 1..=3 {
        let client = cluster.client(&[lost, lost + 1, lost + 2]).await;
        for number in 30 * lost..30 * lost + 30 {
            let bytes = body(number);
            client.put_bytes(BUCKET, &format!("k{number}"), &bytes).await.unwrap();
            acknowledged.lock().unwrap().insert(format!("k{number}"), (number, bytes.len()));
        }
        // One of them only seems to be.
        let asleep = (lost == 2).then(|| cluster.pause(lost));
        if asleep.is_none() {
            cluster.kill(lost);
        }
        let client = cluster.client(&[lost + 1, lost + 2]).await;
        let waits = [
            "nobody has said whether",
            "the node is up",
            "has a link",
            "see enough",
            "an actor is there still",
            "no leader",
            "not lead",
        ];
        once_it_may(&cluster, &["node", "remove", &lost.to_string(), "--lost", "--yes"], &waits).await;
        assert_eq!(cluster.grow(&with_a_short_grace), lost + 3);
        cluster.all_up(&client, 6).await;
        three_vote_without(&client, lost).await;
        until("every group is whole", Duration::from_secs(180), async || is_whole(&cluster)).await;
        let Some(asleep) = asleep else { continue };
        asleep.resume();
        until("it says that it is out", Duration::from_secs(60), async || {
            let log = asleep.log();
            if log.contains("was taken out of the mesh for good") { Ok(()) } else { Err(Error::invalid(log)) }
        })
        .await;
        // Whoever asks it first gets an answer from another.
        let client = cluster.client(&[lost, lost + 1]).await;
        client.put_bytes(BUCKET, "by-who-is-out", b"not here").await.unwrap();
        assert_eq!(client.get_bytes(BUCKET, "by-who-is-out").await.unwrap(), b"not here");
    }
    read_all(&cluster.client(&[4, 5, 6]).await, &acknowledged, "after three are lost").await;
    cluster.kill(5);
    read_all(&cluster.client(&[4, 6]).await, &acknowledged, "while a fourth is down").await;
}
