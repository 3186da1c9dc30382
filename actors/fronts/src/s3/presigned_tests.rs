use std::sync::Arc;

use mesh_core::id::TenantId;
use proptest::prelude::*;
use s3s::S3ErrorCode;

use super::{super::AccessKey, *};

struct OneKey;

impl AccessKeys for OneKey {
    fn lookup(&self, access: &str) -> Option<AccessKey> {
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned();
        (access == "AKIAIOSFODNN7EXAMPLE").then(|| AccessKey { secret, tenant: TenantId(1), principal: Arc::from("p") })
    }
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(uri).header("host", "h:1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request")
}

fn admitted(request: &mut Request<()>, now_s: u64) -> Result<Option<String>, S3ErrorCode> {
    admit(request, &OneKey, &Domains::new(None), UnixMillis(now_s * 1000)).map_err(|error| error.code().clone())?;
    Ok(request.extensions().get::<Presigned>().map(|presigned| presigned.0.access_key.clone()))
}

fn too_long() -> S3ErrorCode {
    S3ErrorCode::from_bytes(b"AuthorizationQueryParametersError").expect("a code")
}

/// The example of Amazon's page on query string authentication.
const EXAMPLE: &str = "/photos/puppy.jpg?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D&Expires=1175139620";

#[test]
fn the_example_of_the_documentation_holds_until_it_expires() {
    let mut request =
        Request::builder().uri(EXAMPLE).header("host", "johnsmith.localhost").body(()).expect("a request");
    let uri = request.uri().clone();
    assert_eq!(admitted(&mut request, 1_175_139_620), Ok(Some("AKIAIOSFODNN7EXAMPLE".into())));
    assert_eq!(request.uri(), "/photos/puppy.jpg");
    *request.uri_mut() = uri;
    assert_eq!(admitted(&mut request, 1_175_139_621), Err(S3ErrorCode::AccessDenied));
}

#[test]
fn what_was_signed_cannot_be_changed() {
    let path = |changed: &str| request("GET", &EXAMPLE.replace("/photos", changed), &[]);
    let now = 1_175_139_000;
    assert_eq!(admitted(&mut path("/johnsmith/photos"), now), Ok(Some("AKIAIOSFODNN7EXAMPLE".into())));
    assert_eq!(admitted(&mut path("/johnsmiths/photos"), now), Err(S3ErrorCode::SignatureDoesNotMatch));
    let uri = EXAMPLE.replace("/photos", "/johnsmith/photos");
    for (method, uri, header) in [
        ("PUT", uri.clone(), ("accept", "*/*")),
        ("GET", uri.replace("1175139620", "1175139621"), ("accept", "*/*")),
        ("GET", uri.replace("NpgC", "NpgD"), ("accept", "*/*")),
        ("GET", uri.replace("NpgC", ""), ("accept", "*/*")),
        ("GET", format!("{uri}&versionId=null"), ("accept", "*/*")),
        ("GET", uri.clone(), ("x-amz-copy-source", "/b/k")),
        ("GET", uri.clone(), ("content-type", "text/html")),
        ("GET", uri.clone(), ("content-md5", "AAAA")),
    ] {
        let outcome = admitted(&mut request(method, &uri, &[header]), now);
        assert_eq!(outcome, Err(S3ErrorCode::SignatureDoesNotMatch), "{method} {uri} {header:?}");
    }
}

