//! `mesh tenant`.

use clap::{Args, Subcommand};
use mesh::config::Size;
use mesh_core::{
    Error,
    meta::TenantLimits,
    op::{AccessAnswer, AccessOp, LimitChange},
};

use super::{AdminConnect, say, to_json};

/// Make tenants, say what they may use, and see what they do.
///
/// Each has its own key, under which everything of it is encrypted, its own buckets, users and chains, and sees nothing of the
/// others. `mesh key` makes its users and their access keys.
#[derive(Debug, Args)]
pub(crate) struct Tenant {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a tenant.
    Create(Create),
    /// List tenants, with what they may use.
    List(List),
    /// Change what a tenant may use.
    Limit(Limit),
    /// Show what a tenant uses.
    Usage(Usage),
    /// Give a tenant another key.
    RotateKey(RotateKey),
    /// Delete a tenant, and what it stores.
    Delete(Delete),
}

/// Delete a tenant, at once and for good: none of its users, access keys and certificates may do anything any more, and its key is
/// gone. What it stores is deleted from then on; `mesh tenant list` shows it until that is done. Its name is never used again.
#[derive(Debug, Args)]
struct Delete {
    #[command(flatten)]
    connect: AdminConnect,
    /// The tenant, by its name, or as tenant-3.
    tenant: String,
    /// Also what is in its buckets; without this a tenant that has buckets stays.
    #[arg(long)]
    everything: bool,
    /// Print a JSON line.
    #[arg(long)]
    json: bool,
}

/// Give a tenant another key: what it stores from now on is encrypted under that. What is there is read with the key that it was
/// stored under, which is kept for that.
#[derive(Debug, Args)]
struct RotateKey {
    #[command(flatten)]
    connect: AdminConnect,
    /// The tenant, by its name, or as tenant-3.
    tenant: String,
    /// Print a JSON line.
    #[arg(long)]
    json: bool,
}

/// Make a tenant. It takes requests once its chains run, a moment later: until then they wait, or are told to send again.
#[derive(Debug, Args)]
struct Create {
    #[command(flatten)]
    connect: AdminConnect,
    /// The name: 1 to 63 letters of ASCII, digits, dots, hyphens and underscores.
    name: String,
    #[command(flatten)]
    limits: Limits,
    /// Print a JSON line.
    #[arg(long)]
    json: bool,
}

/// List tenants, with what they may use, and how many users and access keys they have.
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    connect: AdminConnect,
    /// Print a JSON line for each.
    #[arg(long)]
    json: bool,
}

/// Change what a tenant may use; what is not named stays. It holds within a second. A quota below what is used takes nothing away,
/// and lets nothing be added.
#[derive(Debug, Args)]
struct Limit {
    #[command(flatten)]
    connect: AdminConnect,
    /// The tenant, by its name, or as tenant-3.
    tenant: String,
    #[command(flatten)]
    limits: Limits,
    /// Print a JSON line.
    #[arg(long)]
    json: bool,
}

/// Show what a tenant uses, as its metadata groups say: its objects, and their bytes before coding, those of unfinished uploads
/// with them. What was deleted a moment ago does not count, though it is on the drives still.
#[derive(Debug, Args)]
struct Usage {
    #[command(flatten)]
    connect: AdminConnect,
    /// The tenant, by its name, or as tenant-3.
    tenant: String,
    /// Print a JSON line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Limits {
    /// What it may store, before coding, such as 10TiB; `none`: as much as there is room for. In a mesh with several namespace groups
    /// each of them counts what is in it for itself, and takes so much.
    #[arg(long, value_name = "SIZE", value_parser = or_none::<Size>)]
    quota: Option<Cap<Size>>,
    /// Requests a second that each node takes of it; `none`: any number.
    #[arg(long, value_name = "N", value_parser = or_none::<u32>)]
    requests: Option<Cap<u32>>,
    /// Bytes a second that each node takes of it and gives to it, such as 500MiB; `none`: any number.
    #[arg(long, value_name = "SIZE", value_parser = or_none::<Size>)]
    rate: Option<Cap<Size>>,
}

/// A limit, or none.
#[derive(Clone, Copy, Debug)]
struct Cap<T>(Option<T>);

fn or_none<T>(text: &str) -> Result<Cap<T>, String>
where
    T: core::str::FromStr,
    T::Err: ToString,
{
    if text == "none" {
        return Ok(Cap(None));
    }
    text.parse().map(|limit| Cap(Some(limit))).map_err(|error: T::Err| error.to_string())
}

impl Limits {
    fn change(&self) -> LimitChange {
        let bytes = |cap: &Option<Cap<Size>>| cap.as_ref().map(|cap| cap.0.map(|size| size.0));
        LimitChange {
            quota_bytes: bytes(&self.quota),
            requests_per_second: self.requests.map(|cap| cap.0),
            bytes_per_second: bytes(&self.rate),
        }
    }
}

impl Tenant {
    pub(crate) async fn run(self) -> Result<(), Error> {
        match self.verb {
            Verb::Create(Create { connect, name, limits, json }) => {
                let limits = limits.change().of(TenantLimits::default());
                told(&connect.client().await?.access(AccessOp::CreateTenant { name, limits }).await?, json)
            }
            Verb::List(List { connect, json }) => {
                let (client, mut after) = (connect.client().await?, None);
                loop {
                    let answer = client.access(AccessOp::Tenants { after }).await?;
                    told(&answer, json)?;
                    let AccessAnswer::Tenants { next: next @ Some(_), .. } = answer else { return Ok(()) };
                    after = next;
                }
            }
            Verb::Limit(Limit { connect, tenant, limits, json }) => {
                let change = limits.change();
                if change == LimitChange::default() {
                    return Err(Error::invalid("say what is to change: --quota, --requests or --rate"));
                }
                told(&connect.client().await?.access(AccessOp::Limit { tenant, change }).await?, json)
            }
            Verb::RotateKey(RotateKey { connect, tenant, json }) => {
                told(&connect.client().await?.access(AccessOp::RotateKey { tenant }).await?, json)
            }
            Verb::Delete(Delete { connect, tenant, everything, json }) => {
                told(&connect.client().await?.access(AccessOp::DeleteTenant { tenant, everything }).await?, json)
            }
            Verb::Usage(Usage { connect, tenant, json }) => {
                told(&connect.client().await?.access(AccessOp::Usage { tenant }).await?, json)
            }
        }
    }
}

/// Prints an answer: for people, or a JSON line for each thing in it.
pub(super) fn told(answer: &AccessAnswer, json: bool) -> Result<(), Error> {
    fn lines<T: serde::Serialize + ToString>(all: &[T], json: bool) -> Result<Vec<String>, Error> {
        all.iter().map(|one| if json { to_json(one) } else { Ok(one.to_string()) }).collect()
    }
    let lines = match answer {
        AccessAnswer::Done => Vec::new(),
        AccessAnswer::Tenant(tenant) => lines(core::slice::from_ref(tenant), json)?,
        AccessAnswer::Tenants { tenants, .. } => lines(tenants, json)?,
        AccessAnswer::Usage(usage) => lines(core::slice::from_ref(usage), json)?,
        AccessAnswer::Users { users, .. } => lines(users, json)?,
        AccessAnswer::Key(key) if json => vec![to_json(key)?],
        AccessAnswer::Key(key) => vec![super::key::variables(key).trim_end().to_owned()],
    };
    say(&lines)
}
