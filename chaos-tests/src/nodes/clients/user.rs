//! What one client does, whatever way it comes: it puts, gets and removes, creates what is not there and swaps what it has
//! read, copies, lists, and looks around.

use std::{collections::BTreeSet, sync::atomic::Ordering::Relaxed};

use mesh::{
    Client,
    client::{Conditions, CopyOptions, GetOptions, PutOptions},
};
use mesh_core::{
    Error, ErrorKind,
    id::WriteId,
    meta::{Attributes, BucketSettings},
    stream::{ByteRange, Place},
    topology::Code,
};

use super::{Judged, MAKES_AGAIN, Seen, gateway::Gateways, looks};
use crate::{
    oracle::{Deed, End as Ending, Ticket},
    random::Stream,
};

/// A client, and where it works.
pub(super) struct User {
    way: Way,
    bucket: &'static str,
    who: usize,
}

/// The way in.
pub(super) enum Way {
    Mesh(Client),
    Front(Gateways),
}

/// What every key of a history begins with: nothing else is listed.
const KEYS: &str = "k";
/// Keys of a page of a listing: few, so that listings have several.
const PAGE: usize = 5;
/// Bytes by which a content is recognised.
const HEAD: u64 = 8;

/// Makes a bucket with a code of its own; `false` where nobody can, because the mesh does not yet.
pub(super) async fn make(way: &Way, seen: &Seen, bucket: &str, code: Code) -> bool {
    let Way::Mesh(client) = way else { return false };
    let settings = BucketSettings { code: Some(code), ..BucketSettings::default() };
    while !seen.stop.load(Relaxed) {
        match client.create_bucket_with(bucket, settings).await {
            Ok(()) => return true,
            Err(error) if error.kind() == ErrorKind::BucketExists => return true,
            Err(error) if error.kind() == ErrorKind::Unsupported => return false,
            Err(_) => tokio::time::sleep(MAKES_AGAIN).await,
        }
    }
    false
}

impl User {
    pub(super) const fn new(way: Way, bucket: &'static str, who: usize) -> Self {
        Self { way, bucket, who }
    }

    /// One operation.
    pub(super) async fn one(&self, seen: &Seen, dice: &mut Stream, keys: u64) {
        let name = format!("{KEYS}{}", dice.below(keys));
        let key = format!("{}/{name}", self.bucket);
        match dice.below(100) {
            0..40 => self.write(seen, dice, (&key, &name)).await,
            40..78 => _ = self.read(seen, &key).await,
            78..87 => self.take_away(seen, dice, (&key, &name)).await,
            87..90 => self.create(seen, (&key, &name)).await,
            90..93 => self.swap(seen, (&key, &name)).await,
            93..95 => self.look_at(seen, dice, (&key, &name)).await,
            95..97 => self.duplicate(seen, dice, (&key, &name)).await,
            97..99 => {
                let all: Vec<String> = (0..keys).map(|at| format!("{}/{KEYS}{at}", self.bucket)).collect();
                self.list(seen, &all).await;
            }
            _ => self.look_around(seen, dice.below(1 << 40)).await,
        }
    }

    async fn write(&self, seen: &Seen, dice: &mut Stream, (key, name): (&str, &str)) {
        let len = match dice.below(20) {
            0..12 => HEAD + dice.below(200),
            12..18 => 200 + dice.below(20_000),
            _ => 20_000 + dice.below(300_000),
        };
        let (content, bytes) = seen.create(key, len);
        let deed = Deed::Write(Some(WriteId(content.number)));
        let ticket = seen.begin(key, deed);
        let in_parts = dice.chance(150);
        let outcome = match &self.way {
            Way::Mesh(client) if in_parts => put_in_parts(client, (self.bucket, name), &bytes).await,
            Way::Mesh(client) => client.put_bytes(self.bucket, name, &bytes).await.map(drop),
            Way::Front(gateways) => gateways.put(self.bucket, name, &bytes).await.map(drop),
        };
        seen.end(
            ticket,
            (self.who, &format!("{} puts {key} {}", self.who, content.number)),
            outcome.as_ref().map(|()| deed),
        );
    }

