//! A storage function of one's own, placed like any other: three nodes in one process, a content filter in the data
//! chain of a tenant, moved from node to node while objects are put. The guide is `mesh::guide`.
//!
//! ```text
//! cargo run --release --example filter
//! ```

mod content;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use content::{ContentFilter, KIND};
use mesh::{
    Client, Node,
    config::{Config, DriveConfig, NodeNumber, Size},
    provision::{FIRST_TENANT, Provision},
};
use mesh_core::{
    Error, ErrorKind, Principal,
    assignment::{Preference, Scope, Wish},
    id::{ActorId, NodeId},
    op::{ActorReport, AdminOp, Phase},
    spec::CustomSpec,
};

/// What no object may hold.
const FORBIDDEN: &str = "TOP SECRET";
const BUCKET: &str = "films";
const MOVES: u64 = 6;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let folder = tempfile::tempdir().map_err(|error| Error::invalid("no temporary folder").caused_by(error))?;
    let nodes = start(folder.path()).await?;
    let somebody = Principal::User { tenant: FIRST_TENANT, name: "admin".into() };
    let client = nodes[0].client(somebody);
    // Who says where actors run and what chains are made of; and may read no object.
    let operator = nodes[0].client(Principal::Admin { name: "operator".into() });

    // The chain of the tenant for what comes in at node 1.
    let chain = ActorId::data(FIRST_TENANT, nodes[0].id());
    let filter = CustomSpec::new(KIND, FORBIDDEN.as_bytes());
    for line in operator.set_stages(Scope::Tenant(FIRST_TENANT), vec![filter]).await? {
        println!("{line}");
    }
    let mut actor = until(&nodes, chain, |_, actor| actor.functions.iter().any(|kind| kind == KIND)).await?;
    println!("the chain is {}", actor.functions.join(" > "));

    // Somebody puts objects all the time; some hold what they must not.
    let enough = Arc::new(AtomicBool::new(false));
    let putting = tokio::spawn(put(client.clone(), enough.clone()));
    for round in 0..MOVES {
        let to = nodes[usize::from(round % 2 == 0)].id();
        let wish = Some(Wish { preference: Preference::Auto, pin: Some(to) });
        operator.administer(AdminOp::Wish { scope: Scope::Actor(chain), wish }).await?;
        // Nodes report from time to time: what is older than the move does not count.
        let before = actor.epoch;
        actor = until(&nodes, chain, |at, actor| at == to && actor.epoch > before).await?;
        println!("the chain runs on {to} under {}", actor.epoch);
    }
    enough.store(true, Ordering::Relaxed);
    let done = putting.await.map_err(|error| Error::bug("the writer ended").caused_by(error))??;

    // Every refusal says how many there were: had a move lost or repeated a count, the numbers would not be in step.
    assert!(done.refusals.iter().copied().eq(1..=done.refusals.len() as u64), "{:?}", done.refusals);
    println!(
        "{} objects stored, {} refused, in {MOVES} moves; longest put {:.1} ms; the count went along",
        done.stored,
        done.refusals.len(),
        done.longest.as_secs_f64() * 1000.0,
    );
    let read = client.get_bytes(BUCKET, "object-1").await?;
    assert_eq!(read, object(1));

    for node in &nodes {
        node.shutdown(Duration::from_secs(5)).await;
    }
    Ok(())
}

#[derive(Default)]
struct Done {
    stored: u64,
    /// The count in each refusal.
    refusals: Vec<u64>,
    longest: Duration,
}

/// Puts objects until it is enough. Nothing but a refusal may keep one from being stored.
async fn put(client: Client, enough: Arc<AtomicBool>) -> Result<Done, Error> {
    let mut done = Done::default();
    for number in 0.. {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        match client.put_bytes(BUCKET, &format!("object-{number}"), &object(number)).await {
            Ok(_) if !is_forbidden(number) => done.stored += 1,
            Err(error) if is_forbidden(number) && error.kind() == ErrorKind::Denied => {
                done.refusals.push(refusal(&error)?);
            }
            Ok(_) => return Err(Error::bug("a forbidden object was stored").with("object", number)),
            Err(error) => return Err(error),
        }
        done.longest = done.longest.max(began.elapsed());
    }
    Ok(done)
}

/// Every fourth object holds what it must not.
const fn is_forbidden(number: u64) -> bool {
    number % 4 == 3
}

fn object(number: u64) -> Vec<u8> {
    let mut bytes = vec![b'.'; 64 << 10];
    if is_forbidden(number) {
        bytes[12_345..][..FORBIDDEN.len()].copy_from_slice(FORBIDDEN.as_bytes());
    }
    bytes
}

/// The count in a refusal: `[… refused=7]`.
fn refusal(error: &Error) -> Result<u64, Error> {
    let text = error.to_string();
    let count = text.split_once("refused=").map(|(_, rest)| rest.trim_end_matches(']'));
    count
        .and_then(|count| count.parse().ok())
        .ok_or_else(|| Error::bug("a refusal without its count").with("was", text))
}

/// Waits until the actor runs as `is_so` says, on the node that it is given.
async fn until(
    nodes: &[Node],
    actor: ActorId,
    is_so: impl Fn(NodeId, &ActorReport) -> bool,
) -> Result<ActorReport, Error> {
    let waiting = async {
        loop {
            let reports = nodes[0].status();
            let found = reports.iter().find_map(|report| {
                let one = report.actors.iter().find(|one| one.actor == actor && one.phase == Phase::Running)?;
                is_so(report.node, one).then(|| one.clone())
            });
            match found {
                Some(report) => return report,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .map_err(|_| Error::new(ErrorKind::Timeout, "it has not happened in a minute").with("actor", actor))
}

/// Three nodes that know the filter. A node that does not is never given such a chain.
async fn start(folder: &Path) -> Result<Vec<Node>, Error> {
    let provision = Provision::create(folder, BUCKET)?;
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=3 {
        let config = config(folder, number);
        provision.equip(config.node.id(), &config.data)?;
        let node = Node::builder(config)
            .function(KIND, |settings, _| Ok(Box::new(ContentFilter::new(settings)?)))
            .start()
            .await?;
        for other in &nodes {
            other.set_peer(node.id(), node.address());
            node.set_peer(other.id(), other.address());
        }
        nodes.push(node);
    }
    nodes[0].found(&provision.founding()?).await?;
    for node in &nodes {
        node.ready(Duration::from_secs(60)).await?;
    }
    Ok(nodes)
}

fn config(folder: &Path, number: u64) -> Config {
    let data = folder.join(format!("node-{number}"));
    let drives =
        ["drive-a", "drive-b"].map(|name| DriveConfig { path: data.join(name), capacity: Some(Size(4 << 30)) });
    // Any free port: the nodes tell each other.
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    Config { drives: drives.to_vec(), ..Config::new(NodeNumber(number), address, data) }
}
