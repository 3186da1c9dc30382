//! Metadata that have lost those who kept them: they go on from one host, or from a backup.

use std::{fs, path::Path, time::Duration};

use mesh::Client;
use mesh_core::{Error, ErrorKind, id::NodeId, meta::BucketSettings, topology::Code};

use crate::{
    BUCKET, COPIES,
    drives::{is_whole, with_a_short_grace},
    nodes::three_vote_without,
    processes::{Cluster, bytes_of, until},
};

const OBJECTS: u64 = 24;
const PATIENCE: Duration = Duration::from_secs(90);

/// Two of three hosts are gone for good, and with them every majority. The third has everything that was acknowledged, and goes on
/// once it is accepted that they are; those two are nobody any more, however sure they are of each other.
#[tokio::test(flavor = "multi_thread")]
async fn one_host_goes_on_once_the_others_are_given_up() {
    let mut cluster = Cluster::start_with(with_a_short_grace).await;
    let client = cluster.client(&[1, 2, 3]).await;
    let copies = BucketSettings { code: Some(Code::copies(3).unwrap()), ..BucketSettings::default() };
    client.create_bucket_with(COPIES, copies).await.unwrap();
    for bucket in [COPIES, BUCKET] {
        store(&client, bucket, "object", OBJECTS).await;
    }
    let recover = |cluster: &Cluster, more: &[&str], typed: &str| {
        cluster.administer(&[&["metadata", "recover"], more].concat(), typed)
    };
    let (good, said) = recover(&cluster, &["--accept-loss", "--yes"], "");
    assert!(good && said.contains("every group goes on by itself"), "{said}");
    cluster.kill(2);
    // At first it is missed by nobody.
    until("one is missed", PATIENCE, async || {
        let (good, said) = recover(&cluster, &["--accept-loss", "--yes"], "");
        assert!(good || said.contains("a node is there") || said.contains("no leader"), "{said}");
        let told = good && said.contains("do not answer, and may come back: node-2");
        if told { Ok(()) } else { Err(Error::invalid(said)) }
    })
    .await;
    cluster.kill(3);
    let alone = cluster.client(&[1]).await;
    let refused = alone.put_bytes(COPIES, "refused", b"by nobody").await;
    assert!(refused.is_err(), "there is no majority");
    let said = until("there is nobody to lead", PATIENCE, async || {
        let (good, said) = recover(&cluster, &[], "");
        let told = !good && said.contains("group-0: goes on from what node-1 has") && said.contains("group-1: goes on");
        if told { Ok(said) } else { Err(Error::invalid(said)) }
    })
    .await;
    assert!(
        said.contains("out for good, with their drives and DPUs: node-2, node-3")
            && said.contains("nothing was changed")
    );
    let (good, said) = recover(&cluster, &["--accept-loss"], "3\n");
    assert!(!good && said.contains("nothing was changed"), "{said}");
    let (good, said) = recover(&cluster, &["--accept-loss"], "2\n");
    assert!(good && said.contains("2 groups go on; 2 hosts are out"), "{said}");
    // A copy of each is here.
    present(&alone, COPIES, "object", "with one host").await;
    let (good, said) = recover(&cluster, &["--accept-loss", "--yes"], "");
    assert!(good && said.contains("every group goes on by itself"), "{said}");

    // Those who are out were a majority, and are told so as soon as they meet anybody.
    for node in [2, 3] {
        cluster.serve(node);
    }
    for node in [2, 3] {
        until("it says that it is out", PATIENCE, async || {
            let log = cluster.log(node);
            if log.contains("taken this node out") || log.contains("taken out of the mesh for good") {
                Ok(())
            } else {
                Err(Error::invalid(log))
            }
        })
        .await;
        cluster.kill(node);
    }
    let grown = [(); 2].map(|()| cluster.grow(&with_a_short_grace));
    assert_eq!(grown, [4, 5]);
    let client = cluster.client(&[1, 4, 5]).await;
    cluster.all_up(&client, 6).await;
    three_vote_without(&client, 2).await;
    store(&client, BUCKET, "later", OBJECTS).await;
    // Of what was cut over all three too little is left, and that is said.
    let lost = client.get_bytes(BUCKET, "object-0").await.unwrap_err();
    assert_ne!(lost.kind(), ErrorKind::NotFound, "{lost}");
    for count in 0..OBJECTS {
        client.remove(BUCKET, &format!("object-{count}")).await.unwrap();
    }
    client.remove(BUCKET, "first").await.unwrap();
    until("every group is whole", Duration::from_secs(180), async || is_whole(&cluster)).await;
    cluster.kill(1);
    let others = cluster.client(&[4, 5]).await;
    present(&others, COPIES, "object", "without the one that had them").await;
    present(&others, BUCKET, "later", "without the one that had them").await;
}

