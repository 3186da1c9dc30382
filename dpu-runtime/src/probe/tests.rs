//! Trees of files as machines have them, made below a temporary folder.

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::{read::escaped, *};

/// A machine's files.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// An x86-64 server without any card.
    fn server() -> Self {
        Self::new()
            .file("sys/class/dmi/id/product_name", "PowerEdge R760\n")
            .file("proc/cpuinfo", "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 9654\n")
            .pci("0000:00:00.0", 0x1022, 0x14a4)
    }

    fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn pci(self, address: &str, vendor: u16, device: u16) -> Self {
        let folder = format!("sys/bus/pci/devices/{address}");
        self.file(&format!("{folder}/vendor"), format!("0x{vendor:04x}\n"))
            .file(&format!("{folder}/device"), format!("0x{device:04x}\n"))
    }

    /// Two ports, and the management function behind them.
    fn card(self, slot: &str, nic: u16, management: u16) -> Self {
        self.pci(&format!("{slot}.0"), 0x15b3, nic).pci(&format!("{slot}.1"), 0x15b3, nic).pci(
            &format!("{slot}.2"),
            0x15b3,
            management,
        )
    }

    fn rshim(self, number: u16, slot: &str, generation: u8, mode: Option<&str>) -> Self {
        let mode = mode.map_or_else(String::new, |mode| format!("BF_MODE         {mode}\n"));
        let misc = format!(
            "DISPLAY_LEVEL   0 (0:basic, 1:advanced, 2:log)\n{mode}BOOT_MODE       1 (0:rshim, 1:emmc)\n\
             DROP_MODE       0 (0:normal, 1:drop)\nDEV_NAME        pcie-{slot}.2\n\
             DEV_INFO        BlueField-{generation}(Rev 1)\nOPN_STR         N/A\n"
        );
        self.file(&format!("dev/rshim{number}/misc"), misc)
            .file("sys/class/net/tmfifo_net0/address", "00:1a:ca:ff:ff:02\n")
    }

    /// A BlueField's Arm Linux.
    fn dpu(product: &str, part: &str, acpi: &[&str], nic: u16) -> Self {
        let tree = Self::new()
            .file("sys/class/dmi/id/product_name", format!("{product}\n"))
            .file("proc/cpuinfo", format!("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: {part}\n"))
            .file("etc/mlnx-release", "DOCA_2.9.1_BSP_4.9.1_Ubuntu_22.04\n")
            .pci("0000:03:00.0", 0x15b3, nic)
            .pci("0000:03:00.1", 0x15b3, nic);
        acpi.iter().fold(tree, |tree, name| tree.file(&format!("sys/bus/acpi/devices/{name}/path"), "\\_SB\n"))
    }

    fn probe(&self) -> Report {
        probe(self.0.path())
    }

    /// With an answer of the firmware's.
    fn probe_asking(&self, model: u8, engine: u8) -> Report {
        let answer = format!("INTERNAL_CPU_MODEL  A({model})\nINTERNAL_CPU_OFFLOAD_ENGINE  B({engine})\n");
        probe_with(self.0.path(), &|_| Some(answer.clone()))
    }
}

/// Address, generation, mode, usable.
fn cards(report: &Report) -> Vec<(&str, Option<Generation>, Mode, bool)> {
    report.cards.iter().map(|card| (&*card.address, card.generation, card.mode, card.usable)).collect()
}

/// Network and management function of each generation.
const IDS: [(Generation, u16, u16); 5] = [
    (Generation::Bf1, 0xa2d2, 0xc2d2),
    (Generation::Bf2, 0xa2d6, 0xc2d3),
    (Generation::Bf3, 0xa2d9, 0xc2d4),
    (Generation::Bf3, 0xa2dc, 0xc2d5),
    (Generation::Bf4, 0xa2df, 0xc2d6),
];

#[test]
fn an_empty_root_is_nothing_that_is_known() {
    let report = Tree::new().probe();
    assert_eq!(report, Report { here: Where::Other, cards: vec![], findings: vec![] });
    let printed = report.to_string();
    assert!(printed.starts_with("This machine is nothing that is known"), "{printed}");
    assert_eq!(probe(Path::new("/nonexistent/root")).here, Where::Other);
}

