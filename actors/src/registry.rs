//! From a spec to a function: the one place that knows every kind.

use mesh_core::{Chain, Error, Pool, StorageFunction, port::Geometry, spec::FunctionSpec};

use crate::{drive::Drive, encrypt::Encrypt, erasure::Erasure, object::Object, policy::Policy};

/// The kinds that this build has, by the names that `FunctionSpec::name` gives them.
pub const KINDS: [&str; 5] = ["policy", "object", "encrypt", "erasure", "drive"];

/// What a node gives the functions that it hosts, beside their spec.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Where payload memory comes from.
    pub pool: Pool,
    /// The medium of the actor's drive; `None`: the actor has none.
    pub geometry: Option<Geometry>,
}

/// Makes the function of a spec.
///
/// # Errors
/// `Unsupported` for a kind that this build does not have; `Invalid` for an empty chain, one that is too long, or a
/// drive without a medium: the spec is wrong.
pub fn build(spec: &FunctionSpec, parts: &Parts) -> Result<Box<dyn StorageFunction>, Error> {
    match spec {
        FunctionSpec::Chain(stages) => {
            if stages.is_empty() || stages.len() > mesh_core::limits::CHAIN_STAGES_MAX {
                return Err(Error::invalid("a chain has between one stage and the limit")
                    .with("stages", stages.len())
                    .with("limit", mesh_core::limits::CHAIN_STAGES_MAX));
            }
            let stages = stages.iter().map(|stage| build(stage, parts)).collect::<Result<_, _>>()?;
            Ok(Box::new(Chain::new(stages)))
        }
        FunctionSpec::Policy(spec) => Ok(Box::new(Policy::new(spec.clone()))),
        FunctionSpec::Object(spec) => Ok(Box::new(Object::new(spec.clone()))),
        FunctionSpec::Drive(_) if parts.geometry.is_none() => {
            Err(Error::invalid("a drive needs a medium, and this actor has none"))
        }
        FunctionSpec::Encrypt(spec) => Ok(Box::new(Encrypt::new(spec.clone()))),
        FunctionSpec::Erasure(spec) => Ok(Box::new(Erasure::new(spec.clone()))),
        FunctionSpec::Drive(spec) => {
            let geometry =
                parts.geometry.ok_or_else(|| Error::invalid("a drive needs a medium, and this actor has none"))?;
            Ok(Box::new(Drive::new(spec.clone(), geometry, parts.pool.clone())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh_core::{
        ErrorKind,
        id::TenantId,
        meta::TenantLimits,
        spec::{EncryptSpec, PolicySpec},
    };

    use super::*;

    fn policy() -> FunctionSpec {
        let limits = TenantLimits::default();
        FunctionSpec::Policy(PolicySpec { tenant: TenantId(1), principals: BTreeMap::new(), limits })
    }

    #[test]
    fn builds_chains_of_chains() {
        let spec = FunctionSpec::Chain(vec![FunctionSpec::Chain(vec![policy(), policy()]), policy()]);
        assert_eq!(build(&spec, &Parts::default()).map(|function| function.in_flight()), Ok(0));
    }

    #[test]
    fn the_list_of_kinds_has_every_kind_that_it_builds() {
        for spec in [policy(), FunctionSpec::Encrypt(EncryptSpec {})] {
            assert!(KINDS.contains(&spec.name()));
        }
    }

    #[test]
    fn refuses_chains_that_are_empty_or_too_long_and_kinds_it_does_not_have() {
        let kind = |spec: FunctionSpec| build(&spec, &Parts::default()).err().map(|error| error.kind());
        assert_eq!(kind(FunctionSpec::Chain(vec![])), Some(ErrorKind::Invalid));
        assert_eq!(kind(FunctionSpec::Chain(vec![policy(); 17])), Some(ErrorKind::Invalid));
        assert_eq!(kind(FunctionSpec::Encrypt(EncryptSpec {})), None);
    }
}
