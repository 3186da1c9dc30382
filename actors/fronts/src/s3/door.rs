//! What every request passes on its way to s3s and back: numbering, refusal of what is no longer offered, re-framing,
//! the limits of its body and of its answer, and the counting of those who were refused.

use std::{
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, EXPECT, HeaderValue},
};
use mesh_core::{Error, ErrorKind, Trace};
use s3s::{Body, HttpError, HttpResponse, S3Error, S3ErrorCode, StdError, s3_error, service::S3Service};

use tokio::sync::watch;
use tracing::Instrument as _;

use super::{
    auth::{Refusal, Verified},
    error::{not_ready, to_s3},
    figures::OneMore,
    gateway::Gateway,
    presigned,
    reframe::{SIGNED_CHUNK_BYTES_MAX, reframed},
    roster::{Link, Underway},
    server::HTTP1_BUFFER_BYTES,
    signed,
    steady::{Stalled, steady},
    via::{Held, Via},
};

/// The way through the gateway for HTTP requests.
#[derive(Clone)]
pub(super) struct Door {
    gateway: Gateway,
    service: S3Service,
    stage: watch::Receiver<Stage>,
}

/// How far the end of a server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It serves.
    #[default]
    Open,
    /// What comes is served, and told to go elsewhere after that.
    Leaving,
    /// What has no answer yet is answered now.
    Closing,
}

impl Door {
    pub(super) fn new(gateway: Gateway, stage: watch::Receiver<Stage>) -> Self {
        let service = signed::service(&gateway);
        Self { gateway, service, stage }
    }

    /// Serves one request that came by `link`. What is logged meanwhile names it.
    pub(super) async fn pass(
        self,
        link: Link,
        peer: IpAddr,
        request: Request<Incoming>,
    ) -> Result<Response<Answering>, HttpError> {
        let trace = self.gateway.trace(self.gateway.counters().request());
        let span = tracing::error_span!("s3", request = %trace);
        Box::pin(self.serve(trace, link, peer, request)).instrument(span).await
    }

    async fn serve(
        self,
        trace: Trace,
        link: Link,
        peer: IpAddr,
        request: Request<Incoming>,
    ) -> Result<Response<Answering>, HttpError> {
        let counters = self.gateway.counters().clone();
        let under_way = OneMore::of(counters.figures(), |house| &house.requests_under_way);
        let since = self.gateway.clock().now();
        let verified = Verified::default();
        let underway = link.begins(verified.clone());
        let multiplexed = request.version() >= Version::HTTP_2;
        let of_head_alone = request.method() == Method::HEAD;
        let holds_back = !multiplexed && request.headers().contains_key(EXPECT);
        let mut request = request;
        let refused = unsupported(&request).or_else(|| {
            let now = self.gateway.clock().wall();
            presigned::admit(&mut request, self.gateway.keys(), self.gateway.domains(), now).err()
        });
        let empty = HttpBody::is_end_stream(request.body());
        let stalled = Stalled::default();
        let via = Via::new(link, frame_bytes(request.headers()), trace);
        let mut response = match refused {
            Some(error) => {
                if !empty {
                    via.link.leaves_unread();
                }
                told(error)?
            }
            None => {
                let request = self.prepared(request, &via, &verified, &stalled);
                let mut stage = self.stage.clone();
                let call = via.clone().scope(self.service.call(request));
                tokio::select! {
                    biased;
                    response = Box::pin(call) => response?,
                    _ = stage.wait_for(|stage| *stage == Stage::Closing) => told(going_down())?,
                }
            }
        };
        if stalled.is_set() {
            response = told(s3_error!(
                RequestTimeout,
                "Your socket connection to the server was not read from or written to within the timeout period."
            ))?;
        }
        if response.status() == StatusCode::SERVICE_UNAVAILABLE
            && let Err(why) = self.gateway.keys().ready()
        {
            response = told(not_ready(&why))?;
        }
        // By HTTP/2, many answers may wait for one client.
        let free_bytes = if multiplexed { 0 } else { FREE_BYTES_MAX };
        response = self.charged(&via, response, free_bytes).await?;
        let status = response.status();
        if status == StatusCode::SERVICE_UNAVAILABLE && code_in(response.body()) == S3ErrorCode::SlowDown {
            counters.figures().house.slow_downs.count();
        }
        let took = self.gateway.clock().now().since(since);
        counters.figures().answered(via.tenant(), via.operation.operation(), status, took);
        if stalled.is_set() || (holds_back && (empty || !status.is_success())) || *self.stage.borrow() >= Stage::Leaving
        {
            // A client that was refused may keep back its body, or may have sent it. Nobody can tell what the next
            // bytes of this connection are, so there are none. And botocore, which expects to be told to continue even
            // where there is no body, reads the answer to its next request wrongly if it is not.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if status.is_client_error() && !verified.held() {
            let code = code_in(response.body());
            counters.refuse(Refusal::of_code(&code), peer, code.as_str());
        }
        if of_head_alone {
            // By HTTP/2 hyper sends what it is given, and clients take that for a breach of the protocol.
            *response.body_mut() = Body::empty();
        }
        if let Ok(id) = HeaderValue::from_str(&trace.to_string()) {
            response.headers_mut().insert("x-amz-request-id", id);
        }
        Ok(response.map(|body| Answering { body, _underway: underway, _counted: under_way }))
    }

