//! From a spec to a function: the mesh's own kinds, and those that the embedding program has registered.

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Chain, Error, ErrorKind, Pool, StorageFunction,
    port::Geometry,
    spec::{CustomSpec, FunctionSpec},
};

use crate::{
    compress::Compress, drive::Drive, encrypt::Encrypt, erasure::Erasure, keeper::Keeper, object::Object,
    policy::Policy, whole::Whole,
};

/// The mesh's own kinds that this build has, by the names that `FunctionSpec::name` gives them.
pub const KINDS: [&str; 7] = ["policy", "object", "compress", "encrypt", "erasure", "drive", "keeper"];

/// Kinds that a program registers at most.
const CUSTOM_KINDS_MAX: usize = 64;

/// What a node gives the functions that it hosts, beside their spec.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Where payload memory comes from.
    pub pool: Pool,
    /// The medium of the actor's drive; `None`: the actor has none.
    pub geometry: Option<Geometry>,
}

/// Makes a function of a registered kind from its settings: at the start, after a panic, and where it moves to. It must
/// give the same function for the same settings on every node, and refuses settings that it does not understand.
pub type Make = Arc<dyn Fn(&[u8], &Parts) -> Result<Box<dyn StorageFunction>, Error> + Send + Sync>;

/// The kinds of function that a node can make: the mesh's own, and what the embedding program adds.
#[derive(Clone, Default)]
pub struct Registry {
    custom: BTreeMap<Arc<str>, Make>,
}

impl core::fmt::Debug for Registry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_set().entries(self.kinds()).finish()
    }
}

impl Registry {
    /// Adds a kind.
    ///
    /// # Errors
    /// `Invalid` for a name that no kind may have ([`CustomSpec::check`]); `Conflict` for one that is registered;
    /// `QuotaExceeded` for too many.
    pub fn register(&mut self, kind: &str, make: Make) -> Result<(), Error> {
        let kind = CustomSpec::new(kind, []);
        kind.check()?;
        if self.custom.len() == CUSTOM_KINDS_MAX {
            return Err(Error::new(ErrorKind::QuotaExceeded, "there are as many kinds of function as may be")
                .with("limit", CUSTOM_KINDS_MAX));
        }
        if self.custom.contains_key(&kind.kind) {
            return Err(
                Error::new(ErrorKind::Conflict, "this kind of function is registered already").with("kind", &kind.kind)
            );
        }
        self.custom.insert(kind.kind, make);
        Ok(())
    }

    /// Every kind that it can make, by name: the mesh's own first.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        KINDS.into_iter().chain(self.custom.keys().map(|kind| &**kind))
    }

    /// Makes the function of a spec.
    ///
    /// # Errors
    /// `Unsupported` for a kind that this program does not have; `Invalid` for an empty chain, one that is too long, or a
    /// drive without a medium: the spec is wrong. What a registered kind says of its settings.
    pub fn build(&self, spec: &FunctionSpec, parts: &Parts) -> Result<Box<dyn StorageFunction>, Error> {
        match spec {
            FunctionSpec::Chain(stages) | FunctionSpec::Split(stages, _) => {
                if stages.is_empty() || stages.len() > mesh_core::limits::CHAIN_STAGES_MAX {
                    return Err(Error::invalid("a chain has between one stage and the limit")
                        .with("stages", stages.len())
                        .with("limit", mesh_core::limits::CHAIN_STAGES_MAX));
                }
                let stages = stages.iter().map(|stage| self.build(stage, parts)).collect::<Result<_, _>>()?;
                let chain = Chain::new(stages);
                Ok(Box::new(if let FunctionSpec::Split(_, cut) = spec { chain.split(*cut) } else { chain }))
            }
            FunctionSpec::Policy(spec) => Ok(Box::new(Policy::new(spec.clone()))),
            FunctionSpec::Object(spec) => Ok(Box::new(Object::new(spec.clone()))),
            FunctionSpec::Compress(spec) => Ok(Box::new(Compress::new(spec.clone()))),
            FunctionSpec::Encrypt(spec) => Ok(Box::new(Encrypt::new(spec.clone()))),
            FunctionSpec::Erasure(spec) => Ok(Box::new(Erasure::new(spec.clone()))),
            FunctionSpec::Drive(spec) => {
                let geometry =
                    parts.geometry.ok_or_else(|| Error::invalid("a drive needs a medium, and this actor has none"))?;
                Ok(Box::new(Drive::new(spec.clone(), geometry, parts.pool.clone())))
            }
            FunctionSpec::Keeper(spec) => Ok(Box::new(Keeper::new(spec.clone()))),
            FunctionSpec::Custom(spec) => {
                let make = self.custom.get(&spec.kind).ok_or_else(|| {
                    Error::new(ErrorKind::Unsupported, "no such kind of function is registered in this program")
                        .with("kind", &spec.kind)
                })?;
                Ok(Box::new(Whole(make(&spec.settings, parts)?)))
            }
        }
    }
}