#[test]
fn a_server_without_cards_is_a_host() {
    let report = Tree::server().probe();
    assert_eq!((report.here, report.here.node_kind(), report.cards.len()), (Where::Host, NodeKind::Host, 0));
    let said: Vec<&str> = report.findings.iter().map(|finding| &*finding.said).collect();
    assert_eq!(said, ["PowerEdge R760", "model name AMD EPYC 9654"]);
}

#[test]
fn a_bluefield_3_tells_its_mode_through_the_driver() {
    let tree = |mode| Tree::server().card("0000:21:00", 0xa2dc, 0xc2d5).rshim(0, "0000:21:00", 3, mode);
    let seen = |mode, expected, usable| {
        let report = tree(Some(mode)).probe();
        assert_eq!(report.here, Where::Host);
        assert_eq!(cards(&report), [("0000:21:00", Some(Generation::Bf3), expected, usable)], "{report}");
        report
    };
    let report = seen("DPU mode", Mode::Dpu, true);
    assert!(report.cards[0].why.contains("/dev/rshim0 says DPU mode"), "{report}");
    assert_eq!(report.cards[0].functions.len(), 3);
    let report = seen("NIC mode", Mode::Nic, false);
    assert!(report.cards[0].why.contains("the Arm cores are off"), "{report}");
    seen("Unknown", Mode::Unknown, false);
    seen("Reserved", Mode::Unknown, false);
}

#[test]
fn secure_nic_mode_is_nic_mode() {
    let misc = "BF_MODE  Unknown\nDEV_NAME  pcie-0000:21:00.2\nDEV_INFO  BlueField-3(Rev 1)\nSECURE_NIC_MODE 1 (0:no, 1:yes)\n";
    let tree = Tree::server().card("0000:21:00", 0xa2dc, 0xc2d5).file("dev/rshim0/misc", misc);
    assert_eq!(cards(&tree.probe()), [("0000:21:00", Some(Generation::Bf3), Mode::Nic, false)]);
}

#[test]
fn every_generation_tells_its_mode_through_the_firmware() {
    for (generation, nic, management) in IDS {
        let tree = Tree::server().card("0000:81:00", nic, management);
        let seen = |report: Report, mode, usable| {
            assert_eq!(cards(&report), [("0000:81:00", Some(generation), mode, usable)], "{report}");
        };
        seen(tree.probe_asking(1, 0), Mode::Dpu, true);
        seen(tree.probe_asking(1, 1), Mode::Nic, false);
        seen(tree.probe_asking(0, 0), Mode::SeparatedHost, false);
        // Nobody asked, or the answer says nothing.
        seen(tree.probe(), Mode::Unknown, false);
        seen(probe_with(tree.0.path(), &|_| Some("-E- Failed to open the device".to_owned())), Mode::Unknown, false);
    }
}

#[test]
fn the_firmware_is_asked_for_the_first_port() {
    let tree = Tree::server().card("0000:81:00", 0xa2d6, 0xc2d3);
    let asked = core::cell::RefCell::new(Vec::new());
    let report = probe_with(tree.0.path(), &|address| {
        asked.borrow_mut().push(address.to_owned());
        None
    });
    assert_eq!(asked.into_inner(), ["0000:81:00.0"]);
    assert_eq!(report.cards[0].mode, Mode::Unknown);
}

#[test]
fn older_and_newer_generations_do_not_tell_their_mode_through_the_driver() {
    for (generation, number, nic, management) in [
        (Generation::Bf1, 1, 0xa2d2, 0xc2d2),
        (Generation::Bf2, 2, 0xa2d6, 0xc2d3),
        (Generation::Bf4, 4, 0xa2df, 0xc2d6),
    ] {
        let tree = Tree::server().card("0000:21:00", nic, management).rshim(0, "0000:21:00", number, None);
        let report = tree.probe();
        assert_eq!(cards(&report), [("0000:21:00", Some(generation), Mode::Unknown, false)]);
        assert!(report.cards[0].why.contains("tells the mode of a BlueField-3 only"), "{report}");
        assert_eq!(tree.probe_asking(1, 0).cards[0].mode, Mode::Dpu);
    }
}

#[test]
fn a_card_that_hides_its_management_does_not_trust_the_host() {
    for (generation, nic, _) in IDS {
        let report = Tree::server().pci("0000:21:00.0", 0x15b3, nic).pci("0000:21:00.1", 0x15b3, nic).probe();
        assert_eq!(cards(&report), [("0000:21:00", Some(generation), Mode::ZeroTrust, false)]);
        assert!(report.cards[0].why.contains("announces itself"), "{report}");
    }
}