    /// A request as s3s takes it.
    fn prepared(&self, request: Request<Incoming>, via: &Via, verified: &Verified, stalled: &Stalled) -> Request<Body> {
        let chunked = is_aws_chunked(request.headers());
        let empty = HttpBody::is_end_stream(request.body());
        let mut request = request.map(Body::from);
        if !empty {
            let idle_max = self.gateway.options().body_idle_max;
            request = request.map(|body| steady(body, idle_max, stalled.clone(), via.link.clone()));
        }
        if chunked {
            request = request.map(reframed);
        }
        request.extensions_mut().insert(verified.clone());
        request
    }

    /// An answer that is ready, charged to whom it is for until the connection has sent it, if it has more than
    /// `free_bytes`: out of what its request holds, or, if that is nothing or little, anew.
    async fn charged(
        &self,
        via: &Via,
        mut response: HttpResponse,
        free_bytes: usize,
    ) -> Result<HttpResponse, HttpError> {
        let held = via.take();
        let Some(tenant) = via.tenant() else { return Ok(response) };
        if response.body().bytes().is_none_or(|bytes| bytes.len() <= free_bytes) {
            return Ok(response);
        }
        let bytes = exact(response.body_mut().take_bytes().unwrap_or_default());
        let bytes = match held {
            None => bytes,
            Some(held) => match held.keep(bytes) {
                Ok(kept) => {
                    *response.body_mut() = Body::from(kept);
                    return Ok(response);
                }
                // Little may wait for its turn: no more than there may be claims.
                Err(bytes) if bytes.len() <= FREE_BYTES_MAX => bytes,
                Err(_) => {
                    let why = "the answer is larger than expected, and there is no room for it; \
                               ask for less at once, or send again later";
                    return told(to_s3(&Error::new(ErrorKind::Overloaded, why)));
                }
            },
        };
        let purse = match self.gateway.credit().admit(tenant, bytes.len(), via.link.clone()).await {
            Ok(purse) => purse,
            Err(error) => return told(to_s3(&error)),
        };
        let held = Held { purse, bytes: bytes.len() };
        *response.body_mut() = Body::from(held.keep(bytes).unwrap_or_else(|bytes| bytes));
        Ok(response)
    }
}

/// The body of an answer; its request is under way until it is dropped.
pub(super) struct Answering {
    body: Body,
    _underway: Underway,
    _counted: OneMore,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The same without spare room: who wrote it made its buffer twice as large whenever it was full.
fn exact(bytes: Bytes) -> Bytes {
    let mut bytes = Vec::from(bytes);
    bytes.shrink_to_fit();
    bytes.into()
}

/// An error as an answer.
fn told(error: S3Error) -> Result<HttpResponse, HttpError> {
    error.to_http_response().map_err(|error| HttpError::new(Box::new(error)))
}

fn going_down() -> S3Error {
    to_s3(&Error::new(ErrorKind::Draining, "this node is going down; send again, to another"))
}

/// What a frame of a body with this head may have.
fn frame_bytes(headers: &HeaderMap) -> usize {
    let signed =
        headers.get("x-amz-content-sha256").is_some_and(|value| value.as_bytes().starts_with(b"STREAMING-AWS4"));
    // s3s holds a chunk whole until its signature is verified.
    if signed { HTTP1_BUFFER_BYTES + SIGNED_CHUNK_BYTES_MAX as usize } else { HTTP1_BUFFER_BYTES }
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
/// The answer of a connection that has one at a time is charged if it has more than this: listings, above all.
const FREE_BYTES_MAX: usize = 16 << 10;

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
    fn answers_keep_no_spare_room() {
        let mut written = Vec::with_capacity(1 << 20);
        written.extend_from_slice(&[7; 1000]);
        let exact = Vec::from(exact(written.into()));
        assert_eq!((exact.len(), exact.capacity()), (1000, 1000));
    }

    #[test]
    fn codes_are_found_in_errors() {
        let body = Body::from("<Error><Code>SignatureDoesNotMatch</Code></Error>".to_owned());
        assert_eq!(code_in(&body), S3ErrorCode::SignatureDoesNotMatch);
        assert_eq!(code_in(&Body::empty()), S3ErrorCode::InvalidRequest);
    }
}
