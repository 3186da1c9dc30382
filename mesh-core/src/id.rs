//! Names of things: small copyable numbers, each with a type of its own so that they cannot be confused.

use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        number!(
            #[derive(Serialize, Deserialize)]
            #[serde(transparent)]
            $(#[$doc])* struct $name, $prefix
        );
    };
    ($(#[$attribute:meta])* struct $name:ident, $prefix:literal) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

/// What people read and write (JSON, TOML) has the name, and takes the bare number as well; all else the number.
macro_rules! named {
    ($name:ident, $shown:expr, $read:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(&$shown(*self))
                } else {
                    serializer.serialize_newtype_struct(stringify!($name), &self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if !deserializer.is_human_readable() {
                    return u64::deserialize(deserializer).map(Self);
                }
                struct Reader;
                impl de::Visitor<'_> for Reader {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "a number, or a name such as {}", $shown($name(1)))
                    }

                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                        Ok($name(number))
                    }

                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$name, E> {
                        u64::try_from(number)
                            .map($name)
                            .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        // A key of a map is text even where it is a number.
                        let number = text.parse().ok().map($name);
                        number.or_else(|| $read(text)).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
                    }
                }
                deserializer.deserialize_any(Reader)
            }
        }
    };
}

fn after(prefix: &str, text: &str) -> Option<u64> {
    text.strip_prefix(prefix)?.parse().ok()
}

named!(NodeId, core::convert::identity, |text| after("node-", text).map(NodeId));
named!(DriveId, core::convert::identity, |text| after("drive-", text).map(DriveId));
named!(TenantId, core::convert::identity, |text| after("tenant-", text).map(TenantId));
named!(ActorId, ActorName, |text: &str| text.parse::<ActorName>().ok().map(|name| name.0));

number!(
    /// One `mesh` process, on a host or on a DPU. Written `node-3`.
    struct NodeId, "node-"
);
number!(
    /// A hosted chain. Actor numbers are given out by the control group; see [`ActorId::drive`] and
    /// [`ActorId::ingress`] for the ranges that are derived instead.
    struct ActorId, "actor-"
);
number!(
    /// A drive, for life: it is written into the drive's superblock.
    struct DriveId, "drive-"
);
number!(
    /// Grows with every change of owner of an actor or a drive; the fence.
    Epoch, "e"
);
number!(
    /// Who owns data.
    struct TenantId, "tenant-"
);
number!(
    /// One incarnation of a bucket: a bucket that is deleted and made again has another number.
    BucketId, "bucket-"
);
number!(
    /// A Raft group. [`GroupId::CONTROL`] is the control group; the others hold namespaces.
    GroupId, "group-"
);
number!(
    /// An immutable table of placement groups.
    LayoutId, "layout-"
);
number!(
    /// A tenant's wrapping key. Functions hold only this number; a node's `Keys` port resolves it.
    KeyId, "key-"
);
number!(
    /// One write of an object or of a part, unique in the cluster: the high 16 bits are the namespace group that
    /// granted it, the low 48 bits count.
    WriteId, "w"
);
number!(
    /// Correlates a request, a call or a piece of work with its completion, inside one actor.
    Token, "t"
);
number!(
    /// Grows with every start of a node, so that peers can tell a restart from a reconnect.
    Incarnation, "i"
);

impl GroupId {
    /// The group that holds nodes, drives, layouts, tenants, keys, buckets and assignments.
    pub const CONTROL: Self = Self(0);
}

impl ActorId {
    /// The node itself: Raft, heartbeats, metadata.
    pub const NODE: Self = Self(0);

    const DRIVE: u64 = 1 << 62;
    const INGRESS: u64 = 1 << 61;
    const DATA: u64 = 1 << 60;
    const TAIL: u64 = 1 << 63;
    const KEEPER: u64 = 1 << 59;

    /// The actor that owns a drive.
    #[must_use]
    pub const fn drive(drive: DriveId) -> Self {
        Self(Self::DRIVE | drive.0)
    }

    /// The ingress actor (Object) of a node.
    #[must_use]
    pub const fn ingress(node: NodeId) -> Self {
        Self(Self::INGRESS | node.0)
    }

    /// The actor that keeps what a node's groups have stored (Keeper).
    #[must_use]
    pub const fn keeper(node: NodeId) -> Self {
        Self(Self::KEEPER | node.0)
    }

    /// The data chain of one tenant for one ingress node. Tenants are numbered below 2^28, nodes below 2^32.
    #[must_use]
    pub const fn data(tenant: TenantId, ingress: NodeId) -> Self {
        Self(Self::DATA | (tenant.0 << 32) | ingress.0)
    }

    /// The stages of that data chain from number `cut` on, where they run apart from its head. Cut elsewhere, it is another
    /// actor: what is meant for the one never comes to the other. Ingress nodes are numbered below 2^24.
    #[must_use]
    pub const fn tail(tenant: TenantId, ingress: NodeId, cut: u8) -> Self {
        Self(Self::TAIL | (tenant.0 << 32) | ((cut as u64) << 24) | ingress.0)
    }

