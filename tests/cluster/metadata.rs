//! What becomes of a node whose metadata are not what they were: it forgets nothing in silence.

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    time::Duration,
};

use mesh::Client;
use mesh_core::{Error, ErrorKind};

use crate::{
    BUCKET,
    processes::{Cluster, bytes_of, copied, until},
};

const OBJECTS: u64 = 24;
const PATIENCE: Duration = Duration::from_secs(90);

/// One node is away while objects are stored, and then the other two have to say what there is: one of them whose newest
/// bytes of metadata are damaged. What it lacks it says; the objects are there as soon as somebody who has them is.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_metadata_lose_nothing_and_are_rebuilt() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client(&[1, 2, 3]).await;
    cluster.terminate(3);
    store(&cluster.client(&[1, 2]).await).await;
    cluster.kill(1);
    cluster.kill(2);
    flip_in_the_newest(&cluster.metadata(2).join("db").join("db"));
    cluster.serve(2);
    cluster.serve(3);
    let trouble = until("the damage is named", PATIENCE, async || {
        let of_two = cluster.client(&[2]).await;
        let report = of_two.status().await?.into_iter().find(|report| report.node.0 == 2);
        let trouble = report.and_then(|report| report.groups.iter().find_map(|group| group.trouble.clone()));
        trouble.ok_or_else(|| Error::invalid("no trouble is shown"))
    })
    .await;
    println!("node-2 says: {trouble}");
    let refused = cluster.client(&[2, 3]).await.get_bytes(BUCKET, "object-0").await;
    assert!(refused.as_ref().is_err_and(|error| error.kind() != ErrorKind::NotFound), "{refused:?}");

    cluster.serve(1);
    cluster.all_up(&client, 6).await;
    until("nothing is in trouble", PATIENCE, async || {
        let status = client.status().await?;
        let troubled = status.iter().any(|report| report.groups.iter().any(|group| group.trouble.is_some()));
        let complete = status.iter().all(|report| report.groups.len() >= 2);
        if complete && !troubled { Ok(()) } else { Err(Error::invalid(format!("{status:?}"))) }
    })
    .await;
    assert!(cluster.metadata(2).join("db.damaged-1").exists(), "what was there is kept");
    present(&client, "with all three").await;
    // The rebuilt one counts: without the one that had everything, the others have it.
    until("it votes again", PATIENCE, async || cluster.votes(&client, 2).await).await;
    cluster.kill(1);
    let others = cluster.client(&[2, 3]).await;
    let listing = until("a listing", PATIENCE, async || others.list(BUCKET, "object-", None, "").await).await;
    assert_eq!(listing.entries.len() as u64, OBJECTS, "the rebuilt node and the one that was behind know them all");
}

/// A machine whose folders were emptied and that comes back by its old invitation is told that it is another.
#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_machine_is_refused_under_its_old_number() {
    let mut cluster = Cluster::start().await;
    store(&cluster.client(&[1, 2, 3]).await).await;
    let again = cluster.invite(3);
    assert!(again.is_err_and(|said| said.contains("numbers are used once")), "an invitation for a number in use");
    cluster.kill(3);
    let again = cluster.invite(3);
    assert!(
        again.is_err_and(|said| said.contains("numbers are used once")),
        "an invitation for a number that was used"
    );
    fs::remove_dir_all(cluster.dir(3)).unwrap();
    for drive in ['a', 'b'] {
        fs::remove_dir_all(cluster.drive(3, drive)).unwrap();
    }
    cluster.join(3);
    cluster.serve(3);
    until("it is refused in words", PATIENCE, async || {
        let log = cluster.log(3);
        if log.contains("the folder was emptied") { Ok(()) } else { Err(Error::invalid(log)) }
    })
    .await;
    // Nor does it take part in anything with what it has forgotten.
    cluster.kill(1);
    let client = cluster.client(&[2, 3]).await;
    let answer = client.get_bytes(BUCKET, "object-0").await;
    assert!(answer.as_ref().is_err_and(|error| error.kind() != ErrorKind::NotFound), "{answer:?}");
    cluster.serve(1);
    present(&cluster.client(&[1, 2]).await, "after the emptied machine was refused").await;

    // Nobody is invited whom the mesh was not asked about.
    for node in [1, 2] {
        cluster.kill(node);
    }
    let unasked = cluster.invite(4);
    assert!(unasked.is_err_and(|said| said.contains("cannot be asked")), "an invitation without a mesh");
}

