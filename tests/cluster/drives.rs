//! Drives that are away: what is deleted meanwhile, and how one is declared lost.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh::Client;
use mesh_core::{
    Error,
    op::DriveReport,
    topology::{DriveState, NodeState},
};

use crate::{
    BUCKET,
    processes::{Cluster, bytes_of, copied, until},
};

const OBJECTS: usize = 500;

async fn drives(client: &Client) -> Result<Vec<DriveReport>, Error> {
    Ok(client.status().await?.iter().flat_map(|report| report.drives.clone()).collect())
}

/// Waits until the drives of some nodes hold no more shards than an object has.
async fn emptied(client: &Client, nodes: &[u64], patience: Duration) {
    until(&format!("the drives of {nodes:?} are empty"), patience, async || {
        let mut drives = drives(client).await?;
        drives.retain(|drive| nodes.contains(&(drive.drive.0 / 1000)));
        let held: u64 = drives.iter().map(|drive| drive.shards).sum();
        let up = drives.iter().all(|drive| drive.state == DriveState::Up);
        // The first object of the cluster stays.
        if up && held <= 3 { Ok(()) } else { Err(Error::invalid(format!("{held} shards: {drives:?}"))) }
    })
    .await;
}

/// Whether every group says that all it has stored was counted where it is to be.
pub(crate) fn is_whole(cluster: &Cluster) -> Result<(), Error> {
    let (good, said) = cluster.administer(&["repair"], "");
    let groups: Vec<&str> = said.lines().filter(|line| line.starts_with("group-")).collect();
    let whole = !groups.is_empty() && groups.iter().all(|line| line.ends_with(": whole"));
    if good && whole { Ok(()) } else { Err(Error::invalid(said)) }
}

pub(crate) fn with_a_short_grace(configuration: &str) -> String {
    with("reclaim_grace", "1s", configuration)
}

/// A configuration with another value.
fn with(key: &str, value: &str, configuration: &str) -> String {
    let line = configuration.lines().find(|line| line.starts_with(key)).unwrap();
    configuration.replace(line, &format!("{key} = \"{value}\""))
}

