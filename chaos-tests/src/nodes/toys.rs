//! A function of an embedding program that breaks down now and then, on dice of its own.

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Cx, Error, Event, StorageFunction, Target,
    id::Token,
    snapshot::{Mark, Snapshot},
    spec::CustomSpec,
};

use super::{log::PLANTED, machine::Own};

/// What the registry calls it.
const KIND: &str = "frail";

/// Hands everything on, and panics at so many requests in a thousand.
struct Frail {
    per_mille: u16,
    handed_on: BTreeMap<Token, Token>,
}

/// How it is made.
pub(super) fn frail() -> Own {
    let make = |settings: &[u8], _: &mesh::Parts| {
        let per_mille = settings.first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
        let per_mille = per_mille.ok_or_else(|| Error::invalid("the settings are two bytes"))?;
        Ok(Box::new(Frail { per_mille, handed_on: BTreeMap::new() }) as Box<dyn StorageFunction>)
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
                let call = cx.call(Target::Next, request);
                self.handed_on.insert(call, id);
            }
            Event::Reply { call, outcome } => {
                if let Some(id) = self.handed_on.remove(&call) {
                    cx.reply(id, outcome);
                }
            }
            Event::Wake | Event::Done { .. } | Event::Configure(_) => {}
        }
    }

    fn in_flight(&self) -> usize {
        self.handed_on.len()
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
