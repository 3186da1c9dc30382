//! Values of any length over small ones: sled keeps large values in files of their own, which are never synced.
//!
//! ```text
//! head      0x00  bytes                       a value of one piece
//!           0x01  pieces:2  bytes             the first of 1 + `pieces` pieces
//! piece     bytes                             the others, under keys of their own
//! ```

use std::io;

use super::trees::Value;

/// A piece at most.
pub(super) const CHUNK_BYTES: usize = 2048;
/// Pieces behind the head at most.
const CHUNKS_MAX: usize = u16::MAX as usize;

/// The head of a value, and its further pieces.
pub(super) fn cut(value: &[u8]) -> io::Result<(Vec<u8>, impl Iterator<Item = &[u8]>)> {
    let (first, rest) = value.split_at(value.len().min(CHUNK_BYTES));
    let pieces = rest.chunks(CHUNK_BYTES);
    let count = pieces.len();
    if count > CHUNKS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a value is too long for the metadata store"));
    }
    let mut head = Vec::with_capacity(first.len() + 3);
    if count == 0 {
        head.push(0);
    } else {
        head.push(1);
        head.extend_from_slice(&(count as u16).to_be_bytes());
    }
    head.extend_from_slice(first);
    Ok((head, pieces))
}

/// How many pieces follow a head.
pub(super) fn pieces_behind(head: &[u8]) -> io::Result<u16> {
    Ok(parse(head)?.0)
}

/// The first piece, which is in the head.
pub(super) fn first_piece(head: &[u8]) -> io::Result<&[u8]> {
    Ok(parse(head)?.1)
}

/// Joins a value; `piece` gives the pieces behind the head by number.
pub(super) fn join(head: &[u8], mut piece: impl FnMut(u16) -> io::Result<Option<Value>>) -> io::Result<Vec<u8>> {
    let (count, first) = parse(head)?;
    let mut value = first.to_vec();
    for number in 0..count {
        let Some(bytes) = piece(number)? else {
            return Err(damaged("a piece of a value is missing"));
        };
        value.extend_from_slice(&bytes);
    }
    Ok(value)
}

fn parse(head: &[u8]) -> io::Result<(u16, &[u8])> {
    match head {
        [0, first @ ..] => Ok((0, first)),
        [1, high, low, first @ ..] => Ok((u16::from_be_bytes([*high, *low]), first)),
        _ => Err(damaged("the head of a value is damaged")),
    }
}

fn damaged(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn joins_what_it_cut(len in prop_oneof![0_usize..10, CHUNK_BYTES - 1..CHUNK_BYTES + 2, 3 * CHUNK_BYTES..3 * CHUNK_BYTES + 2]) {
            let value: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let (head, pieces) = cut(&value).unwrap();
            let pieces: Vec<Vec<u8>> = pieces.map(<[u8]>::to_vec).collect();
            prop_assert!(head.len() <= CHUNK_BYTES + 3 && pieces.iter().all(|piece| piece.len() <= CHUNK_BYTES));
            prop_assert_eq!(pieces_behind(&head).unwrap() as usize, pieces.len());
            let joined = join(&head, |number| Ok(pieces.get(number as usize).map(|piece| piece.as_slice().into())));
            prop_assert_eq!(joined.unwrap(), value);
        }

        #[test]
        fn never_panics_on_a_damaged_head(head in proptest::collection::vec(any::<u8>(), 0..8)) {
            let joined = join(&head, |_| Ok(None));
            prop_assert_eq!(joined.is_ok(), head.first() == Some(&0) || head.starts_with(&[1, 0, 0]));
        }
    }
}
