//! Three nodes in one process: store, lose a node, read.
//!
//! ```text
//! cargo run --release --example embed
//! ```

use std::{net::SocketAddr, path::Path, time::Duration};

use mesh::{
    Node,
    config::{Config, DriveConfig, NodeNumber, Size},
    core::{Error, Principal},
    provision::{FIRST_TENANT, Provision},
};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let folder = tempfile::tempdir().map_err(|error| Error::invalid("no temporary folder").caused_by(error))?;
    // A cluster is a certificate authority and a key. Only nodes with a certificate of it may connect.
    let provision = Provision::create(folder.path(), "films")?;

    let mut nodes = Vec::new();
    for number in 1..=3 {
        let config = config(folder.path(), number);
        provision.equip(config.node.id(), &config.data)?;
        let node = Node::builder(config).start().await?;
        for other in &nodes {
            Node::set_peer(other, node.id(), node.address());
            node.set_peer(other.id(), other.address());
        }
        nodes.push(node);
    }
    nodes[0].found(&provision.founding()?).await?;
    for node in &nodes {
        node.ready(Duration::from_secs(60)).await?;
    }

    let somebody = Principal::User { tenant: FIRST_TENANT, name: "admin".into() };
    let film = vec![42; 10_000_000];
    let stored = nodes[0].client(somebody.clone()).put_bytes("films", "metropolis", &film).await?;
    println!("stored {} bytes, ETag {}", stored.len, stored.etag);

    // Node 3 goes, with its two drives. Every stripe has a data or parity shard elsewhere.
    let lost = nodes.pop().ok_or_else(|| Error::bug("three nodes were started"))?;
    lost.shutdown(Duration::from_secs(5)).await;

    let read = nodes[1].client(somebody).get_bytes("films", "metropolis").await?;
    assert_eq!(read, film);
    println!("read it back from node 2, with node 3 gone");

    for node in &nodes {
        node.shutdown(Duration::from_secs(5)).await;
    }
    Ok(())
}

fn config(folder: &Path, number: u64) -> Config {
    let data = folder.join(format!("node-{number}"));
    let drives =
        ["drive-a", "drive-b"].map(|name| DriveConfig { path: data.join(name), capacity: Some(Size(4 << 30)) });
    // Any free port: the nodes tell each other.
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    Config { drives: drives.to_vec(), ..Config::new(NodeNumber(number), address, data) }
}
