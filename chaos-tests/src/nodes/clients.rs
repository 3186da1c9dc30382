//! Who puts, gets and removes, through the mesh's own client or S3, and what they saw.

mod audited;
mod gateway;
mod guests;
mod looks;
mod orders;
mod own;
mod strangers;
mod user;

use core::{fmt, time::Duration};
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use gateway::Gateways;
use mesh::Client;
use mesh_core::{
    Error, ErrorKind, Principal,
    audit::AuditAnswer,
    error::Certainty,
    id::{Incarnation, NodeId, TenantId, WriteId},
    op::{AdminAnswer, AdminOp},
    port::{Clock as _, Outbound, Role},
    topology::Code,
};
use mesh_fronts::s3::client::Signer;
use mesh_transport::{
    End, MemoryFabric,
    quic::{QuicConfig, QuicLink},
};
pub(super) use orders::{Errand, Told};
use tokio::runtime::Runtime;
use user::{User, Way};

use super::{
    air::Air,
    lock, log, machine, net,
    street::Street,
    time::{NodeClock, RoomTime},
};
use crate::{
    content::{Content, Contents},
    harness::book::Book as Program,
    oracle::{Deed, End as Ending, Oracle, Ticket},
    random::Stream,
};

/// Tenants' buckets, in the order of their founding.
pub(super) const BUCKETS: [&str; 2] = ["main", "other"];
/// Those of them that have a code of their own, where a room has such.
const CODED: [&str; 2] = ["main-coded", "other-coded"];
/// Whoever makes one asks again after so long.
const MAKES_AGAIN: Duration = Duration::from_millis(100);
/// What readers at the end are numbered from.
const READER: usize = 100;
/// What looks store, and take away again.
const BODY: &[u8] = b"what a room keeps";
/// Each tenant's user.
pub(super) const USER: &str = "admin";

/// Their process, which nothing befalls.
pub(super) struct Clients {
    runtime: Runtime,
    began: tokio::time::Instant,
    fabric: MemoryFabric,
    air: Option<Arc<Air>>,
    links: AtomicU64,
    /// Administrators' orders are carried out one after another, in their order.
    orders: Arc<tokio::sync::Mutex<()>>,
    seed: u64,
    hosts: Vec<(NodeId, SocketAddr)>,
    /// A host that comes later.
    newcomer: Option<NodeId>,
    /// Whom each asks first.
    homes: BTreeMap<usize, NodeId>,
    /// None: hosts have none.
    front: Option<Front>,
    /// The code of a bucket that some work in.
    pub(super) coded: Option<Code>,
    pub(super) seen: Arc<Seen>,
}

/// Front ends, and each tenant's access key for them.
type Front = (Arc<Street>, Vec<Signer>);

/// What they saw.
pub(super) struct Seen {
    time: Arc<RoomTime>,
    stop: AtomicBool,
    running: AtomicU64,
    book: Mutex<Book>,
}

struct Book {
    oracle: Oracle,
    contents: Contents,
    keys: BTreeMap<u64, (String, Content)>,
    violation: Option<String>,
    tally: Tally,
    trace: u64,
    /// When each client was last answered well.
    last_well: BTreeMap<usize, u64>,
    /// What a program's clients do and see.
    own: Option<Program>,
    granted: audited::Granted,
}

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judged {
    Well,
    /// Nothing was done.
    Refused,
    Unknown,
}

/// What came of operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Did what they were to do.
    pub well: u64,
    /// Did nothing.
    pub refused: u64,
    /// May have done it.
    pub unknown: u64,
    /// Windows that the longest one took.
    pub longest: u64,
    /// … and the longest read of an object that went well.
    pub longest_read: u64,
}

impl Seen {
    fn now(&self) -> u64 {
        self.time.now().0
    }

    pub(super) fn violation(&self) -> Option<String> {
        let book = lock(&self.book);
        let own = || book.own.as_ref().and_then(|own| own.violation()).map(str::to_owned);
        book.violation.clone().or_else(own)
    }

    pub(super) fn tally(&self) -> Tally {
        lock(&self.book).tally
    }

    pub(super) fn trace(&self) -> u64 {
        lock(&self.book).trace
    }

