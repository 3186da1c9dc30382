//! The codec of envelopes.
//!
//! ```text
//! byte   0        4         6       8            12           16            20             24
//!        +--------+---------+-------+------------+------------+-------------+--------------+----------+---------+
//!        | "MESH" | version | flags | header_len | header_crc | payload_len | preamble_crc |  header  | payload |
//!        +--------+---------+-------+------------+------------+-------------+--------------+----------+---------+
//!          4 bytes  u16 LE    u16 LE  u32 LE       u32 LE       u32 LE        u32 LE         protobuf   raw bytes
//! ```
//!
//! Checksums are CRC-32C; `preamble_crc` covers bytes 0 to 20, `header_crc` the header, and the header's `payload_crc`
//! the payload. Lengths are checked against `limits` before anything is allocated. Flags are for later, and ignored.
//!
//! Builds that differ talk to each other. Fields of the header that are not known here are passed over, as are fields at the
//! end of an encoded value ([`crate::meta`]). A frame that is whole and says something that is not known here (an operation,
//! an answer, a variant inside one, a lane, a kind of principal) becomes [`Body::Unread`]: a request is answered
//! [`Unsupported`](ErrorKind::Unsupported), whoever asked is told of an answer that it is [`Unread`](ErrorKind::Unread), and
//! the link goes on. Only what no build sends closes it. So new operations and fields need no new version; the version
//! changes only when an older build must not read what a newer one sends:
//!
//! | version | why |
//! |---|---|
//! | 1 | the first |
//! | 2 | metadata values of format 2: a command says itself which group it is for; a beat carries what has changed, and no whole report |
//! | 3 | a beat says of which replica its mark is, and which starts are registered; a report says what its node is unable to run and whom it turns away; who takes a drive says as which start |
//! | 4 | metadata values of format 3: values may get fields at their end; what is not known is answered |

use std::sync::Arc;

use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::{
    buf::Buf,
    effect::{Lane, Principal},
    envelope::{Body, Envelope, Header, Hello, Region, Welcome},
    error::{Error, ErrorKind},
    id::{
        ActorId, ClusterId, DriveId, Epoch, GroupId, Incarnation, LayoutId, NodeId, ShardId, StripeId, TenantId,
        WriteId,
    },
    limits::{HEADER_BYTES_MAX, PAYLOAD_BYTES_MAX, SHARD_BATCH_MAX},
    meta::{self, BucketRow, Compression, Listing, ObjectRow, PartRow, UploadRow},
    op::{Answer, Head, NodeOp, Op, Part, Piece, Reliance, ScrubState, ShardOp, StripeOp, StripeTarget},
    time::UnixMillis,
    topology::Code,
};

/// The messages of `mesh.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated; described in mesh.proto")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/mesh.v1.rs"));
}

/// The wire version that this build speaks.
pub const VERSION: u16 = 4;
/// Length of the preamble.
pub const PREAMBLE_BYTES: usize = 24;

const MAGIC: [u8; 4] = *b"MESH";

/// CRC-32C (Castagnoli), as used on the wire and on drives.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    // The 32-bit checksum stands in the low half.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The lengths that a preamble promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// Bytes of the header.
    pub header_len: usize,
    /// CRC-32C of the header.
    pub header_crc: u32,
    /// Bytes of the payload.
    pub payload_len: usize,
}

