//! Functions of an embedding program: one that breaks down now and then, on dice of its own, and one whose state says
//! whether it was torn on its way.

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Cx, Error, Event, Outcome, Request, StorageFunction, Target,
    carried::Carried,
    id::Token,
    snapshot::{Mark, Snapshot},
    spec::CustomSpec,
};

use super::{log::PLANTED, machine::Own};

/// What the registry calls them.
const KIND: &str = "frail";
const LEDGER: &str = "ledger";

/// Requests that the next stage has, by the call: what it answers is the answer.
#[derive(Default)]
struct HandedOn(BTreeMap<Token, Token>);

impl HandedOn {
    fn hand_on(&mut self, id: Token, request: Request, cx: &mut Cx<'_>) {
        self.0.insert(cx.call(Target::Next, request), id);
    }

    fn answered(&mut self, call: Token, outcome: Outcome, cx: &mut Cx<'_>) {
        if let Some(id) = self.0.remove(&call) {
            cx.reply(id, outcome);
        }
    }
}

/// Hands everything on, and panics at so many requests in a thousand.
struct Frail {
    per_mille: u16,
    handed_on: HandedOn,
}

/// How it is made.
pub(super) fn frail() -> Own {
    let make = |settings: &[u8], _: &mesh::Parts| {
        let per_mille = settings.first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
        let per_mille = per_mille.ok_or_else(|| Error::invalid("the settings are two bytes"))?;
        Ok(Box::new(Frail { per_mille, handed_on: HandedOn::default() }) as Box<dyn StorageFunction>)
    };
    (KIND.to_owned(), Arc::new(make))
}

/// One in a chain.
pub(super) fn stage(per_mille: u16) -> CustomSpec {
    CustomSpec::new(KIND, per_mille.to_le_bytes())
}

impl StorageFunction for Frail {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, request } => {
                assert!(
                    u16::from_le_bytes(cx.random()) % 1000 >= self.per_mille,
                    "{PLANTED} it broke down on a request"
                );
                self.handed_on.hand_on(id, request, cx);
            }
            Event::Reply { call, outcome } => self.handed_on.answered(call, outcome, cx),
            Event::Wake | Event::Done { .. } | Event::Configure(_) => {}
        }
    }

    fn in_flight(&self) -> usize {
        self.handed_on.0.len()
    }

    fn lingers(&self) -> bool {
        true
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        Snapshot { since, ..Snapshot::default() }
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        if snapshot.is_empty() { Ok(()) } else { Err(Error::invalid("it has no state")) }
    }
}

/// Counts requests on accounts: an account that is full is closed, and what was on it is paid out. So there are always as
/// many on accounts and paid out as there are in all, unless its state was torn.
struct Ledger {
    accounts: Carried,
    handed_on: HandedOn,
}

/// Of the encoding below.
const FORMAT: u16 = 1;
const ACCOUNTS: u8 = 40;
const FULL: u64 = 6;
/// Behind all accounts.
const PAID: u8 = 254;
const ALL: u8 = 255;

/// How it is made.
pub(super) fn ledger() -> Own {
    let make = |_: &[u8], _: &mesh::Parts| {
        let ledger = Ledger { accounts: Carried::new(FORMAT), handed_on: HandedOn::default() };
        Ok(Box::new(ledger) as Box<dyn StorageFunction>)
    };
    (LEDGER.to_owned(), Arc::new(make))
}

/// One in a chain.
pub(super) fn account() -> CustomSpec {
    CustomSpec::new(LEDGER, [])
}

impl Ledger {
    fn on(&self, account: u8) -> u64 {
        let bytes = self.accounts.get(&[account]).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn put(&mut self, account: u8, sum: u64) -> Result<(), Error> {
        self.accounts.insert(&[account], &sum.to_le_bytes())
    }

    fn count(&mut self, account: u8) -> Result<(), Error> {
        self.put(ALL, self.on(ALL) + 1)?;
        let sum = self.on(account) + 1;
        if sum < FULL {
            return self.put(account, sum);
        }
        self.accounts.remove(&[account]);
        self.put(PAID, self.on(PAID) + sum)
    }

    fn adds_up(&self) -> bool {
        let sum = |accounts: &mut dyn Iterator<Item = (&[u8], &[u8])>| -> u64 {
            accounts.filter_map(|(_, sum)| sum.first_chunk()).map(|sum| u64::from_le_bytes(*sum)).sum()
        };
        sum(&mut self.accounts.iter().filter(|(account, _)| *account != [ALL])) == self.on(ALL)
    }
}

impl StorageFunction for Ledger {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, request } => {
                let [dice] = cx.random();
                let counted = self.count(dice % ACCOUNTS);
                assert!(
                    counted.is_ok() && self.adds_up(),
                    "accounts do not add up: the state did not come along whole"
                );
                self.handed_on.hand_on(id, request, cx);
            }
            Event::Reply { call, outcome } => self.handed_on.answered(call, outcome, cx),
            Event::Wake | Event::Done { .. } | Event::Configure(_) => {}
        }
    }

    fn in_flight(&self) -> usize {
        self.handed_on.0.len()
    }

    fn lingers(&self) -> bool {
        true
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        self.accounts.page(since)
    }

    fn restore(&mut self, page: &Snapshot) -> Result<(), Error> {
        self.accounts.restore(page)
    }
}