    /// The client that has not been answered well for the longest time, of those that count, and since when.
    pub(super) fn most_neglected(&self, counts: impl Fn(usize) -> bool) -> Option<(usize, u64)> {
        let book = lock(&self.book);
        let last = book.last_well.iter().filter(|(who, _)| counts(**who)).min_by_key(|(_, at)| **at);
        last.map(|(who, at)| (*who, *at / 1_000_000))
    }

    pub(super) fn is_over(&self) -> bool {
        self.running.load(Relaxed) == 0
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Others may begin.
    pub(super) fn go_on(&self) {
        self.stop.store(false, Relaxed);
    }

    /// They end with what they do now.
    pub(super) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Whether some order of what they did explains what they saw.
    pub(super) fn check(&self) -> Result<(), String> {
        lock(&self.book).oracle.check()
    }

    fn broken(&self, why: String) {
        lock(&self.book).violation.get_or_insert(why);
    }

    fn begin(&self, key: &str, deed: Deed) -> (Ticket, u64) {
        let now = self.now();
        (lock(&self.book).oracle.begin(key, deed, now), now)
    }

    /// An operation has ended.
    fn end(&self, (ticket, began): (Ticket, u64), by: (usize, &str), outcome: Result<Deed, &Error>) {
        if let Ok(Deed::Read(_)) = outcome {
            let tally = &mut lock(&self.book).tally;
            tally.longest_read = tally.longest_read.max((self.now() - began) / 1_000_000);
        }
        let ending = match self.judge(began, by, outcome) {
            Judged::Well => outcome.map_or(Ending::Unknown, Ending::Did),
            Judged::Refused => Ending::Nothing,
            Judged::Unknown => Ending::Unknown,
        };
        self.settle(ticket, ending);
    }

    /// What is known of an operation on one key.
    fn settle(&self, ticket: Ticket, ending: Ending) {
        let now = self.now();
        lock(&self.book).oracle.end(ticket, ending, now);
    }

    /// How something has ended that began then, and whether it may.
    fn judge<T: fmt::Debug>(&self, began: u64, (who, what): (usize, &str), outcome: Result<T, &Error>) -> Judged {
        let now = self.now();
        let mut book = lock(&self.book);
        let took = (now - began) / 1_000_000;
        book.tally.longest = book.tally.longest.max(took);
        let (judged, code) = match &outcome {
            Ok(_) => {
                book.tally.well += 1;
                book.last_well.insert(who, now);
                (Judged::Well, 0)
            }
            Err(error) => {
                let kind = error.kind();
                if is_wrong(error) {
                    book.violation.get_or_insert_with(|| format!("{what} was answered: {error}"));
                }
                if error.certainty() == Certainty::NotProcessed {
                    book.tally.refused += 1;
                    (Judged::Refused, u64::from(kind.number()))
                } else {
                    book.tally.unknown += 1;
                    (Judged::Unknown, u64::from(kind.number()))
                }
            }
        };
        book.trace = mesh_core::topology::mix(book.trace ^ now ^ code << 48);
        drop(book);
        log::say(|| match outcome {
            Ok(did) => format!("CLIENT {what}: {did:?} after {took} ms"),
            Err(error) => format!("CLIENT {what}: {error} after {took} ms"),
        });
        judged
    }

    /// A request of a client, which may be one of many of an operation.
    fn answered(&self, who: usize) {
        lock(&self.book).last_well.insert(who, self.now());
    }

    fn create(&self, key: &str, len: u64) -> (Content, Vec<u8>) {
        let mut book = lock(&self.book);
        let content = book.contents.create(len);
        book.keys.insert(content.number, (key.to_owned(), content));
        let bytes = book.contents.bytes(content, 0, usize::try_from(len).unwrap_or(0)).to_vec();
        (content, bytes)
    }

    /// Which content these bytes of a key are.
    fn recognise(&self, key: &str, bytes: &[u8]) -> Result<WriteId, String> {
        self.recognise_part(key, bytes, bytes.len() as u64)
    }

    /// Which content this beginning is of, which has so many bytes.
    fn recognise_part(&self, key: &str, bytes: &[u8], len: u64) -> Result<WriteId, String> {
        let number = bytes.first_chunk().map(|first| u64::from_le_bytes(*first));
        let book = lock(&self.book);
        let known = number.and_then(|number| book.keys.get(&number));
        let Some((owner, content)) = known else { return Err(format!("{key:?} reads as what nobody wrote")) };
        let written = book.contents.bytes(*content, 0, bytes.len());
        match owner == key && content.len == len && written[..] == *bytes {
            true => Ok(WriteId(content.number)),
            false => Err(format!("{key:?} reads as bytes of {owner:?} that differ from what was written")),
        }
    }
}

impl Clients {
    pub(super) fn new(
        seed: u64,
        time: Arc<RoomTime>,
        (fabric, air): (MemoryFabric, Option<Arc<Air>>),
        (hosts, newcomer, front): (Vec<(NodeId, SocketAddr)>, Option<NodeId>, Option<Front>),
        own: Option<Program>,
    ) -> io::Result<Self> {
        let runtime = machine::runtime(seed, 0)?;
        let began = {
            let _inside = runtime.enter();
            tokio::time::Instant::now()
        };
        let book = Book {
            oracle: Oracle::default(),
            contents: Contents::new(seed),
            keys: BTreeMap::new(),
            violation: None,
            tally: Tally::default(),
            trace: seed,
            last_well: BTreeMap::new(),
            own,
            granted: audited::Granted::default(),
        };
        let seen = Seen { time, stop: AtomicBool::new(false), running: AtomicU64::new(0), book: Mutex::new(book) };
        Ok(Self {
            runtime,
            began,
            fabric,
            air,
            links: AtomicU64::new(0),
            orders: Arc::default(),
            seed,
            hosts,
            newcomer,
            homes: BTreeMap::new(),
            front,
            coded: None,
            seen: Arc::new(seen),
        })
    }

