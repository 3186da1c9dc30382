//! What this machine is: a host, with which cards, or a DPU.
//!
//! The probe reads files below a root that it is given, says what it found in each and what it concludes from that,
//! and changes nothing. It runs no tool and opens no device but the rshim driver's text file. Every read is bounded in
//! bytes, nothing that a file may hold makes it fail, and what could not be read is a finding like any other. Time is
//! not bounded: a driver that hangs makes its reader wait, so do not call this from a thread that others need.
//!
//! **A card is not a usable DPU.** BlueFields that ship as SuperNICs are in NIC mode, where the Arm cores are off. The
//! host sees a card's mode only where the driver tells it (BlueField-3), or where somebody asks the firmware:
//! [`probe_with`] takes the text of that answer. And a host that a card does not trust sees nothing: the agent on such
//! a DPU announces itself over the mesh. So `usable` is what the host can prove, and a node that joins proves more.

mod firmware;
mod own;
mod pci;
mod read;
mod rshim;

use core::fmt;
use std::path::Path;

use mesh_core::topology::NodeKind;
use serde::{Deserialize, Serialize};

pub use self::pci::{Function, FunctionKind};
use self::{own::Own, pci::Slots, read::Reader, rshim::Rshim};
use mesh_core::bluefield::Generation;

/// Findings that a report keeps at most.
pub const FINDINGS_MAX: usize = 256;

/// What a machine is, and how the probe came to think so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Where this process runs.
    pub here: Where,
    /// The vendor's cards on this machine's PCI bus, by address.
    pub cards: Vec<Card>,
    /// What was found, in the order of looking.
    pub findings: Vec<Finding>,
}

/// Where a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Where {
    /// On a machine that is no DPU.
    Host,
    /// On a DPU's Arm cores.
    Dpu {
        /// Which; `None` if the machine does not say enough.
        generation: Option<Generation>,
    },
    /// Nothing was found that says what this is.
    Other,
}

/// A card of the vendor's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// `domain:bus:device` on the PCI bus.
    pub address: String,
    /// Which BlueField; `None`: another card.
    pub generation: Option<Generation>,
    /// Its functions, at most 64.
    pub functions: Vec<Function>,
    /// What its Arm side does.
    pub mode: Mode,
    /// Whether a mesh node can run on it, as far as can be seen from here.
    pub usable: bool,
    /// Why, and what to do about it.
    pub why: String,
}

/// What the Arm side of a card does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It runs Linux and the card's network goes through it.
    Dpu,
    /// It is off; the card is a network adapter.
    Nic,
    /// It runs Linux beside the host, and the host's network does not go through it.
    SeparatedHost,
    /// The host has no way to look: it is not trusted, or the way was switched off.
    ZeroTrust,
    /// The firmware did not start.
    Recovery,
    /// It has an Arm side, and nothing says what that does.
    Unknown,
    /// It has none: the card is no BlueField.
    NoArm,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The file or folder.
    pub path: String,
    /// What stands there: at most 160 characters, without control characters.
    pub said: String,
    /// What that means.
    pub means: String,
}

/// Looks at the machine whose files are below `root`.
#[must_use]
pub fn probe(root: &Path) -> Report {
    probe_with(root, &|_| None)
}

/// The same; `firmware` is asked, with the address of its first network function, for what `mstconfig -d <address> q`
/// says of each BlueField. It answers `None` where that tool is not there.
#[must_use]
pub fn probe_with(root: &Path, firmware: &dyn Fn(&str) -> Option<String>) -> Report {
    let mut reader = Reader::new(root);
    let slots = pci::scan(&mut reader);
    let bf4_port = slots
        .values()
        .flatten()
        .any(|function| matches!(pci::classify(function.device), (FunctionKind::Nic, Some(Generation::Bf4))));
    let own = own::look(&mut reader, bf4_port);
    let rshims = rshim::scan(&mut reader);
    let here = match own {
        Own::Dpu(generation) => Where::Dpu { generation },
        Own::Nothing if slots.is_empty() && rshims.is_empty() => Where::Other,
        Own::Machine | Own::Nothing => Where::Host,
    };
    let mut cards: Vec<Card> = Vec::new();
    for (address, functions) in &slots {
        cards.push(card(&mut reader, here, &slots, address, functions.clone(), &rshims, firmware));
    }
    Report { here, cards, findings: reader.findings }
}

fn card(
    reader: &mut Reader<'_>,
    here: Where,
    slots: &Slots,
    address: &str,
    functions: Vec<Function>,
    rshims: &[Rshim],
    firmware: &dyn Fn(&str) -> Option<String>,
) -> Card {
    let generation = functions.iter().find_map(|function| pci::classify(function.device).1);
    let (mode, why) = match generation {
        None => {
            let device = functions.first().map_or(0, |function| function.device);
            (Mode::NoArm, format!("{}: it has no Arm cores", pci::other_name(device)))
        }
        Some(_) if matches!(here, Where::Dpu { .. }) => {
            (Mode::Dpu, "the card that this machine itself is: its ports, seen from inside".to_owned())
        }
        Some(generation) => {
            let rshim = rshim_of(rshims, slots, address, generation);
            mode_of(reader, generation, &functions, rshim, firmware)
        }
    };
    let usable = mode == Mode::Dpu && !matches!(here, Where::Dpu { .. });
    Card { address: address.to_owned(), generation, functions, mode, usable, why }
}

