//! What happens to a request between its signature and its operation.
//!
//! s3s is asked twice: once for the signature, and once, here, for the operation. Between the two a request is known to
//! be what its signer sent, and may be changed without anybody's signature breaking. So here it is refused if it is
//! nothing that is [`offered`](super::offered), what s3s reads too narrowly is taken out and read by ourselves (ranges,
//! conditions, metadata, XML), and the digests of XML bodies are checked before anything is done that they ask for.
//! And here it takes the memory for what is read or made whole: a document, or a page of a listing.
//!
//! ```text
//!   door ──► s3s: signature ──► Signed (this) ──► s3s: operation ──► Gateway
//! ```

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use hyper::{
    HeaderMap, Method, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING},
    http::Extensions,
};
use mesh_core::{
    id::TenantId,
    limits::{LIST_KEYS_MAX, PARTS_MAX, STRIPE_BYTES_MAX},
};
use s3s::{
    Body, HttpRequest, HttpResponse, S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    auth::Credentials,
    config::{S3Config, StaticConfigProvider},
    route::S3Route,
    s3_error,
    service::{S3Service, S3ServiceBuilder},
};

use super::{
    attributes::UserMetadata,
    auth::{Verified, unsigned},
    conditions::Reading,
    digest::{Declared, Digests},
    error::to_s3,
    gateway::Gateway,
    list::page_bytes_max,
    offered::{Document, Level, SIGNATURE, offer},
    presigned::{Presigned, host_of, without_signature},
    put::broken,
    text::from_percent,
    via::{Held, Via},
    xml::{self, Limit},
};

/// The service behind the door.
pub(super) fn service(gateway: &Gateway) -> S3Service {
    let mut config = S3Config::default();
    config.xml_max_body_size = XML_BYTES_MAX;
    let config = Arc::new(StaticConfigProvider::new(Arc::new(config)));
    let mut operations = S3ServiceBuilder::new(gateway.clone());
    operations.set_config(config.clone());
    operations.set_host(gateway.domains().clone());
    let mut signatures = S3ServiceBuilder::new(gateway.clone());
    signatures.set_config(config);
    signatures.set_host(gateway.domains().clone());
    signatures.set_auth(gateway.clone());
    signatures.set_route(Signed { gateway: gateway.clone(), operations: operations.build() });
    signatures.build()
}

/// Takes every request whose signature s3s has looked at.
struct Signed {
    gateway: Gateway,
    /// Has no keys: whoever asks is named by the request's extensions, which nobody outside can reach.
    operations: S3Service,
}

/// Who signed, in the extensions of a request on its way to its operation.
#[derive(Clone, Debug)]
pub(super) struct Signer(pub(super) Credentials);

/// A body behind which s3s may find trailers.
type Trailers = s3s::TrailingHeaders;

#[async_trait::async_trait]
impl S3Route for Signed {
    fn is_match(&self, _: &Method, _: &Uri, _: &HeaderMap, _: &mut Extensions) -> bool {
        true
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        match request.extensions.remove::<Presigned>() {
            // Version 2 covers every header of S3's own, and the host where it names the bucket.
            Some(Presigned(credentials)) if request.credentials.is_none() => request.credentials = Some(credentials),
            Some(_) => return Err(s3_error!(InvalidArgument, "Only one auth mechanism allowed")),
            None if request.credentials.is_none() => {
                return Err(s3_error!(AccessDenied, "Anonymous access is forbidden for this operation"));
            }
            None => {
                if let Some(name) = unsigned(&request.headers, request.uri.query().unwrap_or_default()) {
                    let name: String = name.chars().take(NAME_CHARS_MAX).collect();
                    return Err(s3_error!(
                        AccessDenied,
                        "There were headers present in the request which were not signed: {name}"
                    ));
                }
            }
        }
        if let Some(verified) = request.extensions.get::<Verified>() {
            verified.hold();
        }
        Ok(())
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let access = request.credentials.as_ref().map(|credentials| credentials.access_key.clone());
        let answer = self.answer(request).await;
        let refused = |answer: &S3Response<Body>| answer.status.is_some_and(|status| status.as_u16() >= 400);
        if answer.as_ref().map_or(true, refused) && Via::here().tenant().is_none() {
            // It came no further than here; its answer is charged to somebody nevertheless.
            self.tenant(access.as_deref());
        }
        answer
    }
}

