//! `mesh serve`: the daemon.

use core::time::Duration;
use std::path::PathBuf;

use clap::Args;
use mesh::{config::Config, node::Node, provision};
use mesh_core::Error;

use super::told_to_stop;

/// Run a node until SIGTERM or SIGINT; then finish what is in flight and close everything in order.
///
/// What is logged goes to standard error; MESH_LOG sets how much (such as `debug` or `info,openraft=debug`).
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The configuration that `mesh init` or `mesh join` wrote.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Serve {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let config = Config::load(&self.config)?;
        let founding =
            config.bootstrap.then(|| config.data.parent().map(|folder| folder.join(provision::FOUNDING))).flatten();
        let node = Node::builder(config).start().await?;
        tracing::info!(node = %node.id(), address = %node.address(), "listening");
        if let Some(address) = node.s3_address() {
            tracing::info!(%address, "serving S3");
        }
        let running = async {
            if let Some(path) = founding
                && node.control().tenants.is_empty()
            {
                node.found(&provision::read_founding(&path)?).await?;
                tracing::info!("the cluster is founded");
            }
            // However long the others take.
            while let Err(error) = node.ready(READY_NOTE).await {
                tracing::info!(%error, "waiting");
            }
            tracing::info!("ready");
            told_to_stop().await
        };
        let outcome = tokio::select! {
            outcome = running => outcome,
            outcome = told_to_stop() => outcome,
        };
        tracing::info!("stopping");
        node.shutdown(STOP_MAX).await;
        outcome
    }
}

const READY_NOTE: Duration = Duration::from_secs(10);
const STOP_MAX: Duration = Duration::from_secs(20);
