//! One request's way to Object: who asks, until when, and typed answers.

use core::time::Duration;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use mesh_core::{
    Answer, Buf, Lane, Outcome, Principal, Request,
    id::{TenantId, WriteId},
    limits::BUDGET_DEFAULT,
    meta::{BucketRow, ObjectRow, PartRow, UploadRow},
    op::{ObjectOp, Piece},
    port::Clock,
    stream::{Draw, Place, pieces_of},
};
use s3s::{
    S3Result,
    dto::{Initiator, Owner},
};

use super::{
    credit::{Credit, Purse},
    error::{strange, to_s3},
    ingress::Ingress,
    via::Via,
};

/// Who asks, and the way to Object. Cheap to clone.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) via: Arc<Via>,
    pub(super) credit: Credit,
    pub(super) ingress: Arc<dyn Ingress>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tenant: TenantId,
    pub(super) name: Arc<str>,
    /// Bytes of what is deleted are kept for so long.
    pub(super) grace: Duration,
}

impl Caller {
    /// Takes what the request needs to get through.
    ///
    /// # Errors
    /// `Overloaded`.
    pub(super) async fn admit(&self, bytes: usize) -> Result<Purse, mesh_core::Error> {
        self.credit.admit(self.tenant, bytes, self.via.link.clone()).await
    }

    /// Asks Object. Each operation, and each stripe, has the default budget of its own.
    pub(super) fn ask(&self, op: ObjectOp, payload: Buf, lane: Lane) -> BoxFuture<'static, Outcome> {
        self.ingress.ask(Request {
            op: op.into(),
            payload,
            principal: Principal::User { tenant: self.tenant, name: self.name.clone() },
            deadline: self.clock.now() + BUDGET_DEFAULT,
            lane,
            trace: self.via.trace,
        })
    }

    /// Asks something that carries no payload either way.
    pub(super) async fn answer(&self, op: ObjectOp) -> S3Result<Answer> {
        let response = self.ask(op, Buf::empty(), Lane::Interactive).await.map_err(|error| to_s3(&error))?;
        Ok(response.answer)
    }

    /// Asks something that is answered by `Done`.
    pub(super) async fn done(&self, op: ObjectOp) -> S3Result<()> {
        match self.answer(op).await? {
            Answer::Done => Ok(()),
            _ => Err(strange("an operation that is answered by Done")),
        }
    }

    /// A bucket.
    pub(super) async fn bucket(&self, bucket: &Arc<str>) -> S3Result<Arc<BucketRow>> {
        match self.answer(ObjectOp::HeadBucket { bucket: bucket.clone() }).await? {
            Answer::Bucket(row) => Ok(row),
            _ => Err(strange("HeadBucket")),
        }
    }

    /// An object's manifest.
    pub(super) async fn object(&self, bucket: &Arc<str>, key: &Arc<str>) -> S3Result<Arc<ObjectRow>> {
        let head = Draw::head(&Place::new(bucket.clone(), key.clone()));
        Draw::headed(self.ask(head, Buf::empty(), Lane::Interactive).await).map_err(|error| to_s3(&error))
    }

    /// Pieces of an object, a page of them: at least one, and in all not more than asked for.
    pub(super) async fn plan(
        &self,
        bucket: &Arc<str>,
        key: &Arc<str>,
        object: &Arc<ObjectRow>,
        offset: u64,
        len: u64,
    ) -> Result<Vec<Piece>, mesh_core::Error> {
        let op = ObjectOp::Plan { bucket: bucket.clone(), key: key.clone(), object: object.clone(), offset, len };
        let (pieces, _) = pieces_of(self.ask(op, Buf::empty(), Lane::Interactive).await, len)?;
        Ok(pieces)
    }

    /// An upload; `NoSuchUpload` also if it is not `key`'s.
    pub(super) async fn upload(&self, bucket: &Arc<str>, key: &str, upload: WriteId) -> S3Result<Arc<UploadRow>> {
        match self.answer(ObjectOp::HeadUpload { bucket: bucket.clone(), upload }).await? {
            Answer::Upload(row) if row.key == key => Ok(row),
            Answer::Upload(_) => Err(s3s::S3ErrorCode::NoSuchUpload.into()),
            _ => Err(strange("HeadUpload")),
        }
    }

    /// A page of an upload's parts, and whether there are more.
    pub(super) async fn parts(
        &self,
        bucket: &Arc<str>,
        upload: WriteId,
        after: u32,
        limit: u32,
    ) -> S3Result<(Vec<Arc<PartRow>>, bool)> {
        match self.answer(ObjectOp::ListParts { bucket: bucket.clone(), upload, after, limit }).await? {
            Answer::Parts(parts, more) => Ok((parts, more)),
            _ => Err(strange("ListParts")),
        }
    }

    /// The tenant as S3 shows owners.
    pub(super) fn owner(&self) -> Owner {
        Owner { id: Some(account(self.tenant)), display_name: Some(self.name.to_string()) }
    }

    /// Somebody of the tenant as S3 shows who began an upload.
    pub(super) fn initiator(&self, principal: &str) -> Initiator {
        Initiator { id: Some(account(self.tenant)), display_name: Some(principal.to_owned()) }
    }
}

/// A tenant as an account number, which S3 has 12 digits for.
pub(super) fn account(tenant: TenantId) -> String {
    format!("{:012}", tenant.0)
}

/// The lane for so many bytes of payload.
pub(super) const fn lane_of(bytes: u64) -> Lane {
    if bytes > INTERACTIVE_BYTES_MAX { Lane::Bulk } else { Lane::Interactive }
}

const INTERACTIVE_BYTES_MAX: u64 = 64 << 10;
