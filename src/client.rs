//! Storing and fetching objects, from inside a node's process or over the mesh's own links. Both forms ask the same
//! questions, in the same order, and may ask the same: what is in a certificate over links is the principal inside.
//!
//! - [`put`](Client::put), [`get`](Client::get) and what stands beside them in `put`, `get`: streams, ranges, conditions;
//! - [`copy`](Client::copy), [`create_upload`](Client::create_upload): copies and multipart uploads;
//! - [`pages`](Client::pages): listings.

mod copy;
mod get;
mod list;
mod put;
mod upload;

use core::time::Duration;
use std::sync::Arc;

use futures_util::{FutureExt as _, future::BoxFuture};
use mesh_core::{
    Answer, Buf, Certainty, Error, ErrorKind, Lane, Op, Outcome, Pool, Principal, Response,
    assignment::Scope,
    audit::{AuditAnswer, AuditOp},
    envelope::Envelope,
    id::{ActorId, Epoch, GroupId, NodeId},
    limits::BUDGET_DEFAULT,
    meta::{BucketRow, BucketSettings, Precondition},
    op::{AccessAnswer, AccessOp, AdminAnswer, AdminOp, BackupAt, BackupPage, ChainRow, NodeOp, NodeReport, ObjectOp},
    plan::Plan,
    port::Outbound,
    spec::CustomSpec,
};
use tokio::task::JoinSet;

use crate::node::{Node, gate::Inside};

pub use copy::CopyOptions;
pub use get::{Conditions, GetOptions, Got};
pub use list::Pages;
pub use put::{PutOptions, Stored};
pub use upload::{Part, Upload};

/// Who is told of how many bytes have gone so far.
pub type Progress<'a> = &'a (dyn Fn(u64) + Send + Sync + 'a);

/// A client of the mesh, as one principal. Clones share the links.
#[derive(Clone)]
pub struct Client {
    links: Arc<dyn Outbound>,
    nodes: Arc<[NodeId]>,
    pool: Pool,
}

impl core::fmt::Debug for Client {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Client of {:?}", self.nodes)
    }
}

impl Node {
    /// A client in this process, as `principal`: it may ask what one with such a certificate may.
    #[must_use]
    pub fn client(&self, principal: Principal) -> Client {
        let inside = Inside { node: self.clone(), principal };
        Client { links: Arc::new(inside), nodes: [self.id()].into(), pool: self.0.pool.clone() }
    }
}

