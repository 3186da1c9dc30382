//! Multipart uploads: CreateMultipartUpload, CompleteMultipartUpload, AbortMultipartUpload, ListMultipartUploads.
//!
//! What checksum an upload's object will have is decided when it is begun. It is kept as a [`Plan`] in the place of the
//! checksum itself: `crc32: COMPOSITE` until Complete, `crc32: <value>` after.

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Answer,
    id::WriteId,
    limits::{LIST_KEYS_MAX, PARTS_MAX},
    meta::{Attributes, PartRow, UploadRow},
    op::ObjectOp,
};
use s3s::{
    S3ErrorCode, S3Request, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumAlgorithm, ChecksumType,
        CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart, CreateMultipartUploadInput,
        CreateMultipartUploadOutput, ETag, ListMultipartUploadsInput, ListMultipartUploadsOutput, MultipartUpload,
    },
    s3_error,
};

use super::{
    attributes::given,
    caller::Caller,
    conditions,
    digest::{Algorithm, Scope, to_dto, whole},
    error::strange,
    gateway::{Gateway, key_of, new_key_of},
    list::{Spelling, page_size, prefixes},
    parts::{part_number, upload_of},
    text::{timestamp, upload_from_text, upload_text},
};

/// What checksum an upload's object will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) algorithm: Algorithm,
    pub(super) scope: Scope,
}

impl Plan {
    /// As a client asks for it, with S3's defaults.
    ///
    /// # Errors
    /// `InvalidRequest` for a combination that S3 does not have.
    fn read(algorithm: Option<&ChecksumAlgorithm>, scope: Option<&ChecksumType>) -> S3Result<Option<Self>> {
        let Some(algorithm) = algorithm else {
            return match scope {
                None => Ok(None),
                Some(_) => Err(s3_error!(InvalidRequest, "x-amz-checksum-type needs x-amz-checksum-algorithm")),
            };
        };
        let algorithm = Algorithm::from_name(algorithm.as_str())?;
        let scope = match (algorithm, scope.map(ChecksumType::as_str)) {
            (Algorithm::Crc64Nvme, None | Some(ChecksumType::FULL_OBJECT))
            | (Algorithm::Crc32 | Algorithm::Crc32c, Some(ChecksumType::FULL_OBJECT)) => Scope::Full,
            (Algorithm::Crc64Nvme, _) | (_, Some(ChecksumType::FULL_OBJECT)) => {
                return Err(s3_error!(InvalidRequest, "{} does not have that checksum type", algorithm.s3_name()));
            }
            (_, None | Some(ChecksumType::COMPOSITE)) => Scope::Composite,
            (_, Some(other)) => return Err(s3_error!(InvalidRequest, "there is no checksum type {other}")),
        };
        Ok(Some(Self { algorithm, scope }))
    }

    /// As an upload's row keeps it.
    pub(super) fn of(attributes: &Attributes) -> Option<Self> {
        Algorithm::ALL.into_iter().find_map(|algorithm| {
            let scope = attributes.checksums.get(algorithm.name())?;
            let scope = [Scope::Full, Scope::Composite].into_iter().find(|one| one.s3_name() == scope)?;
            Some(Self { algorithm, scope })
        })
    }

    fn keep(self, attributes: &mut Attributes) {
        attributes.checksums.insert(self.algorithm.name().to_owned(), self.scope.s3_name().to_owned());
    }
}

pub(super) async fn create_multipart_upload(
    gateway: &Gateway,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<CreateMultipartUploadOutput> {
    let S3Request { mut input, headers, credentials, mut extensions, .. } = request;
    let caller = gateway.caller(credentials.as_ref(), &headers)?;
    let plan = Plan::read(input.checksum_algorithm.as_ref(), input.checksum_type.as_ref())?;
    let mut attributes = given!(input, extensions).into_attributes()?;
    if let Some(plan) = plan {
        plan.keep(&mut attributes);
    }
    let (bucket, key) = (input.bucket.as_str().into(), new_key_of(&input.key)?);
    let Answer::Upload(row) = caller.answer(ObjectOp::CreateUpload { bucket, key, attributes }).await? else {
        return Err(strange("CreateUpload"));
    };
    Ok(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(upload_text(row.upload)),
        checksum_algorithm: plan.map(|plan| ChecksumAlgorithm::from_static(plan.algorithm.s3_name())),
        checksum_type: plan.map(|plan| ChecksumType::from_static(plan.scope.s3_name())),
        ..Default::default()
    })
}