#[test]
fn recovery_is_not_usable_whatever_the_driver_says() {
    let ids = [
        (0x0211, Generation::Bf1),
        (0x0214, Generation::Bf2),
        (0x0215, Generation::Bf2),
        (0x021a, Generation::Bf3),
        (0x021b, Generation::Bf3),
        (0x021c, Generation::Bf3),
        (0x021d, Generation::Bf3),
        (0x0220, Generation::Bf4),
        (0x0221, Generation::Bf4),
    ];
    for (id, generation) in ids {
        let tree = Tree::server().pci("0000:84:00.0", 0x15b3, id).rshim(0, "0000:84:00", 3, Some("DPU mode"));
        assert_eq!(cards(&tree.probe_asking(1, 0)), [("0000:84:00", Some(generation), Mode::Recovery, false)]);
    }
}

#[test]
fn a_plain_connectx_is_no_dpu() {
    for (id, name) in [(0x1017, "ConnectX-5"), (0x101d, "ConnectX-6"), (0x1021, "ConnectX-7"), (0x7777, "another")] {
        let report = Tree::server().pci("0000:41:00.0", 0x15b3, id).pci("0000:41:00.1", 0x15b3, id).probe();
        assert_eq!(cards(&report), [("0000:41:00", None, Mode::NoArm, false)]);
        assert!(report.cards[0].why.contains(name), "{report}");
    }
}

#[test]
fn devices_of_other_vendors_with_the_same_ids_are_nothing() {
    assert_eq!(Tree::server().pci("0000:41:00.0", 0x8086, 0xa2dc).probe().cards, []);
}

#[test]
fn each_card_is_told_by_its_own_driver_device() {
    let tree = Tree::server()
        .card("0000:21:00", 0xa2dc, 0xc2d5)
        .card("0000:c1:00", 0xa2dc, 0xc2d5)
        .rshim(10, "0000:21:00", 3, Some("NIC mode"))
        .rshim(2, "0000:c1:00", 3, Some("DPU mode"));
    let report = tree.probe();
    assert_eq!(
        cards(&report),
        [
            ("0000:21:00", Some(Generation::Bf3), Mode::Nic, false),
            ("0000:c1:00", Some(Generation::Bf3), Mode::Dpu, true)
        ]
    );
}

#[test]
fn a_driver_over_usb_is_believed_only_where_it_can_mean_one_card() {
    let usb = "BF_MODE  DPU mode\nDEV_NAME  usb-3.3\nDEV_INFO  BlueField-3(Rev 1)\n";
    let one = Tree::server().card("0000:21:00", 0xa2dc, 0xc2d5).file("dev/rshim0/misc", usb);
    assert_eq!(one.probe().cards[0].mode, Mode::Dpu);
    let two = one.card("0000:22:00", 0xa2dc, 0xc2d5);
    assert!(two.probe().cards.iter().all(|card| card.mode == Mode::Unknown && !card.usable));
    let other = Tree::server().card("0000:21:00", 0xa2d6, 0xc2d3).file("dev/rshim0/misc", usb);
    assert_eq!(other.probe().cards[0].mode, Mode::Unknown, "it is of another generation");
}

#[test]
fn a_dpu_knows_itself_by_its_product_name() {
    for (product, generation, nic) in [
        ("BlueField-1", Generation::Bf1, 0xa2d2),
        ("BlueField-2 DPU 25GbE", Generation::Bf2, 0xa2d6),
        ("BlueField-3 SmartNIC Main Card", Generation::Bf3, 0xa2dc),
        ("BlueField-4 DPU", Generation::Bf4, 0xa2df),
    ] {
        let report = Tree::dpu(product, "0xd08", &[], nic).probe();
        assert_eq!(report.here, Where::Dpu { generation: Some(generation) });
        assert_eq!(report.here.node_kind(), NodeKind::Dpu);
        assert_eq!(cards(&report), [("0000:03:00", Some(generation), Mode::Dpu, false)], "its own ports are no card");
        assert!(report.to_string().starts_with(&format!("This machine is a DPU: {}.", generation.product())));
    }
}

