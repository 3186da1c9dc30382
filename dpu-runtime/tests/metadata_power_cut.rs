//! A power cut loses no acknowledged command.
//!
//! A child process proposes on a file system of its own (ext4 on a loop device) and prints what was acknowledged. The
//! file system is then shut down by ioctl, which drops everything that was not synced, as a power cut does; and the
//! store is opened again. Needs root, a loop device, `mkfs.ext4` and `perl`: without them it says SKIPPED and why.

mod metadata_cluster;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use mesh_core::{
    Error, ErrorKind, Outcome,
    envelope::Envelope,
    id::{GroupId, NodeId, WriteId},
    port::{CallGuard, Completion, Outbound},
};
use mesh_dpu_runtime::metadata::{RaftConfig, RaftMetadata};
use metadata_cluster::{
    QUICK, TokioClock, entropy, first_of, get_object, len_of, open_block, open_session, propose, proposer, put_as,
    query, until,
};

const DIR: &str = "MESH_POWER_CUT_DIR";
const BUDGET: Duration = Duration::from_secs(20);
const CYCLES: u64 = 3;
const PROPOSERS: u64 = 8;
/// Keys of one proposer: the others' of its commands overwrite, so there is garbage, and pages that are written anew.
const KEYS: u64 = 40;
/// Commands that must be acknowledged before the power goes.
const COMMANDS: u64 = 1000;

/// There is nobody else.
struct Alone;

impl Outbound for Alone {
    fn send(&self, _to: NodeId, _envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        done(Err(Error::new(ErrorKind::Unreachable, "there is nobody else")));
        CallGuard::none()
    }
}

async fn open(dir: &Path) -> (Arc<RaftMetadata>, Arc<TokioClock>) {
    let clock = Arc::new(TokioClock::default());
    let config = RaftConfig {
        groups: vec![GroupId(1)],
        timing: QUICK,
        // The log is purged and its pages are used again, many times.
        snapshot_every: 200,
        log_keep: 20,
        ..RaftConfig::new(NodeId(1), dir.join("meta"))
    };
    let metadata = RaftMetadata::start(config, Arc::new(Alone), clock.clone(), entropy()).await.expect("opened");
    let alone = BTreeSet::from_iter(metadata.replica_id(GroupId(1)));
    metadata.initialize(GroupId(1), &alone).await.expect("initialized");
    metadata.elect(GroupId(1)).await.expect("asked");
    until("it leads", || metadata.is_leader(GroupId(1))).await;
    (metadata, clock)
}