impl Client {
    /// A client over links. `nodes` are tried in order.
    #[must_use]
    pub fn over(links: Arc<dyn Outbound>, nodes: impl Into<Arc<[NodeId]>>) -> Self {
        Self { links, nodes: nodes.into(), pool: Pool::default() }
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// `BucketExists`, `BucketTaken`, `Denied`, `Invalid`.
    pub async fn create_bucket(&self, bucket: &str) -> Result<(), Error> {
        self.ask_done(ObjectOp::CreateBucket { bucket: bucket.into() }).await
    }

    /// Makes a bucket whose objects are stored otherwise than most, as [`Self::create_bucket`]: compressed before they are
    /// encrypted, or in a code of their own. How long what is compressed is, as it is stored, says how far it shrank, and so
    /// something of what is in it, to who has a drive or a link.
    ///
    /// Placement groups for a code that no bucket has asked for yet are made at once, and what is put waits for them: for some
    /// seconds, then it is refused with `Overloaded` and may be sent again.
    ///
    /// # Errors
    /// As [`Self::create_bucket`]; `Unsupported` if not every node of the mesh runs a build that can: upgrade those that it
    /// names. `Invalid` if the mesh has too few drives for the code, or would have without any one node, or has too many codes.
    pub async fn create_bucket_with(&self, bucket: &str, settings: BucketSettings) -> Result<(), Error> {
        if settings.is_usual() {
            return self.create_bucket(bucket).await;
        }
        // An older build knows no such request, and must not take it for the other one.
        self.ask_done(ObjectOp::CreateBucketWith { bucket: bucket.into(), settings }).await
    }

    /// Deletes an empty bucket.
    ///
    /// # Errors
    /// `BucketNotEmpty` while it holds objects or uploads; `NoSuchBucket`, `Denied`.
    pub async fn delete_bucket(&self, bucket: &str) -> Result<(), Error> {
        self.ask_done(ObjectOp::DeleteBucket { bucket: bucket.into() }).await
    }

    /// A bucket.
    ///
    /// # Errors
    /// `NoSuchBucket`, `Denied`.
    pub async fn bucket(&self, bucket: &str) -> Result<Arc<BucketRow>, Error> {
        match self.ask(ObjectOp::HeadBucket { bucket: bucket.into() }).await? {
            Answer::Bucket(row) => Ok(row),
            answer => Err(strange(&answer)),
        }
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

    /// Removes an object. One that is not there is no error.
    ///
    /// # Errors
    /// `NoSuchBucket`, `Denied`.
    pub async fn remove(&self, bucket: &str, key: &str) -> Result<(), Error> {
        self.remove_if(bucket, key, Precondition::default()).await
    }

    /// Removes an object if `precondition` holds then.
    ///
    /// # Errors
    /// As [`Self::remove`]; `Precondition` if it does not.
    pub async fn remove_if(&self, bucket: &str, key: &str, precondition: Precondition) -> Result<(), Error> {
        self.ask_done(ObjectOp::Delete { bucket: bucket.into(), key: key.into(), precondition }).await
    }

    /// How the nodes of the mesh are.
    ///
    /// # Errors
    /// `Unreachable` if no node answers.
    pub async fn status(&self) -> Result<Vec<Arc<NodeReport>>, Error> {
        let (node, mut reports, mut more) = self.first_reports().await?;
        while more {
            // A page without reports has none behind it.
            let Some(last) = reports.last().map(|report| report.node) else { break };
            let (next, is_more) = self.reports_after(node, last).await?;
            more = is_more && next.first().is_some_and(|first| first.node > last);
            reports.extend(next);
        }
        Ok(reports)
    }

    /// How nodes are, as many as one answer holds; who says so, and whether there are more.
    ///
    /// # Errors
    /// `Unreachable` if no node answers.
    pub(crate) async fn first_reports(&self) -> Result<(NodeId, Vec<Arc<NodeReport>>, bool), Error> {
        let mut refused = None;
        for node in self.nodes.iter().copied() {
            match self.reports_after(node, NodeId(0)).await {
                Ok((reports, more)) => return Ok((node, reports, more)),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(no_nodes))
    }

    async fn reports_after(&self, node: NodeId, after: NodeId) -> Result<(Vec<Arc<NodeReport>>, bool), Error> {
        match self.ask_node(node, NodeOp::StatusPage { after }, STATUS_BUDGET).await? {
            Answer::ReportPage { reports, more } => Ok((reports, more)),
            answer => Err(strange(&answer)),
        }
    }

    /// Asks what an administrator may. A plan comes whole, however many messages it takes.
    ///
    /// # Errors
    /// `Denied` unless the client is an administrator, by its certificate or in this process; what is wrong with what is
    /// asked.
    pub async fn administer(&self, op: AdminOp) -> Result<AdminAnswer, Error> {
        let AdminOp::Plan { with_dpus, without } = op else { return self.administer_once(op).await };
        let (mut whole, mut after) = (Plan::default(), None);
        loop {
            let op = AdminOp::PlanPage { with_dpus: with_dpus.clone(), without: without.clone(), after };
            let AdminAnswer::PlanPage { plan, next } = self.administer_once(op).await? else {
                return Err(Error::bug("a page of a plan was asked for, and something else was told"));
            };
            whole.append(plan);
            if next <= after {
                return Ok(AdminAnswer::Plan(whole));
            }
            after = next;
        }
    }

    /// Asks what an administrator may about who may use the mesh: tenants, users, access keys.
    ///
    /// # Errors
    /// As [`Self::administer`].
    pub async fn access(&self, op: AccessOp) -> Result<AccessAnswer, Error> {
        match self.administer_once(AdminOp::Access(op)).await? {
            AdminAnswer::Access(answer) => Ok(answer),
            answer => Err(strange(&Answer::Admin(Box::new(answer)))),
        }
    }

    /// Asks what an administrator may of the audit log.
    ///
    /// # Errors
    /// As [`Self::administer`]; `Unsupported` until all nodes know of the log.
    pub async fn audit(&self, op: AuditOp) -> Result<AuditAnswer, Error> {
        match self.administer_once(AdminOp::Audit(op)).await? {
            AdminAnswer::Audit(answer) => Ok(answer),
            answer => Err(strange(&Answer::Admin(Box::new(answer)))),
        }
    }

    /// The next page of a backup of a metadata group, of which the first one came `from` nowhere; with its rows.
    pub(crate) async fn backup_page(&self, group: GroupId, from: Option<BackupAt>) -> Result<(BackupPage, Buf), Error> {
        match self.ask_administration(AdminOp::Backup { group, from }).await? {
            (AdminAnswer::Backup(page), rows) => Ok((page, rows)),
            (answer, _) => Err(strange(&Answer::Admin(Box::new(answer)))),
        }
    }

    async fn administer_once(&self, op: AdminOp) -> Result<AdminAnswer, Error> {
        self.ask_administration(op).await.map(|(answer, _)| answer)
    }

    /// Asks the first node that has something to say; with the payload of its answer.
    async fn ask_administration(&self, op: AdminOp) -> Result<(AdminAnswer, Buf), Error> {
        let budget = if let AdminOp::Recover { .. } = op { RECOVERY_BUDGET } else { BUDGET_DEFAULT };
        let mut refused = None;
        for node in self.nodes.iter().copied() {
            let asked = Op::Node(Box::new(NodeOp::Admin(Box::new(op.clone()))));
            let sent = self.send(node, ActorId::NODE, asked, (Buf::empty(), Lane::Interactive), budget);
            match sent.await {
                Ok(Response { answer: Answer::Admin(answer), payload }) => return Ok((*answer, payload)),
                Ok(response) => return Err(strange(&response.answer)),
                // One that is just starting knows of no leader yet; another may.
                Err(error) if is_theirs_alone(&error) || error.kind() == ErrorKind::NotLeader => refused = Some(error),
                Err(error) if op.is_order() && error.kind().certainty() == Certainty::MaybeProcessed => {
                    return Err(may_come(error));
                }
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or_else(no_nodes))
    }

    /// Puts functions of the embedding program into data chains, between policy and compression: of every tenant
    /// ([`Scope::Mesh`]) or, behind those, of one ([`Scope::Tenant`]). It replaces what was declared for the scope; no
    /// stages take it back. Gives the chains that it concerns, the
    /// first of them if they are more than a message holds.
    ///
    /// If the kinds or their order change, those chains begin anew: their functions' state begins from the settings,
    /// requests that are under way are sent again by their ingress. Other settings of the same kinds reach the running
    /// functions as [`Event::Configure`](mesh_core::Event::Configure), and their state stays.
    ///
    /// # Errors
    /// `Unsupported` with the node and the kind where a node that is to run such a chain lacks one; `Invalid` for
    /// settings that the function refuses; `Conflict` for a kind that would stand in a chain twice; `Denied` unless
    /// the client is an administrator.
    pub async fn set_stages(&self, scope: Scope, stages: Vec<CustomSpec>) -> Result<Vec<ChainRow>, Error> {
        match self.administer(AdminOp::Stages { scope, stages }).await? {
            AdminAnswer::Chains(chains) => Ok(chains),
            answer => Err(strange(&Answer::Admin(Box::new(answer)))),
        }
    }

    async fn ask(&self, op: ObjectOp) -> Result<Answer, Error> {
        self.ask_any(op).await.map(|(_, response)| response.answer)
    }

    /// Asks something that is answered by `Done`.
    async fn ask_done(&self, op: ObjectOp) -> Result<(), Error> {
        match self.ask(op).await? {
            Answer::Done => Ok(()),
            answer => Err(strange(&answer)),
        }
    }

    /// Asks the first node that takes the request. What may have been processed is not sent to another.
    async fn ask_any(&self, op: ObjectOp) -> Result<(NodeId, Response), Error> {
        let mut refused = None;
        for node in self.nodes.iter().copied() {
            match self.ask_at(node, op.clone(), Buf::empty(), Lane::Interactive).await {
                Ok(response) => return Ok((node, response)),
                Err(error) if is_theirs_alone(&error) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or_else(no_nodes))
    }

    fn ask_at(&self, node: NodeId, op: ObjectOp, payload: Buf, lane: Lane) -> BoxFuture<'static, Outcome> {
        self.send(node, ActorId::ingress(node), op.into(), (payload, lane), BUDGET_DEFAULT)
    }

    async fn ask_node(&self, node: NodeId, op: NodeOp, budget: Duration) -> Result<Answer, Error> {
        let op = Op::Node(Box::new(op));
        let response = self.send(node, ActorId::NODE, op, (Buf::empty(), Lane::Interactive), budget).await?;
        Ok(response.answer)
    }

    fn send(
        &self,
        to: NodeId,
        actor: ActorId,
        op: Op,
        (payload, lane): (Buf, Lane),
        budget: Duration,
    ) -> BoxFuture<'static, Outcome> {
        // Who asks is said where the request comes in.
        let envelope = Envelope::request(actor, Epoch(0), op, payload, Principal::Anonymous, lane, budget);
        let (answer, outcome) = tokio::sync::oneshot::channel();
        let guard = self.links.send(to, envelope, Box::new(move |outcome| drop(answer.send(outcome))));
        async move {
            let outcome =
                outcome.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::LinkLost, "the link ended unasked")));
            guard.forget();
            outcome
        }
        .boxed()
    }
}

