//! Objects in and out: sizes, framings, digests, faults in the middle.

use std::time::Duration;

use mesh_core::{Error, ErrorKind, limits::STREAM_STRIPES, op::ObjectOp};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::{Notify, mpsc},
};

use super::{
    super::{
        GatewayOptions, ServeOptions,
        digest::{Algorithm, Digests},
        text::hex,
    },
    Node, bytes,
    client::{Client, Framing, reply},
};

const STRIPE: u32 = 64 << 10;

fn sum(algorithm: Algorithm, body: &[u8]) -> String {
    let mut digests = Digests::new(&[algorithm].into());
    digests.update(body);
    digests.finish().sums[&algorithm].clone()
}

fn md5(body: &[u8]) -> String {
    hex(&Digests::new(&[].into()).tap(|digests| digests.update(body)).finish().md5)
}

trait Tap: Sized {
    fn tap(mut self, with: impl FnOnce(&mut Self)) -> Self {
        with(&mut self);
        self
    }
}

impl Tap for Digests {}

#[tokio::test]
async fn objects_of_every_size_around_a_stripe_come_back_as_they_went() {
    let node = Node::start(STRIPE).await;
    let client = node.with_bucket().await;
    let stripe = STRIPE as usize;
    for len in [0, 1, stripe - 1, stripe, stripe + 1, 3 * stripe, 9 * stripe + 4567] {
        let body = bytes(len, len as u64);
        let put = client.send("PUT", "/bucket/key", &body).await;
        assert_eq!(put.status, 200, "{put:?}");
        assert_eq!(put.headers["etag"], format!("\"{}\"", md5(&body)));
        let got = client.send("GET", "/bucket/key", b"").await;
        assert_eq!((got.status, got.cut, got.body == body), (200, false, true), "{len} bytes");
        assert_eq!(got.headers["content-length"], len.to_string());
        let head = client.send("HEAD", "/bucket/key", b"").await;
        assert_eq!((head.status, head.headers["content-length"].clone()), (200, len.to_string()));
    }
    let (open, _, _) = node.model.holds();
    assert_eq!((open, node.model.count("Abort")), (0, 0));
    node.stop().await;
}

#[tokio::test]
async fn ranges_are_exact_across_stripes_and_pages() {
    let node = Node::start(STRIPE).await;
    let client = node.with_bucket().await;
    let len = 10 * STRIPE as usize + 77;
    let body = bytes(len, 7);
    client.send("PUT", "/bucket/key", &body).await;
    let get = async |range: &str| client.with("GET", "/bucket/key", &[("range", range)], b"", &Framing::Whole).await;
    for (range, first, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=65535-65536", 65_535, 65_537),
        ("bytes=100000-500000", 100_000, 500_001),
        ("bytes=655000-9999999", 655_000, len),
        ("bytes=-100", len - 100, len),
        ("bytes=-9999999", 0, len),
        ("bytes=65536-", 65_536, len),
    ] {
        let got = get(range).await;
        assert_eq!((got.status, got.body == body[first..end]), (206, true), "{range}");
        assert_eq!(got.headers["content-range"], format!("bytes {first}-{}/{len}", end - 1));
    }
    for range in [format!("bytes={len}-"), "bytes=-0".to_owned()] {
        assert_eq!(get(&range).await.verdict(), (416, "InvalidRange".to_owned()));
    }
    node.stop().await;
}

