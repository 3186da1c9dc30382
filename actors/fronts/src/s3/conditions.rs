//! Conditional requests: `If-Match` and its kin, for reads here, for writes as a [`Precondition`] that holds where the
//! write becomes visible.

use std::sync::Arc;

use hyper::{
    HeaderMap,
    header::{self, HeaderName},
};
use mesh_core::{
    meta::{ObjectRow, Precondition},
    time::UnixMillis,
};
use s3s::{
    S3Error, S3ErrorCode, S3Result,
    dto::{ETag, ETagCondition, Range, Timestamp, TimestampFormat},
    s3_error,
};

use super::{caller::Caller, text::timestamp};

/// The conditions of a read.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    pub(super) if_match: Option<Tags>,
    pub(super) if_none_match: Option<Tags>,
    pub(super) if_modified_since: Option<Timestamp>,
    pub(super) if_unmodified_since: Option<Timestamp>,
}

/// The ETags that a condition names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tags {
    /// `*`: any.
    Any,
    /// One of these.
    Each(Vec<ETag>),
}

/// What the headers of a GET or HEAD say about which part of an object is wanted, and when. Clients and caches send more
/// forms than s3s reads (lists of tags, `If-Range`), and what has no meaning, a range of words or a date that is none,
/// is not an error but as if it were not there.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    pub(super) conditions: Conditions,
    range: Option<Range>,
    if_range: Option<IfRange>,
}

/// The version of an object that a range is meant for.
#[derive(Clone, Debug)]
enum IfRange {
    Tag(Tags),
    Date(Timestamp),
}

impl Reading {
    /// Takes it out of the headers.
    pub(super) fn take(headers: &mut HeaderMap) -> Self {
        let mut text = |name: HeaderName| {
            let values: Vec<_> = headers.get_all(&name).iter().filter_map(|value| value.to_str().ok()).collect();
            let joined = (!values.is_empty()).then(|| values.join(","));
            headers.remove(name);
            joined
        };
        let if_range = text(header::IF_RANGE).map(|value| match date(&value) {
            Some(date) => IfRange::Date(date),
            None => IfRange::Tag(Tags::read(&value)),
        });
        Self {
            conditions: Conditions {
                if_match: text(header::IF_MATCH).map(|value| Tags::read(&value)),
                if_none_match: text(header::IF_NONE_MATCH).map(|value| Tags::read(&value)),
                if_modified_since: text(header::IF_MODIFIED_SINCE).and_then(|value| date(&value)),
                if_unmodified_since: text(header::IF_UNMODIFIED_SINCE).and_then(|value| date(&value)),
            },
            range: text(header::RANGE).and_then(|value| range(&value)),
            if_range,
        }
    }

    /// The range that is wanted of this object: none if it was meant for another version of it.
    pub(super) fn range(&self, object: &ObjectRow) -> Option<Range> {
        let meant = match &self.if_range {
            None => true,
            Some(IfRange::Tag(tags)) => tags.name(&object.etag, Comparison::Strong),
            Some(IfRange::Date(date)) => *date == whole_seconds(object.modified),
        };
        self.range.filter(|_| meant)
    }
}

/// A date of HTTP's.
fn date(text: &str) -> Option<Timestamp> {
    Timestamp::parse(TimestampFormat::HttpDate, text.trim()).ok()
}

/// One range of bytes. Several at once are answered by the whole, as S3 does; numbers beyond any object stand for its
/// end.
fn range(text: &str) -> Option<Range> {
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().unwrap_or(u64::MAX))
    };
    let (unit, spec) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    match spec.trim().split_once('-')? {
        ("", length) => number(length).map(|length| Range::Suffix { length }),
        (first, "") => number(first).map(|first| Range::Int { first, last: None }),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Range::Int { first, last: Some(last) })
        }
    }
}

/// How tags are compared: those that are weak are equal to none where bytes are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

impl Tags {
    /// Reads a list of tags, in quotes or, as some clients send them, without.
    fn read(text: &str) -> Self {
        let mut rest = text.trim();
        if rest == "*" {
            return Self::Any;
        }
        let mut tags = Vec::new();
        loop {
            rest = rest.trim_start_matches([',', ' ', '\t']);
            if rest.is_empty() {
                return Self::Each(tags);
            }
            let (weak, opaque) = rest.strip_prefix("W/").map_or((false, rest), |opaque| (true, opaque));
            let (value, behind) = match opaque.strip_prefix('"').and_then(|opaque| opaque.split_once('"')) {
                Some(quoted) => quoted,
                None => opaque.split_once(',').unwrap_or((opaque, "")),
            };
            let value = value.trim().to_owned();
            tags.push(if weak { ETag::Weak(value) } else { ETag::Strong(value) });
            rest = behind;
        }
    }

