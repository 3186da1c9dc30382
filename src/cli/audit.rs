//! `mesh audit`.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use mesh::Client;
use mesh_actors::metadata::audit::{self, Chain, digest};
use mesh_core::{
    Error, ErrorKind,
    audit::{AuditAnswer, AuditOp, Entry, Log, Page, What, hex},
};

use super::{AdminConnect, say};

/// See who has ordered what of the mesh, and check that nothing of that was changed.
///
/// Each entry is a line of JSON that names the SHA-256 of the line before it. Who can change all replicas of the metadata can make
/// another chain: so export it, to where those who run the mesh cannot change it, and let `mesh audit verify` compare.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List entries.
    List(List),
    /// Put new entries behind those that a file has.
    Export(Export),
    /// Check the chain, and that it is the one that a file has.
    Verify(Verify),
    /// Have the mesh keep no entries that a file has.
    Forget(Forget),
}

/// List entries: by default the newest ones.
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    connect: AdminConnect,
    /// The newest entries, so many.
    #[arg(long, default_value_t = 100, value_name = "N")]
    last: u64,
    /// All entries from this number on.
    #[arg(long, value_name = "N", conflicts_with = "last")]
    from: Option<u64>,
    /// Print the lines as they are kept.
    #[arg(long)]
    json: bool,
}

/// Put new entries behind those that a file has, which is made if it is not there. It is refused if the mesh's chain does not follow
/// what is in the file. Lines are on the disk when this ends.
#[derive(Debug, Args)]
struct Export {
    #[command(flatten)]
    connect: AdminConnect,
    /// The file.
    file: PathBuf,
}

/// Check the chain of all entries that the mesh has; with a file also that of the file, and that the two are one. Nothing is changed.
#[derive(Debug, Args)]
struct Verify {
    #[command(flatten)]
    connect: AdminConnect,
    /// What was exported before.
    file: Option<PathBuf>,
}

/// Have the mesh keep no entries that a file has, but for the newest one of them. That is in the log itself. It is refused if the file
/// has other entries than the mesh.
#[derive(Debug, Args)]
struct Forget {
    #[command(flatten)]
    connect: AdminConnect,
    /// What was exported before.
    file: PathBuf,
}

impl Audit {
    pub(crate) async fn run(self) -> Result<(), Error> {
        match self.verb {
            Verb::List(List { connect, last, from, json }) => list(&connect.client().await?, last, from, json).await,
            Verb::Export(Export { connect, file }) => export(&connect.client().await?, &file).await,
            Verb::Verify(Verify { connect, file }) => {
                // What is wrong with the file is said also where the mesh does not answer.
                let known = file.map(|file| Known::read(&file)).transpose()?;
                verify(&connect.client().await?, known.unwrap_or_default()).await
            }
            Verb::Forget(Forget { connect, file }) => {
                let known = Known::read(&file)?;
                forget(&connect.client().await?, known).await
            }
        }
    }
}

async fn list(client: &Client, last: u64, from: Option<u64>, json: bool) -> Result<(), Error> {
    let from = match from {
        Some(from) => from,
        None => page(client, u64::MAX).await?.log.next.saturating_sub(last),
    };
    let mut pages = Pages::from(from);
    while let Some(page) = pages.next(client).await? {
        let told = |line: &String| match audit::entry(line) {
            Ok(entry) if !json => entry.to_string(),
            // What a newer build has written is shown as it is.
            _ => line.clone(),
        };
        say(&page.lines.iter().map(told).collect::<Vec<_>>())?;
    }
    Ok(())
}

async fn export(client: &Client, file: &Path) -> Result<(), Error> {
    let known = if file.exists() { Known::read(file)? } else { Known::default() };
    let mut chain = known.chain;
    let mut pages = Pages::from(known.overlap());
    let failed = |error| Error::new(ErrorKind::DriveFailed, "the file cannot be written").caused_by(error);
    let mut out: Option<File> = None;
    let mut count = 0_u64;
    while let Some(page) = pages.next(client).await? {
        for line in &page.lines {
            if !known.compare(line, &mut chain)? {
                let out = match &mut out {
                    Some(out) => out,
                    None => {
                        let options = OpenOptions::new().create(true).append(true).mode(0o600).clone();
                        out.insert(options.open(file).map_err(failed)?)
                    }
                };
                writeln!(out, "{line}").map_err(failed)?;
                count += 1;
            }
        }
    }
    known.expect_not_longer(pages.log()?)?;
    if let Some(out) = &out {
        out.sync_all().map_err(failed)?;
    }
    said(&chain, &format!("{count} new entries"))
}