/// No host has metadata any more. They come back from a backup, on one host from which the others learn them; and with drives
/// that have had later owners than the backup knows of.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_come_back_from_a_backup() {
    let mut cluster = Cluster::start_with(with_a_short_grace).await;
    let client = cluster.client(&[1, 2, 3]).await;
    store(&client, BUCKET, "object", OBJECTS).await;
    let file = cluster.dir(1).with_extension("backup");
    let backup = file.display().to_string();
    let (good, said) = cluster.administer(&["metadata", "backup", &backup], "");
    assert!(good && said.contains("2 groups"), "{said}");
    let (good, said) = cluster.administer(&["metadata", "backup", &backup], "");
    assert!(!good && said.contains("there is such a file already"), "{said}");
    // Into a bucket, too, and out of it: it is that one that comes back.
    let (good, said) = cluster.shell("mesh metadata backup - | mesh put --bucket main - backups/today");
    assert!(good && said.contains("backups/today"), "{said}");
    let (good, said) = cluster.shell("mesh get --bucket main backups/today - | mesh metadata check -");
    assert!(good && said.contains("whole: 2 groups") && said.contains("hosts: node-1, node-2, node-3"), "{said}");
    let (good, said) = cluster.shell(&format!("mesh get --bucket main backups/today - >{backup}"));
    assert!(good, "{said}");
    let left: Vec<_> = fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains(".part")), "{left:?}");
    store(&client, BUCKET, "later", 4).await;
    for _ in 0..2 {
        for node in [2, 3] {
            cluster.terminate(node);
            cluster.serve(node);
            cluster.all_up(&client, 6).await;
        }
    }
    let config = cluster.dir(1).join("mesh.toml").display().to_string();
    let restore = |cluster: &Cluster, from: &str| {
        cluster.administer(&["metadata", "restore", "--yes", "--config", &config, from], "")
    };
    let (good, said) = restore(&cluster, &backup);
    assert!(!good && said.contains("still in use"), "{said}");
    for node in 1..=3 {
        cluster.kill(node);
    }
    for node in [2, 3] {
        let config = cluster.dir(node).join("mesh.toml").display().to_string();
        let (good, said) = cluster.administer(&["metadata", "empty", "--config", &config], "");
        assert!(good && said.contains("are set aside as"), "{said}");
        assert!(!cluster.metadata(node).exists());
    }
    fs::remove_dir_all(cluster.metadata(1)).unwrap();
    // What is damaged anywhere, or cut short, changes nothing.
    let whole = fs::read(&file).unwrap();
    let damaged = file.with_extension("damaged");
    for at in [0, 9, whole.len() / 2, whole.len() - 1] {
        fs::write(&damaged, [&whole[..at], &[whole[at] ^ 1], &whole[at + 1..]].concat()).unwrap();
        refused(&cluster, &restore, &damaged, "backup");
    }
    for len in [0, 8, whole.len() / 3, whole.len() - 1] {
        fs::write(&damaged, &whole[..len]).unwrap();
        refused(&cluster, &restore, &damaged, "cut short");
    }
    // The others are named first, and have to be counted.
    for typed in ["", "3\n"] {
        let (good, said) = cluster.administer(&["metadata", "restore", "--config", &config, &backup], typed);
        assert!(!good && said.contains("node-2, node-3") && said.contains("nothing was changed"), "{said}");
        assert!(!cluster.metadata(1).exists(), "nothing is put in place");
    }
    let unasked = cluster.shell(&format!("mesh metadata restore --config {config} - <{backup}"));
    assert!(!unasked.0 && unasked.1.contains("say --yes") && !cluster.metadata(1).exists(), "{}", unasked.1);
    let (good, said) = cluster.shell(&format!("mesh metadata restore --yes --config {config} - <{backup}"));
    assert!(good && said.contains("2 groups") && said.contains("start this node now"), "{said}");
    for node in 1..=3 {
        cluster.serve(node);
    }
    let client = cluster.client(&[1, 2, 3]).await;
    cluster.all_up(&client, 6).await;
    present(&client, BUCKET, "object", "from a backup").await;
    let unknown = client.get_bytes(BUCKET, "later-0").await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound, "{unknown}");
    store(&client, BUCKET, "again", OBJECTS).await;
    until("every group is whole", Duration::from_secs(180), async || is_whole(&cluster)).await;
    until("all three vote", PATIENCE, async || {
        let status = client.status().await?;
        let voters = status.iter().flat_map(|report| &report.groups).filter(|group| group.voters.len() == 3);
        if voters.count() >= 2 { Ok(()) } else { Err(Error::invalid(format!("{status:?}"))) }
    })
    .await;
    cluster.kill(1);
    let others = cluster.client(&[2, 3]).await;
    for name in ["object", "again"] {
        present(&others, BUCKET, name, "without the host that was restored").await;
    }
}

