//! Storing and fetching objects, from inside a node's process or over the mesh's own links.

use core::time::Duration;
use std::{collections::BTreeMap, collections::VecDeque, sync::Arc};

use futures_util::{FutureExt as _, future::BoxFuture};
use md5::{Digest as _, Md5};
use mesh_core::{
    Answer, Buf, Error, ErrorKind, Lane, Op, Outcome, Pool, Principal, Request,
    assignment::Scope,
    envelope::Envelope,
    id::{ActorId, Epoch, NodeId, WriteId},
    limits::{BUDGET_DEFAULT, OBJECT_PUT_BYTES_MAX, STREAM_STRIPES},
    meta::{Attributes, BucketRow, Listing, ObjectRow, Precondition},
    op::{AdminAnswer, AdminOp, ChainRow, Destination, NodeOp, NodeReport, ObjectOp},
    port::Outbound,
    spec::CustomSpec,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    task::JoinHandle,
};

use crate::{keyring::hex, node::Node};

/// A client of the mesh, as one principal. Clones share the links.
#[derive(Clone)]
pub struct Client {
    way: Way,
    pool: Pool,
}

#[derive(Clone)]
enum Way {
    /// In the process of a node.
    Node(Node, Principal),
    /// Over links to these nodes; who is asking is in the certificate.
    Links(Arc<dyn Outbound>, Arc<[NodeId]>),
}

impl core::fmt::Debug for Client {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match &self.way {
            Way::Node(node, principal) => write!(f, "Client of {node:?} as {}", principal.name()),
            Way::Links(_, nodes) => write!(f, "Client of {nodes:?}"),
        }
    }
}

/// What was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The version.
    pub version: WriteId,
    /// The ETag: the MD5 of the bytes, in hexadecimal.
    pub etag: String,
    /// Bytes.
    pub len: u64,
}

impl Node {
    /// A client in this process, as `principal`.
    #[must_use]
    pub fn client(&self, principal: Principal) -> Client {
        Client { pool: self.0.pool.clone(), way: Way::Node(self.clone(), principal) }
    }
}

