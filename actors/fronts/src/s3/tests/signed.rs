//! What happens between a signature and an operation: whatever is not offered is refused and changes nothing, and the
//! forms that clients choose are read.

use mesh_core::{
    Error, ErrorKind,
    meta::{BucketSettings, Compression},
    op::ObjectOp,
    topology::Code,
};

use super::{
    Node,
    client::{Client, Framing, Reply},
};
use crate::s3::{
    digest::{Algorithm, Digests},
    text::base64,
};

async fn with(client: &Client, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    client.with(method, target, headers, body, &Framing::Whole).await
}

/// Everything that may change something.
fn changes(node: &Node) -> usize {
    ["Begin", "Delete", "CreateBucket", "DeleteBucket", "CreateUpload", "CompleteUpload", "AbortUpload"]
        .into_iter()
        .map(|op| node.model.count(op))
        .sum()
}

#[tokio::test]
async fn sub_resources_that_are_not_offered_change_nothing() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    assert_eq!(client.send("PUT", "/bucket/key", b"precious").await.status, 200);
    let before = changes(&node);
    for name in ["acl", "tagging", "retention", "legal-hold", "torrent", "restore", "select", "attributes", "policy"] {
        for method in ["GET", "PUT", "DELETE", "POST"] {
            let reply = client.send(method, &format!("/bucket/key?{name}"), b"").await;
            assert_eq!(reply.verdict(), (501, "NotImplemented".to_owned()), "{method} key?{name}");
        }
    }
    for name in
        ["acl", "policy", "lifecycle", "cors", "versioning", "object-lock", "logging", "uploads", "location", "abac"]
    {
        for method in ["PUT", "DELETE"] {
            let reply = client.send(method, &format!("/bucket?{name}"), b"").await;
            assert_eq!(reply.verdict(), (501, "NotImplemented".to_owned()), "{method} bucket?{name}");
        }
    }
    assert_eq!(client.send("GET", "/bucket?abac", b"").await.status, 501, "not a listing");
    assert_eq!(changes(&node), before);
    assert_eq!(client.send("GET", "/bucket/key", b"").await.body, b"precious");
    let versioning = client.send("GET", "/bucket?versioning", b"").await;
    assert_eq!((versioning.status, versioning.body.ends_with(b"</VersioningConfiguration>")), (200, true));
    assert_eq!(client.send("GET", "/none?versioning", b"").await.verdict(), (404, "NoSuchBucket".to_owned()));
    node.stop().await;
}

#[tokio::test]
async fn a_bucket_is_stored_as_whoever_makes_it_says() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    let (off, auto) = (Compression::Off, Compression::Auto);
    let (three, copies) = (Code { data: 3, parity: 1 }, Code { data: 1, parity: 2 });
    let cases: [(&str, &[(&str, &str)], _, _); 5] = [
        ("said-off", &[("x-mesh-compress", "off")], off, None),
        ("said-auto", &[("x-mesh-compress", "auto")], auto, None),
        ("coded", &[("x-mesh-code", "3+1")], off, Some(three)),
        ("copied", &[("x-mesh-code", "1+2")], off, Some(copies)),
        ("both", &[("x-mesh-code", "1+2"), ("x-mesh-compress", "auto")], auto, Some(copies)),
    ];
    for (bucket, headers, compression, code) in cases {
        let made = with(&client, "PUT", &format!("/{bucket}"), headers, b"").await;
        assert_eq!(made.status, 200, "{bucket}: {made:?}");
        assert_eq!(node.model.settings(bucket), Some(BucketSettings { compression, code }), "{bucket}");
    }
    assert_eq!(node.model.settings("bucket"), Some(BucketSettings::default()));
    for (header, asked) in
        [("x-mesh-compress", "zstd"), ("x-mesh-code", "3"), ("x-mesh-code", "0+1"), ("x-mesh-code", "")]
    {
        let made = with(&client, "PUT", "/not-made", &[(header, asked)], b"").await;
        assert_eq!(made.verdict(), (400, "InvalidArgument".to_owned()), "{header}: {asked}");
        assert_eq!(node.model.settings("not-made"), None);
    }
    node.stop().await;
}

