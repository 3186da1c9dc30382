//! `mesh probe`.

use std::path::PathBuf;

use clap::Args;
use mesh_core::Error;

/// Show what this machine is: a host or a BlueField DPU; which cards are in it, whether each can be used as a DPU, and what
/// was found that says so. Nothing is changed and no node need run.
#[derive(Debug, Args)]
pub(crate) struct Probe {
    /// Look below this folder instead of /: at a copy of another machine's /sys, /proc and /dev.
    #[arg(long, default_value = "/", value_name = "DIR")]
    root: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Probe {
    pub(crate) fn run(self) -> Result<(), Error> {
        let report = mesh_dpu_runtime::probe::probe(&self.root);
        if self.json {
            let text = serde_json::to_string_pretty(&report)
                .map_err(|error| Error::bug("the report cannot be written").caused_by(error))?;
            super::say(&[text])
        } else {
            super::say(&[report.to_string()])
        }
    }
}
