//! Which request of a client something belongs to: a number that goes along with all that is asked for it, through functions and
//! over links, so that what is logged of it names the same everywhere.

use core::fmt;

/// The number of a client's request; most of what a mesh does by itself belongs to none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Trace(u64);

impl Trace {
    /// Of no request.
    pub const NONE: Self = Self(0);

    /// Of the request of this number; 0: of none.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Whether it is of a request.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }

    /// As a W3C trace context (`traceparent`), for a message's header; empty: of none.
    #[must_use]
    pub fn to_header(self) -> Vec<u8> {
        if self.is_some() { format!("00-{0:032x}-{0:016x}-00", self.0).into_bytes() } else { Vec::new() }
    }

    /// From a message's header. Of a longer number, which is another's, its end counts; of what is no trace context, nothing.
    #[must_use]
    pub fn from_header(header: &[u8]) -> Self {
        let number = core::str::from_utf8(header).ok().and_then(|text| {
            let mut parts = text.split('-');
            let (_version, trace) = (parts.next()?, parts.next()?);
            u64::from_str_radix(trace.get(16..32)?, 16).ok()
        });
        Self(number.unwrap_or_default())
    }
}

/// As in `x-amz-request-id`.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_comes_back_from_its_header_and_nonsense_is_none() {
        for number in [0, 1, 0x1234_5678_9abc_def0, u64::MAX] {
            assert_eq!(Trace::from_header(&Trace::new(number).to_header()), Trace::new(number));
        }
        assert_eq!(Trace::new(7).to_header(), b"00-00000000000000000000000000000007-0000000000000007-00");
        assert_eq!(Trace::NONE.to_header(), b"");
        let theirs = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(Trace::from_header(theirs), Trace::new(0x8448_eb21_1c80_319c));
        for nonsense in
            ["", "00", "00-", "00-1234", "-----", "00-0000000000000000zzzzzzzzzzzzzzzz-1-00", "00-ééééééééééééééééé"]
        {
            assert_eq!(Trace::from_header(nonsense.as_bytes()), Trace::NONE, "{nonsense}");
        }
        assert_eq!(Trace::from_header(&[0xff; 40]), Trace::NONE);
    }
}
