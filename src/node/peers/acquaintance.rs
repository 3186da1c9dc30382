//! Who speaks: whether a beat is of the node that is known under its number, and what others remember of this one.
//!
//! The judgement is [`mesh_placement::witness`]'s; here is who is told it, and who waits for it.

use std::sync::Arc;

use mesh_core::{
    Error, ErrorKind, Op,
    id::{GroupId, Incarnation, NodeId},
    meta::{Command, ControlView},
    op::{NodeReport, Witness},
    port::Role,
};
use mesh_placement::witness::{self, Said, Verdict};

use super::{super::lock, Inner, Peers};

impl Inner {
    /// A report as it is told to another node: with what is remembered of that one.
    pub(super) fn told(&self, own: &NodeReport, to: NodeId) -> Arc<NodeReport> {
        Arc::new(NodeReport { witness: self.witness(to), ..own.clone() })
    }

    /// What is remembered of another node: what it said itself, or what the control group knows since before this start.
    fn witness(&self, node: NodeId) -> Option<Witness> {
        let known = lock(&self.peers).witnesses.get(&node).copied();
        known.or_else(|| {
            let view = self.metadata.control();
            let info = view.nodes.get(&node)?;
            let (voters, learners) = self.metadata.members(GroupId::CONTROL);
            let replica = voters.into_iter().chain(learners).find(|replica| replica.node() == node);
            Some(Witness { life: info.life, incarnation: info.incarnation, replica, marked: 0 })
        })
    }

    /// Hears which starts the mesh has registered: of two machines that started at once under one number it is that one,
    /// whichever this node had heard first.
    pub(in crate::node) fn heed_starts(&self, view: &ControlView) {
        let mut peers = lock(&self.peers);
        let Peers { witnesses, said, addresses, .. } = &mut *peers;
        for info in view.nodes.values() {
            let Some(known) = witnesses.get_mut(&info.id).filter(|known| known.life == info.life) else { continue };
            let counts = said
                .get(&info.id)
                .filter(|report| (report.life, report.incarnation) == (known.life, known.incarnation));
            if counts.is_some_and(|report| witness::gives_way(&report.starts, info.incarnation)) {
                tracing::debug!(node = %self.id, peer = %info.id, start = %info.incarnation, "the mesh has registered another start");
                *known = Witness { incarnation: info.incarnation, marked: 0, ..*known };
                addresses.remove(&info.id);
            }
        }
    }

    /// Takes a report, if it is of the node that is known under its number: see [`mesh_placement::witness`]. And hears
    /// what the other remembers of this node.
    pub(super) fn take_note(&self, report: Arc<NodeReport>) {
        if let Some(witness) = &report.witness
            && let (Some(replica), Some(why)) = (witness.replica, witness::set_back(&self.said(), witness))
        {
            self.metadata.disown(replica, &why);
        }
        let node = report.node;
        let known = self.witness(node);
        let member = self.metadata.control().nodes.get(&node).map(|info| info.life);
        let said = said_in(&report);
        let now = self.env.clock.now();
        {
            let mut peers = lock(&self.peers);
            let elsewhere = peers.said.get(&node).is_some_and(|before| {
                let is_known = known.is_some_and(|known| known.incarnation == before.incarnation);
                is_known && before.address != report.address && peers.sight.spoke_lately(node, now)
            });
            let verdict = witness::judge(&said, known.as_ref(), member, elsewhere);
            if verdict != Verdict::Known {
                peers.turned_away.insert(node, (report.incarnation, verdict.clone()));
                let addresses = peers.refused.entry(node).or_default();
                if addresses.len() < REFUSED_MAX && addresses.insert(report.address.clone()) {
                    tracing::warn!(node = %self.id, peer = %node, address = report.address, ?verdict, "a beat does not count");
                }
                return;
            }
            if peers.turned_away.get(&node).is_some_and(|(start, _)| *start == report.incarnation) {
                peers.turned_away.remove(&node);
            }
            // Until it speaks for itself, another's word for where it is counts.
            if peers.given.remove(&node) {
                peers.addresses.remove(&node);
            }
            // What another machine said under this number was of itself.
            if known.is_some_and(|known| known.life != said.life) {
                peers.addresses.remove(&node);
                peers.said.remove(&node);
                peers.sight.forget(node);
            }
            peers.witnesses.insert(node, said.remembered(known.as_ref()));
        }
        if let Ok(address) = report.address.parse() {
            self.locate_peer(node, address, report.incarnation);
        }
        self.link.restarted(node, report.incarnation);
        self.note(report);
        self.beat_counted.notify_waiters();
    }

