//! What clients may see: a history of every key, and whether some order of its operations explains all answers.
//!
//! An operation takes effect at one moment between its call and its return; one whose outcome is unknown may take effect
//! at any moment after its call, or never. The search is Wing and Gong's with Lowe's memory of what was tried.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::id::WriteId;

use crate::content::Content;

/// A version of an object; `None`: there is none.
pub type Value = Option<WriteId>;

/// What an operation does to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Sets the value.
    Write(Value),
    /// Sets the value, if there was none.
    Create(WriteId),
    /// Sees this value.
    Read(Value),
    /// Sets the second value, if it was the first.
    Swap(WriteId, WriteId),
    /// Sees that there is some value.
    Exists,
    /// Sees that it is not this value.
    Not(WriteId),
}

impl Deed {
    /// What the value is afterwards; `None` if this cannot happen to that value.
    fn after(self, value: Value) -> Option<Value> {
        match self {
            Self::Write(new) => Some(new),
            Self::Create(new) => value.is_none().then_some(Some(new)),
            Self::Swap(old, new) => (value == Some(old)).then_some(Some(new)),
            Self::Read(seen) => (seen == value).then_some(value),
            Self::Exists => value.is_some().then_some(value),
            Self::Not(other) => (value != Some(other)).then_some(value),
        }
    }
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It did this.
    Did(Deed),
    /// It may have done what it set out to do, or may still.
    Unknown,
    /// It did nothing and told nothing.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    deed: Deed,
    called: u64,
    /// `u64::MAX`: never came back.
    returned: u64,
    settled: bool,
}

/// Names an operation that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    key: usize,
    entry: usize,
}

/// The histories, and what every version's bytes are.
#[derive(Debug, Default)]
pub struct Oracle {
    keys: Vec<String>,
    histories: Vec<Vec<Option<Entry>>>,
    index: BTreeMap<String, usize>,
    bodies: BTreeMap<WriteId, (String, Vec<Content>)>,
}

impl Oracle {
    /// An operation begins.
    pub fn begin(&mut self, key: &str, deed: Deed, now: u64) -> Ticket {
        let at = self.index.get(key).copied().unwrap_or_else(|| {
            self.index.insert(key.to_owned(), self.keys.len());
            self.keys.push(key.to_owned());
            self.histories.push(Vec::new());
            self.keys.len() - 1
        });
        let history = &mut self.histories[at];
        history.push(Some(Entry { deed, called: now, returned: u64::MAX, settled: false }));
        Ticket { key: at, entry: history.len() - 1 }
    }

    /// An operation ends.
    pub fn end(&mut self, ticket: Ticket, end: End, now: u64) {
        let slot = &mut self.histories[ticket.key][ticket.entry];
        match (end, slot.as_mut()) {
            (End::Did(deed), Some(entry)) => {
                (entry.deed, entry.returned, entry.settled) = (deed, now, true);
            }
            (End::Unknown, Some(entry)) => entry.settled = false,
            (End::Nothing, _) | (_, None) => *slot = None,
        }
    }

    /// A version is about to be written, with these bytes.
    pub fn expect(&mut self, version: WriteId, key: &str, body: Vec<Content>) -> Result<(), String> {
        match self.bodies.insert(version, (key.to_owned(), body)) {
            None => Ok(()),
            Some(_) => Err(format!("the version {version} was given out twice")),
        }
    }

    /// The bytes of a version of a key.
    ///
    /// # Errors
    /// Nobody has written such a version.
    pub fn body(&self, version: WriteId, key: &str) -> Result<&[Content], String> {
        match self.bodies.get(&version) {
            Some((owner, body)) if owner == key => Ok(body),
            Some((owner, _)) => Err(format!("{key:?} reads as {version}, which was written to {owner:?}")),
            None => Err(format!("{key:?} reads as {version}, which nobody wrote")),
        }
    }

    /// Every key that was ever written to.
    #[must_use]
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// How many operations a key has seen: long histories are slow to check.
    #[must_use]
    pub fn operations(&self, key: &str) -> usize {
        self.index.get(key).map_or(0, |at| self.histories[*at].len())
    }

