//! Who may speak at all: access keys for s3s, the refusal of everybody without one, and what is counted and logged of
//! both.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HOST, HeaderName},
};
use mesh_core::{
    figures::{Labels, Split},
    id::TenantId,
};
use s3s::{
    S3Error, S3ErrorCode, S3Result,
    auth::{S3Auth, SecretKey},
    s3_error,
};

use super::{
    error::not_ready,
    figures::{Figures, OfTenant},
    gateway::Gateway,
    ingress::AccessKeys,
};

#[async_trait::async_trait]
impl S3Auth for Gateway {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let key = self.keys().lookup(access_key).map(|key| SecretKey::from(key.secret));
        key.ok_or_else(|| unknown_key(self.keys()))
    }
}

/// What is said to whoever has an access key that is not known here.
pub(super) fn unknown_key(keys: &dyn AccessKeys) -> S3Error {
    match keys.ready() {
        Ok(()) => s3_error!(InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist in our records."),
        // It may be one that this node has not heard of yet.
        Err(why) => not_ready(&why),
    }
}

/// Set once the signature of a request held. Travels in its extensions.
#[derive(Clone, Debug, Default)]
pub(super) struct Verified(Arc<AtomicBool>);

impl Verified {
    /// It held.
    pub(super) fn hold(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether it held.
    pub(super) fn held(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// A header that means something to S3 and that the signature does not cover: anybody on the way could have added it.
/// s3s verifies what the signature names, and leaves to us whether it names enough. The hash of the payload is an
/// exception, for it is compared with the payload.
pub(super) fn unsigned<'a>(headers: &'a HeaderMap, query: &str) -> Option<&'a str> {
    let signed = match headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) {
        Some(value) => {
            value.split_once("SignedHeaders=").map(|(_, rest)| rest.split([',', ' ']).next().unwrap_or_default())
        }
        None => query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-SignedHeaders=")),
    };
    let signed = signed.unwrap_or_default().replace("%3B", ";").replace("%3b", ";");
    let covers = |name: &str| signed.split(';').any(|signed| signed.eq_ignore_ascii_case(name));
    if headers.contains_key(HOST) && !covers("host") {
        return Some("host");
    }
    headers
        .keys()
        .map(HeaderName::as_str)
        .find(|name| name.starts_with("x-amz-") && *name != "x-amz-content-sha256" && !covers(name))
}

/// Why somebody was refused at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    UnknownKey,
    BadSignature,
    Skewed,
    Anonymous,
    Malformed,
}

impl Refusal {
    /// By the S3 code of the response.
    pub(super) fn of_code(code: &S3ErrorCode) -> Self {
        match code {
            S3ErrorCode::InvalidAccessKeyId => Self::UnknownKey,
            S3ErrorCode::SignatureDoesNotMatch => Self::BadSignature,
            S3ErrorCode::RequestTimeTooSkewed => Self::Skewed,
            S3ErrorCode::AccessDenied => Self::Anonymous,
            _ => Self::Malformed,
        }
    }

    const WORDS: [&str; 5] = ["unknown_key", "signature", "skewed", "anonymous", "malformed"];

    const fn what(self) -> &'static str {
        match self {
            Self::UnknownKey => "an access key that does not exist",
            Self::BadSignature => "a signature that does not hold",
            Self::Skewed => "a request whose time is too far from ours",
            Self::Anonymous => "no signature, or an expired one",
            Self::Malformed => "a request that is malformed before its signature was looked at",
        }
    }
}

impl Split for Refusal {
    const COUNT: usize = Self::WORDS.len();

    fn place(self) -> usize {
        self as usize
    }

    fn label(place: usize, labels: Labels) -> Labels {
        labels.word("reason", Self::WORDS.get(place).copied().unwrap_or_default())
    }
}

/// What a gateway has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests, refused ones included.
    pub requests: u64,
    /// Responses with a 5xx status.
    pub failed: u64,
    /// Responses that broke off in the middle of a body, by our fault or because the client left or stopped reading.
    pub broken: u64,
    /// Payload bytes that came.
    pub received_bytes: u64,
    /// Payload bytes that went.
    pub sent_bytes: u64,
    /// Refused: an access key that does not exist.
    pub refused_unknown_key: u64,
    /// Refused: a signature that does not hold.
    pub refused_signature: u64,
    /// Refused: a time that is too far from ours.
    pub refused_skewed: u64,
    /// Refused: no signature, or one that has expired.
    pub refused_anonymous: u64,
    /// Refused before a signature was looked at: malformed, or not offered.
    pub refused_malformed: u64,
}

/// The counters behind [`Stats`], and who was lately logged as refused.
#[derive(Default)]
pub(super) struct Counters {
    /// Requests so far, refused ones included: each has a number.
    numbers: AtomicU64,
    figures: Arc<Figures>,
    logged: Mutex<BTreeMap<(Refusal, IpAddr), Instant>>,
}

impl Counters {
    pub(super) fn stats(&self) -> Stats {
        let Figures { tenants, house } = &*self.figures;
        let refused = |refusal: Refusal| house.refused.of(refusal).value();
        let sum = |of: fn(&OfTenant) -> u64| tenants.iter().map(of).sum();
        Stats {
            requests: self.numbers.load(Relaxed),
            failed: sum(OfTenant::failed),
            broken: house.broken.value(),
            received_bytes: sum(|of| of.received_bytes.value()),
            sent_bytes: sum(|of| of.sent_bytes.value()),
            refused_unknown_key: refused(Refusal::UnknownKey),
            refused_signature: refused(Refusal::BadSignature),
            refused_skewed: refused(Refusal::Skewed),
            refused_anonymous: refused(Refusal::Anonymous),
            refused_malformed: refused(Refusal::Malformed),
        }
    }

