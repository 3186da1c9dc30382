//! A program's clients: what their workloads want is done through the mesh's own client.

use core::time::Duration;
use std::sync::{Arc, atomic::Ordering::Relaxed};

use mesh::Client;
use mesh_core::{Error, ErrorKind, error::Certainty, id::NodeId};
use mesh_transport::End;

use super::{BUCKETS, Clients, Seen, user};
use crate::{
    harness::{ChainState, Deed, Done},
    nodes::{lock, log},
    random::Stream,
};

/// The tenant that they are of.
const TENANT: usize = 0;
/// Between two deeds of one client, at most: in milliseconds.
const THINKS: u64 = 60;

impl Clients {
    /// Begins a client that does what the program says until it is stopped or has done everything, at the hosts in turn.
    pub(in crate::nodes) fn begin_own(&mut self, which: usize, mut dice: Stream) -> End {
        let (link, end) = self.link(user(TENANT));
        let nodes = self.from(which);
        self.homes.extend(nodes.first().map(|home| (which, *home)));
        let client = Client::over(link, nodes);
        let seen = self.seen.clone();
        seen.running.fetch_add(1, Relaxed);
        lock(&seen.book).last_well.insert(which, seen.now());
        self.runtime.spawn(async move {
            while !seen.stop.load(Relaxed) {
                let deed = lock(&seen.book).own.as_mut().and_then(|own| own.next(which, &mut dice));
                let Some(deed) = deed else { break };
                one(&client, &seen, Some(which), &deed).await;
                tokio::time::sleep(Duration::from_millis(dice.below(THINKS))).await;
            }
            lock(&seen.book).last_well.remove(&which);
            seen.running.fetch_sub(1, Relaxed);
        });
        end
    }

    /// Reads every key that they used through every host, until each has been read; then they are over.
    pub(in crate::nodes) fn read_own(&self) -> Vec<End> {
        let keys = lock(&self.seen.book).own.as_ref().map(|own| own.keys()).unwrap_or_default();
        let begin = |(host, _): &(NodeId, _)| {
            let (link, end) = self.link(user(TENANT));
            let (client, seen, keys) = (Client::over(link, [*host]), self.seen.clone(), keys.clone());
            seen.running.fetch_add(1, Relaxed);
            self.runtime.spawn(async move {
                for key in keys {
                    let deed = Deed::Get { key };
                    while !one(&client, &seen, None, &deed).await {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
                seen.running.fetch_sub(1, Relaxed);
            });
            end
        };
        self.hosts.iter().map(begin).collect()
    }
}

impl Seen {
    /// The program's last word.
    ///
    /// # Errors
    /// What is wrong.
    pub(in crate::nodes) fn conclude(&self, chains: &[ChainState]) -> Result<(), String> {
        lock(&self.book).own.as_mut().map_or(Ok(()), |own| own.conclude(chains))
    }

    /// Notes what came of a deed. Whether it was answered.
    fn own_ended(self: &Arc<Self>, who: Option<usize>, deed: &Deed, began: u64, ended: &Result<Done, Error>) -> bool {
        let now = self.now();
        let (took, code) = ((now - began) / 1_000_000, ended.as_ref().err().map_or(0, |error| error.kind().number()));
        let mut book = lock(&self.book);
        book.tally.longest = book.tally.longest.max(took);
        // What a function refuses is an answer.
        let refused = ended.as_ref().is_err_and(|error| error.kind() == ErrorKind::Denied);
        match ended {
            Ok(_) => book.tally.well += 1,
            Err(error) if error.certainty() == Certainty::NotProcessed => book.tally.refused += 1,
            Err(_) => book.tally.unknown += 1,
        }
        let is_answered = ended.is_ok() || refused;
        if let Some(who) = who.filter(|_| is_answered) {
            book.last_well.insert(who, now);
        }
        book.trace = mesh_core::topology::mix(book.trace ^ now ^ u64::from(code) << 48);
        drop(book);
        log::say(|| {
            let came = match ended {
                Ok(Done::Got(Some(bytes))) => format!("{} bytes", bytes.len()),
                Ok(done) => format!("{done:?}"),
                Err(error) => error.to_string(),
            };
            format!(
                "PROGRAM {} {deed}: {came} after {took} ms",
                who.map_or_else(|| "-".to_owned(), |who| who.to_string())
            )
        });
        is_answered
    }
}

/// One deed. Whether it was answered.
async fn one(client: &Client, seen: &Arc<Seen>, who: Option<usize>, deed: &Deed) -> bool {
    let began = seen.now();
    let Some(begun) = lock(&seen.book).own.as_mut().map(|own| own.begin(deed, began)) else { return true };
    let key = deed.object();
    let ended = match deed {
        Deed::Put { bytes, .. } => client.put_bytes(BUCKETS[TENANT], &key, bytes).await.map(|_| Done::Put),
        Deed::Get { .. } => match client.get_bytes(BUCKETS[TENANT], &key).await {
            Ok(bytes) => Ok(Done::Got(Some(bytes))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Done::Got(None)),
            Err(error) => Err(error),
        },
        Deed::Remove { .. } => client.remove(BUCKETS[TENANT], &key).await.map(|()| Done::Removed),
    };
    let is_answered = seen.own_ended(who, deed, began, &ended);
    let now = seen.now();
    if let Some(own) = lock(&seen.book).own.as_mut() {
        own.end(who, (begun, deed), &ended, now);
    }
    is_answered
}