pub(super) async fn complete_multipart_upload(
    gateway: &Gateway,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<CompleteMultipartUploadOutput> {
    let S3Request { input, headers, credentials, .. } = request;
    let caller = gateway.caller(credentials.as_ref(), &headers)?;
    let (bucket, key): (Arc<str>, _) = (input.bucket.as_str().into(), key_of(&input.key)?);
    let upload = upload_of(&input.upload_id)?;
    let claimed = Claimed::read(&input)?;
    let named = named_parts(input.multipart_upload.and_then(|list| list.parts).unwrap_or_default())?;
    let checksums = match caller.upload(&bucket, &key, upload).await {
        Ok(row) => {
            let stored = stored_parts(&caller, &bucket, upload).await?;
            claimed.check(&row, &named, &stored)?
        }
        // It may have been completed by this request's first sending: Object knows, and answers as it did then.
        Err(error) if *error.code() == S3ErrorCode::NoSuchUpload => BTreeMap::new(),
        Err(error) => return Err(error),
    };
    let (if_match, if_none_match) = (input.if_match.as_ref(), input.if_none_match.as_ref());
    let precondition = conditions::for_write(&caller, &bucket, &key, if_match, if_none_match).await?;
    let sums = to_dto(&checksums);
    let parts = named.into_iter().map(|part| (part.number, part.etag)).collect();
    let complete = ObjectOp::CompleteUpload { bucket, key, upload, parts, checksums, precondition };
    let Answer::Committed { etag, .. } = caller.answer(complete).await? else {
        return Err(strange("CompleteUpload"));
    };
    Ok(CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", input.bucket, super::text::percent(&input.key))),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: Some(ETag::Strong(etag)),
        checksum_crc32: sums.checksum_crc32,
        checksum_crc32c: sums.checksum_crc32c,
        checksum_crc64nvme: sums.checksum_crc64nvme,
        checksum_sha1: sums.checksum_sha1,
        checksum_sha256: sums.checksum_sha256,
        checksum_type: sums.checksum_type,
        ..Default::default()
    })
}

/// A part as a client names it in Complete.
struct Named {
    number: u32,
    etag: String,
    sums: BTreeMap<Algorithm, String>,
}

fn named_parts(parts: Vec<CompletedPart>) -> S3Result<Vec<Named>> {
    if parts.is_empty() || parts.len() > PARTS_MAX as usize {
        return Err(s3_error!(MalformedXML, "You must specify at least one part, and at most {PARTS_MAX}"));
    }
    let named: Vec<Named> = parts
        .into_iter()
        .map(|part| {
            let number = part.part_number.ok_or_else(|| s3_error!(MalformedXML, "a part has no number"))?;
            let etag = part.e_tag.ok_or_else(|| s3_error!(MalformedXML, "a part has no ETag"))?;
            let sums = [
                (Algorithm::Crc32, part.checksum_crc32),
                (Algorithm::Crc32c, part.checksum_crc32c),
                (Algorithm::Crc64Nvme, part.checksum_crc64nvme),
                (Algorithm::Sha1, part.checksum_sha1),
                (Algorithm::Sha256, part.checksum_sha256),
            ];
            let sums = sums.into_iter().filter_map(|(one, sum)| Some((one, sum?))).collect();
            Ok(Named { number: part_number(number)?, etag: etag.into_value(), sums })
        })
        .collect::<S3Result<_>>()?;
    if named.windows(2).any(|pair| pair[0].number >= pair[1].number) {
        return Err(s3_error!(InvalidPartOrder, "The list of parts was not in ascending order."));
    }
    Ok(named)
}

/// All parts of an upload: at most `PARTS_MAX` small rows.
async fn stored_parts(caller: &Caller, bucket: &Arc<str>, upload: WriteId) -> S3Result<BTreeMap<u32, Arc<PartRow>>> {
    let mut stored = BTreeMap::new();
    let mut after = 0;
    loop {
        let (page, more) = caller.parts(bucket, upload, after, LIST_KEYS_MAX as u32).await?;
        let last = page.last().map(|row| row.number);
        stored.extend(page.into_iter().map(|row| (row.number, row)));
        match last {
            Some(last) if more && last > after => after = last,
            _ => return Ok(stored),
        }
    }
}

/// What a client says of the object that Complete makes.
#[derive(Debug, Default)]
struct Claimed {
    sums: BTreeMap<Algorithm, String>,
    scope: Option<String>,
    len: Option<u64>,
}

