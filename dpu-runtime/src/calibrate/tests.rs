use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use mesh_core::{ErrorKind, WorkOutcome};
use proptest::prelude::*;

use super::*;
use crate::{load::thread_cpu_time, offload::software::Software};

/// Counts up.
struct Counting(u8);

impl Entropy for Counting {
    fn fill(&mut self, target: &mut [u8]) {
        for byte in target {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
    }
}

/// A back end on which time goes by as it is told: sealing takes 1000 ns and 2 ns a byte, opening 2000 ns, coding half
/// a nanosecond a byte, joining nothing.
struct Timed {
    software: Software,
    now_ns: Arc<AtomicU64>,
}

impl Compute for Timed {
    fn run(&self, job: ComputeJob) -> WorkOutcome {
        let took = match &job {
            ComputeJob::Seal { plain, .. } => 1000 + 2 * plain.len(),
            ComputeJob::Open { .. } => 2000,
            ComputeJob::Encode { bytes, .. } => bytes.len() / 2,
            ComputeJob::WrapKey { .. } | ComputeJob::Decode { .. } => 0,
            ComputeJob::Compress { .. } | ComputeJob::Decompress { .. } => {
                unreachable!("what it costs depends on what is put")
            }
        };
        self.now_ns.fetch_add(took as u64, Relaxed);
        self.software.run(job)
    }

    fn is_small(&self, job: &ComputeJob) -> bool {
        self.software.is_small(job)
    }
}

fn cost(ns_per_request: u64, ps_per_byte: u64) -> Cost {
    Cost { ns_per_request, ps_per_byte }
}

/// Measures [`Timed`], and a policy of 70 ns; counts how often that was asked.
fn with_bench<T>(run: impl FnOnce(&mut Bench<'_>) -> T) -> (T, u64) {
    let (now_ns, calls) = (Arc::new(AtomicU64::new(5)), AtomicU64::new(0));
    let backend = |keys, pool| -> Box<dyn Compute> {
        Box::new(Timed { software: Software::new(keys, pool), now_ns: now_ns.clone() })
    };
    let policy = || {
        calls.fetch_add(1, Relaxed);
        now_ns.fetch_add(70, Relaxed);
    };
    let mut bench = Bench {
        backend: &backend,
        clock: &|| Duration::from_nanos(now_ns.load(Relaxed)),
        entropy: &mut Counting(0),
        fixed: vec![Fixed { name: "policy", run: Box::new(policy) }],
    };
    let result = run(&mut bench);
    drop(bench);
    (result, calls.load(Relaxed))
}

fn expected() -> BTreeMap<String, Cost> {
    let costs = [
        ("encrypt.seal", cost(1000, 2000)),
        ("encrypt.open", cost(2000, 0)),
        ("erasure.encode", cost(0, 500)),
        ("erasure.decode", cost(0, 0)),
        ("checksum", cost(0, 0)),
        ("policy", cost(70, 0)),
    ];
    costs.map(|(name, cost)| (name.to_owned(), cost)).into()
}

#[test]
fn a_line_goes_through_both_points() {
    assert_eq!(Cost::fit((4096, 1000 + 2 * 4096), (1 << 20, 1000 + 2 * (1 << 20))), cost(1000, 2000));
    assert_eq!(Cost::fit((0, 50), (1000, 150)), cost(50, 100));
    assert_eq!(Cost::fit((100, 500), (200, 400)), cost(500, 0), "noise: more bytes took less");
    assert_eq!(Cost::fit((100, 1), (200, 1_000)), cost(0, 9_990), "noise: less than nothing a request");
    assert_eq!(Cost::fit((7, 3), (7, 9)), cost(3, 0));
    assert_eq!(cost(1000, 2000).ns(1 << 20), 1000 + 2 * (1 << 20));
    assert_eq!(cost(u64::MAX, u64::MAX).ns(u64::MAX), u64::MAX);
}

#[test]
fn measures_exactly_what_the_clock_shows() {
    let (calibration, calls) = with_bench(|bench| Calibration::measure("here".to_owned(), bench).unwrap());
    assert_eq!(calibration, Calibration { machine: "here".to_owned(), costs: expected() });
    assert!(calls.is_multiple_of(u64::from(FIXED_TIMES)) && calls > 2 * u64::from(FIXED_TIMES));
}

#[test]
fn a_slow_machine_is_measured_in_one_round() {
    let now_ns = Arc::new(AtomicU64::new(0));
    let backend = |keys, pool| -> Box<dyn Compute> { Box::new(Software::new(keys, pool)) };
    let rounds = AtomicU64::new(0);
    let slow = || {
        now_ns.fetch_add(1_000_000_000, Relaxed);
        rounds.fetch_add(1, Relaxed);
    };
    let mut bench = Bench {
        backend: &backend,
        clock: &|| Duration::from_nanos(now_ns.load(Relaxed)),
        entropy: &mut Counting(0),
        fixed: vec![Fixed { name: "policy", run: Box::new(slow) }],
    };
    let calibration = Calibration::measure("slow".to_owned(), &mut bench).unwrap();
    drop(bench);
    assert_eq!(calibration.costs["policy"], cost(1_000_000_000, 0));
    assert_eq!(rounds.into_inner(), u64::from(FIXED_TIMES));
}

#[test]
fn a_function_costs_what_its_dearer_direction_does() {
    let calibration = Calibration { machine: String::new(), costs: expected() };
    assert_eq!(calibration.function("encrypt"), Some(cost(2000, 2000)));
    assert_eq!(calibration.function("erasure"), Some(cost(0, 500)));
    assert_eq!(calibration.function("policy"), Some(cost(70, 0)));
    assert_eq!(calibration.function("enc"), None);
    assert_eq!(calibration.function("drive"), None);
}

#[test]
fn what_was_measured_is_kept_until_the_machine_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let run = |machine: &str| {
        let ((calibration, origin), calls) =
            with_bench(|bench| Calibration::load_or_measure(dir.path(), machine.to_owned(), bench).unwrap());
        assert_eq!(calibration, Calibration { machine: machine.to_owned(), costs: expected() });
        match origin {
            Origin::Kept => {
                assert_eq!(calls, 0);
                None
            }
            Origin::Measured { because, not_kept } => {
                assert!(calls > 0 && not_kept.is_none());
                Some(because)
            }
        }
    };
    assert_eq!(run("one").as_deref(), Some("nothing was measured before"));
    assert_eq!(run("one"), None);
    assert_eq!(run("two").as_deref(), Some("it was measured on another machine"));
    assert_eq!(run("two"), None);
    let path = dir.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    bytes[30] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(run("two").as_deref(), Some("the file is damaged, or of another format"));
    assert_eq!(run("two"), None);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left there");
}

#[test]
fn a_kept_one_that_lacks_a_function_is_measured_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut costs = expected();
    costs.remove("policy");
    file::keep(&dir.path().join(FILE), &Calibration { machine: "here".to_owned(), costs }).unwrap();
    let ((calibration, origin), _) =
        with_bench(|bench| Calibration::load_or_measure(dir.path(), "here".to_owned(), bench).unwrap());
    assert_eq!(calibration.costs, expected());
    assert!(matches!(origin, Origin::Measured { because, .. } if because.contains("lacks a function")));
}

