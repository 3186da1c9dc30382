//! Who is refused at the door, with which code, and that it is counted. And what tenants see of each other.

use std::net::SocketAddr;

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    Node,
    client::{Client, Framing, Reply, reply},
};

async fn plain(address: SocketAddr, text: &str) -> Reply {
    let mut stream = TcpStream::connect(address).await.expect("listening");
    let text = text.replace('\n', "\r\n");
    stream.write_all(text.as_bytes()).await.expect("taken");
    reply(&mut stream, text.split(' ').next().unwrap_or_default()).await
}

#[tokio::test]
async fn requests_without_a_valid_signature_get_the_codes_of_s3_and_are_counted() {
    let node = Node::start(4096).await;
    let good = node.with_bucket().await;
    assert_eq!(good.send("PUT", "/bucket/key", b"hello").await.status, 200);
    let get = async |client: Client| client.send("GET", "/bucket/key", b"").await.verdict();
    let refused = |code: &str| (403, code.to_owned());
    assert_eq!(get(Client::new(node.address, "nobody", "secret")).await, refused("InvalidAccessKeyId"));
    assert_eq!(get(Client::new(node.address, "access", "wrong")).await, refused("SignatureDoesNotMatch"));
    let bare = "GET /bucket/key HTTP/1.1\nhost: h\nconnection: close\n\n";
    assert_eq!(plain(node.address, bare).await.verdict(), refused("AccessDenied"));
    let old = "GET /bucket/key HTTP/1.1\nhost: h\nx-amz-date: 20200101T000000Z\nx-amz-content-sha256: UNSIGNED-PAYLOAD\n\
               authorization: AWS4-HMAC-SHA256 Credential=access/20200101/us-east-1/s3/aws4_request, \
               SignedHeaders=host;x-amz-date, Signature=00\nconnection: close\n\n";
    assert_eq!(plain(node.address, old).await.verdict(), refused("RequestTimeTooSkewed"));
    let v2 = "GET /bucket/key HTTP/1.1\nhost: h\nauthorization: AWS access:signature\nconnection: close\n\n";
    assert_eq!(plain(node.address, v2).await.verdict(), (400, "InvalidRequest".to_owned()));
    let stats = node.gateway.stats();
    assert_eq!(
        (
            stats.refused_unknown_key,
            stats.refused_signature,
            stats.refused_anonymous,
            stats.refused_skewed,
            stats.refused_malformed
        ),
        (1, 1, 1, 1, 1)
    );
    // Errors of those who were let in are not refusals.
    assert_eq!(good.send("GET", "/bucket/none", b"").await.verdict(), (404, "NoSuchKey".to_owned()));
    assert_eq!(node.gateway.stats().refused_malformed, 1);
    node.stop().await;
}

#[tokio::test]
async fn what_was_signed_cannot_be_changed_on_the_way() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    let (head, body) = client.request("PUT", "/bucket/mine", &[], b"hello", &Framing::Whole);
    let other = head.replace("/bucket/mine", "/bucket/yours");
    let mut stream = TcpStream::connect(node.address).await.expect("listening");
    stream.write_all(&[other.as_bytes(), &body].concat()).await.expect("taken");
    assert_eq!(reply(&mut stream, "PUT").await.verdict(), (403, "SignatureDoesNotMatch".to_owned()));
    let more = head.replace("connection: close", "x-amz-meta-evil: 1\r\nconnection: close");
    let mut stream = TcpStream::connect(node.address).await.expect("listening");
    stream.write_all(&[more.as_bytes(), &body].concat()).await.expect("taken");
    assert_eq!(reply(&mut stream, "PUT").await.verdict(), (403, "AccessDenied".to_owned()));
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_keeps_back_its_body_is_not_misread_afterwards() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    let headers = [("expect", "100-continue"), ("x-amz-acl", "public-read")];
    let (head, _) = client.request("PUT", "/bucket/key", &headers, b"hello", &Framing::Whole);
    let (next, _) = client.request("GET", "/bucket/none", &[], b"", &Framing::Whole);
    let mut stream = TcpStream::connect(node.address).await.expect("listening");
    // The body is never sent, and the next request follows at once.
    let both = format!("{}{next}", head.replace("connection: close\r\n", ""));
    stream.write_all(both.as_bytes()).await.expect("taken");
    let refused = reply(&mut stream, "PUT").await;
    assert_eq!(refused.verdict(), (400, "AccessControlListNotSupported".to_owned()));
    assert_eq!(refused.headers["connection"], "close");
    assert!(!String::from_utf8_lossy(&refused.body).contains("HTTP/1.1"), "one answer, and the end");
    node.stop().await;
}

#[tokio::test]
async fn the_tenant_is_that_of_the_key_whatever_the_request_says() {
    let node = Node::start(4096).await;
    let mine = node.with_bucket().await;
    let other = Client::new(node.address, "other", "secret");
    assert_eq!(mine.send("PUT", "/bucket/key", b"hello").await.status, 200);
    assert_eq!(other.send("GET", "/bucket/key", b"").await.verdict(), (403, "AccessDenied".to_owned()));
    assert_eq!(other.send("PUT", "/bucket", b"").await.verdict(), (409, "BucketAlreadyExists".to_owned()));
    assert_eq!(mine.send("PUT", "/bucket", b"").await.verdict(), (409, "BucketAlreadyOwnedByYou".to_owned()));
    let list = String::from_utf8(other.send("GET", "/", b"").await.body).expect("text");
    assert!(!list.contains("<Name>bucket</Name>"), "{list}");
    let expects = |owner: &'static str| [("x-amz-expected-bucket-owner", owner)];
    let get =
        async |headers: &[(&str, &str)]| mine.with("GET", "/bucket/key", headers, b"", &Framing::Whole).await.status;
    assert_eq!(get(&expects("000000000001")).await, 200);
    assert_eq!(get(&expects("000000000002")).await, 403);
    node.stop().await;
}

#[tokio::test]
async fn names_and_keys_over_their_limits_are_refused() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    let longest = "k".repeat(1024);
    assert_eq!(client.send("PUT", &format!("/bucket/{longest}"), b"x").await.status, 200);
    let verdict = client.send("PUT", &format!("/bucket/{longest}k"), b"x").await.verdict();
    assert_eq!(verdict, (400, "KeyTooLongError".to_owned()));
    assert_eq!(client.send("PUT", "/ab", b"").await.verdict(), (400, "InvalidBucketName".to_owned()));
    assert_eq!(client.send("GET", "/none/key", b"").await.verdict(), (404, "NoSuchBucket".to_owned()));
    node.stop().await;
}
