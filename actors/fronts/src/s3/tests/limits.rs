//! What clients may take of a server: memory, connections and time; and that whoever takes too much costs only himself.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    super::{GatewayOptions, ServeOptions},
    Node, bytes,
    client::{Client, Framing, reply},
};

const MIB: usize = 1 << 20;
/// The least that can be: 42 MiB for large requests of one tenant.
const LITTLE: usize = 64 * MIB;

async fn with_little_memory() -> Node {
    let gateway = GatewayOptions { memory_bytes_max: LITTLE, ..GatewayOptions::default() };
    Node::start_with(4 << 20, "127.0.0.1:0", gateway, ServeOptions::default()).await
}

/// A connection whose buffers hold little, with a request that is sent; nothing is read.
async fn stopped(node: &Node, client: &Client, method: &str, target: &str, body: &[u8]) -> TcpStream {
    let (head, framed) = client.request(method, target, &[], body, &Framing::Unsigned);
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(8192).expect("taken");
    let mut stream = socket.connect(node.address).await.expect("listening");
    stream.write_all(head.as_bytes()).await.expect("taken");
    // Of a body, only a little.
    stream.write_all(&framed[..framed.len().min(1000)]).await.expect("taken");
    stream
}

/// Waits until requests hold nothing any more.
async fn everything_comes_back(node: &Node) {
    let comes_back = async {
        while node.gateway.memory().0 > 0 {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(Duration::from_secs(20), comes_back).await.is_ok(), "{:?} is held for ever", node.gateway.memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stop_cost_only_themselves() {
    let node = with_little_memory().await;
    let client = node.with_bucket().await;
    let big = bytes(16 * MIB, 1);
    assert_eq!(client.with("PUT", "/bucket/big", &[], &big, &Framing::Unsigned).await.status, 200);
    assert_eq!(client.send("PUT", "/bucket/small", &bytes(1000, 2)).await.status, 200);
    let mut readers = Vec::new();
    for _ in 0..30 {
        readers.push(stopped(&node, &client, "GET", "/bucket/big", b"").await);
    }
    while node.gateway.memory().0 < LITTLE / 2 {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    assert_eq!(client.send("GET", "/bucket/small", b"").await.status, 200);
    assert_eq!(client.send("PUT", "/bucket/small", &bytes(1000, 2)).await.status, 200);
    assert!(began.elapsed() < Duration::from_secs(2), "small requests pass at once: {:?}", began.elapsed());
    let whole = client.send("GET", "/bucket/big", b"").await;
    assert_eq!((whole.status, whole.cut), (200, false));
    assert!(whole.body == big);
    assert!(node.gateway.memory().0 <= LITTLE);
    assert!(node.gateway.stats().broken > 0, "those that stopped first are cut off");
    drop(readers);
    everything_comes_back(&node).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_small_makes_large_reads_give_way_and_they_themselves_do_not() {
    let node = Node::start(4 << 20).await;
    let client = node.with_bucket().await;
    let big = bytes(8 * MIB, 1);
    for key in ["big", "gone"] {
        assert_eq!(client.with("PUT", &format!("/bucket/{key}"), &[], &big, &Framing::Unsigned).await.status, 200);
    }
    assert!(client.send("GET", "/bucket/big", b"").await.body == big);
    assert_eq!(node.gateway.credit().small_ones(), 0);
    let mut seen = 0;
    for (method, key, body, range) in [
        ("HEAD", "big", &b""[..], None),
        ("GET", "big", b"", Some(("range", "bytes=5-9"))),
        ("PUT", "small", b"small", None),
        ("GET", "small", b"", None),
        ("DELETE", "gone", b"", None),
    ] {
        let headers: Vec<_> = range.into_iter().collect();
        let answer = client.with(method, &format!("/bucket/{key}"), &headers, body, &Framing::Unsigned).await;
        assert!(answer.status < 300, "{method} {key}: {}", answer.status);
        let before = core::mem::replace(&mut seen, node.gateway.credit().small_ones());
        assert!(seen > before, "{method} {key}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_stall_give_way_to_others() {
    let node = with_little_memory().await;
    let client = node.with_bucket().await;
    let body = bytes(8 * MIB, 1);
    let mut senders = Vec::new();
    for number in 0..20 {
        senders.push(stopped(&node, &client, "PUT", &format!("/bucket/{number}"), &body).await);
    }
    while node.gateway.memory().0 < LITTLE / 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(client.with("PUT", "/bucket/key", &[], &body, &Framing::Unsigned).await.status, 200);
    assert!(client.send("GET", "/bucket/key", b"").await.body == body);
    drop(senders);
    everything_comes_back(&node).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_but_steady_readers_are_not_cut_off_and_copies_need_no_more_than_there_is() {
    let node = with_little_memory().await;
    let client = node.with_bucket().await;
    let big = bytes(6 * MIB, 1);
    assert_eq!(client.with("PUT", "/bucket/big", &[], &big, &Framing::Unsigned).await.status, 200);
    let mut slow = stopped(&node, &client, "GET", "/bucket/big", b"").await;
    let reads = tokio::spawn(async move {
        let (mut came, mut piece) = (Vec::new(), vec![0; MIB / 2]);
        loop {
            let read = slow.read(&mut piece).await.expect("not cut off");
            if read == 0 {
                return came;
            }
            came.extend_from_slice(&piece[..read]);
            if came.len() % (8 * 65_536) < read {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    // Each needs two stripes at once: five fit.
    let copies = (0..8).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let from = [("x-amz-copy-source", "/bucket/big")];
            client.with("PUT", &format!("/bucket/{number}"), &from, b"", &Framing::Whole).await.status
        })
    });
    for copy in copies.collect::<Vec<_>>() {
        assert_eq!(copy.await.expect("no panic"), 200);
    }
    let came = reads.await.expect("no panic");
    assert!(came.ends_with(&big));
    everything_comes_back(&node).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_http_2_that_stop_cost_only_their_connection() {
    let node = with_little_memory().await;
    let client = node.with_bucket().await;
    let big = bytes(8 * MIB, 1);
    assert_eq!(client.with("PUT", "/bucket/big", &[], &big, &Framing::Unsigned).await.status, 200);
    let (head, _) = client.request("GET", "/bucket/big", &[], b"", &Framing::Whole);
    let stream = TcpStream::connect(node.address).await.expect("listening");
    let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let ends = tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..20 {
        let mut request = hyper::Request::builder().uri(format!("http://{}/bucket/big", node.address));
        for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(": ")) {
            if !["connection", "content-length"].contains(&name) {
                request = request.header(name, value);
            }
        }
        let mut ready = sender.clone().ready().await.expect("room for a stream");
        let (answer, _) = ready.send_request(request.body(()).expect("a request"), true).expect("sent");
        // Never a byte of it is taken.
        answers.push(answer);
    }
    while node.gateway.memory().0 < LITTLE / 2 {
        tokio::task::yield_now().await;
    }
    let whole = client.send("GET", "/bucket/big", b"").await;
    assert!(whole.status == 200 && whole.body == big);
    assert!(timeout(Duration::from_secs(20), ends).await.is_ok(), "its connection is cut");
    drop(answers);
    everything_comes_back(&node).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_ranges_are_charged_with_the_stripes_that_they_take() {
    let node = with_little_memory().await;
    let client = node.with_bucket().await;
    assert_eq!(client.with("PUT", "/bucket/big", &[], &bytes(8 * MIB, 1), &Framing::Unsigned).await.status, 200);
    let (head, _) = client.request("GET", "/bucket/big", &[("range", "bytes=0-2097151")], b"", &Framing::Whole);
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(8192).expect("taken");
    let mut reader = socket.connect(node.address).await.expect("listening");
    reader.write_all(head.as_bytes()).await.expect("taken");
    let mut first = [0; 1000];
    reader.read_exact(&mut first).await.expect("an answer");
    assert!(first.starts_with(b"HTTP/1.1 206"));
    assert_eq!(node.gateway.memory().0, 4 * MIB);
    drop(reader);
    everything_comes_back(&node).await;
    // And one that asks for everything and stops has one stripe, however much room there is.
    let reader = stopped(&node, &client, "GET", "/bucket/big", b"").await;
    while node.gateway.stats().sent_bytes < 3 * MIB as u64 / 4 {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.gateway.memory().0, 4 * MIB);
    drop(reader);
    everything_comes_back(&node).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_of_either_http_keep_nobody_waiting() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    let mut silent = Vec::new();
    for number in 0..600 {
        let mut stream = TcpStream::connect(node.address).await.expect("listening");
        let start: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET / HTTP/1.1\r\nhost: ",
            _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        };
        // Those that came first are cut off while others come.
        stream.write_all(start).await.expect("taken");
        silent.push(stream);
    }
    let began = Instant::now();
    assert_eq!(client.send("PUT", "/bucket/key", b"honest").await.status, 200);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for mut stream in silent {
        let mut rest = Vec::new();
        let ended = timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "a connection without a request ends by itself");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_connection_is_kept_for_a_while_between_two_requests() {
    let options = ServeOptions {
        head_time_max: Duration::from_millis(50),
        idle_time_max: Duration::from_millis(400),
        ..ServeOptions::default()
    };
    let node = Node::start_with(4096, "127.0.0.1:0", GatewayOptions::default(), options).await;
    let client = node.with_bucket().await;
    let (head, _) = client.request("HEAD", "/bucket", &[], b"", &Framing::Whole);
    let head = head.replace("connection: close\r\n", "");
    let mut stream = TcpStream::connect(node.address).await.expect("listening");
    for _ in 0..3 {
        stream.write_all(head.as_bytes()).await.expect("taken");
        let mut answer = [0; 4096];
        assert!(stream.read(&mut answer).await.expect("kept") > 0);
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok_and(|read| read.is_ok()) && rest.is_empty());
    node.stop().await;
}

#[tokio::test]
async fn a_full_house_says_slow_down() {
    let options = ServeOptions { connections_max: 2, ..ServeOptions::default() };
    let node = Node::start_with(4096, "127.0.0.1:0", GatewayOptions::default(), options).await;
    let client = node.with_bucket().await;
    let mut under_way = Vec::new();
    for number in 1..=2 {
        under_way.push(stopped(&node, &client, "PUT", &format!("/bucket/{number}"), &bytes(50_000, 1)).await);
        while node.model.count("Begin") < number {
            tokio::task::yield_now().await;
        }
    }
    let refused = client.send("PUT", "/bucket/key", b"x").await;
    assert_eq!(refused.verdict(), (503, "SlowDown".into()));
    assert_eq!(refused.headers["content-length"], refused.body.len().to_string());
    drop(under_way);
    node.stop().await;
}

#[tokio::test]
async fn a_document_that_stalls_is_given_up() {
    let gateway = GatewayOptions { body_idle_max: Duration::from_millis(50), ..GatewayOptions::default() };
    let node = Node::start_with(4096, "127.0.0.1:0", gateway, ServeOptions::default()).await;
    let client = node.with_bucket().await;
    let part = "<Part><PartNumber>1</PartNumber><ETag>e</ETag></Part>";
    let document = format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", part.repeat(100));
    let mut stream = stopped(&node, &client, "POST", "/bucket/key?uploadId=1", document.as_bytes()).await;
    assert_eq!(reply(&mut stream, "POST").await.verdict(), (400, "RequestTimeout".into()));
    everything_comes_back(&node).await;
    node.stop().await;
}

#[tokio::test]
async fn a_key_that_is_not_known_yet_is_not_refused() {
    let node = Node::start(4096).await;
    node.keys.behind.store(true, std::sync::atomic::Ordering::Relaxed);
    let stranger = Client::new(node.address, "stranger", "secret");
    let answer = stranger.send("GET", "/bucket/key", b"").await;
    assert_eq!(answer.verdict(), (503, "ServiceUnavailable".into()));
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.contains("not ready yet: a metadata group has no leader"), "{text}");
    node.keys.behind.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(stranger.send("GET", "/bucket/key", b"").await.verdict(), (403, "InvalidAccessKeyId".into()));
    node.stop().await;
}
