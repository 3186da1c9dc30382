//! The answering half of a connection: credits are enforced before anything is allocated, and nothing is served
//! twice.

use std::collections::BTreeMap;

use mesh_core::{Error, ErrorKind, wire::Preamble};

use super::Terms;

/// What one connection's other end has in flight here.
#[derive(Debug)]
pub struct Serving {
    terms: Terms,
    jobs: usize,
    header_bytes: usize,
    payload_bytes: usize,
    seen: Seen,
}

/// Credit that a request holds from its preamble to its answer. Given back with [`Serving::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "credit that is not released is lost"]
pub struct Reservation {
    header_bytes: usize,
    payload_bytes: usize,
}

impl Serving {
    /// Nothing in flight.
    #[must_use]
    pub const fn new(terms: Terms) -> Self {
        Self { terms, jobs: 0, header_bytes: 0, payload_bytes: 0, seen: Seen { ranges: BTreeMap::new() } }
    }

    /// Credit for a request whose preamble came. Only then may memory be taken for it.
    ///
    /// # Errors
    /// `Overloaded`: the other end does not keep to its terms. Answer so and read no further.
    pub fn reserve(&mut self, preamble: &Preamble) -> Result<Reservation, Error> {
        let header_bytes = self.header_bytes + preamble.header_len;
        let payload_bytes = self.payload_bytes + preamble.payload_len;
        // As on the asking side, one payload may go alone whatever its size.
        let fits = payload_bytes <= self.terms.bytes_max || self.payload_bytes == 0;
        if self.jobs >= self.terms.jobs_max || !fits || header_bytes > HEADER_BYTES_IN_FLIGHT_MAX {
            return Err(Error::new(ErrorKind::Overloaded, "over the credit that this link granted: back off")
                .with("jobs", self.jobs)
                .with("bytes", payload_bytes));
        }
        self.jobs += 1;
        self.header_bytes = header_bytes;
        self.payload_bytes = payload_bytes;
        Ok(Reservation { header_bytes: preamble.header_len, payload_bytes: preamble.payload_len })
    }

    /// Whether request `id` comes for the first time. If not, it must be dropped.
    #[must_use]
    pub fn is_first(&mut self, id: u64) -> bool {
        self.seen.insert(id)
    }

    /// Takes credit back.
    pub fn release(&mut self, reservation: Reservation) {
        self.jobs -= 1;
        self.header_bytes -= reservation.header_bytes;
        self.payload_bytes -= reservation.payload_bytes;
    }

    /// Requests in flight.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.jobs
    }
}

/// The numbers that came, as ranges first..=last. They come nearly in order, so there are few; should there be
/// many, the oldest gap is closed and what belongs there counts as seen.
#[derive(Debug)]
struct Seen {
    ranges: BTreeMap<u64, u64>,
}

impl Seen {
    /// `false` if it was seen before.
    fn insert(&mut self, id: u64) -> bool {
        let before = self.ranges.range(..=id).next_back().map(|(&first, &last)| (first, last));
        if before.is_some_and(|(_, last)| id <= last) {
            return false;
        }
        let after = id.checked_add(1).and_then(|next| self.ranges.remove(&next));
        let last = after.unwrap_or(id);
        match before {
            Some((first, end)) if end.checked_add(1) == Some(id) => self.ranges.insert(first, last),
            _ => self.ranges.insert(id, last),
        };
        if self.ranges.len() > SEEN_RANGES_MAX
            && let (Some((first, _)), Some((_, last))) = (self.ranges.pop_first(), self.ranges.pop_first())
        {
            self.ranges.insert(first, last);
        }
        true
    }
}

/// Headers in flight on one connection at most. They are not in the terms, for they are small and soon gone.
const HEADER_BYTES_IN_FLIGHT_MAX: usize = 64 << 20;
/// Gaps between numbers that are remembered.
const SEEN_RANGES_MAX: usize = 4096;

const _: () = assert!(HEADER_BYTES_IN_FLIGHT_MAX >= mesh_core::limits::HEADER_BYTES_MAX);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn preamble(header_len: usize, payload_len: usize) -> Preamble {
        Preamble { header_len, header_crc: 0, payload_len }
    }

    #[test]
    fn credit_is_enforced_and_comes_back() {
        let mut serving = Serving::new(Terms { jobs_max: 2, bytes_max: 100 });
        let first = serving.reserve(&preamble(10, 60)).unwrap();
        assert_eq!(serving.reserve(&preamble(10, 41)).unwrap_err().kind(), ErrorKind::Overloaded);
        let second = serving.reserve(&preamble(10, 40)).unwrap();
        assert_eq!(serving.reserve(&preamble(1, 0)).unwrap_err().kind(), ErrorKind::Overloaded);
        serving.release(first);
        let third = serving.reserve(&preamble(1, 60)).unwrap();
        serving.release(second);
        serving.release(third);
        assert_eq!((serving.in_flight(), serving.payload_bytes, serving.header_bytes), (0, 0, 0));
    }

    #[test]
    fn headers_are_bounded_too() {
        let mut serving = Serving::new(Terms { jobs_max: 1000, bytes_max: 100 });
        let held: Vec<_> = (0..32).map(|_| serving.reserve(&preamble(2 << 20, 0)).unwrap()).collect();
        assert!(serving.reserve(&preamble(2 << 20, 0)).is_err());
        held.into_iter().for_each(|reservation| serving.release(reservation));
        assert!(serving.reserve(&preamble(2 << 20, 0)).is_ok());
    }

    #[test]
    fn the_oldest_gap_is_closed_when_there_are_too_many() {
        let mut seen = Seen { ranges: BTreeMap::new() };
        for id in 0..=SEEN_RANGES_MAX as u64 {
            assert!(seen.insert(10 + 2 * id));
        }
        assert_eq!(seen.ranges.len(), SEEN_RANGES_MAX);
        assert!(!seen.insert(11), "its gap was closed");
        assert!(seen.insert(13), "the next gap was not");
        assert!(seen.insert(u64::MAX) && !seen.insert(u64::MAX));
    }

    proptest! {
        #[test]
        fn ranges_remember_what_a_set_would(ids in proptest::collection::vec(0..200u64, 0..400)) {
            let mut seen = Seen { ranges: BTreeMap::new() };
            let mut model = BTreeSet::new();
            for id in ids {
                prop_assert_eq!(seen.insert(id), model.insert(id));
            }
            let listed: Vec<u64> = seen.ranges.iter().flat_map(|(&first, &last)| first..=last).collect();
            prop_assert_eq!(listed, model.into_iter().collect::<Vec<_>>());
        }
    }
}