#[tokio::test]
async fn headers_that_are_not_offered_change_nothing() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    assert_eq!(client.send("PUT", "/bucket/key", b"precious").await.status, 200);
    let before = changes(&node);
    for (method, name, value, code) in [
        ("PUT", "x-amz-storage-class", "GLACIER", "InvalidStorageClass"),
        ("PUT", "x-amz-acl", "public-read", "AccessControlListNotSupported"),
        ("PUT", "x-amz-tagging", "a=b", "NotImplemented"),
        ("PUT", "if-unmodified-since", "Wed, 21 Oct 2015 07:28:00 GMT", "NotImplemented"),
        ("PUT", "content-range", "bytes 0-1/2", "NotImplemented"),
        ("DELETE", "if-none-match", "*", "NotImplemented"),
        ("GET", "x-amz-server-side-encryption-customer-algorithm", "AES256", "NotImplemented"),
    ] {
        let reply = with(&client, method, "/bucket/key", &[(name, value)], b"").await;
        assert_eq!(reply.code(), code, "{method} {name}: {reply:?}");
    }
    let copy = [("x-amz-copy-source", "/bucket/key"), ("x-amz-copy-source-range", "bytes=0-1")];
    assert_eq!(with(&client, "PUT", "/bucket/copy", &copy, b"").await.code(), "NotImplemented");
    let owner = [("x-amz-copy-source", "/bucket/key"), ("x-amz-source-expected-bucket-owner", "000000000002")];
    assert_eq!(with(&client, "PUT", "/bucket/copy", &owner, b"").await.code(), "AccessDenied");
    assert_eq!(changes(&node), before);
    node.stop().await;
}

#[tokio::test]
async fn keys_are_deleted_together_only_if_a_digest_of_the_list_holds() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    let list = b"<Delete><Object><Key>key</Key></Object></Delete>";
    let digests = |bytes: &[u8]| {
        let mut digests = Digests::new(&[Algorithm::Crc32].into());
        digests.update(bytes);
        digests.finish()
    };
    let (md5, crc) = (base64(&digests(list).md5), digests(list).sums[&Algorithm::Crc32].clone());
    assert_eq!(client.send("PUT", "/bucket/key", b"x").await.status, 200);
    let delete = async |headers: &[(&str, &str)]| with(&client, "POST", "/bucket?delete", headers, list).await;
    assert_eq!(delete(&[]).await.verdict(), (400, "InvalidRequest".to_owned()));
    let wrong = base64(&digests(b"another list").md5);
    assert_eq!(delete(&[("content-md5", &wrong)]).await.verdict(), (400, "BadDigest".to_owned()));
    assert_eq!(delete(&[("content-md5", "c2hvcnQ=")]).await.verdict(), (400, "InvalidDigest".to_owned()));
    assert_eq!(delete(&[("x-amz-checksum-crc32", "AAAAAA==")]).await.verdict(), (400, "BadDigest".to_owned()));
    assert_eq!(node.model.count("Delete"), 0);
    assert_eq!(delete(&[("content-md5", &md5)]).await.status, 200);
    assert_eq!(delete(&[("x-amz-checksum-crc32", &crc)]).await.status, 200);
    let trailer = format!("x-amz-checksum-crc32:{crc}");
    let chunked = client.with("POST", "/bucket?delete", &[], list, &Framing::Chunked(7, &trailer)).await;
    assert_eq!(chunked.status, 200, "{chunked:?}");
    assert_eq!(node.model.count("Delete"), 3);
    let other = format!("x-amz-checksum-crc32:{}", digests(b"another list").sums[&Algorithm::Crc32]);
    let chunked = client.with("POST", "/bucket?delete", &[], list, &Framing::Chunked(7, &other)).await;
    assert_eq!(chunked.verdict(), (400, "BadDigest".to_owned()));
    assert_eq!(node.model.count("Delete"), 3);
    node.stop().await;
}