    /// Whom a client asks first.
    pub(super) fn home(&self, which: usize) -> Option<NodeId> {
        self.homes.get(&which).copied()
    }

    /// The hosts, from the so-manieth on.
    fn from(&self, which: usize) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.hosts.iter().map(|(host, _)| *host).collect();
        let turns = which % nodes.len();
        nodes.rotate_left(turns);
        nodes
    }

    /// Where they all are that clients may ask.
    fn addresses(&self) -> impl Iterator<Item = (NodeId, SocketAddr)> {
        let newcomer = self.newcomer.map(|node| (node, net::address(End::Node(node))));
        self.hosts.iter().copied().chain(newcomer)
    }

    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(super) fn live(&self, windows: u64) {
        let target = self.began + Duration::from_millis(windows);
        self.runtime.block_on(async move { tokio::time::sleep_until(target).await });
    }

    /// A way in, and its end.
    fn link(&self, principal: Principal) -> (Arc<dyn Outbound>, End) {
        if let Some(air) = &self.air {
            return match self.quic(air, principal) {
                Ok(link) => link,
                Err(error) => panic!("a client's link cannot be made: {error}"),
            };
        }
        let link = self.fabric.client(principal);
        for (host, address) in self.addresses() {
            link.set_peer(host, address);
        }
        let end = link.end();
        (link, end)
    }

    fn quic(&self, air: &Arc<Air>, principal: Principal) -> Result<(Arc<dyn Outbound>, End), Error> {
        let number = self.links.fetch_add(1, Relaxed) + 1;
        let end = End::Client(number);
        let clock = Arc::new(NodeClock { began: self.began, wall: RoomTime::default().wall() });
        let entropy = Box::new(Stream::new(self.seed, "client's link", number));
        let identity = machine::identity(&Role::Client(principal))?;
        let config = QuicConfig::new(net::address(end), identity, Incarnation(number), clock, entropy);
        let _inside = self.runtime.enter();
        let link = QuicLink::bind_on(air.socket(net::address(end), None), config, None)?;
        for (host, address) in self.addresses() {
            link.set_peer(host, address);
        }
        Ok((link, end))
    }