    /// What this node says of itself.
    fn said(&self) -> Said<'_> {
        Said {
            life: self.life,
            starts: &self.starts,
            replica: self.metadata.replica_id(GroupId::CONTROL),
            marked: self.metadata.marked(),
        }
    }

    /// Whether a metadata request of another node may be passed on.
    pub(in crate::node) async fn admits(&self, from: &Role, op: &Op) -> Result<(), Error> {
        match op {
            Op::Propose { command, .. } => self.admits_command(from, command).await,
            _ => Ok(()),
        }
    }

    /// A start of a node is registered by itself, and only once its beats count: one that does not would take the place
    /// of the one that does. Another machine under its number is told so by the group.
    pub(in crate::node) async fn admits_command(&self, from: &Role, command: &Command) -> Result<(), Error> {
        let Command::PutNode(info) = command else { return Ok(()) };
        let member = self.metadata.control().nodes.get(&info.id).map(|known| known.life);
        if *from != Role::Node(info.id) || member.is_some_and(|life| life != info.life) {
            return Ok(());
        }
        let met = self.met(info.id, info.incarnation).await;
        met.map_err(|error| {
            let peers = lock(&self.peers);
            let turned_away = peers.turned_away.get(&info.id).filter(|(start, _)| *start == info.incarnation);
            match turned_away {
                Some((_, Verdict::Twin)) => {
                    let what = "another process runs under the number of this node, from the same folder or a copy of \
                                it: stop one of the two";
                    let at = peers.said.get(&info.id).map(|report| report.address.clone());
                    Error::new(ErrorKind::Conflict, what).with("at", at.unwrap_or_default())
                }
                _ => error,
            }
        })
    }

    /// Waits until this start of a node has said to this one of ours who it is, and counts: what it remembers of this
    /// node must be known before anything is promised to it.
    pub(in crate::node) async fn acquainted(&self, from: &Role, start: Incarnation) -> Result<(), Error> {
        match from {
            Role::Node(node) => self.met(*node, start).await,
            _ => Err(Error::new(ErrorKind::Denied, "only nodes take part in metadata groups")),
        }
    }

    async fn met(&self, node: NodeId, start: Incarnation) -> Result<(), Error> {
        // What was heard of a start that has given way to another counts no more.
        let counts = || {
            let peers = lock(&self.peers);
            let is_it = |witness: &Witness| witness.incarnation == start;
            let said = peers.said.get(&node).is_some_and(|report| report.incarnation == start);
            said && peers.witnesses.get(&node).is_some_and(is_it)
        };
        let met = async {
            loop {
                let told = self.beat_counted.notified();
                tokio::pin!(told);
                told.as_mut().enable();
                if counts() {
                    return;
                }
                told.await;
            }
        };
        tokio::time::timeout(MEET_MAX, met).await.map_err(|_| {
            Error::new(ErrorKind::Draining, "this node has heard no beat of yours that counts").with("node", node)
        })
    }
}

/// What a node says of itself in a report.
fn said_in(report: &NodeReport) -> Said<'_> {
    let control = report.groups.iter().find(|said| said.group == GroupId::CONTROL);
    let replica = control.map(|said| said.replica);
    Said { life: report.life, starts: &report.starts, replica, marked: report.marked }
}

/// Addresses of which it is said that their beats do not count: of each number.
const REFUSED_MAX: usize = 8;
/// A node that is there beats at once: who has said nothing for so long has no say either.
const MEET_MAX: core::time::Duration = core::time::Duration::from_secs(1);