    fn name(&self, etag: &str, comparison: Comparison) -> bool {
        match self {
            Self::Any => true,
            Self::Each(tags) => tags
                .iter()
                .any(|tag| tag.value() == etag && (comparison == Comparison::Weak || matches!(tag, ETag::Strong(_)))),
        }
    }
}

impl From<ETagCondition> for Tags {
    fn from(condition: ETagCondition) -> Self {
        match condition {
            ETagCondition::Any => Self::Any,
            ETagCondition::ETag(tag) => Self::Each(vec![tag]),
        }
    }
}

/// A time of an object as HTTP knows it: its dates have whole seconds.
fn whole_seconds(at: UnixMillis) -> Timestamp {
    timestamp(UnixMillis(at.0 / 1000 * 1000))
}

/// What conditions come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Go on.
    Holds,
    /// The reader has it already.
    NotModified,
    /// It is not what the reader wants.
    Fails,
}

impl Conditions {
    /// In the order of RFC 9110, section 13.2.2.
    pub(super) fn verdict(&self, etag: &str, modified: UnixMillis) -> Verdict {
        let modified = whole_seconds(modified);
        if let Some(wanted) = &self.if_match {
            if !wanted.name(etag, Comparison::Strong) {
                return Verdict::Fails;
            }
        } else if self.if_unmodified_since.as_ref().is_some_and(|since| modified > *since) {
            return Verdict::Fails;
        }
        if let Some(known) = &self.if_none_match {
            if known.name(etag, Comparison::Weak) {
                return Verdict::NotModified;
            }
        } else if self.if_modified_since.as_ref().is_some_and(|since| modified <= *since) {
            return Verdict::NotModified;
        }
        Verdict::Holds
    }

    /// For GET and HEAD.
    ///
    /// # Errors
    /// `PreconditionFailed`; 304 with the headers that a cache wants.
    pub(super) fn check_read(&self, object: &ObjectRow) -> S3Result<()> {
        match self.verdict(&object.etag, object.modified) {
            Verdict::Holds => Ok(()),
            Verdict::NotModified => Err(not_modified(object)),
            Verdict::Fails => Err(failed()),
        }
    }

    /// For the source of a copy, where there is no 304.
    ///
    /// # Errors
    /// `PreconditionFailed`.
    pub(super) fn check_source(&self, object: &ObjectRow) -> S3Result<()> {
        match self.verdict(&object.etag, object.modified) {
            Verdict::Holds => Ok(()),
            Verdict::NotModified | Verdict::Fails => Err(failed()),
        }
    }
}

fn failed() -> S3Error {
    s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}

fn not_modified(object: &ObjectRow) -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    if let Ok(etag) = ETag::Strong(object.etag.clone()).to_http_header() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, etag);
        error.set_headers(headers);
    }
    error
}

