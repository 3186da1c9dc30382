//! `mesh dpu`: the emulated DPUs of a running `mesh dev`.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use clap::{Args, Subcommand};
use mesh_core::{Error, ErrorKind};

/// Attach and detach the emulated DPUs of a running `mesh dev --dpus N`.
#[derive(Debug, Args)]
pub(crate) struct Dpu {
    #[command(subcommand)]
    what: What,
    /// The control socket of `mesh dev`; its `dev.env` says where.
    #[arg(long, env = "MESH_DEV_SOCKET", value_name = "FILE", global = true)]
    socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Start a DPU's process again; comes back when the mesh sees it.
    Attach(Which),
    /// Empty a DPU and end its process; it stays away until `attach`.
    Detach(Which),
    /// Show the DPUs, with the pid of each one's process.
    List,
}

#[derive(Clone, Copy, Debug, Args)]
struct Which {
    /// Which one, from 1.
    #[arg(default_value_t = 1)]
    dpu: u32,
}

impl Dpu {
    pub(crate) fn run(self) -> Result<(), Error> {
        let socket = self.socket.ok_or_else(|| {
            Error::invalid(
                "which `mesh dev`? source the dev.env of one that was started with --dpus, or say where its socket is with \
                 --socket",
            )
        })?;
        let command = match self.what {
            What::Attach(which) => format!("attach {}", which.dpu),
            What::Detach(which) => format!("detach {}", which.dpu),
            What::List => "list".to_owned(),
        };
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Unreachable, "no `mesh dev` answers there; does it run, with --dpus?")
                .with("socket", socket.display())
                .caused_by(error)
        };
        let mut stream = UnixStream::connect(&socket).map_err(failed)?;
        writeln!(stream, "{command}").map_err(failed)?;
        for line in BufReader::new(stream).lines() {
            let line = line.map_err(failed)?;
            match line.strip_prefix("error: ") {
                Some(why) => return Err(Error::new(ErrorKind::Conflict, why.to_owned())),
                None => println!("{line}"),
            }
        }
        Ok(())
    }
}