async fn verify(client: &Client, known: Known) -> Result<(), Error> {
    let mut chain = known.chain;
    let mut pages = Pages::from(0);
    let mut own: Option<Chain> = None;
    let mut count = 0_u64;
    let mut forgotten = None;
    while let Some(page) = pages.next(client).await? {
        for line in &page.lines {
            if let Ok(Entry { what: What::Forgotten { first, digest }, .. }) = audit::entry(line) {
                forgotten = Some((first, digest));
            }
            let own = match &mut own {
                Some(own) => own,
                None => own.insert(Chain { next: page.log.first, head: page.log.base }),
            };
            own.follow(line).map_err(|error| {
                Error::new(ErrorKind::Corrupt, "THE MESH'S AUDIT LOG WAS TAMPERED WITH, or is damaged").caused_by(error)
            })?;
            known.compare(line, &mut chain)?;
            count += 1;
        }
    }
    let log = pages.log()?;
    // Who has it made shorter is in what is left.
    if log.first > 1 && forgotten != Some((log.first, hex(&log.base))) {
        let what = "THE MESH'S AUDIT LOG WAS TAMPERED WITH: its oldest entries are gone, and no entry says that they were to be";
        return Err(Error::new(ErrorKind::Corrupt, what).with("begins", log.first));
    }
    if !known.lines.is_empty() && known.chain.next < log.first {
        return Err(gone_behind(known.chain.next, log.first));
    }
    let own = own.unwrap_or(Chain { next: log.first, head: log.base });
    if own != (Chain { next: log.next, head: log.head }) {
        let what = "THE MESH'S AUDIT LOG WAS TAMPERED WITH, or is damaged: its newest entries are not those that it says it has";
        return Err(Error::new(ErrorKind::Corrupt, what).with("next", log.next).with("is", own.next));
    }
    known.expect_not_longer(log)?;
    said(&own, &format!("{count} entries from {} on follow one another", log.first))?;
    if !known.lines.is_empty() {
        say(&[format!("the {} entries of the file are those of the mesh, as far as it has them", known.lines.len())])?;
    }
    Ok(())
}

async fn forget(client: &Client, known: Known) -> Result<(), Error> {
    let Some((newest, line)) = known.lines.last_key_value() else {
        return Err(Error::invalid("the file has no entries: `mesh audit export` writes them"));
    };
    let log = page(client, u64::MAX).await?.log;
    if let Some(oldest) = known.lines.keys().next().filter(|oldest| **oldest > log.first) {
        let what = "the mesh has entries that are older than those of the file: export them first, with another file";
        return Err(Error::new(ErrorKind::Conflict, what).with("file_begins", oldest).with("mesh_begins", log.first));
    }
    let before = Chain::from(line)?.head;
    let op = AuditOp::Forget { first: *newest, digest: hex(&before) };
    match client.audit(op).await? {
        AuditAnswer::Log(log) => say(&[format!("entries from {} on are kept; {} bytes", log.first, log.bytes)]),
        AuditAnswer::Page(_) => Err(strange()),
    }
}

fn said(chain: &Chain, what: &str) -> Result<(), Error> {
    say(&[what.to_owned(), format!("the newest is entry {}, SHA-256 {}", chain.next - 1, hex(&chain.head))])
}

fn strange() -> Error {
    Error::bug("the audit log was asked for and something else was told")
}

async fn page(client: &Client, from: u64) -> Result<Page, Error> {
    match client.audit(AuditOp::Page { from }).await? {
        AuditAnswer::Page(page) => Ok(page),
        AuditAnswer::Log(_) => Err(strange()),
    }
}

/// Pages, one after the other, up to what there was when the first one was told.
struct Pages {
    from: u64,
    log: Option<Log>,
}

impl Pages {
    fn from(from: u64) -> Self {
        Self { from, log: None }
    }

