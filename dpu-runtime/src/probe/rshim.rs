//! The host's driver for the Arm side of a card: what `/dev/rshim<N>/misc` says.
//!
//! ```text
//! BF_MODE         DPU mode | NIC mode | Unknown | Reserved      BlueField-3 only
//! DEV_NAME        pcie-0000:21:00.2 | pcie-lf-0000:84:00.0 (recovery) | usb-3.3
//! DEV_INFO        BlueField-3(Rev 1)
//! SECURE_NIC_MODE 1 (0:no, 1:yes)                               NIC mode, and the driver is locked out
//! ```

use super::{
    pci::slot_of,
    read::{Reader, escaped},
};
use mesh_core::bluefield::Generation;

/// One device of the driver's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rshim {
    /// `/dev/rshim<N>`.
    pub(super) device: String,
    /// `BF_MODE`, as it stands there.
    pub(super) mode: Option<String>,
    /// The card's `domain:bus:device`, if the driver reaches it over PCI.
    pub(super) slot: Option<String>,
    /// From `DEV_INFO`.
    pub(super) generation: Option<Generation>,
    /// From `SECURE_NIC_MODE`.
    pub(super) locked: bool,
}

/// Every device of the driver's, at most [`DEVICES_MAX`].
pub(super) fn scan(reader: &mut Reader<'_>) -> Vec<Rshim> {
    let mut found = Vec::new();
    let mut numbers: Vec<u16> =
        reader.names("dev").iter().filter_map(|name| name.strip_prefix("rshim")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for number in numbers.into_iter().take(DEVICES_MAX) {
        let path = format!("dev/rshim{number}/misc");
        let Some(text) = reader.text(&path) else { continue };
        let rshim = parse(format!("/dev/rshim{number}"), &text);
        let means = match (rshim.generation, rshim.mode.as_deref()) {
            (Some(generation), Some(mode)) => format!("the driver reaches a {} in mode {mode:?}", generation.product()),
            (Some(generation), None) => {
                format!("the driver reaches a {}, whose mode it does not know", generation.product())
            }
            (None, _) => "the driver's device; it does not say of which card".to_owned(),
        };
        let wanted = ["BF_MODE", "DEV_NAME", "DEV_INFO", "SECURE_NIC_MODE"];
        let said: Vec<&str> =
            text.lines().filter(|line| wanted.iter().any(|key| line.starts_with(key))).take(4).collect();
        let said: Vec<String> = said.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        reader.found(&path, said.join("; "), means);
        found.push(rshim);
    }
    if reader.exists(TMFIFO) {
        reader.found(TMFIFO, "present", "the driver's network link to a card's Arm side, or, on a DPU, to its host");
    }
    found
}

fn parse(device: String, text: &str) -> Rshim {
    let mut rshim = Rshim { device, ..Rshim::default() };
    for line in text.lines().take(LINES_MAX) {
        let Some((key, value)) = line.trim().split_once(char::is_whitespace) else { continue };
        let value = value.trim();
        match key {
            "BF_MODE" => rshim.mode = Some(escaped(value)),
            "DEV_NAME" => {
                let address = value.strip_prefix("pcie-lf-").or_else(|| value.strip_prefix("pcie-"));
                rshim.slot = address.and_then(slot_of).map(str::to_ascii_lowercase);
            }
            "DEV_INFO" => {
                let digit = value.strip_prefix("BlueField-").and_then(|rest| rest.chars().next());
                rshim.generation = Generation::ALL
                    .into_iter()
                    .zip('1'..)
                    .find_map(|(generation, number)| (digit == Some(number)).then_some(generation));
            }
            "SECURE_NIC_MODE" => rshim.locked = value.starts_with('1'),
            _ => {}
        }
    }
    rshim
}

const TMFIFO: &str = "sys/class/net/tmfifo_net0";
/// As many as cards.
const DEVICES_MAX: usize = 64;
/// The driver writes some twenty, and up to a thousand of log.
const LINES_MAX: usize = 2048;