impl Claimed {
    fn read(input: &CompleteMultipartUploadInput) -> S3Result<Self> {
        let sums = [
            (Algorithm::Crc32, &input.checksum_crc32),
            (Algorithm::Crc32c, &input.checksum_crc32c),
            (Algorithm::Crc64Nvme, &input.checksum_crc64nvme),
            (Algorithm::Sha1, &input.checksum_sha1),
            (Algorithm::Sha256, &input.checksum_sha256),
        ];
        let len = input.mpu_object_size.map(u64::try_from).transpose();
        Ok(Self {
            sums: sums.into_iter().filter_map(|(one, sum)| Some((one, sum.clone()?))).collect(),
            scope: input.checksum_type.as_ref().map(|scope| scope.as_str().to_owned()),
            len: len.map_err(|_| s3_error!(InvalidRequest, "x-amz-mp-object-size is 0 or more"))?,
        })
    }

    /// Compares with what is stored, and gives the checksums of the object.
    ///
    /// # Errors
    /// `InvalidPart`, `BadDigest`, `InvalidRequest`.
    fn check(
        &self,
        row: &UploadRow,
        named: &[Named],
        stored: &BTreeMap<u32, Arc<PartRow>>,
    ) -> S3Result<BTreeMap<String, String>> {
        let mut parts = Vec::with_capacity(named.len());
        for part in named {
            let row = stored.get(&part.number).filter(|row| row.etag == part.etag);
            let row = row
                .ok_or_else(|| s3_error!(InvalidPart, "part {} was not uploaded, or its ETag differs", part.number))?;
            let differs =
                |(one, sum): (&Algorithm, &String)| row.checksums.get(one.name()).is_some_and(|stored| stored != sum);
            if part.sums.iter().any(differs) {
                return Err(s3_error!(InvalidPart, "the checksum of part {} differs", part.number));
            }
            parts.push(row);
        }
        let len: u64 = parts.iter().map(|row| row.extent.len).sum();
        if self.len.is_some_and(|claimed| claimed != len) {
            return Err(s3_error!(InvalidRequest, "The parts have {len} bytes together, not x-amz-mp-object-size"));
        }
        // An upload without a plan has parts with S3's default checksum.
        let plan = Plan::of(&row.attributes).unwrap_or(Plan { algorithm: Algorithm::Crc64Nvme, scope: Scope::Full });
        if self.scope.as_deref().is_some_and(|scope| scope != plan.scope.s3_name()) {
            return Err(s3_error!(InvalidRequest, "the upload was begun with another checksum type"));
        }
        let sums: Option<Vec<_>> = parts
            .iter()
            .map(|row| Some((row.checksums.get(plan.algorithm.name())?.as_str(), row.extent.len)))
            .collect();
        let whole = sums.and_then(|sums| whole(plan.algorithm, plan.scope, sums.into_iter()));
        for (one, claimed) in &self.sums {
            // A composite may be claimed with or without its count.
            let same =
                |whole: &String| whole == claimed || whole.split_once('-').is_some_and(|(plain, _)| plain == claimed);
            if *one == plan.algorithm && !whole.as_ref().is_some_and(same) {
                return Err(s3_error!(
                    BadDigest,
                    "The {} you specified did not match the calculated checksum.",
                    one.s3_name()
                ));
            }
        }
        Ok(whole.into_iter().map(|sum| (plan.algorithm.name().to_owned(), sum)).collect())
    }
}

