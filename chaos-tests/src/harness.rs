//! The rooms for programs of others: a [`Program`] brings functions of its own, what its clients do, and what must hold;
//! the [world](crate::world) and the [room of whole nodes](crate::nodes) run it under every fault that they know.
//!
//! A program is made anew for each seed, and must be deterministic: the same seed, the same functions, deeds and judgements.
//! What draws chance draws it from the dice that it is given; maps whose order can be seen are `BTreeMap`s. The
//! [runner] has seeds run twice now and then, and says which two traces differ, and where.
//!
//! ```text
//!                 deeds (put, get, remove)                     stripes
//!   Workload ───────────────────────────────► Object ► Policy ► your functions ► Encrypt ► Erasure ► Drives
//!      ▲                                        │                     │
//!      └── answered ◄───────────────────────────┘                     │  at rest: the state, as a move would carry it
//!   Invariant ◄── answered ────────────────────────────────────────── ┘
//! ```
//!
//! What the harness checks of itself, beside what the program does: what is read was written, whole, to that key, and some
//! order of all operations on a key explains every answer ([`Program::stores`]); nothing is corrupt or lost; no function, no
//! workload and no invariant panics; everything is well again after the faults; and all that either room checks always.
//!
//! A binary of three lines is a harness: see [`main`]. The example `content` of this crate is the guide's function in it:
//! `cargo run --release -p mesh-chaos-tests --example content -- nodes 0..20`. A workspace of its own needs the lines of this
//! repository's `.cargo/config.toml` (`--cfg tokio_unstable`).

mod beacon;
pub(crate) mod book;
mod cli;
pub mod runner;

use mesh_core::{Error, id::ActorId, snapshot::Snapshot, spec::CustomSpec};

pub use mesh_actors::registry::{Make, Parts};

pub(crate) use self::beacon::Beacon;
pub use self::cli::main;
pub use crate::random::Stream as Dice;

/// Clients of a program at most.
pub const CLIENTS_MAX: usize = 64;
/// Bytes of one put at most.
pub const PUT_BYTES_MAX: usize = 1 << 20;
/// Bytes of a key at most.
pub const KEY_BYTES_MAX: usize = 200;

/// What is run: an embedding program, as far as the rooms need it. Made once a seed.
pub trait Program {
    /// The kinds of function that every node registers, and how each is made from its settings: as
    /// `mesh::node::Builder::function` takes them.
    fn functions(&self) -> Vec<(String, Make)>;

    /// What stands, in this order, in every data chain between Policy and Compress, with its settings.
    fn stages(&self) -> Vec<CustomSpec>;

    /// How many clients there are, 1 to `CLIENTS_MAX`: each does one thing at a time. Nobody else puts or gets anything.
    fn clients(&self) -> usize {
        3
    }

    /// What one of them does.
    fn workload(&self, client: usize) -> Box<dyn Workload>;

    /// What must hold.
    fn invariant(&self) -> Box<dyn Invariant> {
        Box::new(Nothing)
    }

    /// Whether what is read must be what was written: `false` for functions that are to change it.
    fn stores(&self) -> bool {
        true
    }
}

/// What a client does: a machine, like a function. Between two deeds it is left to think for a while.
pub trait Workload: Send {
    /// The next thing to do; none: it has done everything. `dice` are the client's own.
    fn next(&mut self, dice: &mut Dice) -> Option<Deed>;

    /// A deed of its own has ended.
    ///
    /// # Errors
    /// What is wrong with that: the run has failed.
    fn answered(&mut self, deed: &Deed, ended: &Result<Done, Error>) -> Result<(), String> {
        let _unused = (deed, ended);
        Ok(())
    }
}

/// What must hold over all clients.
pub trait Invariant: Send {
    /// A deed of some client has ended. An error may be of the weather: see [`Error::certainty`] for whether it was done.
    ///
    /// # Errors
    /// What is wrong with that: the run has failed.
    fn answered(&mut self, client: usize, deed: &Deed, ended: &Result<Done, Error>) -> Result<(), String> {
        let _unused = (client, deed, ended);
        Ok(())
    }

    /// All faults are over, all is well again, and nothing is under way.
    ///
    /// # Errors
    /// What is wrong: the run has failed.
    fn at_rest(&mut self, chains: &[ChainState]) -> Result<(), String> {
        let _unused = chains;
        Ok(())
    }
}

/// Nothing must hold but what the harness checks.
struct Nothing;

impl Invariant for Nothing {}

/// What a client does with one key of the one bucket that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Writes an object, in stripes.
    Put {
        /// Its key: of 1 to `KEY_BYTES_MAX` bytes.
        key: String,
        /// Its bytes: `PUT_BYTES_MAX` at most.
        bytes: Vec<u8>,
    },
    /// Reads it.
    Get {
        /// Its key.
        key: String,
    },
    /// Removes it.
    Remove {
        /// Its key.
        key: String,
    },
}

impl Deed {
    /// Of which key.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Get { key } | Self::Remove { key } => key,
        }
    }

    /// What the object is called in the mesh: nobody else's is called so.
    pub(crate) fn object(&self) -> String {
        format!("own/{}", self.key())
    }
}

/// For logs: a put without its bytes.
impl core::fmt::Display for Deed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Put { key, bytes } => write!(f, "puts {} bytes under {key:?}", bytes.len()),
            Self::Get { key } => write!(f, "gets {key:?}"),
            Self::Remove { key } => write!(f, "removes {key:?}"),
        }
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is written.
    Put,
    /// These are its bytes; none: there is no such object.
    Got(Option<Vec<u8>>),
    /// It is there no more.
    Removed,
}

/// What one chain keeps of the program's functions.
#[derive(Clone, Debug, Default)]
pub struct ChainState {
    /// Which chain.
    pub actor: ActorId,
    /// For each of the program's stages, in their order, its pages in theirs: [`mesh_core::StorageFunction::restore`] takes
    /// them one after another. State in memory is lost with its node, and then begins anew from the settings.
    pub stages: Vec<Vec<Snapshot>>,
}

impl ChainState {
    /// Takes the program's `count` stages from behind `before` others out of the pages of a chain.
    pub(crate) fn of(actor: ActorId, pages: Vec<Snapshot>, before: usize, count: usize) -> Self {
        let mut stages = vec![Vec::new(); count];
        for page in pages {
            let own = page.stages.into_iter().skip(before);
            stages.iter_mut().zip(own).for_each(|(pages, page)| pages.push(page));
        }
        Self { actor, stages }
    }
}