impl Preamble {
    /// Reads a preamble.
    ///
    /// # Errors
    /// `Invalid` for a wrong magic, version or checksum; `TooLarge` for lengths over the limits. The link must then be
    /// closed: nothing behind such a preamble can be trusted.
    pub fn decode(bytes: &[u8; PREAMBLE_BYTES]) -> Result<Self, Error> {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(word)
        };
        if bytes[..4] != MAGIC {
            return Err(Error::invalid("this is not a mesh frame"));
        }
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if version != VERSION {
            return Err(Error::invalid(
                "a frame of another wire version; run builds of one wire version on every node",
            )
            .with("version", version)
            .with("supported", VERSION));
        }
        if word(20) != crc32c(&bytes[..20]) {
            return Err(Error::invalid("the frame's preamble fails its checksum"));
        }
        let preamble = Self { header_len: word(8) as usize, header_crc: word(12), payload_len: word(16) as usize };
        if preamble.header_len > HEADER_BYTES_MAX || preamble.payload_len > PAYLOAD_BYTES_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "a frame over the limit")
                .with("header", preamble.header_len)
                .with("payload", preamble.payload_len));
        }
        Ok(preamble)
    }
}

impl Envelope {
    /// The preamble and header of this message; the payload goes out behind it as it is.
    ///
    /// # Errors
    /// `TooLarge` if the header or the payload is over its limit.
    pub fn encode_head(&self) -> Result<bytes::Bytes, Error> {
        let header = encode_header(&self.header, &self.payload)?;
        let header_len = header.encoded_len();
        if header_len > HEADER_BYTES_MAX || self.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "a message over the limit")
                .with("header", header_len)
                .with("payload", self.payload.len()));
        }
        let mut head = Vec::with_capacity(PREAMBLE_BYTES + header_len);
        head.resize(PREAMBLE_BYTES, 0);
        header.encode(&mut head).map_err(|error| Error::bug("a header cannot be encoded").caused_by(error))?;
        let header_crc = crc32c(&head[PREAMBLE_BYTES..]);
        head[..4].copy_from_slice(&MAGIC);
        head[4..6].copy_from_slice(&VERSION.to_le_bytes());
        head[8..12].copy_from_slice(&(header_len as u32).to_le_bytes());
        head[12..16].copy_from_slice(&header_crc.to_le_bytes());
        head[16..20].copy_from_slice(&(self.payload.len() as u32).to_le_bytes());
        let preamble_crc = crc32c(&head[..20]);
        head[20..24].copy_from_slice(&preamble_crc.to_le_bytes());
        Ok(head.into())
    }

    /// Puts a message together from what followed a preamble. What is whole and not known here is [`Body::Unread`].
    ///
    /// # Errors
    /// `Invalid` if a length, a checksum or a field is wrong: the link must be closed.
    pub fn decode(preamble: Preamble, header: &[u8], payload: Buf) -> Result<Self, Error> {
        if header.len() != preamble.header_len || payload.len() != preamble.payload_len {
            return Err(Error::invalid("a frame of another length than its preamble says"));
        }
        if crc32c(header) != preamble.header_crc {
            return Err(Error::invalid("a frame's header fails its checksum"));
        }
        let header = proto::Header::decode(header)
            .map_err(|error| Error::invalid("a frame's header is no protobuf of ours").caused_by(error))?;
        let payload_crc = header.payload_crc;
        if header.region.is_none() && crc32c(&payload) != payload_crc {
            return Err(Error::invalid("a frame's payload fails its checksum"));
        }
        let header = decode_header(header)?;
        if known_crc(&header.body).is_some_and(|crc| crc != payload_crc) {
            return Err(Error::invalid("a shard of another checksum than its frame's payload"));
        }
        Ok(Self { header, payload })
    }

    /// The whole message in one piece; for tests and small messages.
    ///
    /// # Errors
    /// As [`Self::encode_head`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut frame = self.encode_head()?.to_vec();
        frame.extend_from_slice(&self.payload);
        Ok(frame)
    }

    /// Reads a message that is in one piece.
    ///
    /// # Errors
    /// As [`Preamble::decode`] and [`Self::decode`].
    pub fn decode_whole(frame: &[u8]) -> Result<Self, Error> {
        let (preamble, rest) = frame
            .split_first_chunk::<PREAMBLE_BYTES>()
            .ok_or_else(|| Error::invalid("a frame without its preamble"))?;
        let preamble = Preamble::decode(preamble)?;
        if rest.len() != preamble.header_len + preamble.payload_len {
            return Err(Error::invalid("a frame of another length than its preamble says"));
        }
        let (header, payload) = rest.split_at(preamble.header_len);
        Self::decode(preamble, header, Buf::copy_of(payload))
    }
}

