//! The PCI functions of the vendor, and which card each is of.
//!
//! ```text
//! generation      network function    management    recovery
//! BlueField       a2d2                c2d2          0211
//! BlueField-2     a2d6                c2d3          0214, 0215
//! BlueField-3     a2d9 (Lx), a2dc     c2d4, c2d5    021a, 021b (Lx), 021c, 021d
//! BlueField-4     a2df                c2d6          0220, 0221
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::read::Reader;
use mesh_core::bluefield::Generation;

/// What a PCI function is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FunctionKind {
    /// A network port of a BlueField.
    Nic,
    /// The way to the Arm side: what the rshim driver uses.
    Management,
    /// The card's firmware did not start.
    Recovery,
    /// Another device of the vendor, such as a ConnectX port or a virtual function.
    Other,
}

/// One PCI function of the vendor's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// `domain:bus:device.function`.
    pub address: String,
    /// The device id.
    pub device: u16,
    /// What it is for.
    pub kind: FunctionKind,
}

/// A card's functions, by `domain:bus:device`.
pub(super) type Slots = BTreeMap<String, Vec<Function>>;

/// What a device id stands for.
pub(super) const fn classify(device: u16) -> (FunctionKind, Option<Generation>) {
    use FunctionKind::{Management, Nic, Other, Recovery};
    match device {
        0xa2d2 => (Nic, Some(Generation::Bf1)),
        0xa2d6 => (Nic, Some(Generation::Bf2)),
        0xa2d9 | 0xa2dc => (Nic, Some(Generation::Bf3)),
        0xa2df => (Nic, Some(Generation::Bf4)),
        0xc2d2 => (Management, Some(Generation::Bf1)),
        0xc2d3 => (Management, Some(Generation::Bf2)),
        0xc2d4 | 0xc2d5 => (Management, Some(Generation::Bf3)),
        0xc2d6 => (Management, Some(Generation::Bf4)),
        0x0211 => (Recovery, Some(Generation::Bf1)),
        0x0214 | 0x0215 => (Recovery, Some(Generation::Bf2)),
        0x021a..=0x021d => (Recovery, Some(Generation::Bf3)),
        0x0220 | 0x0221 => (Recovery, Some(Generation::Bf4)),
        _ => (Other, None),
    }
}

/// Every card with a function of the vendor's, at most [`CARDS_MAX`].
pub(super) fn scan(reader: &mut Reader<'_>) -> Slots {
    let mut slots = Slots::new();
    for address in reader.names(DEVICES) {
        let Some(slot) = slot_of(&address) else { continue };
        let folder = format!("{DEVICES}/{address}");
        if id(reader, &format!("{folder}/vendor")) != Some(VENDOR) {
            continue;
        }
        let Some(device) = id(reader, &format!("{folder}/device")) else { continue };
        if slots.len() == CARDS_MAX && !slots.contains_key(slot) {
            reader.found(DEVICES, address, format!("more than {CARDS_MAX} cards: the rest was not looked at"));
            break;
        }
        let functions = slots.entry(slot.to_owned()).or_default();
        let (kind, generation) = classify(device);
        // A card has hundreds of virtual functions at most, and they tell nothing: one of each kind beside its own.
        if kind != FunctionKind::Other || !functions.iter().any(|other| other.device == device) {
            let means = match (kind, generation) {
                (FunctionKind::Nic, Some(generation)) => format!("a network function of a {}", generation.product()),
                (FunctionKind::Management, Some(generation)) => {
                    format!("the management function of a {}", generation.product())
                }
                (FunctionKind::Recovery, Some(generation)) => {
                    format!("a {} in recovery: its firmware did not start", generation.product())
                }
                _ => format!("{}: no DPU", other_name(device)),
            };
            reader.found(&folder, format!("{VENDOR:04x}:{device:04x}"), means);
        }
        if functions.len() < FUNCTIONS_MAX {
            functions.push(Function { address, device, kind });
        }
    }
    slots
}

/// `domain:bus:device` of an address; `None` for a name that is no address.
pub(super) fn slot_of(address: &str) -> Option<&str> {
    let (slot, function) = address.rsplit_once('.')?;
    let hex = |text: &str, len: core::ops::RangeInclusive<usize>| {
        len.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let mut parts = slot.split(':');
    let valid = hex(parts.next()?, 4..=8)
        && hex(parts.next()?, 2..=2)
        && hex(parts.next()?, 2..=2)
        && parts.next().is_none()
        && hex(function, 1..=1);
    valid.then_some(slot)
}

fn id(reader: &mut Reader<'_>, path: &str) -> Option<u16> {
    let text = reader.text(path)?;
    let number = u16::from_str_radix(text.strip_prefix("0x").unwrap_or(&text), 16).ok();
    if number.is_none() {
        reader.found(path, text, "not a PCI id");
    }
    number
}

/// For people.
pub(super) const fn other_name(device: u16) -> &'static str {
    match device {
        0x1013 | 0x1015 => "a ConnectX-4",
        0x1017 | 0x1019 => "a ConnectX-5",
        0x101b | 0x101d | 0x101f => "a ConnectX-6",
        0x1021 => "a ConnectX-7",
        0x1023 => "a ConnectX-8",
        0x1014 | 0x1016 | 0x1018 | 0x101a | 0x101c | 0x101e | 0xa2d3 => "a virtual function",
        _ => "another device of the vendor",
    }
}

const DEVICES: &str = "sys/bus/pci/devices";
const VENDOR: u16 = 0x15b3;
/// Cards of one machine.
const CARDS_MAX: usize = 64;
/// Kept of one card.
const FUNCTIONS_MAX: usize = 64;