/// The driver's device of a card: the one that names its address; else, where that cannot be misunderstood, the only
/// one of its generation.
fn rshim_of<'a>(rshims: &'a [Rshim], slots: &Slots, address: &str, generation: Generation) -> Option<&'a Rshim> {
    if let Some(named) = rshims.iter().find(|rshim| rshim.slot.as_deref() == Some(address)) {
        return Some(named);
    }
    let cards = slots
        .values()
        .filter(|functions| functions.iter().any(|function| pci::classify(function.device).1 == Some(generation)));
    let mut unnamed = rshims.iter().filter(|rshim| rshim.slot.is_none() && rshim.generation == Some(generation));
    let (first, second) = (unnamed.next(), unnamed.next());
    if cards.count() == 1 && second.is_none() { first } else { None }
}

/// What a BlueField's Arm side does, as seen from the host, and why we think so.
fn mode_of(
    reader: &mut Reader<'_>,
    generation: Generation,
    functions: &[Function],
    rshim: Option<&Rshim>,
    firmware: &dyn Fn(&str) -> Option<String>,
) -> (Mode, String) {
    let has = |kind| functions.iter().any(|function| function.kind == kind);
    if has(FunctionKind::Recovery) {
        return (Mode::Recovery, "the card's firmware did not start: burn it again, then power-cycle".to_owned());
    }
    if let Some(rshim) = rshim {
        let device = &rshim.device;
        if rshim.locked {
            return (Mode::Nic, format!("{device} says secure NIC mode: the Arm cores are off"));
        }
        match rshim.mode.as_deref() {
            Some("DPU mode") => return (Mode::Dpu, format!("{device} says DPU mode: start mesh on its Arm Linux")),
            Some("NIC mode") => {
                return (Mode::Nic, format!("{device} says NIC mode: the Arm cores are off; set DPU mode to use them"));
            }
            _ => {}
        }
    }
    let port = functions.iter().find(|function| function.kind == FunctionKind::Nic);
    if let Some(port) = port
        && let Some(answer) = firmware(&port.address)
    {
        let mode = firmware::mode(&answer);
        let (said, means) = match mode {
            Some(Mode::Dpu) => ("INTERNAL_CPU_MODEL=1, INTERNAL_CPU_OFFLOAD_ENGINE=0", "DPU mode"),
            Some(Mode::Nic) => ("INTERNAL_CPU_MODEL=1, INTERNAL_CPU_OFFLOAD_ENGINE=1", "NIC mode"),
            Some(_) => ("INTERNAL_CPU_MODEL=0", "separated host"),
            None => ("no INTERNAL_CPU settings", "the firmware's answer does not tell the mode"),
        };
        reader.found(&format!("sys/bus/pci/devices/{}", port.address), said, format!("the firmware says: {means}"));
        match mode {
            Some(Mode::Dpu) => {
                return (Mode::Dpu, "its firmware says DPU mode: start mesh on its Arm Linux".to_owned());
            }
            Some(Mode::Nic) => {
                let why = "its firmware says NIC mode: the Arm cores do no work; set DPU mode to use them";
                return (Mode::Nic, why.to_owned());
            }
            Some(_) => {
                let why = "its firmware says separated host: the Arm side is a machine beside this one, and the host's \
                           network does not go through it; set DPU mode to use it";
                return (Mode::SeparatedHost, why.to_owned());
            }
            None => {}
        }
    }
    if !has(FunctionKind::Management) && rshim.is_none() {
        let why = "no management function: the card does not trust this host, or its rshim is off. The host cannot \
                   look into it; a mesh node on it announces itself";
        return (Mode::ZeroTrust, why.to_owned());
    }
    let why = match (rshim, generation) {
        (None, _) => {
            "its management function is there, and no /dev/rshim: start the rshim driver, or ask the \
                      firmware (mstconfig q)"
        }
        (Some(_), Generation::Bf3) => "the driver does not know its mode: ask the firmware (mstconfig q)",
        (Some(_), _) => "the driver tells the mode of a BlueField-3 only: ask the firmware (mstconfig q)",
    };
    (Mode::Unknown, format!("{why}; a mesh node on it announces itself"))
}

impl Where {
    /// As what a node that runs here joins the mesh.
    #[must_use]
    pub const fn node_kind(self) -> NodeKind {
        match self {
            Self::Dpu { .. } => NodeKind::Dpu,
            Self::Host | Self::Other => NodeKind::Host,
        }
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("a host"),
            Self::Dpu { generation: Some(generation) } => write!(f, "a DPU: {}", generation.product()),
            Self::Dpu { generation: None } => f.write_str("a DPU: a BlueField of unknown generation"),
            Self::Other => {
                f.write_str("nothing that is known: no PCI devices of the vendor, no DMI, no CPU information")
            }
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dpu => "DPU mode",
            Self::Nic => "NIC mode",
            Self::SeparatedHost => "separated host",
            Self::ZeroTrust => "hidden (zero trust)",
            Self::Recovery => "recovery",
            Self::Unknown => "unknown mode",
            Self::NoArm => "no DPU",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "This machine is {}.", self.here)?;
        if self.cards.is_empty() {
            writeln!(f, "No card of the vendor's is on its PCI bus.")?;
        }
        for card in &self.cards {
            let name = card.generation.map_or("another card", Generation::product);
            let usable = if card.usable { "usable" } else { "not usable" };
            writeln!(f, "Card {}: {name}, {}, {usable}: {}.", card.address, card.mode, card.why)?;
        }
        if !self.findings.is_empty() {
            writeln!(f, "Found:")?;
        }
        for finding in &self.findings {
            writeln!(f, "  {}: {}", finding.path, finding.said)?;
            writeln!(f, "      {}", finding.means)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