#[tokio::test]
async fn xml_is_read_in_every_form_and_refused_where_it_is_none() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    let complete = async |part: &str| {
        let begun = client.send("POST", "/bucket/key?uploads", b"").await;
        let text = String::from_utf8(begun.body).expect("text");
        let id = text.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once('<')).expect("an id").0;
        let put = client.send("PUT", &format!("/bucket/key?partNumber=1&uploadId={id}"), b"part").await;
        let etag = put.headers["etag"].trim_matches('"').to_owned();
        let body = part.replace("ETAG", &etag);
        client.send("POST", &format!("/bucket/key?uploadId={id}"), body.as_bytes()).await.verdict()
    };
    let document = |inner: &str| format!("<CompleteMultipartUpload><Part>{inner}</Part></CompleteMultipartUpload>");
    for good in [
        "<PartNumber>1</PartNumber><ETag>ETAG</ETag>",
        "<ETag><![CDATA[\"ETAG\"]]></ETag><!-- <Part> --><PartNumber>1</PartNumber>",
        "<PartNumber>1</PartNumber><ETag>&quot;ETAG&quot;</ETag>",
    ] {
        assert_eq!(complete(&document(good)).await, (200, String::new()), "{good}");
        assert_eq!(complete(&format!("\u{feff}<?xml version=\"1.0\"?>\n{}", document(good))).await.0, 200);
    }
    for bad in ["<PartNumber>one</PartNumber><ETag>ETAG</ETag>", "<PartNumber>1</PartNumber><ETag>&e;</ETag>"] {
        assert_eq!(complete(&document(bad)).await, (400, "MalformedXML".to_owned()), "{bad}");
    }
    let entities = "<!DOCTYPE d [<!ENTITY e \"ETAG\">]>".to_owned();
    assert_eq!(complete(&(entities + &document("<PartNumber>1</PartNumber><ETag>&e;</ETag>"))).await.1, "MalformedXML");
    assert_eq!(complete(&"<a>".repeat(100_000)).await, (400, "MalformedXML".to_owned()));
    assert_eq!(complete(&" ".repeat(9 << 20)).await, (400, "MaxMessageLengthExceeded".to_owned()));
    node.stop().await;
}

#[tokio::test]
async fn documents_with_more_than_any_request_has_are_refused_before_they_are_read() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    let refused = async |method: &str, target: &str, document: String, why: &str| {
        let mut digests = Digests::new(&[Algorithm::Crc32].into());
        digests.update(document.as_bytes());
        let md5 = base64(&digests.finish().md5);
        let reply = with(&client, method, target, &[("content-md5", &md5)], document.as_bytes()).await;
        assert_eq!(reply.verdict(), (400, "MalformedXML".to_owned()), "{target}");
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(text.contains(why), "{why}: {text}");
    };
    let complete = |inner: String| format!("<CompleteMultipartUpload>{inner}</CompleteMultipartUpload>");
    let (parts, keys) = ("at most 10000 Part elements", "at most 1000 Object elements");
    let target = "/bucket/key?uploadId=1";
    refused("POST", target, complete("<Part/>".repeat(1_198_358)), parts).await;
    refused("POST", target, complete(format!("<Part>{}</Part>", "<ETag/>".repeat(100_000))), "at most 80008").await;
    let long = complete(format!("<Part a=\"{}\"/>", "a".repeat(100_000)));
    refused("POST", target, long, "a tag is longer").await;
    let delete = |inner: String| format!("<Delete>{inner}</Delete>");
    refused("POST", "/bucket?delete", delete("<Object><Key>k</Key></Object>".repeat(1001)), keys).await;
    refused("POST", "/bucket?delete", delete("<Key>k</Key>".repeat(200_000)), keys).await;
    refused("POST", "/bucket?delete", delete("<Quiet/>".repeat(200_000)), "at most 8008").await;
    let configuration = format!("<CreateBucketConfiguration>{}</CreateBucketConfiguration>", "<Tag/>".repeat(101));
    refused("PUT", "/bucket2", configuration, "at most 100 elements").await;
    assert_eq!((node.model.count("Delete"), node.model.count("HeadUpload")), (0, 0));
    // As much as there may be.
    let most = delete("<Object><Key>k</Key><ETag>e</ETag></Object>".repeat(1000) + "<Quiet>true</Quiet>");
    let mut digests = Digests::new(&[Algorithm::Crc32].into());
    digests.update(most.as_bytes());
    let md5 = base64(&digests.finish().md5);
    let reply = with(&client, "POST", "/bucket?delete", &[("content-md5", &md5)], most.as_bytes()).await;
    assert_eq!((reply.status, node.model.count("Delete")), (200, 1000));
    let most = complete("<Part><PartNumber>1</PartNumber><ETag>e</ETag></Part>".repeat(10_000));
    assert_eq!(client.send("POST", target, most.as_bytes()).await.code(), "NoSuchUpload");
    node.stop().await;
}

