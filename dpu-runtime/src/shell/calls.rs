//! Calls to other nodes that are under way: so that those to a node that is lost, or to an actor that was given to another
//! node, can be ended at once, instead of waiting for their deadlines. While a node is lost, none is sent to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh_core::{
    Error, ErrorKind, Outcome,
    envelope::Envelope,
    id::{ActorId, Epoch, NodeId},
    port::{CallGuard, Completion, Outbound},
};
use mesh_placement::doors::Place;

/// The calls of one host. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Calls {
    table: Arc<Mutex<Table>>,
    /// How often actors were taken over: as the table has it, for who looks before every request.
    take_overs: Arc<AtomicU64>,
}

#[derive(Default)]
struct Table {
    last: u64,
    by_node: BTreeMap<(NodeId, u64), Call>,
    lost: BTreeSet<NodeId>,
    /// The last actors that were taken over at once, and how often that has happened.
    taken: (u64, BTreeMap<ActorId, Place>),
}

impl Table {
    /// Whether it went to who had an actor before it was taken over.
    fn is_behind(taken: &BTreeMap<ActorId, Place>, to: NodeId, (actor, epoch): (ActorId, Epoch)) -> bool {
        taken.get(&actor).is_some_and(|now| now.node != to && epoch < now.epoch)
    }
}

struct Call {
    /// Whom it asks, and under which epoch; 0: under any.
    asks: (ActorId, Epoch),
    done: Completion<Outcome>,
    /// The link's; not there while it is being sent.
    guard: Option<CallGuard>,
}

impl Calls {
    /// How often actors were taken over until now: to be asked before it is looked up where a request goes.
    pub(super) fn take_overs(&self) -> u64 {
        self.take_overs.load(Ordering::Acquire)
    }

    /// Sends a request; `done` is called exactly once, unless the returned guard is dropped before. `since`: where it goes was
    /// looked up after so many [take-overs](Self::take_overs).
    pub(super) fn send(
        &self,
        outbound: &dyn Outbound,
        (to, since): (NodeId, u64),
        envelope: Envelope,
        done: Completion<Outcome>,
    ) -> CallGuard {
        let key = {
            let mut table = self.lock();
            if table.lost.contains(&to) {
                drop(table);
                done(Err(Error::new(ErrorKind::Unreachable, "the node is lost; nothing was sent").with("node", to)));
                return CallGuard::none();
            }
            let asks = (envelope.header.actor, envelope.header.epoch);
            let missed = table.taken.0.saturating_sub(since);
            // Nobody takes over a drive, or a node: whom they are asked of is not taken for unreachable.
            let is_chain = asks.0.as_data().is_some() || asks.0.as_tail().is_some();
            if is_chain && missed > 1 || missed == 1 && Table::is_behind(&table.taken.1, to, asks) {
                drop(table);
                done(Err(Error::new(
                    ErrorKind::Unreachable,
                    "the actor was given to another node before the request was sent; send it again",
                )));
                return CallGuard::none();
            }
            table.last += 1;
            let key = (to, table.last);
            table.by_node.insert(key, Call { asks, done, guard: None });
            key
        };
        let calls = self.clone();
        let answered = Box::new(move |outcome: Outcome| {
            let call = calls.lock().by_node.remove(&key);
            if let Some(Call { done, guard, .. }) = call {
                // It has been answered: there is nothing to cancel.
                guard.into_iter().for_each(CallGuard::forget);
                done(outcome);
            }
        });
        let guard = outbound.send(to, envelope, answered);
        match self.lock().by_node.get_mut(&key) {
            Some(call) => call.guard = Some(guard),
            None => {
                guard.forget();
                return CallGuard::none();
            }
        }
        let calls = self.clone();
        CallGuard::new(move || {
            let call = calls.lock().by_node.remove(&key);
            // Dropping the link's guard cancels it there, outside the lock.
            drop(call);
        })
    }

    /// A node that was lost is there again.
    pub(super) fn resume(&self, node: NodeId) {
        self.lock().lost.remove(&node);
    }