    /// Reads a key. Whether it was answered.
    pub(super) async fn read(&self, seen: &Seen, key: &str) -> bool {
        let name = key.split_once('/').map_or(key, |(_, name)| name);
        let ticket = seen.begin(key, Deed::Read(None));
        let what = format!("{} gets {key}", self.who);
        let got = self.get(name).await;
        self.has_read(seen, key, (ticket, &what), got.map(|(bytes, _)| seen.recognise(key, &bytes))).is_some()
    }

    /// What a read has seen; `None`: it was not answered.
    fn has_read(
        &self,
        seen: &Seen,
        key: &str,
        (ticket, what): ((Ticket, u64), &str),
        got: Result<Result<WriteId, String>, Error>,
    ) -> Option<Option<WriteId>> {
        let read = match got {
            Ok(Ok(version)) => Some(version),
            Ok(Err(why)) => {
                seen.broken(format!("{key}: {why}"));
                return Some(None);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                seen.end(ticket, (self.who, what), Err(&error));
                return None;
            }
        };
        seen.end(ticket, (self.who, what), Ok(Deed::Read(read)));
        Some(read)
    }

    /// The bytes, and the ETag.
    async fn get(&self, name: &str) -> Result<(Vec<u8>, String), Error> {
        match &self.way {
            Way::Mesh(client) => {
                let mut bytes = Vec::new();
                let options = GetOptions::default();
                let got = client.get_with(self.bucket, name, &options, &mut bytes, &|_| {}).await?;
                Ok((bytes, got.object.etag.clone()))
            }
            Way::Front(gateways) => gateways.get(self.bucket, name).await,
        }
    }

    async fn take_away(&self, seen: &Seen, dice: &mut Stream, (key, name): (&str, &str)) {
        let ticket = seen.begin(key, Deed::Write(None));
        let outcome = match &self.way {
            Way::Mesh(client) => client.remove(self.bucket, name).await,
            Way::Front(gateways) if dice.chance(500) => gateways.remove_all(self.bucket, &[name]).await,
            Way::Front(gateways) => gateways.remove(self.bucket, name).await,
        };
        let what = format!("{} removes {key}", self.who);
        seen.end(ticket, (self.who, &what), outcome.as_ref().map(|()| Deed::Write(None)));
    }

