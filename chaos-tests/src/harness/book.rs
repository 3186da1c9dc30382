//! What a program's clients do and see in one run, the same in both rooms; and what is wrong with it.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher as _},
};

use mesh_core::{Error, ErrorKind, error::Certainty, id::WriteId, spec::CustomSpec};

use super::{
    Beacon, CLIENTS_MAX, ChainState, Deed, Dice, Done, Invariant, KEY_BYTES_MAX, Make, PUT_BYTES_MAX, Program, Workload,
};
use crate::{
    oracle::{self, End, Oracle, Ticket},
    panics::quietly,
};

/// Everything that one run has of a program but its functions.
pub(crate) struct Book {
    workloads: Vec<Client>,
    invariant: Box<dyn Invariant>,
    oracle: Oracle,
    /// What was put under each key: its number is its place here.
    put: BTreeMap<String, Vec<Print>>,
    stores: bool,
    violation: Option<String>,
}

struct Client {
    workload: Box<dyn Workload>,
    /// How often it was asked.
    asked: u64,
}

/// A deed that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    ticket: Ticket,
    deed: oracle::Deed,
}

/// What a program brings into a room.
pub(crate) struct Brought {
    pub(crate) book: Book,
    pub(crate) stages: Vec<CustomSpec>,
    pub(crate) functions: Vec<(String, Make)>,
}

impl Brought {
    /// All of it.
    ///
    /// # Errors
    /// A panic of the program's, or a number of clients that is not allowed.
    pub(crate) fn of(program: &dyn Program) -> Result<Self, String> {
        let (stages, functions) = guarded("the program", || (program.stages(), program.functions()))?;
        Ok(Self { book: Book::new(program)?, stages, functions })
    }
}

/// What bytes are known by: their length and a hash.
type Print = (usize, u64);

fn print(bytes: &[u8]) -> Print {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    (bytes.len(), hasher.finish())
}

impl core::fmt::Debug for Book {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Book of {} clients, violation {:?}", self.workloads.len(), self.violation)
    }
}

/// Runs the program's code: whoever watches sees whose, and its panic is a violation.
pub(crate) fn guarded<T>(who: &str, run: impl FnOnce() -> T) -> Result<T, String> {
    Beacon::enter(who);
    let outcome = quietly(run);
    Beacon::leave();
    outcome.map_err(|panic| format!("{who} panicked: {panic}"))
}

impl Book {
    fn new(program: &dyn Program) -> Result<Self, String> {
        let clients = guarded("the program", || program.clients())?;
        if !(1..=CLIENTS_MAX).contains(&clients) {
            return Err(format!("the program has {clients} clients; 1 to {CLIENTS_MAX} are allowed"));
        }
        guarded("the program", || Self {
            workloads: (0..clients).map(|client| Client { workload: program.workload(client), asked: 0 }).collect(),
            invariant: program.invariant(),
            oracle: Oracle::default(),
            put: BTreeMap::new(),
            stores: program.stores(),
            violation: None,
        })
    }

    /// How many clients there are.
    pub(crate) fn clients(&self) -> usize {
        self.workloads.len()
    }

    /// What was seen first that must not be.
    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    fn note(&mut self, outcome: Result<(), String>) {
        if let Err(why) = outcome {
            self.violation.get_or_insert(why);
        }
    }

    /// What a client does next; none: nothing any more.
    pub(crate) fn next(&mut self, client: usize, dice: &mut Dice) -> Option<Deed> {
        let one = self.workloads.get_mut(client).filter(|_| self.violation.is_none())?;
        one.asked += 1;
        let who = format!("the workload of client {client}, asked for its {}. deed,", one.asked);
        let next = guarded(&who, || one.workload.next(dice)).and_then(|deed| match deed {
            Some(deed) => allowed(&deed).map(|()| Some(deed)).map_err(|why| format!("{who} wants {why}")),
            None => Ok(None),
        });
        match next {
            Ok(deed) => deed,
            Err(why) => {
                self.note(Err(why));
                None
            }
        }
    }

    /// A deed begins.
    pub(crate) fn begin(&mut self, deed: &Deed, now: u64) -> Begun {
        let wanted = match deed {
            Deed::Put { key, bytes } => oracle::Deed::Write(Some(self.number(key, bytes))),
            Deed::Get { .. } => oracle::Deed::Read(None),
            Deed::Remove { .. } => oracle::Deed::Write(None),
        };
        Begun { ticket: self.oracle.begin(deed.key(), wanted, now), deed: wanted }
    }

