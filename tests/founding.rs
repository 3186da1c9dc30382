//! A founding that is repeated, as a program may do at each start.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::SocketAddr, time::Duration};

use mesh::{
    Node,
    config::{Config, DriveConfig, NodeNumber, Size},
    provision::Provision,
};
use mesh_core::{
    Principal,
    meta::Grant,
    op::{AccessAnswer, AccessOp},
};

/// What was taken away since is not given back by it.
#[tokio::test]
async fn a_founding_that_is_repeated_gives_nothing_back() {
    let folder = tempfile::tempdir().unwrap();
    let provision = Provision::create(folder.path(), "main").unwrap();
    let data = folder.path().join("node-1");
    let number = NodeNumber(1);
    provision.equip(number.id(), &data).unwrap();
    let mut config = Config::new(number, SocketAddr::from(([127, 0, 0, 1], 0)), data.clone());
    config.bootstrap = true;
    config.cluster.code = "1+0".parse().unwrap();
    config.drives = vec![DriveConfig { path: data.join("drive"), capacity: Some(Size(1 << 30)) }];
    let node = Node::builder(config).start().await.unwrap();
    let founding = provision.founding().unwrap();
    node.found(&founding).await.unwrap();
    node.ready(Duration::from_secs(60)).await.unwrap();
    let admin = node.client(Principal::Admin { name: "test".into() });
    let (tenant, user) = (|| founding.tenant.clone(), || founding.principal.clone());
    let users = async || {
        let AccessAnswer::Users { users, .. } =
            admin.access(AccessOp::Users { tenant: tenant(), after: None }).await.unwrap()
        else {
            panic!("no users")
        };
        users.into_iter().map(|user| (user.name, user.grants, user.keys)).collect::<Vec<_>>()
    };
    let founded = (user(), vec![Grant::all()], vec![founding.access_key.clone()]);
    assert_eq!(users().await, [founded]);
    admin.access(AccessOp::RevokeKey { access: founding.access_key.clone() }).await.unwrap();
    let less: Vec<Grant> = vec!["main=read".parse().unwrap()];
    admin.access(AccessOp::Grant { tenant: tenant(), user: user(), new: false, grants: less.clone() }).await.unwrap();
    for _ in 0..2 {
        node.found(&founding).await.unwrap();
        assert_eq!(users().await, [(user(), less.clone(), Vec::new())]);
    }
    admin.access(AccessOp::DropUser { tenant: tenant(), user: user() }).await.unwrap();
    for _ in 0..2 {
        node.found(&founding).await.unwrap();
        assert_eq!(users().await, []);
    }
    admin.access(AccessOp::DeleteTenant { tenant: tenant(), everything: true }).await.unwrap();
    for _ in 0..2 {
        node.found(&founding).await.unwrap();
        let AccessAnswer::Tenants { tenants, .. } = admin.access(AccessOp::Tenants { after: None }).await.unwrap()
        else {
            panic!("no tenants")
        };
        assert!(tenants.iter().all(|row| row.ended.is_some()), "{tenants:?}");
    }
    node.shutdown(Duration::from_secs(10)).await;
}