#[tokio::test]
async fn ranges_and_conditions_without_a_meaning_are_as_if_they_were_not_there() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    let tag = client.send("PUT", "/bucket/key", b"0123456789").await.headers["etag"].clone();
    let get = async |headers: &[(&str, &str)]| {
        let reply = with(&client, "GET", "/bucket/key", headers, b"").await;
        (reply.status, String::from_utf8(reply.body).expect("text"))
    };
    let whole = (200, "0123456789".to_owned());
    for range in ["bytes=5-2", "bytes=abc", "items=0-5", "bytes=", "bytes=0-1,5-6"] {
        assert_eq!(get(&[("range", range)]).await, whole, "{range}");
    }
    assert_eq!(get(&[("if-modified-since", "yesterday")]).await, whole);
    let beyond = with(&client, "GET", "/bucket/key", &[("range", "bytes=18446744073709551615-")], b"").await;
    assert_eq!(beyond.verdict(), (416, "InvalidRange".to_owned()));
    assert_eq!(beyond.headers["content-range"], "bytes */10");
    let list = format!("\"x\", {tag}");
    assert_eq!(get(&[("if-none-match", &list)]).await.0, 304);
    assert_eq!(get(&[("if-match", &list)]).await, whole);
    assert_eq!(get(&[("range", "bytes=0-1"), ("if-range", &tag)]).await, (206, "01".to_owned()));
    assert_eq!(get(&[("range", "bytes=0-1"), ("if-range", "\"old\"")]).await, whole);
    assert_eq!(get(&[("range", "bytes=0-1"), ("if-range", "Wed, 21 Oct 2015 07:28:00 GMT")]).await, whole);
    let head = with(&client, "HEAD", "/bucket/key", &[("range", "bytes=0-1")], b"").await;
    assert_eq!((head.status, &*head.headers["content-length"]), (206, "2"));
    assert_eq!(client.send("PUT", "/bucket/key", b"").await.status, 200);
    assert_eq!(get(&[("range", "bytes=-5")]).await, (200, String::new()));
    assert_eq!(get(&[("range", "bytes=0-")]).await.0, 416);
    node.stop().await;
}

#[tokio::test]
async fn a_part_is_copied_from_a_range_that_lies_inside_its_source_or_not_at_all() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    assert_eq!(client.send("PUT", "/bucket/key", b"0123456789").await.status, 200);
    let begun = String::from_utf8(client.send("POST", "/bucket/copy?uploads", b"").await.body).expect("text");
    let id = begun.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once('<')).expect("an id").0;
    let begins = node.model.count("Begin");
    for (range, verdict) in [
        ("bytes=0-10", (416, "InvalidRange")),
        ("bytes=5-", (400, "InvalidArgument")),
        ("bytes=-5", (400, "InvalidArgument")),
        ("0-5", (400, "InvalidArgument")),
    ] {
        let headers = [("x-amz-copy-source", "/bucket/key"), ("x-amz-copy-source-range", range)];
        let reply = with(&client, "PUT", &format!("/bucket/copy?partNumber=1&uploadId={id}"), &headers, b"").await;
        assert_eq!(reply.verdict(), (verdict.0, verdict.1.to_owned()), "{range}");
    }
    assert_eq!(node.model.count("Begin"), begins);
    node.stop().await;
}