#[tokio::test]
async fn aws_chunked_bodies_are_decoded_whatever_the_size_of_their_chunks() {
    let node = Node::start(STRIPE).await;
    let client = node.with_bucket().await;
    let body = bytes(5 * STRIPE as usize + 321, 3);
    for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme, Algorithm::Sha1, Algorithm::Sha256] {
        let value = sum(algorithm, &body);
        let name = format!("x-amz-checksum-{}", algorithm.name());
        for size in [8192, 100_000, usize::MAX] {
            let size = size.min(body.len());
            let put = client
                .with("PUT", "/bucket/key", &[], &body, &Framing::Chunked(size, &format!("{name}:{value}")))
                .await;
            assert_eq!(put.status, 200, "{put:?}");
            assert_eq!(put.headers[&name], value);
        }
        let got = client.with("GET", "/bucket/key", &[("x-amz-checksum-mode", "ENABLED")], b"", &Framing::Whole).await;
        assert_eq!((got.body == body, &got.headers[&name]), (true, &value));
        assert!(!got.headers.contains_key("content-encoding"));
        let ranged = [("x-amz-checksum-mode", "ENABLED"), ("range", "bytes=0-9")];
        let got = client.with("GET", "/bucket/key", &ranged, b"", &Framing::Whole).await;
        assert_eq!((got.status, got.headers.contains_key(&name)), (206, false));
    }
    for size in [8192, 65_536] {
        let put = client.with("PUT", "/bucket/signed", &[], &body, &Framing::Signed(size)).await;
        assert_eq!(put.status, 200, "{put:?}");
        assert!(client.send("GET", "/bucket/signed", b"").await.body == body);
    }
    node.stop().await;
}

#[tokio::test]
async fn whatever_does_not_match_its_digest_is_refused_and_leaves_nothing() {
    let node = Node::start(STRIPE).await;
    let client = node.with_bucket().await;
    let body = bytes(2 * STRIPE as usize + 1, 5);
    let crc = sum(Algorithm::Crc32, b"something else");
    let put = async |headers: &[(&str, &str)], framing: &Framing<'_>| {
        client.with("PUT", "/bucket/key", headers, &body, framing).await.verdict()
    };
    let bad = (400, "BadDigest".to_owned());
    assert_eq!(put(&[("x-amz-checksum-crc32", &crc)], &Framing::Whole).await, bad);
    assert_eq!(put(&[("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")], &Framing::Unsigned).await, bad);
    let trailer = format!("x-amz-checksum-crc32:{crc}");
    assert_eq!(put(&[], &Framing::Chunked(4096, &trailer)).await, bad);
    let announced = [("x-amz-trailer", "x-amz-checksum-crc32")];
    let invalid = (400, "InvalidRequest".to_owned());
    assert_eq!(put(&announced, &Framing::Chunked(4096, "x-amz-meta-other:1")).await, invalid);
    let (mut head, mut sent) = client.request("PUT", "/bucket/key", &[], &body, &Framing::Whole);
    sent[70_000] ^= 1;
    assert_eq!(raw(&node, &head, &sent).await, (400, "XAmzContentSHA256Mismatch".to_owned()));
    (head, sent) = client.request("PUT", "/bucket/key", &[], &body, &Framing::Signed(65_536));
    sent[70_000] ^= 1;
    assert_eq!(raw(&node, &head, &sent).await, (403, "SignatureDoesNotMatch".to_owned()));
    assert_eq!(client.send("HEAD", "/bucket/key", b"").await.status, 404);
    aborted(&node, 6).await;
    node.stop().await;
}

async fn raw(node: &Node, head: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(node.address).await.expect("listening");
    stream.write_all(head.as_bytes()).await.expect("taken");
    stream.write_all(body).await.expect("taken");
    reply(&mut stream, "PUT").await.verdict()
}