    /// Whether every history has an explanation.
    ///
    /// # Errors
    /// Which has none.
    pub fn check(&self) -> Result<(), String> {
        for (key, history) in self.keys.iter().zip(&self.histories) {
            let entries: Vec<Entry> = history.iter().flatten().copied().collect();
            if let Some(shortest) = unexplained(&entries) {
                let mut told: Vec<String> = shortest.iter().map(tell).collect();
                let more = told.len().saturating_sub(12);
                told.drain(..more);
                return Err(format!("no order of operations explains {key:?}: … {}", told.join(", ")));
            }
        }
        Ok(())
    }
}

fn tell(entry: &Entry) -> String {
    let ms = |at: u64| at as f64 / 1e6;
    if entry.settled {
        format!("{:?} {:.3}..{:.3}", entry.deed, ms(entry.called), ms(entry.returned))
    } else {
        format!("{:?} {:.3}..?", entry.deed, ms(entry.called))
    }
}

/// The shortest beginning of a history that no order explains, if there is one: what had been called by the time that
/// some answer came.
fn unexplained(history: &[Entry]) -> Option<Vec<Entry>> {
    if explains(history) {
        return None;
    }
    let mut returns: Vec<u64> = history.iter().filter(|entry| entry.settled).map(|entry| entry.returned).collect();
    returns.sort_unstable();
    let until = |cut: u64| -> Vec<Entry> {
        let known = history.iter().filter(|entry| entry.called <= cut);
        known.map(|entry| Entry { settled: entry.settled && entry.returned <= cut, ..*entry }).collect()
    };
    let cuts = returns.partition_point(|cut| explains(&until(*cut)));
    returns.get(cuts).map(|cut| until(*cut))
}

const fn is_write(deed: Deed) -> bool {
    matches!(deed, Deed::Write(_) | Deed::Create(_) | Deed::Swap(..))
}