    /// Stores a key that is not there.
    async fn create(&self, seen: &Seen, (key, name): (&str, &str)) {
        let (content, bytes) = seen.create(key, HEAD + content_len(name));
        let deed = Deed::Create(WriteId(content.number));
        let ticket = seen.begin(key, deed);
        let mut outcome = self.put_if(name, &bytes, None).await;
        if outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            outcome = Err(Error::bug("what is to be created was to be there"));
        }
        self.has_put_if(
            seen,
            (ticket, &format!("{} creates {key} {}", self.who, content.number)),
            outcome,
            deed,
            Deed::Exists,
        );
    }

    /// Replaces what it has read, unless somebody else has meanwhile.
    async fn swap(&self, seen: &Seen, (key, name): (&str, &str)) {
        let ticket = seen.begin(key, Deed::Read(None));
        let what = format!("{} gets {key} to swap it", self.who);
        let (got, etag) = match self.get(name).await {
            Ok((bytes, etag)) => (Ok(seen.recognise(key, &bytes)), etag),
            Err(error) => (Err(error), String::new()),
        };
        let Some(Some(old)) = self.has_read(seen, key, (ticket, &what), got) else { return };
        let (content, bytes) = seen.create(key, HEAD + content_len(name));
        let deed = Deed::Swap(old, WriteId(content.number));
        let ticket = seen.begin(key, deed);
        let outcome = self.put_if(name, &bytes, Some(&etag)).await;
        let what = format!("{} swaps {key} {old} for {}", self.who, content.number);
        self.has_put_if(seen, (ticket, &what), outcome, deed, Deed::Not(old));
    }

    /// Stores what must replace this, or nothing.
    async fn put_if(&self, name: &str, bytes: &[u8], etag: Option<&str>) -> Result<(), Error> {
        match &self.way {
            Way::Mesh(client) => {
                let options = PutOptions::default().user("from", "a room");
                let options = match etag {
                    Some(etag) => options.if_match(etag),
                    None => options.if_absent(),
                };
                let mut source = bytes;
                client.put_with(self.bucket, name, options, &mut source, &|_| {}).await.map(drop)
            }
            Way::Front(gateways) => gateways.put_if(self.bucket, name, bytes, etag).await,
        }
    }

    fn has_put_if(
        &self,
        seen: &Seen,
        (ticket, what): ((Ticket, u64), &str),
        outcome: Result<(), Error>,
        deed: Deed,
        otherwise: Deed,
    ) {
        let did = match outcome {
            Ok(()) => Ok(deed),
            Err(error) if error.kind() == ErrorKind::Precondition => Ok(otherwise),
            // There is nothing to swap.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Deed::Read(None)),
            Err(error) => Err(error),
        };
        seen.end(ticket, (self.who, what), did.as_ref().copied());
    }

    /// Its head, or the beginning of its bytes.
    async fn look_at(&self, seen: &Seen, dice: &mut Stream, (key, name): (&str, &str)) {
        let ticket = seen.begin(key, Deed::Read(None));
        if dice.chance(500) {
            let what = format!("{} gets the beginning of {key}", self.who);
            let got = self.beginning(name).await.map(|(bytes, len)| seen.recognise_part(key, &bytes, len));
            self.has_read(seen, key, (ticket, &what), got);
            return;
        }
        let found = match &self.way {
            Way::Mesh(client) => client.head(self.bucket, name).await.map(drop),
            Way::Front(gateways) => gateways.head(self.bucket, name).await,
        };
        let did = match found {
            Ok(()) => Ok(Deed::Exists),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Deed::Read(None)),
            Err(error) => Err(error),
        };
        seen.end(ticket, (self.who, &format!("{} asks for the head of {key}", self.who)), did.as_ref().copied());
    }

    /// The first bytes, and the length of all.
    async fn beginning(&self, name: &str) -> Result<(Vec<u8>, u64), Error> {
        match &self.way {
            Way::Mesh(client) => {
                let mut bytes = Vec::new();
                let options = GetOptions::default().range(ByteRange::Between { first: 0, last: HEAD - 1 });
                let got = client.get_with(self.bucket, name, &options, &mut bytes, &|_| {}).await?;
                Ok((bytes, got.object.len))
            }
            Way::Front(gateways) => gateways.beginning(self.bucket, name, HEAD).await,
        }
    }

    /// Stores something elsewhere, and makes it a key by copying it, whole or as a part.
    async fn duplicate(&self, seen: &Seen, dice: &mut Stream, (key, name): (&str, &str)) {
        let (content, bytes) = seen.create(key, HEAD + content_len(name));
        let (elsewhere, began) = (format!("own-{}", self.who), seen.now());
        let stored = match &self.way {
            Way::Mesh(client) => client.put_bytes(self.bucket, &elsewhere, &bytes).await.map(|stored| stored.etag),
            Way::Front(gateways) => gateways.put(self.bucket, &elsewhere, &bytes).await,
        };
        let what = format!("{} stores what it will copy", self.who);
        seen.judge(began, (self.who, &what), stored.as_ref());
        let Ok(etag) = stored else { return };
        let deed = Deed::Write(Some(WriteId(content.number)));
        let ticket = seen.begin(key, deed);
        // An earlier one of its own may come late.
        let as_part = dice.chance(500);
        let outcome = match &self.way {
            Way::Mesh(client) => {
                let source = Conditions { if_match: Some(etag), ..Conditions::default() };
                let (from, to) = (Place::new(self.bucket, &*elsewhere), Place::new(self.bucket, name));
                if as_part {
                    copy_as_part(client, &from, source, &to).await
                } else {
                    let options = CopyOptions { source, ..CopyOptions::default() };
                    client.copy(&from, &to, options).await.map(drop)
                }
            }
            Way::Front(gateways) if as_part => gateways.copy_as_part(self.bucket, (&elsewhere, &etag), name).await,
            Way::Front(gateways) => gateways.copy(self.bucket, (&elsewhere, &etag), name).await,
        }
        .map_err(acknowledged);
        let what = format!("{} copies to {key} {}", self.who, content.number);
        seen.end(ticket, (self.who, &what), outcome.as_ref().map(|()| deed));
    }

    /// Lists all keys: each is there or not, at some moment of the listing. Whether it was answered.
    pub(super) async fn list(&self, seen: &Seen, keys: &[String]) -> bool {
        let began = seen.now();
        let tickets: Vec<Ticket> = keys.iter().map(|key| seen.begin(key, Deed::Read(None)).0).collect();
        let listed = match &self.way {
            Way::Mesh(client) => self.pages(client).await,
            Way::Front(gateways) => gateways.list(self.bucket, KEYS, PAGE).await,
        }
        .map_err(acknowledged);
        let what = format!("{} lists {}", self.who, self.bucket);
        let judged = seen.judge(began, (self.who, &what), listed.as_ref());
        let listed = listed.unwrap_or_default();
        if let Some(stranger) = listed.iter().find(|name| !keys.contains(&format!("{}/{name}", self.bucket))) {
            seen.broken(format!("{what}, and finds {stranger}, which nobody stored"));
        }
        for (key, ticket) in keys.iter().zip(tickets) {
            let is_there = key.split_once('/').is_some_and(|(_, name)| listed.contains(name));
            seen.settle(
                ticket,
                match judged {
                    Judged::Well if is_there => Ending::Did(Deed::Exists),
                    Judged::Well => Ending::Did(Deed::Read(None)),
                    Judged::Refused | Judged::Unknown => Ending::Nothing,
                },
            );
        }
        judged == Judged::Well
    }

    async fn pages(&self, client: &Client) -> Result<BTreeSet<String>, Error> {
        let (mut pages, mut names) = (client.pages(self.bucket).prefix(KEYS).page_keys(PAGE), BTreeSet::new());
        while let Some(page) = pages.next().await? {
            names.extend(page.entries.iter().map(|entry| entry.key.to_string()));
        }
        Ok(names)
    }

    /// What changes nothing that anybody sees.
    async fn look_around(&self, seen: &Seen, number: u64) {
        let began = seen.now();
        let looked = match &self.way {
            Way::Mesh(client) => {
                let own = format!("own-{number}");
                match number % 3 {
                    0 => looks::at_objects(client, self.bucket, &own).await,
                    1 => looks::at_uploads(client, self.bucket, &own).await,
                    _ => looks::around(client, self.bucket, &own).await,
                }
                .map_err(acknowledged)
            }
            Way::Front(gateways) => gateways.look_around(self.bucket, number).await,
        };
        seen.judge(began, (self.who, &format!("{} looks around", self.who)), looked.as_ref());
    }
}

