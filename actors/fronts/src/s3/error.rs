//! The one table from mesh errors to S3 codes and HTTP statuses.
//!
//! What an SDK does next depends on it: it sends again after 500, 502, 503 and 504 and after `SlowDown`, and gives up on
//! anything else. So whatever another attempt may cure is a 503 here, and what it cannot is not.

use hyper::StatusCode;
use mesh_core::{Error, ErrorKind};
use s3s::{S3Error, S3ErrorCode};

/// The S3 code and HTTP status of each kind.
pub(super) const fn code_of(kind: ErrorKind) -> (&'static str, StatusCode) {
    match kind {
        ErrorKind::StaleEpoch
        | ErrorKind::Draining
        | ErrorKind::NotLeader
        | ErrorKind::WrongShard
        | ErrorKind::NoSuchActor
        | ErrorKind::Unreachable
        | ErrorKind::TooFewShards
        | ErrorKind::DriveFailed
        | ErrorKind::Fenced
        | ErrorKind::Timeout
        | ErrorKind::LinkLost
        | ErrorKind::Cancelled
        | ErrorKind::Unread
        | ErrorKind::Restarted => ("ServiceUnavailable", StatusCode::SERVICE_UNAVAILABLE),
        ErrorKind::Overloaded | ErrorKind::RateLimited => ("SlowDown", StatusCode::SERVICE_UNAVAILABLE),
        ErrorKind::Denied => ("AccessDenied", StatusCode::FORBIDDEN),
        ErrorKind::Invalid => ("InvalidRequest", StatusCode::BAD_REQUEST),
        ErrorKind::NotFound => ("NoSuchKey", StatusCode::NOT_FOUND),
        ErrorKind::Conflict => ("OperationAborted", StatusCode::CONFLICT),
        ErrorKind::TooLarge => ("EntityTooLarge", StatusCode::BAD_REQUEST),
        ErrorKind::QuotaExceeded => ("QuotaExceeded", StatusCode::FORBIDDEN),
        ErrorKind::Precondition => ("PreconditionFailed", StatusCode::PRECONDITION_FAILED),
        ErrorKind::Unsupported => ("NotImplemented", StatusCode::NOT_IMPLEMENTED),
        ErrorKind::NoSuchBucket => ("NoSuchBucket", StatusCode::NOT_FOUND),
        ErrorKind::NoSuchUpload => ("NoSuchUpload", StatusCode::NOT_FOUND),
        ErrorKind::InvalidRange => ("InvalidRange", StatusCode::RANGE_NOT_SATISFIABLE),
        ErrorKind::BadDigest => ("BadDigest", StatusCode::BAD_REQUEST),
        ErrorKind::PartTooSmall => ("EntityTooSmall", StatusCode::BAD_REQUEST),
        ErrorKind::InvalidPart => ("InvalidPart", StatusCode::BAD_REQUEST),
        ErrorKind::InvalidPartOrder => ("InvalidPartOrder", StatusCode::BAD_REQUEST),
        ErrorKind::BucketNotEmpty => ("BucketNotEmpty", StatusCode::CONFLICT),
        ErrorKind::BucketExists => ("BucketAlreadyOwnedByYou", StatusCode::CONFLICT),
        ErrorKind::BucketTaken => ("BucketAlreadyExists", StatusCode::CONFLICT),
        ErrorKind::KeyTooLong => ("KeyTooLongError", StatusCode::BAD_REQUEST),
        // Never NoSuchKey: a mirror or a cache would take the object for deleted, and delete its copy.
        ErrorKind::Corrupt | ErrorKind::Lost | ErrorKind::Bug => ("InternalError", StatusCode::INTERNAL_SERVER_ERROR),
        // 507: sending again cannot help before somebody deletes something or adds a drive.
        ErrorKind::NoSpace => ("InsufficientStorage", StatusCode::INSUFFICIENT_STORAGE),
    }
}

/// A mesh error as S3 says it. The message names the kind, so that a user's report leads to the cause.
pub(super) fn to_s3(error: &Error) -> S3Error {
    let (code, status) = code_of(error.kind());
    let message = match error.kind() {
        // What is inside is for the operator, who finds it in the log.
        ErrorKind::Corrupt | ErrorKind::Bug => {
            tracing::error!(?error, "a request failed inside the mesh");
            format!("{}: the request failed inside the mesh", error.kind())
        }
        kind => format!("{kind}: {}", error.message()),
    };
    refusal(code, status, message)
}

/// An S3 error whose code s3s may not know.
pub(super) fn refusal(code: &str, status: StatusCode, message: String) -> S3Error {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    let mut refusal = S3Error::with_message(code, message);
    refusal.set_status_code(status);
    refusal
}

/// A node that cannot know yet.
pub(super) fn not_ready(why: &Error) -> S3Error {
    let message = format!("not ready yet: {}; send again in a moment", why.message());
    refusal("ServiceUnavailable", StatusCode::SERVICE_UNAVAILABLE, message)
}

/// An answer that its question does not have.
pub(super) fn strange(question: &'static str) -> S3Error {
    to_s3(&Error::bug("Object gave an answer that its question does not have").with("question", question))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_code_that_s3_or_we_define_and_keeps_its_status() {
        for &kind in ErrorKind::ALL {
            let (code, status) = code_of(kind);
            let error = to_s3(&Error::new(kind, "why"));
            assert_eq!(error.code().as_str(), code);
            assert_eq!(error.status_code(), Some(status));
            assert!(status.is_client_error() || status.is_server_error());
            assert!(error.message().is_some_and(|message| message.contains(&format!("{kind:?}"))));
        }
    }

    #[test]
    fn codes_of_s3_have_the_status_of_s3() {
        for &kind in ErrorKind::ALL {
            let (code, status) = code_of(kind);
            if let Some(theirs) = S3ErrorCode::from_bytes(code.as_bytes()).and_then(|code| code.status_code()) {
                assert_eq!(status, theirs, "{kind}");
            }
        }
    }

    #[test]
    fn only_what_another_attempt_may_cure_is_a_503() {
        let cured: Vec<u16> = ErrorKind::ALL
            .iter()
            .filter(|kind| code_of(**kind).1 == StatusCode::SERVICE_UNAVAILABLE)
            .map(|kind| kind.number())
            .collect();
        assert_eq!(cured, [100, 101, 102, 103, 104, 105, 106, 205, 301, 303, 304, 400, 401, 402, 403, 501]);
    }

    #[test]
    fn what_is_inside_is_not_told() {
        let error = to_s3(&Error::bug("drive 7 lost its mind"));
        assert!(!error.message().unwrap_or_default().contains("drive 7"));
    }
}
