//! Who may do what. Pure: a request and the settings in, a yes or a reason out.
//!
//! ```text
//! what is asked                                             needs        about
//! StripeOp::Read                                            read         binding.bucket_name
//! StripeOp::Write, Delete                                   write        binding.bucket_name
//! Query::{Object, List, Extents}                            read         the bucket's name
//! Query::{Upload, Uploads, Parts}                           read | write the bucket's name
//! Query::Bucket                                             any          the name asked for
//! Query::Buckets of the own tenant                          any          any bucket
//! ObjectCommand, all but SealBucket                         write        the bucket's name
//! ObjectCommand::SealBucket, BucketCommand::CreateBucket    admin        the bucket's name
//! BucketCommand::RemoveBucket                               admin        the name (looked up here before)
//! all else                                                  System only
//! ```
//!
//! What only the mesh asks is another kind of command, so nothing of it stands here. A bucket that is named by its number
//! alone and was not looked up here, for the chain was built anew since or has seen too many others, is not known: whoever
//! asks looks it up and asks again.
//!
//! `read | write`: an upload is seen by those who make it. Administrators of the cluster have no business with
//! tenants' data, and nobody is refused as anonymous.

use mesh_core::{
    Error, ErrorKind, Op, Principal, Request,
    id::TenantId,
    meta::{BucketCommand, BucketRef, Command, Grant, ObjectCommand, Query},
    op::{Permission, StripeOp},
    spec::PolicySpec,
};

use super::{is_control, names::Names};

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    One(Permission),
    ReadOrWrite,
    Any,
}

impl Need {
    const fn is_met_by(self, grant: &Grant) -> bool {
        match self {
            Self::One(Permission::Read) => grant.read,
            Self::One(Permission::Write) => grant.write,
            Self::One(Permission::Admin) => grant.admin,
            Self::ReadOrWrite => grant.read || grant.write,
            Self::Any => grant.read || grant.write || grant.admin,
        }
    }

    const fn verb(self) -> &'static str {
        match self {
            Self::One(Permission::Read) => "read",
            Self::One(Permission::Write) => "write",
            Self::One(Permission::Admin) => "make or delete",
            Self::ReadOrWrite => "see uploads in",
            Self::Any => "see",
        }
    }
}

/// What a request is about.
struct Subject<'a> {
    need: Need,
    /// `None`: all of the tenant's buckets.
    bucket: Option<&'a str>,
    /// Whose the request says the bucket is.
    tenant: TenantId,
}

/// Whether the request may go on.
///
/// # Errors
/// `Denied` with who, what and which bucket; `Unsupported` for what no data chain does.
pub(super) fn check(spec: &PolicySpec, names: &Names, request: &Request) -> Result<(), Error> {
    if matches!(request.op, Op::Object(_) | Op::Shard(_) | Op::Node(_)) {
        return Err(Error::new(ErrorKind::Unsupported, "a data chain takes stripes, queries and proposals"));
    }
    let name = match &request.principal {
        Principal::System => return check_system(spec, &request.op),
        Principal::User { tenant, name } if *tenant == spec.tenant => name,
        Principal::User { .. } => return Err(refusal(request, "the principal is of another tenant")),
        Principal::Admin { .. } => return Err(refusal(request, "an administrator has no access to tenants' data")),
        Principal::Anonymous => return Err(refusal(request, "nobody may do this without signing in")),
    };
    let Some(subject) = subject(spec, names, &request.op)? else {
        return Err(refusal(request, "this is for the mesh itself"));
    };
    let bucket = subject.bucket.unwrap_or("*");
    if subject.tenant != spec.tenant {
        return Err(refusal(request, "the bucket belongs to another tenant").with("bucket", bucket));
    }
    let grants = spec.principals.get(name).map_or(&[][..], Vec::as_slice);
    let covers = |grant: &Grant| subject.bucket.is_none_or(|bucket| grant.covers(bucket));
    if grants.iter().any(|grant| covers(grant) && subject.need.is_met_by(grant)) {
        return Ok(());
    }
    Err(refusal(request, "no grant of the principal allows this")
        .with("may_not", subject.need.verb())
        .with("bucket", bucket))
}

