//! Conditional requests: `If-Match` and its kin, for reads here, for writes as a [`Precondition`] that holds where the
//! write becomes visible.

use std::sync::Arc;

use hyper::HeaderMap;
use mesh_core::{
    meta::{ObjectRow, Precondition},
    time::UnixMillis,
};
use s3s::{
    S3Error, S3ErrorCode, S3Result,
    dto::{ETag, ETagCondition, Timestamp},
    s3_error,
};

use super::{caller::Caller, text::timestamp};

/// The conditions of a read.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) if_modified_since: Option<Timestamp>,
    pub(super) if_unmodified_since: Option<Timestamp>,
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
        // HTTP dates have whole seconds.
        let modified = timestamp(UnixMillis(modified.0 / 1000 * 1000));
        if let Some(wanted) = &self.if_match {
            if !names(wanted, etag) {
                return Verdict::Fails;
            }
        } else if self.if_unmodified_since.as_ref().is_some_and(|since| modified > *since) {
            return Verdict::Fails;
        }
        if let Some(known) = &self.if_none_match {
            if names(known, etag) {
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

fn names(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(named) => named.value() == etag,
    }
}

fn failed() -> S3Error {
    s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}

fn not_modified(object: &ObjectRow) -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    if let Ok(etag) = ETag::Strong(object.etag.clone()).to_http_header() {
        let mut headers = HeaderMap::new();
        headers.insert(hyper::header::ETAG, etag);
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

    fn tag(etag: &str) -> Option<ETagCondition> {
        Some(ETagCondition::ETag(ETag::Strong(etag.into())))
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
        assert_eq!(verdict(Conditions { if_match: Some(ETagCondition::Any), ..Default::default() }), Verdict::Holds);
        assert_eq!(verdict(Conditions { if_none_match: tag("a"), ..Default::default() }), Verdict::NotModified);
        assert_eq!(verdict(Conditions { if_none_match: tag("b"), ..Default::default() }), Verdict::Holds);
        let any = Some(ETagCondition::Any);
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
}
