//! What is visible, as the groups say, and whether the drives hold it.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    ErrorKind,
    id::{DriveId, GroupId, ShardId, StripeId, WriteId},
    meta::{Body, BucketRef, Extent, MetaAnswer, Query},
    topology::{self, Layouts},
};

use crate::{
    cluster::NAMESPACE,
    workload::{BUCKET, FLEETING},
    world::World,
};

/// Rows that one question asks for.
const PAGE: u32 = 1000;

fn ask(world: &mut World, group: GroupId, query: &Query) -> MetaAnswer {
    // An error is no answer to a checker: it must not pass for want of one.
    world.metadata.peek(group, query).unwrap_or_else(|error| panic!("the groups answer {query:?} by {error:?}"))
}

/// The extents of all objects and of all parts of open uploads.
#[must_use]
pub fn visible(world: &mut World) -> Vec<Extent> {
    let mut extents = Vec::new();
    for name in core::iter::once(BUCKET).chain(FLEETING) {
        match world.metadata.peek(GroupId::CONTROL, &Query::Bucket { name: name.into() }) {
            Ok(MetaAnswer::Bucket(row)) => extents.extend(in_bucket(world, &row.bucket)),
            Err(error) if error.kind() == ErrorKind::NoSuchBucket && name != BUCKET => {}
            other => panic!("the groups answer {other:?} when asked for {name}"),
        }
    }
    extents
}

fn in_bucket(world: &mut World, bucket: &BucketRef) -> Vec<Extent> {
    // A deletion that stopped half-way has left it sealed; then it is empty.
    let list =
        |after| Query::List { bucket: bucket.clone(), prefix: String::new(), delimiter: None, after, limit: PAGE };
    if let Err(error) = world.metadata.peek(NAMESPACE, &list(String::new()))
        && error.kind() == ErrorKind::NoSuchBucket
    {
        return Vec::new();
    }
    let mut extents = Vec::new();
    let mut after = String::new();
    loop {
        let MetaAnswer::Listing(page) = ask(world, NAMESPACE, &list(after)) else { panic!("no listing") };
        for entry in &page.entries {
            extents.extend(of_object(world, bucket, &entry.key));
        }
        match &page.next {
            Some(next) => after = next.clone(),
            None => break,
        }
    }
    let query = Query::Uploads { bucket: bucket.clone(), prefix: String::new(), after: None, limit: PAGE };
    let MetaAnswer::Uploads(uploads, false) = ask(world, NAMESPACE, &query) else { panic!("not all uploads") };
    for upload in uploads {
        let query = Query::Parts { bucket: bucket.clone(), upload: upload.upload, after: 0, limit: PAGE };
        extents.extend(of_parts(world, &query));
    }
    extents
}

fn of_object(world: &mut World, bucket: &BucketRef, key: &str) -> Vec<Extent> {
    let MetaAnswer::Object(row) = ask(world, NAMESPACE, &Query::Object { bucket: bucket.clone(), key: key.into() })
    else {
        panic!("what is listed is no object: {key}")
    };
    match &row.body {
        Body::Whole(extent) => vec![extent.clone()],
        Body::Parts { upload, .. } => {
            let query = Query::Extents { bucket: bucket.clone(), upload: *upload, offset: 0, limit: PAGE };
            of_parts(world, &query)
        }
    }
}

fn of_parts(world: &mut World, query: &Query) -> Vec<Extent> {
    let MetaAnswer::Parts(parts, false) = ask(world, NAMESPACE, query) else { panic!("not all parts") };
    parts.iter().map(|part| part.extent.clone()).collect()
}

/// Where the shards of what is visible are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// On any of the drives that may have it.
    Anywhere,
    /// At home in the newest layout.
    Home,
}