/// A drive that is put back from a copy lacks what was written since, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_drive_that_is_put_back_from_an_older_copy_says_so() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client(&[1, 2]).await;
    // Which of the two has which number is decided by who is there first.
    let said = async || {
        let mut drives = drives(&client).await?;
        drives.retain(|drive| drive.drive.0 / 1000 == 3);
        Ok::<_, Error>(drives.into_iter().map(|drive| (drive.state, drive.reason)).collect::<Vec<_>>())
    };
    let (folder, copy) = (cluster.drive(3, 'a'), cluster.drive(3, 'a').with_extension("copy"));
    cluster.terminate(3);
    copied(&folder, &copy);
    for _ in 0..2 {
        cluster.serve(3);
        cluster.all_up(&client, 6).await;
        assert_eq!(said().await.unwrap(), vec![(DriveState::Up, None); 2], "its own starts are no sign");
        cluster.terminate(3);
        until("they are down", Duration::from_secs(60), async || match said().await? {
            drives if drives.iter().all(|(state, _)| *state == DriveState::Down) => Ok(()),
            drives => Err(Error::invalid(format!("{drives:?}"))),
        })
        .await;
    }
    fs::remove_dir_all(&folder).unwrap();
    fs::rename(&copy, &folder).unwrap();
    cluster.serve(3);
    until("it says so", Duration::from_secs(60), async || {
        let drives = said().await?;
        let says =
            |reason: &Option<String>| reason.as_ref().is_some_and(|said| said.contains("put back from an older"));
        let up = drives.iter().all(|(state, _)| *state == DriveState::Up);
        let saying = drives.iter().filter(|(_, reason)| says(reason)).count();
        if up && saying == 1 { Ok(()) } else { Err(Error::invalid(format!("{drives:?}"))) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_holds_up_no_reclaim_and_its_drive_can_be_declared_lost() {
    let mut cluster = Cluster::start_with(with_a_short_grace).await;
    let client = cluster.client(&[1, 2]).await;
    for number in 0..OBJECTS {
        client.put_bytes(BUCKET, &format!("k{number}"), &[7; 4096]).await.unwrap();
    }
    cluster.kill(3);
    for number in 0..OBJECTS {
        let key = format!("k{number}");
        until("a delete", Duration::from_secs(60), async || client.remove(BUCKET, &key).await).await;
    }
    emptied(&client, &[1, 2], Duration::from_secs(30)).await;

    // It returns, and deletes what it was owed.
    cluster.serve(3);
    cluster.all_up(&client, 6).await;
    emptied(&client, &[1, 2, 3], Duration::from_secs(60)).await;

    // While it is up it is not lost, whoever says so.
    let remove =
        |arguments: &[&str], typed: &str| cluster.administer(&[&["drive", "remove"], arguments].concat(), typed);
    let (good, said) = remove(&["3001", "--lost", "--yes"], "");
    assert!(!good && said.contains("the drive is in use") && said.contains("drive=drive-3001"), "{said}");
    let (good, said) = remove(&["3001"], "3001\n");
    assert!(!good && said.contains("--lost"), "{said}");

    cluster.kill(3);
    until("node 3 is missed", Duration::from_secs(60), async || {
        let status = client.status().await?;
        let is_down = status.iter().any(|report| report.node.0 == 3 && report.state == NodeState::Down);
        if is_down { Ok(()) } else { Err(Error::invalid(format!("{status:?}"))) }
    })
    .await;
    let remove =
        |arguments: &[&str], typed: &str| cluster.administer(&[&["drive", "remove"], arguments].concat(), typed);
    let (good, said) = remove(&["3001", "--lost"], "3002\n");
    assert!(!good && said.contains("nothing was changed"), "{said}");
    let (good, said) = remove(&["3001", "--lost"], "3001\n");
    assert!(good && said.contains("new objects go to the 5 drives that are left"), "{said}");
    let (good, said) = remove(&["drive-3001", "--lost", "--yes"], "");
    assert!(good && said.contains("was declared lost before"), "{said}");
    let (good, said) = remove(&["3009", "--lost", "--yes"], "");
    assert!(!good && said.contains("no drive of this number"), "{said}");
    let state =
        |drives: Vec<DriveReport>| drives.into_iter().find(|drive| drive.drive.0 == 3001).map(|drive| drive.state);
    until("it is shown as lost", Duration::from_secs(30), async || match state(drives(&client).await?) {
        Some(DriveState::Lost) => Ok(()),
        other => Err(Error::invalid(format!("{other:?}"))),
    })
    .await;
    until("a put", Duration::from_secs(30), async || client.put_bytes(BUCKET, "after", b"after").await).await;

    // It comes back after all: it is left alone, and the other drive of its node works.
    cluster.serve(3);
    cluster.all_up(&client, 5).await;
    assert_eq!(state(drives(&client).await.unwrap()), Some(DriveState::Lost));
    until("its node says why", Duration::from_secs(30), async || {
        let log = cluster.log(3);
        if log.contains("was declared lost") { Ok(()) } else { Err(Error::invalid(log)) }
    })
    .await;
    assert_eq!(client.get_bytes(BUCKET, "after").await.unwrap(), b"after");
}

/// A stripe has a shard on each of the three nodes: what had lost one could be read from the other two, and from no one less.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_on_a_lost_drive_is_rebuilt_so_that_a_node_may_go_after_it() {
    let mut cluster = Cluster::start_with(with_a_short_grace).await;
    let client = cluster.client(&[1, 2]).await;
    let key = |number: u64| format!("k{number}");
    let body = |number: u64| vec![number as u8; 5000 + number as usize];
    for number in 0..60 {
        client.put_bytes(BUCKET, &key(number), &body(number)).await.unwrap();
    }
    cluster.kill(3);
    // Without a drive of the node that is away.
    for number in 60..80 {
        until("a put", Duration::from_secs(60), async || client.put_bytes(BUCKET, &key(number), &body(number)).await)
            .await;
    }
    let remove = || cluster.administer(&["drive", "remove", "3001", "--lost", "--yes"], "");
    until("its drive is declared lost", Duration::from_secs(60), async || {
        let (good, said) = remove();
        if good { Ok(()) } else { Err(Error::invalid(said)) }
    })
    .await;
    cluster.serve(3);
    cluster.all_up(&client, 5).await;
    until("every group is whole, and has been counted", Duration::from_secs(120), async || is_whole(&cluster)).await;
    // Of each object a shard on each node again: the other drive of the third has all of its.
    let mut there = drives(&client).await.unwrap();
    there.retain(|drive| drive.drive.0 == 3002);
    assert!(there.iter().any(|drive| drive.shards >= 80), "{there:?}");
    cluster.kill(1);
    let client = cluster.client(&[2, 3]).await;
    for number in 0..80 {
        until("a get", Duration::from_secs(60), async || {
            let bytes = client.get_bytes(BUCKET, &key(number)).await?;
            if bytes == body(number) { Ok(()) } else { Err(Error::invalid(format!("{} other bytes", bytes.len()))) }
        })
        .await;
    }
}

/// Nothing is read from it any more, and a node may go after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_drive_that_is_emptied_can_be_taken_out() {
    let mut cluster = Cluster::start_with(with_a_short_grace).await;
    let client = cluster.client(&[1, 2]).await;
    let key = |number: u64| format!("k{number}");
    let body = |number: u64| bytes_of(number, 5000 + 700 * number as usize);
    for number in 0..80 {
        client.put_bytes(BUCKET, &key(number), &body(number)).await.unwrap();
    }
    let refused = |arguments: &[&str], why: &str| {
        let (good, said) = cluster.administer(&[&["drive"], arguments].concat(), "");
        assert!(!good && said.contains(why), "{said}");
    };
    refused(&["remove", "3001", "--yes"], "empty it first");
    refused(&["drain", "3009"], "no drive of this number");
    let (good, said) = cluster.administer(&["drive", "drain", "3001"], "");
    assert!(good && said.contains("goes to the 5 drives that are left"), "{said}");
    refused(&["drain", "3002"], "could not be lost any more");
    // Until everything has been counted elsewhere.
    until("it is emptied, and out", Duration::from_secs(120), async || {
        let (good, said) = cluster.administer(&["drive", "remove", "3001", "--yes"], "");
        if good {
            return Ok(());
        }
        let waits = ["counted elsewhere", "no layout without it", "are on the drive yet", "meanwhile"];
        let waits = waits.iter().any(|why| said.contains(why));
        assert!(waits, "{said}");
        Err(Error::invalid(said))
    })
    .await;
    refused(&["drain", "3001"], "out already");
    cluster.terminate(3);
    cluster.serve(3);
    cluster.all_up(&client, 5).await;
    let there = drives(&client).await.unwrap();
    let state = |drive: u64| there.iter().find(|report| report.drive.0 == drive).map(|report| report.state);
    assert_eq!((state(3001), state(3002)), (Some(DriveState::Lost), Some(DriveState::Up)), "{there:?}");
    cluster.kill(1);
    let client = cluster.client(&[2, 3]).await;
    for number in 0..80 {
        until("a get", Duration::from_secs(60), async || {
            let bytes = client.get_bytes(BUCKET, &key(number)).await?;
            if bytes == body(number) { Ok(()) } else { Err(Error::invalid(format!("{} other bytes", bytes.len()))) }
        })
        .await;
    }
}

/// What it held is rebuilt on the other drive of its node, and it is used again once it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_drive_that_is_away_for_long_goes_out_by_itself_and_comes_back() {
    let hurried = |configuration: &str| with("out_after", "10s", &with_a_short_grace(configuration));
    let mut cluster = Cluster::start_with(hurried).await;
    let client = cluster.client(&[1, 2]).await;
    let key = |number: u64| format!("k{number}");
    let body = |number: u64| bytes_of(number, 5000 + 700 * number as usize);
    for number in 0..60 {
        client.put_bytes(BUCKET, &key(number), &body(number)).await.unwrap();
    }
    cluster.terminate(3);
    let folder = cluster.drive(3, 'a');
    let elsewhere = folder.with_extension("away");
    fs::rename(&folder, &elsewhere).unwrap();
    cluster.serve(3);
    cluster.all_up(&client, 5).await;
    let reasons = async || {
        let mut there = drives(&client).await?;
        there.retain(|report| report.drive.0 / 1000 == 3);
        Ok::<_, Error>(there.into_iter().map(|report| (report.state, report.reason)).collect::<Vec<_>>())
    };
    until("it is out", Duration::from_secs(60), async || {
        let there = reasons().await?;
        let is_out = |reason: &Option<String>| reason.as_ref().is_some_and(|why| why.contains("it is out"));
        let out = there.iter().filter(|(state, reason)| *state == DriveState::Down && is_out(reason)).count();
        if out == 1 { Ok(()) } else { Err(Error::invalid(format!("{there:?}"))) }
    })
    .await;
    for number in 60..80 {
        client.put_bytes(BUCKET, &key(number), &body(number)).await.unwrap();
    }
    until("every group is whole without it", Duration::from_secs(120), async || is_whole(&cluster)).await;
    let read_all = async |client: &Client| {
        for number in 0..80 {
            until("a get", Duration::from_secs(60), async || {
                let bytes = client.get_bytes(BUCKET, &key(number)).await?;
                if bytes == body(number) { Ok(()) } else { Err(Error::invalid(format!("{} other bytes", bytes.len()))) }
            })
            .await;
        }
    };
    cluster.kill(1);
    read_all(&cluster.client(&[2, 3]).await).await;
    cluster.serve(1);
    cluster.all_up(&client, 5).await;
    // It is put back where it was.
    cluster.terminate(3);
    fs::rename(&elsewhere, &folder).unwrap();
    cluster.serve(3);
    cluster.all_up(&client, 6).await;
    until("it is used again", Duration::from_secs(60), async || {
        let there = reasons().await?;
        let good = there.iter().all(|(state, reason)| *state == DriveState::Up && reason.is_none());
        if good { Ok(()) } else { Err(Error::invalid(format!("{there:?}"))) }
    })
    .await;
    until("every group is whole with it", Duration::from_secs(120), async || {
        is_whole(&cluster)?;
        let there = drives(&client).await?;
        let filled = there.iter().filter(|report| report.drive.0 / 1000 == 3 && report.shards > 20).count();
        if filled == 2 { Ok(()) } else { Err(Error::invalid(format!("{there:?}"))) }
    })
    .await;
    cluster.kill(2);
    read_all(&cluster.client(&[1, 3]).await).await;
}