/// Some keys have more bytes than others.
fn content_len(name: &str) -> u64 {
    name.bytes().map(u64::from).sum::<u64>() * 7
}

/// Only the completion makes it visible.
async fn put_in_parts(client: &Client, (bucket, name): (&str, &str), bytes: &[u8]) -> Result<(), Error> {
    let upload = client.create_upload(bucket, name, Attributes::default()).await.map_err(nothing_yet)?;
    let part = upload.put_part_bytes(1, bytes).await.map_err(nothing_yet)?;
    upload.complete(&[part]).await.map(drop).map_err(acknowledged)
}

/// Whoever has been told that something is there finds it.
pub(super) fn acknowledged(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NoSuchUpload | ErrorKind::InvalidPart | ErrorKind::NoSuchBucket => {
            Error::bug("what was acknowledged is not there").caused_by(error)
        }
        _ => error,
    }
}

/// What an error means before anything is visible.
pub(super) fn nothing_yet(error: Error) -> Error {
    let error = acknowledged(error);
    match error.kind() {
        kind @ (ErrorKind::Denied | ErrorKind::Bug | ErrorKind::Corrupt | ErrorKind::Lost) => {
            Error::new(kind, error.to_string())
        }
        _ => Error::new(ErrorKind::Unreachable, "it did not come to its last step").caused_by(error),
    }
}

async fn copy_as_part(client: &Client, from: &Place, source: Conditions, to: &Place) -> Result<(), Error> {
    let upload = client.create_upload(&to.bucket, &to.key, Attributes::default()).await.map_err(nothing_yet)?;
    let part = upload.copy_part(1, from, None, source).await.map_err(nothing_yet)?;
    upload.complete(&[part]).await.map(drop).map_err(acknowledged)
}
