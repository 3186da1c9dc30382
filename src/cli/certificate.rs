//! `mesh certificate`: what front ends show their clients, and who clients of the mesh itself are.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};
use mesh::{
    config::Config,
    env::Env,
    provision::{Provision, make_folder},
};
use mesh_core::{
    Error, ErrorKind,
    id::TenantId,
    op::{AccessAnswer, AccessOp, name_flaw},
};

/// Make certificates of the cluster's own authority, which is in the folder that `mesh init` made.
#[derive(Debug, Args)]
pub(crate) struct Certificate {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// For the front end of a node.
    Front(Front),
    /// For somebody of a tenant.
    Client(Client),
    /// For an administrator.
    Admin(Admin),
}

/// Make a certificate for a node's front end, good for 397 days.
///
/// Writes `s3.crt` and `s3.key` into a folder, in the place of those that are there: a node that runs takes them within seconds.
/// Clients trust them that are told of DIR/ca/s3-ca.crt, as with AWS_CA_BUNDLE. Needs no mesh.
#[derive(Debug, Args)]
struct Front {
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

/// Make a certificate for somebody of a tenant, good for a year: MESH_IDENTITY of `mesh put`, of `mesh ls` and of the library.
///
/// What it may do is what its user may: `mesh key grant` says that, and `mesh key revoke --user` ends it. The mesh is asked for the
/// tenant's number, and must run.
#[derive(Debug, Args)]
struct Client {
    /// The folder that `mesh init` made.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The tenant, by its name.
    #[arg(long, value_name = "NAME")]
    tenant: String,
    /// The user.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Addresses of nodes to ask, with commas between them; without it, those in the folder's `mesh.toml`.
    #[arg(long, env = "MESH_CONNECT", value_delimiter = ',', value_name = "IP:PORT")]
    connect: Vec<SocketAddr>,
}

/// Make a certificate for an administrator of the mesh, good for a year: MESH_ADMIN_IDENTITY. Needs no mesh.
#[derive(Debug, Args)]
struct Admin {
    /// The folder that `mesh init` made.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Who it is.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Certificate {
    pub(crate) async fn run(self) -> Result<(), Error> {
        match self.verb {
            Verb::Front(front) => front.run(),
            Verb::Client(client) => client.run().await,
            Verb::Admin(admin) => {
                expect_name(&admin.name)?;
                Provision::open(&admin.dir)?.admin_identity(&admin.name)?.save(&admin.out)
            }
        }
    }
}

impl Front {
    fn run(self) -> Result<(), Error> {
        let provision = Provision::open(&self.dir)?;
        make_folder(&self.out)?;
        let made = provision.equip_front(&self.names, &self.out)?;
        println!(
            "A certificate for {} in {}; its key, in {}, is nobody else's business.",
            self.names.join(", "),
            made.certificate.display(),
            made.key.display()
        );
        println!("Clients need {} to trust it.", provision.front_authority_file().display());
        Ok(())
    }
}

impl Client {
    async fn run(self) -> Result<(), Error> {
        expect_name(&self.user)?;
        let provision = Provision::open(&self.dir)?;
        let addresses = if self.connect.is_empty() {
            Config::load(&self.dir.join("mesh.toml"))?.dialled()
        } else {
            self.connect.clone()
        };
        let identity = provision.admin_identity("certificate")?;
        let client = mesh::quic::connect(&addresses, identity, &Env::real()?).await?;
        provision.client_identity(number(&client, &self.tenant).await?, &self.user)?.save(&self.out)
    }
}

/// The number of a tenant.
async fn number(client: &mesh::Client, name: &str) -> Result<TenantId, Error> {
    let mut after = None;
    loop {
        let AccessAnswer::Tenants { tenants, next } = client.access(AccessOp::Tenants { after }).await? else {
            return Err(Error::bug("tenants were asked for, and something else was told"));
        };
        match tenants.iter().find(|tenant| tenant.name == name) {
            Some(tenant) => return Ok(tenant.id),
            None if next.is_some() => after = next,
            None => {
                let what = "there is no such tenant; `mesh tenant list` names all";
                return Err(Error::new(ErrorKind::NotFound, what).with("tenant", name));
            }
        }
    }
}

fn expect_name(name: &str) -> Result<(), Error> {
    name_flaw(name).map_or(Ok(()), |why| Err(Error::invalid(why).with("name", name)))
}
