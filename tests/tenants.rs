//! One tenant's attempts on another's data, over S3, over links, and with the command line: none succeeds, nothing of the other's
//! shows in an answer, and the very same requests succeed in the owner's name.
//!
//! How many are made: `MESH_TENANT_OPS` (2,000 without it); `MESH_TENANT_SEED` chooses which; `MESH_TENANT_WITHIN_MS` is how long who
//! was taken out may be served still, on a machine that does nothing else. How long those take that are about
//! something that is there, beside those about something that is not, is printed and not judged.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dev;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use dev::Dev;
use futures_util::future::join_all;
use mesh::{Client, client::CopyOptions, env::Env, provision::Provision};
use mesh_core::{
    Buf, Error, ErrorKind, Lane, Op, Outcome, Pool, Principal, Response,
    envelope::Envelope,
    id::{ActorId, DriveId, Epoch, GroupId, Incarnation, NodeId, TenantId, WriteId},
    limits::HEARTBEAT_SILENCE_MAX,
    meta::{Attributes, Command, Grant, MeshCommand, ObjectRow, Precondition, Query, TenantLimits},
    op::{AccessAnswer, AccessOp, AdminOp, Answer, Destination, NodeOp, ObjectOp, Piece, ShardOp},
    port::Outbound as _,
    stream::Place,
};
use mesh_fronts::s3::client::{Framing, Reply, Signer, checksum};
use mesh_transport::{
    identity::Identity,
    quic::{QuicConfig, QuicLink},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::Semaphore};

/// Somebody of a tenant, by each way in.
struct Who {
    tenant: TenantId,
    signer: Signer,
    client: Client,
    link: Arc<QuicLink>,
    node: NodeId,
    bucket: &'static str,
}

/// What there is of the victim's, and where the thief has a place of its own.
struct Scene {
    s3: SocketAddr,
    victim: Who,
    thief: Who,
    /// The victim's, in parts and not completed.
    upload: WriteId,
    /// The victim's, begun at its node and not finished.
    write: WriteId,
    /// The manifest of one of the victim's objects, and the first piece of it. A thief would have to find those first.
    row: Arc<ObjectRow>,
    piece: Piece,
    own_upload: WriteId,
    /// Of the part of the victim's upload.
    etag: String,
}

/// In everything of the victim's, and in nothing that the thief says.
const SECRET: &str = "b4c1f0de-secret";
const KEYS: u64 = 8;
const AT_ONCE: usize = 16;

fn key(number: u64) -> String {
    format!("known/{number}")
}

fn contents(number: u64) -> Vec<u8> {
    format!("{number} {SECRET} ").repeat(3000).into_bytes()
}

