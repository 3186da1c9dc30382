//! Orders that an administrator gives again until they are granted, and what one asks before something is taken away.

use core::time::Duration;
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use mesh::Client;
use mesh_core::{
    Error, Principal,
    id::NodeId,
    op::{AdminAnswer, AdminOp},
    topology::{DRIVE_IS_OUT, IS_OUT},
};
use mesh_transport::End;

use super::{BUCKETS, Clients, Seen, USER, is_wrong, user, words};
use crate::nodes::{lock, log};

/// Some orders, and how far they are.
#[derive(Default)]
pub(in crate::nodes) struct Errand {
    pub(super) over: AtomicBool,
    refused: AtomicU64,
    /// What the last one was refused for.
    why: Mutex<Option<String>>,
}

impl Errand {
    /// Whether all of them were granted.
    pub(in crate::nodes) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// How often one was refused.
    pub(in crate::nodes) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// It was refused, for that.
    pub(super) fn was_refused(&self, why: String) {
        self.refused.fetch_add(1, Relaxed);
        *lock(&self.why) = Some(why);
    }

    /// What it waits for.
    pub(in crate::nodes) fn why(&self) -> String {
        lock(&self.why).clone().unwrap_or_else(|| "it has not been answered".to_owned())
    }
}

/// An answer to a question that is asked again and again.
#[derive(Default)]
pub(in crate::nodes) struct Told {
    asked: bool,
    /// When that was asked of which it is known that it is so.
    since: Option<u64>,
    /// Why it is not.
    lacks: Option<String>,
}

impl Told {
    /// Whether it is to be asked: not while it is.
    pub(super) const fn ask(&mut self) -> bool {
        !core::mem::replace(&mut self.asked, true)
    }

    /// What was said to what was asked then.
    pub(super) fn was_told(&mut self, began: u64, lacks: Option<String>) {
        *self = Self { asked: false, since: lacks.is_none().then_some(began), lacks };
    }

    /// When it was last known to be so.
    pub(in crate::nodes) const fn since(&self) -> Option<u64> {
        self.since
    }

    /// What is lacking; none: nothing.
    pub(in crate::nodes) fn lacks(&self) -> Option<String> {
        let lacks = || self.lacks.clone().unwrap_or_else(|| "nobody has said".to_owned());
        self.since.is_none().then(lacks)
    }
}

