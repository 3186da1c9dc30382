//! What every request passes on its way to s3s and back: numbering, refusal of what is no longer offered, re-framing,
//! and the counting of those who were refused.

use std::net::IpAddr;

use hyper::{
    HeaderMap, Method, Request, Version,
    body::Incoming,
    header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, EXPECT, HeaderValue},
};
use s3s::{Body, HttpError, HttpResponse, S3Error, S3ErrorCode, s3_error, service::S3Service};

use super::{
    auth::{Refusal, Verified},
    gateway::Gateway,
    presigned,
    reframe::reframed,
    signed,
};

/// The way through the gateway for HTTP requests.
#[derive(Clone)]
pub(super) struct Door {
    gateway: Gateway,
    service: S3Service,
}

impl Door {
    pub(super) fn new(gateway: Gateway) -> Self {
        let service = signed::service(&gateway);
        Self { gateway, service }
    }

    /// Serves one request.
    pub(super) async fn pass(self, peer: IpAddr, request: Request<Incoming>) -> Result<HttpResponse, HttpError> {
        let counters = self.gateway.counters().clone();
        let number = counters.request();
        let verified = Verified::default();
        let holds_back = request.version() < Version::HTTP_2 && request.headers().contains_key(EXPECT);
        let empty = hyper::body::Body::is_end_stream(request.body());
        let mut request = request;
        let refused = unsupported(&request).or_else(|| {
            let now = self.gateway.clock().wall();
            presigned::admit(&mut request, self.gateway.keys(), self.gateway.domains(), now).err()
        });
        let mut response = match refused {
            Some(error) => error.to_http_response().map_err(|error| HttpError::new(Box::new(error)))?,
            None => {
                let chunked = is_aws_chunked(request.headers());
                let mut request = request.map(Body::from);
                if chunked {
                    request = request.map(reframed);
                }
                request.extensions_mut().insert(verified.clone());
                self.service.call(request).await?
            }
        };
        let status = response.status();
        if status.is_server_error() {
            counters.failed();
        }
        if holds_back && (empty || !status.is_success()) {
            // A client that was refused may keep back its body, or may have sent it. Nobody can tell what the next
            // bytes of this connection are, so there are none. And botocore, which expects to be told to continue even
            // where there is no body, reads the answer to its next request wrongly if it is not.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if status.is_client_error() && !verified.held() {
            let code = code_in(response.body());
            counters.refuse(Refusal::of_code(&code), peer, code.as_str());
        }
        if let Ok(id) = HeaderValue::from_str(&format!("{number:016X}")) {
            response.headers_mut().insert("x-amz-request-id", id);
        }
        Ok(response)
    }
}

/// What s3s knows and we do not offer. Signature version 2 in a header rests on SHA-1 and does not cover the time of a
/// request; presigned URLs of it have an end, and are offered, for SDKs still make them. Forms of browsers have their signature in the body, which would have to be read from anybody first.
fn unsupported<B>(request: &Request<B>) -> Option<S3Error> {
    let header = request.headers().get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"AWS "));
    if header {
        return Some(s3_error!(
            InvalidRequest,
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
        ));
    }
    let form = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().get(..FORM.len()).is_some_and(|start| start.eq_ignore_ascii_case(FORM)));
    (form && request.method() == Method::POST).then(|| s3_error!(NotImplemented, "uploads by form are not offered"))
}

fn is_aws_chunked(headers: &HeaderMap) -> bool {
    headers.get("x-amz-content-sha256").is_some_and(|value| value.as_bytes().starts_with(b"STREAMING-"))
}

/// The S3 code in an error's body.
fn code_in(body: &Body) -> S3ErrorCode {
    let bytes = body.bytes().unwrap_or_default();
    let text = core::str::from_utf8(&bytes).unwrap_or_default();
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    code.and_then(|code| S3ErrorCode::from_bytes(code.as_bytes())).unwrap_or(S3ErrorCode::InvalidRequest)
}

const FORM: &[u8] = b"multipart/form-data";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_version_2_is_not_offered_in_a_header() {
        let request = |uri: &str, authorization: Option<&str>| {
            let mut request = Request::builder().uri(uri);
            if let Some(value) = authorization {
                request = request.header(AUTHORIZATION, value);
            }
            unsupported(&request.body(()).expect("a request")).is_some()
        };
        assert!(request("/b/k", Some("AWS key:signature")));
        assert!(!request("/b/k?AWSAccessKeyId=key&Signature=s&Expires=1", None));
        assert!(!request("/b/k?X-Amz-Signature=s", None));
        assert!(!request("/b/k", Some("AWS4-HMAC-SHA256 Credential=…")));
    }

    #[test]
    fn forms_are_not_offered() {
        let request = |method: &str, kind: &str| {
            let request = Request::builder().method(method).uri("/b").header(CONTENT_TYPE, kind);
            unsupported(&request.body(()).expect("a request")).is_some()
        };
        assert!(request("POST", "Multipart/Form-Data; boundary=x"));
        assert!(!request("PUT", "multipart/form-data; boundary=x"));
        assert!(!request("POST", "application/xml"));
    }

    #[test]
    fn codes_are_found_in_errors() {
        let body = Body::from("<Error><Code>SignatureDoesNotMatch</Code></Error>".to_owned());
        assert_eq!(code_in(&body), S3ErrorCode::SignatureDoesNotMatch);
        assert_eq!(code_in(&Body::empty()), S3ErrorCode::InvalidRequest);
    }
}
