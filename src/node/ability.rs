//! What this node can run, what that costs here, and what it has used.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use mesh_actors::{policy::Policy, registry::Registry};
use mesh_core::{
    Cx, Error, Event, Op, Principal, Request, StorageFunction as _, Tokens,
    bluefield::Generation,
    id::{GroupId, TenantId},
    meta::{Grant, Query, TenantLimits},
    op::{Ability, NodeLoad},
    spec::PolicySpec,
    time::{Instant, UnixMillis},
};
use mesh_dpu_runtime::{
    calibrate::{Bench, Calibration, Fixed, Origin, fingerprint},
    load::Load,
    offload::software::Software,
    profile::cpu_quota,
};

use crate::{
    config::Config,
    env::{Env, Machine},
};

/// The kinds of function that this build has and the configuration allows, with what they cost on this machine: measured
/// at the first start and kept in the data folder.
///
/// # Errors
/// If the back end cannot do its own work.
pub(super) fn of(config: &Config, env: &Env, registry: &Registry) -> Result<Ability, Error> {
    let allowed = |kind: &str| config.functions.as_ref().is_none_or(|allowed| allowed.iter().any(|one| one == kind));
    let costs = if env.calibrates { costs(&config.data, env)? } else { Calibration::default() };
    let cost = |kind: &str| costs.function(kind).map_or((0, 0), |cost| (cost.ns_per_request, cost.ps_per_byte));
    let kinds = registry.kinds().filter(|kind| allowed(kind));
    Ok(Ability {
        functions: kinds.map(|kind| (kind.to_owned(), cost(kind))).collect(),
        millicores: millicores(config, env.machine.cores()),
        memory_bytes: config.memory.map_or_else(|| memory_bytes(config, env.machine.memory_bytes()), |memory| memory.0),
    })
}

fn costs(folder: &Path, env: &Env) -> Result<Calibration, Error> {
    let decide = policy();
    let mut entropy = (env.entropy)();
    let mut bench = Bench {
        backend: &|keys, pool| Box::new(Software::new(keys, pool)),
        clock: &|| env.machine.thread_cpu(),
        entropy: &mut *entropy,
        fixed: vec![Fixed { name: "policy", run: Box::new(decide) }],
    };
    let machine = fingerprint(Path::new("/"), "software");
    let (costs, origin) = Calibration::load_or_measure(folder, machine, &mut bench)?;
    if let Origin::Measured { because, not_kept } = origin {
        tracing::debug!(%because, "what functions cost here was measured");
        if let Some(error) = not_kept {
            tracing::warn!(%error, "what functions cost here cannot be kept; it is measured at every start");
        }
    }
    Ok(costs)
}

/// One decision of Policy and the end of its request.
fn policy() -> impl FnMut() {
    let tenant = TenantId(1);
    let name: Arc<str> = "somebody".into();
    let principals = BTreeMap::from([(name.clone(), vec![Grant::all()])]);
    let mut policy = Policy::new(PolicySpec { tenant, principals, limits: TenantLimits::default() });
    let (mut tokens, mut effects) = (Tokens::default(), Vec::new());
    let query = Arc::new(Query::Buckets { tenant });
    move || {
        let op = Op::Query { group: GroupId::CONTROL, query: query.clone() };
        let principal = Principal::User { tenant, name: name.clone() };
        let request = Request { principal, ..Request::system(op, Instant::NEVER) };
        let id = tokens.next();
        let mut silence = Silence;
        let mut cx = Cx::new(Instant(1), UnixMillis(1), &mut effects, &mut tokens, &mut silence);
        policy.on_event(Event::Request { id, request }, &mut cx);
        if let Some(mesh_core::Effect::Call { call, .. }) = effects.pop() {
            let mut cx = Cx::new(Instant(1), UnixMillis(1), &mut effects, &mut tokens, &mut silence);
            policy.on_event(Event::Reply { call, outcome: Ok(mesh_core::Answer::Done.into()) }, &mut cx);
        }
        effects.clear();
    }
}

/// Policy draws nothing.
struct Silence;

impl mesh_core::Entropy for Silence {
    fn fill(&mut self, target: &mut [u8]) {
        target.fill(0);
    }
}

/// What the process may use of the CPU: of an emulated DPU its share, else all that it is not kept from.
fn millicores(config: &Config, cores: usize) -> u32 {
    let thousandths = match emulated(config) {
        Some(generation) => {
            let quota = cpu_quota(&generation.profile(), cores);
            quota.quota_us * 1000 / quota.period_us.max(1)
        }
        None => cores as u64 * 1000,
    };
    u32::try_from(thousandths).unwrap_or(u32::MAX)
}

/// Half of what the machine has, and of an emulated DPU no more than half of what such a one has; the other half is for
/// everybody else. Unknown: 1 GiB.
fn memory_bytes(config: &Config, present: Option<u64>) -> u64 {
    let present = present.unwrap_or(2 << 30);
    let stood_for = emulated(config).map_or(u64::MAX, |generation| generation.profile().memory_for_actors());
    (present / 2).min(stood_for)
}

fn emulated(config: &Config) -> Option<Generation> {
    config.dpu.as_ref()?.emulated
}

/// What the process has used, and its functions.
pub(super) fn load(counted: &Load, machine: &dyn Machine) -> NodeLoad {
    let report = counted.report(machine.used());
    let functions = report.functions.into_iter();
    NodeLoad {
        cpu_ns: report.process.cpu_ns,
        resident_bytes: report.process.resident_bytes,
        functions: functions.map(|(kind, one)| (kind, [one.requests, one.bytes, one.cpu_ns, one.queued])).collect(),
    }
}