/// The precondition of a write. `If-Match: *` becomes the ETag that the object has now: another writer in between makes
/// it fail, which is what its sender wants to know.
///
/// # Errors
/// `NotImplemented` for `If-None-Match` with anything but `*`, as S3 has it.
pub(super) async fn for_write(
    caller: &Caller,
    bucket: &Arc<str>,
    key: &Arc<str>,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<Precondition> {
    let absent = match if_none_match {
        None => false,
        Some(ETagCondition::Any) => true,
        Some(ETagCondition::ETag(_)) => {
            return Err(s3_error!(NotImplemented, "If-None-Match of a write takes nothing but *"));
        }
    };
    let etag = match if_match {
        None => None,
        Some(ETagCondition::ETag(etag)) => Some(etag.value().to_owned()),
        Some(ETagCondition::Any) => Some(caller.object(bucket, key).await?.etag.clone()),
    };
    Ok(Precondition { absent, etag })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: UnixMillis = UnixMillis(1_000_000_500);

    fn tag(etag: &str) -> Option<Tags> {
        Some(Tags::Each(vec![ETag::Strong(etag.into())]))
    }

    fn seconds(offset: i64) -> Option<Timestamp> {
        Some(timestamp(UnixMillis(1_000_000_000_u64.saturating_add_signed(offset * 1000))))
    }

    #[test]
    fn each_condition_alone() {
        let verdict = |conditions: Conditions| conditions.verdict("a", AT);
        assert_eq!(verdict(Conditions::default()), Verdict::Holds);
        assert_eq!(verdict(Conditions { if_match: tag("a"), ..Default::default() }), Verdict::Holds);
        assert_eq!(verdict(Conditions { if_match: tag("b"), ..Default::default() }), Verdict::Fails);
        assert_eq!(verdict(Conditions { if_match: Some(Tags::Any), ..Default::default() }), Verdict::Holds);
        assert_eq!(verdict(Conditions { if_none_match: tag("a"), ..Default::default() }), Verdict::NotModified);
        assert_eq!(verdict(Conditions { if_none_match: tag("b"), ..Default::default() }), Verdict::Holds);
        let any = Some(Tags::Any);
        assert_eq!(verdict(Conditions { if_none_match: any, ..Default::default() }), Verdict::NotModified);
    }

    #[test]
    fn dates_are_compared_in_whole_seconds() {
        let since = |at| Conditions { if_modified_since: at, ..Default::default() }.verdict("a", AT);
        assert_eq!(since(seconds(0)), Verdict::NotModified);
        assert_eq!(since(seconds(-1)), Verdict::Holds);
        let unless = |at| Conditions { if_unmodified_since: at, ..Default::default() }.verdict("a", AT);
        assert_eq!(unless(seconds(0)), Verdict::Holds);
        assert_eq!(unless(seconds(-1)), Verdict::Fails);
    }

    #[test]
    fn etags_win_over_dates() {
        let conditions = Conditions { if_match: tag("a"), if_unmodified_since: seconds(-9), ..Default::default() };
        assert_eq!(conditions.verdict("a", AT), Verdict::Holds);
        let conditions = Conditions { if_none_match: tag("b"), if_modified_since: seconds(9), ..Default::default() };
        assert_eq!(conditions.verdict("a", AT), Verdict::Holds);
    }

    fn read(headers: &[(&'static str, &'static str)]) -> Reading {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a value"));
        }
        let reading = Reading::take(&mut map);
        assert!(map.is_empty(), "{map:?}");
        reading
    }

    #[test]
    fn lists_of_tags_are_read_with_and_without_quotes() {
        let strong = |etag: &str| ETag::Strong(etag.into());
        assert_eq!(Tags::read(" * "), Tags::Any);
        assert_eq!(Tags::read("\"a\""), Tags::Each(vec![strong("a")]));
        assert_eq!(Tags::read("a"), Tags::Each(vec![strong("a")]));
        let list = Tags::read("\"a,b\" ,W/\"c\",  d");
        assert_eq!(list, Tags::Each(vec![strong("a,b"), ETag::Weak("c".into()), strong("d")]));
        assert_eq!(Tags::read(", ,"), Tags::Each(Vec::new()));
        let reading = read(&[("if-none-match", "\"x\""), ("if-none-match", "\"y\"")]);
        assert_eq!(reading.conditions.if_none_match, Some(Tags::Each(vec![strong("x"), strong("y")])));
    }

    #[test]
    fn weak_tags_are_good_for_caches_and_not_for_bytes() {
        let weak = Some(Tags::Each(vec![ETag::Weak("a".into())]));
        let verdict = |conditions: Conditions| conditions.verdict("a", AT);
        assert_eq!(verdict(Conditions { if_none_match: weak.clone(), ..Default::default() }), Verdict::NotModified);
        assert_eq!(verdict(Conditions { if_match: weak, ..Default::default() }), Verdict::Fails);
    }

    #[test]
    fn dates_and_ranges_that_are_none_are_as_if_they_were_not_there() {
        let reading = read(&[("if-modified-since", "yesterday"), ("if-unmodified-since", "0"), ("range", "bytes=abc")]);
        assert!(reading.conditions.if_modified_since.is_none() && reading.conditions.if_unmodified_since.is_none());
        assert_eq!(reading.range, None);
        for text in
            ["bytes=5-2", "items=0-5", "bytes=", "bytes=0-1,5-6", "bytes", "bytes=--1", "bytes=+1-2", "bytes= 1 - 2"]
        {
            assert_eq!(range(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_are_read_and_numbers_beyond_any_object_are_its_end() {
        assert_eq!(range("bytes=1-2"), Some(Range::Int { first: 1, last: Some(2) }));
        assert_eq!(range("Bytes = 7-"), Some(Range::Int { first: 7, last: None }));
        assert_eq!(range("bytes=-0"), Some(Range::Suffix { length: 0 }));
        let beyond = "99999999999999999999999";
        assert_eq!(range(&format!("bytes={beyond}-")), Some(Range::Int { first: u64::MAX, last: None }));
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_the_readers_panic(text in "[ -~\\t]{0,40}") {
            if let Tags::Each(tags) = Tags::read(&text) {
                proptest::prop_assert!(tags.len() <= text.len());
            }
            if let Some(Range::Int { first, last: Some(last) }) = range(&text) {
                proptest::prop_assert!(first <= last);
            }
        }
    }
}