/// The mesh itself may do everything, to the data of this chain's tenant.
fn check_system(spec: &PolicySpec, op: &Op) -> Result<(), Error> {
    match op {
        Op::Stripe(op) if op.target().binding.tenant != spec.tenant => {
            Err(Error::new(ErrorKind::Denied, "the stripe belongs to another tenant than the chain")
                .with("tenant", op.target().binding.tenant)
                .with("chain", spec.tenant))
        }
        _ => Ok(()),
    }
}

fn refusal(request: &Request, why: &'static str) -> Error {
    Error::new(ErrorKind::Denied, why).with("principal", request.principal.name())
}

fn subject<'a>(spec: &PolicySpec, names: &'a Names, op: &'a Op) -> Result<Option<Subject<'a>>, Error> {
    Ok(match op {
        Op::Stripe(op) => {
            let binding = &op.target().binding;
            let permission = match **op {
                StripeOp::Read { .. } => Permission::Read,
                StripeOp::Write(_) | StripeOp::Delete { .. } => Permission::Write,
            };
            let bucket = Some(&*binding.bucket_name);
            Some(Subject { need: Need::One(permission), bucket, tenant: binding.tenant })
        }
        Op::Query { group, query } => of_query(spec, query).filter(|_| is_control(*group) == is_of_control(query)),
        Op::Propose(command) => of_command(spec, names, command)?,
        Op::Object(_) | Op::Shard(_) | Op::Node(_) => None,
    })
}

const fn is_of_control(query: &Query) -> bool {
    matches!(query, Query::Bucket { .. } | Query::Buckets { .. })
}

fn in_bucket(need: Need, bucket: &BucketRef) -> Subject<'_> {
    Subject { need, bucket: Some(&bucket.name), tenant: bucket.tenant }
}

fn of_query<'a>(spec: &PolicySpec, query: &'a Query) -> Option<Subject<'a>> {
    Some(match query {
        // Whose it is shows only in the answer, and is checked by who asked.
        Query::Bucket { name } => Subject { need: Need::Any, bucket: Some(name), tenant: spec.tenant },
        Query::Buckets { tenant } => Subject { need: Need::Any, bucket: None, tenant: *tenant },
        Query::Object { bucket, .. } | Query::List { bucket, .. } | Query::Extents { bucket, .. } => {
            in_bucket(Need::One(Permission::Read), bucket)
        }
        Query::Upload { bucket, .. } | Query::Uploads { bucket, .. } | Query::Parts { bucket, .. } => {
            in_bucket(Need::ReadOrWrite, bucket)
        }
        Query::Control
        | Query::Garbage { .. }
        | Query::Usage { .. }
        | Query::Referenced { .. }
        | Query::ClosedBlocks { .. }
        | Query::Owed { .. }
        | Query::Repair
        | Query::Uses { .. }
        | Query::Unsettled { .. }
        | Query::Drive { .. }
        | Query::Audit { .. }
        | Query::NoMember { .. } => return None,
    })
}

fn of_command<'a>(spec: &PolicySpec, names: &'a Names, command: &'a Command) -> Result<Option<Subject<'a>>, Error> {
    let admin = Need::One(Permission::Admin);
    Ok(match command {
        Command::Bucket(command) => match command {
            BucketCommand::CreateBucket { name, tenant, .. } => {
                Some(Subject { need: admin, bucket: Some(name), tenant: *tenant })
            }
            // Only this tenant's buckets are remembered.
            BucketCommand::RemoveBucket { bucket } => {
                let unknown = || {
                    Error::new(ErrorKind::NoSuchBucket, "no such bucket was looked up here; look it up and ask again")
                        .with("bucket", bucket)
                };
                let name = names.find(*bucket).ok_or_else(unknown)?;
                Some(Subject { need: admin, bucket: Some(name), tenant: spec.tenant })
            }
        },
        Command::Object(bucket, command) => match command {
            ObjectCommand::PutObject { .. }
            | ObjectCommand::DeleteObject { .. }
            | ObjectCommand::CreateUpload { .. }
            | ObjectCommand::PutPart { .. }
            | ObjectCommand::CompleteUpload { .. }
            | ObjectCommand::AbortUpload { .. } => Some(in_bucket(Need::One(Permission::Write), bucket)),
            ObjectCommand::SealBucket { .. } => Some(in_bucket(admin, bucket)),
        },
        Command::Mesh(_) | Command::Ordered { .. } | Command::Upkeep(..) | Command::OpenSession { .. } => None,
    })
}