#[tokio::test]
async fn metadata_come_back_as_they_were_written() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    let given = [("x-amz-meta-tab", "a\tb"), ("x-amz-meta-word", "=?no word?="), ("x-amz-meta-empty", "")];
    assert_eq!(with(&client, "PUT", "/bucket/key", &given, b"x").await.status, 200);
    for method in ["GET", "HEAD"] {
        let reply = client.send(method, "/bucket/key", b"").await;
        for (name, value) in given {
            assert_eq!(reply.headers.get(name).map(String::as_str), Some(value), "{method} {name}");
        }
    }
    let copy = [("x-amz-copy-source", "/bucket/key"), ("x-amz-metadata-directive", "REPLACE"), ("x-amz-meta-new", "n")];
    assert_eq!(with(&client, "PUT", "/bucket/copy", &copy, b"").await.status, 200);
    let copied = client.send("HEAD", "/bucket/copy", b"").await;
    assert_eq!(
        (copied.headers.get("x-amz-meta-new").map(String::as_str), copied.headers.contains_key("x-amz-meta-tab")),
        (Some("n"), false)
    );
    node.stop().await;
}

#[tokio::test]
async fn listings_name_the_very_keys_and_keys_that_no_listing_can_name_are_refused() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    assert_eq!(client.send("PUT", "/bucket/cr%0Dx", b"").await.status, 200);
    let list = String::from_utf8(client.send("GET", "/bucket?list-type=2", b"").await.body).expect("text");
    assert!(list.contains("<Key>cr&#13;x</Key>"), "{list}");
    let verdict = client.send("PUT", "/bucket/ctl%01x", b"").await.verdict();
    assert_eq!(verdict, (400, "InvalidArgument".to_owned()));
    assert_eq!(client.send("POST", "/bucket/ctl%01x?uploads", b"").await.code(), "InvalidArgument");
    node.stop().await;
}

/// A listing that began anew would never end.
#[tokio::test]
async fn a_listing_goes_on_from_a_token_of_its_own_and_from_nothing_else() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    for key in ["key-01", "key-02", "key-03"] {
        assert_eq!(client.send("PUT", &format!("/bucket/{key}"), key.as_bytes()).await.status, 200);
    }
    let list = async |token: &str| {
        let reply = client.send("GET", &format!("/bucket?list-type=2&max-keys=1{token}"), b"").await;
        (reply.status, String::from_utf8(reply.body).expect("text"))
    };
    let (_, first) = list("").await;
    let token = first.split_once("<NextContinuationToken>").and_then(|(_, rest)| rest.split_once('<')).expect("one").0;
    let (_, second) = list(&format!("&continuation-token={token}")).await;
    assert!(second.contains("<Key>key-02</Key>") && !second.contains("<Key>key-01</Key>"), "{second}");
    let another_version = format!("b{}", &token[1..]);
    for wrong in [&token[1..], &token[..token.len() - 1], &another_version, "key-01", "a%2A%2A%2A%2A"] {
        let (status, why) = list(&format!("&continuation-token={wrong}")).await;
        assert!(status == 400 && why.contains("<Code>InvalidArgument</Code>"), "{wrong}: {status} {why}");
    }
    node.stop().await;
}

#[tokio::test]
async fn buckets_are_found_in_host_names() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    assert_eq!(client.send("PUT", "/bucket/a/key", b"x").await.status, 200);
    for host in ["bucket.localhost:9000", "bucket.s3.localhost", "Bucket.LOCALHOST"] {
        let named = client.clone().at(host);
        assert_eq!(named.send("GET", "/a/key", b"").await.body, b"x", "{host}");
        assert_eq!(named.send("DELETE", "/?acl", b"").await.status, 501, "{host}");
        let list = named.send("GET", "/?list-type=2", b"").await;
        assert!(String::from_utf8_lossy(&list.body).contains("<Key>a/key</Key>"), "{host}");
    }
    for host in ["mesh.example.com", "localhost:9000", "s3.localhost"] {
        assert_eq!(client.clone().at(host).send("GET", "/bucket/a/key", b"").await.body, b"x", "{host}");
    }
    assert_eq!(node.model.count("DeleteBucket"), 0);
    node.stop().await;
}