impl Client {
    /// A client over links. `nodes` are tried in order.
    #[must_use]
    pub fn over(links: Arc<dyn Outbound>, nodes: impl Into<Arc<[NodeId]>>) -> Self {
        Self { way: Way::Links(links, nodes.into()), pool: Pool::default() }
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// `BucketExists`, `BucketTaken`, `Denied`, `Invalid`.
    pub async fn create_bucket(&self, bucket: &str) -> Result<(), Error> {
        self.ask(ObjectOp::CreateBucket { bucket: bucket.into() }).await.map(drop)
    }

    /// The tenant's buckets, by name.
    ///
    /// # Errors
    /// `Denied`.
    pub async fn buckets(&self) -> Result<Vec<Arc<BucketRow>>, Error> {
        match self.ask(ObjectOp::ListBuckets).await? {
            Answer::Buckets(rows) => Ok(rows),
            answer => Err(strange(&answer)),
        }
    }

    /// Stores all that `source` gives, up to 5 GiB. `progress` is told the bytes stored so far.
    ///
    /// # Errors
    /// As the source or the mesh says. Unless the error's certainty is `MaybeProcessed`, nothing has changed.
    pub async fn put(
        &self,
        bucket: &str,
        key: &str,
        source: &mut (dyn AsyncRead + Send + Unpin),
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Stored, Error> {
        let begin = ObjectOp::Begin {
            bucket: bucket.into(),
            key: key.into(),
            destination: Destination::Object {
                attributes: Attributes::default(),
                precondition: Precondition::default(),
            },
        };
        let (node, answer) = self.ask_any(begin).await?;
        let Answer::Begun { write, stripe_bytes } = answer else { return Err(strange(&answer)) };
        match self.stream_in(node, write, stripe_bytes as usize, source, progress).await {
            Ok((len, etag)) => {
                let finish = ObjectOp::Finish { write, len, etag, checksums: BTreeMap::new() };
                match self.ask_at(node, finish.into(), Buf::empty(), Lane::Interactive).await?.answer {
                    Answer::Committed { version, etag } => Ok(Stored { version, etag, len }),
                    answer => Err(strange(&answer)),
                }
            }
            Err(error) => {
                let abort = self.ask_at(node, ObjectOp::Abort { write }.into(), Buf::empty(), Lane::Interactive).await;
                if let Err(abort) = abort {
                    tracing::debug!(error = %abort, "a broken write was not aborted; the mesh drops it when it is idle");
                }
                Err(error)
            }
        }
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_bytes(&self, bucket: &str, key: &str, bytes: &[u8]) -> Result<Stored, Error> {
        let mut source = bytes;
        self.put(bucket, key, &mut source, &|_| {}).await
    }

    async fn stream_in(
        &self,
        node: NodeId,
        write: WriteId,
        stripe_bytes: usize,
        source: &mut (dyn AsyncRead + Send + Unpin),
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(u64, String), Error> {
        let mut flying: VecDeque<(u64, Flight)> = VecDeque::new();
        let mut digest = Md5::new();
        let (mut len, mut stored, mut stripe) = (0_u64, 0_u64, 0_u32);
        loop {
            let mut buf = self.pool.take(stripe_bytes, SPARE_BYTES);
            let filled = fill(source, buf.make_mut()).await?;
            if filled > 0 {
                buf.truncate(filled);
                digest.update(&buf[..]);
                len += filled as u64;
                if len > OBJECT_PUT_BYTES_MAX {
                    return Err(Error::new(
                        ErrorKind::TooLarge,
                        "an object put at once has at most 5 GiB; use multipart over S3",
                    ));
                }
                let op = ObjectOp::Append { write, stripe }.into();
                flying.push_back((filled as u64, Flight(tokio::spawn(self.clone().flight(node, op, buf)))));
                stripe += 1;
            }
            let last = filled < stripe_bytes;
            while flying.len() >= STREAM_STRIPES || (last && !flying.is_empty()) {
                let Some((bytes, mut flight)) = flying.pop_front() else { break };
                flight.land().await?;
                stored += bytes;
                progress(stored);
            }
            if last {
                return Ok((len, hex(&digest.finalize())));
            }
        }
    }

    /// An object's manifest.
    ///
    /// # Errors
    /// `NotFound`, `NoSuchBucket`, `Denied`.
    pub async fn head(&self, bucket: &str, key: &str) -> Result<Arc<ObjectRow>, Error> {
        match self.ask(ObjectOp::Head { bucket: bucket.into(), key: key.into() }).await? {
            Answer::Object(row) => Ok(row),
            answer => Err(strange(&answer)),
        }
    }

    /// Writes an object's bytes to `target`. `progress` is told the bytes written so far.
    ///
    /// # Errors
    /// `NotFound`, `NoSuchBucket`, `Denied`, `TooFewShards`, `Lost`; `Conflict` if it was replaced meanwhile; then `target` may have got a part of the bytes.
    pub async fn get(
        &self,
        bucket: &str,
        key: &str,
        target: &mut (dyn AsyncWrite + Send + Unpin),
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Arc<ObjectRow>, Error> {
        let (bucket, key): (Arc<str>, Arc<str>) = (bucket.into(), key.into());
        let (node, answer) = self.ask_any(ObjectOp::Head { bucket: bucket.clone(), key: key.clone() }).await?;
        let Answer::Object(object) = answer else { return Err(strange(&answer)) };
        let mut planned = 0;
        let mut written = 0;
        let mut flying: VecDeque<Flight> = VecDeque::new();
        let mut pieces = VecDeque::new();
        while written < object.len {
            if pieces.is_empty() && planned < object.len && flying.len() < STREAM_STRIPES {
                let plan = ObjectOp::Plan {
                    bucket: bucket.clone(),
                    key: key.clone(),
                    object: object.clone(),
                    offset: planned,
                    len: object.len - planned,
                };
                match self.ask_at(node, plan.into(), Buf::empty(), Lane::Interactive).await?.answer {
                    Answer::Pieces(page) if !page.is_empty() => {
                        planned += page.iter().map(|piece| u64::from(piece.len)).sum::<u64>();
                        pieces.extend(page);
                    }
                    answer => return Err(strange(&answer)),
                }
            }
            while flying.len() < STREAM_STRIPES
                && let Some(piece) = pieces.pop_front()
            {
                let op = ObjectOp::Read { bucket: bucket.clone(), key: key.clone(), piece }.into();
                flying.push_back(Flight(tokio::spawn(self.clone().flight(node, op, Buf::empty()))));
            }
            let Some(mut flight) = flying.pop_front() else {
                return Err(Error::bug("a plan ended before its object"));
            };
            let bytes = flight.land().await?;
            target.write_all(&bytes).await.map_err(broken_target)?;
            written += bytes.len() as u64;
            progress(written);
        }
        target.flush().await.map_err(broken_target)?;
        Ok(object)
    }

    /// An object's bytes.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_bytes(&self, bucket: &str, key: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.get(bucket, key, &mut bytes, &|_| {}).await?;
        Ok(bytes)
    }

    /// Removes an object. One that is not there is no error.
    ///
    /// # Errors
    /// `NoSuchBucket`, `Denied`.
    pub async fn remove(&self, bucket: &str, key: &str) -> Result<(), Error> {
        let delete = ObjectOp::Delete { bucket: bucket.into(), key: key.into(), precondition: Precondition::default() };
        self.ask(delete).await.map(drop)
    }

    /// A page of keys that begin with `prefix`, behind `after`.
    ///
    /// # Errors
    /// `NoSuchBucket`, `Denied`.
    pub async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        delimiter: Option<&str>,
        after: &str,
    ) -> Result<Arc<Listing>, Error> {
        let list = ObjectOp::List {
            bucket: bucket.into(),
            prefix: prefix.to_owned(),
            delimiter: delimiter.map(str::to_owned),
            after: after.to_owned(),
            limit: mesh_core::limits::LIST_KEYS_MAX as u32,
        };
        match self.ask(list).await? {
            Answer::Listing(listing) => Ok(listing),
            answer => Err(strange(&answer)),
        }
    }

    /// How the nodes of the mesh are.
    ///
    /// # Errors
    /// `Unreachable` if no node answers.
    pub async fn status(&self) -> Result<Vec<Arc<NodeReport>>, Error> {
        if let Way::Node(node, _) = &self.way {
            return Ok(node.status());
        }
        let op = Op::Node(Box::new(NodeOp::Status));
        let mut refused = None;
        for node in self.nodes() {
            match self.send(node, ActorId::NODE, op.clone(), Buf::empty(), Lane::Interactive, STATUS_BUDGET).await {
                Ok(response) => match response.answer {
                    Answer::Report(reports) => return Ok(reports),
                    answer => return Err(strange(&answer)),
                },
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(no_nodes))
    }

    /// Asks what an administrator may.
    ///
    /// # Errors
    /// `Denied` without an administrator's certificate; what is wrong with what is asked.
    pub async fn administer(&self, op: AdminOp) -> Result<AdminAnswer, Error> {
        let told = |answer: Answer| match answer {
            Answer::Admin(answer) => Ok(*answer),
            answer => Err(strange(&answer)),
        };
        if let Way::Node(node, _) = &self.way {
            let deadline = node.0.env.clock.now() + BUDGET_DEFAULT;
            return told(crate::admin::administer(&node.0, op, deadline).await?.answer);
        }
        let mut refused = None;
        for node in self.nodes() {
            let op = Op::Node(Box::new(NodeOp::Admin(Box::new(op.clone()))));
            match self.send(node, ActorId::NODE, op, Buf::empty(), Lane::Interactive, BUDGET_DEFAULT).await {
                Ok(response) => return told(response.answer),
                Err(error) if error.kind() == ErrorKind::Unreachable => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or_else(no_nodes))
    }

    /// Puts functions of the embedding program into data chains, between policy and encryption: of every tenant
    /// ([`Scope::Mesh`]) or, behind those, of one ([`Scope::Tenant`]). It replaces what was declared for the scope; no
    /// stages take it back. Gives the chains that it concerns.
    ///
    /// If the kinds or their order change, those chains begin anew: their functions' state begins from the settings,
    /// requests that are under way are sent again by their ingress. Other settings of the same kinds reach the running
    /// functions as [`Event::Configure`](mesh_core::Event::Configure), and their state stays.
    ///
    /// # Errors
    /// `Unsupported` with the node and the kind where a node that is to run such a chain lacks one; `Invalid` for
    /// settings that the function refuses; `Conflict` for a kind that would stand in a chain twice; `Denied` without an
    /// administrator's certificate.
    pub async fn set_stages(&self, scope: Scope, stages: Vec<CustomSpec>) -> Result<Vec<ChainRow>, Error> {
        match self.administer(AdminOp::Stages { scope, stages }).await? {
            AdminAnswer::Chains(chains) => Ok(chains),
            answer => Err(strange(&Answer::Admin(Box::new(answer)))),
        }
    }

    fn nodes(&self) -> Vec<NodeId> {
        match &self.way {
            Way::Node(node, _) => vec![node.id()],
            Way::Links(_, nodes) => nodes.to_vec(),
        }
    }

    async fn ask(&self, op: ObjectOp) -> Result<Answer, Error> {
        self.ask_any(op).await.map(|(_, answer)| answer)
    }

    /// Asks the first node that takes the request. What may have been processed is not sent to another.
    async fn ask_any(&self, op: ObjectOp) -> Result<(NodeId, Answer), Error> {
        let mut refused = None;
        for node in self.nodes() {
            match self.ask_at(node, op.clone().into(), Buf::empty(), Lane::Interactive).await {
                Ok(response) => return Ok((node, response.answer)),
                Err(error) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Draining) => {
                    refused = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or_else(no_nodes))
    }

    async fn flight(self, node: NodeId, op: Op, payload: Buf) -> Result<Buf, Error> {
        self.ask_at(node, op, payload, Lane::Bulk).await.map(|response| response.payload)
    }

    fn ask_at(&self, node: NodeId, op: Op, payload: Buf, lane: Lane) -> BoxFuture<'static, Outcome> {
        self.send(node, ActorId::ingress(node), op, payload, lane, BUDGET_DEFAULT)
    }

    fn send(
        &self,
        to: NodeId,
        actor: ActorId,
        op: Op,
        payload: Buf,
        lane: Lane,
        budget: Duration,
    ) -> BoxFuture<'static, Outcome> {
        match &self.way {
            Way::Node(node, principal) => {
                let deadline = node.0.env.clock.now() + budget;
                node.ask(Request { op, payload, principal: principal.clone(), deadline, lane }).boxed()
            }
            Way::Links(links, _) => {
                let envelope = Envelope::request(actor, Epoch(0), op, payload, Principal::Anonymous, lane, budget);
                let (answer, outcome) = tokio::sync::oneshot::channel();
                let guard = links.send(to, envelope, Box::new(move |outcome| drop(answer.send(outcome))));
                async move {
                    let outcome = outcome
                        .await
                        .unwrap_or_else(|_| Err(Error::new(ErrorKind::LinkLost, "the link ended unasked")));
                    guard.forget();
                    outcome
                }
                .boxed()
            }
        }
    }
}

/// A request on its way in a task of its own; dropped, it is cancelled.
struct Flight(JoinHandle<Result<Buf, Error>>);

impl Flight {
    async fn land(&mut self) -> Result<Buf, Error> {
        (&mut self.0)
            .await
            .unwrap_or_else(|error| Err(Error::new(ErrorKind::Cancelled, "a request was cancelled").caused_by(error)))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads until the buffer is full or the source ends.
async fn fill(source: &mut (dyn AsyncRead + Send + Unpin), target: &mut [u8]) -> Result<usize, Error> {
    let mut filled = 0;
    while filled < target.len() {
        match source.read(&mut target[filled..]).await {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) => return Err(Error::invalid("the source cannot be read").caused_by(error)),
        }
    }
    Ok(filled)
}

fn broken_target(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Cancelled, "the target takes no more bytes").caused_by(error)
}

fn no_nodes() -> Error {
    Error::new(ErrorKind::Unreachable, "no node is given")
}

fn strange(answer: &Answer) -> Error {
    Error::bug("a request was answered with something else").with("answer", format!("{answer:?}"))
}

const SPARE_BYTES: usize = 128 * 1024;
const STATUS_BUDGET: Duration = Duration::from_secs(5);
