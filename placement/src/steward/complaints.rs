//! What only a person can mend, or should know of: said once, and again where it is another.

use mesh_core::Error;

use super::Act;

/// What is complained of.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// That the mesh has taken this node out.
    pub(super) out: Option<Error>,
    /// Why the mesh does not take this node in.
    pub(super) refused: Option<Error>,
    /// Why damaged metadata are not rebuilt.
    pub(super) unrenewed: Option<Error>,
    /// Why nothing is planned.
    pub(super) unplanned: Option<Error>,
    /// Why there is no new layout.
    pub(super) unlaid: Option<Error>,
    /// Why drives that are away do not go out.
    pub(super) kept_in: Option<Error>,
}

/// Keeps and tells it, once.
pub(super) fn complain(known: &mut Option<Error>, now: Option<Error>, say: fn(Error) -> Act, acts: &mut Vec<Act>) {
    let text = |error: &Option<Error>| error.as_ref().map(ToString::to_string);
    if let Some(error) = now.as_ref().filter(|_| text(&now) != text(known)) {
        acts.push(say(error.clone()));
    }
    *known = now;
}

pub(super) const fn unrenewed(error: Error) -> Act {
    Act::Complain("this node's metadata are damaged, and are not rebuilt", error)
}

pub(super) const fn waiting(error: Error) -> Act {
    Act::Complain("this node's metadata wait, and neither vote nor serve", error)
}

pub(super) const fn unlaid(error: Error) -> Act {
    Act::Complain("there is no new layout", error)
}

pub(super) const fn unplanned(error: Error) -> Act {
    Act::Complain("what runs where is not planned for now, and nothing moves", error)
}

pub(super) const fn kept_in(error: Error) -> Act {
    Act::Warn("drives that have been away for long stay in the layout, and what they held is not rebuilt", error)
}