    /// Begins a client of a tenant that works until it is stopped, at the hosts in turn, from one of them on or from this one.
    pub(super) fn begin(
        &mut self,
        which: usize,
        tenant: usize,
        first: Option<NodeId>,
        mut dice: Stream,
        keys: u64,
    ) -> End {
        let (link, end) = self.link(user(tenant));
        let nodes: Vec<NodeId> = first.into_iter().chain(self.from(which)).collect();
        self.homes.extend(nodes.first().map(|home| (which, *home)));
        // Every other client comes by a front end.
        let way = match &self.front {
            Some((street, signers)) if which % 2 == 1 => {
                let hosts = nodes.iter().map(|host| net::front(*host)).collect();
                let gateways = Gateways::new(street.clone(), self.seen.time.clone(), hosts, signers[tenant].clone());
                Way::Front(gateways.of(self.seen.clone(), which))
            }
            _ => Way::Mesh(Client::over(link, nodes)),
        };
        let own = self.coded.filter(|_| which % 4 == 2).map(|code| (CODED[tenant], code));
        let seen = self.seen.clone();
        seen.running.fetch_add(1, Relaxed);
        lock(&seen.book).last_well.insert(which, seen.now());
        self.runtime.spawn(async move {
            let bucket = match own {
                Some((bucket, code)) if user::make(&way, &seen, bucket, code).await => bucket,
                _ => BUCKETS[tenant],
            };
            let client = User::new(way, bucket, which);
            lock(&seen.book).last_well.insert(which, seen.now());
            while !seen.stop.load(Relaxed) {
                client.one(&seen, &mut dice, keys).await;
                tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
            }
            seen.running.fetch_sub(1, Relaxed);
        });
        end
    }