impl Clients {
    /// Has these orders carried out one after the other, each given again until it is granted.
    pub(in crate::nodes) fn insist(&self, orders: Vec<AdminOp>, errand: Arc<Errand>) -> End {
        let (client, end) = self.administrator();
        let (turns, seen) = (self.orders.clone(), self.seen.clone());
        self.runtime.spawn(async move {
            for op in orders {
                let first = seen.now();
                loop {
                    let answer = {
                        let _turn = turns.lock().await;
                        client.administer(op.clone()).await
                    };
                    if seen.was_ordered(&op, &answer, &errand) {
                        seen.was_granted(first, &op);
                        break;
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
            errand.over.store(true, Relaxed);
        });
        end
    }

    /// Asks whether every group has counted everything where the newest layout has it.
    pub(in crate::nodes) fn ask_whether_whole(&self, told: &Arc<Mutex<Told>>) -> Option<End> {
        if !lock(told).ask() {
            return None;
        }
        let (client, end) = self.administrator();
        let (told, seen) = (told.clone(), self.seen.clone());
        self.runtime.spawn(async move {
            let began = seen.now() / 1_000_000;
            let lacks = match client.administer(AdminOp::Repair).await {
                Ok(AdminAnswer::Repair(groups)) => {
                    groups.iter().find(|group| !group.is_whole()).map(ToString::to_string)
                }
                Ok(answer) => Some(format!("{answer:?}")),
                Err(error) => Some(error.to_string()),
            };
            lock(&told).was_told(began, lacks);
        });
        Some(end)
    }

    /// Asks a node for a tenant's bucket: one that is out says that it is.
    pub(in crate::nodes) fn ask_whether_out(&self, node: NodeId, told: &Arc<Mutex<Told>>) -> Option<End> {
        if !lock(told).ask() {
            return None;
        }
        let (link, end) = self.link(user(0));
        let client = Client::over(link, [node]);
        let (told, seen) = (told.clone(), self.seen.clone());
        self.runtime.spawn(async move {
            let began = seen.now() / 1_000_000;
            let lacks = match client.bucket(BUCKETS[0]).await {
                Ok(_) => Some(format!("{node} serves still")),
                Err(error) if error.to_string().contains(IS_OUT) => None,
                Err(error) => Some(format!("{node} says something else: {error}")),
            };
            lock(&told).was_told(began, lacks);
        });
        Some(end)
    }

    /// Has the metadata go on from what these hosts have, once a group does not without: looks first, accepts what is said
    /// there, and looks again, until every group goes on by itself. Nobody but those that are `lost` may be given up for it: the one
    /// that `dies` meanwhile is waited for while it does not answer, and nobody else may be named.
    pub(in crate::nodes) fn recover(
        &self,
        left: Vec<NodeId>,
        (lost, dies): (BTreeSet<NodeId>, Option<NodeId>),
        errand: Arc<Errand>,
    ) -> End {
        let (link, end) = self.link(Principal::Admin { name: USER.into() });
        let (client, seen) = (Client::over(link, left), self.seen.clone());
        self.runtime.spawn(async move {
            let (mut accept, mut has_accepted) = (None, false);
            loop {
                let op = AdminOp::Recover { accept: accept.take() };
                let is_look = matches!(op, AdminOp::Recover { accept: None });
                let answer = client.administer(op.clone()).await;
                seen.was_ordered(&op, &answer, &errand);
                match answer {
                    // Who has lost a majority just now does not know it yet.
                    Ok(AdminAnswer::Recovery(plan)) if is_look && plan.is_idle() => {
                        if has_accepted {
                            break;
                        }
                        *lock(&errand.why) = Some(plan.to_string());
                    }
                    Ok(AdminAnswer::Recovery(plan)) if is_look => {
                        let mut named = plan.lost.iter().copied().filter(|node| !lost.contains(node));
                        let Some(node) = named.next() else {
                            (accept, has_accepted) = (Some(plan), true);
                            continue;
                        };
                        let what = format!("{node} is there, and would be given up: {plan}");
                        if Some(node) != dies || named.next().is_some() {
                            return seen.broken(what);
                        }
                        *lock(&errand.why) = Some(what);
                    }
                    _ => {}
                }
                tokio::time::sleep(AGAIN).await;
            }
            errand.over.store(true, Relaxed);
        });
        end
    }

    pub(super) fn administrator(&self) -> (Client, End) {
        let (link, end) = self.link(Principal::Admin { name: USER.into() });
        (Client::over(link, self.hosts.iter().map(|(host, _)| *host).collect::<Vec<_>>()), end)
    }
}

impl Seen {
    /// Notes what came of an order. Whether it needs not be given again.
    fn was_ordered(&self, op: &AdminOp, answer: &Result<AdminAnswer, Error>, errand: &Errand) -> bool {
        let said = answer.as_ref().map_or_else(|error| vec![error.to_string()], words);
        log::say(|| format!("ADMIN insists on {op:?}: {}", said.join("; ")));
        let code = answer.as_ref().err().map_or(0, |error| u64::from(error.kind().number()));
        let mut book = lock(&self.book);
        book.trace = mesh_core::topology::mix(book.trace ^ self.now() ^ code << 48);
        drop(book);
        let Err(error) = answer else { return true };
        if is_wrong(error) {
            self.broken(format!("an administrator was answered: {error}"));
        }
        // It was carried out, and nobody could say so any more.
        if error.message().starts_with(DRIVE_IS_OUT) {
            return true;
        }
        errand.was_refused(format!("{op:?}: {error}"));
        false
    }
}

/// Until an order is given again.
pub(super) const AGAIN: Duration = Duration::from_millis(700);
