//! Nothing is taken any more of what nodes began that have left the mesh: their last session is opened in each namespace group,
//! one after the other, by whoever leads the control group; once that is so everywhere, it is remembered there.

use mesh_core::{
    id::{ActorId, GroupId, NodeId},
    meta::{Command, ControlView, MeshCommand, Session},
    topology::Departure,
};

/// What the leader of the control group has done of it.
#[derive(Clone, Debug, Default)]
pub struct Fences {
    /// For whom, and how many groups know.
    under_way: Option<(NodeId, u64)>,
}

impl Fences {
    /// What is to be proposed next, if anything is.
    pub fn look(&mut self, view: &ControlView) -> Option<Command> {
        let is_due = |node: &NodeId| view.departures.get(node) == Some(&Departure::Out);
        self.under_way = self.under_way.filter(|(node, _)| is_due(node));
        if self.under_way.is_none() {
            self.under_way = view.departures.keys().find(|node| is_due(node)).map(|node| (*node, 0));
        }
        let (node, known) = self.under_way?;
        if known >= u64::from(view.namespaces) {
            return Some(MeshCommand::FencedNode { node }.into());
        }
        let (group, actor) = (GroupId(known + 1), ActorId::ingress(node));
        Some(Command::OpenSession { group, actor, session: Session::LAST })
    }

    /// What was to be proposed is decided, or not.
    pub fn ended(&mut self, well: bool) {
        if let Some((_, known)) = self.under_way.as_mut().filter(|_| well) {
            *known += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespace_group_knows_before_it_is_remembered() {
        let mut view = ControlView { namespaces: 2, ..ControlView::default() };
        let mut fences = Fences::default();
        assert_eq!(fences.look(&view), None);
        view.departures.insert(NodeId(2), Departure::Asked);
        view.departures.insert(NodeId(3), Departure::Fenced);
        assert_eq!(fences.look(&view), None);
        view.departures.insert(NodeId(4), Departure::Out);
        let opens = |group| Command::OpenSession {
            group: GroupId(group),
            actor: ActorId::ingress(NodeId(4)),
            session: Session::LAST,
        };
        assert_eq!(fences.look(&view), Some(opens(1)));
        fences.ended(false);
        assert_eq!(fences.look(&view), Some(opens(1)), "it was not decided");
        fences.ended(true);
        assert_eq!(fences.look(&view), Some(opens(2)));
        fences.ended(true);
        for _ in 0..2 {
            assert_eq!(fences.look(&view), Some(MeshCommand::FencedNode { node: NodeId(4) }.into()));
            fences.ended(true);
        }
        view.departures.insert(NodeId(4), Departure::Fenced);
        assert_eq!(fences.look(&view), None);
    }
}
