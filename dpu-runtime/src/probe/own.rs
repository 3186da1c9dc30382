//! The DPU's side: whether the machine that this process runs on is itself a BlueField.
//!
//! ```text
//! evidence                                   means
//! DMI product_name "BlueField-N ..."         generation N
//! DMI product_name "BlueField SoC ..."       a BlueField: CPU part 0xd42 is of generation 3, else ACPI decides
//! ACPI MLNXBF33, MLNXBF22, MLNXBF02          the SoC of generation 3, 2, 1: no host has these devices
//! platform device MLNXBF04                   the SoC of some generation
//! ACPI table TH500                           NVIDIA Grace, and the SoC of generation 4: decides nothing alone
//! /etc/mlnx-release                          the vendor's image for DPUs is installed: decides nothing alone
//! ```

use super::read::Reader;
use mesh_core::bluefield::Generation;

/// What the machine says of itself.
pub(super) enum Own {
    /// A BlueField; the generation if it is known.
    Dpu(Option<Generation>),
    /// A machine that is none.
    Machine,
    /// Nothing at all was found.
    Nothing,
}

/// `bf4_port`: whether a network function of a BlueField-4 is on this machine's PCI bus.
pub(super) fn look(reader: &mut Reader<'_>, bf4_port: bool) -> Own {
    let product = product(reader);
    let part = cpu_part(reader);
    let acpi = acpi_generation(reader);
    let soc = soc_device(reader);
    let th500 = is_th500(reader);
    if let Some(release) = reader.text(RELEASE) {
        let line = release.lines().next().unwrap_or_default();
        reader.found(RELEASE, line, "the vendor's image for DPUs is installed; that alone makes no DPU");
    }

    match &product {
        Product::Generation(generation) => return Own::Dpu(Some(*generation)),
        Product::Soc => return Own::Dpu(acpi.or_else(|| by_cpu(part))),
        Product::Other | Product::Unsaid => {}
    }
    if acpi.is_some() || soc {
        return Own::Dpu(acpi.or_else(|| by_cpu(part)));
    }
    if th500 {
        let alone = !(bf4_port && matches!(product, Product::Unsaid));
        let means = if alone {
            "NVIDIA Grace has this table too, and the product's name does not say BlueField-4: this is no DPU"
        } else {
            "together with a BlueField-4's port, and no product name that says otherwise: the SoC of a BlueField-4"
        };
        reader.found(DSDT, "TH500", means);
        if !alone {
            return Own::Dpu(Some(Generation::Bf4));
        }
    }
    let something = th500 || part.is_some() || matches!(product, Product::Other) || reader.exists("proc/cpuinfo");
    if something { Own::Machine } else { Own::Nothing }
}

enum Product {
    Generation(Generation),
    Soc,
    Other,
    Unsaid,
}

fn product(reader: &mut Reader<'_>) -> Product {
    let Some(name) = reader.text(PRODUCT).filter(|name| !name.is_empty()) else { return Product::Unsaid };
    let (product, means) = if let Some(rest) = name.strip_prefix("BlueField-") {
        let number = rest.chars().next();
        // Longer numbers would be generations that are not known here.
        let longer = rest.chars().nth(1).is_some_and(|next| next.is_ascii_digit());
        let known = Generation::ALL.into_iter().zip('1'..).find(|(_, digit)| Some(*digit) == number && !longer);
        match known {
            Some((generation, _)) => {
                (Product::Generation(generation), format!("this machine is a {}", generation.product()))
            }
            None => (Product::Soc, "a BlueField of a generation that is not known here".to_owned()),
        }
    } else if name.starts_with("BlueField SoC") {
        (Product::Soc, "a BlueField; its CPU and its ACPI devices tell the generation".to_owned())
    } else {
        (Product::Other, "not a BlueField by its product name".to_owned())
    };
    reader.found(PRODUCT, name, means);
    product
}

/// The part number of the first Arm core.
fn cpu_part(reader: &mut Reader<'_>) -> Option<u16> {
    let info = reader.text(CPUINFO)?;
    let field = |wanted: &str| {
        info.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == wanted).then(|| value.trim())
        })
    };
    let Some(value) = field("CPU part") else {
        let said = field("model name").map_or_else(|| "no CPU part".to_owned(), |model| format!("model name {model}"));
        reader.found(CPUINFO, said, "not an Arm core, and every BlueField has those");
        return None;
    };
    let part = value.strip_prefix("0x").and_then(|hex| u16::from_str_radix(hex, 16).ok());
    let means = match part {
        Some(CORTEX_A72) => "Cortex-A72: as in BlueField 1 and 2, and elsewhere",
        Some(CORTEX_A78) => "Cortex-A78: as in BlueField-3, and elsewhere",
        Some(NEOVERSE_V2) => "Neoverse V2: as in BlueField-4 and in NVIDIA Grace",
        Some(_) => "an Arm core that no known BlueField has",
        None => "not a part number",
    };
    reader.found(CPUINFO, format!("CPU part {value}"), means);
    part
}

fn acpi_generation(reader: &mut Reader<'_>) -> Option<Generation> {
    let markers = [("MLNXBF33", Generation::Bf3), ("MLNXBF22", Generation::Bf2), ("MLNXBF02", Generation::Bf1)];
    for folder in DEVICES {
        for name in reader.names(folder) {
            if let Some((_, generation)) = markers.iter().find(|(marker, _)| name.starts_with(marker)) {
                let means = format!("a device of the SoC of a {}", generation.product());
                reader.found(&format!("{folder}/{name}"), name, means);
                return Some(*generation);
            }
        }
    }
    None
}

fn soc_device(reader: &mut Reader<'_>) -> bool {
    for folder in DEVICES {
        let found = reader.names(folder).into_iter().find(|name| name.starts_with("MLNXBF04"));
        if let Some(name) = found {
            reader.found(&format!("{folder}/{name}"), name, "the boot device of a BlueField's SoC");
            return true;
        }
    }
    false
}

fn is_th500(reader: &mut Reader<'_>) -> bool {
    reader.bytes(DSDT).is_some_and(|table| table.windows(5).any(|window| window == b"TH500"))
}

/// The generation that a core belongs to, on a machine that is known to be a BlueField.
const fn by_cpu(part: Option<u16>) -> Option<Generation> {
    match part {
        Some(CORTEX_A78) => Some(Generation::Bf3),
        Some(NEOVERSE_V2) => Some(Generation::Bf4),
        // Generations 1 and 2 have the same.
        _ => None,
    }
}

const PRODUCT: &str = "sys/class/dmi/id/product_name";
const CPUINFO: &str = "proc/cpuinfo";
const RELEASE: &str = "etc/mlnx-release";
const DSDT: &str = "sys/firmware/acpi/tables/DSDT";
const DEVICES: [&str; 2] = ["sys/bus/acpi/devices", "sys/bus/platform/devices"];
const CORTEX_A72: u16 = 0xd08;
const CORTEX_A78: u16 = 0xd42;
const NEOVERSE_V2: u16 = 0xd4f;
