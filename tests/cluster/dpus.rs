//! A DPU that was invited as one.

use std::{fs, time::Duration};

use mesh_core::{Error, id::NodeId, port::Role};
use mesh_transport::identity::Identity;
use serde_json::Value;

use crate::{
    BUCKET,
    processes::{Cluster, bytes_of, until},
};

async fn chain_runs_at(cluster: &Cluster, node: u64) {
    let at = format!("node-{node}");
    until(&format!("the chain of node 1 runs at {at}"), Duration::from_secs(60), async || {
        let (good, said) = cluster.administer(&["actors", "--json"], "");
        let actors: Vec<Value> = if good { serde_json::from_str(&said).unwrap() } else { Vec::new() };
        let is_there = |one: &Value| one["id"] == "chain-1-1" && one["phase"] == "running" && one["node"] == *at;
        if actors.iter().any(is_there) { Ok(()) } else { Err(Error::invalid(said)) }
    })
    .await;
}

fn well(cluster: &Cluster, arguments: &[&str]) {
    let (good, said) = cluster.administer(arguments, "");
    assert!(good, "{arguments:?}: {said}");
}

/// Its certificate is its own from the invitation on; then it is that of a host, as before there were others, and is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_dpu_is_invited_as_one_does_its_work_and_starts_as_nothing_else() {
    let mut cluster = Cluster::start().await;
    let refused = cluster.invite_as(4, &["--dpu-of", "9"]).unwrap_err();
    assert!(refused.contains("the mesh has no such host") && refused.contains("node-9"), "{refused}");
    let dpu = cluster.plug_into(1);
    let data = cluster.dir(dpu).join(format!("node-{dpu}"));
    let (identity, starts) = (data.join("identity.pem"), data.join("incarnation"));
    let certified = || Identity::load(&identity).unwrap().role().clone();
    assert_eq!(certified(), Role::Dpu { node: NodeId(dpu), host: NodeId(1) });
    let client = cluster.client(&[1]).await;
    cluster.all_up(&client, 6).await;
    let refused = cluster.invite_as(5, &["--dpu-of", &dpu.to_string()]);
    assert!(refused.is_err_and(|why| why.contains("the mesh has no such host")), "a DPU has no DPUs");

    let (before, there, back) = (bytes_of(1, 5 << 20), bytes_of(2, 5 << 20), bytes_of(3, 5 << 20));
    client.put_bytes(BUCKET, "before", &before).await.unwrap();
    well(&cluster, &["prefer", "prefer-dpu"]);
    chain_runs_at(&cluster, dpu).await;
    assert_eq!(client.get_bytes(BUCKET, "before").await.unwrap(), before);
    client.put_bytes(BUCKET, "there", &there).await.unwrap();
    assert_eq!(client.get_bytes(BUCKET, "there").await.unwrap(), there);
    well(&cluster, &["prefer", "host-only"]);
    chain_runs_at(&cluster, 1).await;
    client.put_bytes(BUCKET, "back", &back).await.unwrap();
    for (key, bytes) in [("before", &before), ("there", &there), ("back", &back)] {
        assert_eq!(client.get_bytes(BUCKET, key).await.unwrap(), *bytes, "{key}");
    }
    cluster.terminate(dpu);

    let file = cluster.dir(dpu).join("mesh.toml");
    let (text, known) = (fs::read_to_string(&file).unwrap(), fs::read(&starts).unwrap());
    fs::write(&file, text.replace("attached_to = 1", "attached_to = 2")).unwrap();
    let (good, said) = cluster.shell(&format!("timeout 60 mesh serve --config {}", file.display()));
    assert!(!good && said.contains("[certificate=node-1 configuration=node-2]"), "{said}");
    assert_eq!(fs::read(&starts).unwrap(), known, "it has not begun to start");
    fs::write(&file, text).unwrap();

    let (dir, number, out) = (cluster.dir(1).display().to_string(), dpu.to_string(), identity.display().to_string());
    let certificate = ["certificate", "node", "--dir", &dir, "--node", &number, "--out", &out];
    let roles: [(&[&str], Role); 2] =
        [(&[], Role::Node(NodeId(dpu))), (&["--dpu-of", "1"], Role::Dpu { node: NodeId(dpu), host: NodeId(1) })];
    for (dpu_of, role) in roles {
        well(&cluster, &[&certificate[..], dpu_of].concat());
        assert_eq!(certified(), role);
        cluster.serve(dpu);
        cluster.all_up(&client, 6).await;
        let log = cluster.log(dpu);
        let how = format!("mesh certificate node --node {dpu} --dpu-of 1");
        assert_eq!(log.matches(&how).count(), 1, "by the host's certificate alone: {role:?}: {log}");
        well(&cluster, &["prefer", "prefer-dpu"]);
        chain_runs_at(&cluster, dpu).await;
        assert_eq!(client.get_bytes(BUCKET, "there").await.unwrap(), there, "{role:?}");
        cluster.terminate(dpu);
        chain_runs_at(&cluster, 1).await;
    }
}