/// The payload's checksum, where the body has it already: it is not computed again.
fn known_crc(body: &Body) -> Option<u32> {
    match body {
        Body::Request(Op::Shard(op)) => match **op {
            ShardOp::Write { crc, .. } => Some(crc),
            _ => None,
        },
        Body::Answer(Answer::Shard { crc, .. }) => Some(*crc),
        _ => None,
    }
}

fn encode_header(header: &Header, payload: &Buf) -> Result<proto::Header, Error> {
    let payload_crc = known_crc(&header.body).unwrap_or_else(|| crc32c(payload));
    Ok(proto::Header {
        id: header.id,
        actor: header.actor.0,
        epoch: header.epoch.0,
        lane: header.lane as u32,
        budget_us: header.budget_us,
        payload_crc,
        region: header.region.map(|region| proto::Region {
            address: region.address,
            rkey: region.rkey,
            length: region.length,
        }),
        trace: header.trace.clone().into(),
        principal: match &header.principal {
            Principal::Anonymous => None,
            Principal::System => Some(proto::Principal { kind: 1, ..Default::default() }),
            Principal::User { tenant, name } => {
                Some(proto::Principal { kind: 2, tenant: tenant.0, name: name.to_string() })
            }
            Principal::Admin { name } => Some(proto::Principal { kind: 3, tenant: 0, name: name.to_string() }),
        },
        body: Some(encode_body(&header.body)?),
    })
}

fn decode_header(header: proto::Header) -> Result<Header, Error> {
    let (id, actor, epoch, budget_us) = (header.id, ActorId(header.actor), Epoch(header.epoch), header.budget_us);
    match known_header(header) {
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(Header {
            id,
            actor,
            epoch,
            lane: Lane::Control,
            budget_us,
            region: None,
            trace: Vec::new(),
            principal: Principal::Anonymous,
            body: Body::Unread(error),
        }),
        known => known,
    }
}

/// A header, if all of it is known here; else `Unsupported`.
fn known_header(header: proto::Header) -> Result<Header, Error> {
    let principal = match header.principal {
        None => Principal::Anonymous,
        Some(principal) => match principal.kind {
            0 => Principal::Anonymous,
            1 => Principal::System,
            2 => Principal::User { tenant: TenantId(principal.tenant), name: principal.name.into() },
            3 => Principal::Admin { name: principal.name.into() },
            kind => return Err(unknown("a kind of principal").with("kind", kind)),
        },
    };
    Ok(Header {
        id: header.id,
        actor: ActorId(header.actor),
        epoch: Epoch(header.epoch),
        lane: lane(header.lane)?,
        budget_us: header.budget_us,
        region: header.region.map(|region| Region {
            address: region.address,
            rkey: region.rkey,
            length: region.length,
        }),
        trace: header.trace.to_vec(),
        principal,
        body: decode_body(header.body.ok_or_else(|| unknown("an operation or an answer"))?)?,
    })
}

fn lane(number: u32) -> Result<Lane, Error> {
    match number {
        0 => Ok(Lane::Control),
        1 => Ok(Lane::Interactive),
        2 => Ok(Lane::Bulk),
        _ => Err(unknown("a lane").with("lane", number)),
    }
}

fn unknown(what: &'static str) -> Error {
    let error =
        "a newer build sends something that this one does not know; upgrade this node, or ask for something else";
    Error::new(ErrorKind::Unsupported, error).with("what", what)
}

