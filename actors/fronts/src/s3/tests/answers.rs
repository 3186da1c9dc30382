//! What answers take of a server's memory: it is taken before they are made, and kept until they are gone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::body::Bytes;
use mesh_core::op::ObjectOp;
use tokio::{net::TcpStream, time::timeout};

use super::{
    super::{GatewayOptions, ServeOptions},
    Node,
    client::{Client, Framing},
};

const LITTLE: usize = 64 << 20;

async fn with_little_memory() -> Node {
    let gateway = GatewayOptions { memory_bytes_max: LITTLE, ..GatewayOptions::default() };
    Node::start_with(4096, "127.0.0.1:0", gateway, ServeOptions::default()).await
}

/// Puts so many objects with keys that are long: `key`, as it is written in a path, 900 times.
async fn fill(client: &Client, count: usize, key: &str) {
    for number in 0..count {
        let key = format!("{}{number:04}", key.repeat(900));
        assert_eq!(client.send("PUT", &format!("/bucket/{key}"), b"").await.status, 200);
    }
}

async fn holds(node: &Node, bytes: usize) {
    let holds = async {
        while node.gateway.memory().0 != bytes {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let in_time = timeout(Duration::from_secs(20), holds).await;
    assert!(in_time.is_ok(), "{} are held, not {bytes}", node.gateway.memory().0);
}

#[tokio::test]
async fn a_page_is_paid_for_before_it_is_asked_for() {
    let node = with_little_memory().await;
    let client = node.with_bucket().await;
    let begun = String::from_utf8(client.send("POST", "/bucket/key?uploads", b"").await.body).expect("text");
    let id = begun.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once('<')).expect("an id").0.to_owned();
    let (gateway, seen) = (node.gateway.clone(), Arc::new(AtomicUsize::new(usize::MAX)));
    let least = seen.clone();
    node.model.fail(move |op| {
        let page = matches!(
            op,
            ObjectOp::List { .. } | ObjectOp::ListParts { .. } | ObjectOp::ListUploads { .. } | ObjectOp::ListBuckets
        );
        if page {
            least.fetch_min(gateway.memory().0, Relaxed);
        }
        None
    });
    for (target, bytes) in [
        ("/bucket?list-type=2".to_owned(), 1000 * 1250),
        ("/bucket".to_owned(), 1000 * 1250),
        ("/bucket?max-keys=5000".to_owned(), 1000 * 1250),
        ("/bucket?list-type=2&max-keys=7".to_owned(), 7 * 1250),
        (format!("/bucket/key?uploadId={id}"), 1000 * 1250),
        (format!("/bucket/key?max-parts=3&uploadId={id}"), 3 * 1250),
        ("/bucket?max-uploads=1&uploads".to_owned(), 1000 * 1250),
        ("/".to_owned(), 10_000 << 8),
    ] {
        seen.store(usize::MAX, Relaxed);
        assert_eq!(client.send("GET", &target, b"").await.status, 200, "{target}");
        let held = seen.load(Relaxed);
        assert!((bytes..bytes + 1024).contains(&held), "{target}: {held}, not {bytes}");
        holds(&node, 0).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_wait_for_each_other_and_all_of_them_come() {
    let node = with_little_memory().await;
    let client = node.with_bucket().await;
    fill(&client, 30, "%22").await;
    // 1.2 MiB each: three dozen of them fit.
    let pages = (0..60).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.send("GET", "/bucket?list-type=2", b"").await })
    });
    for page in pages.collect::<Vec<_>>() {
        let page = page.await.expect("no panic");
        assert_eq!((page.status, page.cut), (200, false));
    }
    holds(&node, 0).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_head_has_no_body_by_http_2_either() {
    let node = with_little_memory().await;
    let client = node.with_bucket().await;
    assert_eq!(client.send("PUT", "/bucket/key", b"hello").await.status, 200);
    let stream = TcpStream::connect(node.address).await.expect("listening");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let ends = tokio::spawn(connection);
    for (target, status) in
        [("/bucket/key", 200), ("/bucket/none", 404), ("/none/key", 404), ("/bucket/key?torrent", 501)]
    {
        let (head, _) = client.request("HEAD", target, &[], b"", &Framing::Whole);
        let mut request = hyper::Request::builder().method("HEAD").uri(format!("http://{}{target}", node.address));
        for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(": ")) {
            if !["connection", "content-length"].contains(&name) {
                request = request.header(name, value);
            }
        }
        sender = sender.ready().await.expect("room for a stream");
        let (answer, _) = sender.send_request(request.body(()).expect("a request"), true).expect("sent");
        let answer = answer.await.expect("a head");
        assert_eq!(answer.status(), status, "{target}");
        let body = answer.into_body();
        assert!(body.is_end_stream(), "{target}: a body follows");
    }
    ends.abort();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_http_2_are_charged_with_what_they_have_until_they_are_taken() {
    let node = with_little_memory().await;
    let client = node.with_bucket().await;
    // A quote is six bytes of XML: such a key has more than what is taken for one.
    fill(&client, 30, "%22").await;
    assert_eq!(client.send("PUT", "/bucket/key", b"").await.status, 200);
    let stream = TcpStream::connect(node.address).await.expect("listening");
    let mut builder = h2::client::Builder::new();
    // Its peer may send heads, and not a byte of a body.
    let (sender, connection) = builder.initial_window_size(0).handshake::<_, Bytes>(stream).await.expect("HTTP/2");
    let ends = tokio::spawn(connection);
    let mut answers = Vec::new();
    let mut all = 0;
    for (method, target) in [
        ("GET", "/bucket/none"),
        ("GET", "/bucket?torrent"),
        ("HEAD", "/bucket/key"),
        ("GET", "/bucket?list-type=2&max-keys=1"),
        ("GET", "/bucket?list-type=2&max-keys=30"),
        ("GET", "/bucket?list-type=2"),
    ] {
        let (head, _) = client.request(method, target, &[], b"", &Framing::Whole);
        let mut request = hyper::Request::builder().method(method).uri(format!("http://{}{target}", node.address));
        for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(": ")) {
            if !["connection", "content-length"].contains(&name) {
                request = request.header(name, value);
            }
        }
        let mut ready = sender.clone().ready().await.expect("room for a stream");
        let (answer, _) = ready.send_request(request.body(()).expect("a request"), true).expect("sent");
        let answer = answer.await.expect("a head");
        let len = answer.headers().get("content-length").and_then(|len| len.to_str().ok()?.parse::<usize>().ok());
        if method == "GET" {
            all += len.expect("a length");
        }
        answers.push(answer);
        holds(&node, all).await;
    }
    assert!(all > 2 * 30 * 5400, "{all}");
    drop((answers, sender));
    ends.abort();
    holds(&node, 0).await;
    node.stop().await;
}
