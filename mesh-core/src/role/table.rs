//! The table itself. A change of it shows in `transport/tests/roles.txt`.

use super::{Class, May, kind::Kind};

macro_rules! table {
    ($($kind:ident $name:literal $host:ident $dpu:ident $admin:ident $user:ident)*) => {
        impl Kind {
            /// Every row.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The name for people.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// Whether a class may ask it.
            #[must_use]
            pub const fn may(self, class: Class) -> May {
                let (host, dpu, admin, user) = match self {
                    $(Self::$kind => (May::$host, May::$dpu, May::$admin, May::$user),)*
                };
                match class {
                    Class::Host => host,
                    Class::Dpu => dpu,
                    Class::Admin => admin,
                    Class::User => user,
                }
            }
        }
    };
}

table! {
    //                                                       host dpu admin user
    // An ingress asks these of its own chains; over a link they come from clients. Tenants' data are no administrator's business.
    ObjectCreateBucket      "object create-bucket"           No   No  No   Own
    ObjectDeleteBucket      "object delete-bucket"           No   No  No   Own
    ObjectHeadBucket        "object head-bucket"             No   No  No   Own
    ObjectListBuckets       "object list-buckets"            No   No  No   Own
    ObjectBegin             "object begin"                   No   No  No   Own
    ObjectAppend            "object append"                  No   No  No   Own
    ObjectFinish            "object finish"                  No   No  No   Own
    ObjectAbort             "object abort"                   No   No  No   Own
    ObjectHead              "object head"                    No   No  No   Own
    ObjectPlan              "object plan"                    No   No  No   Own
    ObjectRead              "object read"                    No   No  No   Own
    ObjectDelete            "object delete"                  No   No  No   Own
    ObjectList              "object list"                    No   No  No   Own
    ObjectCreateUpload      "object create-upload"           No   No  No   Own
    ObjectHeadUpload        "object head-upload"             No   No  No   Own
    ObjectListParts         "object list-parts"              No   No  No   Own
    ObjectListUploads       "object list-uploads"            No   No  No   Own
    ObjectCompleteUpload    "object complete-upload"         No   No  No   Own
    ObjectAbortUpload       "object abort-upload"            No   No  No   Own
    ObjectCreateBucketWith  "object create-bucket-with"      No   No  No   Own

    // A host's ingress sends stripes to its chains wherever they run. A DPU has no ingress.
    StripeWrite             "stripe write"                   Yes  No  No   No
    StripeRead              "stripe read"                    Yes  No  No   No
    StripeDelete            "stripe delete"                  Yes  No  No   No

    // A chain's end stores, reads and deletes; what looks through drives is the hosts'.
    ShardWrite              "shard write"                    Yes  Yes No   No
    ShardRead               "shard read"                     Yes  Yes No   No
    ShardDelete             "shard delete"                   Yes  Yes No   No
    ShardList               "shard list"                     Yes  No  No   No
    ShardStat               "shard stat"                     Yes  No  No   No
    ShardDamaged            "shard damaged"                  Yes  No  No   No
    ShardScrub              "shard scrub"                    Yes  No  No   No

    // A chain's policy asks what its tenant's requests need. That a bucket's name is taken shows to everybody.
    QueryBucket             "query bucket"                   Yes  Yes No   No
    QueryBuckets            "query buckets"                  Yes  Own No   No
    QueryControl            "query control"                  Yes  No  No   No
    QueryObject             "query object"                   Yes  Own No   No
    QueryList               "query list"                     Yes  Own No   No
    QueryUpload             "query upload"                   Yes  Own No   No
    QueryUploads            "query uploads"                  Yes  Own No   No
    QueryParts              "query parts"                    Yes  Own No   No
    QueryExtents            "query extents"                  Yes  Own No   No
    QueryGarbage            "query garbage"                  Yes  No  No   No
    QueryUsage              "query usage"                    Yes  No  No   No
    QueryReferenced         "query referenced"               Yes  No  No   No
    QueryClosedBlocks       "query closed-blocks"            Yes  No  No   No
    QueryOwed               "query owed"                     Yes  No  No   No
    QueryDrive              "query drive"                    Yes  No  No   No
    QueryRepair             "query repair"                   Yes  No  No   No
    QueryUses               "query uses"                     Yes  No  No   No
    QueryUnsettled          "query unsettled"                Yes  No  No   No
    QueryNoMember           "query no-member"                Yes  No  No   No
    QueryAudit              "query audit"                    Yes  No  No   No

    // A name is taken away only of what its group has sealed, which nothing undoes.
    CreateBucket            "propose create-bucket"          Yes  Own No   No
    RemoveBucket            "propose remove-bucket"          Yes  Yes No   No
    PutObject               "propose put-object"             Yes  Own No   No
    DeleteObject            "propose delete-object"          Yes  Own No   No
    CreateUpload            "propose create-upload"          Yes  Own No   No
    PutPart                 "propose put-part"               Yes  Own No   No
    CompleteUpload          "propose complete-upload"        Yes  Own No   No
    AbortUpload             "propose abort-upload"           Yes  Own No   No
    SealBucket              "propose seal-bucket"            Yes  Own No   No
    OpenSession             "propose open-session"           Yes  No  No   No

    OpenBlock               "propose open-block"             Yes  No  No   No
    CloseBlock              "propose close-block"            Yes  No  No   No
    SweptBlock              "propose swept-block"            Yes  No  No   No
    DropGarbage             "propose drop-garbage"           Yes  No  No   No
    OweGarbage              "propose owe-garbage"            Yes  No  No   No
    PayOwed                 "propose pay-owed"               Yes  No  No   No
    BeginRepair             "propose begin-repair"           Yes  No  No   No
    EndRepair               "propose end-repair"             Yes  No  No   No
    Repaired                "propose repaired"               Yes  No  No   No
    Counted                 "propose counted"                Yes  No  No   No

    Form                    "propose form"                   Yes  No  No   No
    PutNode                 "propose put-node"               Yes  Own No   No
    Invite                  "propose invite"                 Yes  No  No   No
    Drain                   "propose drain"                  Yes  No  No   No
    PutDrive                "propose put-drive"              Yes  No  No   No
    TakeDrive               "propose take-drive"             Yes  No  No   No
    LoseDrive               "propose lose-drive"             Yes  No  No   No
    PutLayout               "propose put-layout"             Yes  No  No   No
    CreateTenant            "propose create-tenant"          Yes  No  No   No
    SetLimits               "propose set-limits"             Yes  No  No   No
    PutPrincipal            "propose put-principal"          Yes  No  No   No
    PutAccessKey            "propose put-access-key"         Yes  No  No   No
    DropAccessKey           "propose drop-access-key"        Yes  No  No   No
    Assign                  "propose assign"                 Yes  No  No   No
    BeginMove               "propose begin-move"             Yes  No  No   No
    CommitMove              "propose commit-move"            Yes  No  No   No
    AbortMove               "propose abort-move"             Yes  Own No   No
    SetTail                 "propose set-tail"               Yes  No  No   No
    SetWish                 "propose set-wish"               Yes  No  No   No
    SetStages               "propose set-stages"             Yes  No  No   No
    RaiseLevel              "propose raise-level"            Yes  No  No   No
    DrainDrive              "propose drain-drive"            Yes  No  No   No
    PutOut                  "propose put-out"                Yes  No  No   No
    RemoveDrive             "propose remove-drive"           Yes  No  No   No
    LeaveNode               "propose leave-node"             Yes  No  No   No
    RemoveNode              "propose remove-node"            Yes  No  No   No
    FencedNode              "propose fenced-node"            Yes  No  No   No
    DropPrincipal           "propose drop-principal"         Yes  No  No   No
    RotateKey               "propose rotate-key"             Yes  No  No   No
    // Who leads the control group judges what is ordered, and proposes it itself.
    Noted                   "propose noted"                  No   No  No   No
    ForgetAudit             "propose forget-audit"           No   No  No   No
    Ordered                 "propose ordered"                No   No  No   No
    EndTenant               "propose end-tenant"             No   No  No   No
    // Who leads the control group does away with what tenants leave, wherever it is.
    DropTenant              "propose drop-tenant"            Yes  No  No   No
    EmptyBucket             "propose empty-bucket"           Yes  No  No   No

    // A DPU follows the control group and answers who leads it; it has nothing to say there.
    Raft                    "node raft"                      Yes  No  No   No
    Beat                    "node beat"                      Own  Own No   No
    Status                  "node status"                    Yes  No  Yes  Own
    StatusPage              "node status-page"               Yes  No  Yes  Own
    // A DPU reaches groups by way of the hosts that it knows; what it asks of them is what counts.
    RelayQuery              "node relay-query"               Yes  Yes No   No
    RelayPropose            "node relay-propose"             Yes  Yes No   No

    // The controller is a host; from one node of a move to the other only pages go.
    MoveWarm                "node move warm"                 Yes  No  No   No
    MovePreCopy             "node move pre-copy"             Yes  No  No   No
    MoveFreeze              "node move freeze"               Yes  No  No   No
    MoveInstall             "node move install"              Yes  Own No   No
    MoveActivate            "node move activate"             Yes  No  No   No
    MoveRetire              "node move retire"               Yes  No  No   No
    MoveThaw                "node move thaw"                 Yes  No  No   No
    MoveDiscard             "node move discard"              Yes  No  No   No

    // Whoever is asked passes it on to who leads.
    AdminPlan               "admin plan"                     Yes  No  Yes  No
    AdminPlanPage           "admin plan-page"                Yes  No  Yes  No
    AdminWish               "admin wish"                     Yes  No  Yes  No
    AdminDrain              "admin drain"                    Yes  No  Yes  No
    AdminEvents             "admin events"                   Yes  No  Yes  No
    AdminStages             "admin stages"                   Yes  No  Yes  No
    AdminInvite             "admin invite"                   Yes  No  Yes  No
    AdminLoseDrive          "admin lose-drive"               Yes  No  Yes  No
    AdminRepair             "admin repair"                   Yes  No  Yes  No
    AdminScrub              "admin scrub"                    Yes  No  Yes  No
    AdminDrainDrive         "admin drain-drive"              Yes  No  Yes  No
    AdminRemoveDrive        "admin remove-drive"             Yes  No  Yes  No
    AdminLeaveNode          "admin leave-node"               Yes  No  Yes  No
    AdminRemoveNode         "admin remove-node"              Yes  No  Yes  No
    AdminAddDrive           "admin add-drive"                Yes  No  Yes  No
    AdminReplaceDrive       "admin replace-drive"            Yes  No  Yes  No
    AdminOpenDrive          "admin open-drive"               Yes  No  No   No
    AdminRecover            "admin recover"                  Yes  No  Yes  No
    AdminReplicas           "admin replicas"                 Yes  No  No   No
    AdminForce              "admin force"                    Yes  No  No   No
    AdminBackup             "admin backup"                   Yes  No  Yes  No
    AccessTenants           "admin access tenants"           Yes  No  Yes  No
    AccessCreateTenant      "admin access create-tenant"     Yes  No  Yes  No
    AccessLimit             "admin access limit"             Yes  No  Yes  No
    AccessUsage             "admin access usage"             Yes  No  Yes  No
    AccessUsers             "admin access users"             Yes  No  Yes  No
    AccessCreateKey         "admin access create-key"        Yes  No  Yes  No
    AccessGrant             "admin access grant"             Yes  No  Yes  No
    AccessRevokeKey         "admin access revoke-key"        Yes  No  Yes  No
    AccessDropUser          "admin access drop-user"         Yes  No  Yes  No
    AccessRotateKey         "admin access rotate-key"        Yes  No  Yes  No
    AuditPage               "admin audit page"               Yes  No  Yes  No
    AuditForget             "admin audit forget"             Yes  No  Yes  No
    AccessDeleteTenant      "admin access delete-tenant"     Yes  No  Yes  No
    AdminFigures            "admin figures"                  Yes  No  Yes  No
}
