//! Whether nodes hold of each other what each says of itself. Every node judges by what it holds: one that missed something
//! for good would judge by what was so once, and nobody would see why.

use mesh_core::{id::NodeId, op::NodeReport};

use super::Cluster;

impl Cluster {
    /// Something that a node says of itself and another one holds otherwise: never so for long, where everybody hears
    /// everybody.
    #[must_use]
    pub fn disagreement(&self) -> Option<String> {
        let deaf = self.agents.iter().find(|(_, agent)| agent.telling);
        if let Some((node, _)) = deaf {
            return Some(format!("the metadata replicas of {node} have not been told who is there"));
        }
        let pairs = self.agents.keys().flat_map(|by| self.agents.keys().map(move |of| (*by, *of)));
        pairs.filter(|(by, of)| by != of).find_map(|(by, of)| self.hears_otherwise(by, of))
    }

    fn hears_otherwise(&self, by: NodeId, of: NodeId) -> Option<String> {
        let (holder, speaker) = (self.agents.get(&by)?, self.agents.get(&of)?);
        let said = states(&speaker.steward.outlook().own());
        let Some(held) = holder.steward.outlook().sight.reports.get(&of) else {
            return Some(format!("{by} holds nothing of what {of} says of itself"));
        };
        let held = states(held);
        (held != said).then(|| format!("{by} holds this of {of}: {held:?}, which says of itself: {said:?}"))
    }
}

/// A report without its figures, which others are told at a pace.
fn states(report: &NodeReport) -> NodeReport {
    let mut states = report.clone();
    states.load = Default::default();
    for drive in &mut states.drives {
        (drive.free_bytes, drive.shards, drive.corrupt) = (0, 0, 0);
    }
    for actor in &mut states.actors {
        (actor.jobs, actor.bytes, actor.requests, actor.traffic_bytes) = (0, 0, 0, 0);
    }
    states
}
