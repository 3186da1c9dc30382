//! `mesh certificate`: what a front end shows its clients.

use std::path::PathBuf;

use clap::Args;
use mesh::provision::{Provision, make_folder};
use mesh_core::Error;

/// Make a certificate for a node's front end, of the cluster's own authority, good for 397 days.
///
/// Writes `s3.crt` and `s3.key` into a folder, in the place of those that are there: a node that runs takes them within seconds.
/// Clients trust them that are told of DIR/ca/ca.crt, as with AWS_CA_BUNDLE. Needs no mesh, but the folder that `mesh init` made.
#[derive(Debug, Args)]
pub(crate) struct Certificate {
    /// The folder that `mesh init` made.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// How clients name the front end: a DNS name, in which the first part may be `*`, or an address. Once for each.
    #[arg(long = "name", value_name = "NAME", required = true)]
    names: Vec<String>,
    /// The folder to write to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Certificate {
    pub(crate) fn run(self) -> Result<(), Error> {
        let provision = Provision::open(&self.dir)?;
        make_folder(&self.out)?;
        let made = provision.equip_front(&self.names, &self.out)?;
        println!(
            "A certificate for {} in {}; its key, in {}, is nobody else's business.",
            self.names.join(", "),
            made.certificate.display(),
            made.key.display()
        );
        println!("Clients need {} to trust it.", provision.authority_file().display());
        Ok(())
    }
}
