//! Calls to other nodes that are under way: so that those to a node that is lost can be ended at once, instead of
//! waiting for their deadlines.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use mesh_core::{
    Error, ErrorKind, Outcome,
    envelope::Envelope,
    id::NodeId,
    port::{CallGuard, Completion, Outbound},
};

/// The calls of one host. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Calls(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    last: u64,
    by_node: BTreeMap<(NodeId, u64), Call>,
}

struct Call {
    done: Completion<Outcome>,
    /// The link's; not there while it is being sent.
    guard: Option<CallGuard>,
}

impl Calls {
    /// Sends a request; `done` is called exactly once, unless the returned guard is dropped before.
    pub(super) fn send(
        &self,
        outbound: &dyn Outbound,
        to: NodeId,
        envelope: Envelope,
        done: Completion<Outcome>,
    ) -> CallGuard {
        let key = {
            let mut table = self.lock();
            table.last += 1;
            let key = (to, table.last);
            table.by_node.insert(key, Call { done, guard: None });
            key
        };
        let calls = self.clone();
        let answered = Box::new(move |outcome: Outcome| {
            let call = calls.lock().by_node.remove(&key);
            if let Some(Call { done, guard }) = call {
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

    /// Ends every call to a node that is lost: each may have been processed.
    pub(super) fn abandon(&self, node: NodeId) -> usize {
        let lost = {
            let mut table = self.lock();
            let mut lost = table.by_node.split_off(&(node, 0));
            let mut rest = lost.split_off(&(NodeId(node.0 + 1), 0));
            table.by_node.append(&mut rest);
            lost
        };
        let count = lost.len();
        for call in lost.into_values() {
            drop(call.guard);
            (call.done)(Err(
                Error::new(ErrorKind::LinkLost, "the node is lost with the request in flight").with("node", node)
            ));
        }
        count
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
