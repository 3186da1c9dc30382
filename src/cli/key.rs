//! `mesh key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mesh_core::{
    Error,
    meta::Grant,
    op::{AccessAnswer, AccessOp, NewKey},
};

use super::{AdminConnect, exports, tenant::told, write_private};

/// Make users of a tenant and access keys for them, say what they may do, and revoke that.
///
/// A user is somebody of a tenant: what it may do holds for all its access keys, and for certificates in its name (`mesh certificate
/// client`). To replace a key, make another one for the same user, and revoke the first once nobody uses it.
#[derive(Debug, Args)]
pub(crate) struct Key {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make an access key for a user.
    Create(Create),
    /// List the users of a tenant: what they may do, and their access keys.
    List(List),
    /// Say what a user may do.
    Grant(Allow),
    /// Revoke an access key, or all of a user.
    Revoke(Revoke),
}

/// Make an access key for a user, which is made too if it is not there yet.
///
/// Prints it as lines that a shell can source, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or writes them to a file. The secret is
/// told this once: the mesh keeps it wrapped. If nobody has answered, look for a key that you do not know with `mesh key list`, and
/// revoke it.
#[derive(Debug, Args)]
struct Create {
    #[command(flatten)]
    connect: AdminConnect,
    /// The tenant, by its name, or as tenant-3.
    tenant: String,
    /// The user: 1 to 63 letters of ASCII, digits, dots, hyphens and underscores.
    user: String,
    /// What a new user may do, such as `logs-*=read,write` or `*=all`: buckets by name, by the beginning of their names with `*`
    /// behind it, or all of the tenant's; and read, write (put and delete), admin (make and delete buckets) or all. Once for each.
    #[arg(long = "allow", value_name = "BUCKET=RIGHTS")]
    grants: Vec<Grant>,
    /// Write the lines to a file, which its owner alone may read.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    out: Option<PathBuf>,
    /// Print a JSON line.
    #[arg(long)]
    json: bool,
}

/// List the users of a tenant: what they may do, and the public halves of their access keys.
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    connect: AdminConnect,
    /// The tenant, by its name, or as tenant-3.
    tenant: String,
    /// Print a JSON line for each.
    #[arg(long)]
    json: bool,
}

/// Say what a user may do from now on, in the place of what it may do: by all its keys and certificates, within a second.
#[derive(Debug, Args)]
struct Allow {
    #[command(flatten)]
    connect: AdminConnect,
    /// The tenant, by its name, or as tenant-3.
    tenant: String,
    /// The user.
    user: String,
    /// As of `mesh key create`. None: nothing.
    #[arg(long = "allow", value_name = "BUCKET=RIGHTS")]
    grants: Vec<Grant>,
    /// It is a new user, without a key: for a certificate.
    #[arg(long)]
    new: bool,
}

/// Revoke an access key; or, with `--user`, take a user out with all its keys, so that certificates in its name may do nothing.
///
/// Every node that hears the mesh refuses them within a second. There is no way back: make new ones.
#[derive(Debug, Args)]
struct Revoke {
    #[command(flatten)]
    connect: AdminConnect,
    /// The public half of the access key; with --user the tenant, by its name, or as tenant-3.
    #[arg(value_name = "KEY|TENANT")]
    what: String,
    /// The user that goes.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
}

impl Key {
    pub(crate) async fn run(self) -> Result<(), Error> {
        match self.verb {
            Verb::Create(Create { connect, tenant, user, grants, out, json }) => {
                let grants = Some(grants).filter(|grants| !grants.is_empty());
                let answer = connect.client().await?.access(AccessOp::CreateKey { tenant, user, grants }).await?;
                match (out, &answer) {
                    (Some(file), AccessAnswer::Key(key)) => write_private(&file, &variables(key)).inspect_err(|_| {
                        // It is told once: here, then.
                        if let Err(error) = told(&answer, json) {
                            eprintln!("the new access key {} is lost, revoke it: {error}", key.access);
                        }
                    }),
                    _ => told(&answer, json),
                }
            }
            Verb::List(List { connect, tenant, json }) => {
                let (client, mut after) = (connect.client().await?, None);
                loop {
                    let answer = client.access(AccessOp::Users { tenant: tenant.clone(), after }).await?;
                    told(&answer, json)?;
                    let AccessAnswer::Users { next: next @ Some(_), .. } = answer else { return Ok(()) };
                    after = next;
                }
            }
            Verb::Grant(Allow { connect, tenant, user, grants, new }) => {
                let answer = connect.client().await?.access(AccessOp::Grant { tenant, user, new, grants }).await?;
                told(&answer, false)
            }
            Verb::Revoke(Revoke { connect, what, user }) => {
                let op = match user {
                    Some(user) => AccessOp::DropUser { tenant: what, user },
                    None => AccessOp::RevokeKey { access: what },
                };
                told(&connect.client().await?.access(op).await?, false)
            }
        }
    }
}

/// A new access key as lines that a shell can source.
pub(super) fn variables(key: &NewKey) -> String {
    exports(&[("AWS_ACCESS_KEY_ID", key.access.clone()), ("AWS_SECRET_ACCESS_KEY", key.secret.clone())])
}
