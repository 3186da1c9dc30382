//! Connections: their limits and their end. And a server for other clients to be run against.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    super::{GatewayOptions, ServeOptions},
    Node, bytes,
    client::{Framing, reply},
};

#[tokio::test]
async fn a_request_under_way_comes_to_its_end_after_the_server_was_told_to_end() {
    let mut node = Node::start(4096).await;
    let client = node.with_bucket().await;
    let body = bytes(50_000, 1);
    let (head, sent) = client.request("PUT", "/bucket/key", &[], &body, &Framing::Unsigned);
    let mut stream = TcpStream::connect(node.address).await.expect("listening");
    stream.write_all(head.as_bytes()).await.expect("taken");
    stream.write_all(&sent[..10_000]).await.expect("taken");
    while node.model.count("Append") == 0 {
        tokio::task::yield_now().await;
    }
    drop(node.stop.take());
    while TcpStream::connect(node.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!node.served.is_finished());
    stream.write_all(&sent[10_000..]).await.expect("still served");
    assert_eq!(reply(&mut stream, "PUT").await.status, 200);
    node.stop().await;
}

#[tokio::test]
async fn draining_is_bounded() {
    let options = ServeOptions { drain_time_max: Duration::from_millis(50), ..ServeOptions::default() };
    let node = Node::start_with(4096, "127.0.0.1:0", GatewayOptions::default(), options).await;
    let client = node.with_bucket().await;
    let (head, _) = client.request("PUT", "/bucket/key", &[], &bytes(50_000, 1), &Framing::Unsigned);
    let mut stream = TcpStream::connect(node.address).await.expect("listening");
    stream.write_all(head.as_bytes()).await.expect("taken");
    while node.model.count("Begin") == 0 {
        tokio::task::yield_now().await;
    }
    node.stop().await;
}

#[tokio::test]
async fn who_says_nothing_or_too_little_is_cut_off() {
    let options = ServeOptions { head_time_max: Duration::from_millis(50), ..ServeOptions::default() };
    let node = Node::start_with(4096, "127.0.0.1:0", GatewayOptions::default(), options).await;
    for start in ["", "P", "PRI * HTTP/2.0", "GET / HTTP/1.1\r\nhost: "] {
        let mut stream = TcpStream::connect(node.address).await.expect("listening");
        stream.write_all(start.as_bytes()).await.expect("taken");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{start:?}");
    }
    node.stop().await;
}

#[tokio::test]
async fn who_stops_reading_is_cut_off() {
    let options = ServeOptions { stall_max: Duration::from_millis(100), ..ServeOptions::default() };
    let node = Node::start_with(4 << 20, "127.0.0.1:0", GatewayOptions::default(), options).await;
    let client = node.with_bucket().await;
    // More than the sockets' buffers hold.
    let body = bytes(64 << 20, 1);
    assert_eq!(client.with("PUT", "/bucket/key", &[], &body, &Framing::Unsigned).await.status, 200);
    let (head, _) = client.request("GET", "/bucket/key", &[], b"", &Framing::Whole);
    let mut stream = TcpStream::connect(node.address).await.expect("listening");
    stream.write_all(head.as_bytes()).await.expect("taken");
    while node.gateway.stats().broken == 0 {
        tokio::task::yield_now().await;
    }
    assert!(reply(&mut stream, "GET").await.cut);
    node.stop().await;
}

#[tokio::test]
async fn what_has_no_answer_when_draining_ends_is_told_so() {
    let options = ServeOptions { drain_time_max: Duration::from_millis(50), ..ServeOptions::default() };
    let mut node = Node::start_with(4096, "127.0.0.1:0", GatewayOptions::default(), options).await;
    let client = node.with_bucket().await;
    let (head, _) = client.request("PUT", "/bucket/key", &[], &bytes(50_000, 1), &Framing::Unsigned);
    let mut stream = TcpStream::connect(node.address).await.expect("listening");
    stream.write_all(head.as_bytes()).await.expect("taken");
    while node.model.count("Begin") == 0 {
        tokio::task::yield_now().await;
    }
    drop(node.stop.take());
    let told = reply(&mut stream, "PUT").await;
    assert_eq!(told.verdict(), (503, "ServiceUnavailable".into()));
    assert_eq!(told.headers["connection"], "close");
    node.stop().await;
}

#[tokio::test]
async fn a_request_that_was_on_its_way_when_the_server_was_told_to_end_is_served() {
    let mut node = Node::start(4096).await;
    let client = node.with_bucket().await;
    let mut stream = TcpStream::connect(node.address).await.expect("listening");
    let (head, _) = client.request("HEAD", "/bucket", &[], b"", &Framing::Whole);
    let (first, rest) = head.split_at(10);
    stream.write_all(first.as_bytes()).await.expect("taken");
    drop(node.stop.take());
    while TcpStream::connect(node.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    stream.write_all(rest.as_bytes()).await.expect("taken");
    let answer = reply(&mut stream, "HEAD").await;
    assert_eq!((answer.status, answer.headers["connection"].as_str()), (200, "close"));
    node.stop().await;
}

/// Serves the model on `MESH_S3_TEST_LISTEN` until it is interrupted, for `tests/s3/*.py` and the like. Access
/// key `access` (and `other`, of another tenant), secret `secret`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a server for other clients: needs MESH_S3_TEST_LISTEN"]
async fn a_server_for_other_clients() {
    let address = std::env::var("MESH_S3_TEST_LISTEN").expect("MESH_S3_TEST_LISTEN=127.0.0.1:port");
    let node = Node::start_with(1 << 20, &address, GatewayOptions::default(), ServeOptions::default()).await;
    tokio::signal::ctrl_c().await.expect("signals");
    node.stop().await;
}
