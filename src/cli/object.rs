//! `mesh put`, `get`, `ls` and `rm`: objects, over the mesh's own links.

use std::{
    io::Write as _,
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
};

use clap::Args;
use mesh::client::GetOptions;
use mesh_core::{Error, ErrorKind, stream::ByteRange};
use serde_json::json;

use super::{Connect, human, progress};

/// Which bucket.
#[derive(Debug, Args)]
struct Bucket {
    /// The bucket.
    #[arg(long, env = "MESH_BUCKET", value_name = "NAME")]
    bucket: String,
}

/// Store a file as an object. With --json, prints `key`, `bytes`, `etag` and `version`.
#[derive(Debug, Args)]
pub(crate) struct Put {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    bucket: Bucket,
    /// The file; `-` is standard input.
    file: PathBuf,
    /// The key [default: the file's name].
    key: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Show no progress.
    #[arg(long, short)]
    quiet: bool,
}

impl Put {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let key = match (&self.key, self.file.file_name()) {
            (Some(key), _) => key.clone(),
            (None, Some(name)) if self.file.as_os_str() != "-" => name.to_string_lossy().into_owned(),
            _ => return Err(Error::invalid("say the key: the input has no name")),
        };
        let (mut source, len): (Box<dyn tokio::io::AsyncRead + Send + Unpin>, Option<u64>) =
            if self.file.as_os_str() == "-" {
                (Box::new(standard(std::io::stdin().as_fd())?), None)
            } else {
                let file = tokio::fs::File::open(&self.file).await.map_err(|error| unreadable(&self.file, error))?;
                let len = file.metadata().await.map_err(|error| unreadable(&self.file, error))?.len();
                (Box::new(file), Some(len))
            };
        let bar = progress(len, self.quiet || self.json);
        let told = bar.clone();
        let client = self.connect.client().await?;
        let stored = client.put(&self.bucket.bucket, &key, &mut source, &move |bytes| told.set_position(bytes)).await?;
        bar.finish_and_clear();
        if self.json {
            println!(
                "{}",
                json!({ "key": key, "bytes": stored.len, "etag": stored.etag, "version": stored.version.to_string() })
            );
        } else if !self.quiet {
            println!("{key}  {}  {}", human(stored.len), stored.etag);
        }
        Ok(())
    }
}

/// Fetch an object into a file.
#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    bucket: Bucket,
    /// The key.
    key: String,
    /// The file; `-` is standard output [default: the key's last part].
    file: Option<PathBuf>,
    /// Only these bytes, counted from 0: FIRST-LAST, FIRST- or -COUNT.
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    range: Option<ByteRange>,
    /// Show no progress.
    #[arg(long, short)]
    quiet: bool,
}

impl Get {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let client = self.connect.client().await?;
        let file = match &self.file {
            Some(file) => file.clone(),
            None => match self.key.rsplit('/').next() {
                Some(name) if !name.is_empty() && name != ".." => PathBuf::from(name),
                _ => return Err(Error::invalid("say the file: the key has no last part")),
            },
        };
        let (bucket, key) = (&self.bucket.bucket, &self.key);
        let options = GetOptions { range: self.range, ..GetOptions::default() };
        if file.as_os_str() == "-" {
            client.get_with(bucket, key, &options, &mut standard(std::io::stdout().as_fd())?, &|_| {}).await?;
            return Ok(());
        }
        if std::fs::metadata(&file).is_ok_and(|known| !known.is_file()) {
            // A device or a pipe stays what it is.
            let target = tokio::fs::OpenOptions::new().write(true).open(&file).await;
            let mut target = target.map_err(|error| unwritable(&file, error))?;
            client.get_with(bucket, key, &options, &mut target, &|_| {}).await?;
            return Ok(());
        }
        // Into a file beside, so that a fetch that breaks leaves no half of an object under the name asked for.
        let mut beside = file.clone().into_os_string();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let len = client.head(bucket, key).await?.len;
        let wanted = self.range.map_or(Ok(0..len), |range| range.resolve(len))?;
        let bar = progress(Some(wanted.end - wanted.start), self.quiet);
        let told = bar.clone();
        let mut target = tokio::fs::File::create(&beside).await.map_err(|error| unwritable(&beside, error))?;
        let told = move |bytes| told.set_position(bytes);
        let outcome = client.get_with(bucket, key, &options, &mut target, &told).await;
        bar.finish_and_clear();
        match outcome {
            Ok(_) => std::fs::rename(&beside, &file).map_err(|error| unwritable(&file, error)),
            Err(error) => {
                if let Err(left) = std::fs::remove_file(&beside) {
                    tracing::warn!(file = %beside.display(), error = %left, "a partial file is left");
                }
                Err(error)
            }
        }
    }
}

/// List the keys of a bucket, or with --buckets the buckets. With --json, a line each: `key`, `bytes`, `etag`,
/// `modified_ms`; or `bucket`.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    connect: Connect,
    /// The bucket.
    #[arg(long, env = "MESH_BUCKET", value_name = "NAME", required_unless_present = "buckets")]
    bucket: Option<String>,
    /// Only keys that begin so.
    #[arg(default_value = "")]
    prefix: String,
    /// List the buckets instead.
    #[arg(long)]
    buckets: bool,
    /// Print JSON lines.
    #[arg(long)]
    json: bool,
}

impl Ls {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let client = self.connect.client().await?;
        if self.buckets {
            for row in client.buckets().await? {
                let name = &*row.bucket.name;
                let line = if self.json { json!({ "bucket": name }).to_string() } else { name.to_owned() };
                if !print_line(&line)? {
                    return Ok(());
                }
            }
            return Ok(());
        }
        let bucket = self.bucket.as_deref().unwrap_or_default();
        let mut pages = client.pages(bucket).prefix(&self.prefix);
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                let (key, bytes, etag) = (&entry.key, entry.len, &entry.etag);
                let line = if self.json {
                    json!({ "key": key, "bytes": bytes, "etag": etag, "modified_ms": entry.modified.0 }).to_string()
                } else {
                    format!("{:>12}  {key}", human(bytes))
                };
                if !print_line(&line)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Remove an object. One that is not there is no error.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    bucket: Bucket,
    /// The key.
    key: String,
}

impl Rm {
    pub(crate) async fn run(self) -> Result<(), Error> {
        self.connect.client().await?.remove(&self.bucket.bucket, &self.key).await
    }
}

/// Prints a line; says `false` once the reader has had enough (`mesh ls | head`).
pub(super) fn print_line(line: &str) -> Result<bool, Error> {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::invalid("standard output cannot be written").caused_by(error)),
    }
}

/// Standard input or output as a file, read and written off the runtime's threads.
fn standard(stream: BorrowedFd<'_>) -> Result<tokio::fs::File, Error> {
    let stream = stream
        .try_clone_to_owned()
        .map_err(|error| Error::invalid("standard input or output is closed").caused_by(error))?;
    Ok(tokio::fs::File::from_std(stream.into()))
}

fn unreadable(file: &std::path::Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::NotFound, "the file cannot be read").with("file", file.display()).caused_by(error)
}

fn unwritable(file: &std::path::Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::DriveFailed, "the file cannot be written").with("file", file.display()).caused_by(error)
}