/// Answers of Object, which only gateways and clients see: encoded as one value.
#[derive(Serialize, Deserialize)]
enum ObjectAnswer {
    Begun { write: WriteId, stripe_bytes: u32 },
    Committed { version: WriteId, etag: String },
    Bucket(Arc<BucketRow>),
    Buckets(Vec<Arc<BucketRow>>),
    Object(Arc<ObjectRow>),
    Pieces(Vec<Piece>),
    Listing(Arc<Listing>),
    Upload(Arc<UploadRow>),
    Uploads(Vec<Arc<UploadRow>>, bool),
    Parts(Vec<Arc<PartRow>>, bool),
}

fn encode_body(body: &Body) -> Result<proto::header::Body, Error> {
    use proto::header::Body as B;
    let object = |answer: ObjectAnswer| meta::encode(&answer).map(|bytes| B::ObjectAnswer(bytes.into()));
    Ok(match body {
        Body::Hello(hello) => B::Hello(proto::Hello {
            version_min: hello.version_min.into(),
            version_max: hello.version_max.into(),
            cluster: hello.cluster.0.to_vec().into(),
            node: hello.node.0,
            incarnation: hello.incarnation.0,
            capabilities: hello.capabilities,
            software: hello.software.clone(),
            lane: hello.lane as u32,
        }),
        Body::Welcome(welcome) => B::Welcome(proto::Welcome {
            version: welcome.version.into(),
            node: welcome.node.0,
            incarnation: welcome.incarnation.0,
            capabilities: welcome.capabilities,
            software: welcome.software.clone(),
            jobs_max: welcome.jobs_max,
            bytes_max: welcome.bytes_max,
        }),
        Body::Failure(error) => B::Failure(error.to_proto()),
        Body::Unread(_) => return Err(Error::bug("what was not understood is not sent on")),
        Body::Cancel(id) => B::Cancel(proto::Cancel { id: *id }),
        Body::Request(op) => match op {
            Op::Object(op) => B::Object(meta::encode(&**op)?.into()),
            Op::Stripe(op) => {
                let target = op.target();
                let avoid = match &**op {
                    StripeOp::Write(_) => Vec::new(),
                    StripeOp::Read { avoid, .. } | StripeOp::Delete { avoid, .. } => numbers(avoid),
                };
                let part = match &**op {
                    StripeOp::Read { part, .. } => *part,
                    StripeOp::Write(_) | StripeOp::Delete { .. } => None,
                };
                let message = proto::StripeOp {
                    id: Some(stripe_id(target.id)),
                    layout: target.layout.0,
                    binding: meta::encode(&*target.binding)?.into(),
                    key: target.key.as_ref().map(|key| meta::encode(&**key)).transpose()?.map(Into::into),
                    avoid,
                    compression: match target.compression {
                        Compression::Off => 0,
                        Compression::Auto => 1,
                    },
                    code: target.code.map(|code| proto::Code { data: code.data.into(), parity: code.parity.into() }),
                    part: part.map(|Part { start, len, of }| proto::Part { start, len, of }),
                };
                match **op {
                    StripeOp::Write(_) => B::StripeWrite(message),
                    StripeOp::Read { .. } => B::StripeRead(message),
                    StripeOp::Delete { .. } => B::StripeDelete(message),
                }
            }
            Op::Shard(op) => match &**op {
                ShardOp::Write { id, tenant, code, sealed_len, crc } => B::ShardWrite(proto::ShardWrite {
                    id: Some(shard_id(*id)),
                    tenant: tenant.0,
                    data: code.data.into(),
                    parity: code.parity.into(),
                    sealed_len: *sealed_len,
                    crc: *crc,
                }),
                ShardOp::Read { id } => B::ShardRead(shard_id(*id)),
                ShardOp::Delete { ids, until } => B::ShardDelete(proto::ShardIds {
                    ids: ids.iter().copied().map(shard_id).collect(),
                    until: until.map(head),
                }),
                ShardOp::List { after, limit, relies } => B::ShardList(proto::ShardList {
                    after: after.map(shard_id),
                    limit: *limit,
                    relies: relies.map(|of| proto::Reliance { group: of.group.0, layout: of.layout.0 }),
                }),
                ShardOp::Stat => B::DriveStat(proto::Done {}),
                ShardOp::Damaged { group, after, limit } => {
                    B::ShardDamaged(proto::Damaged { group: group.0, after: after.map(shard_id), limit: *limit })
                }
                ShardOp::Scrub { rate } => B::DriveScrub(proto::Scrub { rate: *rate }),
            },
            Op::Query { group, query } => {
                B::Query(proto::Metadata { group: group.0, value: meta::encode(&**query)?.into() })
            }
            Op::Propose(command) => B::Propose(meta::encode(&**command)?.into()),
            Op::Node(op) => match &**op {
                NodeOp::Raft { group, rpc, start } => {
                    B::Raft(proto::Raft { group: group.0, rpc: *rpc, start: start.0 })
                }
                NodeOp::Beat(beat) => B::Beat(meta::encode(&**beat)?.into()),
                NodeOp::Status => B::Status(proto::Done {}),
                NodeOp::StatusPage { after } => B::StatusPage(proto::StatusPage { after: after.0 }),
                NodeOp::Move(step) => B::Move(meta::encode(step)?.into()),
                NodeOp::Admin(op) => B::Admin(meta::encode(&**op)?.into()),
                NodeOp::RelayQuery { group, query } => {
                    B::RelayQuery(proto::Metadata { group: group.0, value: meta::encode(&**query)?.into() })
                }
                NodeOp::RelayPropose(command) => B::RelayPropose(meta::encode(&**command)?.into()),
            },
        },
        Body::Answer(answer) => match answer {
            Answer::Done => B::Done(proto::Done {}),
            Answer::Meta(answer) => B::Meta(meta::encode(&**answer)?.into()),
            Answer::Placed { avoid, shared } => B::Placed(proto::Placed { avoid: numbers(avoid), shared: *shared }),
            Answer::Shard { code, sealed_len, crc, tenant } => B::Shard(proto::Shard {
                data: code.data.into(),
                parity: code.parity.into(),
                sealed_len: *sealed_len,
                crc: *crc,
                tenant: tenant.0,
            }),
            Answer::Shards { page, more, head: upto } => B::Shards(proto::Shards {
                ids: page.iter().map(|(id, _)| shard_id(*id)).collect(),
                lengths: page.iter().map(|(_, len)| *len).collect(),
                more: *more,
                head: Some(head(*upto)),
            }),
            Answer::Drive { capacity_bytes, free_bytes, shards, corrupt, full, gone, damaged, scrub } => {
                B::Drive(proto::Drive {
                    capacity_bytes: *capacity_bytes,
                    free_bytes: *free_bytes,
                    shards: *shards,
                    corrupt: *corrupt,
                    full: *full,
                    gone: *gone,
                    damaged: *damaged,
                    scrub_at: scrub.at,
                    scrub_of: scrub.of,
                    scrub_ended: scrub.ended.0,
                    scrub_asked: scrub.asked,
                })
            }
            Answer::Report(reports) => B::Report(meta::encode(reports)?.into()),
            Answer::ReportPage { reports, more } => {
                B::ReportPage(proto::ReportPage { reports: meta::encode(reports)?.into(), more: *more })
            }
            Answer::Beat(beat) => B::BeatAnswer(meta::encode(&**beat)?.into()),
            Answer::Moved(moved) => B::Moved(meta::encode(moved)?.into()),
            Answer::Admin(answer) => B::AdminAnswer(meta::encode(answer)?.into()),
            Answer::Left(drives) => B::Left(proto::Left { drives: numbers(drives) }),
            Answer::Begun { write, stripe_bytes } => {
                object(ObjectAnswer::Begun { write: *write, stripe_bytes: *stripe_bytes })?
            }
            Answer::Committed { version, etag } => {
                object(ObjectAnswer::Committed { version: *version, etag: etag.clone() })?
            }
            Answer::Bucket(row) => object(ObjectAnswer::Bucket(row.clone()))?,
            Answer::Buckets(rows) => object(ObjectAnswer::Buckets(rows.clone()))?,
            Answer::Object(row) => object(ObjectAnswer::Object(row.clone()))?,
            Answer::Pieces(pieces) => object(ObjectAnswer::Pieces(pieces.clone()))?,
            Answer::Listing(listing) => object(ObjectAnswer::Listing(listing.clone()))?,
            Answer::Upload(row) => object(ObjectAnswer::Upload(row.clone()))?,
            Answer::Uploads(rows, more) => object(ObjectAnswer::Uploads(rows.clone(), *more))?,
            Answer::Parts(rows, more) => object(ObjectAnswer::Parts(rows.clone(), *more))?,
        },
    })
}