    async fn next(&mut self, client: &Client) -> Result<Option<Page>, Error> {
        let known = self.log.as_ref().map(|log| (log.first, log.next));
        if known.is_some_and(|(_, next)| self.from >= next) {
            return Ok(None);
        }
        let mut page = page(client, self.from).await?;
        let log = self.log.get_or_insert_with(|| page.log.clone());
        if page.log.first != log.first || page.log.next < log.next {
            let what = "the audit log was made shorter meanwhile; try again";
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        let first = self.from.max(log.first);
        page.lines.truncate(usize::try_from(log.next.saturating_sub(first)).unwrap_or(usize::MAX));
        page.log = log.clone();
        if page.lines.is_empty() {
            if first < log.next {
                let what =
                    "THE MESH'S AUDIT LOG WAS TAMPERED WITH, or is damaged: entries are missing that it says it has";
                return Err(Error::new(ErrorKind::Corrupt, what).with("from", first).with("next", log.next));
            }
            return Ok(None);
        }
        self.from = first + page.lines.len() as u64;
        Ok(Some(page))
    }

    /// Which entries there were.
    fn log(&self) -> Result<&Log, Error> {
        self.log.as_ref().ok_or_else(strange)
    }
}

/// What a file has, which was looked through.
#[derive(Debug)]
struct Known {
    lines: BTreeMap<u64, String>,
    /// From its first entry to its last; the whole one from the beginning, if it has none.
    chain: Chain,
}

impl Default for Known {
    fn default() -> Self {
        Self { lines: BTreeMap::new(), chain: Chain::WHOLE }
    }
}

impl Known {
    /// # Errors
    /// `Corrupt` if its entries do not follow one another; `NotFound`, `DriveFailed` if it cannot be read.
    fn read(file: &Path) -> Result<Self, Error> {
        let failed = |error| {
            Error::new(ErrorKind::DriveFailed, "the file cannot be read").with("file", file.display()).caused_by(error)
        };
        let mut reader = BufReader::new(File::open(file).map_err(failed)?);
        let mut known = Self::default();
        loop {
            let mut line = String::new();
            // No line is as long.
            let read = reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line).map_err(failed)?;
            if read == 0 {
                return Ok(known);
            }
            let whole = line.strip_suffix('\n').map(str::to_owned).ok_or_else(|| {
                let what = "the file ends in the middle of an entry: take that out, and export it again";
                Error::new(ErrorKind::Corrupt, what).with("after", known.chain.next.saturating_sub(1))
            })?;
            if known.lines.is_empty() {
                known.chain = Chain::from(&whole)?;
            }
            let number = known.chain.next;
            known.chain.follow(&whole).map_err(|error| {
                Error::new(ErrorKind::Corrupt, "THE FILE WAS TAMPERED WITH, or is damaged").caused_by(error)
            })?;
            known.lines.insert(number, whole);
        }
    }

    /// From where on the mesh's entries are looked at: the last one that both should have.
    fn overlap(&self) -> u64 {
        self.chain.next.saturating_sub(1)
    }

    /// Compares an entry of the mesh with what is known. Says whether that is known; else `chain` goes on by it.
    ///
    /// # Errors
    /// `Corrupt` if it is another one than is known; `Conflict` if entries in between are gone.
    fn compare(&self, line: &str, chain: &mut Chain) -> Result<bool, Error> {
        let number = Chain::from(line)?.next;
        if let Some(known) = self.lines.get(&number) {
            if known == line {
                return Ok(true);
            }
            let what = "THE MESH HAS ANOTHER ENTRY THAN THE FILE: its metadata were restored from a backup since (which a later entry says), or \
                        its log was tampered with";
            return Err(Error::new(ErrorKind::Corrupt, what)
                .with("number", number)
                .with("file", hex(&digest(known)))
                .with("mesh", hex(&digest(line))));
        }
        if number < chain.next {
            // Older than what the file begins with.
            return Ok(true);
        }
        if self.lines.is_empty() && *chain == Chain::WHOLE {
            // The mesh may have forgotten older ones, which somebody has elsewhere.
            *chain = Chain::from(line)?;
        }
        if number > chain.next {
            return Err(gone_behind(chain.next, number));
        }
        chain.follow(line)?;
        Ok(false)
    }

    /// Fails if the mesh has not even what the file has.
    fn expect_not_longer(&self, log: &Log) -> Result<(), Error> {
        if self.lines.is_empty() || self.chain.next <= log.next {
            return Ok(());
        }
        let what = "THE MESH HAS FEWER ENTRIES THAN THE FILE: its metadata were restored from a backup or recovered since, or its log was \
                    cut";
        Err(Error::new(ErrorKind::Corrupt, what).with("file_ends", self.chain.next - 1).with("mesh_ends", log.next - 1))
    }
}

/// Entries are in no file and in no mesh.
fn gone_behind(next: u64, first: u64) -> Error {
    let what =
        "the mesh does not have the entries any more that come behind those of the file: it was told to forget them";
    Error::new(ErrorKind::Conflict, what).with("file_ends", next - 1).with("mesh_begins", first)
}

/// Of a line with its end; an entry is an order, which is at most as long as a metadata value.
const LINE_BYTES_MAX: u64 = 4 << 20;
