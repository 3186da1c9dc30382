//! The types that Raft is made of here, and how they are encoded.
//!
//! ```text
//! a log entry, a vote, a watermark, a mark's claims, a Raft message:   format:1  value
//! ```
//!
//! The format is that of metadata values ([`mesh_core::meta::FORMAT`]), for commands stand in entries: what is here grows as
//! they do.

use std::{fmt, io, sync::Arc};

use mesh_core::{
    Error, ErrorKind,
    meta::{self, Command, Level, MeshCommand, MetaAnswer},
};
use openraft::{EntryPayload, alias};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

openraft::declare_raft_types!(
    /// Raft's types: numbers for nodes, commands for data.
    pub(crate) Types:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = (),
        AsyncRuntime = super::runtime::Runtime,
);

pub(super) type Entry = alias::EntryOf<Types>;
pub(super) type LogId = alias::LogIdOf<Types>;
pub(super) type Vote = alias::VoteOf<Types>;
pub(super) type Membership = alias::StoredMembershipOf<Types>;
pub(super) type SnapshotMeta = alias::SnapshotMetaOf<Types>;

/// What is proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal(pub(super) Arc<Command>);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command")
    }
}

/// What applying an entry came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Applied {
    /// The entry was Raft's own.
    Nothing,
    /// What the state machine says.
    Answer(Arc<MetaAnswer>),
    /// What the state machine refused.
    Refused(#[serde(with = "refusal")] Error),
}

/// Raft demands that answers can be encoded, though they never leave the node by this way: kind, text and redirect.
mod refusal {
    use mesh_core::{
        Error, ErrorKind, Redirect,
        id::{ActorId, Epoch, GroupId, NodeId},
    };
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type To = (Option<ActorId>, Option<Epoch>, Option<NodeId>, Option<GroupId>);

    #[derive(Serialize, Deserialize)]
    struct Refusal {
        kind: u16,
        message: String,
        redirect: Option<To>,
    }

    pub(super) fn serialize<S: Serializer>(error: &Error, serializer: S) -> Result<S::Ok, S::Error> {
        let redirect = error.redirect().map(|to| (to.actor, to.epoch, to.node, to.group));
        Refusal { kind: error.kind().number(), message: error.to_string(), redirect }.serialize(serializer)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Error, D::Error> {
        let refusal = Refusal::deserialize(deserializer)?;
        let error = Error::new(ErrorKind::from_number(refusal.kind), refusal.message);
        Ok(match refusal.redirect {
            Some((actor, epoch, node, group)) => error.redirect_to(Redirect { actor, epoch, node, group }),
            None => error,
        })
    }
}

pub(super) fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    encode_onto(&mut bytes, value)?;
    Ok(bytes)
}

/// The level of the mesh that an entry raises it to: what stands behind it may be of that level.
pub(super) fn raised_by(entry: &Entry) -> Level {
    match &entry.payload {
        EntryPayload::Normal(Proposal(command)) => match **command {
            Command::Mesh(MeshCommand::RaiseLevel(level)) => level,
            _ => Level::FIRST,
        },
        _ => Level::FIRST,
    }
}

/// A build meets what only a later one can do.
pub(super) fn beyond(level: Level, needed: Level) -> Error {
    let what = "the mesh does by now what this build cannot: this node takes no part in it; run a newer build on it";
    Error::new(ErrorKind::Unsupported, what).with("level", level).with("needed", needed)
}

/// Puts a value behind what is there.
pub(super) fn encode_onto<T: Serialize>(bytes: &mut Vec<u8>, value: &T) -> io::Result<()> {
    meta::encode_onto(bytes, value).map_err(io::Error::other)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    meta::decode(bytes).map_err(|error| {
        // What a newer build wrote is not damaged.
        let is_newer = error.kind() == ErrorKind::Unsupported;
        io::Error::new(if is_newer { io::ErrorKind::Unsupported } else { io::ErrorKind::InvalidData }, error)
    })
}