/// The child: proposes until it is killed. Without its directory this is no test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_proposes() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let (metadata, clock) = open(Path::new(&dir)).await;
    let life = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as u64;
    let mut tasks = Vec::new();
    for actor in 1..=PROPOSERS {
        let (metadata, clock) = (Arc::clone(&metadata), Arc::clone(&clock));
        tasks.push(tokio::spawn(async move {
            propose(&metadata, &*clock, open_session(1, actor, life), BUDGET).await.expect("a later life");
            let mut first = WriteId(0);
            // Numbers go on where the last life ended: the largest object says where that was.
            let mut last = 0;
            for key in 0..KEYS {
                let found = query(&metadata, &*clock, 1, get_object(1, &format!("{actor}/{key}")), BUDGET).await;
                last = last.max(len_of(&found).unwrap_or(0));
            }
            for count in 0.. {
                if count % 4096 == 0 {
                    let open = open_block(1, actor, life, 2 * count);
                    first = first_of(&propose(&metadata, &*clock, open, BUDGET).await);
                }
                let number = last + 1 + count;
                let key = format!("{actor}/{}", number % KEYS);
                let version = WriteId(first.0 + count % 4096);
                let put = put_as(proposer(actor, life, 2 * count + 1), 1, &key, version, number);
                propose(&metadata, &*clock, put, BUDGET).await.expect("committed");
                println!("acknowledged {actor} {number}");
            }
        }));
    }
    for task in tasks {
        task.await.expect("killed before");
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<Output, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// An ext4 of its own; unmounted when dropped.
struct Mounted {
    image: PathBuf,
    at: PathBuf,
}

impl Mounted {
    fn make(dir: &Path) -> Result<Self, String> {
        let mounted = Self { image: dir.join("image"), at: dir.join("at") };
        let file = std::fs::File::create(&mounted.image).map_err(|error| error.to_string())?;
        file.set_len(256 << 20).map_err(|error| error.to_string())?;
        std::fs::create_dir(&mounted.at).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F", &mounted.image.to_string_lossy()])?;
        run("perl", &["-e", "1"])?;
        mounted.mount()?;
        Ok(mounted)
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", &self.image.to_string_lossy(), &self.at.to_string_lossy()]).map(|_| ())
    }

    fn unmount(&self) {
        // The loop device goes a moment after the last file is closed.
        for _ in 0..200 {
            if run("umount", &[&self.at.to_string_lossy()]).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let image = self.image.to_string_lossy().into_owned();
        for _ in 0..200 {
            if run("losetup", &["-j", &image]).is_ok_and(|output| output.stdout.is_empty()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{image} is still in use");
    }

    /// Drops everything that is not on the medium: EXT4_IOC_SHUTDOWN without flushing the journal.
    fn cut_power(&self) {
        let script = r#"opendir(D, $ARGV[0]) or die $!; my $how = pack("I", 2); ioctl(D, 0x8004587d, $how) or die $!"#;
        let fallback =
            r#"open(D, "<", $ARGV[0]) or die $!; my $how = pack("I", 2); ioctl(D, 0x8004587d, $how) or die $!"#;
        let at = self.at.to_string_lossy();
        let cut = run("perl", &["-e", fallback, &at]).or_else(|_| run("perl", &["-e", script, &at]));
        cut.expect("the file system can be shut down");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // It may be unmounted already.
        drop(run("umount", &["-l", &self.at.to_string_lossy()]));
    }
}

/// Lets a child propose until enough is acknowledged, cuts the power, kills it. The last number acknowledged to each
/// proposer.
fn write_until_the_power_goes(mounted: &Mounted) -> BTreeMap<u64, u64> {
    let mut child: Child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["child_that_proposes", "--exact", "--nocapture"])
        .env(DIR, &mounted.at)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("a child");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut acknowledged = BTreeMap::<u64, u64>::new();
    let mut take = |line: &str| -> Option<()> {
        let mut words = line.strip_prefix("acknowledged ")?.split(' ').map(str::parse::<u64>);
        let (Some(Ok(actor)), Some(Ok(number))) = (words.next(), words.next()) else { return None };
        let last = acknowledged.entry(actor).or_insert(0);
        *last = number.max(*last);
        Some(())
    };
    let mut count = 0;
    while count < COMMANDS {
        let line = lines.next().expect("the child goes on").expect("text");
        count += u64::from(line.starts_with("acknowledged"));
        take(&line);
    }
    run("kill", &["-STOP", &child.id().to_string()]).expect("stopped");
    mounted.cut_power();
    child.kill().expect("killed");
    child.wait().expect("gone");
    // What it had said before the power went counts too; its last line may be cut short.
    for line in lines.map_while(Result::ok) {
        take(&line);
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let mounted = match Mounted::make(dir.path()) {
        Ok(mounted) => mounted,
        Err(why) => {
            println!("SKIPPED: {why}");
            return;
        }
    };
    for cycle in 1..=CYCLES {
        let acknowledged = tokio::task::block_in_place(|| write_until_the_power_goes(&mounted));
        mounted.unmount();
        mounted.mount().expect("mounted again");
        assert_eq!(acknowledged.len() as u64, PROPOSERS, "every proposer was answered");
        let (metadata, clock) = open(&mounted.at).await;
        for (actor, last) in acknowledged {
            for number in last.saturating_sub(KEYS - 1).max(1)..=last {
                let key = format!("{actor}/{}", number % KEYS);
                let found = len_of(&query(&metadata, &*clock, 1, get_object(1, &key), BUDGET).await);
                // At least the command that was acknowledged; at most one more was under way.
                assert!(
                    found.is_some_and(|found| (number..=last + KEYS).contains(&found)),
                    "cycle {cycle}: {key} was {number}, acknowledged, and is {found:?}"
                );
            }
        }
        metadata.shutdown().await;
        drop(metadata);
        println!("cycle {cycle}: nothing lost");
    }
    mounted.unmount();
}
