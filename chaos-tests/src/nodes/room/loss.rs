//! Most of those that vote are lost for good, and the mesh goes on from what is left.

use std::{collections::BTreeSet, sync::Arc};

use mesh_core::{
    id::{GroupId, NodeId},
    topology::Code,
};

use super::Room;
use crate::{
    nodes::{clients::Errand, log, plan::Fault},
    random::Stream,
};

/// Who is lost.
pub(super) struct Loss {
    /// Hosts and their DPUs.
    nodes: BTreeSet<NodeId>,
    /// Has the metadata go on.
    errand: Arc<Errand>,
    /// DPUs that have been made to begin anew for it.
    emptied: BTreeSet<NodeId>,
    dice: Stream,
}

impl Room {
    /// As many of those that vote in the control group as it takes for nobody to lead it are lost, for good, and somebody sees to
    /// it that the others go on. One of these may die meanwhile, at any step.
    ///
    /// # Errors
    /// Nobody says who votes.
    pub(in crate::nodes) fn lose_majority(&mut self) -> Result<(), String> {
        let mut dice = Stream::new(self.shared.seed, "loss", 0);
        let led = self.nodes().find_map(|(id, _, node)| {
            let reports = node.status();
            let own = reports.iter().find(|report| report.node == id)?;
            own.groups.iter().find(|group| group.group == GroupId::CONTROL && group.leader == Some(id)).cloned()
        });
        let Some(led) = led else { return Err("nobody leads the control group, and all is well".to_owned()) };
        let mut voters: Vec<NodeId> = led.voters.iter().map(|voter| voter.node()).collect();
        let (few, mut nodes) = (voters.len() / 2, BTreeSet::new());
        while voters.len() > few {
            let gone = voters.swap_remove(usize::try_from(dice.below(voters.len() as u64)).unwrap_or(0));
            log::say(|| format!("ROOM {gone} is lost for good"));
            let parts = self.parts(gone);
            nodes.extend(&parts);
            // What is in it may go on alone.
            for node in parts.into_iter().filter(|node| *node == gone || dice.chance(500)) {
                self.kill(node, true);
            }
        }
        self.give_up(&nodes);
        let left = self.hosts_there();
        let mut dies = None;
        if dice.chance(500) {
            let node = *dice.pick(&left).ok_or("no host is left")?;
            let (steps, power, down) = (dice.below(300), dice.chance(500), 10 + dice.below(3_000));
            self.befall(1 + dice.below(8_000), Fault::Crash { node, steps, power, down });
            dies = Some(node);
        }
        log::expect("this node's metadata wait");
        log::expect("it was to go on by itself");
        let errand: Arc<Errand> = Arc::default();
        let end = self.clients.recover(left, (nodes.clone(), dies), errand.clone());
        self.net.add(end);
        self.loss = Some(Loss { nodes, errand, emptied: BTreeSet::new(), dice });
        Ok(())
    }

    /// Where a DPU has heard of what no host has that is left, somebody accepts that this is lost, too, and does what he is told to.
    pub(super) fn see_to_loss(&mut self) {
        let Some(loss) = self.loss.as_mut().filter(|loss| !loss.errand.is_over()) else { return };
        let why = loss.errand.why();
        let named = why.rsplit_once("node=node-").filter(|_| why.contains("a DPU has heard of more"));
        let Some(Ok(dpu)) = named.map(|(_, rest)| rest.trim_end_matches(']').parse().map(NodeId)) else { return };
        if loss.emptied.insert(dpu)
            && let Some(metadata) = self.kill_for_its_metadata(dpu, 10)
        {
            log::say(|| format!("ROOM {dpu} begins anew"));
            metadata.lose_database();
        }
    }

    /// Why the mesh does not go on yet without those that are lost; none: it does.
    pub(in crate::nodes) fn unrecovered(&self) -> Option<String> {
        let Loss { nodes, errand, .. } = self.loss.as_ref()?;
        if !errand.is_over() {
            return Some(errand.why());
        }
        let view = self.newest()?;
        let member = nodes.iter().find(|node| !view.is_out(**node));
        member.map(|node| format!("every group is said to go on, and {node} is not out"))
    }

    /// Whether the hosts that are left have a drive for each shard of a stripe.
    pub(in crate::nodes) fn can_write(&self, code: Code) -> bool {
        let drives = |host: NodeId| self.machines.get(&host).map_or(0, |machine| machine.config.drives.len());
        self.hosts_there().into_iter().map(drives).sum::<usize>() >= code.shards()
    }

    /// Those that were lost are back all the same, for they only seemed to be.
    pub(in crate::nodes) fn raise_the_lost(&mut self) {
        let Some(loss) = &mut self.loss else { return };
        let nodes = loss.nodes.clone();
        let back: Vec<(NodeId, u64)> = nodes.iter().map(|node| (*node, 1 + loss.dice.below(3_000))).collect();
        self.note_out(&nodes);
        for (node, after) in back {
            self.raise(node, after);
        }
    }

    /// They are taken away, with all that is on them.
    pub(in crate::nodes) fn bury_the_lost(&mut self) {
        self.ask_nobody();
        let Some(loss) = &self.loss else { return };
        let nodes = loss.nodes.clone();
        self.give_up(&nodes);
        nodes.into_iter().for_each(|node| self.kill(node, true));
    }
}