    /// Reads every key through each of these hosts, until each has been read, and a list of all of them; then they are over.
    pub(super) fn read_all(&self, hosts: &[NodeId]) -> Vec<End> {
        let keys = lock(&self.seen.book).oracle.keys().to_vec();
        let buckets = || BUCKETS.into_iter().enumerate().chain(CODED.into_iter().enumerate());
        let readers = hosts.iter().flat_map(|host| buckets().map(move |(tenant, bucket)| (host, tenant, bucket)));
        let begin = |(host, tenant, bucket): (&NodeId, usize, &'static str)| {
            let (link, end) = self.link(user(tenant));
            let way = Way::Mesh(Client::over(link, [*host]));
            let client = User::new(way, bucket, READER + host.0 as usize);
            let mut keys = keys.clone();
            keys.retain(|key| key.split_once('/').is_some_and(|(of, _)| of == bucket));
            let seen = self.seen.clone();
            seen.running.fetch_add(1, Relaxed);
            self.runtime.spawn(async move {
                for key in &keys {
                    while !client.read(&seen, key).await {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
                while !keys.is_empty() && !client.list(&seen, &keys).await {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                seen.running.fetch_sub(1, Relaxed);
            });
            end
        };
        readers.map(begin).collect()
    }

    /// Asks for a great many objects at once, as the first tenant; what comes of it is no matter.
    pub(super) fn burst(&self, many: u64) -> End {
        let (link, end) = self.link(user(0));
        let nodes: Vec<NodeId> = self.hosts.iter().map(|(host, _)| *host).collect();
        let client = Client::over(link, nodes);
        for number in 0..many {
            let (client, seen) = (client.clone(), self.seen.clone());
            self.runtime.spawn(async move {
                let name = format!("k{}", number % 16);
                // Not in the history, which would become too long to be explained.
                match client.get_bytes(BUCKETS[0], &name).await {
                    Ok(bytes) => {
                        if let Err(why) = seen.recognise(&format!("{}/{name}", BUCKETS[0]), &bytes) {
                            seen.broken(why);
                        }
                    }
                    Err(error) if is_wrong(&error) => seen.broken(format!("one of many gets was answered: {error}")),
                    Err(_) => {}
                }
            });
        }
        end
    }

    /// Begins large uploads at a host's front end, as the first tenant, and sends no more of them. What comes of it is no
    /// matter, only what becomes of others meanwhile.
    pub(super) fn dawdle(&self, host: NodeId, many: u64, span: u64) {
        let Some((street, signers)) = &self.front else { return };
        let Some(signer) = signers.first() else { return };
        let gateways =
            Arc::new(Gateways::new(street.clone(), self.seen.time.clone(), vec![net::front(host)], signer.clone()));
        for number in 0..many {
            let gateways = gateways.clone();
            self.runtime.spawn(async move {
                let came = gateways.begin_to_put(BUCKETS[0], &format!("own-dawdler-{number}"), span).await;
                log::say(|| format!("CLIENT a dawdler is gone: {came:?}"));
            });
        }
    }

    /// Asks something as an administrator, until it is done or refused for a reason that stays; only the latter may come of
    /// what is folly.
    pub(super) fn administer(&self, op: AdminOp, is_folly: bool) -> End {
        let (link, end) = self.link(Principal::Admin { name: USER.into() });
        let nodes: Vec<NodeId> = self.hosts.iter().map(|(host, _)| *host).collect();
        let client = Client::over(link, nodes);
        let (orders, seen) = (self.orders.clone(), self.seen.clone());
        self.runtime.spawn(async move {
            let _turn = orders.lock().await;
            let first = seen.now();
            loop {
                let answer = client.administer(op.clone()).await;
                // Always, and not only where somebody reads along: what is shown to people must not break down.
                let said = answer.as_ref().map_or_else(|error| vec![error.to_string()], words);
                log::say(|| format!("ADMIN {op:?}: {}", said.join("; ")));
                match answer {
                    Ok(_) if is_folly => return seen.broken(format!("what cannot be was done: {op:?}")),
                    Ok(_) => return seen.was_granted(first, &op),
                    Err(error) if is_wrong(&error) => {
                        return seen.broken(format!("an administrator was answered: {error}"));
                    }
                    Err(error) if !STAYS.contains(&error.kind()) => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    _ => return,
                }
            }
        });
        end
    }
}

/// Reasons to refuse an order that stay.
const STAYS: [ErrorKind; 3] = [ErrorKind::Conflict, ErrorKind::Invalid, ErrorKind::NotFound];

/// What is shown to administrators.
fn words(answer: &AdminAnswer) -> Vec<String> {
    match answer {
        AdminAnswer::Plan(plan) | AdminAnswer::PlanPage { plan, .. } => {
            let reasons = plan.decisions.values().map(|decision| match decision.spot {
                Some(spot) => format!("{spot}: {}", decision.reason),
                None => format!("nowhere: {}", decision.reason),
            });
            [plan.to_string()].into_iter().chain(reasons).collect()
        }
        AdminAnswer::Moves(moves) => moves.iter().map(ToString::to_string).collect(),
        AdminAnswer::Events { events, .. } => events.iter().map(ToString::to_string).collect(),
        AdminAnswer::Chains(rows) => rows.iter().map(ToString::to_string).collect(),
        AdminAnswer::Lost(lost) => vec![lost.to_string()],
        AdminAnswer::Repair(groups) => groups.iter().map(ToString::to_string).collect(),
        AdminAnswer::Scrub(drives) => drives.iter().filter_map(|(_, why)| why.clone()).collect(),
        AdminAnswer::Drained(drained) => vec![drained.to_string()],
        AdminAnswer::Removed(drive) => vec![drive.to_string()],
        AdminAnswer::Leaves(leaves) => vec![leaves.to_string()],
        AdminAnswer::NodeOut(node) => vec![node.to_string()],
        AdminAnswer::Added(added) => vec![added.to_string()],
        AdminAnswer::Recovery(plan) => vec![plan.to_string()],
        AdminAnswer::Access(answer) => vec![format!("{answer:?}")],
        AdminAnswer::Audit(AuditAnswer::Page(page)) => page.lines.clone(),
        AdminAnswer::Audit(AuditAnswer::Log(log)) => vec![format!("{log:?}")],
        AdminAnswer::Figures(figures) => vec![format!("{figures:?}")],
        AdminAnswer::Replicas(_) | AdminAnswer::Forced(_) | AdminAnswer::Backup(_) | AdminAnswer::Done => Vec::new(),
    }
}

/// What is damaged or gone, or a mistake of ours, is no weather. Buckets of rooms stay.
fn is_wrong(error: &Error) -> bool {
    let wrong = [ErrorKind::Corrupt, ErrorKind::Lost, ErrorKind::Bug, ErrorKind::Denied, ErrorKind::NoSuchBucket];
    wrong.contains(&error.kind())
}

fn user(tenant: usize) -> Principal {
    Principal::User { tenant: TenantId(1 + tenant as u64), name: USER.into() }
}
