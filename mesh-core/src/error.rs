//! One error for everything that crosses a port: what happened, whether it may have taken effect, where to go instead.

use core::fmt;
use std::{borrow::Cow, error::Error as StdError, sync::Arc};

use crate::{
    id::{ActorId, Epoch, GroupId, NodeId},
    wire::proto,
};

/// What an error says about the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// It did not happen and never will: safe to send again, anywhere.
    NotProcessed,
    /// It may have happened, or may still: only what is idempotent may be sent again.
    MaybeProcessed,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $certainty:ident;)*) => {
        /// What went wrong. The numbers are stable: they cross links and are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum ErrorKind { $($(#[$doc])* $name = $number,)* }

        impl ErrorKind {
            /// Every kind, for tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable number.
            #[must_use]
            pub const fn number(self) -> u16 { self as u16 }

            /// The kind of a stable number. A number of a later version is read by its class.
            #[must_use]
            pub const fn from_number(number: u16) -> Self {
                match number {
                    $($number => Self::$name,)*
                    100..=199 => Self::Unreachable,
                    200..=299 => Self::Invalid,
                    300..=399 => Self::Corrupt,
                    400..=499 => Self::LinkLost,
                    _ => Self::Bug,
                }
            }

            /// Whether the request may have taken effect.
            #[must_use]
            pub const fn certainty(self) -> Certainty {
                match self { $(Self::$name => Certainty::$certainty,)* }
            }
        }
    };
}

kinds! {
    // 1xx routing: the request did not reach the one who could do it
    /// The actor has moved or the caller's epoch is old; the redirect names the new place.
    StaleEpoch = 100, NotProcessed;
    /// The actor is being moved or shut down: try again, or elsewhere.
    Draining = 101, NotProcessed;
    /// No credit: the actor, link or worker is full. Back off.
    Overloaded = 102, NotProcessed;
    /// This replica does not lead the group; the redirect may name the leader.
    NotLeader = 103, NotProcessed;
    /// This namespace group does not own the key's range (any more).
    WrongShard = 104, NotProcessed;
    /// No such actor is hosted here.
    NoSuchActor = 105, NotProcessed;
    /// The peer cannot be reached, and the request was never sent.
    Unreachable = 106, NotProcessed;

    // 2xx request: the caller must change something
    /// The principal may not do this.
    Denied = 200, NotProcessed;
    /// The request makes no sense.
    Invalid = 201, NotProcessed;
    /// There is no such object.
    NotFound = 202, NotProcessed;
    /// Another write came first, or the thing exists with other contents.
    Conflict = 203, NotProcessed;
    /// Over a size limit.
    TooLarge = 204, NotProcessed;
    /// Over the tenant's rate: slow down.
    RateLimited = 205, NotProcessed;
    /// Over the tenant's quota.
    QuotaExceeded = 206, NotProcessed;
    /// A precondition (`If-Match`, `If-None-Match`) does not hold.
    Precondition = 207, NotProcessed;
    /// Not offered, or not known to the build that was asked.
    Unsupported = 208, NotProcessed;
    /// There is no such bucket.
    NoSuchBucket = 209, NotProcessed;
    /// There is no such multipart upload.
    NoSuchUpload = 210, NotProcessed;
    /// The range lies outside the object.
    InvalidRange = 211, NotProcessed;
    /// The data do not match the digest that was sent with them.
    BadDigest = 212, NotProcessed;
    /// A part that is not the last is too small.
    PartTooSmall = 213, NotProcessed;
    /// A part is missing or its ETag differs.
    InvalidPart = 214, NotProcessed;
    /// Parts are not in ascending order.
    InvalidPartOrder = 215, NotProcessed;
    /// The bucket still holds objects or uploads.
    BucketNotEmpty = 216, NotProcessed;
    /// The bucket exists and is the caller's tenant's.
    BucketExists = 217, NotProcessed;
    /// The bucket exists and is another tenant's.
    BucketTaken = 218, NotProcessed;
    /// The key is longer than the limit.
    KeyTooLong = 219, NotProcessed;

    // 3xx data
    /// Stored bytes fail their checksum or authentication.
    Corrupt = 300, NotProcessed;
    /// Too few drives or shards to keep the promise, or to decode.
    TooFewShards = 301, NotProcessed;
    /// The drive (or every drive) is full.
    NoSpace = 302, NotProcessed;
    /// The drive failed an I/O; nothing is known of what it did.
    DriveFailed = 303, MaybeProcessed;
    /// A newer owner has fenced this one.
    Fenced = 304, NotProcessed;
    /// Every drive that could help has answered, and too few shards are left: no waiting brings the data back.
    Lost = 305, NotProcessed;

    // 4xx world
    /// The budget ran out before an answer came.
    Timeout = 400, MaybeProcessed;
    /// The link broke while the request was on it.
    LinkLost = 401, MaybeProcessed;
    /// The caller gave up.
    Cancelled = 402, MaybeProcessed;
    /// It was answered, and this build does not know what the answer says.
    Unread = 403, MaybeProcessed;

    // 5xx bug
    /// A broken invariant. A person must look.
    Bug = 500, MaybeProcessed;
    /// The function panicked with the request in flight and was restarted.
    Restarted = 501, MaybeProcessed;
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} ({})", self.number())
    }
}

