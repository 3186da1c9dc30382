//! The chain of the audit log: makes its lines, and follows them. See [`mesh_core::audit`] for what is in them.

use mesh_core::{
    Error, ErrorKind,
    audit::{Entry, hex},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// SHA-256 of a line, without its line feed.
#[must_use]
pub fn digest(line: &str) -> [u8; 32] {
    Sha256::digest(line.as_bytes()).into()
}

/// The line of an entry.
///
/// # Errors
/// `Bug`: it cannot be written as JSON.
pub fn line(entry: &Entry) -> Result<String, Error> {
    serde_json::to_string(entry).map_err(|error| Error::bug("an entry cannot be written").caused_by(error))
}

/// The entry of a line.
///
/// # Errors
/// `Unsupported`: this build does not know what it says, though its place in the chain may be right.
pub fn entry(line: &str) -> Result<Entry, Error> {
    serde_json::from_str(line).map_err(|error| {
        Error::new(ErrorKind::Unsupported, "an entry says what this build does not know").caused_by(error)
    })
}

/// How far a chain was followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The number of the entry that comes next.
    pub next: u64,
    /// SHA-256 of the line before it; zeros: there is none.
    pub head: [u8; 32],
}

/// What a line says of its place, whatever else it says.
#[derive(Deserialize)]
struct Link {
    number: u64,
    before: String,
}

impl Chain {
    /// The chain from its first entry on.
    pub const WHOLE: Self = Self { next: 1, head: [0; 32] };

    /// The chain from this line on, whatever came before it.
    ///
    /// # Errors
    /// `Corrupt` if it is no line of an audit log.
    pub fn from(line: &str) -> Result<Self, Error> {
        let Link { number, before } = read(line)?;
        let head = unhex(&before).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "an entry does not say what was before it").with("number", number)
        })?;
        Ok(Self { next: number, head })
    }

    /// Goes on by a line.
    ///
    /// # Errors
    /// `Corrupt` if it is not what comes next: something was changed, taken out, put in or put elsewhere.
    pub fn follow(&mut self, line: &str) -> Result<(), Error> {
        let Link { number, before } = read(line).map_err(|error| error.with("expected", self.next))?;
        let broken = |what| Error::new(ErrorKind::Corrupt, what).with("number", number).with("expected", self.next);
        if number != self.next {
            let what =
                "an entry has another number than the one that comes next: some are gone, or are in another order";
            return Err(broken(what));
        }
        if before != hex(&self.head) {
            let what = "an entry does not follow the one before it: that one was changed, or this one";
            return Err(broken(what).with("says", before).with("is", hex(&self.head)));
        }
        *self = Self { next: number + 1, head: digest(line) };
        Ok(())
    }
}

fn read(line: &str) -> Result<Link, Error> {
    serde_json::from_str(line)
        .map_err(|error| Error::new(ErrorKind::Corrupt, "this is no entry of an audit log").caused_by(error))
}

/// 32 bytes of 64 digits.
#[must_use]
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use mesh_core::{
        audit::{By, What},
        id::{DriveId, NodeId},
        time::UnixMillis,
    };

    use super::*;

    /// Three lines, as they follow one another.
    fn lines() -> [String; 3] {
        let mut chain = Chain::WHOLE;
        [1, 2, 3].map(|number| {
            let what = What::DriveLost { drive: DriveId(number) };
            let by = By::Administrator { name: "ops".into(), via: NodeId(1) };
            let entry = Entry { number, before: hex(&chain.head), at: Some(UnixMillis(number)), by, what };
            let line = line(&entry).expect("it is written");
            chain.follow(&line).expect("it comes next");
            line
        })
    }

    fn followed(lines: &[&str]) -> Result<Chain, ErrorKind> {
        let mut chain = Chain::WHOLE;
        for line in lines {
            chain.follow(line).map_err(|error| error.kind())?;
        }
        Ok(chain)
    }

    #[test]
    fn a_line_is_what_everybody_makes_of_an_entry() {
        let by = By::Node { node: NodeId(2) };
        let entry = Entry { number: 1, before: hex(&[0; 32]), at: None, by, what: What::Invited { node: NodeId(4) } };
        let expected = format!(
            r#"{{"number":1,"before":"{}","at":null,"by":{{"node":{{"node":"node-2"}}}},"what":{{"invited":{{"node":"node-4"}}}}}}"#,
            "0".repeat(64)
        );
        assert_eq!(line(&entry), Ok(expected.clone()));
        assert_eq!(super::entry(&expected), Ok(entry));
        assert_eq!(hex(&digest("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(unhex(&hex(&digest("abc"))), Some(digest("abc")));
        assert_eq!((unhex("ba"), unhex(&"g".repeat(64)), unhex(&"é".repeat(32))), (None, None, None));
    }

    #[test]
    fn a_chain_that_was_changed_cut_or_reordered_does_not_follow() {
        let [one, two, three] = lines();
        let whole = followed(&[&one, &two, &three]).expect("it is whole");
        assert_eq!(whole, Chain { next: 4, head: digest(&three) });
        assert_eq!(Chain::from(&two), Ok(Chain { next: 2, head: digest(&one) }));
        let broken = Err(ErrorKind::Corrupt);
        assert_eq!(followed(&[&one, &three]), broken, "one is gone");
        assert_eq!(followed(&[&two, &three]), broken, "the first is gone");
        assert_eq!(followed(&[&two, &one, &three]), broken, "in another order");
        assert_eq!(followed(&[&one, &one]), broken, "one is there twice");
        // Any change of any byte of what something comes behind.
        for at in 0..two.len() {
            let mut changed = two.clone().into_bytes();
            changed[at] ^= 1;
            let changed = String::from_utf8_lossy(&changed).into_owned();
            assert_eq!(followed(&[&one, &changed, &three]), broken, "{changed}");
        }
        // The newest can be changed unseen by who has neither it nor what comes behind it: so the head is told beside it.
        assert_ne!(followed(&[&one, &two, &three.replace("ops", "eve")]), Ok(whole));
        assert_eq!(followed(&[&one, "{}"]), broken);
        assert_eq!(followed(&[&one, ""]), broken);
    }
}
