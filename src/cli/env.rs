//! `mesh env`: keeps `client.env` up to date.

use std::path::PathBuf;

use clap::Args;
use mesh_core::{
    Error, ErrorKind,
    op::NodeReport,
    topology::{NodeKind, NodeState},
};

use super::{Connect, exports, say, write_private};

/// Name all nodes of the mesh in the `client.env` that `mesh init` wrote, so that clients find it whichever node is down.
///
/// Run it when nodes have joined. Asks the mesh; changes MESH_CONNECT and nothing else.
#[derive(Debug, Args)]
pub(crate) struct Env {
    /// The folder that `mesh init` made.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    connect: Connect,
}

impl Env {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let file = self.dir.join("client.env");
        let told = std::fs::read_to_string(&file).map_err(|error| {
            Error::new(ErrorKind::NotFound, "the folder has no client.env; `mesh init` makes one")
                .with("file", file.display())
                .caused_by(error)
        })?;
        let reports = self.connect.client().await?.status().await?;
        let addresses = addresses(reports.iter().map(|report| &**report));
        if addresses.is_empty() {
            return Err(Error::new(ErrorKind::Draining, "the mesh does not know its nodes yet; try again"));
        }
        write_private(&file, &renamed(&told, &addresses))?;
        say(&[format!("{} names {addresses}", file.display())])
    }
}

/// The hosts' addresses, those that are up first.
fn addresses<'a>(reports: impl Iterator<Item = &'a NodeReport>) -> String {
    let mut hosts: Vec<&NodeReport> = reports.filter(|report| report.kind == NodeKind::Host).collect();
    hosts.sort_by_key(|report| (report.state == NodeState::Down, report.node));
    hosts.iter().map(|report| report.address.as_str()).collect::<Vec<_>>().join(",")
}

/// The file's text with other addresses.
fn renamed(told: &str, addresses: &str) -> String {
    let line = exports(&[("MESH_CONNECT", addresses.to_owned())]);
    let is_ours = |old: &&str| !old.starts_with("export MESH_CONNECT=");
    told.lines().filter(is_ours).flat_map(|old| [old, "\n"]).chain([line.as_str()]).collect()
}

#[cfg(test)]
mod tests {
    use mesh_core::id::NodeId;

    use super::*;

    #[test]
    fn all_hosts_are_named_those_that_are_down_last_and_the_rest_stays() {
        let node = |id, kind, state| NodeReport {
            node: NodeId(id),
            kind,
            state,
            address: format!("10.0.0.{id}:7000"),
            ..NodeReport::default()
        };
        let nodes = [
            node(1, NodeKind::Host, NodeState::Down),
            node(2, NodeKind::Host, NodeState::Up),
            node(3, NodeKind::Host, NodeState::Up),
            node(4, NodeKind::Dpu, NodeState::Up),
        ];
        let all = addresses(nodes.iter());
        assert_eq!(all, "10.0.0.2:7000,10.0.0.3:7000,10.0.0.1:7000");
        let told = "export AWS_REGION='us-east-1'\nexport MESH_CONNECT='10.0.0.1:7000'\nexport MESH_BUCKET='main'\n";
        let now = format!("export AWS_REGION='us-east-1'\nexport MESH_BUCKET='main'\nexport MESH_CONNECT='{all}'\n");
        assert_eq!(renamed(told, &all), now);
        assert_eq!(renamed(&now, &all), now, "again: no effect");
    }
}