fn decode_body(body: proto::header::Body) -> Result<Body, Error> {
    use proto::header::Body as B;
    let stripe = |message: &proto::StripeOp| -> Result<(StripeTarget, Vec<DriveId>), Error> {
        let target = StripeTarget {
            id: read_stripe_id(message.id.as_ref())?,
            layout: LayoutId(message.layout),
            binding: Arc::new(meta::decode(&message.binding)?),
            key: message.key.as_ref().map(|key| meta::decode(key)).transpose()?.map(Arc::new),
            compression: match message.compression {
                0 => Compression::Off,
                1 => Compression::Auto,
                other => {
                    let what = "compressed in a way that this build does not know: run a newer one on this node";
                    return Err(Error::new(ErrorKind::Unsupported, what).with("compression", other));
                }
            },
            code: message.code.as_ref().map(|of| code(of.data, of.parity)).transpose()?,
        };
        Ok((target, message.avoid.iter().copied().map(DriveId).collect()))
    };
    let op = match body {
        B::Hello(hello) => {
            return Ok(Body::Hello(Hello {
                version_min: small(hello.version_min)?,
                version_max: small(hello.version_max)?,
                cluster: ClusterId(
                    hello.cluster.as_ref().try_into().map_err(|_| Error::invalid("a cluster id of a wrong length"))?,
                ),
                node: NodeId(hello.node),
                incarnation: Incarnation(hello.incarnation),
                capabilities: hello.capabilities,
                software: hello.software,
                lane: lane(hello.lane)?,
            }));
        }
        B::Welcome(welcome) => {
            return Ok(Body::Welcome(Welcome {
                version: small(welcome.version)?,
                node: NodeId(welcome.node),
                incarnation: Incarnation(welcome.incarnation),
                capabilities: welcome.capabilities,
                software: welcome.software,
                jobs_max: welcome.jobs_max,
                bytes_max: welcome.bytes_max,
            }));
        }
        B::Failure(failure) => return Ok(Body::Failure(Error::from_proto(failure))),
        B::Cancel(cancel) => return Ok(Body::Cancel(cancel.id)),

        B::Object(bytes) => Op::Object(Box::new(meta::decode(&bytes)?)),
        B::StripeWrite(message) => StripeOp::Write(stripe(&message)?.0).into(),
        B::StripeRead(message) => {
            let (target, avoid) = stripe(&message)?;
            let part = message.part.map(|proto::Part { start, len, of }| Part { start, len, of });
            StripeOp::Read { target, avoid, part }.into()
        }
        B::StripeDelete(message) => {
            let (target, avoid) = stripe(&message)?;
            StripeOp::Delete { target, avoid }.into()
        }
        B::ShardWrite(message) => ShardOp::Write {
            id: read_shard_id(message.id.as_ref())?,
            tenant: TenantId(message.tenant),
            code: code(message.data, message.parity)?,
            sealed_len: message.sealed_len,
            crc: message.crc,
        }
        .into(),
        B::ShardRead(id) => ShardOp::Read { id: read_shard_id(Some(&id))? }.into(),
        B::ShardDelete(message) => {
            if message.ids.len() > SHARD_BATCH_MAX {
                return Err(Error::invalid("too many shards in one request"));
            }
            let ids = message.ids.iter().map(|id| read_shard_id(Some(id))).collect::<Result<_, _>>()?;
            ShardOp::Delete { ids, until: message.until.map(read_head) }.into()
        }
        B::ShardList(message) => {
            let after = message.after.as_ref().map(|id| read_shard_id(Some(id))).transpose()?;
            let relies = message.relies.map(|of| Reliance { group: GroupId(of.group), layout: LayoutId(of.layout) });
            ShardOp::List { after, limit: message.limit, relies }.into()
        }
        B::DriveStat(_) => ShardOp::Stat.into(),
        B::ShardDamaged(message) => {
            let after = message.after.as_ref().map(|id| read_shard_id(Some(id))).transpose()?;
            ShardOp::Damaged { group: GroupId(message.group), after, limit: message.limit }.into()
        }
        B::DriveScrub(message) => ShardOp::Scrub { rate: message.rate }.into(),
        B::Query(message) => {
            Op::Query { group: GroupId(message.group), query: Arc::new(meta::decode(&message.value)?) }
        }
        B::Propose(bytes) => Op::Propose(Arc::new(meta::decode(&bytes)?)),
        B::Raft(message) => {
            let (group, start) = (GroupId(message.group), Incarnation(message.start));
            Op::Node(Box::new(NodeOp::Raft { group, rpc: message.rpc, start }))
        }
        B::Beat(bytes) => Op::Node(Box::new(NodeOp::Beat(Arc::new(meta::decode(&bytes)?)))),
        B::Status(_) => Op::Node(Box::new(NodeOp::Status)),
        B::StatusPage(page) => Op::Node(Box::new(NodeOp::StatusPage { after: NodeId(page.after) })),
        B::Move(bytes) => Op::Node(Box::new(NodeOp::Move(meta::decode(&bytes)?))),
        B::Admin(bytes) => Op::Node(Box::new(NodeOp::Admin(Box::new(meta::decode(&bytes)?)))),
        B::RelayQuery(message) => {
            let (group, query) = (GroupId(message.group), Arc::new(meta::decode(&message.value)?));
            Op::Node(Box::new(NodeOp::RelayQuery { group, query }))
        }
        B::RelayPropose(bytes) => Op::Node(Box::new(NodeOp::RelayPropose(Arc::new(meta::decode(&bytes)?)))),

        answer => return decode_answer(answer).map(Body::Answer),
    };
    Ok(Body::Request(op))
}