/// Waits until so many writes were aborted and the model is empty again.
async fn aborted(node: &Node, writes: usize) {
    let all = async {
        while node.model.count("Abort") < writes {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("writes are aborted");
    let (open, stripes, _) = node.model.holds();
    assert_eq!((open, stripes, node.model.count("Finish")), (0, 0, 0));
}

#[tokio::test]
async fn a_body_that_is_short_or_whose_client_leaves_is_aborted() {
    let node = Node::start(STRIPE).await;
    let client = node.with_bucket().await;
    let body = bytes(3 * STRIPE as usize, 5);
    // Half of it, then the end of sending: nobody can answer with anything but IncompleteBody, or hang up.
    let (head, sent) = client.request("PUT", "/bucket/key", &[], &body, &Framing::Unsigned);
    let mut stream = TcpStream::connect(node.address).await.expect("listening");
    stream.write_all(head.as_bytes()).await.expect("taken");
    stream.write_all(&sent[..100_000]).await.expect("taken");
    drop(stream);
    aborted(&node, 1).await;
    // Fewer bytes in the framing than the head declared.
    let framing = Framing::Chunked(4096, "x-amz-checksum-crc32:AAAAAA==");
    let (head, sent) = client.request("PUT", "/bucket/key", &[], &body, &framing);
    let short = [&sent[..4096 + 8], b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"].concat();
    let head = head.replace(&format!("content-length: {}", sent.len()), &format!("content-length: {}", short.len()));
    assert_eq!(raw(&node, &head, &short).await, (400, "IncompleteBody".to_owned()));
    aborted(&node, 2).await;
    node.stop().await;
}

#[tokio::test]
async fn a_body_of_which_nothing_comes_any_more_times_out() {
    let options = GatewayOptions { body_idle_max: Duration::from_millis(50), ..GatewayOptions::default() };
    let node = Node::start_with(STRIPE, "127.0.0.1:0", options, ServeOptions::default()).await;
    let client = node.with_bucket().await;
    let (head, sent) = client.request("PUT", "/bucket/key", &[], &bytes(200_000, 1), &Framing::Unsigned);
    assert_eq!(raw(&node, &head, &sent[..100_000]).await, (400, "RequestTimeout".to_owned()));
    aborted(&node, 1).await;
    node.stop().await;
}

#[tokio::test]
async fn too_large_is_refused_before_the_body() {
    let node = Node::start(STRIPE).await;
    let client = node.with_bucket().await;
    let len = (5_u64 << 30) + 1;
    let headers = [("content-length", len.to_string())];
    let headers = [(headers[0].0, headers[0].1.as_str())];
    let (head, _) = client.request("PUT", "/bucket/key", &headers, b"", &Framing::Unsigned);
    assert_eq!(raw(&node, &head, b"").await, (400, "EntityTooLarge".to_owned()));
    assert_eq!(node.model.count("Begin"), 0);
    node.stop().await;
}

#[tokio::test]
async fn a_stream_keeps_its_window_of_stripes_in_flight_and_no_more() {
    let node = Node::start(STRIPE).await;
    let client = node.with_bucket().await;
    let gate = node.model.gate.clone();
    let closed = gate.acquire_many(u32::try_from(gate.available_permits().min(1 << 20)).expect("bounded")).await;
    gate.forget_permits(gate.available_permits());
    let body = bytes(12 * STRIPE as usize, 9);
    let put = tokio::spawn({
        let (client, body) = (client.clone(), body.clone());
        async move { client.send("PUT", "/bucket/key", &body).await.status }
    });
    let filled = async {
        while node.model.holds().2 < STREAM_STRIPES {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), filled).await.expect("the window fills without an answer");
    drop(closed);
    assert_eq!(put.await.expect("no panic"), 200);
    assert_eq!(node.model.holds().2, STREAM_STRIPES);
    assert!(client.send("GET", "/bucket/key", b"").await.body == body);
    node.stop().await;
}

#[tokio::test]
async fn an_append_that_fails_fails_the_put_and_aborts_it() {
    let node = Node::start(STRIPE).await;
    let client = node.with_bucket().await;
    for (kind, verdict) in [
        (ErrorKind::Overloaded, (503, "SlowDown")),
        (ErrorKind::TooFewShards, (503, "ServiceUnavailable")),
        (ErrorKind::NoSpace, (507, "InsufficientStorage")),
        (ErrorKind::QuotaExceeded, (403, "QuotaExceeded")),
        (ErrorKind::Bug, (500, "InternalError")),
    ] {
        node.model.fail(move |op| {
            matches!(op, ObjectOp::Append { stripe: 2, .. }).then(|| Error::new(kind, "the third stripe fails"))
        });
        let put = client.send("PUT", "/bucket/key", &bytes(6 * STRIPE as usize, 2)).await;
        assert_eq!(put.verdict(), (verdict.0, verdict.1.to_owned()));
        if kind == ErrorKind::TooFewShards {
            assert!(String::from_utf8_lossy(&put.body).contains("TooFewShards"));
        }
    }
    aborted(&node, 5).await;
    node.stop().await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_an_error_and_one_that_breaks_off_a_broken_connection() {
    let node = Node::start(STRIPE).await;
    let client = node.with_bucket().await;
    let body = bytes(20 * STRIPE as usize, 4);
    client.send("PUT", "/bucket/key", &body).await;
    let fail_from = |first: u32| {
        move |op: &ObjectOp| match op {
            ObjectOp::Read { piece, .. } if piece.stripe >= first => {
                Some(Error::new(ErrorKind::TooFewShards, "two drives are gone"))
            }
            _ => None,
        }
    };
    node.model.fail(fail_from(0));
    let got = client.send("GET", "/bucket/key", b"").await;
    assert_eq!(got.verdict(), (503, "ServiceUnavailable".to_owned()));
    node.model.fail(fail_from(7));
    let got = client.send("GET", "/bucket/key", b"").await;
    assert_eq!((got.status, got.cut), (200, true));
    assert!(body.starts_with(&got.body) && got.body.len() < body.len());
    assert_eq!(node.gateway.stats().broken, 1);
    node.model.heal();
    assert!(client.send("GET", "/bucket/key", b"").await.body == body);
    node.stop().await;
}

#[tokio::test]
async fn a_put_whose_client_leaves_while_it_finishes_is_not_undone() {
    let node = Node::start(STRIPE).await;
    let client = node.with_bucket().await;
    let (reached, mut at_finish) = mpsc::unbounded_channel();
    node.model.fail(move |op| {
        if matches!(op, ObjectOp::Finish { .. }) {
            reached.send(()).expect("the test listens");
        }
        None
    });
    let (head, sent) = client.request("PUT", "/bucket/key", &[], b"hello", &Framing::Whole);
    let mut stream = TcpStream::connect(node.address).await.expect("listening");
    stream.write_all(&[head.as_bytes(), &sent].concat()).await.expect("taken");
    at_finish.recv().await.expect("Finish comes");
    drop(stream);
    assert_eq!(client.send("GET", "/bucket/key", b"").await.body, b"hello");
    assert_eq!(node.model.count("Abort"), 0);
    node.stop().await;
}

#[tokio::test]
async fn many_streams_share_the_credit_and_all_come_through() {
    let options = GatewayOptions { inflight_bytes_max: 1, ..GatewayOptions::default() };
    let node = Node::start_with(STRIPE, "127.0.0.1:0", options, ServeOptions::default()).await;
    let client = node.with_bucket().await;
    let done = std::sync::Arc::new(Notify::new());
    let puts: Vec<_> = (0..24_u64)
        .map(|n| {
            let (client, done): (Client, _) = (client.clone(), done.clone());
            tokio::spawn(async move {
                // The last stripe takes as much of the credit as the others.
                let body = bytes(5 * STRIPE as usize - n as usize, n);
                let key = format!("/bucket/{n}");
                let put = client.send("PUT", &key, &body).await.status;
                let same = client.send("GET", &key, b"").await.body == body;
                done.notify_one();
                (put, same)
            })
        })
        .collect();
    for put in puts {
        let put = tokio::time::timeout(Duration::from_secs(60), put).await.expect("no deadlock");
        assert_eq!(put.expect("no panic"), (200, true));
    }
    assert!(node.model.holds().2 <= 4 << 20 >> 16, "the credit bounds all streams together");
    node.stop().await;
}