/// A folder that is put back from before a start which others remember is sound in itself, and has forgotten what was
/// acknowledged since: together with one that was away it must not be a majority.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_are_put_back_from_an_older_copy_are_not_trusted() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client(&[1, 2, 3]).await;
    cluster.terminate(2);
    let copy = cluster.dir(2).with_extension("copy");
    copied(&cluster.dir(2), &copy);
    cluster.serve(2);
    let of_three = cluster.client(&[3]).await;
    until("the one that will be away has heard of this start", PATIENCE, async || {
        let status = of_three.status().await?;
        let known = status.iter().any(|report| report.pid == cluster.pid(2) && report.groups.len() >= 2);
        if known { Ok(()) } else { Err(Error::invalid(format!("{status:?}"))) }
    })
    .await;
    cluster.all_up(&client, 6).await;
    // What only 1 and 2 have.
    cluster.terminate(3);
    store(&cluster.client(&[1, 2]).await).await;
    cluster.kill(1);
    cluster.kill(2);
    fs::remove_dir_all(cluster.dir(2)).unwrap();
    fs::rename(&copy, cluster.dir(2)).unwrap();
    cluster.serve(2);
    cluster.serve(3);
    until("the older copy is named", PATIENCE, async || {
        let report = cluster.client(&[2]).await.status().await?.into_iter().find(|report| report.node.0 == 2);
        let trouble = report.and_then(|report| report.groups.iter().find_map(|group| group.trouble.clone()));
        let named = trouble.is_some_and(|trouble| trouble.contains("put back from an older copy"));
        if named { Ok(()) } else { Err(Error::invalid("no older copy is named")) }
    })
    .await;
    let refused = cluster.client(&[2, 3]).await.get_bytes(BUCKET, "object-0").await;
    assert!(refused.as_ref().is_err_and(|error| error.kind() != ErrorKind::NotFound), "{refused:?}");
    // It stays so, however often it starts.
    cluster.kill(2);
    cluster.serve(2);
    cluster.serve(1);
    cluster.all_up(&client, 6).await;
    present(&client, "with who has them").await;
    until("it votes again", PATIENCE, async || cluster.votes(&client, 2).await).await;
    cluster.kill(1);
    let others = cluster.client(&[2, 3]).await;
    let listing = until("a listing", PATIENCE, async || others.list(BUCKET, "object-", None, "").await).await;
    assert_eq!(listing.entries.len() as u64, OBJECTS, "the one that was put back was rebuilt");
}

/// The start that the mesh has registered is the one that the copy does not know of, until the node that was put back is
/// registered itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_put_back_is_rebuilt_once_by_its_first_start() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client(&[1, 2, 3]).await;
    store(&client).await;
    cluster.terminate(2);
    let copy = cluster.dir(2).with_extension("copy");
    copied(&cluster.dir(2), &copy);
    cluster.serve(2);
    cluster.all_up(&client, 6).await;
    cluster.kill(2);
    fs::remove_dir_all(cluster.dir(2)).unwrap();
    fs::rename(&copy, cluster.dir(2)).unwrap();
    cluster.serve(2);
    cluster.all_up(&client, 6).await;
    until("it votes again", PATIENCE, async || cluster.votes(&client, 2).await).await;
    present(&client, "with who was put back").await;
    let log = cluster.log(2);
    assert_eq!(log.matches("a damaged metadata store was set aside").count(), 1, "{log}");
}

/// Another machine that was once invited under a member's number, and one that has a copy of a member's folder, are told
/// so, and the member stays where it is for everybody else.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_the_place_of_a_member_that_runs() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client(&[1, 2, 3]).await;
    store(&client).await;
    // A second machine with the invitation of node 3, one with a folder of it from before its last start, and one that was
    // copied while it ran.
    let [before, live] = ["before", "live"].map(|when| cluster.dir(3).with_extension(when));
    cluster.terminate(3);
    copied(&cluster.dir(3), &before);
    cluster.serve(3);
    cluster.all_up(&client, 6).await;
    copied(&cluster.dir(3), &live);
    for copy in [Some(before.as_path()), Some(live.as_path()), None] {
        let twin = cluster.serve_twin(3, copy);
        until("the twin is told", PATIENCE, async || {
            let said = twin.log();
            let told = said.contains("and is as it was after")
                || said.contains("was the last, of which its data folder")
                || said.contains("stop one of the two")
                || said.contains("invite this machine under a number of its own");
            if told { Ok(()) } else { Err(Error::invalid(said)) }
        })
        .await;
        // The member is what the others count with: each of the three is needed for this.
        cluster.kill(1);
        present(&cluster.client(&[2, 3]).await, "beside a twin").await;
        cluster.serve(1);
        cluster.all_up(&client, 6).await;
        let status = client.status().await.unwrap();
        let member = status.iter().find(|report| report.node.0 == 3).expect("node 3");
        assert_ne!(member.pid, twin.pid(), "the twin stands in the member's place");
    }
    present(&client, "after the twins").await;
}