    /// Ends every call to a node that is lost: each may have been processed.
    pub(super) fn abandon(&self, node: NodeId) -> usize {
        let lost = {
            let mut table = self.lock();
            table.lost.insert(node);
            let mut lost = table.by_node.split_off(&(node, 0));
            let mut rest = lost.split_off(&(NodeId(node.0 + 1), 0));
            table.by_node.append(&mut rest);
            lost
        };
        end(lost.into_values(), || {
            Error::new(ErrorKind::LinkLost, "the node is lost with the request in flight").with("node", node)
        })
    }

    /// Ends every call to these actors that went elsewhere than where each is now, under an earlier epoch: they were taken
    /// from whoever had them, who may not know it, and may have processed the call.
    pub(super) fn taken_over(&self, actors: BTreeMap<ActorId, Place>) -> usize {
        let lost: Vec<Call> = {
            let mut table = self.lock();
            let is_lost = |(to, _): &(NodeId, u64), call: &mut Call| Table::is_behind(&actors, *to, call.asks);
            let lost = table.by_node.extract_if(.., is_lost).map(|(_, call)| call).collect();
            table.taken = (table.taken.0 + 1, actors);
            self.take_overs.store(table.taken.0, Ordering::Release);
            lost
        };
        end(lost, || Error::new(ErrorKind::LinkLost, "the actor was given to another node with the request in flight"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends calls, outside the lock.
fn end(lost: impl IntoIterator<Item = Call>, why: impl Fn() -> Error) -> usize {
    lost.into_iter()
        .map(|Call { done, guard, .. }| {
            drop(guard);
            done(Err(why()));
        })
        .count()
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use mesh_core::{Answer, Buf, Lane, Op, Principal, op::NodeOp};

    use super::*;

    /// Keeps what it is given, and counts cancellations.
    #[derive(Default)]
    struct Silence {
        kept: Mutex<Vec<Completion<Outcome>>>,
        cancelled: Arc<Mutex<u32>>,
    }

    impl Outbound for Silence {
        fn send(&self, _: NodeId, _: Envelope, done: Completion<Outcome>) -> CallGuard {
            self.kept.lock().unwrap().push(done);
            let cancelled = self.cancelled.clone();
            CallGuard::new(move || *cancelled.lock().unwrap() += 1)
        }
    }

    type Heard = Arc<Mutex<Vec<Result<(), ErrorKind>>>>;

    fn call(calls: &Calls, link: &Silence, to: u64, heard: &Heard) -> CallGuard {
        call_to(calls, link, (to, ActorId::NODE, 0), heard)
    }

    fn call_to(calls: &Calls, link: &Silence, asks: (u64, ActorId, u64), heard: &Heard) -> CallGuard {
        call_since(calls, link, calls.take_overs(), asks, heard)
    }

    fn call_since(
        calls: &Calls,
        link: &Silence,
        since: u64,
        (to, actor, epoch): (u64, ActorId, u64),
        heard: &Heard,
    ) -> CallGuard {
        let op = Op::Node(Box::new(NodeOp::Status));
        let budget = Duration::from_secs(1);
        let envelope =
            Envelope::request(actor, Epoch(epoch), op, Buf::empty(), Principal::System, Lane::Control, budget);
        let heard = heard.clone();
        let done = Box::new(move |outcome: Outcome| {
            heard.lock().unwrap().push(outcome.map(drop).map_err(|error| error.kind()));
        });
        calls.send(link, (NodeId(to), since), envelope, done)
    }

    #[test]
    fn calls_to_a_lost_node_end_at_once_and_none_is_sent_until_it_is_there_again() {
        let (calls, link, heard) = (Calls::default(), Silence::default(), Heard::default());
        let guards = [call(&calls, &link, 1, &heard), call(&calls, &link, 2, &heard), call(&calls, &link, 2, &heard)];
        assert_eq!(calls.abandon(NodeId(2)), 2);
        assert_eq!(*heard.lock().unwrap(), [Err(ErrorKind::LinkLost), Err(ErrorKind::LinkLost)]);
        assert_eq!(*link.cancelled.lock().unwrap(), 2);
        drop(call(&calls, &link, 2, &heard));
        assert_eq!(
            (heard.lock().unwrap().pop(), link.kept.lock().unwrap().len()),
            (Some(Err(ErrorKind::Unreachable)), 3)
        );
        // Late answers are heard by nobody twice; the other node's is heard once.
        for done in link.kept.lock().unwrap().drain(..) {
            done(Ok(Answer::Done.into()));
        }
        assert_eq!(heard.lock().unwrap().len(), 3);
        assert_eq!(heard.lock().unwrap().last(), Some(&Ok(())));
        drop(guards);
        assert_eq!(*link.cancelled.lock().unwrap(), 2, "what was answered is not cancelled");
        calls.resume(NodeId(2));
        let again = call(&calls, &link, 2, &heard);
        assert_eq!(link.kept.lock().unwrap().len(), 1);
        drop(again);
        assert_eq!(*link.cancelled.lock().unwrap(), 3, "a call that nobody waits for is cancelled");
    }

    #[test]
    fn calls_to_an_actor_that_was_taken_over_end_where_they_went_to_whoever_had_it() {
        let [one, two] = [1, 2].map(|node| ActorId::data(mesh_core::id::TenantId(1), NodeId(node)));
        let (calls, link, heard) = (Calls::default(), Silence::default(), Heard::default());
        let asks =
            [(1, one, 5), (1, one, 0), (2, one, 5), (2, one, 6), (3, one, 6), (1, two, 5), (1, ActorId::NODE, 0)];
        let guards = asks.map(|asks| call_to(&calls, &link, asks, &heard));
        // It is at node 2 now, under epoch 6. What knows of that epoch, or went there, goes on; and so do all others.
        let taken = BTreeMap::from([(one, Place { node: NodeId(2), epoch: Epoch(6) })]);
        assert_eq!(calls.taken_over(taken.clone()), 2);
        assert_eq!(*heard.lock().unwrap(), [Err(ErrorKind::LinkLost), Err(ErrorKind::LinkLost)]);
        assert_eq!(*link.cancelled.lock().unwrap(), 2);
        assert_eq!(calls.taken_over(taken), 0);
        drop(guards);
        assert_eq!(*link.cancelled.lock().unwrap(), 7);
    }

    #[test]
    fn a_call_whose_way_was_looked_up_before_a_take_over_and_is_sent_after_it_ends_at_once() {
        let actor = ActorId::data(mesh_core::id::TenantId(1), NodeId(1));
        let (calls, link, heard) = (Calls::default(), Silence::default(), Heard::default());
        let place = |node, epoch| BTreeMap::from([(actor, Place { node: NodeId(node), epoch: Epoch(epoch) })]);
        let before = calls.take_overs();
        assert_eq!(calls.taken_over(place(2, 6)), 0);
        let send = |since, (to, epoch)| call_since(&calls, &link, since, (to, actor, epoch), &heard).forget();
        send(before, (1, 5));
        let refused = Some(Err(ErrorKind::Unreachable));
        assert_eq!((heard.lock().unwrap().pop(), link.kept.lock().unwrap().len()), (refused, 0));
        // To where it is now, under its epoch, or looked up since: these go.
        send(before, (2, 5));
        send(before, (1, 6));
        send(calls.take_overs(), (1, 5));
        assert_eq!((heard.lock().unwrap().len(), link.kept.lock().unwrap().len()), (0, 3));
        // Only the last one is known: after two it is looked up again, whichever chain it asks.
        assert_eq!(calls.taken_over(BTreeMap::new()), 0);
        send(before, (1, 6));
        assert_eq!((heard.lock().unwrap().pop(), link.kept.lock().unwrap().len()), (refused, 3));
        // A drive is where it is, however many chains are taken over.
        call_since(&calls, &link, before, (1, ActorId::drive(mesh_core::id::DriveId(7)), 5), &heard).forget();
        assert_eq!((heard.lock().unwrap().len(), link.kept.lock().unwrap().len()), (0, 4));
    }
}