#[test]
fn a_folder_that_is_not_there_is_said_and_does_no_harm() {
    let ((calibration, origin), _) = with_bench(|bench| {
        Calibration::load_or_measure(Path::new("/nonexistent/folder"), "here".to_owned(), bench).unwrap()
    });
    assert_eq!(calibration.costs, expected());
    assert!(matches!(origin, Origin::Measured { not_kept: Some(_), .. }));
}

#[test]
fn a_back_end_that_refuses_is_an_error() {
    struct Refusing;
    impl Compute for Refusing {
        fn run(&self, _: ComputeJob) -> WorkOutcome {
            Err(Error::new(ErrorKind::Unsupported, "not here"))
        }
        fn is_small(&self, _: &ComputeJob) -> bool {
            true
        }
    }
    let backend = |_, _| -> Box<dyn Compute> { Box::new(Refusing) };
    let clock = || Duration::ZERO;
    let mut bench = Bench { backend: &backend, clock: &clock, entropy: &mut Counting(0), fixed: vec![] };
    let error = Calibration::measure(String::new(), &mut bench).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn software_on_this_machine_costs_something() {
    let backend = |keys, pool| -> Box<dyn Compute> { Box::new(Software::new(keys, pool)) };
    let machine = fingerprint(Path::new("/"), "software");
    let mut bench = Bench { backend: &backend, clock: &thread_cpu_time, entropy: &mut Counting(0), fixed: vec![] };
    let before = thread_cpu_time();
    let calibration = Calibration::measure(machine.clone(), &mut bench).unwrap();
    let took = thread_cpu_time() - before;
    println!("{machine}, in {took:?} of CPU time:");
    for (name, cost) in &calibration.costs {
        println!("  {name:<16} {:>6} ns a request, {:>5} ps a byte", cost.ns_per_request, cost.ps_per_byte);
    }
    assert_eq!(calibration.machine, machine);
    assert!(calibration.costs["encrypt.seal"].ps_per_byte > 0);
    assert!(calibration.costs["erasure.encode"].ps_per_byte > 0);
}

#[test]
fn a_fingerprint_names_the_processor() {
    let root = tempfile::tempdir().unwrap();
    let seen = |info: &str| {
        fs::create_dir_all(root.path().join("proc")).unwrap();
        fs::write(root.path().join("proc/cpuinfo"), info).unwrap();
        fingerprint(root.path(), "software")
    };
    assert!(seen("processor : 0\nmodel name\t: AMD EPYC 9654\n").starts_with("AMD EPYC 9654; "));
    assert!(seen("CPU implementer\t: 0x41\nCPU part\t: 0xd42\n").starts_with("Arm 0x41 part 0xd42; "));
    assert!(seen("\u{0}").starts_with("unknown processor; "));
    let here = seen("model name: a\u{7}b");
    assert!(here.starts_with("a b; ") && here.contains("; software; mesh "), "{here}");
    assert!(fingerprint(Path::new("/nonexistent"), "doca").contains("; doca; "));
}

proptest! {
    #[test]
    fn no_fit_panics(small: (u64, u64), large: (u64, u64), bytes: u64) {
        let cost = Cost::fit(small, large);
        prop_assert!(cost.ns(bytes) >= cost.ns_per_request);
    }

    #[test]
    fn a_line_is_found_again(ns in 0..1_000_000_u64, tens_of_ps in 0..100_000_u64) {
        // Whole nanoseconds at both points.
        let wanted = cost(ns, tens_of_ps * 10);
        let at = |bytes| (bytes, wanted.ns(bytes));
        prop_assert_eq!(Cost::fit(at(4_000), at(1_000_000)), wanted);
    }
}
