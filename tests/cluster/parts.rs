//! Every part of a mesh is exchanged while clients write: drives are pulled and others put in, a node leaves and another
//! joins, and each is started anew.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh_core::{Error, meta::BucketSettings, topology::Code};

use crate::{
    Acknowledged, COPIES, Failures,
    drives::{is_whole, with_a_short_grace},
    nodes::{UNTIL_EMPTY, once_it_may, three_vote_without, written},
    processes::{Cluster, until},
    read_all, stream,
};

fn told(cluster: &Cluster, arguments: &[&str]) -> String {
    let (good, said) = cluster.administer(arguments, "");
    assert!(good, "{arguments:?}: {said}");
    said
}

fn refused(cluster: &Cluster, arguments: &[&str], why: &str) {
    let (good, said) = cluster.administer(arguments, "");
    assert!(!good && said.contains(why), "{arguments:?}: {said}");
}

async fn whole(cluster: &Cluster, when: &str) {
    until(&format!("every group is whole {when}"), Duration::from_secs(180), async || is_whole(cluster)).await;
}

fn of_size(path: &Path, size: &str) -> String {
    format!("{}:{size}", path.display())
}

/// Nine drives in three nodes, 4+2: a node has two shards of every stripe.
#[tokio::test(flavor = "multi_thread")]
async fn every_part_is_exchanged_under_load() {
    let mut cluster = Cluster::start_of("4+2", &['a', 'b', 'c'], with_a_short_grace).await;
    let acknowledged = Acknowledged::default();
    let stop = Arc::new(AtomicBool::new(false));
    let client = cluster.client(&[1, 2]).await;
    // As much is put into a bucket that keeps three copies, a node each.
    let kept_in = |code| BucketSettings { code: Some(code), ..BucketSettings::default() };
    client.create_bucket_with(COPIES, kept_in(Code::copies(3).unwrap())).await.unwrap();
    let wide = client.create_bucket_with("wide", kept_in(Code { data: 5, parity: 2 })).await.unwrap_err();
    assert!(wide.message().starts_with("the mesh has too few drives for this code"), "{wide}");
    let streams = |names: [&'static str; 2]| {
        names.map(|name| tokio::spawn(stream(client.clone(), name, acknowledged.clone(), stop.clone())))
    };
    let writers = streams(["load", "copies"]);
    written(&acknowledged, 12).await;

    // What cannot be a drive is none, and nobody speaks of it afterwards.
    let [pulled, lost] = [cluster.drive(1, 'a'), cluster.drive(2, 'b')];
    let [other, another] = [cluster.drive(1, 'x'), cluster.drive(2, 'y')];
    // Where the old one was, written in another way.
    let instead = pulled.join("");
    let [old, gone] = [cluster.number(1, &pulled), cluster.number(2, &lost)];
    refused(&cluster, &["drive", "add", "1", "drive-1x:2GiB"], "begins with /");
    refused(&cluster, &["drive", "add", "9", &of_size(&other, "2GiB")], "no node of this number");
    refused(&cluster, &["drive", "add", "1", &of_size(&cluster.drive(2, 'a'), "2GiB")], "in use");
    refused(&cluster, &["drive", "replace", "1999", &of_size(&other, "2GiB")], "no drive of this number");
    refused(&cluster, &["drive", "replace", &old, &of_size(&other, "1GiB")], "smaller");
    refused(&cluster, &["drive", "replace", &old, &of_size(&cluster.drive(1, 'b'), "2GiB")], "not in that one's place");
    refused(&cluster, &["drive", "replace", &old, &of_size(&instead, "2GiB")], "is there and works");
    let folder = cluster.dir(2);
    refused(&cluster, &["drive", "add", "1", &of_size(&folder, "2GiB")], "the folder holds something else");
    cluster.all_up(&client, 9).await;
    fs::remove_dir_all(&other).unwrap();

    // Two are pulled: one is replaced, which asked twice is done once; of the other nobody expects anything any more.
    for drive in [&pulled, &lost] {
        fs::rename(drive, drive.with_extension("pulled")).unwrap();
    }
    cluster.all_up(&client, 7).await;
    written(&acknowledged, 12).await;
    refused(&cluster, &["drive", "add", "1", &of_size(&instead, "2GiB")], "a drive is there that does not answer");
    let said = told(&cluster, &["drive", "replace", &old, &of_size(&instead, "2GiB")]);
    assert!(said.contains(&format!("in the place of drive-{old}")), "{said}");
    assert_eq!(told(&cluster, &["drive", "replace", &old, &of_size(&instead, "2GiB")]), said);
    refused(&cluster, &["drive", "drain", &old, "--undo"], "another drive has taken its place");
    told(&cluster, &["drive", "remove", &gone, "--lost", "--yes"]);
    let said = told(&cluster, &["drive", "add", "node-2", &of_size(&another, "2GiB")]);
    assert!(said.contains("of node-2 is used from now on"), "{said}");
    cluster.all_up(&client, 9).await;
    whole(&cluster, "with other drives").await;
    once_it_may(&cluster, &["drive", "remove", &old, "--lost", "--yes"], &["the drive is in use"]).await;
    written(&acknowledged, 12).await;

    // A node leaves, and another one has joined before.
    assert_eq!(cluster.grow(&with_a_short_grace), 4);
    cluster.all_up(&client, 12).await;
    until("node-3 may leave", Duration::from_secs(60), async || {
        let (good, said) = cluster.administer(&["node", "drain", "3"], "");
        if good { Ok(()) } else { Err(Error::invalid(said)) }
    })
    .await;
    three_vote_without(&client, 3).await;
    once_it_may(&cluster, &["node", "remove", "3", "--yes"], &UNTIL_EMPTY).await;
    cluster.terminate(3);
    written(&acknowledged, 12).await;

    stop.store(true, Ordering::Release);
    for writer in writers {
        assert_eq!(writer.await.unwrap(), Failures::default());
    }

    // Each is started anew, with the drives that it was given. What a node does not say any more of a put that it had begun, an
    // SDK sends again, twice by default.
    stop.store(false, Ordering::Release);
    let writers = streams(["more", "copies-more"]);
    for node in [1, 2, 4] {
        cluster.terminate(node);
        cluster.serve(node);
        cluster.all_up(&client, 9).await;
    }
    whole(&cluster, "in the end").await;
    written(&acknowledged, 12).await;
    stop.store(true, Ordering::Release);
    for writer in writers {
        let failures = writer.await.unwrap();
        assert!(failures.in_a_row <= 2, "{failures:?}");
    }
    read_all(&client, &acknowledged, "after everything was exchanged").await;
    // As before, any node may be down.
    cluster.kill(2);
    read_all(&cluster.client(&[1, 4]).await, &acknowledged, "with one of them down").await;
}