/// Two machines start from the same folder at once, neither of which anybody has heard of yet: one is the node, the other
/// is told.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_machines_that_start_at_once_from_one_folder_one_is_told() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client(&[1, 2, 3]).await;
    store(&client).await;
    let copy = cluster.dir(3).with_extension("copy");
    cluster.terminate(3);
    copied(&cluster.dir(3), &copy);
    let twin = cluster.serve_twin(3, Some(copy.as_path()));
    cluster.serve(3);
    let before = cluster.log(3).len();
    until("one of the two is told, the other is ready", PATIENCE, async || {
        let logs = [twin.log(), cluster.log(3)[before..].to_owned()];
        let told = logs.iter().filter(|said| said.contains("stop one of the two")).count();
        let ready = logs.iter().filter(|said| said.contains("INFO ready")).count();
        if (told, ready) == (1, 1) { Ok(()) } else { Err(Error::invalid(logs.concat())) }
    })
    .await;
    present(&client, "beside a twin").await;
}

/// The first machine's folder is put back from before the founding: it does not found another mesh, and whoever meets it
/// keeps what it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_is_founded_once() {
    let mut cluster = Cluster::start().await;
    store(&cluster.client(&[1, 2, 3]).await).await;
    cluster.kill(1);
    let last = cluster.dir(1).with_extension("last");
    copied(&cluster.dir(1), &last);
    for file in ["metadata", "life", "incarnation", "drives"] {
        let path = cluster.dir(1).join("node-1").join(file);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    fs::remove_file(cluster.dir(1).join("founded")).unwrap();
    cluster.serve(1);
    until("it is refused in words", PATIENCE, async || {
        let log = cluster.log(1);
        if log.contains("A mesh is founded once") { Ok(()) } else { Err(Error::invalid(log)) }
    })
    .await;
    for node in [2, 3] {
        cluster.kill(node);
        cluster.serve(node);
    }
    present(&cluster.client(&[2, 3]).await, "beside a machine from before the founding").await;
    cluster.kill(1);
    fs::remove_dir_all(cluster.dir(1)).unwrap();
    fs::rename(&last, cluster.dir(1)).unwrap();
    cluster.serve(1);
    let client = cluster.client(&[1, 2, 3]).await;
    cluster.all_up(&client, 6).await;
    present(&client, "with all three").await;
}

async fn store(client: &Client) {
    for count in 0..OBJECTS {
        let put = async || client.put_bytes(BUCKET, &format!("object-{count}"), &bytes_of(count, 3000)).await;
        until("a put", PATIENCE, put).await;
    }
}

async fn present(client: &Client, when: &str) {
    for count in 0..OBJECTS {
        let key = format!("object-{count}");
        let read = until(&format!("{key} {when}"), PATIENCE, async || match client.get_bytes(BUCKET, &key).await {
            Err(error) if error.kind() == ErrorKind::NotFound => panic!("{key} is lost {when}: {error}"),
            other => other,
        })
        .await;
        assert!(read == bytes_of(count, 3000), "{key} has other bytes {when}");
    }
}

/// Flips a bit in the middle of what was written last.
fn flip_in_the_newest(path: &Path) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    // The last object's key stands in the newest rows and entries.
    let key = format!("object-{}", OBJECTS - 1);
    let places: Vec<usize> =
        bytes.windows(key.len()).enumerate().filter(|(_, part)| *part == key.as_bytes()).map(|(at, _)| at).collect();
    let at = *places.last().expect("the newest entry is in the file") as u64;
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[bytes[at as usize] ^ 1]).unwrap();
    file.sync_all().unwrap();
}