#[test]
fn a_bluefield_soc_is_told_by_its_cores_or_its_devices() {
    let here = |part, acpi: &[&str]| Tree::dpu("BlueField SoC", part, acpi, 0xa2dc).probe().here;
    let dpu = |generation| Where::Dpu { generation };
    assert_eq!(here("0xd42", &[]), dpu(Some(Generation::Bf3)));
    assert_eq!(here("0xd08", &["MLNXBF22:00"]), dpu(Some(Generation::Bf2)));
    assert_eq!(here("0xd08", &["MLNXBF02:00"]), dpu(Some(Generation::Bf1)));
    assert_eq!(here("0xd08", &[]), dpu(None), "generations 1 and 2 have the same cores");
    assert_eq!(here("garbage", &[]), dpu(None));
    let unknown = Tree::dpu("BlueField-17", "0xd42", &[], 0xa2dc).probe().here;
    assert_eq!(unknown, dpu(Some(Generation::Bf3)), "not generation 1");
}

#[test]
fn a_dpu_with_a_maker_s_product_name_knows_itself_by_its_devices() {
    let here = |part, acpi: &[&str]| Tree::dpu("Maker's Own Name", part, acpi, 0xa2dc).probe().here;
    assert_eq!(here("0xd42", &["MLNXBF33:00"]), Where::Dpu { generation: Some(Generation::Bf3) });
    assert_eq!(here("0xd42", &[]), Where::Host, "other machines have such cores, ports and images");
    let platform = Tree::new().file("sys/bus/platform/devices/MLNXBF04:00/lifecycle_state", "GA Secured\n");
    assert_eq!(platform.probe().here, Where::Dpu { generation: None });
}

#[test]
fn a_grace_machine_is_not_taken_for_a_dpu() {
    let grace = || {
        Tree::new()
            .file("sys/class/dmi/id/product_name", "Grace CPU Superchip\n")
            .file("proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n")
            .file("sys/firmware/acpi/tables/DSDT", b"DSDT\x10\0\0\0\x02\xffNVIDIATH500\0\0\0\0".as_slice())
    };
    assert_eq!(grace().probe().here, Where::Host);
    // Not either with a BlueField-4 in a slot.
    let report = grace().card("0001:01:00", 0xa2df, 0xc2d6).probe();
    assert_eq!(report.here, Where::Host);
    assert_eq!(cards(&report), [("0001:01:00", Some(Generation::Bf4), Mode::Unknown, false)]);
    assert!(report.to_string().contains("Grace has this table too"), "{report}");
}

#[test]
fn th500_with_a_bluefield_4_port_and_no_product_name_is_a_dpu() {
    let tree =
        Tree::new().file("sys/firmware/acpi/tables/DSDT", b"DSDT\x10\0\0\0\x02\xffNVIDIATH500\0\0\0\0".as_slice());
    assert_eq!(tree.probe().here, Where::Host);
    assert_eq!(tree.pci("0000:03:00.0", 0x15b3, 0xa2df).probe().here, Where::Dpu { generation: Some(Generation::Bf4) });
}

#[test]
fn what_cannot_be_read_is_a_finding() {
    let tree = Tree::server().card("0000:21:00", 0xa2dc, 0xc2d5);
    // A folder where a file should be.
    fs::create_dir_all(tree.0.path().join("dev/rshim0/misc")).unwrap();
    let report = tree.probe();
    assert_eq!(report.cards[0].mode, Mode::Unknown);
    let finding = report.findings.iter().find(|finding| finding.path.ends_with("dev/rshim0/misc")).unwrap();
    assert_eq!(finding.said, "neither a file nor a character device");
}

#[test]
fn a_finding_is_bounded_and_fit_for_a_terminal() {
    let name = format!("Evil\x1b[2J\u{202e}{}", "x".repeat(100_000));
    let report = Tree::server().file("sys/class/dmi/id/product_name", name).probe();
    let said = &report.findings[0].said;
    assert!(said.starts_with("Evil\\u{1b}[2J\\u{202e}xxx") && said.len() < 250, "{said}");
    assert!(said.ends_with(" ..."));
    assert!(!report.to_string().contains('\x1b'));
}

