//! What a tenant leaves that was deleted, done away with by whoever leads the control group: see `EndTenant`. Nothing is
//! remembered here: whoever leads next goes on from what the groups say.

use std::sync::Arc;

use mesh_core::{
    Error,
    happened::{AccessEvent, Happened},
    id::{GroupId, TenantId},
    limits::BUDGET_DEFAULT,
    meta::{BucketCommand, BucketRow, Command, MeshCommand, MetaAnswer, Query, UpkeepCommand},
};

use super::Inner;

/// Goes on until nothing is left, or time is up.
pub(super) async fn clear(node: &Arc<Inner>, tenant: TenantId) -> Result<(), Error> {
    for row in buckets(node, tenant).await? {
        let bucket = &row.bucket;
        let empty = |at| Command::Upkeep(bucket.group, UpkeepCommand::EmptyBucket { bucket: bucket.clone(), at });
        while is_more(&*node.propose(empty(node.env.clock.wall())).await?)? {}
        node.propose(BucketCommand::RemoveBucket { bucket: bucket.id }).await?;
    }
    while is_more(&*node.propose(MeshCommand::DropTenant { tenant }).await?)? {}
    node.note(Happened::Access(AccessEvent::TenantGone { tenant }));
    Ok(())
}

async fn buckets(node: &Inner, tenant: TenantId) -> Result<Vec<Arc<BucketRow>>, Error> {
    let deadline = node.env.clock.now() + BUDGET_DEFAULT;
    match &*node.ask_group(GroupId::CONTROL, Query::Buckets { tenant }, deadline).await? {
        MetaAnswer::Buckets(rows) => Ok(rows.clone()),
        _ => Err(Error::bug("the control group answered with something else than buckets")),
    }
}

fn is_more(answer: &MetaAnswer) -> Result<bool, Error> {
    match answer {
        MetaAnswer::Rest { more } => Ok(*more),
        _ => Err(Error::bug("a group answered with something else than what is left")),
    }
}
