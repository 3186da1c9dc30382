//! How to write a storage function of your own, and have it placed like any other.
//!
//! The example `filter` is a whole program of it: `cargo run --release --example filter`. This page walks through what it
//! is made of. At the end stands its function, as it is in that example, with a test of plain events.
//!
//! # What a function is
//!
//! A [`StorageFunction`] is a deterministic machine. It is told one [`Event`] at a time and says what it wants of the world
//! as [`Effect`]s, through [`Cx`]. It performs no I/O and never waits, so it is tested with lists, runs in the simulator as
//! in a node, and can be moved between two events.
//!
//! | event | what the function does |
//! |---|---|
//! | [`Request`] | owes exactly one [`Cx::reply`] with the request's `id`, now or later |
//! | [`Reply`] | a [`Cx::call`] of its own was answered, by an error at worst: always exactly once |
//! | [`Done`] | a [`Cx::start`]ed job (compute, metadata) has ended: always exactly once |
//! | [`Wake`] | the time that [`wake_at`] asked for has come |
//! | [`Configure`] | its settings, before anything else and whenever they change; it takes its own kind's part |
//!
//! In a data chain the requests that come down are [`Op::Stripe`] (`Write` with the payload, `Read` whose answer has it, all of it
//! whatever a client wants of it, `Delete`), [`Op::Query`] and [`Op::Propose`]. The last two end at policy, above your function. **What it has no business
//! with it passes on** with `cx.call(Target::Next, request)`, and gives the answer back unchanged: an operation that a later
//! version of the mesh adds then works through it, too. To refuse is to reply with an error; [`ErrorKind::Denied`] reaches
//! the client as such (over S3 as `AccessDenied`), with the message and the values that [`Error::with`] adds.
//!
//! # Determinism
//!
//! The same events, times and random bytes must give the same effects. So: time is [`Cx::now`] (monotonic) or [`Cx::wall`],
//! random bytes are [`Cx::random`], maps whose order can be seen are `BTreeMap`s. A broken invariant panics: the function is
//! then built again from its settings, at once three times, then after longer and longer pauses; one that cannot be kept
//! running on a node is tried on another that may run it. Bad input never does.
//!
//! # Moving
//!
//! A function moves while it works. Its chain is built from the same settings on the other node, the state goes over in
//! pages, then requests wait for an instant while the rest follows.
//!
//! - [`in_flight`] counts requests, calls and jobs that have not ended.
//! - [`lingers`] says whether all of those may end *here* after the state has gone. It is what makes a pause short: a filter
//!   that only passes answers back says `true`; one that charges somebody for the answer's bytes must wait for it. Unless you
//!   say otherwise a move waits until nothing is in flight.
//! - [`snapshot`] gives a page of the state: from the beginning for `None`, else what changed since that [`Mark`]; at most
//!   `SNAPSHOT_PAGE_ENTRIES` entries, with `more` set while there are further ones. [`restore`] takes pages in order. A
//!   function without state gives the empty [`Snapshot`] and inherits `restore`.
//! - [`Carried`] is a map that does all this: keep the state in it, and the two methods are one line each, however large it
//!   gets. Give its format a new number when the encoding of keys or values changes: a page of another format is refused and
//!   the function stays where it was.
//!
//! What must survive the loss of a node without warning does not belong into a function's state: propose it to metadata, or
//! store it. After such a loss, a panic, or a change of the chain's functions, the state begins anew from the settings.
//!
//! # Counting
//!
//! A figure is one field of the function with its doc line: [`figures!`](mesh_core::figures!) makes a struct's fields series of
//! `/metrics`, and [`StorageFunction::figures`](mesh_core::StorageFunction::figures) hands them out under the labels that it is given,
//! one line: `self.counted.tell(labels, page)`. Counting is an addition to a plain number ([`Count`](mesh_core::figures::Count)); how
//! long requests take, and how many there are of which tenant, is counted around the chain already.
//!
//! # Having it run
//!
//! 1. **Register** the kind with every node that may run it: [`Builder::function`] gives a name and how it is made from its
//!    settings, which are bytes in your own encoding. Refuse settings that make no sense: they are tried before they are
//!    declared. A node announces its kinds; one without the kind is never given such a chain, and one that is told to
//!    take it refuses (`Unsupported`, with the node and the kind). A DPU without it may still run what comes behind your
//!    function, compression, encryption and coding, apart from the rest.
//! 2. **Declare** where it stands: [`Client::set_stages`], of an administrator, puts kinds with their settings between
//!    policy and compression, which comes before encryption, into every tenant's data chains or one tenant's. The declaration is a row of the control
//!    group and so the same on every node, host or DPU. Other settings for the same kinds are told to the running
//!    function; other kinds, or another order, begin the chain anew under its next epoch.
//! 3. **Place** it: nothing is left to do. The chain moves as one, by `mesh move`, `mesh prefer`, `mesh drain` and by the
//!    placement engine; `mesh actors` shows it by its kind. A DPU node runs it if its program registers the kind.
//!
//! # Under faults
//!
//! The simulator takes the function as it is, with a workload and what must hold: `mesh_chaos_tests::harness`. Its example
//! `content` runs the filter below through crashes, cuts and moves, from seeds.
//!
//! # The function, and its test
//!
//! ```
#![doc = include_str!("../examples/filter/content.rs")]
//!
//! // Testing it: plain events in, effects out.
//! fn main() -> Result<(), Error> {
//!     use std::sync::Arc;
//!
//!     use mesh_core::{Buf, Effect, Entropy, Lane, Principal, Tokens};
//!     use mesh_core::{id::*, meta::Compression, op::{Binding, StripeTarget}, time::{Instant, UnixMillis}};
//!
//!     struct NoDice;
//!     impl Entropy for NoDice {
//!         fn fill(&mut self, _: &mut [u8]) {
//!             panic!("a filter draws no randomness");
//!         }
//!     }
//!
//!     let mut tokens = Tokens::default();
//!     let mut on = |filter: &mut ContentFilter, event| {
//!         let mut effects = Vec::new();
//!         filter.on_event(event, &mut Cx::new(Instant(0), UnixMillis(0), &mut effects, &mut tokens, &mut NoDice));
//!         effects
//!     };
//!     let write = |payload: &[u8]| {
//!         let (bucket_name, object) = ("films".into(), "metropolis".into());
//!         let target = StripeTarget {
//!             id: StripeId { write: WriteId(1), stripe: 0, attempt: 0 },
//!             layout: LayoutId(1),
//!             binding: Arc::new(Binding { tenant: TenantId(1), bucket: BucketId(2), bucket_name, object }),
//!             key: None,
//!             compression: Compression::Off,
//!             code: None,
//!         };
//!         let request = Request::system(StripeOp::Write(target), Instant(99));
//!         Request { payload: Buf::copy_of(payload), lane: Lane::Bulk, ..request }
//!     };
//!
//!     let mut here = ContentFilter::new(b"SECRET")?;
//!     let effects = on(&mut here, Event::Request { id: Token(1), request: write(b"harmless") });
//!     assert!(matches!(effects[..], [Effect::Call { to: Target::Next, .. }]));
//!     let effects = on(&mut here, Event::Request { id: Token(2), request: write(b"a SECRET") });
//!     assert!(matches!(&effects[..], [Effect::Reply { id: Token(2), outcome: Err(error) }] if error.kind() == ErrorKind::Denied));
//!
//!     // It moves: the counts go along.
//!     let mut there = ContentFilter::new(b"SECRET")?;
//!     there.restore(&here.snapshot(None))?;
//!     assert_eq!(there.count("films"), (2, 1));
//!     Ok(())
//! }
//! ```
//!
//! [`StorageFunction`]: mesh_core::StorageFunction
//! [`Event`]: mesh_core::Event
//! [`Effect`]: mesh_core::Effect
//! [`Cx`]: mesh_core::Cx
//! [`Cx::reply`]: mesh_core::Cx::reply
//! [`Cx::call`]: mesh_core::Cx::call
//! [`Cx::start`]: mesh_core::Cx::start
//! [`Cx::now`]: mesh_core::Cx::now
//! [`Cx::wall`]: mesh_core::Cx::wall
//! [`Cx::random`]: mesh_core::Cx::random
//! [`Request`]: mesh_core::Event::Request
//! [`Reply`]: mesh_core::Event::Reply
//! [`Done`]: mesh_core::Event::Done
//! [`Wake`]: mesh_core::Event::Wake
//! [`Configure`]: mesh_core::Event::Configure
//! [`wake_at`]: mesh_core::StorageFunction::wake_at
//! [`in_flight`]: mesh_core::StorageFunction::in_flight
//! [`lingers`]: mesh_core::StorageFunction::lingers
//! [`snapshot`]: mesh_core::StorageFunction::snapshot
//! [`restore`]: mesh_core::StorageFunction::restore
//! [`Mark`]: mesh_core::snapshot::Mark
//! [`Snapshot`]: mesh_core::snapshot::Snapshot
//! [`Carried`]: mesh_core::carried::Carried
//! [`Op::Stripe`]: mesh_core::Op::Stripe
//! [`Op::Query`]: mesh_core::Op::Query
//! [`Op::Propose`]: mesh_core::Op::Propose
//! [`ErrorKind::Denied`]: mesh_core::ErrorKind::Denied
//! [`Error::with`]: mesh_core::Error::with
//! [`Builder::function`]: crate::node::Builder::function
//! [`Client::set_stages`]: crate::Client::set_stages
