//! A toy stage that keeps state: in a world with moves it stands in every data chain behind Policy, as a function of the
//! embedding program. It notes changes, each in the next free place and once however often it is asked; everything else it
//! hands on. What it keeps is in memory alone, so a move has to bring all of it over, and nothing but a move can.
//!
//! A change is a write of a stripe to a bucket of its own; its answer says which birth of the state has it, and where.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use core::time::Duration;

use mesh_core::{
    Answer, Buf, Cx, Error, Event, Op, Outcome, Response, StorageFunction, Target,
    id::{BucketId, LayoutId, StripeId, TenantId, Token, WriteId},
    meta::Compression,
    op::{Binding, StripeOp, StripeTarget},
    snapshot::{Mark, Snapshot},
    time::Instant,
};

/// Where a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which birth of the state.
    pub birth: u64,
    /// The how-manieth change since.
    pub place: u64,
}

/// The stage.
#[derive(Debug, Default)]
pub struct Ledger {
    birth: u64,
    /// By change.
    places: BTreeMap<u64, u64>,
    /// Changes in the order of their places.
    order: Vec<u64>,
    /// Changes that are being made: until when.
    pending: VecDeque<(Instant, Token, u64)>,
    handed_on: BTreeMap<Token, Token>,
}

/// What the registry calls it.
pub const KIND: &str = "ledger";
/// Its place in a chain.
const PLACE: usize = 1;
/// The one tenant of a world.
pub const TENANT: TenantId = TenantId(1);
/// The bucket of changes.
const LEDGER: &str = "ledger";
/// How long a change takes.
const TAKES: Duration = Duration::from_micros(80);
/// Entries of a page: few, so that a small state has many pages.
const PAGE: usize = 8;
const BIRTH: &[u8] = b"birth";

/// What asks for a change.
#[must_use]
pub fn change(id: u64) -> Op {
    let binding = Binding { tenant: TENANT, bucket: BucketId(0), bucket_name: LEDGER.into(), object: Arc::from("") };
    let id = StripeId { write: WriteId(id), stripe: 0, attempt: 0 };
    StripeOp::Write(StripeTarget {
        id,
        layout: LayoutId(0),
        binding: Arc::new(binding),
        key: None,
        compression: Compression::Off,
        code: None,
    })
    .into()
}

/// The change that is asked for.
#[must_use]
pub fn asked(op: &Op) -> Option<u64> {
    match op {
        Op::Stripe(op) => match &**op {
            StripeOp::Write(target) if &*target.binding.bucket_name == LEDGER => Some(target.id.write.0),
            _ => None,
        },
        _ => None,
    }
}

/// The answer to a change.
///
/// # Errors
/// None: it is an outcome.
pub fn answer(entry: Entry) -> Outcome {
    let bytes = [entry.birth.to_le_bytes(), entry.place.to_le_bytes()].concat();
    Ok(Response { answer: Answer::Done, payload: Buf::copy_of(&bytes) })
}

/// Which change was acknowledged, and where it is.
#[must_use]
pub fn acknowledged(op: &Op, outcome: &Outcome) -> Option<(u64, Entry)> {
    let id = asked(op)?;
    let (birth, place) = outcome.as_ref().ok()?.payload.split_first_chunk::<8>()?;
    Some((id, Entry { birth: u64::from_le_bytes(*birth), place: number(place) }))
}

/// The state that the pages of a chain hold that has a ledger: its birth and its changes.
#[must_use]
pub fn read(pages: &[Snapshot]) -> (u64, BTreeMap<u64, u64>) {
    let mut ledger = Ledger::default();
    for stage in pages.iter().filter_map(|page| page.stages.get(PLACE)) {
        ledger.take_over(stage);
    }
    (ledger.birth, ledger.places)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Ledger {
    /// An empty one, of this birth.
    #[must_use]
    pub fn new(birth: u64) -> Self {
        Self { birth, ..Self::default() }
    }

    fn note(&mut self, id: u64) -> Entry {
        // Counted on from the last, so that a state that lacks some shows it.
        let next = self.places.values().copied().max().unwrap_or(0) + 1;
        let place = *self.places.entry(id).or_insert(next);
        if place == next {
            self.order.push(id);
        }
        Entry { birth: self.birth, place }
    }

    fn take_over(&mut self, snapshot: &Snapshot) {
        if snapshot.since.is_none() {
            self.places.clear();
            self.order.clear();
        }
        for (key, value) in &snapshot.entries {
            let value = number(value.as_deref().unwrap_or_default());
            if key == BIRTH {
                self.birth = value;
            } else {
                self.places.insert(number(key), value);
                self.order.push(number(key));
            }
        }
    }
}

impl StorageFunction for Ledger {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, request } => match asked(&request.op) {
                Some(change) => self.pending.push_back((cx.now() + TAKES, id, change)),
                None => {
                    let call = cx.call(Target::Next, request);
                    self.handed_on.insert(call, id);
                }
            },
            Event::Reply { call, outcome } => {
                if let Some(id) = self.handed_on.remove(&call) {
                    cx.reply(id, outcome);
                }
            }
            Event::Wake => {
                while let Some((_, id, change)) = self.pending.pop_front_if(|(at, ..)| *at <= cx.now()) {
                    let entry = self.note(change);
                    cx.reply(id, answer(entry));
                }
            }
            Event::Done { .. } | Event::Configure(_) => {}
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        self.pending.front().map(|(at, ..)| *at)
    }

    fn in_flight(&self) -> usize {
        self.pending.len() + self.handed_on.len()
    }

    fn lingers(&self) -> bool {
        self.pending.is_empty()
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        let from = since.map_or(0, |since| since.0 as usize).min(self.order.len());
        let until = self.order.len().min(from + PAGE);
        let birth = (BIRTH.to_vec(), Some(self.birth.to_le_bytes().to_vec()));
        let changes = self.order[from..until].iter().map(|id| {
            let place = self.places.get(id).copied().unwrap_or(0);
            (id.to_le_bytes().to_vec(), Some(place.to_le_bytes().to_vec()))
        });
        Snapshot {
            version: 1,
            mark: Mark(until as u64),
            since,
            more: until < self.order.len(),
            entries: core::iter::once(birth).chain(changes).collect(),
            stages: Vec::new(),
        }
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        if snapshot.version != 1 {
            return Err(Error::invalid("a ledger of another version"));
        }
        self.take_over(snapshot);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_was_carried_over_in_pages_is_the_same() {
        let (mut from, mut to) = (Ledger::new(5), Ledger::new(6));
        (0..20).for_each(|id| assert_eq!(from.note(100 + id), Entry { birth: 5, place: id + 1 }));
        let (mut since, mut pages) = (None, 0);
        loop {
            let page = from.snapshot(since);
            assert_eq!(to.restore(&page), Ok(()));
            (since, pages) = (Some(page.mark), pages + 1);
            if pages == 2 {
                from.note(200);
            }
            if !page.more {
                break;
            }
        }
        assert_eq!((&to.places, to.birth, pages), (&from.places, 5, 3));
        assert_eq!(to.note(200), Entry { birth: 5, place: 21 });
        assert_eq!(to.note(201), Entry { birth: 5, place: 22 });
    }
}