#[test]
fn nothing_of_a_tenant_is_another_s() {
    let (ops, seed) = (number("MESH_TENANT_OPS", 2000), number("MESH_TENANT_SEED", 7));
    let mut dev = Dev::start(&[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let thief = runtime.block_on(async {
        let scene = Arc::new(Scene::set(&dev).await);
        scene.owner_may_do_the_same().await;
        let (gate, counts) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(Counts::default()));
        let mut tasks = Vec::new();
        for number in 0..ops {
            let permit = gate.clone().acquire_owned().await.unwrap();
            let (scene, counts) = (scene.clone(), counts.clone());
            tasks.push(tokio::spawn(async move {
                scene.attempt(Draw(seed.wrapping_mul(0x9e37_79b9).wrapping_add(number)), &counts).await;
                drop(permit);
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        println!(
            "{} attempts over S3, {} by the client over links, {} by hand",
            counts.0[0].load(Relaxed),
            counts.0[1].load(Relaxed),
            counts.0[2].load(Relaxed)
        );
        scene.is_untouched().await;
        scene.told_times().await;
        scene.rights_are_by_bucket(&dev).await;
        scene.whoever_goes_is_refused_everywhere(&dev).await;
        scene.thief.tenant
    });
    command_line(&dev, thief);
    dev.stop();
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// A client that asks the nodes of the mesh, or first the one with this number.
async fn connect(dev: &Dev, identity: impl Fn(&Provision) -> Identity, first: Option<usize>) -> Client {
    let all = &variables(dev)["MESH_CONNECT"];
    let mut addresses: Vec<SocketAddr> = all.split(',').map(|address| address.parse().unwrap()).collect();
    if let Some(first) = first {
        addresses = vec![addresses[first]];
    }
    let provision = Provision::open(dev.folder()).unwrap();
    mesh::quic::connect(&addresses, identity(&provision), &Env::real().unwrap()).await.unwrap()
}

const DENIED: &[ErrorKind] = &[ErrorKind::Denied];

#[derive(Default)]
struct Counts([AtomicU64; 3]);

/// Numbers from a seed (splitmix64, Steele, Lea and Flood 2014).
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

fn variables(dev: &Dev) -> BTreeMap<String, String> {
    let told = dev.sourced(&["env"]);
    let text = String::from_utf8(told.stdout).unwrap();
    text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

impl Scene {
    async fn set(dev: &Dev) -> Self {
        let told = variables(dev);
        let s3 = told["AWS_ENDPOINT_URL"].strip_prefix("http://").unwrap().parse().unwrap();
        let addresses: Vec<SocketAddr> =
            told["MESH_CONNECT"].split(',').map(|address| address.parse().unwrap()).collect();
        let env = Env::real().unwrap();
        let provision = Provision::open(dev.folder()).unwrap();
        let admin = mesh::quic::connect(&addresses, provision.admin_identity("test").unwrap(), &env).await.unwrap();
        let who = async |name: &str, bucket: &'static str| {
            let made = admin.access(AccessOp::CreateTenant { name: name.into(), limits: TenantLimits::default() });
            let AccessAnswer::Tenant(tenant) = made.await.unwrap() else { panic!("no tenant") };
            let grants = Some(vec![Grant::all()]);
            let made = admin.access(AccessOp::CreateKey { tenant: name.into(), user: "ann".into(), grants });
            let AccessAnswer::Key(key) = made.await.unwrap() else { panic!("no key") };
            let identity = || provision.client_identity(tenant.id, "ann").unwrap();
            let client = mesh::quic::connect(&addresses, identity(), &env).await.unwrap();
            let config = QuicConfig {
                address: SocketAddr::from(([0, 0, 0, 0], 0)),
                cluster: identity().cluster(),
                identity: identity(),
                node: NodeId(0),
                incarnation: Incarnation(1),
                capabilities: 0,
                software: "test".into(),
                clock: env.clock.clone(),
                entropy: (env.entropy)(),
                pool: Pool::default(),
                idle_timeout: HEARTBEAT_SILENCE_MAX,
            };
            let (link, node) = QuicLink::client(config, addresses[0]).await.unwrap();
            // Its chains have to run first.
            until_taken(&client, bucket).await;
            Who { tenant: tenant.id, signer: Signer::new(&key.access, &key.secret), client, link, node, bucket }
        };
        let victim = who("victim", "victims").await;
        let thief = who("thief", "thiefs").await;
        for number in 0..KEYS {
            victim.client.put_bytes(victim.bucket, &key(number), &contents(number)).await.unwrap();
        }
        victim.client.put_bytes(victim.bucket, &format!("hidden/{SECRET}"), SECRET.as_bytes()).await.unwrap();
        let upload = victim.client.create_upload(victim.bucket, &key(0), Attributes::default()).await.unwrap();
        let etag = upload.put_part_bytes(1, &contents(0)).await.unwrap().etag;
        let own = thief.client.create_upload(thief.bucket, &key(0), Attributes::default()).await.unwrap();
        let begin = ObjectOp::Begin {
            bucket: victim.bucket.into(),
            key: key(1).into(),
            destination: Destination::Object {
                attributes: Attributes::default(),
                precondition: Precondition::default(),
            },
        };
        let ask = async |who: &Who, op: ObjectOp| {
            by_hand(who, ActorId::ingress(who.node), op.into(), who.principal(), b"").await
        };
        let Ok(Response { answer: Answer::Begun { write, .. }, .. }) = ask(&victim, begin).await else {
            panic!("no write")
        };
        let row = victim.client.head(victim.bucket, &key(0)).await.unwrap();
        let plan = ObjectOp::Plan {
            bucket: victim.bucket.into(),
            key: key(0).into(),
            object: row.clone(),
            offset: 0,
            len: row.len,
        };
        let Ok(Response { answer: Answer::Pieces(pieces), .. }) = ask(&victim, plan).await else { panic!("no pieces") };
        let read = ObjectOp::Read { bucket: victim.bucket.into(), key: key(0).into(), piece: pieces[0].clone() };
        let bytes = ask(&victim, read).await.unwrap().payload;
        assert!(bytes[..] == contents(0)[..], "the owner's piece has its bytes");
        Self {
            s3,
            upload: upload.id(),
            own_upload: own.id(),
            etag,
            write,
            row,
            piece: pieces[0].clone(),
            victim,
            thief,
        }
    }

    async fn s3(&self, request: (String, Vec<u8>), method: &str) -> Reply {
        let mut stream = TcpStream::connect(self.s3).await.unwrap();
        stream.write_all(request.0.as_bytes()).await.unwrap();
        // What is refused at its head may be closed before its body was taken.
        drop(stream.write_all(&request.1).await);
        Reply::read(&mut stream, method).await.unwrap()
    }

    /// What is asked of `bucket`, with an upload of it, by somebody who has `own` and an upload of that: method, target, headers
    /// and body.
    fn asks(&self, bucket: &str, upload: WriteId, own: &str, number: u64) -> Vec<S3Ask> {
        let (one, other, upload, own_upload) = (key(number), key(number + 1), upload.0, self.own_upload.0);
        let source = [("x-amz-copy-source", format!("/{bucket}/{one}"))];
        let ask = |method, target: String, headers: &[(&'static str, String)], body: &str| {
            (method, target, headers.to_vec(), body.as_bytes().to_vec())
        };
        let plain = |method, target: String| ask(method, target, &[], "");
        let parts = "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>\"ETAG\"</ETag></Part></CompleteMultipartUpload>";
        let delete = format!("<Delete><Object><Key>{other}</Key></Object></Delete>");
        let t = |key: &str| format!("/{bucket}/{key}");
        vec![
            plain("GET", t(&one)),
            plain("HEAD", t(&one)),
            ask("GET", t(&one), &[("range", "bytes=5-9".into())], ""),
            plain("GET", format!("{}?partNumber=1", t(&one))),
            plain("HEAD", format!("/{bucket}")),
            plain("GET", format!("/{bucket}?list-type=2")),
            plain("GET", format!("/{bucket}?list-type=2&delimiter=%2F")),
            plain("GET", format!("/{bucket}?prefix=hidden")),
            plain("GET", format!("/{bucket}?uploads")),
            plain("GET", format!("/{bucket}?location")),
            plain("GET", format!("{}?uploadId={upload:016x}", t(&key(0)))),
            ask("PUT", t(&other), &[], "mine"),
            ask("PUT", t(&key(number + 2)), &[("if-none-match", "*".into())], "mine"),
            ask("PUT", t(&other), &source, ""),
            ask("PUT", format!("/{own}/copied"), &source, ""),
            ask("PUT", format!("/{own}/{}?partNumber=1&uploadId={own_upload:016x}", key(0)), &source, ""),
            plain("POST", format!("{}?uploads", t(&one))),
            ask("PUT", format!("{}?partNumber=1&uploadId={upload:016x}", t(&key(0))), &[], "mine"),
            ask("POST", format!("{}?uploadId={upload:016x}", t(&key(0))), &[], parts),
            plain("DELETE", t(&other)),
            ask("POST", format!("/{bucket}?delete"), &[], &delete),
            plain("DELETE", format!("{}?uploadId={upload:016x}", t(&key(0)))),
            plain("DELETE", format!("/{bucket}")),
        ]
    }

    /// Each in the owner's name, on a bucket like it: so it is what it looks like, and refused to others for that alone.
    async fn owner_may_do_the_same(&self) {
        let (owner, scratch, own) = (&self.victim, "scratch", "scratch-2");
        for bucket in [scratch, own] {
            owner.client.create_bucket(bucket).await.unwrap();
        }
        let put = async || drop(owner.client.put_bytes(scratch, &key(0), &contents(0)).await.unwrap());
        for at in 0..self.asks(scratch, self.upload, own, 0).len() {
            put().await;
            let upload = owner.client.create_upload(scratch, &key(0), Attributes::default()).await.unwrap();
            let part = upload.put_part_bytes(1, b"mine").await.unwrap();
            let into = owner.client.create_upload(own, &key(0), Attributes::default()).await.unwrap();
            let (method, target, headers, body) = self.asks(scratch, upload.id(), own, 0).swap_remove(at);
            let target = target
                .replace(&format!("uploadId={:016x}", self.own_upload.0), &format!("uploadId={:016x}", into.id().0));
            let body = String::from_utf8(body).unwrap().replace("ETAG", &part.etag).into_bytes();
            if (method, target.as_str()) == ("DELETE", "/scratch") {
                clear(&owner.client, scratch).await;
            }
            let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let sum = sum_of(&body);
            let headers: Vec<(&str, &str)> =
                headers.into_iter().chain(sum.as_deref().map(|sum| ("x-amz-checksum-sha256", sum))).collect();
            let host = self.s3.to_string();
            let request = owner.signer.request(&host, (method, &target), &headers, &body, &Framing::Whole).unwrap();
            let reply = self.s3(request, method).await;
            assert!((200..300).contains(&reply.status), "the owner: {method} {target}: {:?}", reply.verdict());
        }
    }

    async fn attempt(&self, mut draw: Draw, counts: &Counts) {
        let way = draw.below(10);
        let (at, what, came) = match way {
            0..=5 => (0, self.by_s3(&mut draw).await, None),
            6 | 7 => {
                let (what, came, expected) = self.by_client(&mut draw).await;
                (1, what, Some((came, expected)))
            }
            _ => {
                let (what, came, expected) = self.by_link(&mut draw).await;
                (2, what, Some((came, expected)))
            }
        };
        counts.0[at].fetch_add(1, Relaxed);
        if let Some((came, expected)) = came {
            let error = came.expect_err(&what);
            assert!(!error.to_string().contains(SECRET), "{what}: {error}");
            assert!(expected.contains(&error.kind()), "{what}: {error}");
        }
    }

    async fn by_s3(&self, draw: &mut Draw) -> String {
        let number = draw.below(KEYS);
        let asks = self.asks(self.victim.bucket, self.upload, self.thief.bucket, number);
        let mut asks: Vec<(S3Ask, Expected)> = asks.into_iter().map(|ask| (ask, Expected::Denied)).collect();
        let known = format!("{}/{}", self.victim.bucket, key(number));
        for target in [
            format!("//{known}"),
            format!("/{}/../{known}", self.thief.bucket),
            format!("/{}/%2e%2e/{known}", self.thief.bucket),
            format!("/{}/..%2f{}", self.thief.bucket, known.replace('/', "%2f")),
            format!("/{}%2f{known}", self.thief.bucket),
            format!("/{}?list-type=2&prefix=..%2F{}", self.victim.bucket, self.victim.bucket),
        ] {
            asks.push((("GET", target, Vec::new(), Vec::new()), Expected::Astray));
        }
        // An upload of the victim's, as if it were of a bucket of one's own.
        let own = format!("/{}/{}", self.thief.bucket, key(0));
        let upload = format!("uploadId={:016x}", self.upload.0);
        let part = ("PUT", format!("{own}?partNumber=1&{upload}"), Vec::new(), b"mine".to_vec());
        asks.push((part, Expected::Told(404, "NoSuchUpload")));
        asks.push((("GET", format!("{own}?{upload}"), Vec::new(), Vec::new()), Expected::Told(404, "NoSuchUpload")));
        let again = ("PUT", format!("/{}", self.victim.bucket), Vec::new(), Vec::new());
        asks.push((again, Expected::Told(409, "BucketAlreadyExists")));
        let ((method, target, headers, body), expected) = draw.of(&asks).clone();
        // As its owner would say it.
        let body = String::from_utf8(body).unwrap().replace("ETAG", &self.etag).into_bytes();
        let mut headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let sum = sum_of(&body);
        headers.extend(sum.as_deref().map(|sum| ("x-amz-checksum-sha256", sum)));
        let host = self.s3.to_string();
        let virtual_host = format!("{}.localhost", self.victim.bucket);
        let by_host = target.strip_prefix(&format!("/{}", self.victim.bucket)).filter(|rest| rest.starts_with('/'));
        let signers = [
            self.thief.signer.clone(),
            self.victim.signer.forged(),
            self.thief.signer.forged(),
            self.thief.signer.unknown(),
        ];
        // Its own key most of the time, for that is the one that gets far.
        let which = draw.below(8).saturating_sub(4) as usize;
        let how = draw.below(10);
        let request = match (how, by_host) {
            (0, _) if !target.contains('?') && method == "GET" => {
                (signers[which].presigned(&host, (method, &target)).unwrap(), Vec::new())
            }
            (1, Some(rest)) => {
                signers[which].request(&virtual_host, (method, rest), &headers, &body, &Framing::Unsigned).unwrap()
            }
            (2, _) => (
                format!(
                    "{method} {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                ),
                body.clone(),
            ),
            _ => signers[which].request(&host, (method, &target), &headers, &body, &Framing::Whole).unwrap(),
        };
        let reply = self.s3(request, method).await;
        let what = format!("{method} {target} ({how}, {which})");
        let (status, code) = reply.verdict();
        let told = |codes: &[&str]| codes.contains(&code.as_str()) || (method == "HEAD" && code.is_empty());
        let is_refused = match expected {
            Expected::Astray => matches!(status, 400 | 403 | 404),
            _ if how == 2 => status == 403 && told(&["AccessDenied"]),
            _ if which == 3 => status == 403 && told(&["InvalidAccessKeyId"]),
            _ if which > 0 => status == 403 && told(&["SignatureDoesNotMatch"]),
            Expected::Denied => status == 403 && told(&["AccessDenied"]),
            Expected::Told(expected, code) => status == expected && told(&[code]),
        };
        assert!(is_refused, "{what}: {status} {code}");
        let said = String::from_utf8_lossy(&reply.body);
        assert!(
            !said.contains(SECRET) && !reply.headers.values().any(|value| value.contains(SECRET)),
            "{what}: {said}"
        );
        what
    }

    async fn by_client(&self, draw: &mut Draw) -> (String, Result<(), Error>, &'static [ErrorKind]) {
        let (client, bucket, own) = (&self.thief.client, self.victim.bucket, self.thief.bucket);
        let (one, number) = (key(draw.below(KEYS)), draw.below(14));
        let place = Place::new(bucket, one.as_str());
        let came = match number {
            0 => client.get_bytes(bucket, &one).await.map(drop),
            1 => client.head(bucket, &one).await.map(drop),
            2 => client.list(bucket, "", None, "").await.map(drop),
            3 => client.put_bytes(bucket, &one, b"mine").await.map(drop),
            4 => client.remove(bucket, &one).await,
            5 => client.delete_bucket(bucket).await,
            6 => client.create_bucket(bucket).await,
            7 => client.bucket(bucket).await.map(drop),
            8 => client.copy(&place, &Place::new(own, "copied"), CopyOptions::default()).await.map(drop),
            9 => client.copy(&place, &Place::new(bucket, "copied"), CopyOptions::default()).await.map(drop),
            10 => client.create_upload(bucket, &one, Attributes::default()).await.map(drop),
            11 => client.upload(bucket, &key(0), self.upload).await.map(drop),
            12 => client.uploads(bucket, "", None).await.map(drop),
            _ => client.remove_if(bucket, &one, Precondition { absent: false, etag: Some("\"x\"".into()) }).await,
        };
        let seen = client.buckets().await.unwrap();
        assert!(seen.iter().all(|row| row.bucket.tenant == self.thief.tenant), "{seen:?}");
        let expected = if number == 6 { &[ErrorKind::BucketTaken] } else { DENIED };
        (format!("the client, {number} of {one}"), came, expected)
    }

    /// Whatever a message can say, in whosever name it says that it is.
    async fn by_link(&self, draw: &mut Draw) -> (String, Result<(), Error>, &'static [ErrorKind]) {
        const NOTHING_OPENS: &[ErrorKind] = &[ErrorKind::Corrupt, ErrorKind::Denied];
        let (bucket, own): (Arc<str>, Arc<str>) = (self.victim.bucket.into(), self.thief.bucket.into());
        let one: Arc<str> = key(draw.below(KEYS)).into();
        let (row, piece, write) = (self.row.clone(), self.piece.clone(), self.write);
        let at = row.len;
        let object = |op: ObjectOp| (ActorId::ingress(self.thief.node), Op::from(op));
        let node = |op: NodeOp| (ActorId::NODE, Op::Node(Box::new(op)));
        let control = || Op::Query { group: GroupId::CONTROL, query: Arc::new(Query::Control) };
        let drop_key =
            || Arc::new(Command::Mesh(MeshCommand::DropPrincipal { tenant: self.victim.tenant, name: "ann".into() }));
        let admin = |op: AdminOp| node(NodeOp::Admin(Box::new(op)));
        let shard = |op: ShardOp| (ActorId::drive(DriveId(1001)), Op::Shard(Box::new(op)));
        const PLAN: usize = 1;
        let read = |bucket: &Arc<str>, key: Arc<str>| {
            object(ObjectOp::Read { bucket: bucket.clone(), key, piece: piece.clone() })
        };
        let of = |(actor, op)| (actor, op, DENIED);
        let asks: Vec<(ActorId, Op, &'static [ErrorKind])> = vec![
            of(object(ObjectOp::Head { bucket: bucket.clone(), key: one.clone() })),
            of(object(ObjectOp::Plan { bucket: bucket.clone(), key: one.clone(), object: row, offset: 0, len: at })),
            of(read(&bucket, one.clone())),
            // What it has found out of the victim's, as if it were its own.
            (ActorId::ingress(self.thief.node), read(&own, one.clone()).1, NOTHING_OPENS),
            (ActorId::ingress(self.thief.node), read(&own, key(0).into()).1, NOTHING_OPENS),
            of(object(ObjectOp::Append { write, stripe: 0 })),
            of(object(ObjectOp::Finish { write, len: 4, etag: "\"x\"".into(), checksums: BTreeMap::new() })),
            of(object(ObjectOp::Abort { write })),
            of(object(ObjectOp::AbortUpload { bucket: bucket.clone(), upload: self.upload })),
            of(object(ObjectOp::ListParts { bucket: bucket.clone(), upload: self.upload, after: 0, limit: 10 })),
            of(object(ObjectOp::CompleteUpload {
                bucket: bucket.clone(),
                key: key(0).into(),
                upload: self.upload,
                parts: vec![(1, self.etag.clone())],
                checksums: BTreeMap::new(),
                precondition: Precondition::default(),
            })),
            (
                ActorId::ingress(self.thief.node),
                ObjectOp::Begin {
                    bucket: own,
                    key: key(0).into(),
                    destination: Destination::Part { upload: self.upload, number: 1 },
                }
                .into(),
                &[ErrorKind::NoSuchUpload],
            ),
            of(object(ObjectOp::Delete { bucket: bucket.clone(), key: one, precondition: Precondition::default() })),
            of(object(ObjectOp::List {
                bucket,
                prefix: String::new(),
                delimiter: None,
                after: String::new(),
                limit: 10,
            })),
            of((ActorId::data(self.victim.tenant, self.thief.node), control())),
            of((ActorId::data(self.thief.tenant, self.thief.node), control())),
            of((ActorId::NODE, control())),
            of((ActorId::NODE, Op::Propose(drop_key()))),
            of((ActorId::data(self.victim.tenant, self.thief.node), Op::Propose(drop_key()))),
            of(node(NodeOp::RelayPropose(drop_key()))),
            of(node(NodeOp::RelayQuery {
                group: GroupId(1),
                query: Arc::new(Query::Usage { tenant: self.victim.tenant }),
            })),
            of(admin(AdminOp::Access(AccessOp::Tenants { after: None }))),
            of(admin(AdminOp::Access(AccessOp::CreateKey {
                tenant: "victim".into(),
                user: "ann".into(),
                grants: None,
            }))),
            of(admin(AdminOp::Backup { group: GroupId::CONTROL, from: None })),
            of(shard(ShardOp::List { after: None, limit: 10, relies: None })),
            of(shard(ShardOp::Stat)),
        ];
        let number = draw.below(asks.len() as u64) as usize;
        let (actor, op, expected) = asks.into_iter().nth(number).unwrap();
        let principals =
            [self.thief.principal(), self.victim.principal(), Principal::System, Principal::Admin { name: "x".into() }];
        let principal = draw.of(&principals).clone();
        let what = format!("by hand, {number} as {principal:?}");
        let came = by_hand(&self.thief, actor, op, principal, b"mine").await;
        if let Ok(response) = &came {
            assert!(!response.payload.windows(SECRET.len()).any(|some| some == SECRET.as_bytes()), "{what}");
        }
        // Who has a manifest is told how it is cut, and nothing that is not in it: nobody is asked for that.
        if let (PLAN, Ok(Response { answer: Answer::Pieces(pieces), .. })) = (number, &came) {
            assert_eq!(pieces[0], self.piece, "{what}");
            return (what.clone(), Err(Error::new(ErrorKind::Denied, what)), DENIED);
        }
        (what, came.map(drop), expected)
    }

    async fn is_untouched(&self) {
        let Who { client, bucket, .. } = &self.victim;
        for number in 0..KEYS {
            assert!(client.get_bytes(bucket, &key(number)).await.unwrap() == contents(number), "{number}");
        }
        let keys: Vec<String> =
            client.list(bucket, "", None, "").await.unwrap().entries.iter().map(|row| row.key.clone()).collect();
        let all: Vec<String> = [format!("hidden/{SECRET}")].into_iter().chain((0..KEYS).map(key)).collect();
        assert_eq!(keys, all);
        let upload = client.upload(bucket, &key(0), self.upload).await.unwrap();
        let (parts, _) = upload.parts(0).await.unwrap();
        assert_eq!(
            parts.iter().map(|part| (part.number, part.etag.clone())).collect::<Vec<_>>(),
            [(1, self.etag.clone())]
        );
        // What it had begun is open still, and takes what it says.
        let ask = async |op: ObjectOp, bytes: &[u8]| {
            by_hand(&self.victim, ActorId::ingress(self.victim.node), op.into(), self.victim.principal(), bytes).await
        };
        let (write, bytes) = (self.write, contents(9));
        ask(ObjectOp::Append { write, stripe: 0 }, &bytes).await.unwrap();
        let finish =
            ObjectOp::Finish { write, len: bytes.len() as u64, etag: "\"x\"".into(), checksums: BTreeMap::new() };
        ask(finish, b"").await.unwrap();
        assert!(client.get_bytes(bucket, &key(1)).await.unwrap() == bytes);
    }

    /// Somebody of the victim's own, with rights in some buckets.
    async fn rights_are_by_bucket(&self, dev: &Dev) {
        let admin = connect(dev, |provision| provision.admin_identity("test").unwrap(), None).await;
        let grants = Some(vec!["shared-*=read".parse().unwrap(), "shared-in=write".parse().unwrap()]);
        let made = admin.access(AccessOp::CreateKey { tenant: "victim".into(), user: "bob".into(), grants });
        let AccessAnswer::Key(key) = made.await.unwrap() else { panic!("no key") };
        for bucket in ["shared-in", "shared-out"] {
            self.victim.client.create_bucket(bucket).await.unwrap();
            self.victim.client.put_bytes(bucket, "it", b"it").await.unwrap();
        }
        let bob = Signer::new(&key.access, &key.secret);
        let denied = (403, "AccessDenied");
        for (method, target, verdict) in [
            ("GET", "/shared-in/it", (200, "")),
            ("GET", "/shared-out/it", (200, "")),
            ("GET", "/shared-out?list-type=2", (200, "")),
            ("PUT", "/shared-in/mine", (200, "")),
            ("DELETE", "/shared-in/mine", (204, "")),
            ("PUT", "/shared-out/mine", denied),
            ("DELETE", "/shared-out/it", denied),
            ("GET", "/victims/known/0", denied),
            ("GET", "/victims?list-type=2", denied),
            ("PUT", "/victims/known/0", denied),
            ("DELETE", "/shared-in", denied),
            ("PUT", "/shared-new", denied),
        ] {
            let request = bob.request(&self.s3.to_string(), (method, target), &[], b"", &Framing::Whole).unwrap();
            let reply = self.s3(request, method).await;
            assert_eq!(reply.verdict(), (verdict.0, verdict.1.to_owned()), "{method} {target}");
        }
    }

    /// Whoever is taken out is refused by every node, by what it has a certificate for, and its name is nobody else's.
    async fn whoever_goes_is_refused_everywhere(&self, dev: &Dev) {
        let within = Duration::from_millis(number("MESH_TENANT_WITHIN_MS", 30_000));
        let admin = connect(dev, |provision| provision.admin_identity("test").unwrap(), None).await;
        let mut clients = Vec::new();
        for at in 0..3 {
            let client =
                connect(dev, |provision| provision.client_identity(self.thief.tenant, "ann").unwrap(), Some(at));
            clients.push(client.await);
        }
        for client in &clients {
            client.bucket(self.thief.bucket).await.unwrap();
            client.status().await.unwrap();
        }
        // Of what runs it is told its own alone.
        let of = |actor: ActorId| actor.as_data().map(|(of, _)| of).or_else(|| actor.as_tail().map(|(of, ..)| of));
        let chains = async |client: &Client| -> BTreeSet<Option<TenantId>> {
            let reports = client.status().await.unwrap();
            reports.iter().flat_map(|report| report.actors.iter().map(|actor| of(actor.actor))).collect()
        };
        assert_eq!(chains(&self.thief.client).await, [Some(self.thief.tenant)].into());
        let all = chains(&admin).await;
        assert!(all.contains(&Some(self.victim.tenant)) && all.contains(&None), "{all:?}");
        let (tenant, user) = ("thief".to_owned(), "ann".to_owned());
        admin.access(AccessOp::DropUser { tenant: tenant.clone(), user }).await.unwrap();
        let began = Instant::now();
        let refused = clients.iter().map(async |client| {
            while client.bucket(self.thief.bucket).await.is_ok() {
                assert!(began.elapsed() < within, "served {:?} after it was taken out", began.elapsed());
            }
            let after = began.elapsed();
            for _ in 0..20 {
                assert_eq!(client.bucket(self.thief.bucket).await.unwrap_err().kind(), ErrorKind::Denied);
                assert_eq!(client.status().await.unwrap_err().kind(), ErrorKind::Denied);
            }
            after
        });
        println!("three nodes refuse who was taken out after {:?}", join_all(refused).await);
        let (grants, user) = (Some(vec![Grant::all()]), "ann".to_owned());
        let again = AccessOp::CreateKey { tenant: tenant.clone(), user, grants: grants.clone() };
        let again = admin.access(again).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Conflict, "{again}");
        // For the command line.
        admin.access(AccessOp::CreateKey { tenant, user: "bob".into(), grants }).await.unwrap();
    }

    /// How long a thief is made to wait by what is there, and by what is not.
    async fn told_times(&self) {
        let mut took: [Vec<Duration>; 2] = Default::default();
        for turn in 0..400_u64 {
            let name = if turn % 2 == 0 { key(turn % KEYS) } else { format!("absent/{turn}") };
            let target = format!("/{}/{name}", self.victim.bucket);
            let request = self.thief.signer.request(&self.s3.to_string(), ("GET", &target), &[], b"", &Framing::Whole);
            let began = Instant::now();
            let reply = self.s3(request.unwrap(), "GET").await;
            took[turn as usize % 2].push(began.elapsed());
            assert_eq!(reply.verdict(), (403, "AccessDenied".into()), "the same of both");
        }
        for (what, took) in ["there", "not there"].iter().zip(&mut took) {
            took.sort();
            println!("what is {what} was refused after {:?} (p10 {:?}, p90 {:?})", took[100], took[20], took[180]);
        }
    }
}

/// What comes of an attempt in one's own name.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Denied,
    Told(u16, &'static str),
    /// It leads nowhere: what it is refused for depends on how far it is understood.
    Astray,
}

type S3Ask = (&'static str, String, Vec<(&'static str, String)>, Vec<u8>);

/// Lists of keys to delete have to come with one.
fn sum_of(body: &[u8]) -> Option<String> {
    body.starts_with(b"<Delete>").then(|| checksum(body))
}

impl Who {
    fn principal(&self) -> Principal {
        Principal::User { tenant: self.tenant, name: "ann".into() }
    }
}

async fn by_hand(who: &Who, actor: ActorId, op: Op, principal: Principal, payload: &[u8]) -> Outcome {
    let (answer, outcome) = tokio::sync::oneshot::channel();
    let budget = Duration::from_secs(10);
    let envelope = Envelope::request(actor, Epoch(0), op, Buf::copy_of(payload), principal, Lane::Interactive, budget);
    let _call = who.link.send(who.node, envelope, Box::new(move |outcome| drop(answer.send(outcome))));
    outcome.await.unwrap()
}

async fn until_taken(client: &Client, bucket: &str) {
    let began = Instant::now();
    while let Err(error) = client.create_bucket(bucket).await {
        if error.kind() == ErrorKind::BucketExists {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{error}");
    }
}

async fn clear(client: &Client, bucket: &str) {
    let (uploads, _) = client.uploads(bucket, "", None).await.unwrap();
    join_all(uploads.iter().map(async |row| {
        client.upload(bucket, &row.key, row.upload).await.unwrap().abort().await.unwrap();
    }))
    .await;
    for object in &client.list(bucket, "", None, "").await.unwrap().entries {
        client.remove(bucket, &object.key).await.unwrap();
    }
}

/// The thief's certificate, with the program itself.
fn command_line(dev: &Dev, thief: TenantId) {
    let told = variables(dev);
    let provision = Provision::open(dev.folder()).unwrap();
    let identity = dev.folder().join("thief.pem");
    provision.client_identity(thief, "bob").unwrap().save(&identity).unwrap();
    let mesh = env!("CARGO_BIN_EXE_mesh");
    let file = dev.folder().join("file");
    std::fs::write(&file, "mine").unwrap();
    let file = file.to_str().unwrap();
    let one = key(0);
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(mesh);
        command.args(arguments).env("MESH_CONNECT", &told["MESH_CONNECT"]);
        command.env("MESH_IDENTITY", &identity).env("MESH_ADMIN_IDENTITY", &identity).output().unwrap()
    };
    let of = |bucket: &'static str| -> [Vec<&str>; 5] {
        [
            vec!["put", "--quiet", "--bucket", bucket, file, &one],
            vec!["get", "--quiet", "--bucket", bucket, &one, "-"],
            vec!["ls", "--bucket", bucket],
            vec!["bucket", "show", bucket],
            vec!["rm", "--bucket", bucket, &one],
        ]
    };
    for arguments in of("thiefs") {
        let said = run(&arguments);
        assert!(said.status.success(), "its own: {arguments:?}: {said:?}");
    }
    let other = [
        &["bucket", "create", "victims"][..],
        &["tenant", "list"],
        &["tenant", "usage", "victim"],
        &["tenant", "rotate-key", "victim"],
        &["key", "create", "victim", "ann"],
        &["key", "list", "victim"],
        &["key", "revoke", "victim", "--user", "ann"],
        &["metadata", "backup", "-"],
        &["drain", "node-1"],
    ];
    for arguments in of("victims").into_iter().chain(other.map(<[&str]>::to_vec)) {
        let said = run(&arguments);
        assert!(!said.status.success(), "{arguments:?}: {said:?}");
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        let why = ["belongs to another tenant", "another tenant has a bucket", "a client may ask only"];
        assert!(why.iter().any(|why| text.contains(why)) && !text.contains(SECRET), "{arguments:?}: {text}");
    }
}