    /// The drive behind this actor, if it is a drive's.
    #[must_use]
    pub const fn as_drive(self) -> Option<DriveId> {
        if self.0 & Self::DRIVE != 0 { Some(DriveId(self.0 & !Self::DRIVE)) } else { None }
    }

    /// The node behind this actor, if it is an ingress. Clients may address only these.
    #[must_use]
    pub const fn as_ingress(self) -> Option<NodeId> {
        if self.0 & Self::DRIVE == 0 && self.0 & Self::INGRESS != 0 {
            Some(NodeId(self.0 & !Self::INGRESS))
        } else {
            None
        }
    }

    /// The node behind this actor, if it is a keeper.
    #[must_use]
    pub const fn as_keeper(self) -> Option<NodeId> {
        if self.0 >> 59 == 1 { Some(NodeId(self.0 & !Self::KEEPER)) } else { None }
    }

    /// The (tenant, ingress) behind this actor, if it is a data chain.
    #[must_use]
    pub const fn as_data(self) -> Option<(TenantId, NodeId)> {
        if self.0 >> 60 == 1 {
            Some((TenantId((self.0 & !Self::DATA) >> 32), NodeId(self.0 & 0xffff_ffff)))
        } else {
            None
        }
    }

    /// The (tenant, ingress, cut) behind this actor, if it is the tail of a data chain.
    #[must_use]
    pub const fn as_tail(self) -> Option<(TenantId, NodeId, u8)> {
        if self.0 >> 60 == 8 {
            let cut = (self.0 >> 24) as u8;
            Some((TenantId((self.0 & !Self::TAIL) >> 32), NodeId(self.0 & 0xff_ffff), cut))
        } else {
            None
        }
    }
}

/// The name by which people and scripts call an actor: `chain-T-N` for the data chain of tenant T for ingress node N,
/// `tail-T-N-C` for its stages from number C on where they run apart from it, `ingress-N`, `keeper-N`, `drive-D`, `actor-A` for
/// any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActorName(pub ActorId);

impl fmt::Display for ActorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let actor = self.0;
        match (actor.as_drive(), actor.as_ingress(), actor.as_data(), actor.as_tail()) {
            (Some(drive), ..) => write!(f, "drive-{}", drive.0),
            (_, Some(node), ..) => write!(f, "ingress-{}", node.0),
            (_, _, Some((tenant, node)), _) => write!(f, "chain-{}-{}", tenant.0, node.0),
            (.., Some((tenant, node, cut))) => write!(f, "tail-{}-{}-{cut}", tenant.0, node.0),
            _ => match actor.as_keeper() {
                Some(node) => write!(f, "keeper-{}", node.0),
                None => write!(f, "actor-{}", actor.0),
            },
        }
    }
}

impl core::str::FromStr for ActorName {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            crate::Error::invalid(
                "an actor is called chain-TENANT-NODE, tail-TENANT-NODE-STAGE, ingress-NODE, keeper-NODE, drive-N or actor-N",
            )
        };
        let (kind, numbers) = text.split_once('-').ok_or_else(invalid)?;
        let number = |text: &str, below: u64| text.parse().ok().filter(|number| *number < below).ok_or_else(invalid);
        Ok(Self(match kind {
            "drive" => ActorId::drive(DriveId(number(numbers, 1 << 60)?)),
            "ingress" => ActorId::ingress(NodeId(number(numbers, 1 << 32)?)),
            "keeper" => ActorId::keeper(NodeId(number(numbers, 1 << 32)?)),
            "chain" => {
                let (tenant, node) = numbers.split_once('-').ok_or_else(invalid)?;
                ActorId::data(TenantId(number(tenant, 1 << 28)?), NodeId(number(node, 1 << 32)?))
            }
            "tail" => {
                let (tenant, numbers) = numbers.split_once('-').ok_or_else(invalid)?;
                let (node, cut) = numbers.split_once('-').ok_or_else(invalid)?;
                let cut = u8::try_from(number(cut, 1 << 8)?).map_err(|_| invalid())?;
                ActorId::tail(TenantId(number(tenant, 1 << 28)?), NodeId(number(node, 1 << 24)?), cut)
            }
            "actor" => ActorId(number(numbers, u64::MAX)?),
            _ => return Err(invalid()),
        }))
    }
}

/// One life of a node's replica of a metadata group: Raft's number for it. A replica that was emptied, damaged or
/// forgotten never comes back under its number, so that nobody takes the new one for one that still knows what the
/// old one promised. Written `node-3/1f2e00c0ffee`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplicaId(pub u64);

impl ReplicaId {
    /// Nodes that can have replicas are numbered below this.
    pub const NODES: u64 = 1 << 16;
    /// Lives are numbered below this.
    pub const LIVES: u64 = 1 << 48;