fn decode_answer(body: proto::header::Body) -> Result<Answer, Error> {
    use proto::header::Body as B;
    Ok(match body {
        B::Done(_) => Answer::Done,
        B::Meta(bytes) => Answer::Meta(Arc::new(meta::decode(&bytes)?)),
        B::Placed(placed) => {
            Answer::Placed { avoid: placed.avoid.into_iter().map(DriveId).collect(), shared: placed.shared }
        }
        B::Shard(shard) => {
            let (code, tenant) = (code(shard.data, shard.parity)?, TenantId(shard.tenant));
            Answer::Shard { code, sealed_len: shard.sealed_len, crc: shard.crc, tenant }
        }
        B::Shards(shards) => {
            if shards.ids.len() != shards.lengths.len() || shards.ids.len() > SHARD_BATCH_MAX {
                return Err(Error::invalid("a list of shards of a wrong length"));
            }
            let pairs = shards.ids.iter().zip(shards.lengths);
            let page = pairs.map(|(id, len)| Ok((read_shard_id(Some(id))?, len))).collect::<Result<_, Error>>()?;
            Answer::Shards { page, more: shards.more, head: shards.head.map(read_head).unwrap_or_default() }
        }
        B::Drive(drive) => Answer::Drive {
            capacity_bytes: drive.capacity_bytes,
            free_bytes: drive.free_bytes,
            shards: drive.shards,
            corrupt: drive.corrupt,
            full: drive.full,
            gone: drive.gone,
            damaged: drive.damaged,
            scrub: ScrubState {
                at: drive.scrub_at,
                of: drive.scrub_of,
                ended: UnixMillis(drive.scrub_ended),
                asked: drive.scrub_asked,
            },
        },
        B::Report(bytes) => Answer::Report(meta::decode(&bytes)?),
        B::ReportPage(page) => Answer::ReportPage { reports: meta::decode(&page.reports)?, more: page.more },
        B::BeatAnswer(bytes) => Answer::Beat(Arc::new(meta::decode(&bytes)?)),
        B::Moved(bytes) => Answer::Moved(meta::decode(&bytes)?),
        B::AdminAnswer(bytes) => Answer::Admin(Box::new(meta::decode(&bytes)?)),
        B::Left(left) => Answer::Left(left.drives.into_iter().map(DriveId).collect()),
        B::ObjectAnswer(bytes) => match meta::decode(&bytes)? {
            ObjectAnswer::Begun { write, stripe_bytes } => Answer::Begun { write, stripe_bytes },
            ObjectAnswer::Committed { version, etag } => Answer::Committed { version, etag },
            ObjectAnswer::Bucket(row) => Answer::Bucket(row),
            ObjectAnswer::Buckets(rows) => Answer::Buckets(rows),
            ObjectAnswer::Object(row) => Answer::Object(row),
            ObjectAnswer::Pieces(pieces) => Answer::Pieces(pieces),
            ObjectAnswer::Listing(listing) => Answer::Listing(listing),
            ObjectAnswer::Upload(row) => Answer::Upload(row),
            ObjectAnswer::Uploads(rows, more) => Answer::Uploads(rows, more),
            ObjectAnswer::Parts(rows, more) => Answer::Parts(rows, more),
        },
        _ => return Err(Error::invalid("a body that is neither a request nor an answer")),
    })
}