/// Where to go instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// The actor that moved.
    pub actor: Option<ActorId>,
    /// Its present epoch.
    pub epoch: Option<Epoch>,
    /// The node that has it, or that leads the group.
    pub node: Option<NodeId>,
    /// The group that owns the key.
    pub group: Option<GroupId>,
}

/// What failed, why, and what the caller may do next. Small: one pointer.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    context: Vec<(&'static str, String)>,
    redirect: Option<Redirect>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; the message says what the caller can do about it.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), context: Vec::new(), redirect: None, source: None }))
    }

    /// [`ErrorKind::Invalid`].
    #[must_use]
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// [`ErrorKind::Bug`].
    #[must_use]
    pub fn bug(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Bug, message)
    }

    /// Adds a named value, such as the drive or the key.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string()));
        self
    }

    /// Adds where to go instead.
    #[must_use]
    pub fn redirect_to(mut self, redirect: Redirect) -> Self {
        self.0.redirect = Some(redirect);
        self
    }

    /// Adds the cause. It does not cross links; its text does, in the message.
    #[must_use]
    pub fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the request may have taken effect.
    #[must_use]
    pub fn certainty(&self) -> Certainty {
        self.0.kind.certainty()
    }

    /// For a person.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Where to go instead, if known.
    #[must_use]
    pub fn redirect(&self) -> Option<Redirect> {
        self.0.redirect
    }

    /// For the wire: the text has context and causes in it.
    #[must_use]
    pub fn to_proto(&self) -> proto::Failure {
        let redirect = self.0.redirect.unwrap_or_default();
        proto::Failure {
            kind: u32::from(self.0.kind.number()),
            message: self.to_string().chars().take(1024).collect(),
            actor: redirect.actor.map(|id| id.0),
            epoch: redirect.epoch.map(|id| id.0),
            node: redirect.node.map(|id| id.0),
            group: redirect.group.map(|id| id.0),
        }
    }

    /// From the wire.
    #[must_use]
    pub fn from_proto(failure: proto::Failure) -> Self {
        let kind = u16::try_from(failure.kind).map_or(ErrorKind::Bug, ErrorKind::from_number);
        let redirect = Redirect {
            actor: failure.actor.map(ActorId),
            epoch: failure.epoch.map(Epoch),
            node: failure.node.map(NodeId),
            group: failure.group.map(GroupId),
        };
        let error = Self::new(kind, failure.message);
        if redirect == Redirect::default() { error } else { error.redirect_to(redirect) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for (at, (name, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{name}={value}", if at == 0 { " [" } else { " " })?;
        }
        if !self.0.context.is_empty() {
            f.write_str("]")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        self.0.kind == other.0.kind && self.0.message == other.0.message && self.0.redirect == other.0.redirect
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_unique() {
        let mut numbers: Vec<u16> = ErrorKind::ALL.iter().map(|kind| kind.number()).collect();
        assert!(ErrorKind::ALL.iter().all(|kind| ErrorKind::from_number(kind.number()) == *kind));
        numbers.dedup();
        assert_eq!(numbers.len(), ErrorKind::ALL.len());
        assert_eq!(ErrorKind::from_number(199).certainty(), Certainty::NotProcessed);
        assert_eq!(ErrorKind::from_number(499).certainty(), Certainty::MaybeProcessed);
    }

    /// Whoever is told that nothing was processed sends again, and what was processed after all is done twice.
    #[test]
    fn what_may_have_been_processed_is_never_said_to_be_certain() {
        use ErrorKind::{Bug, Cancelled, DriveFailed, LinkLost, Restarted, Timeout, Unread};
        let uncertain = ErrorKind::ALL.iter().copied().filter(|kind| kind.certainty() != Certainty::NotProcessed);
        assert_eq!(
            uncertain.collect::<Vec<_>>(),
            [DriveFailed, Timeout, LinkLost, Cancelled, Unread, Bug, Restarted],
            "of all others nothing was done"
        );
    }

    #[test]
    fn survives_the_wire_with_its_redirect() {
        let error = Error::new(ErrorKind::StaleEpoch, "moved").with("actor", 7).redirect_to(Redirect {
            node: Some(NodeId(3)),
            epoch: Some(Epoch(9)),
            ..Redirect::default()
        });
        let back = Error::from_proto(error.to_proto());
        assert_eq!(back.kind(), ErrorKind::StaleEpoch);
        assert_eq!(back.redirect(), error.redirect());
        assert_eq!(back.message(), "moved [actor=7]");
    }
}