/// The next of several requests that are under way in tasks of their own; dropped, they are cancelled.
async fn landed<T: 'static>(flying: &mut JoinSet<T>) -> Result<T, Error> {
    match flying.join_next().await {
        Some(landed) => {
            landed.map_err(|error| Error::new(ErrorKind::Cancelled, "a request was cancelled").caused_by(error))
        }
        None => Err(Error::bug("a stream waits for an answer, and nothing is under way")),
    }
}

/// What an order that nobody has answered comes to.
fn may_come(error: Error) -> Error {
    let what = "nobody has said whether the order was carried out, and it may be yet: look whether it was, by `mesh status`, \
                `mesh plan`, `mesh watch`, `mesh tenant list` or `mesh key list`, and give it again if not";
    Error::new(error.kind(), what).caused_by(error)
}

/// Whether a node did nothing, for a reason that says nothing of other nodes.
fn is_theirs_alone(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Draining)
}

fn no_nodes() -> Error {
    Error::new(ErrorKind::Unreachable, "no node is given")
}

fn strange(answer: &Answer) -> Error {
    Error::bug("a request was answered with something else").with("answer", format!("{answer:?}"))
}

const STATUS_BUDGET: Duration = Duration::from_secs(5);
/// Each of up to 65 groups goes on in its turn.
const RECOVERY_BUDGET: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use mesh_core::port::{CallGuard, Completion};

    use super::*;

    /// Links to nodes of which each answers everything in one way.
    struct Links {
        answers: BTreeMap<NodeId, Result<Answer, ErrorKind>>,
        asked: Mutex<Vec<u64>>,
    }

    impl Outbound for Links {
        fn send(&self, to: NodeId, _: Envelope, done: Completion<Outcome>) -> CallGuard {
            self.asked.lock().unwrap().push(to.0);
            let answer = self.answers[&to].clone();
            done(answer.map(Into::into).map_err(|kind| Error::new(kind, "so it is")));
            CallGuard::none()
        }
    }

    /// Who is asked in turn, and what comes of it, where the first node refuses like this and the second does it.
    fn asks(
        first: ErrorKind,
        done: Answer,
        ask: impl AsyncFn(&Client) -> Result<(), Error>,
    ) -> (Vec<u64>, Option<ErrorKind>) {
        let answers = [(NodeId(1), Err(first)), (NodeId(2), Ok(done))].into();
        let links = Arc::new(Links { answers, asked: Mutex::default() });
        let client = Client::over(links.clone(), [NodeId(1), NodeId(2)]);
        let outcome = futures_util::future::FutureExt::now_or_never(ask(&client)).expect("all is answered at once");
        (links.asked.lock().unwrap().clone(), outcome.err().map(|error| error.kind()))
    }

    #[test]
    fn another_node_is_asked_where_one_can_do_nothing_and_no_other_where_it_may_have_done_something() {
        let drain = async |client: &Client| {
            client.administer(AdminOp::Drain { node: NodeId(3), draining: true }).await.map(drop)
        };
        let done = || Answer::Admin(Box::new(AdminAnswer::Done));
        for kind in [ErrorKind::Unreachable, ErrorKind::Draining, ErrorKind::NotLeader] {
            assert_eq!(asks(kind, done(), drain), (vec![1, 2], None), "{kind:?}");
        }
        for kind in [ErrorKind::LinkLost, ErrorKind::Timeout, ErrorKind::Denied, ErrorKind::Invalid] {
            assert_eq!(asks(kind, done(), drain), (vec![1], Some(kind)));
        }
        let remove = async |client: &Client| client.remove("bucket", "key").await;
        for kind in [ErrorKind::Unreachable, ErrorKind::Draining] {
            assert_eq!(asks(kind, Answer::Done, remove), (vec![1, 2], None), "{kind:?}");
        }
        for kind in [ErrorKind::LinkLost, ErrorKind::Timeout, ErrorKind::NotLeader] {
            assert_eq!(asks(kind, Answer::Done, remove), (vec![1], Some(kind)));
        }
    }
}