fn small(number: u32) -> Result<u16, Error> {
    u16::try_from(number).map_err(|_| Error::invalid("a version over 65,535"))
}

fn byte(number: u32) -> Result<u8, Error> {
    u8::try_from(number).map_err(|_| Error::invalid("a number over 255"))
}

fn code(data: u32, parity: u32) -> Result<Code, Error> {
    let code = Code { data: byte(data)?, parity: byte(parity)? };
    if code.is_valid() { Ok(code) } else { Err(Error::invalid("a code over the limits")) }
}

fn numbers(drives: &[DriveId]) -> Vec<u64> {
    drives.iter().map(|drive| drive.0).collect()
}

fn stripe_id(id: StripeId) -> proto::StripeId {
    proto::StripeId { write: id.write.0, stripe: id.stripe, attempt: id.attempt.into() }
}

fn shard_id(id: ShardId) -> proto::ShardId {
    proto::ShardId { stripe: Some(stripe_id(id.stripe)), shard: id.shard.into() }
}

fn head(head: Head) -> proto::Head {
    proto::Head { epoch: head.epoch.0, lsn: head.lsn, start: head.start }
}

fn read_head(head: proto::Head) -> Head {
    Head { epoch: Epoch(head.epoch), start: head.start, lsn: head.lsn }
}

fn read_stripe_id(id: Option<&proto::StripeId>) -> Result<StripeId, Error> {
    let id = id.ok_or_else(|| Error::invalid("no stripe is named"))?;
    Ok(StripeId { write: WriteId(id.write), stripe: id.stripe, attempt: byte(id.attempt)? })
}

fn read_shard_id(id: Option<&proto::ShardId>) -> Result<ShardId, Error> {
    let id = id.ok_or_else(|| Error::invalid("no shard is named"))?;
    Ok(read_stripe_id(id.stripe.as_ref())?.shard(byte(id.shard)?))
}

#[cfg(test)]
mod tests;
