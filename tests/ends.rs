//! A tenant that is deleted with all that it stores.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use mesh::{
    Client, Node,
    config::{Config, DriveConfig, NodeNumber, Size},
    founding::Founding,
    provision::Provision,
};
use mesh_core::{
    ErrorKind, Principal,
    audit::{AuditAnswer, AuditOp},
    id::TenantId,
    meta::{Attributes, Grant, TenantLimits},
    op::{AccessAnswer, AccessOp, TenantReport},
};

/// More than one command takes away.
const OBJECTS: usize = 700;
const WAIT_MAX: Duration = Duration::from_secs(60);

async fn start(data: &Path, founding: Option<&Founding>) -> Node {
    let number = NodeNumber(1);
    let mut config = Config::new(number, SocketAddr::from(([127, 0, 0, 1], 0)), data.to_owned());
    config.bootstrap = true;
    config.cluster.code = "1+0".parse().unwrap();
    config.cluster.namespaces = 2.try_into().unwrap();
    config.drives = vec![DriveConfig { path: data.join("drive"), capacity: Some(Size(1 << 30)) }];
    let began = Instant::now();
    // What was started before lets go of its files a moment after it has stopped.
    let node = loop {
        match Node::builder(config.clone()).start().await {
            Ok(node) => break node,
            Err(error) => assert!(began.elapsed() < WAIT_MAX, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    if let Some(founding) = founding {
        node.found(founding).await.unwrap();
    }
    node.ready(WAIT_MAX).await.unwrap();
    node
}

async fn tenants(admin: &Client) -> Vec<TenantReport> {
    match admin.access(AccessOp::Tenants { after: None }).await.unwrap() {
        AccessAnswer::Tenants { tenants, next: None } => tenants,
        other => panic!("no tenants: {other:?}"),
    }
}

/// What it stored goes though the node ends meanwhile, and nothing of another's does.
#[tokio::test]
async fn a_tenant_that_is_deleted_is_refused_at_once_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let provision = Provision::create(folder.path(), "main").unwrap();
    let data = folder.path().join("node-1");
    provision.equip(NodeNumber(1).id(), &data).unwrap();
    let founding = provision.founding().unwrap();
    let node = start(&data, Some(&founding)).await;
    let admin = |node: &Node| node.client(Principal::Admin { name: "test".into() });
    let user = |node: &Node, tenant, name: &str| node.client(Principal::User { tenant, name: name.into() });
    let (acme, ann) = (|| "acme".to_owned(), || "ann".to_owned());

    let order = admin(&node);
    order.access(AccessOp::CreateTenant { name: acme(), limits: TenantLimits::default() }).await.unwrap();
    let grant = AccessOp::CreateKey { tenant: acme(), user: ann(), grants: Some(vec![Grant::all()]) };
    order.access(grant).await.unwrap();
    let (theirs, ours) = (user(&node, TenantId(2), "ann"), user(&node, TenantId(1), &founding.principal));
    for bucket in ["flour", "bran", "husk"] {
        let began = Instant::now();
        while let Err(error) = theirs.create_bucket(bucket).await {
            assert!(began.elapsed() < WAIT_MAX, "{error}");
        }
    }
    ours.put_bytes(&founding.bucket, "ours", b"stays").await.unwrap();
    let puts = stream::iter(0..OBJECTS).map(|at| {
        let theirs = &theirs;
        async move { theirs.put_bytes("flour", &format!("o{at}"), b"a tenant's").await.map(drop) }
    });
    let put: Vec<_> = puts.buffer_unordered(32).collect().await;
    assert!(put.iter().all(Result::is_ok), "{put:?}");
    theirs.put_bytes("bran", "one", &vec![7; 3 << 20]).await.unwrap();
    theirs
        .create_upload("husk", "open", Attributes::default())
        .await
        .unwrap()
        .put_part_bytes(1, b"part")
        .await
        .unwrap();

    let delete = |everything| AccessOp::DeleteTenant { tenant: acme(), everything };
    let refused = order.access(delete(false)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    assert_eq!(theirs.get_bytes("flour", "o1").await.unwrap(), b"a tenant's");
    let AccessAnswer::Tenant(report) = order.access(delete(true)).await.unwrap() else { panic!("no tenant") };
    assert_eq!((report.id, report.name.as_str(), report.ended.is_some()), (TenantId(2), "acme", true));
    for outcome in [
        theirs.get_bytes("flour", "o1").await.map(drop),
        theirs.put_bytes("flour", "late", b"late").await.map(drop),
        theirs.list("flour", "", None, "").await.map(drop),
        theirs.create_bucket("late-bucket").await,
    ] {
        let error = outcome.expect_err("it is deleted");
        // Draining: what asked its chain found none.
        assert!(matches!(error.kind(), ErrorKind::Denied | ErrorKind::NoSuchBucket | ErrorKind::Draining), "{error}");
    }
    drop((order, theirs, ours));
    node.shutdown(Duration::from_secs(10)).await;
    drop(node);

    let node = start(&data, None).await;
    let order = admin(&node);
    let began = Instant::now();
    while tenants(&order).await.len() > 1 {
        assert!(began.elapsed() < WAIT_MAX, "{:?}", tenants(&order).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let gone = order.access(AccessOp::Usage { tenant: "tenant-2".into() }).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
    // Its name is nobody's again; its buckets' names are free.
    let again = AccessOp::CreateTenant { name: acme(), limits: TenantLimits::default() };
    assert_eq!(order.access(again).await.unwrap_err().kind(), ErrorKind::Conflict);
    let ours = user(&node, TenantId(1), &founding.principal);
    assert_eq!(ours.get_bytes(&founding.bucket, "ours").await.unwrap(), b"stays");
    ours.create_bucket("flour").await.unwrap();
    assert_eq!(ours.list("flour", "", None, "").await.unwrap().entries.len(), 0);
    let AuditAnswer::Page(page) = order.audit(AuditOp::Page { from: 1 }).await.unwrap() else { panic!("no page") };
    let said = page.lines.concat();
    assert!(said.contains("tenant-ended") && said.contains("tenant-gone"), "{said}");
    node.shutdown(Duration::from_secs(10)).await;
}