    /// The number of these bytes under a key, which they get if they have none.
    fn number(&mut self, key: &str, bytes: &[u8]) -> WriteId {
        let (known, print) = (self.put.entry(key.to_owned()).or_default(), print(bytes));
        let at = known.iter().position(|one| *one == print).unwrap_or_else(|| {
            known.push(print);
            known.len() - 1
        });
        WriteId(at as u64)
    }

    /// A deed has ended: whoever is to hear of it does.
    pub(crate) fn end(
        &mut self,
        client: Option<usize>,
        (begun, deed): (Begun, &Deed),
        ended: &Result<Done, Error>,
        now: u64,
    ) {
        match self.ending((begun, deed), ended) {
            Ok(end) => self.oracle.end(begun.ticket, end, now),
            Err(why) => {
                self.oracle.end(begun.ticket, End::Nothing, now);
                self.note(Err(why));
            }
        }
        let Some(one) = client.and_then(|client| self.workloads.get_mut(client)) else { return };
        let (client, key) = (client.unwrap_or_default(), deed.key());
        let who = format!("the workload of client {client}, told of the end of its {}. deed,", one.asked);
        let of_workload = guarded(&who, || one.workload.answered(deed, ended))
            .and_then(|said| said.map_err(|why| format!("client {client} at {key:?}: {why}")));
        self.note(of_workload);
        let who = format!("the invariant, told of the end of the {}. deed of client {client},", self.asked(client));
        let of_invariant = guarded(&who, || self.invariant.answered(client, deed, ended))
            .and_then(|said| said.map_err(|why| format!("client {client} at {key:?}: {why}")));
        self.note(of_invariant);
    }

    fn asked(&self, client: usize) -> u64 {
        self.workloads.get(client).map_or(0, |one| one.asked)
    }

    /// What came of a deed, for the history.
    fn ending(&self, (begun, deed): (Begun, &Deed), ended: &Result<Done, Error>) -> Result<End, String> {
        let key = deed.key();
        Ok(match (deed, ended) {
            (Deed::Put { .. }, Ok(Done::Put))
            | (Deed::Remove { .. }, Ok(Done::Removed))
            | (Deed::Get { .. }, Ok(Done::Got(None))) => End::Did(begun.deed),
            (Deed::Get { .. }, Ok(Done::Got(Some(bytes)))) if self.stores => {
                let known = self.put.get(key).map_or(&[][..], Vec::as_slice);
                let print = print(bytes);
                let at = known.iter().position(|one| *one == print);
                let at = at
                    .ok_or_else(|| format!("{key:?} reads as {} bytes that nobody has put there whole", bytes.len()))?;
                End::Did(oracle::Deed::Read(Some(WriteId(at as u64))))
            }
            // Which of all that was put is not known.
            (Deed::Get { .. }, Ok(Done::Got(Some(_)))) => End::Did(oracle::Deed::Exists),
            (_, Ok(done)) => return Err(format!("that somebody {deed} was answered by {done:?}")),
            (_, Err(error)) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Lost | ErrorKind::Bug) => {
                return Err(format!("{key:?} was answered: {error}"));
            }
            (_, Err(error)) if error.certainty() == Certainty::NotProcessed => End::Nothing,
            (Deed::Get { .. }, Err(_)) => End::Nothing,
            (_, Err(_)) => End::Unknown,
        })
    }

    /// Every key that was ever used.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.oracle.keys().to_vec()
    }

    /// All is over: what the invariant says, and whether the histories have an explanation.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn conclude(&mut self, chains: &[ChainState]) -> Result<(), String> {
        if let Some(why) = &self.violation {
            return Err(why.clone());
        }
        guarded("the invariant, at rest,", || self.invariant.at_rest(chains))?
            .map_err(|why| format!("at rest: {why}"))?;
        self.oracle.check()
    }
}

/// What a deed may be.
fn allowed(deed: &Deed) -> Result<(), String> {
    let len = deed.key().len();
    match deed {
        _ if len == 0 || len > KEY_BYTES_MAX => Err(format!("a key of {len} bytes; 1 to {KEY_BYTES_MAX} are allowed")),
        Deed::Put { bytes, .. } if bytes.len() > PUT_BYTES_MAX => {
            Err(format!("to put {} bytes; {PUT_BYTES_MAX} are allowed", bytes.len()))
        }
        _ => Ok(()),
    }
}
