//! Sessions, in every group: one life of an actor at a time, and each of its commands once.
//!
//! A command carries its proposer's session and a number. What comes of a closed session is refused; a number that has
//! been seen is answered as it was answered first, and has no further effect. So a command may be sent over any number of
//! ways, and its copies may arrive at any time.
//!
//! Memory is bounded: every command names the lowest number that its actor waits for still. From time to time that becomes
//! the *floor*, below which nothing is taken any more; what was said there is forgotten, as is what was said to earlier
//! sessions, a bounded number of rows a command.
//!
//! ```text
//! none ──OpenSession──► open ──OpenSession of a later life──► closed, for good
//! a number:  not seen ──► answered ──(floor above it)──► refused
//! ```

use std::ops::ControlFlow;

use mesh_core::{
    Error, ErrorKind, Redirect,
    id::{ActorId, Epoch},
    limits::SESSION_REQUESTS_MAX,
    meta::{MetaAnswer, Proposer, Session},
};
use serde::{Deserialize, Serialize};

use super::{blocks, rows::Rows};
use crate::metadata::keys;

/// The present session of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Life {
    session: Session,
    /// No number below this is taken.
    floor: u64,
}

/// What was said to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Said {
    Answer(MetaAnswer),
    Refusal { kind: u16, message: String },
}

impl Said {
    fn of(outcome: &Result<MetaAnswer, Error>) -> Self {
        match outcome {
            Ok(answer) => Self::Answer(answer.clone()),
            Err(error) => Self::Refusal { kind: error.kind().number(), message: error.to_string() },
        }
    }

    fn again(self) -> Result<MetaAnswer, Error> {
        match self {
            Self::Answer(answer) => Ok(answer),
            Self::Refusal { kind, message } => Err(Error::new(ErrorKind::from_number(kind), message)),
        }
    }
}

/// Begins a life of an actor.
pub(super) fn open(rows: &mut Rows<'_>, actor: ActorId, session: Session) -> Result<MetaAnswer, Error> {
    let key = keys::session(actor);
    match rows.find::<Life>(&key)? {
        Some(life) if life.session == session => return Ok(MetaAnswer::Done),
        Some(life) if life.session > session => return Err(over(actor, life.session.epoch)),
        _ => {}
    }
    rows.put(key, &Life { session, floor: 0 })?;
    blocks::close_all(rows, actor)?;
    forget(rows, actor, session, 0)?;
    Ok(MetaAnswer::Done)
}

/// Lets a command take effect, unless it has; then it gets the answer that it got. On an error that decides nothing
/// nothing is remembered either.
pub(super) fn once(
    rows: &mut Rows<'_>,
    proposer: Proposer,
    decide: impl FnOnce(&mut Rows<'_>) -> Result<MetaAnswer, Error>,
) -> Result<MetaAnswer, Error> {
    let life = expect_open(rows, proposer)?;
    let key = keys::answer(proposer.actor, proposer.session, proposer.request);
    if let Some(said) = rows.find::<Said>(&key)? {
        return said.again();
    }
    let outcome = decide(rows);
    if let Err(error) = &outcome {
        rows.undo();
        if !is_decision(error.kind()) {
            return outcome;
        }
    }
    if let Err(error) = remember(rows, proposer, life, key, &outcome) {
        rows.undo();
        return Err(error);
    }
    outcome
}

/// Whether a command with this refusal was decided on. What could not be read was not.
const fn is_decision(kind: ErrorKind) -> bool {
    !matches!(kind, ErrorKind::DriveFailed | ErrorKind::Corrupt | ErrorKind::Bug)
}

/// The life that a command belongs to, if commands of this number are taken.
fn expect_open(rows: &Rows<'_>, proposer: Proposer) -> Result<Life, Error> {
    let Proposer { actor, session, request, done_below } = proposer;
    let Some(life) = rows.find::<Life>(&keys::session(actor))? else {
        return Err(Error::new(ErrorKind::Fenced, "this session was not opened in this group: open one first")
            .with("actor", actor));
    };
    if life.session != session {
        return Err(over(actor, life.session.epoch));
    }
    if request < life.floor {
        return Err(Error::new(ErrorKind::Fenced, "who sent this command waits for it no more: it is too late for it")
            .with("actor", actor)
            .with("request", request));
    }
    if request < done_below {
        return Err(Error::invalid("a command says of itself that it has ended").with("request", request));
    }
    if request - done_below.max(life.floor) >= SESSION_REQUESTS_MAX {
        return Err(Error::new(
            ErrorKind::Overloaded,
            "too many commands of this session are under way; send again later",
        )
        .with("actor", actor)
        .with("limit", SESSION_REQUESTS_MAX));
    }
    Ok(life)
}

fn over(actor: ActorId, least: Epoch) -> Error {
    Error::new(ErrorKind::Fenced, "this session is over: another of the same actor is open")
        .with("actor", actor)
        .redirect_to(Redirect { actor: Some(actor), epoch: Some(least), ..Redirect::default() })
}

fn remember(
    rows: &mut Rows<'_>,
    proposer: Proposer,
    life: Life,
    key: Vec<u8>,
    outcome: &Result<MetaAnswer, Error>,
) -> Result<(), Error> {
    let Proposer { actor, session, done_below, .. } = proposer;
    rows.put(key, &Said::of(outcome))?;
    if done_below > life.floor {
        // At once: what its sender has given up must not take effect behind this one.
        rows.put(keys::session(actor), &Life { floor: done_below, ..life })?;
    }
    if done_below / STRIDE > life.floor / STRIDE { forget(rows, actor, session, done_below) } else { Ok(()) }
}

/// Forgets what was said to earlier sessions, and to this one's numbers below the floor: the oldest rows of it.
fn forget(rows: &mut Rows<'_>, actor: ActorId, session: Session, floor: u64) -> Result<(), Error> {
    let mut old = Vec::new();
    rows.scan(&keys::answers(actor), &keys::answer(actor, session, floor), |key, _: Said| {
        old.push(key.to_vec());
        Ok(if old.len() < FORGOTTEN_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    old.into_iter().for_each(|key| rows.remove(key));
    Ok(())
}

/// Answers are forgotten so many numbers at a time.
const STRIDE: u64 = 64;
/// Answers that one command forgets at most: more than come in between, so that what is left of a crowd goes soon.
const FORGOTTEN_MAX: usize = 256;

const _: () = assert!(FORGOTTEN_MAX as u64 > STRIDE);
