//! Why an actor moves, stays, or has no place: a value to match on, and a sentence for a person.

use core::{cell::Cell, fmt};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{
    assignment::Preference,
    id::{ActorId, ActorName, NodeId, TenantId},
};

/// Why. The same sentence serves for a move ("to node-1: node-4 is down") and for staying ("stays: node-4 is down").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It runs nowhere yet.
    New,
    /// The node does not answer.
    NodeDown(NodeId),
    /// There is no such node.
    NoSuchNode(NodeId),
    /// The node is being emptied.
    Draining(NodeId),
    /// A person wants it there.
    Pinned(NodeId),
    /// A DPU is preferred, and this one can.
    Preferred {
        /// The DPU.
        dpu: NodeId,
        /// The ingress that it is attached to; none: it sees the medium.
        ingress: Option<NodeId>,
    },
    /// It is cheaper there.
    Gain {
        /// In what.
        what: Objective,
        /// By how much, in thousandths of what it costs now.
        permille: u64,
    },
    /// Another of its group is in that failure domain.
    Apart {
        /// The domain that it leaves.
        domain: NodeId,
    },
    /// It had to make room.
    MadeRoom {
        /// For this actor, which is preferred to it there.
        actor: ActorId,
        /// On this node.
        node: NodeId,
    },
    /// The function cannot run there; without a node: on none that it may run on.
    NoCapability {
        /// The function.
        kind: Arc<str>,
        /// The node.
        node: Option<NodeId>,
    },
    /// Memory would run out.
    NoMemory {
        /// Where.
        node: NodeId,
        /// Bytes that it needs.
        needs: u64,
        /// Bytes that are left.
        has: u64,
    },
    /// Cores would run out.
    NoCores {
        /// Where.
        node: NodeId,
        /// Thousandths of a core that it needs.
        needs: u64,
        /// Thousandths of a core that are left to plan with.
        has: u64,
    },
    /// A tenant's isolation forbids it.
    Isolation {
        /// Where.
        node: NodeId,
        /// The other tenant.
        tenant: TenantId,
    },
    /// Its medium cannot be seen from there.
    NotVisible(NodeId),
    /// Its preference forbids that node.
    Forbidden {
        /// The node.
        node: NodeId,
        /// The preference.
        preference: Preference,
    },
    /// The node is not its ingress, nor attached to it.
    NotServed {
        /// The node.
        node: NodeId,
        /// Its ingress.
        ingress: NodeId,
    },
    /// There is no stage to cut at, or the parts are not a node and its DPU.
    BadCut,
    /// Nothing is attached.
    NoDpu(NodeId),
    /// No ingress, no medium and no pin.
    Nowhere,
    /// The node came up only just now.
    Settling {
        /// Which.
        node: NodeId,
        /// For how long a node must have been up.
        settle_ms: u64,
    },
    /// It moved only just now.
    Held {
        /// For how long it stays.
        hold_ms: u64,
    },
    /// A move would gain too small a part.
    SmallGain {
        /// In what.
        what: Objective,
        /// In thousandths.
        permille: u64,
        /// The least.
        least: u64,
    },
    /// A move would gain too little in all.
    LittleGain(Objective),
    /// The cost of running it there, or here, is not known.
    Unmeasured(NodeId),
    /// A move is under way.
    Moving(NodeId),
    /// It is where it is best.
    Best,
    /// It should leave and cannot.
    Stuck {
        /// Why it should leave; no [`Self::Stuck`].
        #[serde(deserialize_with = "simple")]
        why: Box<Self>,
        /// Why it cannot; no [`Self::Stuck`].
        #[serde(deserialize_with = "simple")]
        but: Box<Self>,
    },
    /// The node has tried to run it several times in a row, in vain.
    Failed(NodeId),
    /// The node says that something is missing before it can serve.
    NotReady(NodeId),
}

/// A reason within a reason. One more within that is refused: whoever sends it may not choose how deep a decoder goes.
fn simple<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<Reason>, D::Error> {
    thread_local! {
        static INSIDE: Cell<bool> = const { Cell::new(false) };
    }
    if INSIDE.replace(true) {
        return Err(de::Error::custom("a reason lies deeper than any does"));
    }
    let reason = Reason::deserialize(deserializer);
    INSIDE.set(false);
    reason.map(Box::new)
}