impl Signed {
    async fn answer(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let S3Request {
            input: mut body, method, uri, mut headers, mut extensions, credentials, trailing_headers, ..
        } = request;
        let in_host = host_of(&headers, &uri).and_then(|host| self.gateway.domains().bucket(host)).is_some();
        let access = credentials.as_ref().map(|credentials| credentials.access_key.as_str());
        let path = from_percent(uri.path()).ok_or(S3ErrorCode::InvalidURI)?;
        let (level, query) = (Level::of(&path, in_host), uri.query().unwrap_or_default());
        let offer = offer(&method, level, query)?;
        offer.check(&headers)?;
        if let Some(document) = offer.document {
            let declared =
                headers.get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()).and_then(|len| len.parse().ok());
            let unknown = if hyper::body::Body::is_end_stream(&body) { 0 } else { XML_BYTES_MAX };
            // As it came, and as it is understood.
            let held = self.take(access, 2 * declared.unwrap_or(unknown).min(XML_BYTES_MAX)).await?;
            if let Some(held) = &held {
                // Whoever stops in the middle of it gives way to others.
                held.purse.waits_for_client();
            }
            let bytes = self.document(document, body, &headers, trailing_headers.as_ref()).await?;
            if let Some(held) = held {
                held.purse.moves();
                Via::here().hold(held);
            }
            headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            headers.remove(TRANSFER_ENCODING);
            body = Body::from(bytes);
        } else if let Some(held) = self.take(access, page_bytes_max(&method, level, query)).await? {
            Via::here().hold(held);
        }
        if offer.reads {
            extensions.insert(Reading::take(&mut headers));
        }
        extensions.insert(UserMetadata::take(&mut headers)?);
        extensions.insert(Signer(credentials.ok_or(S3ErrorCode::AccessDenied)?));
        if let Some(trailers) = trailing_headers {
            extensions.insert::<Trailers>(trailers);
        }
        headers.remove(AUTHORIZATION);
        let mut inner = HttpRequest::new(body);
        *inner.uri_mut() = without_signature(&uri, |name| SIGNATURE.contains(&name))?;
        *inner.method_mut() = method.clone();
        *inner.headers_mut() = headers;
        *inner.extensions_mut() = extensions;
        let response = self.operations.call(inner).await;
        let response = response.map_err(|error| S3Error::with_source(S3ErrorCode::InternalError, error.into()))?;
        Ok(finished(response, &method))
    }

    /// Whose an access key is: who is charged.
    fn tenant(&self, access: Option<&str>) -> Option<TenantId> {
        let tenant = self.gateway.keys().lookup(access?)?.tenant;
        Via::here().is_of(tenant);
        Some(tenant)
    }

    /// Takes credit for what is read or made whole, before it is.
    async fn take(&self, access: Option<&str>, bytes: usize) -> S3Result<Option<Held>> {
        if bytes == 0 {
            return Ok(None);
        }
        let Some(tenant) = self.tenant(access) else { return Ok(None) };
        let purse = self.gateway.credit().admit(tenant, bytes, Via::here().link.clone()).await;
        Ok(Some(Held { purse: purse.map_err(|error| to_s3(&error))?, bytes }))
    }

    /// The whole of an XML body, in the form that s3s reads, once its digests are known to hold.
    async fn document(
        &self,
        document: Document,
        body: Body,
        headers: &HeaderMap,
        trailers: Option<&Trailers>,
    ) -> S3Result<Bytes> {
        let declared = match document {
            // What else it declares is of the object that it makes.
            Document::Parts => Declared::md5_only(headers)?,
            Document::Configuration | Document::Keys => Declared::read(headers)?,
        };
        if document == Document::Keys && !declared.says_something() {
            return Err(s3_error!(
                InvalidRequest,
                "Missing required header for this request: Content-MD5 OR x-amz-checksum-*"
            ));
        }
        // A body that trickles is given up like one that stops: it is small.
        let bytes = tokio::time::timeout(self.gateway.options().body_idle_max, collected(body)).await;
        let bytes = bytes.map_err(|_| s3_error!(RequestTimeout, "the request's body did not come in time"))??;
        let mut digests = Digests::new(&declared.algorithms());
        digests.update(&bytes);
        declared.check(&digests.finish(), trailers.and_then(Trailers::take).as_ref())?;
        xml::plain(&bytes, limit_of(document))
    }
}

/// What S3 takes in one request.
const fn limit_of(document: Document) -> Limit {
    match document {
        Document::Keys => Limit { what: "Object elements", items: LIST_KEYS_MAX },
        Document::Parts => Limit { what: "Part elements", items: PARTS_MAX as usize },
        Document::Configuration => Limit { what: "elements in its configuration", items: SETTINGS_MAX },
    }
}

async fn collected(mut body: Body) -> S3Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.next().await {
        let frame = frame.map_err(|error| broken(&error))?;
        if bytes.len() + frame.len() > XML_BYTES_MAX {
            return Err(s3_error!(MaxMessageLengthExceeded, "Your request was too big: XML has {XML_BYTES_MAX} bytes"));
        }
        bytes.extend_from_slice(&frame);
    }
    Ok(bytes)
}

/// The response as S3 gives it where s3s cannot be told.
fn finished(response: HttpResponse, method: &Method) -> S3Response<Body> {
    let (parts, mut body) = response.into_parts();
    let mut status = parts.status;
    if *method == Method::HEAD && status == StatusCode::OK && parts.headers.contains_key(CONTENT_RANGE) {
        status = StatusCode::PARTIAL_CONTENT;
    }
    let is_xml = parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/xml");
    // An object that is called XML has a body that streams, of which there are no bytes yet.
    if is_xml && let Some(written) = body.bytes().and_then(|bytes| xml::with_references(&bytes)) {
        body = Body::from(written);
    }
    S3Response { output: body, status: Some(status), headers: parts.headers, extensions: parts.extensions }
}

/// A request's XML at most: 10,000 parts with their checksums, or 1,000 keys with every byte escaped.
const XML_BYTES_MAX: usize = 8 << 20;
/// A bucket's configuration has a place, and tags.
const SETTINGS_MAX: usize = 100;
/// So much of a name is told to whoever sent it.
const NAME_CHARS_MAX: usize = 64;

// A request that asks for more than this is not given more.
const _: () = assert!(2 * XML_BYTES_MAX <= 4 * STRIPE_BYTES_MAX);
