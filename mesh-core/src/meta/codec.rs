//! How rows, commands, queries and answers become bytes and come back: one version byte, then postcard.
//!
//! It owns the version and the limit, and never what a value means: any type that serde knows goes through.
//!
//! | format | why |
//! |---|---|
//! | 1 | the first |
//! | 2 | commands by who asks for them, each with its group |
//!
//! A value of format 1 is refused, and so are a store that has such values and a node that sends them, before any of them
//! is read.

use serde::{Deserialize, Serialize};

use crate::{error::Error, limits::COMMAND_BYTES_MAX};

/// The metadata format that this build reads and writes.
pub const FORMAT: u8 = 2;

/// Encodes a row, command, query or answer: a version byte, then postcard.
///
/// # Errors
/// `TooLarge` over `COMMAND_BYTES_MAX`.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let bytes = postcard::to_extend(value, vec![FORMAT])
        .map_err(|error| Error::bug("a metadata value cannot be encoded").with("why", error))?;
    if bytes.len() > COMMAND_BYTES_MAX {
        return Err(Error::new(crate::ErrorKind::TooLarge, "a metadata value is over the limit")
            .with("bytes", bytes.len())
            .with("limit", COMMAND_BYTES_MAX));
    }
    Ok(bytes)
}

/// Decodes what [`encode`] made.
///
/// # Errors
/// `Invalid` for an unknown version, damaged bytes, or bytes left over.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => {
            let (value, left) = postcard::take_from_bytes(rest)
                .map_err(|error| Error::invalid("a metadata value is damaged").with("why", error))?;
            if left.is_empty() { Ok(value) } else { Err(Error::invalid("bytes behind a metadata value")) }
        }
        Some((&format, _)) => {
            Err(Error::invalid("a metadata value of another format; run the same build on every node")
                .with("format", format)
                .with("supported", FORMAT))
        }
        None => Err(Error::invalid("an empty metadata value")),
    }
}
