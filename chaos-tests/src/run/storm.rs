//! The storm: clients work while faults happen; and its end.

use core::time::Duration;

use mesh_core::id::{DriveId, NodeId};

use super::{Errand, Fault, PATIENCE, Room, node_of, weather_of};
use crate::{
    cluster::ActWeather,
    disk::{Crash, DiskWeather},
    metadata::MetadataWeather,
    network::NetworkWeather,
    planted::Bug,
};

impl Room {
    /// From the first client's first step until the storm has blown over.
    pub(super) fn storm(&mut self) {
        if self.is_wrong() {
            return;
        }
        self.storming = true;
        self.world.network.set_weather(self.swarm.network.clone());
        let disk = weather_of(self.swarm.disk.clone(), self.bug);
        self.world.disks.values_mut().for_each(|one| one.set_weather(disk.clone()));
        let mut metadata = self.swarm.metadata.clone();
        metadata.stale_reads = self.bug == Some(Bug::StaleRead);
        self.world.metadata.set_weather(metadata);
        self.cluster.set_weather(self.swarm.acts.clone());
        for at in 0..self.clients.len() {
            let think = self.clients[at].think(&self.swarm);
            self.timer(think, Errand::Thought(at));
        }
        for at in 0..self.swarm.faults.len() {
            let after = self.swarm.faults[at].0;
            self.timer(after, Errand::FaultBegins(at));
        }
        self.cluster.wish_on(&mut self.world, true);
        if self.swarm.moves_per_mille > 0 {
            self.change();
        }
        self.run_until(self.swarm.storm, |_| false);
    }

    /// All faults off. Clients end what they do.
    pub(super) fn heal(&mut self) {
        if self.is_wrong() {
            return;
        }
        self.storming = false;
        self.cluster.wish_on(&mut self.world, false);
        self.world.note(&[50], || "all faults off".to_owned());
        self.world.network.set_weather(NetworkWeather::calm());
        self.world.network.heal();
        let disk = weather_of(DiskWeather::calm(), self.bug);
        for one in self.world.disks.values_mut() {
            one.set_weather(disk.clone());
            one.heal();
        }
        let stale_reads = self.bug == Some(Bug::StaleRead);
        self.world.metadata.set_weather(MetadataWeather { stale_reads, ..MetadataWeather::calm() });
        self.world.metadata.lose_leaders(0);
        self.cluster.set_weather(ActWeather::calm());
        for node in self.swarm.members() {
            self.world.crash_at_effect(node, u64::MAX, Crash::Kill);
            // A drive believes its medium to be full until it is started anew: an operator who has made room does that.
            let filled = |fault: &Fault| matches!(fault, Fault::Full { drive, .. } if node_of(*drive) == node);
            if self.swarm.faults.iter().any(|(_, fault)| filled(fault)) {
                self.world.crash(node, Crash::Kill);
            }
            self.cluster.start(&mut self.world, node);
        }
        let idle = |room: &Self| room.clients.iter().all(|client| client.task.is_none());
        if !self.run_until(PATIENCE, idle) && !self.is_wrong() {
            let stuck: Vec<String> = self
                .clients
                .iter()
                .filter(|client| client.task.is_some())
                .map(|client| format!("{client:?}"))
                .collect();
            let left = self.world.unfinished().join("; ");
            self.world.violate(|| format!("clients wait for ever: {}; {left}", stuck.join(", ")));
        }
    }

    pub(super) fn begin_fault(&mut self, at: usize) {
        if !self.storming {
            return;
        }
        let Some((_, fault)) = self.swarm.faults.get(at).cloned() else { return };
        self.world.note(&[51, at as u64], || format!("fault {at}: {fault:?}"));
        let now = self.world.now();
        let lasting = |span: Duration| (now + span).0;
        match fault {
            Fault::Crash { node, effects, power, down } => {
                let crash = if power { Crash::Power } else { Crash::Kill };
                let effect = self.world.effects(node) + effects;
                self.down.insert(node, down);
                self.world.crash_at_effect(node, effect, crash);
            }
            Fault::Blackout { down } => {
                for (node, down) in self.swarm.node_ids().zip(down) {
                    self.crash(node, down);
                }
            }
            Fault::Cut { from, to, both, span } => {
                self.world.network.cut(from, to, true);
                if both {
                    self.world.network.cut(to, from, true);
                }
                self.timer(span, Errand::FaultEnds(at));
            }
            Fault::Isolate { node, span } => {
                self.isolate(node, true);
                self.timer(span, Errand::FaultEnds(at));
            }
            Fault::SlowLink { from, to, times, span } => {
                self.world.network.slow_down(from, to, times);
                self.timer(span, Errand::FaultEnds(at));
            }
            Fault::Stall { drive, span } => {
                if let Some(disk) = self.world.disks.get_mut(&drive) {
                    disk.stall(lasting(span));
                }
            }
            Fault::SlowDisk { drive, times, span } => {
                self.slow_disk(drive, times);
                self.timer(span, Errand::FaultEnds(at));
            }
            Fault::Full { drive, span } => {
                if let Some(disk) = self.world.disks.get_mut(&drive) {
                    disk.fill(lasting(span));
                }
            }
            Fault::Rot { drive, blocks } => {
                let rotten = self.world.disks.get_mut(&drive).map_or(0, |disk| disk.rot(blocks));
                self.world.note(&[52, drive.0, rotten], || format!("{drive}: {rotten} blocks rot"));
            }
            Fault::Destroy { drive, down } => {
                self.crash(node_of(drive), down);
                if let Some(disk) = self.world.disks.get_mut(&drive) {
                    disk.wipe();
                }
                self.cluster.replace(drive);
            }
            Fault::Leaderless { span } => self.world.metadata.lose_leaders(lasting(span)),
            Fault::Anew { node } => self.cluster.begin_anew(&mut self.world, node),
            Fault::Breakdown { node } => self.cluster.break_down(&mut self.world, node),
        }
    }

    pub(super) fn end_fault(&mut self, at: usize) {
        let Some((_, fault)) = self.swarm.faults.get(at).cloned() else { return };
        match fault {
            Fault::Cut { from, to, .. } => {
                self.world.network.cut(from, to, false);
                self.world.network.cut(to, from, false);
            }
            Fault::Isolate { node, .. } => self.isolate(node, false),
            Fault::SlowLink { from, to, .. } => self.world.network.slow_down(from, to, 1),
            Fault::SlowDisk { drive, .. } => self.slow_disk(drive, 1),
            _ => {}
        }
    }

    fn crash(&mut self, node: NodeId, down: Duration) {
        if self.world.is_up(node) {
            self.down.insert(node, down);
            self.world.crash(node, Crash::Power);
        }
    }

    fn isolate(&mut self, node: NodeId, cut: bool) {
        for other in self.swarm.members().filter(|other| *other != node) {
            self.world.network.cut(node, other, cut);
            self.world.network.cut(other, node, cut);
        }
    }

    fn slow_disk(&mut self, drive: DriveId, times: u32) {
        if let Some(disk) = self.world.disks.get_mut(&drive) {
            disk.slow_down(times);
        }
    }
}
