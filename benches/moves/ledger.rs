//! The function that moves: it counts what it is asked, by stripe and in all, and answers with the sum.

use mesh_core::{
    Answer, Buf, Cx, Error, Event, Op, Response, StorageFunction,
    carried::Carried,
    snapshot::{Mark, Snapshot},
};

/// The ledger.
pub(crate) struct Ledger(Carried);

/// The entry of the sum; the others have a key of 8 bytes.
const SUM: &[u8] = b"sum";
/// Of a key and its value together.
const ENTRY_BYTES: usize = 64;

impl Ledger {
    /// A ledger with entries for stripes of the writes from 0 on.
    ///
    /// # Errors
    /// None, as entries are small.
    pub(crate) fn new(entries: u64) -> Result<Self, Error> {
        let mut ledger = Carried::new(1);
        for number in 0..entries {
            ledger.insert(&number.to_be_bytes(), &[0; ENTRY_BYTES - 8])?;
        }
        Ok(Self(ledger))
    }

    fn count(&mut self, key: &[u8]) -> Result<u64, Error> {
        let mut value = [0; ENTRY_BYTES - 8];
        if let Some(known) = self.0.get(key) {
            value.copy_from_slice(known);
        }
        let (number, _) = value.split_first_chunk_mut().ok_or_else(|| Error::bug("a value has a number"))?;
        let next = u64::from_le_bytes(*number) + 1;
        *number = next.to_le_bytes();
        self.0.insert(key, &value)?;
        Ok(next)
    }
}

impl StorageFunction for Ledger {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        let Event::Request { id, request } = event else { return };
        let Op::Stripe(op) = &request.op else {
            return cx.reply(id, Err(Error::invalid("a ledger counts stripes")));
        };
        let key = op.target().id.write.0.to_be_bytes();
        let counted = self.count(&key).and_then(|_| self.count(SUM));
        let response = |sum: u64| Response { answer: Answer::Done, payload: Buf::copy_of(&sum.to_le_bytes()) };
        cx.reply(id, counted.map(response));
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        self.0.page(since)
    }

    fn restore(&mut self, page: &Snapshot) -> Result<(), Error> {
        self.0.restore(page)
    }
}