/// Somebody restores a host and leaves the others what they have. While those are a majority, it joins them again; where they come
/// later, they are of the older mesh, and say so.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_host_and_others_that_kept_theirs_are_not_two_meshes() {
    let mut cluster = Cluster::start_with(with_a_short_grace).await;
    let client = cluster.client(&[1, 2, 3]).await;
    store(&client, BUCKET, "object", OBJECTS).await;
    let backup = cluster.dir(1).with_extension("backup").display().to_string();
    let (good, said) = cluster.administer(&["metadata", "backup", &backup], "");
    assert!(good, "{said}");
    store(&client, BUCKET, "later", 1).await;
    let restore = |cluster: &Cluster| {
        let config = cluster.dir(1).join("mesh.toml").display().to_string();
        let (good, said) = cluster.administer(&["metadata", "restore", "--yes", "--config", &config, &backup], "");
        assert!(good && said.contains("start this node now"), "{said}");
    };
    let heard = async |cluster: &Cluster, node: u64, what: &str| {
        until(what, PATIENCE, async || match cluster.log(node) {
            log if log.contains(what) => Ok(()),
            log => Err(Error::invalid(log)),
        })
        .await;
    };
    cluster.kill(1);
    restore(&cluster);
    cluster.serve(1);
    let others = cluster.client(&[2, 3]).await;
    heard(&cluster, 1, "was set aside").await;
    three_vote_without(&others, 9).await;
    let ours = cluster.client(&[1]).await;
    let read = until("it knows what came later", PATIENCE, async || ours.get_bytes(BUCKET, "later-0").await).await;
    assert_eq!(read, bytes_of(0, 30_000));

    (1..=3).for_each(|node| cluster.kill(node));
    restore(&cluster);
    cluster.serve(1);
    heard(&cluster, 1, "metadata that were to go on alone do").await;
    // While it is not seen, they have a majority of what they know.
    let restored = cluster.pause(1);
    for node in [2, 3] {
        cluster.serve(node);
    }
    until("they lead", PATIENCE, async || others.put_bytes(BUCKET, "elsewhere", b"is not known there").await).await;
    restored.resume();
    for node in [2, 3] {
        heard(&cluster, node, "goes on from a backup").await;
    }
    let refused = others.put_bytes(BUCKET, "nowhere", b"to be found").await;
    assert!(refused.is_err(), "nobody would find it");
    // Nor does it take theirs for what it follows when it has just started.
    drop(restored);
    cluster.serve(1);
    until("it goes on beside them", PATIENCE, async || match ours.get_bytes(BUCKET, "elsewhere").await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => panic!("it knows what was stored without it"),
    })
    .await;
    // And who starts again beside it, and follows nobody yet, is part of the older one, with all of its groups.
    let is_told = |cluster: &Cluster| cluster.log(2).matches("goes on from a backup").count();
    let before = is_told(&cluster);
    cluster.kill(2);
    cluster.serve(2);
    until("it is told again", PATIENCE, async || match is_told(&cluster) {
        now if now > before => Ok(()),
        _ => Err(Error::invalid(cluster.log(1))),
    })
    .await;
    let status = ours.status().await.unwrap();
    let of_restored = status.iter().filter(|report| report.node == NodeId(1)).flat_map(|report| &report.groups);
    let voters: Vec<Vec<NodeId>> =
        of_restored.map(|group| group.voters.iter().map(|voter| voter.node()).collect()).collect();
    assert_eq!(voters, [[NodeId(1)], [NodeId(1)]].map(Vec::from), "nobody was taken in");
    for node in [2, 3] {
        cluster.kill(node);
        let config = cluster.dir(node).join("mesh.toml").display().to_string();
        let (good, said) = cluster.administer(&["metadata", "empty", "--config", &config], "");
        assert!(good, "{said}");
        cluster.serve(node);
    }
    three_vote_without(&client, 9).await;
    present(&client, BUCKET, "object", "from a backup").await;
    for later in ["later-0", "elsewhere"] {
        let unknown = client.get_bytes(BUCKET, later).await.unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::NotFound, "{unknown}");
    }
    store(&client, BUCKET, "again", 1).await;
}

fn refused(cluster: &Cluster, restore: &impl Fn(&Cluster, &str) -> (bool, String), from: &Path, why: &str) {
    let from = from.display().to_string();
    for (good, said) in [restore(cluster, &from), cluster.administer(&["metadata", "check", &from], "")] {
        assert!(!good && said.contains(why), "{said}");
    }
    assert!(!cluster.metadata(1).exists(), "nothing is put in place");
}

async fn store(client: &Client, bucket: &str, name: &str, count: u64) {
    for count in 0..count {
        let put = async || client.put_bytes(bucket, &format!("{name}-{count}"), &bytes_of(count, 30_000)).await;
        until("a put", PATIENCE, put).await;
    }
}

async fn present(client: &Client, bucket: &str, name: &str, when: &str) {
    for count in 0..OBJECTS {
        let key = format!("{name}-{count}");
        let read = until(&format!("{key} {when}"), PATIENCE, async || match client.get_bytes(bucket, &key).await {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Lost) => {
                panic!("{key} is lost {when}: {error}")
            }
            other => other,
        })
        .await;
        assert!(read == bytes_of(count, 30_000), "{key} has other bytes {when}");
    }
}
