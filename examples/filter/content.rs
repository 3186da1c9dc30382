//! A content filter: a storage function that refuses objects with forbidden bytes, and counts what it sees.
//!
//! It stands between policy and encryption, so it sees stripes in the clear. It owns the counts, which go with it when it
//! moves; it decides on each stripe by itself, so it does not find a pattern that two stripes share.

use std::collections::BTreeMap;

use mesh_core::{
    Cx, Error, ErrorKind, Event, Op, Request, StorageFunction, Target,
    carried::Carried,
    id::Token,
    op::StripeOp,
    snapshot::{Mark, Snapshot},
    spec::FunctionSpec,
};

/// The kind under which it is registered and declared.
pub(crate) const KIND: &str = "content-filter";
/// Of the counts' encoding, below.
const FORMAT: u16 = 1;

/// The content filter. See the module's page.
#[derive(Debug)]
pub(crate) struct ContentFilter {
    patterns: Vec<Vec<u8>>,
    /// By bucket: stripes seen, stripes refused; each a u64, little-endian.
    counts: Carried,
    /// Calls to the next stage, and the requests that they are for.
    passed_on: BTreeMap<Token, Token>,
}

impl ContentFilter {
    /// A filter from its settings: one pattern a line.
    ///
    /// # Errors
    /// `Invalid` without a pattern.
    pub(crate) fn new(settings: &[u8]) -> Result<Self, Error> {
        let patterns = patterns(settings)?;
        Ok(Self { patterns, counts: Carried::new(FORMAT), passed_on: BTreeMap::new() })
    }

    /// Stripes seen and refused in a bucket.
    pub(crate) fn count(&self, bucket: &str) -> (u64, u64) {
        let number = |at: usize| {
            let bytes = self.counts.get(bucket.as_bytes())?.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        (number(0).unwrap_or(0), number(8).unwrap_or(0))
    }

    /// What may go on, and what not.
    fn inspect(&mut self, request: &Request) -> Result<(), Error> {
        let Op::Stripe(op) = &request.op else { return Ok(()) };
        let StripeOp::Write(target) = &**op else { return Ok(()) };
        let bucket = &*target.binding.bucket_name;
        let holds = |pattern: &&Vec<u8>| request.payload.windows(pattern.len()).any(|window| window == **pattern);
        let found = self.patterns.iter().find(holds);
        let (seen, refused) = self.count(bucket);
        let (seen, refused) = (seen + 1, refused + u64::from(found.is_some()));
        self.counts.insert(bucket.as_bytes(), &[seen.to_le_bytes(), refused.to_le_bytes()].concat())?;
        match found {
            None => Ok(()),
            Some(pattern) => Err(Error::new(ErrorKind::Denied, "the content filter refuses this object")
                .with("pattern", pattern.escape_ascii())
                .with("bucket", bucket)
                .with("refused", refused)),
        }
    }
}

impl StorageFunction for ContentFilter {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Request { id, request } => match self.inspect(&request) {
                Ok(()) => {
                    let call = cx.call(Target::Next, request);
                    self.passed_on.insert(call, id);
                }
                Err(error) => cx.reply(id, Err(error)),
            },
            Event::Reply { call, outcome } => {
                let id = self.passed_on.remove(&call).expect("a reply is to a call that was made, and comes once");
                cx.reply(id, outcome);
            }
            Event::Configure(spec) => {
                for part in spec.parts() {
                    // Settings were tried before they were declared; it keeps its own rather than none.
                    if let FunctionSpec::Custom(spec) = part
                        && &*spec.kind == KIND
                        && let Ok(patterns) = patterns(&spec.settings)
                    {
                        self.patterns = patterns;
                    }
                }
            }
            // It starts no work and asks for no wake.
            Event::Done { .. } | Event::Wake => {}
        }
    }

    fn in_flight(&self) -> usize {
        self.passed_on.len()
    }

    /// What comes back from the next stage changes no count: it may come back after the counts have gone on.
    fn lingers(&self) -> bool {
        true
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        self.counts.page(since)
    }

    fn restore(&mut self, page: &Snapshot) -> Result<(), Error> {
        self.counts.restore(page)
    }
}

fn patterns(settings: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let lines = settings.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let patterns: Vec<_> = lines.map(<[u8]>::to_vec).collect();
    if patterns.is_empty() {
        return Err(Error::invalid("a content filter needs at least one pattern, one a line"));
    }
    Ok(patterns)
}
