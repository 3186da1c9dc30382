//! The function alone: plain events in, a list of effects out.

use std::sync::Arc;

use mesh_core::{
    Answer, Buf, Cx, Effect, Entropy, Error, ErrorKind, Event, Lane, Op, Principal, Request, StorageFunction, Target,
    Tokens,
    id::{BucketId, LayoutId, StripeId, TenantId, Token, WriteId},
    meta::Compression,
    op::{Binding, StripeOp, StripeTarget},
    spec::{CustomSpec, FunctionSpec},
    time::{Instant, UnixMillis},
};

use crate::content::{ContentFilter, KIND};

struct NoDice;

impl Entropy for NoDice {
    fn fill(&mut self, _: &mut [u8]) {
        panic!("a filter draws no randomness");
    }
}

struct Bench {
    filter: ContentFilter,
    tokens: Tokens,
}

impl Bench {
    fn new() -> Self {
        Self { filter: ContentFilter::new(b"SECRET\nHIDDEN\n").expect("two patterns"), tokens: Tokens::default() }
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut dice = NoDice;
        let mut cx = Cx::new(Instant(0), UnixMillis(0), &mut effects, &mut self.tokens, &mut dice);
        self.filter.on_event(event, &mut cx);
        effects
    }

    fn ask(&mut self, id: u64, request: &Request) -> Vec<Effect> {
        self.on(Event::Request { id: Token(id), request: request.clone() })
    }
}

fn target() -> StripeTarget {
    let (bucket_name, object) = ("films".into(), "metropolis".into());
    StripeTarget {
        id: StripeId { write: WriteId(1), stripe: 0, attempt: 0 },
        layout: LayoutId(1),
        binding: Arc::new(Binding { tenant: TenantId(1), bucket: BucketId(2), bucket_name, object }),
        key: None,
        compression: Compression::Off,
        code: None,
    }
}

fn request(op: impl Into<Op>, payload: &[u8]) -> Request {
    let principal = Principal::User { tenant: TenantId(1), name: "somebody".into() };
    Request {
        op: op.into(),
        payload: Buf::copy_of(payload),
        principal,
        deadline: Instant(99),
        lane: Lane::Bulk,
        trace: mesh_core::Trace::NONE,
    }
}

fn write(payload: &[u8]) -> Request {
    request(StripeOp::Write(target()), payload)
}

fn refusal(id: u64, pattern: &str, refused: u64) -> Effect {
    let error = Error::new(ErrorKind::Denied, "the content filter refuses this object")
        .with("pattern", pattern)
        .with("bucket", "films")
        .with("refused", refused);
    Effect::Reply { id: Token(id), outcome: Err(error) }
}

#[test]
fn what_holds_no_pattern_goes_on_as_it_is_and_its_answer_comes_back() {
    let mut bench = Bench::new();
    let clean = write(b"a SECRE, a IDDEN");
    assert_eq!(bench.ask(7, &clean), [Effect::Call { to: Target::Next, call: Token(1), request: clean.clone() }]);
    assert_eq!((bench.filter.in_flight(), bench.filter.lingers()), (1, true));
    let placed = || Ok(Answer::Placed { avoid: Vec::new(), shared: false }.into());
    assert_eq!(
        bench.on(Event::Reply { call: Token(1), outcome: placed() }),
        [Effect::Reply { id: Token(7), outcome: placed() }]
    );
    assert_eq!((bench.filter.in_flight(), bench.filter.count("films")), (0, (1, 0)));
}

#[test]
fn what_holds_a_pattern_is_refused_and_counted() {
    let mut bench = Bench::new();
    let effects = bench.ask(7, &write(b"the SECRET plans"));
    assert_eq!(effects, [refusal(7, "SECRET", 1)]);
    let [Effect::Reply { outcome: Err(error), .. }] = &effects[..] else { panic!("{effects:?}") };
    assert!(error.to_string().ends_with("[pattern=SECRET bucket=films refused=1]"), "{error}");
    assert_eq!(bench.ask(8, &write(b"HIDDEN")), [refusal(8, "HIDDEN", 2)]);
    assert_eq!(bench.filter.count("films"), (2, 2));
    assert_eq!(bench.filter.count("music"), (0, 0));
}

#[test]
fn everything_else_passes_uncounted() {
    let mut bench = Bench::new();
    let read = request(StripeOp::Read { target: target(), avoid: Vec::new(), part: None }, b"SECRET");
    assert_eq!(bench.ask(1, &read), [Effect::Call { to: Target::Next, call: Token(1), request: read.clone() }]);
    let delete = request(StripeOp::Delete { target: target(), avoid: Vec::new() }, b"");
    assert_eq!(bench.ask(2, &delete), [Effect::Call { to: Target::Next, call: Token(2), request: delete.clone() }]);
    assert_eq!(bench.filter.count("films"), (0, 0));
}

#[test]
fn new_settings_count_and_wrong_ones_or_another_function_s_do_not() {
    let mut bench = Bench::new();
    let configure = |bench: &mut Bench, kind: &str, settings: &str| {
        let spec = FunctionSpec::Custom(CustomSpec::new(kind, settings.as_bytes()));
        assert_eq!(bench.on(Event::Configure(Arc::new(FunctionSpec::Chain(vec![spec])))), []);
    };
    configure(&mut bench, KIND, "OTHER");
    configure(&mut bench, KIND, "\n\n");
    configure(&mut bench, "another-kind", "SECRET");
    assert!(matches!(bench.ask(1, &write(b"SECRET"))[..], [Effect::Call { .. }]));
    assert_eq!(bench.ask(2, &write(b"OTHER")), [refusal(2, "OTHER", 1)]);
    assert_eq!(ContentFilter::new(b"\n").map(drop).map_err(|error| error.kind()), Err(ErrorKind::Invalid));
}

#[test]
fn the_counts_go_along_in_pages_while_it_works_on() {
    let mut here = Bench::new();
    here.ask(1, &write(b"SECRET"));
    let page = here.filter.snapshot(None);
    // It goes on while that is carried over.
    here.ask(2, &write(b"SECRET"));
    let rest = here.filter.snapshot(Some(page.mark));

    let mut there = Bench::new();
    there.filter.restore(&page).expect("from such a filter");
    there.filter.restore(&rest).expect("from such a filter");
    assert_eq!(there.filter.count("films"), (2, 2));
    assert_eq!(there.ask(1, &write(b"SECRET")), [refusal(1, "SECRET", 3)]);
    assert_eq!(here.filter.snapshot(Some(rest.mark)).len(), 0, "nothing is left to carry");
}