    /// One more request; gives its number.
    pub(super) fn request(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed)
    }

    pub(super) fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    pub(super) fn broken(&self) {
        self.figures.house.broken.count();
    }

    pub(super) fn received(&self, tenant: TenantId, bytes: usize) {
        self.figures.tenants.of(Some(tenant)).received_bytes.add(bytes as u64);
    }

    pub(super) fn sent(&self, tenant: TenantId, bytes: usize) {
        self.figures.tenants.of(Some(tenant)).sent_bytes.add(bytes as u64);
    }

    /// Counts a refusal, and logs it unless one of the same kind and peer was logged lately.
    pub(super) fn refuse(&self, refusal: Refusal, peer: IpAddr, code: &str) {
        let count = self.figures.house.refused.of(refusal).number() + 1;
        if self.first_lately(refusal, peer, Instant::now()) {
            tracing::warn!(%peer, code, count, "refused an S3 request: {}", refusal.what());
        }
    }

    /// Whether this is the first refusal of its kind from this peer inside the window. Who does not fit into the
    /// bounded memory any more is counted and not logged: a flood of addresses must not become a flood of lines.
    fn first_lately(&self, refusal: Refusal, peer: IpAddr, now: Instant) -> bool {
        let Ok(mut logged) = self.logged.lock() else { return false };
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < LOG_WINDOW;
        if logged.get(&(refusal, peer)).is_some_and(fresh) {
            return false;
        }
        if logged.len() >= LOGGED_MAX {
            logged.retain(|_, at| fresh(at));
        }
        logged.len() < LOGGED_MAX && logged.insert((refusal, peer), now).is_none_or(|at| !fresh(&at))
    }
}

/// A peer that goes on being refused is logged once in so long.
const LOG_WINDOW: Duration = Duration::from_secs(60);
/// Peers and kinds that are remembered as logged at most.
const LOGGED_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_the_signature_does_not_name_are_found() {
        let find = |authorization: Option<&str>, query: &str, more: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, "h".parse().expect("a value"));
            headers.insert(more, "v".parse().expect("a value"));
            if let Some(value) = authorization {
                headers.insert(AUTHORIZATION, value.parse().expect("a value"));
            }
            unsigned(&headers, query).map(str::to_owned)
        };
        let v4 = "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;x-amz-date, Signature=00";
        assert_eq!(find(Some(v4), "", "x-amz-date"), None);
        assert_eq!(find(Some(&v4.replace(' ', "").replace("256C", "256 C")), "", "x-amz-date"), None);
        assert_eq!(find(Some(v4), "", "content-type"), None);
        assert_eq!(find(Some(v4), "", "x-amz-content-sha256"), None);
        assert_eq!(find(Some(v4), "", "x-amz-meta-evil"), Some("x-amz-meta-evil".into()));
        assert_eq!(find(Some(&v4.replace("host;", "")), "", "range"), Some("host".into()));
        let query = "a=b&X-Amz-SignedHeaders=host%3Bx-amz-acl&X-Amz-Signature=00";
        assert_eq!(find(None, query, "x-amz-acl"), None);
        assert_eq!(find(None, query, "x-amz-meta-evil"), Some("x-amz-meta-evil".into()));
        assert_eq!(find(None, "", "range"), Some("host".into()));
    }

    #[test]
    fn a_peer_is_logged_once_a_window_and_kind() {
        let counters = Counters::default();
        let (now, peer) = (Instant::now(), IpAddr::from([10, 0, 0, 1]));
        assert!(counters.first_lately(Refusal::BadSignature, peer, now));
        assert!(!counters.first_lately(Refusal::BadSignature, peer, now + LOG_WINDOW / 2));
        assert!(counters.first_lately(Refusal::UnknownKey, peer, now));
        assert!(counters.first_lately(Refusal::BadSignature, IpAddr::from([10, 0, 0, 2]), now));
        assert!(counters.first_lately(Refusal::BadSignature, peer, now + LOG_WINDOW));
    }

    #[test]
    fn a_flood_of_addresses_is_bounded_and_forgotten_after_the_window() {
        let counters = Counters::default();
        let now = Instant::now();
        let peer = |number: u32| IpAddr::from(number.to_be_bytes());
        let logged = (0..2 * LOGGED_MAX as u32).filter(|&n| counters.first_lately(Refusal::Anonymous, peer(n), now));
        assert_eq!(logged.count(), LOGGED_MAX);
        assert_eq!(counters.logged.lock().expect("not poisoned").len(), LOGGED_MAX);
        assert!(counters.first_lately(Refusal::Anonymous, peer(u32::MAX), now + LOG_WINDOW));
        assert_eq!(counters.logged.lock().expect("not poisoned").len(), 1);
    }

    #[test]
    fn refusals_are_counted_by_kind() {
        let counters = Counters::default();
        for code in [S3ErrorCode::AccessDenied, S3ErrorCode::SignatureDoesNotMatch, S3ErrorCode::AccessDenied] {
            counters.refuse(Refusal::of_code(&code), IpAddr::from([127, 0, 0, 1]), code.as_str());
        }
        let stats = counters.stats();
        assert_eq!((stats.refused_anonymous, stats.refused_signature, stats.refused_unknown_key), (2, 1, 0));
    }
}
