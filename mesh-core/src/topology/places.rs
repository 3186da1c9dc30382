//! Where machines are, and which fail with each other.

use core::{fmt, str::FromStr};
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{error::Error, id::NodeId, limits::LOCATION_BYTES_MAX};

/// Where a machine is, as its configuration says: what may fail at once, the larger first, such as `zone-a/rack-3`, or `rack-3`
/// alone. One or two names of letters, digits, dots, hyphens and underscores, at most [`LOCATION_BYTES_MAX`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Location(String);

impl Location {
    /// The larger of the two that it names, and both: what only that is alike in is in one zone.
    #[must_use]
    pub fn levels(&self) -> [&str; 2] {
        [self.0.split_once('/').map_or(&*self.0, |(zone, _)| zone), &self.0]
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        let names = text.split('/');
        if text.len() <= LOCATION_BYTES_MAX && names.clone().count() <= 2 && names.clone().all(is_name) {
            return Ok(Self(text.to_owned()));
        }
        let what = "a location is a rack, or a zone and a rack, such as zone-a/rack-3: letters, digits, dots, hyphens and underscores";
        Err(Error::invalid(what).with("asked", text.escape_debug()))
    }
}

impl TryFrom<String> for Location {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Location> for String {
    fn from(location: Location) -> Self {
        location.0
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What nodes fail with: of each that is in a zone or a rack with another one, the least node of its zone and of its rack. Others
/// are alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Places(BTreeMap<NodeId, [NodeId; 2]>);

impl Places {
    /// Of nodes with their locations.
    #[must_use]
    pub fn of<'n>(nodes: impl IntoIterator<Item = (NodeId, Option<&'n Location>)>) -> Self {
        let located: BTreeMap<NodeId, &Location> =
            nodes.into_iter().filter_map(|(node, location)| Some((node, location?))).collect();
        let mut least: BTreeMap<(usize, &str), NodeId> = BTreeMap::new();
        for (node, location) in &located {
            for (level, name) in location.levels().into_iter().enumerate() {
                least.entry((level, name)).or_insert(*node);
            }
        }
        let place = |(node, location): (NodeId, &Location)| {
            let [zone, rack] = location.levels();
            Some((node, [*least.get(&(0, zone))?, *least.get(&(1, rack))?]))
        };
        Self(located.into_iter().filter_map(place).collect()).without_singles()
    }

    /// The same of these nodes alone: who is in none with another of them is not named.
    #[must_use]
    pub fn among(&self, nodes: &BTreeSet<NodeId>) -> Self {
        let mut least: BTreeMap<(usize, NodeId), NodeId> = BTreeMap::new();
        for node in nodes {
            let [zone, rack, _] = self.domains(*node);
            least.entry((0, zone)).or_insert(*node);
            least.entry((1, rack)).or_insert(*node);
        }
        let place = |node: &NodeId| {
            let [zone, rack, _] = self.domains(*node);
            Some((*node, [*least.get(&(0, zone))?, *least.get(&(1, rack))?]))
        };
        Self(nodes.iter().filter_map(place).collect()).without_singles()
    }

    fn without_singles(self) -> Self {
        let mut shared: BTreeMap<(usize, NodeId), usize> = BTreeMap::new();
        for place in self.0.values() {
            for domain in place.iter().copied().enumerate() {
                *shared.entry(domain).or_default() += 1;
            }
        }
        let is_shared = |place: &[NodeId; 2]| {
            place.iter().copied().enumerate().any(|domain| shared.get(&domain).is_some_and(|count| *count > 1))
        };
        Self(self.0.into_iter().filter(|(_, place)| is_shared(place)).collect())
    }

    /// A node's zone, its rack, and itself.
    #[must_use]
    pub fn domains(&self, node: NodeId) -> [NodeId; 3] {
        let [zone, rack] = self.0.get(&node).copied().unwrap_or([node; 2]);
        [zone, rack, node]
    }

    /// Whether no node says where it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_location_is_a_rack_or_a_zone_and_a_rack() {
        for text in ["rack-3", "zone-a/rack-3", "A.b_c-9/0"] {
            assert_eq!(text.parse::<Location>().map(String::from), Ok(text.to_owned()));
        }
        let long = "a".repeat(LOCATION_BYTES_MAX + 1);
        for text in ["", "/", "a/", "/a", "a/b/c", "a b", "\u{fc}", long.as_str()] {
            assert_eq!(text.parse::<Location>().map_err(|error| error.kind()), Err(ErrorKind::Invalid), "{text}");
        }
        let levels = |text: &str| text.parse::<Location>().expect("one").levels().map(str::to_owned);
        assert_eq!(levels("z/r"), ["z", "z/r"].map(str::to_owned));
        assert_eq!(levels("r"), ["r", "r"].map(str::to_owned));
    }

    #[test]
    fn who_is_in_no_rack_with_another_is_not_named() {
        let at = |racks: &[(u64, &str)]| {
            let located: Vec<(NodeId, Option<Location>)> =
                racks.iter().map(|(node, rack)| (NodeId(*node), rack.parse().ok())).collect();
            Places::of(located.iter().map(|(node, location)| (*node, location.as_ref())))
        };
        assert!(at(&[(1, "a"), (2, "b"), (3, "")]).is_empty());
        let places = at(&[(1, "y/a"), (2, "y/b"), (3, "z/c"), (4, "y/b"), (5, "w")]);
        let domains = |places: &Places, node| places.domains(NodeId(node)).map(|node| node.0);
        assert_eq!(
            [1, 2, 3, 4, 5].map(|node| domains(&places, node)),
            [[1, 1, 1], [1, 2, 2], [3, 3, 3], [1, 2, 4], [5, 5, 5]]
        );
        let among = |nodes: &[u64]| places.among(&nodes.iter().copied().map(NodeId).collect());
        assert_eq!(domains(&among(&[2, 3, 4]), 4), [2, 2, 4]);
        assert!(among(&[1, 3, 5]).is_empty() && among(&[2]).is_empty());
        assert_eq!(among(&[1, 2, 3, 4, 5]), places);
    }
}
