//! What is different between two maps of which one was made from the other.

use core::{cmp::Ordering, fmt};
use std::sync::Arc;

use super::{Node, SharedMap};

impl<K: Ord, V: PartialEq> SharedMap<K, V> {
    /// What is different in another map, ascending by key: each key with its value here and there. What both share is passed
    /// over as a whole, so that a map is compared to one that was made from it at the cost of the changes between them.
    #[must_use]
    pub fn diff<'m>(&'m self, after: &'m Self) -> Diff<'m, K, V> {
        Diff { before: Walk::over(&self.root), after: Walk::over(&after.root) }
    }
}

/// See [`SharedMap::diff`].
pub struct Diff<'m, K, V> {
    before: Walk<'m, K, V>,
    after: Walk<'m, K, V>,
}

/// What is left of one of the two maps, the least last.
struct Walk<'m, K, V>(Vec<Part<'m, K, V>>);

enum Part<'m, K, V> {
    /// A node, and how far above the entries it stands.
    Node(&'m Arc<Node<K, V>>, usize),
    Entry(&'m (K, V)),
}

impl<K, V> Part<'_, K, V> {
    fn least(&self) -> Option<&K> {
        match self {
            Self::Node(node, _) => node.least(),
            Self::Entry((key, _)) => Some(key),
        }
    }

    const fn height(&self) -> usize {
        match self {
            Self::Node(_, height) => *height,
            Self::Entry(_) => 0,
        }
    }
}

impl<'m, K, V> Walk<'m, K, V> {
    fn over(root: &'m Arc<Node<K, V>>) -> Self {
        let (mut height, mut node) = (1, root);
        while let Node::Inner(branches) = &**node
            && let Some(first) = branches.first()
        {
            (height, node) = (height + 1, &first.node);
        }
        // Only the root of an empty map is empty.
        Self(if root.width() == 0 { Vec::new() } else { vec![Part::Node(root, height)] })
    }

    /// Puts what stands under the next node in its place. Whether it was one.
    fn open(&mut self) -> bool {
        let Some(Part::Node(node, height)) = self.0.last() else { return false };
        let (node, height) = (*node, *height);
        self.0.pop();
        match &**node {
            Node::Leaf(entries) => self.0.extend(entries.iter().rev().map(Part::Entry)),
            Node::Inner(branches) => {
                let under = branches.iter().rev().map(|branch| Part::Node(&branch.node, height - 1));
                self.0.extend(under);
            }
        }
        true
    }

    /// The next entry, if it is one that comes next.
    fn take(&mut self) -> Option<&'m (K, V)> {
        match self.0.pop()? {
            Part::Entry(entry) => Some(entry),
            node @ Part::Node(..) => {
                self.0.push(node);
                None
            }
        }
    }
}

impl<'m, K: Ord, V: PartialEq> Iterator for Diff<'m, K, V> {
    type Item = (&'m K, Option<&'m V>, Option<&'m V>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (before, after) = (self.before.0.last(), self.after.0.last());
            if let (Some(Part::Node(one, _)), Some(Part::Node(other, _))) = (before, after)
                && Arc::ptr_eq(one, other)
            {
                self.before.0.pop();
                self.after.0.pop();
                continue;
            }
            let order = match (before, after) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(before), Some(after)) => {
                    let tall = before.height().cmp(&after.height());
                    let least = before.least().cmp(&after.least());
                    // The taller one is opened until both stand on one level: there they meet what they share.
                    match tall {
                        Ordering::Equal => least,
                        Ordering::Greater if before.height() > 0 && (after.height() > 0 || least.is_le()) => {
                            self.before.open();
                            continue;
                        }
                        Ordering::Less if before.height() > 0 || least.is_ge() => {
                            self.after.open();
                            continue;
                        }
                        // An entry before all that stands under a node.
                        _ => least,
                    }
                }
            };
            match order {
                Ordering::Less if self.before.open() => {}
                Ordering::Less => return self.before.take().map(|(key, value)| (key, Some(value), None)),
                Ordering::Greater if self.after.open() => {}
                Ordering::Greater => return self.after.take().map(|(key, value)| (key, None, Some(value))),
                // On one level: two nodes that are not shared, or two entries.
                Ordering::Equal if self.before.open() => {
                    self.after.open();
                }
                Ordering::Equal => {
                    let (before, after) = (self.before.take()?, self.after.take()?);
                    if before.1 != after.1 {
                        return Some((&before.0, Some(&before.1), Some(&after.1)));
                    }
                }
            }
        }
    }
}

impl<K, V> fmt::Debug for Diff<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Diff").finish_non_exhaustive()
    }
}
