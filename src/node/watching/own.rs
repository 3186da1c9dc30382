//! What nobody counts because it is known at any moment: how the node is, what it sees of the mesh, and how its drives are.

use core::time::Duration;

use mesh_core::{
    figures::{By, Count, Figures as _, Labels, Level, Page, Span, Spent},
    topology::{DriveState, NodeKind, NodeState},
};

use crate::node::{Inner, media};

mesh_core::figures! {
    /// The process.
    struct Process as "mesh_process" {
        /// CPU time that the process has used, which may run several nodes.
        cpu_seconds: Spent,
        /// Memory that the process has in RAM now.
        resident_memory_bytes: Level,
        /// When this start of the node began, in seconds since 1970.
        start_time_seconds: Span,
    }

    /// Who it is.
    struct Info as "mesh_node" {
        /// 1: the labels say which node this is, what it runs on and whose DPU it is, and of which build.
        info: Level,
    }

    /// The node.
    struct Node as "mesh_node" {
        /// Whether it takes data, as far as it knows: what `/readyz` says in words.
        ready: Level,
        /// Reads through this node that found data of which too little is left.
        lost_reads: Count,
        /// Actors that run here.
        actors: Level,
        /// What the build of this node can do.
        feature_level: Level,
    }

    /// The mesh, as this node sees it.
    struct Mesh as "mesh_seen" {
        /// Nodes of the mesh, as this node sees them.
        nodes: By<NodeState, Level>,
        /// Drives of the mesh, as this node sees them.
        drives: By<DriveState, Level>,
        /// Drives that are being emptied, or are out because they were away.
        leaving_drives: Level,
        /// Whether reads go on when any one more node is lost: nothing that is stored is short of shards.
        survives_reads: Level,
        /// Whether writes go on when any one more node is lost.
        survives_writes: Level,
        /// The newest layout of the drives.
        layout: Level,
        /// Placement groups of that.
        layout_groups: Level,
        /// What the builds of all nodes can do together.
        feature_level: Level,
        /// Tenants of the mesh.
        tenants: Level,
    }

    /// One of the node's drives.
    struct Drive as "mesh_drive" {
        /// Whether the drive is in this state.
        state: By<DriveState, Level>,
        /// Bytes that the drive has in all.
        capacity_bytes: Level,
        /// Bytes of the drive that are free for new shards.
        free_bytes: Level,
        /// Shards that the drive holds.
        shards: Level,
        /// Records of the drive that were found damaged since its node started.
        corrupt_records: Count,
        /// Shards of the drive that are known to be damaged now.
        damaged_shards: Level,
        /// Segments that the drive had and that were gone when it was opened: it was emptied, shortened, or put back from a copy.
        gone_segments: Level,
        /// How many parts of its medium the drive has read back in this round.
        scrub_position: Level,
        /// How many parts there are to be read back.
        scrub_parts: Level,
        /// When everything on the drive had been read back last, in seconds since 1970; 0: never.
        scrub_ended_time_seconds: Span,
    }
}

/// Adds all that.
pub(super) fn tell(node: &Inner, page: &mut Page) {
    let (used, start_ms) = (node.env.machine.used(), node.started.0);
    let process = Process {
        cpu_seconds: Spent(Duration::from_nanos(used.cpu_ns)),
        resident_memory_bytes: Level(used.resident_bytes),
        start_time_seconds: Span(Duration::from_millis(start_ms)),
    };
    process.tell(&Labels::default(), page);
    tell_node(node, page);
    tell_mesh(node, page);
    Drive::declare(page);
    for (report, gone) in media::said_last(node) {
        let mut drive = Drive {
            capacity_bytes: Level(report.capacity_bytes),
            free_bytes: Level(report.free_bytes),
            shards: Level(report.shards),
            corrupt_records: Count(report.corrupt),
            damaged_shards: Level(report.damaged),
            gone_segments: Level(gone.into()),
            scrub_position: Level(report.scrub.at.into()),
            scrub_parts: Level(report.scrub.of.into()),
            scrub_ended_time_seconds: Span(Duration::from_millis(report.scrub.ended.0)),
            ..Drive::default()
        };
        drive.state.of_mut(report.state).0 = 1;
        drive.tell(&Labels::default().text("drive", report.drive.to_string()), page);
    }
}

fn tell_node(node: &Inner, page: &mut Page) {
    let own = Node {
        ready: Level(u64::from(node.unready().is_empty())),
        lost_reads: Count(node.losses.count()),
        actors: Level(node.host.actors().len() as u64),
        feature_level: Level(node.env.level.0.into()),
    };
    own.tell(&Labels::default(), page);
    let kind = match node.kind() {
        NodeKind::Host => "host",
        NodeKind::Dpu => "dpu",
    };
    let host = node.config.dpu.as_ref().map(|dpu| dpu.attached_to.id().to_string()).unwrap_or_default();
    let labels = Labels::default()
        .text("node", node.id.to_string())
        .word("kind", kind)
        .text("attached_to", host)
        .word("version", env!("CARGO_PKG_VERSION"));
    Info { info: Level(1) }.tell(&labels, page);
}

fn tell_mesh(node: &Inner, page: &mut Page) {
    let (control, outlook) = (node.metadata.control(), node.outlook());
    let mut mesh = Mesh {
        leaving_drives: Level(control.leaving.len() as u64),
        feature_level: Level(control.level.0.into()),
        tenants: Level(control.tenants.len() as u64),
        ..Mesh::default()
    };
    for report in outlook.status(&control) {
        mesh.nodes.of_mut(report.state).0 += 1;
        if let Some(survival) = &report.survival {
            mesh.survives_reads = Level(survival.reads.into());
            mesh.survives_writes = Level(survival.writes.into());
        }
    }
    for (_, state) in &outlook.drives {
        mesh.drives.of_mut(*state).0 += 1;
    }
    if let Some(newest) = control.layouts.values().next_back() {
        mesh.layout = Level(newest.id.0);
        mesh.layout_groups = Level(newest.groups.len() as u64);
    }
    mesh.tell(&Labels::default(), page);
}