#[test]
fn findings_and_cards_are_bounded() {
    let mut tree = Tree::server();
    for bus in 0..100 {
        for function in 0..4 {
            tree = tree.pci(&format!("0000:{bus:02x}:01.{function}"), 0x15b3, 0xa2dc);
        }
    }
    let report = tree.probe();
    assert_eq!(report.cards.len(), 64);
    assert_eq!(report.findings.len(), FINDINGS_MAX);
    assert_eq!(report.findings.last().unwrap().said, "and more");
}

#[test]
fn virtual_functions_are_counted_once() {
    let mut tree = Tree::server().card("0000:21:00", 0xa2dc, 0xc2d5);
    for function in 3..8 {
        tree = tree.pci(&format!("0000:21:00.{function}"), 0x15b3, 0x101e);
    }
    let report = tree.probe();
    let said = report.findings.iter().filter(|finding| finding.said == "15b3:101e").count();
    assert_eq!((said, report.cards[0].functions.len(), report.cards[0].generation), (1, 8, Some(Generation::Bf3)));
}

#[test]
fn a_report_survives_json() {
    let report = Tree::server()
        .card("0000:21:00", 0xa2dc, 0xc2d5)
        .rshim(0, "0000:21:00", 3, Some("DPU mode"))
        .pci("0000:41:00.0", 0x15b3, 0x1017)
        .probe();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["here"]["kind"], "host");
    assert_eq!(json["cards"][0]["generation"], "bf3");
    assert_eq!(json["cards"][0]["mode"], "dpu");
    assert_eq!(json["cards"][0]["usable"], true);
    assert_eq!(json["cards"][1]["mode"], "no-arm");
    assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    let dpu = Tree::dpu("BlueField-2", "0xd08", &[], 0xa2d6).probe();
    assert_eq!(serde_json::to_value(&dpu).unwrap()["here"]["generation"], "bf2");
}

#[test]
fn this_machine_can_be_probed() {
    let report = probe(Path::new("/"));
    println!("{report}");
    assert!(report.to_string().starts_with("This machine is "));
    assert!(report.findings.len() <= FINDINGS_MAX);
}

/// Every file that is looked at.
const FILES: [&str; 12] = [
    "sys/bus/pci/devices/0000:21:00.0/vendor",
    "sys/bus/pci/devices/0000:21:00.0/device",
    "sys/bus/pci/devices/0000:21:00.2/vendor",
    "sys/bus/pci/devices/0000:21:00.2/device",
    "dev/rshim0/misc",
    "dev/rshim65535/misc",
    "sys/class/dmi/id/product_name",
    "proc/cpuinfo",
    "etc/mlnx-release",
    "sys/firmware/acpi/tables/DSDT",
    "sys/bus/acpi/devices/MLNXBF22:00/path",
    "sys/bus/pci/devices/not an address/vendor",
];

fn contents() -> impl Strategy<Value = Vec<u8>> {
    let known = proptest::sample::select(vec![
        "0x15b3",
        "0xa2dc",
        "a2df",
        "0xc2d5",
        "BlueField-",
        "BlueField SoC",
        "CPU part : 0xd42",
        "TH500",
        "BF_MODE ",
        "DPU mode\n",
        "DEV_NAME pcie-0000:21:00.2\n",
        "DEV_INFO BlueField-3",
        "SECURE_NIC_MODE 1\n",
        "\n",
        " ",
        "\u{0}",
    ]);
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        proptest::collection::vec(known, 0..8).prop_map(|parts| parts.concat().into_bytes()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_files_never_panic(
        files in proptest::collection::vec((0..FILES.len(), contents()), 0..12), answer in contents(),
    ) {
        let tree = files.iter().fold(Tree::new(), |tree, (file, content)| tree.file(FILES[*file], content));
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let report = probe_with(tree.0.path(), &|_| Some(answer.clone()));
        prop_assert!(report.findings.len() <= FINDINGS_MAX && report.cards.len() <= 64);
        prop_assert!(report.cards.iter().all(|card| !card.usable || card.mode == Mode::Dpu));
        prop_assert!(report.to_string().chars().all(|shown| shown == '\n' || !shown.is_control()));
        prop_assert!(serde_json::to_string(&report).is_ok());
    }

    #[test]
    fn arbitrary_text_is_shown_in_bounds(text in any::<String>()) {
        let shown = escaped(&text);
        prop_assert!(shown.len() <= 160 * 10 + 4 && !shown.chars().any(char::is_control));
    }
}
