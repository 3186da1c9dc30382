//! `mesh bucket`.

use clap::{Args, Subcommand};
use mesh_core::{
    Error,
    meta::{BucketSettings, Compression},
    topology::Code,
};

use serde_json::json;

use super::{Connect, object::print_line};

/// Make a bucket, or say how what is put into one is stored.
#[derive(Debug, Args)]
pub(crate) struct Bucket {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a bucket.
    Create(Create),
    /// Say how what is put into a bucket is stored.
    Show(Show),
}

/// Make a bucket, of the tenant in whose name you ask. `mesh ls --buckets` lists them.
///
/// With `--compress auto` what is put into it is compressed before it is encrypted, stripe by stripe, where that makes a stripe
/// smaller by a sixteenth at least; lengths, ETags and checksums stay those of what was put. A range that is read has the whole
/// of its stripes decompressed, 4 MiB each at most. What is stored is as long as what was compressed: whoever has a drive or a
/// link, and no key, sees how far it shrank, which says something of what is in it. Do not compress what mixes a secret with
/// what others may choose.
///
/// With `--ec K+M` or `--replicas N` it has a code of its own: each stripe of an object is kept as K data shards and M parity
/// shards, and any M of them may be lost; or N times, and all but one may be. Each shard is on a drive of its own, and on a node
/// of its own as far as there are as many. All of them are durable before a put is answered; where a drive cannot be used, another one takes its
/// shard. A read asks for K, or for one. The code stays: to change it, copy the objects into another bucket. A mesh has room
/// for a handful of codes, which it keeps; the mesh's own is that which it was founded with.
#[derive(Debug, Args)]
struct Create {
    #[command(flatten)]
    connect: Connect,
    /// The name: 3 to 63 lower-case letters, digits, dots and hyphens.
    name: String,
    /// Whether to compress: `off` or `auto`. It is refused, with the nodes that hold it back, until every node can.
    #[arg(long, value_name = "WHETHER", default_value = "off")]
    compress: Compression,
    /// The code: 1 to 16 data shards and up to 8 parity shards, such as `8+3`. Without this, and without `--replicas`, it is the
    /// mesh's. One that is wider than the others of the mesh is refused if it has fewer drives without any one of its nodes.
    #[arg(long, value_name = "K+M", conflicts_with = "replicas")]
    ec: Option<Code>,
    /// How many copies to keep, 1 to 9, instead of shards. One copy is gone with its drive.
    #[arg(long, value_name = "N", value_parser = copies)]
    replicas: Option<Code>,
}

fn copies(text: &str) -> Result<Code, Error> {
    Code::copies(text.parse().map_err(|_| Error::invalid("not a number of copies: 1 to 9"))?)
}

/// Say how what is put into a bucket is stored: whether it is compressed, and its code. With --json, one line: `bucket`,
/// `created_ms`, `compress`, `code`, which is null where none was asked for: it is the mesh's.
#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    connect: Connect,
    /// The bucket.
    name: String,
    /// Print a JSON line.
    #[arg(long)]
    json: bool,
}

impl Bucket {
    pub(crate) async fn run(self) -> Result<(), Error> {
        match self.verb {
            Verb::Create(Create { connect, name, compress, ec, replicas }) => {
                let settings = BucketSettings { compression: compress, code: ec.or(replicas) };
                connect.client().await?.create_bucket_with(&name, settings).await
            }
            Verb::Show(Show { connect, name, json }) => {
                let row = connect.client().await?.bucket(&name).await?;
                let BucketSettings { compression, code } = row.settings;
                let compress = compression.to_string();
                let line = if json {
                    let code = code.map(|code| code.to_string());
                    json!({ "bucket": name, "created_ms": row.created.0, "compress": compress, "code": code })
                        .to_string()
                } else {
                    let code = code.map_or_else(|| "the mesh's".to_owned(), said);
                    format!("{name}: compress {compress}, code {code}")
                };
                print_line(&line).map(drop)
            }
        }
    }
}

/// A code, for people.
fn said(code: Code) -> String {
    match code {
        Code { parity: 0, .. } => format!("{code} (no drive may be lost)"),
        Code { data: 1, .. } => format!("{code} ({} copies)", code.shards()),
        _ => code.to_string(),
    }
}