/// Flips bits at places where something stands, in the files of a drive's folder.
fn flip(folder: &Path, bits: u64) {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let files: Vec<_> = files
        .into_iter()
        .filter(|path| path.is_file())
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            let used: Vec<u64> = (0..)
                .zip(bytes.chunks_exact(4096))
                .filter(|(_, block)| block.iter().any(|&byte| byte != 0))
                .map(|(at, _)| at)
                .collect();
            (fs::File::options().read(true).write(true).open(&path).unwrap(), used)
        })
        .collect();
    let places: Vec<(usize, u64)> =
        (0..).zip(&files).flat_map(|(file, (_, used))| used.iter().map(move |block| (file, *block))).collect();
    assert!(places.len() > 100, "{} blocks in {}", places.len(), folder.display());
    let dice = bytes_of(bits, 8 * bits as usize);
    for dice in dice.chunks_exact(8).map(|dice| u64::from_le_bytes(dice.try_into().unwrap())) {
        let (file, block) = places[(dice >> 20) as usize % places.len()];
        let (at, mut byte) = (block * 4096 + (dice & 4095), [0]);
        files[file].0.read_exact_at(&mut byte, at).unwrap();
        files[file].0.write_all_at(&[byte[0] ^ (1 << (dice >> 12 & 7))], at).unwrap();
    }
    files.iter().for_each(|(file, _)| file.sync_all().unwrap());
}

