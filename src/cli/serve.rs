//! `mesh serve`: the daemon.

use core::time::Duration;
use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use mesh::{
    config::{Config, WatchConfig},
    node::Node,
    provision,
};
use mesh_core::Error;
use mesh_dpu_runtime::pin::pin_thread;

use super::{LogFormat, told_to_stop};

/// Run a node until SIGTERM or SIGINT; then finish what is in flight and close everything in order.
///
/// What is logged goes to standard error; MESH_LOG sets how much (such as `debug` or `info,openraft=debug`). What is done for an S3
/// request is logged under the number that its client is told (`x-amz-request-id`), on every node: what fails inside the mesh as a
/// warning, all else at `debug`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The configuration that `mesh init` or `mesh join` wrote.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// S3 by HTTP though others than this machine can hear it, as `plain_http = true` in [s3] says it: for a configuration that an
    /// older build has to take, too.
    #[arg(long)]
    s3_plain_http: bool,
    /// Where to tell who watches the node what is counted on it and how it is, by HTTP and to everybody who reaches it; instead of
    /// `listen` in [watch].
    #[arg(long, value_name = "IP:PORT")]
    watch: Option<SocketAddr>,
    /// How what is logged is written.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
    /// End with this process, which must be the parent: what `mesh dev` tells its emulated DPUs.
    #[arg(long, hide = true, value_name = "PID")]
    with_parent: Option<i32>,
}

impl Serve {
    /// Keeps this thread, and those that it starts, to the cores of the configuration.
    pub(crate) fn pin(&self) -> Result<(), Error> {
        let Some(cores) = Config::load(&self.config)?.cores else { return Ok(()) };
        pin_thread(&cores.0)
            .map_err(|error| Error::invalid(format!("cores: {error}")).with("file", self.config.display()))
    }

    pub(crate) async fn run(self) -> Result<(), Error> {
        if let Some(parent) = self.with_parent {
            end_with(parent)?;
        }
        let mut config = Config::load(&self.config)?;
        if let Some(s3) = &mut config.s3 {
            s3.plain_http |= self.s3_plain_http && s3.tls.is_none();
        }
        if let Some(listen) = self.watch {
            config.watch = Some(WatchConfig { listen });
        }
        check_machine(&config)?;
        let founding = if config.bootstrap { config.data.parent().map(std::path::Path::to_owned) } else { None };
        let node = Node::builder(config).start().await?;
        tracing::info!(node = %node.id(), address = %node.address(), "listening");
        if let Some(address) = node.s3_address() {
            tracing::info!(%address, "serving S3");
        }
        if let Some(address) = node.watch_address() {
            tracing::info!(%address, "telling who watches");
        }
        let running = async {
            if let Some(folder) = founding {
                provision::found_once(&node, &folder).await?;
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

/// Has the kernel kill this process when its parent ends, however that ends.
fn end_with(parent: i32) -> Result<(), Error> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Error::bug("the parent's end cannot be followed").caused_by(std::io::Error::from(error)))?;
    // It may have ended before that.
    match getppid() {
        Some(pid) if pid.as_raw_nonzero().get() == parent => Ok(()),
        _ => Err(Error::invalid("the parent that this process was to end with is gone")),
    }
}

/// A node on a DPU must say whose DPU it is, and one that says so must be on one.
fn check_machine(config: &Config) -> Result<(), Error> {
    let here = mesh_dpu_runtime::probe::probe(std::path::Path::new("/"));
    let is_dpu = here.here.node_kind() == mesh_core::topology::NodeKind::Dpu;
    match &config.dpu {
        None if is_dpu => Err(Error::invalid(
            "this machine is a BlueField DPU: say which node its host is, with `attached_to` in a [dpu] section",
        )),
        Some(dpu) if !is_dpu && dpu.emulated.is_none() => Err(Error::invalid(
            "the configuration says that this is a DPU, and `mesh probe` does not find one here; to emulate one, set \
             `emulated` in the [dpu] section",
        )),
        _ => Ok(()),
    }
}

const READY_NOTE: Duration = Duration::from_secs(10);
const STOP_MAX: Duration = Duration::from_secs(20);
