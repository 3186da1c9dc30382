//! What all who count say at one moment, and how that is written: the text format of Prometheus, version 0.0.4.
//!
//! ```text
//! # HELP mesh_s3_requests_total Requests that were answered.
//! # TYPE mesh_s3_requests_total counter
//! mesh_s3_requests_total{tenant="acme",operation="PutObject"} 17
//! ```

use core::fmt::{self, Write as _};
use std::collections::BTreeMap;

use super::{BUCKETS, bound_ns};
use crate::id::TenantId;

/// How a number behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until its node starts again. Its name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often within each bound.
    Histogram,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Gauge | Self::Histogram => "",
        }
    }
}

/// What a label says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// A word that is known beforehand.
    Word(&'static str),
    /// Something that is named by who runs the mesh.
    Text(String),
    /// A tenant; who writes the page knows its name.
    Tenant(TenantId),
}

/// The labels of a series, in the order in which they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels(Vec<(&'static str, Label)>);

impl Labels {
    /// The same with one more.
    #[must_use]
    pub fn with(mut self, name: &'static str, label: Label) -> Self {
        self.0.push((name, label));
        self
    }

    /// The same with a word that is known beforehand.
    #[must_use]
    pub fn word(self, name: &'static str, word: &'static str) -> Self {
        self.with(name, Label::Word(word))
    }

    /// The same with a text.
    #[must_use]
    pub fn text(self, name: &'static str, text: impl Into<String>) -> Self {
        self.with(name, Label::Text(text.into()))
    }

    /// Whether a label of this name says this.
    fn says(&self, name: &str, what: &str) -> bool {
        let is_it = |label: &Label| match label {
            Label::Word(word) => *word == what,
            Label::Text(text) => text == what,
            Label::Tenant(_) => false,
        };
        self.0.iter().any(|(known, label)| *known == name && is_it(label))
    }
}

/// The number of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A whole one.
    Whole(u64),
    /// Nanoseconds, told in seconds.
    Nanos(u64),
    /// How often within each bound, the last one without; and all of it in nanoseconds, told in seconds.
    Spread {
        /// As a [`Histogram`](super::Histogram) has them.
        buckets: Vec<u64>,
        /// Of all of them.
        sum_ns: u64,
    },
}

impl Value {
    pub(super) fn is_nothing(&self) -> bool {
        match self {
            Self::Whole(number) | Self::Nanos(number) => *number == 0,
            Self::Spread { buckets, .. } => buckets.iter().all(|bucket| *bucket == 0),
        }
    }

    /// Both together: two who count the same say it under the same labels.
    fn join(&mut self, other: &Self) {
        match (self, other) {
            (Self::Whole(number) | Self::Nanos(number), Self::Whole(more) | Self::Nanos(more)) => {
                *number = number.saturating_add(*more);
            }
            (Self::Spread { buckets, sum_ns }, Self::Spread { buckets: more, sum_ns: more_ns }) => {
                for (bucket, more) in buckets.iter_mut().zip(more) {
                    *bucket = bucket.saturating_add(*more);
                }
                *sum_ns = sum_ns.saturating_add(*more_ns);
            }
            (this, _) => debug_assert!(false, "a family has numbers of one form, and not {this:?} and {other:?}"),
        }
    }
}

/// All series of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    help: &'static str,
    kind: Kind,
    series: BTreeMap<Labels, Value>,
}

impl Family {
    pub(super) const fn new(help: &'static str, kind: Kind) -> Self {
        Self { help, kind, series: BTreeMap::new() }
    }

    /// One more number; to one that is there under the same labels it is added.
    pub fn add(&mut self, labels: Labels, value: Value) {
        match self.series.get_mut(&labels) {
            Some(known) => known.join(&value),
            None => drop(self.series.insert(labels, value)),
        }
    }

    pub(super) fn into_series(self) -> impl Iterator<Item = (Labels, Value)> {
        self.series.into_iter()
    }

    /// Its numbers, in the order of their labels.
    pub fn series(&self) -> impl Iterator<Item = (&Labels, &Value)> {
        self.series.iter()
    }
}