/// The first shard of these extents that is not there, the drives apart whose contents may be lost.
#[must_use]
pub fn missing(
    extents: &[Extent],
    layouts: &Layouts,
    held: &BTreeMap<DriveId, BTreeSet<ShardId>>,
    victims: &[DriveId],
    place: Where,
) -> Option<String> {
    let newest = layouts.values().next_back()?;
    for extent in extents {
        for stripe in 0..extent.stripes() {
            let run = extent.run_of(stripe);
            let attempt = run.map_or(0, |run| run.attempt);
            let avoid = run.map_or(&[][..], |run| &run.avoid);
            let id = StripeId { write: extent.write, stripe, attempt };
            let drives = match place {
                Where::Anywhere => topology::holders(layouts, extent.layout, extent.code, id, avoid),
                Where::Home => {
                    let homes = newest.table(extent.code).and_then(|table| table.place(id, &[]));
                    homes.map(|homes| homes.drives.into_iter().map(|home| vec![home]).collect())
                }
            };
            let Some(drives) = drives else {
                return Some(format!("{id:?} has no place without {avoid:?}"));
            };
            for (shard, drives) in (0_u8..).zip(&drives) {
                let holds = |drive| held.get(drive).is_some_and(|shards| shards.contains(&id.shard(shard)));
                if !drives.iter().any(holds) && !drives.iter().any(|drive| victims.contains(drive)) {
                    return Some(format!("{:?} on {drives:?}", id.shard(shard)));
                }
            }
        }
    }
    None
}

/// A shard of these extents that is elsewhere than at home in the newest layout.
#[must_use]
pub fn astray(
    extents: &[Extent],
    layouts: &Layouts,
    held: &BTreeMap<DriveId, BTreeSet<ShardId>>,
) -> Option<(DriveId, ShardId)> {
    let newest = layouts.values().next_back()?;
    let extents: BTreeMap<WriteId, &Extent> = extents.iter().map(|extent| (extent.write, extent)).collect();
    let is_astray = |drive: DriveId, id: ShardId| {
        let stripe = id.stripe;
        let Some(extent) = extents.get(&stripe.write) else { return false };
        let attempt = extent.run_of(stripe.stripe).map_or(0, |run| run.attempt);
        let home = newest.table(extent.code).and_then(|table| table.homes(stripe).get(usize::from(id.shard)));
        stripe.attempt == attempt && home != Some(&drive)
    };
    let all = held.iter().flat_map(|(drive, shards)| shards.iter().map(|id| (*drive, *id)));
    all.into_iter().find(|(drive, id)| is_astray(*drive, *id))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_core::{
        id::{LayoutId, NodeId},
        meta::Compression,
        topology::{Code, Layout},
    };

    use super::*;

    #[test]
    fn sees_a_shard_that_is_gone_unless_its_drive_may_lose_it() {
        let drives: Vec<DriveId> = (1..=3).map(DriveId).collect();
        let layout = Layout {
            id: LayoutId(1),
            code: Code { data: 2, parity: 1 },
            groups: vec![drives.clone()],
            domains: drives.iter().map(|drive| (*drive, NodeId(drive.0))).collect(),
            line: 1,
            others: Vec::new(),
            places: topology::Places::default(),
            rule: topology::Rule::default(),
        };
        let extent = Extent {
            write: WriteId(5),
            len: 15,
            stripe_bytes: 10,
            layout: layout.id,
            key: None,
            runs: Vec::new(),
            compression: Compression::Off,
            code: None,
        };
        let mut held: BTreeMap<DriveId, BTreeSet<ShardId>> = BTreeMap::new();
        for stripe in 0..2 {
            let id = StripeId { write: WriteId(5), stripe, attempt: 0 };
            let placement = layout.own().place(id, &[]).expect("three drives");
            for (shard, drive) in (0_u8..).zip(placement.drives) {
                held.entry(drive).or_default().insert(id.shard(shard));
            }
        }
        let extents = [extent];
        let layouts = |layout: &Layout| Layouts::from([(layout.id, Arc::new(layout.clone()))]);
        let of = |held: &_, victims: &[DriveId], place| missing(&extents, &layouts(&layout), held, victims, place);
        for place in [Where::Anywhere, Where::Home] {
            assert_eq!(of(&held, &[], place), None);
        }
        assert_eq!(astray(&extents, &layouts(&layout), &held), None);
        let gone = held.get_mut(&DriveId(2)).expect("it holds some").pop_first().expect("one");
        for place in [Where::Anywhere, Where::Home] {
            assert!(of(&held, &[], place).is_some());
            assert_eq!(of(&held, &[DriveId(2)], place), None);
        }
        // What is on another drive than it was put on is found by nobody.
        held.entry(DriveId(3)).or_default().insert(gone);
        assert!(of(&held, &[], Where::Anywhere).is_some());
        assert_eq!(astray(&extents, &layouts(&layout), &held), Some((DriveId(3), gone)));
    }
}
