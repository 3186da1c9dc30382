//! The guide's content filter under every fault that the simulator knows: the function as it is in the example `filter` of
//! the root package, a workload for it, and what must hold.
//!
//! ```text
//! cargo run --release -p mesh-chaos-tests --example content -- seeds 0..200
//! cargo run --release -p mesh-chaos-tests --example content -- nodes 0..20
//! ```

#[path = "../../examples/filter/content.rs"]
mod content;

use std::{process::ExitCode, sync::Arc};

use content::{ContentFilter, KIND};
use mesh_chaos_tests::harness::{self, ChainState, Deed, Dice, Done, Invariant, Make, Program, Workload};
use mesh_core::{Error, ErrorKind, StorageFunction, spec::CustomSpec};

/// What no object may hold.
const FORBIDDEN: &[u8] = b"TOP SECRET";
/// Keys that all clients use.
const KEYS: u64 = 12;
/// Of so many objects one holds what it must not.
const ONE_IN: u64 = 6;

fn main() -> ExitCode {
    harness::main(|_seed| Films)
}

struct Films;

impl Program for Films {
    fn functions(&self) -> Vec<(String, Make)> {
        let make: Make = Arc::new(|settings, _parts| Ok(Box::new(ContentFilter::new(settings)?)));
        vec![(KIND.to_owned(), make)]
    }

    fn stages(&self) -> Vec<CustomSpec> {
        vec![CustomSpec::new(KIND, FORBIDDEN)]
    }

    fn workload(&self, _client: usize) -> Box<dyn Workload> {
        Box::new(Viewer)
    }

    fn invariant(&self) -> Box<dyn Invariant> {
        Box::new(Counted)
    }
}

/// Puts films, some of them forbidden, gets and removes them.
struct Viewer;

impl Workload for Viewer {
    fn next(&mut self, dice: &mut Dice) -> Option<Deed> {
        let key = format!("film-{}", dice.below(KEYS));
        Some(match dice.below(10) {
            0..5 => {
                let len = usize::try_from(dice.within(1..4_000)).unwrap_or(1);
                let mut bytes: Vec<u8> = (0..len).map(|_| dice.below(256) as u8).collect();
                if dice.below(ONE_IN) == 0 {
                    // At a boundary of two stripes the filter would not see it: it goes in front.
                    bytes.splice(0..0, FORBIDDEN.iter().copied());
                }
                Deed::Put { key, bytes }
            }
            5..9 => Deed::Get { key },
            _ => Deed::Remove { key },
        })
    }

    fn answered(&mut self, deed: &Deed, ended: &Result<Done, Error>) -> Result<(), String> {
        match (deed, ended) {
            (Deed::Put { bytes, .. }, Ok(_)) if is_forbidden(bytes) => Err("a forbidden film was taken".to_owned()),
            (Deed::Put { bytes, .. }, Err(error)) if error.kind() == ErrorKind::Denied && !is_forbidden(bytes) => {
                Err(format!("a film was refused that is not forbidden: {error}"))
            }
            (_, Ok(Done::Got(Some(bytes)))) if is_forbidden(bytes) => Err("a forbidden film is shown".to_owned()),
            _ => Ok(()),
        }
    }
}

/// What the filters have counted makes sense.
struct Counted;

impl Invariant for Counted {
    fn at_rest(&mut self, chains: &[ChainState]) -> Result<(), String> {
        for chain in chains {
            let mut filter = ContentFilter::new(FORBIDDEN).map_err(|error| error.to_string())?;
            for page in chain.stages.iter().flatten() {
                filter.restore(page).map_err(|error| format!("{}: its state is not taken: {error}", chain.actor))?;
            }
            let buckets = ["bucket", "main"];
            for (seen, refused) in buckets.map(|bucket| filter.count(bucket)) {
                if refused > seen {
                    return Err(format!("{}: {refused} of {seen} stripes were refused", chain.actor));
                }
            }
        }
        Ok(())
    }
}

fn is_forbidden(bytes: &[u8]) -> bool {
    bytes.windows(FORBIDDEN.len()).any(|window| window == FORBIDDEN)
}