/// What all who count say at one moment. In the order of names and labels: the same numbers give the same text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page(BTreeMap<&'static str, Family>);

impl Page {
    /// The family of a name, without the suffix of its kind; made if it is not there.
    pub fn family(&mut self, name: &'static str, help: &'static str, kind: Kind) -> &mut Family {
        let family = self.0.entry(name).or_insert_with(|| Family::new(help.trim_ascii(), kind));
        debug_assert!(family.kind == kind, "{name} is counted in two ways");
        family
    }

    /// The family of a name without the suffix of its kind, if it is there.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Family> {
        self.0.get(name)
    }

    /// All numbers of a family together whose labels say all of these; `None` if there are none.
    #[must_use]
    pub fn together(&self, name: &str, labels: &[(&str, &str)]) -> Option<Value> {
        let says = |has: &Labels| labels.iter().all(|(name, what)| has.says(name, what));
        let mut values = self.get(name)?.series().filter(|(has, _)| says(has)).map(|(_, value)| value);
        let mut all = values.next()?.clone();
        values.for_each(|value| all.join(value));
        Some(all)
    }

    /// Everything that another one says, too.
    pub fn join(&mut self, other: Self) {
        for (name, other) in other.0 {
            let family = self.family(name, other.help, other.kind);
            for (labels, value) in other.series {
                family.add(labels, value);
            }
        }
    }

    /// What of it stays true when who said it is gone: what only grows.
    #[must_use]
    pub fn lasting(mut self) -> Self {
        self.0.retain(|_, family| family.kind != Kind::Gauge);
        self
    }

    /// The text. `name_of` says how a tenant is called; one without a name is called by its number.
    pub fn text(&self, name_of: impl Fn(TenantId) -> Option<String>) -> String {
        let mut text = String::new();
        for (name, family) in &self.0 {
            let (suffix, kind) = (family.kind.suffix(), family.kind.word());
            // A help has one line.
            let help = family.help.replace('\\', "\\\\").replace('\n', " ");
            let written = writeln!(text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}").and_then(|()| {
                family.series.iter().try_for_each(|(labels, value)| {
                    let labels = written(labels, &name_of)?;
                    series(&mut text, name, suffix, &labels, value)
                })
            });
            written.expect("memory takes everything");
        }
        text
    }
}

/// Labels as the text has them, without braces.
fn written(labels: &Labels, name_of: &impl Fn(TenantId) -> Option<String>) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for (name, label) in &labels.0 {
        let comma = if text.is_empty() { "" } else { "," };
        let value = match label {
            Label::Word(word) => (*word).to_owned(),
            Label::Text(text) => text.clone(),
            // What all further tenants are called must not be the name of one.
            Label::Tenant(tenant) => {
                name_of(*tenant).filter(|name| name != super::tenants::OTHER).unwrap_or_else(|| tenant.to_string())
            }
        };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        write!(text, "{comma}{name}=\"{value}\"")?;
    }
    Ok(text)
}

fn series(text: &mut String, name: &str, suffix: &str, labels: &str, value: &Value) -> fmt::Result {
    let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    match value {
        Value::Whole(number) => writeln!(text, "{name}{suffix}{braced} {number}"),
        Value::Nanos(number) => writeln!(text, "{name}{suffix}{braced} {}", Seconds(*number)),
        Value::Spread { buckets, sum_ns } => {
            let comma = if labels.is_empty() { "" } else { "," };
            let mut all = 0_u64;
            for (at, bucket) in buckets.iter().enumerate() {
                all = all.saturating_add(*bucket);
                if at < BUCKETS {
                    writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {all}", Seconds(bound_ns(at)))?;
                } else {
                    writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {all}")?;
                }
            }
            writeln!(text, "{name}_sum{braced} {}\n{name}_count{braced} {all}", Seconds(*sum_ns))
        }
    }
}

/// Nanoseconds, as seconds with no more digits than there are.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{rest:09}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}