/// Whether some order explains a history of one key that began without a value.
fn explains(history: &[Entry]) -> bool {
    // An unknown write that nobody saw, and that no answer needs, can be left out: it took no effect.
    let needs = |deed: Deed, value: Value| match deed {
        Deed::Read(seen) => seen == value,
        Deed::Swap(old, _) => Some(old) == value,
        _ => false,
    };
    let seen = |value: Value| {
        value.is_none()
            || history.iter().any(|entry| needs(entry.deed, value) && (entry.settled || is_write(entry.deed)))
    };
    let exists = history.iter().any(|entry| matches!(entry.deed, Deed::Exists | Deed::Not(_)));
    let mut entries: Vec<Entry> = history
        .iter()
        .filter(|entry| match entry.deed {
            _ if entry.settled => true,
            Deed::Write(value) => exists || seen(value),
            Deed::Create(version) | Deed::Swap(_, version) => exists || seen(Some(version)),
            Deed::Read(_) | Deed::Exists | Deed::Not(_) => false,
        })
        .copied()
        .collect();
    entries.sort_by_key(|entry| entry.called);
    let words = entries.len().div_ceil(64);
    let must = entries.iter().filter(|entry| entry.settled).count();
    let mut tried: BTreeSet<(Vec<u64>, Value)> = BTreeSet::new();
    let mut stack: Vec<(Vec<u64>, Value, usize)> = vec![(vec![0; words], None, 0)];
    while let Some((done, value, count)) = stack.pop() {
        if count == must {
            return true;
        }
        let is_done = |at: usize| done[at / 64] & (1 << (at % 64)) != 0;
        // Nothing may come before what had returned when it was called.
        let horizon = entries
            .iter()
            .enumerate()
            .filter(|(at, entry)| entry.settled && !is_done(*at))
            .map(|(_, entry)| entry.returned)
            .min()
            .unwrap_or(u64::MAX);
        for (at, entry) in entries.iter().enumerate().take_while(|(_, entry)| entry.called <= horizon) {
            if is_done(at) {
                continue;
            }
            if let Some(next) = entry.deed.after(value) {
                let mut then = done.clone();
                then[at / 64] |= 1 << (at % 64);
                if tried.insert((then.clone(), next)) {
                    stack.push((then, next, count + usize::from(entry.settled)));
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: WriteId = WriteId(1);
    const B: WriteId = WriteId(2);
    const C: WriteId = WriteId(3);

    /// (deed, called, returned; 0: never)
    fn check(history: &[(Deed, u64, u64)]) -> bool {
        let entries: Vec<Entry> = history
            .iter()
            .map(|&(deed, called, returned)| Entry {
                deed,
                called,
                returned: if returned == 0 { u64::MAX } else { returned },
                settled: returned != 0,
            })
            .collect();
        explains(&entries)
    }

    #[test]
    fn a_read_sees_the_last_acknowledged_write() {
        assert!(check(&[(Deed::Write(Some(A)), 1, 2), (Deed::Read(Some(A)), 3, 4)]));
        assert!(!check(&[(Deed::Write(Some(A)), 1, 2), (Deed::Read(None), 3, 4)]));
        assert!(!check(&[(Deed::Write(Some(A)), 1, 2), (Deed::Write(Some(B)), 3, 4), (Deed::Read(Some(A)), 5, 6)]));
    }

    #[test]
    fn a_value_is_swapped_for_another_only_where_it_stands() {
        let write = (Deed::Write(Some(A)), 1, 2);
        assert!(check(&[write, (Deed::Swap(A, B), 3, 4), (Deed::Read(Some(B)), 5, 6)]));
        assert!(!check(&[write, (Deed::Swap(A, B), 3, 4), (Deed::Swap(A, C), 5, 6)]), "two of one value");
        assert!(!check(&[(Deed::Swap(A, B), 3, 4)]), "of nothing");
        // What is refused is refused because of another value, also of one that nobody else saw.
        assert!(!check(&[write, (Deed::Not(A), 3, 4)]));
        assert!(check(&[(Deed::Not(A), 3, 4), (Deed::Write(Some(A)), 5, 6)]));
        assert!(check(&[write, (Deed::Swap(A, B), 3, 0), (Deed::Not(A), 4, 5)]));
        assert!(check(&[write, (Deed::Write(Some(B)), 3, 0), (Deed::Swap(B, C), 4, 0), (Deed::Read(Some(C)), 5, 6)]));
        assert!(!check(&[write, (Deed::Swap(B, C), 4, 0), (Deed::Read(Some(C)), 5, 6)]));
    }

    #[test]
    fn an_unknown_write_may_come_late_but_only_once() {
        let late = [
            (Deed::Write(Some(A)), 1, 0),
            (Deed::Write(Some(B)), 3, 4),
            (Deed::Read(Some(B)), 5, 6),
            (Deed::Read(Some(A)), 7, 8),
        ];
        assert!(check(&late));
        let mut twice = late.to_vec();
        twice.extend([(Deed::Write(None), 9, 10), (Deed::Read(Some(A)), 11, 12)]);
        assert!(!check(&twice));
        let back = [late[0], late[1], (Deed::Read(Some(A)), 5, 6), (Deed::Read(Some(B)), 7, 8)];
        assert!(!check(&back));
    }

    #[test]
    fn operations_at_once_may_take_effect_in_either_order() {
        let both = [(Deed::Write(Some(A)), 1, 10), (Deed::Write(Some(B)), 2, 9)];
        for seen in [A, B] {
            let mut history = both.to_vec();
            history.push((Deed::Read(Some(seen)), 11, 12));
            assert!(check(&history));
        }
    }

    #[test]
    fn a_conditional_write_needs_absence_and_its_refusal_presence() {
        assert!(check(&[(Deed::Create(A), 1, 2), (Deed::Exists, 3, 4)]));
        assert!(!check(&[(Deed::Create(A), 1, 2), (Deed::Create(B), 3, 4)]));
        assert!(!check(&[(Deed::Exists, 3, 4)]));
        assert!(check(&[(Deed::Write(Some(A)), 1, 0), (Deed::Exists, 3, 4)]));
    }

    #[test]
    fn a_report_ends_with_the_answer_that_cannot_be() {
        let history: Vec<Entry> =
            [(Deed::Write(Some(A)), 1, 2), (Deed::Read(None), 3, 4), (Deed::Write(Some(B)), 5, 6)]
                .map(|(deed, called, returned)| Entry { deed, called, returned, settled: true })
                .to_vec();
        let told = unexplained(&history).map(|entries| entries.iter().map(|entry| entry.deed).collect::<Vec<_>>());
        assert_eq!(told, Some(vec![Deed::Write(Some(A)), Deed::Read(None)]));
        assert!(unexplained(&history[2..]).is_none());
    }

    #[test]
    fn an_unknown_delete_explains_an_absence() {
        let history = [
            (Deed::Write(Some(A)), 1, 2),
            (Deed::Write(None), 3, 0),
            (Deed::Read(Some(A)), 4, 5),
            (Deed::Read(None), 6, 7),
        ];
        assert!(check(&history));
        assert!(!check(&[history[0], history[2], history[3]]));
    }
}