/// On the drives of one node, so that of no stripe more is damaged than it can spare.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_bits_that_flip_are_found_and_healed_and_never_served() {
    let mut cluster = Cluster::start_with(with_a_short_grace).await;
    let client = cluster.client(&[1, 2]).await;
    let key = |number: u64| format!("k{number}");
    let body = |number: u64| bytes_of(number, if number < 4 { 6 << 20 } else { 100 + 900 * number as usize });
    for number in 0..150 {
        client.put_bytes(BUCKET, &key(number), &body(number)).await.unwrap();
    }
    for number in 140..150 {
        client.remove(BUCKET, &key(number)).await.unwrap();
    }
    for drive in ['a', 'b'] {
        flip(&cluster.drive(3, drive), 500);
    }
    let (good, said) = cluster.administer(&["scrub", "--now"], "");
    assert!(good && said.lines().count() == 6 && said.lines().all(|line| line.ends_with(": has begun")), "{said}");
    // While they read, and while it is healed.
    for number in 0..140 {
        assert!(client.get_bytes(BUCKET, &key(number)).await.unwrap() == body(number), "k{number}");
    }
    let read_back = async |since: u64| {
        until("everything was read back, and healed", Duration::from_secs(120), async || {
            let drives = drives(&client).await?;
            let is_well = |drive: &DriveReport| drive.damaged == 0 && !drive.scrub.asked && drive.scrub.ended.0 > since;
            if drives.len() == 6 && drives.iter().all(is_well) {
                Ok(())
            } else {
                Err(Error::invalid(format!("{drives:?}")))
            }
        })
        .await;
    };
    read_back(0).await;
    let found = |drives: &[DriveReport]| {
        drives.iter().filter(|drive| drive.drive.0 / 1000 == 3).map(|drive| drive.corrupt).sum::<u64>()
    };
    let all = drives(&client).await.unwrap();
    assert!(found(&all) > 100, "{all:?}");
    // What was emptied for it has been erased by the time that everything was read back once more.
    let since = all.iter().map(|drive| drive.scrub.ended.0).max().unwrap();
    assert!(cluster.administer(&["scrub", "--now"], "").0);
    read_back(since).await;
    let (good, said) = cluster.administer(&["scrub"], "");
    assert!(good && said.lines().all(|line| line.contains("nothing known to be damaged")), "{said}");

    // A start finds nothing of it any more, and everything can be read with what that node has.
    cluster.terminate(3);
    cluster.serve(3);
    cluster.all_up(&client, 6).await;
    let all = drives(&client).await.unwrap();
    assert_eq!(found(&all), 0, "{all:?}");
    cluster.kill(1);
    let client = cluster.client(&[2, 3]).await;
    for number in 0..140 {
        until("a get", Duration::from_secs(60), async || {
            let bytes = client.get_bytes(BUCKET, &key(number)).await?;
            if bytes == body(number) { Ok(()) } else { Err(Error::invalid(format!("{} other bytes", bytes.len()))) }
        })
        .await;
    }
}