#[tokio::test]
async fn urls_signed_by_version_2_read_and_write_and_cover_what_they_carry() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    assert_eq!(client.send("PUT", "/bucket/key", b"hello").await.status, 200);
    let url = |method: &str, path: &str, ahead: i64| client.presigned_v2(method, path, ahead);
    let get = client.unsigned("GET", &url("GET", "/bucket/key", 60), &[], b"").await;
    assert_eq!((get.status, &*get.body), (200, &b"hello"[..]), "{get:?}");
    let list = client.unsigned("GET", &url("GET", "/bucket", 60), &[], b"").await;
    assert!(String::from_utf8_lossy(&list.body).contains("<Key>key</Key>"));
    assert_eq!(client.unsigned("PUT", &url("PUT", "/bucket/new", 60), &[], b"new").await.status, 200);
    assert_eq!(client.send("GET", "/bucket/new", b"").await.body, b"new");
    let begins = node.model.count("Begin");
    let refused = async |method: &str, target: &str, headers: &[(&str, &str)], code: &str| {
        assert_eq!(client.unsigned(method, target, headers, b"").await.code(), code, "{method} {target} {headers:?}");
    };
    refused("PUT", &url("GET", "/bucket/key", 60), &[], "SignatureDoesNotMatch").await;
    refused("GET", &url("GET", "/bucket/key", -2), &[], "AccessDenied").await;
    refused("GET", &url("GET", "/bucket/key", 700_000), &[], "AuthorizationQueryParametersError").await;
    refused("PUT", &url("PUT", "/bucket/key", 60), &[("x-amz-copy-source", "/bucket/new")], "SignatureDoesNotMatch")
        .await;
    refused("PUT", &(url("PUT", "/bucket/key", 60) + "&torrent"), &[], "SignatureDoesNotMatch").await;
    refused("DELETE", &(url("DELETE", "/bucket/key", 60) + "&retention"), &[], "NotImplemented").await;
    let streaming = [("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")];
    refused("PUT", &url("PUT", "/bucket/key", 60), &streaming, "NotImplemented").await;
    assert_eq!((node.model.count("Begin"), node.model.count("Delete")), (begins, 0));
    node.stop().await;
}

#[tokio::test]
async fn lost_data_are_an_error_of_the_server_and_a_reader_that_is_overtaken_reads_what_is_there_now() {
    let node = Node::start(4096).await;
    let client = node.with_bucket().await;
    assert_eq!(client.send("PUT", "/bucket/key", b"hello").await.status, 200);
    let fail = |kind: ErrorKind, times: usize| {
        let mut left = times;
        node.model.fail(move |op| {
            let hit = matches!(op, ObjectOp::Read { .. }) && left > 0;
            left -= usize::from(hit);
            hit.then(|| Error::new(kind, "as the test wants it"))
        });
    };
    fail(ErrorKind::Lost, 1);
    assert_eq!(client.send("GET", "/bucket/key", b"").await.verdict(), (500, "InternalError".to_owned()));
    fail(ErrorKind::Lost, 1);
    let copy = [("x-amz-copy-source", "/bucket/key")];
    assert_eq!(with(&client, "PUT", "/bucket/copy", &copy, b"").await.verdict(), (500, "InternalError".to_owned()));
    fail(ErrorKind::Conflict, 2);
    assert_eq!(client.send("GET", "/bucket/key", b"").await.body, b"hello");
    fail(ErrorKind::Conflict, 3);
    assert_eq!(client.send("GET", "/bucket/key", b"").await.verdict(), (503, "ServiceUnavailable".to_owned()));
    node.stop().await;
}
