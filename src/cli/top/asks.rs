//! Who is asked what, all at once: nobody who does not answer holds up another, and nobody is asked anew before it has answered
//! or its time is over.

use core::{future::Future, time::Duration};
use std::collections::BTreeSet;

use mesh::Client;
use mesh_core::{
    Error, ErrorKind,
    happened::Row,
    id::{NodeId, TenantId},
    op::{AccessAnswer, AccessOp, AdminAnswer, AdminOp},
};
use tokio::{task::JoinSet, time::timeout};

use super::model::{Heard, Model};

/// Questions that are under way. Dropped, they are taken back.
#[derive(Debug, Default)]
pub(super) struct Asks {
    under_way: JoinSet<(Subject, Heard)>,
    subjects: BTreeSet<Subject>,
    /// When it is time to ask for what changes seldom.
    seldom: Duration,
    tenants: Duration,
}

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Reports,
    Figures(NodeId),
    Repair,
    Events,
    Tenants,
}

impl Asks {
    /// Asks everything that it is time for and that is not asked already.
    pub(super) fn begin(&mut self, client: &Client, model: &mut Model, now: Duration) {
        let of = client.clone();
        self.ask(Subject::Reports, Heard::Reports, async move { of.status().await });
        for node in model.whom_to_ask(now) {
            let of = client.clone();
            let told = move |told| Heard::Figures(node, told);
            self.ask(Subject::Figures(node), told, async move {
                match of.administer(AdminOp::Figures { node }).await? {
                    AdminAnswer::Figures(figures) => Ok(*figures),
                    _ => Err(strange()),
                }
            });
        }
        let (of, after) = (client.clone(), model.next_event());
        self.ask(Subject::Events, Heard::Events, async move { events(&of, after).await });
        if now >= self.seldom {
            self.seldom = now + REPAIR_EACH;
            let of = client.clone();
            self.ask(Subject::Repair, Heard::Repair, async move {
                match of.administer(AdminOp::Repair).await? {
                    AdminAnswer::Repair(groups) => Ok(groups),
                    _ => Err(strange()),
                }
            });
        }
        if now >= self.tenants {
            self.tenants = now + TENANTS_EACH;
            let of = client.clone();
            self.ask(Subject::Tenants, Heard::Tenants, async move { tenants(&of).await });
        }
    }

    /// Whether nothing is asked.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// The next answer; `None` if nothing is asked. May be dropped and asked for again.
    pub(super) async fn next(&mut self) -> Result<Option<Heard>, Error> {
        let Some(landed) = self.under_way.join_next().await else { return Ok(None) };
        let (subject, heard) = landed.map_err(|error| Error::bug("a question has ended badly").caused_by(error))?;
        self.subjects.remove(&subject);
        Ok(Some(heard))
    }

    fn ask<T: Send + 'static>(
        &mut self,
        subject: Subject,
        told: impl FnOnce(Result<T, Error>) -> Heard + Send + 'static,
        asked: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) {
        if !self.subjects.insert(subject) {
            return;
        }
        self.under_way.spawn(async move {
            let late = |_| Err(Error::new(ErrorKind::Timeout, "no answer in time"));
            (subject, told(timeout(ANSWER_MAX, asked).await.unwrap_or_else(late)))
        });
    }
}

/// What has happened after an event, as far as a few pages say it, and after which to ask next.
async fn events(client: &Client, mut after: u64) -> Result<(Vec<Row>, u64), Error> {
    let mut all = Vec::new();
    for _ in 0..EVENT_PAGES_MAX {
        let AdminAnswer::Events { events, next } = client.administer(AdminOp::Events { after }).await? else {
            return Err(strange());
        };
        after = next;
        if events.is_empty() {
            break;
        }
        all.extend(events);
    }
    Ok((all, after))
}

/// What tenants are called; of many the first.
async fn tenants(client: &Client) -> Result<Vec<(TenantId, String)>, Error> {
    let (mut all, mut after) = (Vec::new(), None);
    for _ in 0..TENANT_PAGES_MAX {
        let AccessAnswer::Tenants { tenants, next } = client.access(AccessOp::Tenants { after }).await? else {
            return Err(strange());
        };
        all.extend(tenants.into_iter().map(|tenant| (tenant.id, tenant.name)));
        if next <= after {
            break;
        }
        after = next;
    }
    Ok(all)
}

fn strange() -> Error {
    Error::bug("something else was told than was asked")
}

/// Who has not answered by then is asked anew.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Every group is asked for it.
const REPAIR_EACH: Duration = Duration::from_secs(2);
const TENANTS_EACH: Duration = Duration::from_secs(30);
const TENANT_PAGES_MAX: usize = 16;
const EVENT_PAGES_MAX: usize = 8;
