//! `mesh bucket`.

use clap::{Args, Subcommand};
use mesh_core::{Error, meta::Compression};

use super::Connect;

/// Make a bucket.
#[derive(Debug, Args)]
pub(crate) struct Bucket {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a bucket.
    Create(Create),
}

/// Make a bucket, of the tenant in whose name you ask. `mesh ls --buckets` lists them.
///
/// With `--compress auto` what is put into it is compressed before it is encrypted, stripe by stripe, where that makes a stripe
/// smaller by a sixteenth at least; lengths, ETags and checksums stay those of what was put. A range that is read has the whole
/// of its stripes decompressed, 4 MiB each at most. What is stored is as long as what was compressed: whoever has a drive or a
/// link, and no key, sees how far it shrank, which says something of what is in it. Do not compress what mixes a secret with
/// what others may choose.
#[derive(Debug, Args)]
struct Create {
    #[command(flatten)]
    connect: Connect,
    /// The name: 3 to 63 lower-case letters, digits, dots and hyphens.
    name: String,
    /// Whether to compress: `off` or `auto`. It is refused, with the nodes that hold it back, until every node can.
    #[arg(long, value_name = "WHETHER", default_value = "off")]
    compress: Compression,
}

impl Bucket {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let Verb::Create(Create { connect, name, compress }) = self.verb;
        connect.client().await?.create_bucket_with(&name, compress).await
    }
}