    /// A life on a node: the high 48 bits are the life, the low 16 the node.
    #[must_use]
    pub const fn new(node: NodeId, life: u64) -> Self {
        Self((life << 16) | (node.0 & (Self::NODES - 1)))
    }

    /// The node that it is, or was, on.
    #[must_use]
    pub const fn node(self) -> NodeId {
        NodeId(self.0 & (Self::NODES - 1))
    }

    /// Which life.
    #[must_use]
    pub const fn life(self) -> u64 {
        self.0 >> 16
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:012x}", self.node(), self.life())
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl WriteId {
    /// The `count`-th write granted by `group`.
    #[must_use]
    pub const fn new(group: GroupId, count: u64) -> Self {
        Self((group.0 << 48) | (count & 0xffff_ffff_ffff))
    }

    /// The group that granted it.
    #[must_use]
    pub const fn group(self) -> GroupId {
        GroupId(self.0 >> 48)
    }
}

/// The identity of a cluster: 16 random bytes made by `mesh init`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster-{self}")
    }
}

impl core::str::FromStr for ClusterId {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || crate::Error::invalid("a cluster id is 32 hexadecimal digits");
        if text.len() != 32 || !text.is_ascii() {
            return Err(invalid());
        }
        let mut id = [0; 16];
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = core::str::from_utf8(digits).map_err(|_| invalid())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| invalid())?;
        }
        Ok(Self(id))
    }
}

/// One attempt at storing one stripe of one write. A resend has a new attempt number, so that shards of two attempts
/// are never mixed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StripeId {
    /// The write that the stripe belongs to.
    pub write: WriteId,
    /// Its index, from 0.
    pub stripe: u32,
    /// Which attempt at storing it, from 0.
    pub attempt: u8,
}

impl StripeId {
    /// The `shard`-th shard of this stripe.
    #[must_use]
    pub const fn shard(self, shard: u8) -> ShardId {
        ShardId { stripe: self, shard }
    }
}

impl fmt::Debug for StripeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.write, self.stripe, self.attempt)
    }
}

/// One shard: what a drive stores. Written once and never changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId {
    /// The stripe it is a shard of.
    pub stripe: StripeId,
    /// Its place in the code: 0..k are data, k..k+m parity.
    pub shard: u8,
}

impl ShardId {
    /// The greatest name below this one; `None` for the first there is. Lists go on behind a name.
    #[must_use]
    pub fn before(self) -> Option<Self> {
        let StripeId { write, stripe, attempt } = self.stripe;
        if let Some(shard) = self.shard.checked_sub(1) {
            return Some(self.stripe.shard(shard));
        }
        let stripe = if let Some(attempt) = attempt.checked_sub(1) {
            StripeId { write, stripe, attempt }
        } else if let Some(stripe) = stripe.checked_sub(1) {
            StripeId { write, stripe, attempt: u8::MAX }
        } else {
            StripeId { write: WriteId(write.0.checked_sub(1)?), stripe: u32::MAX, attempt: u8::MAX }
        };
        Some(stripe.shard(u8::MAX))
    }
}

impl fmt::Debug for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}", self.stripe, self.shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_has_a_node_and_a_life() {
        let replica = ReplicaId::new(NodeId(3), 0x1f2e_00c0_ffee);
        assert_eq!((replica.node(), replica.life()), (NodeId(3), 0x1f2e_00c0_ffee));
        assert_eq!(replica.to_string(), "node-3/1f2e00c0ffee");
    }

    #[test]
    fn nothing_lies_between_a_shard_and_the_one_before_it() {
        let id = |write, stripe, attempt, shard| StripeId { write: WriteId(write), stripe, attempt }.shard(shard);
        for (of, before) in [
            (id(7, 3, 2, 5), Some(id(7, 3, 2, 4))),
            (id(7, 3, 2, 0), Some(id(7, 3, 1, u8::MAX))),
            (id(7, 3, 0, 0), Some(id(7, 2, u8::MAX, u8::MAX))),
            (id(7, 0, 0, 0), Some(id(6, u32::MAX, u8::MAX, u8::MAX))),
            (id(0, 0, 0, 0), None),
        ] {
            assert_eq!(of.before(), before);
            assert!(before < Some(of));
        }
    }

    #[test]
    fn actors_are_called_by_names_that_are_read_back() {
        let actors = [
            ActorId::drive(DriveId(2001)),
            ActorId::ingress(NodeId(3)),
            ActorId::data(TenantId(7), NodeId(4)),
            ActorId::keeper(NodeId(5)),
            ActorId(12),
        ];
        let names = actors.map(|actor| ActorName(actor).to_string());
        assert_eq!(names, ["drive-2001", "ingress-3", "chain-7-4", "keeper-5", "actor-12"]);
        assert_eq!(names.map(|name| name.parse::<ActorName>().map(|name| name.0)), actors.map(Ok));
        for wrong in ["", "chain-1", "chain-x-1", "node-1", "chain-268435456-1"] {
            assert!(wrong.parse::<ActorName>().is_err(), "{wrong}");
        }
    }
}
