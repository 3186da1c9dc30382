//! What builds can do, and what the nodes of a mesh can do all together: [`Level`].
//!
//! A build passes over fields that it does not know and answers operations that it does not know; a command that it does not
//! know it can neither store nor apply, and a new field it does not keep. So whatever all replicas have to understand has a
//! level, and waits until every node speaks it:
//!
//! ```text
//!   a node registers      NodeInfo::level = LEVEL of its build; below the mesh's: it is refused
//!   all nodes speak more  the leader of the control group proposes RaiseLevel; the mesh's level never falls
//!   from then on          commands of that level may be proposed, and no older build comes back
//! ```

use core::fmt;

use serde::{Deserialize, Serialize};

use super::ControlView;
use crate::{
    error::{Error, ErrorKind},
    id::NodeId,
};

/// How much a build can do, or the nodes of a mesh all together: everything of this level and of those below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Level(pub u16);

impl Level {
    /// What every build of this format can do.
    pub const FIRST: Self = Self(1);
    /// From here on layouts are of a line.
    pub const LINES: Self = Self(2);
    /// From here on what is settled is read where the newest settled layout has it, and what lies elsewhere is cleared away.
    pub const SETTLED: Self = Self(3);
    /// From here on drives can be emptied one by one.
    pub const DRAINS: Self = Self(4);
    /// From here on nodes can leave, and drives are taken out for the layout by which they were judged.
    pub const LEAVES: Self = Self(5);
    /// From here on a drive can take another's place.
    pub const SEATS: Self = Self(6);
    /// From here on data chains compress what buckets say is to be.
    pub const COMPRESS: Self = Self(7);
    /// From here on buckets have codes of their own, too.
    pub const CODES: Self = Self(7);
    /// From here on nodes say where they are, too.
    pub const PLACES: Self = Self(7);
    /// From here on not every host has a replica of every namespace group.
    pub const REPLICAS: Self = Self(8);
    /// From here on a group may go on from less than it once had, and layouts say by what their spare drives are chosen.
    pub const RECOVERY: Self = Self(9);
    /// From here on counts say what is lost, and replicas say from which recovery what they have comes.
    pub const LOSSES: Self = Self(10);
    /// From here on users can be taken out, and tenants' keys replaced.
    pub const ACCESS: Self = Self(11);
    /// From here on the mesh keeps an audit log.
    pub const AUDIT: Self = Self(12);
    /// From here on tenants can be deleted.
    pub const ENDS: Self = Self(13);
}

/// Of who does not say.
impl Default for Level {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl ControlView {
    /// Whether the mesh can do what needs a level.
    ///
    /// # Errors
    /// `Unsupported`, with the nodes that hold it back; `Overloaded` if nobody is known who does, and it may be asked again:
    /// the mesh is about to be raised, or this node has not heard of it yet.
    pub fn can(&self, needs: Level) -> Result<(), Error> {
        if needs <= self.level {
            return Ok(());
        }
        let who: Vec<String> = self.below(needs).map(|node| node.to_string()).collect();
        let error = if who.is_empty() {
            Error::new(ErrorKind::Overloaded, "the mesh is about to be able to do this; ask again")
        } else {
            let what =
                "the mesh cannot do this before every node runs a build that can; upgrade those that hold it back";
            Error::new(ErrorKind::Unsupported, what).with("held_back_by", who.join(" "))
        };
        Err(error.with("needs", needs).with("level", self.level))
    }

    /// The nodes that do not speak a level.
    pub fn below(&self, level: Level) -> impl Iterator<Item = NodeId> {
        self.nodes.values().filter(move |info| info.level < level).map(|info| info.id)
    }

    /// The level that all nodes speak, if that is more than the mesh's.
    #[must_use]
    pub fn level_to_come(&self) -> Option<Level> {
        let spoken = self.nodes.values().map(|info| info.level).min()?;
        (spoken > self.level).then_some(spoken)
    }
}

/// What this build can do. It goes up by one with whatever older builds cannot store, apply or keep, which gets a line:
///
/// | level | since |
/// |---|---|
/// | 1 | metadata format 3 |
/// | 2 | layouts of a line; repair |
/// | 3 | what is settled is read as settled; lists of drives that are relied on |
/// | 4 | drives that are being emptied |
/// | 5 | nodes that leave |
/// | 6 | drives that take another's place |
/// | 7 | compression and codes by bucket; zones and racks |
/// | 8 | namespace groups with replicas on some hosts alone |
/// | 9 | groups that go on from less than they had; spare drives chosen by what may be lost |
/// | 10 | counts that say what is lost |
/// | 11 | users that go, tenants' keys that are replaced |
/// | 12 | the audit log |
/// | 13 | tenants that are deleted |
pub const LEVEL: Level = Level::ENDS;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::Incarnation,
        topology::{NodeInfo, NodeKind},
    };

    fn view(level: u16, nodes: &[u16]) -> ControlView {
        let info = |(at, level): (usize, &u16)| NodeInfo {
            id: NodeId(at as u64 + 1),
            kind: NodeKind::Host,
            address: "127.0.0.1:1".into(),
            incarnation: Incarnation(1),
            pid: 1,
            draining: false,
            attached_to: None,
            emulated: None,
            life: 1,
            invitation: 0,
            level: Level(*level),
            location: None,
        };
        let nodes = nodes.iter().enumerate().map(info).map(|info| (info.id, info)).collect();
        ControlView { nodes, level: Level(level), ..ControlView::default() }
    }

    #[test]
    fn what_the_mesh_cannot_do_is_refused_with_who_holds_it_back() {
        assert_eq!(view(2, &[2, 3, 2]).can(Level(2)), Ok(()));
        assert_eq!(view(2, &[2, 3, 2]).can(Level(1)), Ok(()));
        let error = view(1, &[2, 1, 3, 1]).can(Level(2)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(
            error.to_string(),
            "the mesh cannot do this before every node runs a build that can; upgrade those that hold it back \
             [held_back_by=node-2 node-4 needs=2 level=1]"
        );
        let error = view(1, &[2, 2]).can(Level(2)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        assert_eq!(error.to_string(), "the mesh is about to be able to do this; ask again [needs=2 level=1]");
        assert_eq!(view(1, &[]).can(Level(2)).unwrap_err().kind(), ErrorKind::Overloaded, "it has just started");
    }

    #[test]
    fn the_level_to_come_is_the_lowest_that_is_spoken_if_it_is_more() {
        for (level, nodes, to_come) in [
            (1, &[2, 1, 2][..], None),
            (1, &[2, 2, 2], Some(2)),
            (1, &[4, 3, 5], Some(3)),
            (3, &[2, 3], None),
            (2, &[2, 2], None),
            (1, &[], None),
        ] {
            assert_eq!(view(level, nodes).level_to_come(), to_come.map(Level), "{nodes:?} in a mesh of level {level}");
        }
    }
}