pub(super) async fn abort_multipart_upload(
    gateway: &Gateway,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<AbortMultipartUploadOutput> {
    let S3Request { input, headers, credentials, .. } = request;
    let caller = gateway.caller(credentials.as_ref(), &headers)?;
    let bucket: Arc<str> = input.bucket.as_str().into();
    let upload = upload_of(&input.upload_id)?;
    caller.upload(&bucket, &input.key, upload).await?;
    caller.done(ObjectOp::AbortUpload { bucket, upload }).await?;
    Ok(AbortMultipartUploadOutput::default())
}

pub(super) async fn list_multipart_uploads(
    gateway: &Gateway,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<ListMultipartUploadsOutput> {
    let S3Request { input, headers, credentials, .. } = request;
    let caller = gateway.caller(credentials.as_ref(), &headers)?;
    let spelling = Spelling::of(input.encoding_type.as_ref())?;
    let limit = page_size(input.max_uploads, LIST_KEYS_MAX)?;
    let bucket: Arc<str> = input.bucket.as_str().into();
    let prefix = input.prefix.clone().unwrap_or_default();
    let key_marker = input.key_marker.clone().unwrap_or_default();
    let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
    let mut rolled = RolledUp::new(prefix.clone(), delimiter, &key_marker, limit);
    let mut after = match input.upload_id_marker.as_deref().filter(|marker| !marker.is_empty()) {
        _ if key_marker.is_empty() => None,
        Some(marker) => Some((key_marker.clone(), upload_from_text(marker).unwrap_or(WriteId(u64::MAX)))),
        None => Some((key_marker.clone(), WriteId(u64::MAX))),
    };
    let mut truncated = false;
    if limit == 0 {
        caller.bucket(&bucket).await?;
    }
    // A delimiter is ours to apply. The pages that one request reads for it are bounded: a client goes on from where
    // they end.
    for page in 0.. {
        if limit == 0 {
            break;
        }
        let op = ObjectOp::ListUploads {
            bucket: bucket.clone(),
            prefix: prefix.clone(),
            after: after.clone(),
            limit: LIST_KEYS_MAX as u32,
        };
        let Answer::Uploads(rows, more) = caller.answer(op).await? else { return Err(strange("ListUploads")) };
        let full = rows.iter().any(|row| {
            let taken = rolled.take(row);
            if taken {
                after = Some((row.key.clone(), row.upload));
            }
            !taken
        });
        truncated = full || more;
        if full || !more || page == ROLL_UP_PAGES_MAX {
            break;
        }
    }
    let next = after.filter(|_| truncated);
    let uploads = rolled.uploads.iter().map(|row| {
        let plan = Plan::of(&row.attributes);
        MultipartUpload {
            checksum_algorithm: plan.map(|plan| ChecksumAlgorithm::from_static(plan.algorithm.s3_name())),
            checksum_type: plan.map(|plan| ChecksumType::from_static(plan.scope.s3_name())),
            initiated: Some(timestamp(row.created)),
            initiator: Some(caller.initiator(&row.principal)),
            key: Some(spelling.write(row.key.clone())),
            owner: Some(caller.owner()),
            storage_class: None,
            upload_id: Some(upload_text(row.upload)),
        }
    });
    Ok(ListMultipartUploadsOutput {
        uploads: Some(uploads.collect()),
        common_prefixes: Some(prefixes(rolled.prefixes, spelling)),
        bucket: Some(input.bucket),
        delimiter: input.delimiter.map(|delimiter| spelling.write(delimiter)),
        encoding_type: input.encoding_type,
        is_truncated: Some(truncated),
        key_marker: Some(spelling.write(key_marker)),
        max_uploads: i32::try_from(limit).ok(),
        next_key_marker: next.as_ref().map(|(key, _)| spelling.write(key.clone())),
        next_upload_id_marker: next.map(|(_, upload)| upload_text(upload)),
        prefix: Some(spelling.write(prefix)),
        upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
        ..Default::default()
    })
}

/// Uploads of a page, those with the delimiter in their keys rolled up.
struct RolledUp {
    prefix: String,
    delimiter: Option<String>,
    /// The group that an earlier page ended in: it was told there.
    told: Option<String>,
    limit: usize,
    uploads: Vec<Arc<UploadRow>>,
    prefixes: Vec<String>,
}

impl RolledUp {
    fn new(prefix: String, delimiter: Option<String>, after: &str, limit: usize) -> Self {
        let mut this = Self { prefix, delimiter, told: None, limit, uploads: Vec::new(), prefixes: Vec::new() };
        this.told = this.group(after);
        this
    }

    /// The common prefix that a key belongs to.
    fn group(&self, key: &str) -> Option<String> {
        let delimiter = self.delimiter.as_deref()?;
        let rest = key.strip_prefix(&self.prefix)?;
        let at = rest.find(delimiter)?;
        Some(key[..self.prefix.len() + at + delimiter.len()].to_owned())
    }

    /// Takes the next upload in order; `false` if the page is full.
    fn take(&mut self, row: &Arc<UploadRow>) -> bool {
        let group = self.group(&row.key);
        if group.is_some() && (group == self.told || group.as_ref() == self.prefixes.last()) {
            return true;
        }
        if self.uploads.len() + self.prefixes.len() == self.limit {
            return false;
        }
        match group {
            Some(group) => self.prefixes.push(group),
            None => self.uploads.push(row.clone()),
        }
        true
    }
}

/// Pages of uploads that one request rolls up at most.
const ROLL_UP_PAGES_MAX: u32 = 16;

#[cfg(test)]
#[path = "multipart_tests.rs"]
mod tests;
