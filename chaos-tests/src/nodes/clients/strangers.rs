//! Who may not see a tenant's data, and asks all the same.

use mesh::{Client, client::CopyOptions};
use mesh_core::{
    Error, ErrorKind, Principal,
    id::{NodeId, TenantId},
    meta::Attributes,
    stream::Place,
};
use mesh_transport::End;

use super::{BUCKETS, Clients, USER, log};

impl Clients {
    /// Strangers ask a host for the data of the first tenant. Nothing but a refusal may come of it, or nothing at all.
    pub(in crate::nodes) fn intrude(&self, host: NodeId) -> Vec<End> {
        let user = |tenant, name: &str| Principal::User { tenant: TenantId(tenant), name: name.into() };
        // Of the tenant, and unknown to it; of another one; of one that there is not.
        let strangers = [user(1, "nobody"), user(2, USER), user(99, USER), Principal::Anonymous];
        let strangers = strangers.into_iter().chain([Principal::Admin { name: USER.into() }]);
        let intrude = |stranger: Principal| {
            let (link, end) = self.link(stranger.clone());
            let (client, seen) = (Client::over(link, [host]), self.seen.clone());
            self.runtime.spawn(async move {
                for (what, outcome) in intrusions(&client).await {
                    log::say(|| format!("STRANGER {stranger:?} {what}: {outcome:?}"));
                    if !matches!(&outcome, Err(error) if is_refusal(error)) {
                        seen.broken(format!("{stranger:?} {what}, and was answered: {outcome:?}"));
                    }
                }
            });
            end
        };
        strangers.map(intrude).collect()
    }
}

async fn intrusions(client: &Client) -> Vec<(&'static str, Result<(), Error>)> {
    let [bucket, own] = BUCKETS;
    let place = Place::new(bucket, "k0");
    vec![
        ("reads", client.get_bytes(bucket, "k0").await.map(drop)),
        ("asks what is there", client.head(bucket, "k0").await.map(drop)),
        ("lists", client.list(bucket, "", None, "").await.map(drop)),
        ("writes", client.put_bytes(bucket, "own-stranger", b"a stranger's").await.map(drop)),
        ("removes", client.remove(bucket, "k0").await),
        ("copies", client.copy(&place, &Place::new(own, "own-stranger"), CopyOptions::default()).await.map(drop)),
        ("begins an upload", client.create_upload(bucket, "own-stranger", Attributes::default()).await.map(drop)),
        ("looks at uploads", client.uploads(bucket, "", None).await.map(drop)),
        ("makes the bucket", client.create_bucket(bucket).await),
        ("deletes the bucket", client.delete_bucket(bucket).await),
    ]
}

/// It is refused, or not answered at the moment: nothing is said of what is there.
fn is_refusal(error: &Error) -> bool {
    let told = [ErrorKind::NotFound, ErrorKind::Precondition, ErrorKind::BucketNotEmpty];
    let broken = [ErrorKind::Corrupt, ErrorKind::Lost, ErrorKind::Bug];
    !told.contains(&error.kind()) && !broken.contains(&error.kind())
}