/// Makes the function of a spec, of the mesh's own kinds.
///
/// # Errors
/// As [`Registry::build`].
pub fn build(spec: &FunctionSpec, parts: &Parts) -> Result<Box<dyn StorageFunction>, Error> {
    Registry::default().build(spec, parts)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh_core::{
        Answer, Cx, Effect, Entropy, Event, Op, Request, Tokens,
        id::{BucketId, LayoutId, StripeId, TenantId, Token, WriteId},
        meta::{Compression, TenantLimits},
        op::{Binding, Part, StripeOp, StripeTarget},
        snapshot::{Mark, Snapshot},
        spec::{CompressSpec, EncryptSpec, PolicySpec},
        time::{Instant, UnixMillis},
    };

    use super::*;

    fn policy() -> FunctionSpec {
        let limits = TenantLimits::default();
        FunctionSpec::Policy(PolicySpec { tenant: TenantId(1), principals: BTreeMap::new(), limits })
    }

    /// What the mesh has already, as a registered kind that wants empty settings.
    fn plain() -> Make {
        Arc::new(|settings, _| {
            if settings.is_empty() {
                Ok(Box::new(Encrypt::new(EncryptSpec {})))
            } else {
                Err(Error::invalid("this function has no settings"))
            }
        })
    }

    #[test]
    fn builds_chains_of_chains() {
        let spec = FunctionSpec::Chain(vec![FunctionSpec::Chain(vec![policy(), policy()]), policy()]);
        assert_eq!(build(&spec, &Parts::default()).map(|function| function.in_flight()), Ok(0));
    }

    #[test]
    fn the_list_of_kinds_has_every_kind_that_it_builds() {
        for spec in [policy(), FunctionSpec::Encrypt(EncryptSpec {}), FunctionSpec::Compress(CompressSpec {})] {
            assert!(KINDS.contains(&spec.name()));
        }
        let mut registry = Registry::default();
        assert_eq!(registry.register("plain", plain()), Ok(()));
        assert!(registry.kinds().eq(KINDS.into_iter().chain(["plain"])));
    }

    #[test]
    fn refuses_chains_that_are_empty_or_too_long_and_kinds_it_does_not_have() {
        let kind = |spec: FunctionSpec| build(&spec, &Parts::default()).err().map(|error| error.kind());
        assert_eq!(kind(FunctionSpec::Chain(vec![])), Some(ErrorKind::Invalid));
        assert_eq!(kind(FunctionSpec::Chain(vec![policy(); 17])), Some(ErrorKind::Invalid));
        assert_eq!(kind(FunctionSpec::Encrypt(EncryptSpec {})), None);
        assert_eq!(kind(FunctionSpec::Compress(CompressSpec {})), None);
        assert_eq!(kind(FunctionSpec::Custom(CustomSpec::new("plain", []))), Some(ErrorKind::Unsupported));
    }

    /// Replies with how much of a stripe it is asked for.
    struct Asked;

    impl StorageFunction for Asked {
        fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
            if let Event::Request { id, request } = event {
                let whole = matches!(&request.op, Op::Stripe(op) if matches!(**op, StripeOp::Read { part: None, .. }));
                cx.reply(id, if whole { Ok(Answer::Done.into()) } else { Err(Error::invalid("a part")) });
            }
        }

        fn in_flight(&self) -> usize {
            0
        }

        fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
            Snapshot { since, ..Snapshot::default() }
        }
    }

    struct NoEntropy;

    impl Entropy for NoEntropy {
        fn fill(&mut self, _: &mut [u8]) {
            panic!("nobody draws")
        }
    }

    #[test]
    fn a_function_of_the_program_is_asked_for_whole_stripes() {
        let mut registry = Registry::default();
        let made: Make = Arc::new(|_: &[u8], _: &Parts| Ok(Box::new(Asked) as Box<dyn StorageFunction>));
        registry.register("asked", made).expect("a kind");
        let spec = FunctionSpec::Custom(CustomSpec::new("asked", []));
        let mut function = registry.build(&spec, &Parts::default()).expect("built");
        let (bucket_name, object) = ("b".into(), "o".into());
        let target = StripeTarget {
            id: StripeId { write: WriteId(1), stripe: 0, attempt: 0 },
            layout: LayoutId(1),
            binding: Arc::new(Binding { tenant: TenantId(1), bucket: BucketId(2), bucket_name, object }),
            key: None,
            compression: Compression::Off,
            code: None,
        };
        let part = Some(Part { start: 1, len: 2, of: 9 });
        let request = Request::system(StripeOp::Read { target, avoid: Vec::new(), part }, Instant(9));
        let (mut effects, mut tokens, mut entropy) = (Vec::new(), Tokens::default(), NoEntropy);
        let mut cx = Cx::new(Instant(0), UnixMillis(0), &mut effects, &mut tokens, &mut entropy);
        function.on_event(Event::Request { id: Token(4), request }, &mut cx);
        assert_eq!(effects, [Effect::Reply { id: Token(4), outcome: Ok(Answer::Done.into()) }]);
    }

    #[test]
    fn a_registered_kind_is_made_from_its_settings_which_it_may_refuse() {
        let mut registry = Registry::default();
        assert_eq!(registry.register("plain", plain()), Ok(()));
        let error = |result: Result<(), Error>| result.map_err(|error| error.kind());
        assert_eq!(error(registry.register("plain", plain())), Err(ErrorKind::Conflict));
        assert_eq!(error(registry.register("policy", plain())), Err(ErrorKind::Invalid));
        let spec = |settings: &[u8]| {
            FunctionSpec::Chain(vec![policy(), FunctionSpec::Custom(CustomSpec::new("plain", settings))])
        };
        let kind = |spec| registry.build(&spec, &Parts::default()).err().map(|error| error.kind());
        assert_eq!((kind(spec(b"")), kind(spec(b"unknown"))), (None, Some(ErrorKind::Invalid)));
    }
}