/// What a gain is a gain in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Host CPU.
    HostCpu,
    /// Bytes that cross.
    CrossedBytes,
    /// Power.
    Power,
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostCpu => "host CPU",
            Self::CrossedBytes => "bytes that cross",
            Self::Power => "power",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("it runs nowhere yet"),
            Self::NodeDown(node) => write!(f, "{node} is down"),
            Self::NoSuchNode(node) => write!(f, "there is no {node}"),
            Self::Draining(node) => write!(f, "{node} is being drained"),
            Self::Pinned(node) => write!(f, "it is pinned to {node}"),
            Self::Preferred { dpu, ingress: Some(ingress) } => {
                write!(f, "{dpu} is a DPU of its ingress host {ingress} and is preferred")
            }
            Self::Preferred { dpu, ingress: None } => {
                write!(f, "{dpu} is a DPU that sees its medium and is preferred")
            }
            Self::Gain { what, permille } => write!(f, "gain of {} % in {what}", Percent(*permille)),
            Self::Apart { domain } => write!(f, "another of its group is in the failure domain of {domain}"),
            Self::MadeRoom { actor, node } => {
                write!(f, "it makes room for {} on {node}", ActorName(*actor))
            }
            Self::NoCapability { kind, node: Some(node) } => write!(f, "{node} lacks the capability `{kind}`"),
            Self::NoCapability { kind, node: None } => {
                write!(f, "no node that it may run on has the capability `{kind}`")
            }
            Self::NoMemory { node, needs, has } => {
                write!(f, "not enough memory on {node}: needs {}, has {}", Bytes(*needs), Bytes(*has))
            }
            Self::NoCores { node, needs, has } => {
                write!(f, "not enough cores on {node}: needs {}, has {}", Milli(*needs), Milli(*has))
            }
            Self::Isolation { node, tenant } => write!(f, "isolation: {node} works for {tenant}"),
            Self::NotVisible(node) => write!(f, "its medium is not visible from {node}"),
            Self::Forbidden { node, preference } => write!(f, "its policy {preference} forbids {node}"),
            Self::NotServed { node, ingress } => write!(f, "{node} does not serve its ingress {ingress}"),
            Self::BadCut => f.write_str("a chain is cut only between its stages, and between a node and its DPU"),
            Self::NoDpu(host) => write!(f, "no DPU is attached to {host}"),
            Self::Nowhere => f.write_str("nothing says where it may run: it has no ingress, no medium and no pin"),
            Self::Settling { node, settle_ms } => write!(f, "{node} has been up for less than {}", Millis(*settle_ms)),
            Self::Held { hold_ms } => write!(f, "it moved less than {} ago", Millis(*hold_ms)),
            Self::SmallGain { what, permille, least } => {
                write!(f, "gain of {} % in {what} is below {} %", Percent(*permille), Percent(*least))
            }
            Self::LittleGain(what) => write!(f, "the gain in {what} is too little to move for"),
            Self::Unmeasured(node) => write!(f, "what it costs on {node} has not been measured"),
            Self::Moving(node) => write!(f, "a move to {node} is under way"),
            Self::Best => f.write_str("it is nowhere better"),
            Self::Failed(node) => write!(f, "{node} has failed to run it, as its log says"),
            Self::NotReady(node) => write!(f, "{node} is not ready to serve, as `mesh status` says"),
            Self::Stuck { why, but } if why == but => write!(f, "{why}, and there is nowhere else"),
            Self::Stuck { why, but } => write!(f, "{why}, but it cannot leave: {but}"),
        }
    }
}

struct Percent(u64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 10 {
            0 => write!(f, "{}", self.0 / 10),
            tenth => write!(f, "{}.{tenth}", self.0 / 10),
        }
    }
}

struct Milli(u64);

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 1000 && self.0.is_multiple_of(1000) {
            write!(f, "{} s", self.0 / 1000)
        } else {
            write!(f, "{} ms", self.0)
        }
    }
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ 0..10_240 => write!(f, "{bytes} bytes"),
            bytes @ 10_240..10_485_760 => write!(f, "{} KiB", bytes >> 10),
            bytes => write!(f, "{} MiB", bytes >> 20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::NodeId, meta};

    fn stuck(why: Reason) -> Reason {
        Reason::Stuck { why: Box::new(why), but: Box::new(Reason::Best) }
    }

    #[test]
    fn a_reason_has_one_reason_within_and_a_deep_one_is_refused_before_it_is_followed() {
        let one = stuck(Reason::Draining(NodeId(3)));
        let bytes = meta::encode(&one).unwrap();
        assert_eq!(meta::decode::<Reason>(&bytes).unwrap(), one);
        let two = meta::encode(&stuck(one.clone())).unwrap();
        assert!(meta::decode::<Reason>(&two).is_err());
        // The next one is read as ever.
        assert_eq!(meta::decode::<Reason>(&bytes).unwrap(), one);
        // Levels within levels, each in a struct that is long enough: written from the inside, and so backwards.
        let (format, level) = (bytes[0], bytes[1]);
        let mut deep = Vec::new();
        while deep.len() < 2 << 20 {
            let len = postcard::to_stdvec(&deep.len()).unwrap();
            deep.extend(len.into_iter().rev().chain([level]));
        }
        deep.push(format);
        deep.reverse();
        let error = meta::decode::<Reason>(&deep).unwrap_err();
        assert!(error.to_string().contains("a reason lies deeper than any does"), "{error}");
    }
}