#[test]
fn a_bucket_is_signed_as_a_folder_and_asked_for_without_the_slash() {
    let signed = |path: &str| {
        let text = to_sign(&Method::GET, None, path, None, &HeaderMap::new(), "9").expect("text");
        let signature = base64(&hmac_sha1(b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", text.as_bytes()));
        signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
    };
    let ask = |path: &str, signature: &str| {
        let uri = format!("{path}?list-type=2&AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Signature={signature}&Expires=9");
        admitted(&mut request("GET", &uri, &[]), 8)
    };
    assert!(ask("/bucket", &signed("/bucket/")).is_ok(), "as botocore does");
    assert!(ask("/bucket", &signed("/bucket")).is_ok());
    assert!(ask("/bucket/", &signed("/bucket/")).is_ok());
    // What has a slash is another resource.
    for (path, resource) in [("/bucket/", "/bucket"), ("/bucket/key", "/bucket/key/"), ("/bucket/key/", "/bucket/key")]
    {
        assert_eq!(ask(path, &signed(resource)), Err(S3ErrorCode::SignatureDoesNotMatch), "{path}");
    }
}

#[test]
fn promises_about_the_payload_are_refused_with_version_2() {
    let uri = EXAMPLE.replace("/photos", "/johnsmith/photos");
    let mut streaming = request("PUT", &uri, &[("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")]);
    assert_eq!(admitted(&mut streaming, 1_175_139_000), Err(S3ErrorCode::NotImplemented));
}

#[test]
fn a_week_is_the_longest_in_either_version() {
    let v4 = |expires: &str| {
        let uri = format!("/b/k?X-Amz-Expires={expires}&X-Amz-Signature=s");
        admitted(&mut request("GET", &uri, &[]), 0)
    };
    assert_eq!(v4("604800"), Ok(None));
    for bad in ["604801", "99999999999999999999", "", "-1", "1.5", "%31"] {
        assert_eq!(v4(bad), Err(too_long()), "{bad}");
    }
    let v2 = |now_s| admitted(&mut request("GET", EXAMPLE, &[]), now_s);
    assert_eq!(v2(1_175_139_620 - WEEK_S - SKEW_S), Err(S3ErrorCode::SignatureDoesNotMatch));
    assert_eq!(v2(1_175_139_620 - WEEK_S - SKEW_S - 1), Err(too_long()));
}

#[test]
fn half_a_signature_and_one_that_is_given_twice_are_malformed() {
    for query in [
        "AWSAccessKeyId=a",
        "Signature=s&Expires=1",
        "AWSAccessKeyId=a&Signature=s&Expires=x",
        "AWSAccessKeyId=a&AWSAccessKeyId=b&Signature=s&Expires=1",
        "AWSAccessKeyId=%ff&Signature=s&Expires=1",
    ] {
        assert_eq!(admitted(&mut request("GET", &format!("/b/k?{query}"), &[]), 0), Err(too_long()), "{query}");
    }
    assert_eq!(admitted(&mut request("GET", "/b/k?prefix=a", &[]), 0), Ok(None));
    let nobody = "/b/k?AWSAccessKeyId=nobody&Signature=s&Expires=1";
    assert_eq!(admitted(&mut request("GET", nobody, &[]), 0), Err(S3ErrorCode::InvalidAccessKeyId));
}

#[test]
fn sub_resources_are_signed_decoded_and_in_order() {
    let uri: Uri = "/b/k?versionId=null&x=1&response-content-type=text%2Fx+y&uploads".parse().expect("a URI");
    let mut headers = HeaderMap::new();
    headers.append("x-amz-meta-b", " two ".parse().expect("a value"));
    headers.append("x-amz-meta-b", "three".parse().expect("a value"));
    headers.append("x-amz-acl", "private".parse().expect("a value"));
    headers.append("content-type", "a/b".parse().expect("a value"));
    let text = to_sign(&Method::PUT, None, uri.path(), uri.query(), &headers, "7").expect("text");
    let resources = "/b/k?response-content-type=text/x y&uploads&versionId=null";
    assert_eq!(text, format!("PUT\n\na/b\n7\nx-amz-acl:private\nx-amz-meta-b:two,three\n{resources}"));
}

#[test]
fn hmac_is_that_of_rfc_2202() {
    let hex = super::super::text::hex;
    assert_eq!(hex(&hmac_sha1(&[0x0b; 20], b"Hi There")), "b617318655057264e28bc0b6fb378c8ef146be00");
    let long = b"Test Using Larger Than Block-Size Key - Hash Key First";
    assert_eq!(hex(&hmac_sha1(&[0xaa; 80], long)), "aa4ae5e15272d00e95705637ce8a3b55ed402112");
}

proptest! {
    #[test]
    fn no_query_makes_the_reader_panic_or_lets_anybody_in(
        query in "((AWSAccessKeyId|Signature|Expires|X-Amz-Expires|acl)=[A-Za-z0-9%+]{0,24}&?){0,5}",
    ) {
        let uri = format!("/b/k?{query}");
        prop_assert!(matches!(admitted(&mut request("GET", &uri, &[]), 1), Ok(None) | Err(_)));
    }

    #[test]
    fn texts_are_the_same_if_they_are(one in proptest::collection::vec(any::<u8>(), 0..9), other in proptest::collection::vec(any::<u8>(), 0..9)) {
        prop_assert_eq!(same(&one, &other), one == other);
        prop_assert!(same(&one, &one.clone()));
    }
}
