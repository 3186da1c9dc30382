//! Why a value was not read or written.

use core::fmt;

use serde::{de, ser};

use crate::error::{Error, ErrorKind};

/// Why a value was not read or written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A variant that this build does not have.
    Unknown {
        /// Of which enum.
        of: &'static str,
        /// Its number.
        variant: u32,
    },
    /// A struct ends before a field that this build cannot do without.
    Lacking(&'static str),
    /// No build writes this.
    Damaged(String),
}

impl Fault {
    pub(super) fn damaged(why: impl fmt::Display) -> Self {
        Self::Damaged(why.to_string())
    }

    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Unknown { of, variant } => Error::new(
                ErrorKind::Unsupported,
                "a newer build says something that this one does not know; upgrade this node, or ask for something else",
            )
            .with("of", of)
            .with("variant", variant),
            Self::Lacking(of) => Error::new(
                ErrorKind::Unsupported,
                "an older build leaves out something that this one cannot do without; upgrade the older node",
            )
            .with("of", of),
            Self::Damaged(why) => Error::invalid("a metadata value is damaged").with("why", why),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { of, variant } => write!(f, "variant {variant} of {of} is not known"),
            Self::Lacking(of) => write!(f, "{of} ends too early"),
            Self::Damaged(why) => f.write_str(why),
        }
    }
}

impl core::error::Error for Fault {}

impl ser::Error for Fault {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self::damaged(why)
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self::damaged(why)
    }
}

impl From<postcard::Error> for Fault {
    fn from(error: postcard::Error) -> Self {
        Self::damaged(error)
    }
}
