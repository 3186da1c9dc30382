//! How rows, commands, queries and answers become bytes and come back: one format byte, then the value.
//!
//! ```text
//! a value:                        format:1  item
//! a struct, a variant with named
//! fields:                         length:varint  field  field  field ...
//! all else:                       as postcard has it
//! ```
//!
//! It owns the format and the limit, and never what a value means: any type that serde knows goes through, its bare values
//! by postcard itself.
//!
//! **Values grow by fields at their end.** Every struct says how long it is, wherever it stands, so a build passes over
//! fields that it does not know, and a value of an older build that ends early has `#[serde(default)]` for what it lacks. So
//! a new field stands last in its struct and has a default; fields are never taken out, moved or given another type. That
//! costs a byte for each struct of less than 128 bytes, two for each larger one.
//!
//! What cannot be passed over is a variant that is not known here: it is refused as [`Unsupported`](ErrorKind::Unsupported),
//! for whoever sent it did nothing wrong. Nor does a build keep fields that it passed over, and each replica of a group keeps
//! what it has read: a new field inside a command, or in a row that a command writes, would be in some replicas and not in
//! others, for good. So such a field is left at its default, and every new variant inside a value is not said (one in a beat
//! makes the whole beat unread), until all nodes know it: the mesh has a level that says so ([`LEVEL`](super::LEVEL)).
//!
//! The format changes only when an older build must not read what a newer one writes:
//!
//! | format | why |
//! |---|---|
//! | 1 | the first |
//! | 2 | commands by who asks for them, each with its group |
//! | 3 | values may get fields at their end |
//!
//! A value of another format is refused, and so are a store that has such values and a node that sends them, before any of
//! them is read.

mod fault;
mod read;
mod write;

use serde::{Deserialize, Serialize};

use self::{fault::Fault, read::Reader, write::Writer};
use crate::{
    error::{Error, ErrorKind},
    limits::COMMAND_BYTES_MAX,
};

/// The metadata format that this build reads and writes.
pub const FORMAT: u8 = 3;

/// Encodes a row, command, query or answer: the format, then the value.
///
/// # Errors
/// `TooLarge` over `COMMAND_BYTES_MAX`.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(TYPICAL_BYTES);
    encode_onto(&mut bytes, value)?;
    if bytes.len() > COMMAND_BYTES_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "a metadata value is over the limit")
            .with("bytes", bytes.len())
            .with("limit", COMMAND_BYTES_MAX));
    }
    Ok(bytes)
}

/// Puts a value behind what is there, as [`encode`] does, however large: for who has a limit of its own.
///
/// # Errors
/// `Bug` for a type that cannot be encoded.
pub fn encode_onto<T: Serialize>(bytes: &mut Vec<u8>, value: &T) -> Result<(), Error> {
    write(bytes, value, &[])
}

/// Encodes as a newer build does, every struct of which has more fields, with these bytes in them: to try what this one makes
/// of it.
///
/// # Errors
/// As [`encode_onto`].
pub fn encode_as_newer<T: Serialize>(value: &T, behind: &[u8]) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    write(&mut bytes, value, behind)?;
    Ok(bytes)
}

fn write<T: Serialize>(bytes: &mut Vec<u8>, value: &T, behind: &[u8]) -> Result<(), Error> {
    bytes.push(FORMAT);
    let written = value.serialize(Writer::new(bytes, behind));
    written.map_err(|fault| Error::bug("a metadata value cannot be encoded").with("why", fault))
}

/// Decodes what [`encode`] made, or what another build's made of a value that has grown since.
///
/// # Errors
/// `Invalid` for another format, damaged bytes, or bytes left over. `Unsupported` for what only another build knows.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    match bytes.split_first() {
        Some((&FORMAT, mut rest)) => {
            let value = T::deserialize(Reader::new(&mut rest)).map_err(Fault::into_error)?;
            if rest.is_empty() { Ok(value) } else { Err(Error::invalid("bytes behind a metadata value")) }
        }
        Some((&format, _)) => {
            Err(Error::invalid("a metadata value of another format; run builds of one format on every node")
                .with("format", format)
                .with("supported", FORMAT))
        }
        None => Err(Error::invalid("an empty metadata value")),
    }
}

/// What most rows and commands fit in.
const TYPICAL_BYTES: usize = 256;

#[cfg(test)]
mod tests;
