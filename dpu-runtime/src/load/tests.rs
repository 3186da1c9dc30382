use mesh_core::{Buf, Pool, id::KeyId, port::Keys, topology::Code};
use proptest::prelude::*;

use super::*;
use crate::offload::software::Software;

struct NoKeys;

impl Keys for NoKeys {
    fn key(&self, _: KeyId) -> Option<[u8; 32]> {
        None
    }
}

fn report(requests: u64, bytes: u64, cpu_ns: u64, queued: u64) -> LoadReport {
    let load = FunctionLoad { requests, bytes, cpu_ns, queued };
    let process = ProcessUse { cpu_ns: 2 * cpu_ns, resident_bytes: 4096 };
    LoadReport { functions: BTreeMap::from([("encrypt".to_owned(), load)]), process }
}

#[test]
fn counts_what_was_added() {
    let load = Load::default();
    let counters = load.counters("encrypt").unwrap();
    counters.add(100, Duration::from_nanos(7));
    load.counters("encrypt").unwrap().add(20, Duration::from_nanos(5));
    let waiting = (counters.enter(), counters.enter());
    drop(waiting.0);
    let process = ProcessUse { cpu_ns: 24, resident_bytes: 4096 };
    assert_eq!(load.report(process), report(2, 120, 12, 1));
    drop(waiting.1);
    assert_eq!(load.report(process), report(2, 120, 12, 0));
}

#[test]
fn refuses_more_kinds_than_the_bound() {
    let load = Load::default();
    for kind in 0..KINDS_MAX {
        load.counters(&kind.to_string()).unwrap();
    }
    assert_eq!(load.counters("one more").unwrap_err().kind(), ErrorKind::Overloaded);
    load.counters("7").unwrap();
    assert_eq!(load.report(ProcessUse::default()).functions.len(), KINDS_MAX);
}

#[test]
fn a_rate_is_the_difference_over_the_time() {
    let (before, after) = (report(10, 1_000, 1_000_000, 3), report(110, 5_000, 501_000_000, 5));
    let rate = rate(&before, &after, Duration::from_millis(500));
    let encrypt = FunctionRate { requests: 200, bytes: 8_000, cpu_us: 1_000_000, queued: 5 };
    assert_eq!(
        rate,
        LoadRate {
            functions: BTreeMap::from([("encrypt".to_owned(), encrypt)]),
            cpu_us: 2_000_000,
            resident_bytes: 4096
        }
    );
}

#[test]
fn a_rate_bears_no_time_a_restart_and_new_functions() {
    let after = report(50, 50, 50_000, 0);
    assert_eq!(rate(&after, &after, Duration::ZERO).functions["encrypt"], FunctionRate::default());
    let restarted = rate(&report(1_000, 1_000, 1_000_000, 0), &after, Duration::from_secs(1));
    assert_eq!(restarted.functions["encrypt"].requests, 50);
    let new = rate(&LoadReport::default(), &after, Duration::from_secs(2));
    assert_eq!(new.functions["encrypt"].requests, 25);
    assert!(rate(&after, &LoadReport::default(), Duration::from_secs(1)).functions.is_empty());
    let huge = report(u64::MAX, u64::MAX, u64::MAX / 2, 0);
    let rate = rate(&LoadReport::default(), &huge, Duration::from_nanos(1));
    assert_eq!(rate.functions["encrypt"].requests, u64::MAX, "it saturates");
}

#[test]
fn reads_the_process_s_own_accounts() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("proc/self");
    fs::create_dir_all(&folder).unwrap();
    assert_eq!(ProcessUse::read(root.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    let stat = "123 (a) b (c) R 1 123 123 0 -1 4194304 100 0 0 0 150 50 9 9 20 0 1 0 5 6 7";
    fs::write(folder.join("stat"), stat).unwrap();
    fs::write(folder.join("statm"), "1000 300 200 1 0 99 0\n").unwrap();
    let ticks = rustix::param::clock_ticks_per_second();
    let expected =
        ProcessUse { cpu_ns: 200 * (1_000_000_000 / ticks), resident_bytes: 300 * rustix::param::page_size() as u64 };
    assert_eq!(ProcessUse::read(root.path()).unwrap(), expected);
    fs::write(folder.join("statm"), "1000").unwrap();
    assert_eq!(ProcessUse::read(root.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn this_process_has_used_something() {
    assert!(ProcessUse::read(Path::new("/")).unwrap().resident_bytes > 0);
    let before = thread_cpu_time();
    let mut sum = 0_u64;
    while thread_cpu_time() == before {
        sum = core::hint::black_box(sum + 1);
    }
    assert!(thread_cpu_time() > before);
}

#[test]
fn compute_jobs_are_counted_by_the_function_that_starts_them() {
    let load = Load::default();
    let software =
        Metered::new(Arc::new(Software::new(Arc::new(NoKeys), Pool::default())), Arc::new(thread_cpu_time), &load)
            .unwrap();
    let code = Code { data: 2, parity: 1 };
    let job = ComputeJob::Encode { code, bytes: Buf::zeroed(100_000) };
    assert!(!software.is_small(&job));
    software.run(job).unwrap();
    // A job that fails has used its time, too.
    let wrong = ComputeJob::WrapKey { key: KeyId(1), entropy: vec![0; 44] };
    assert_eq!(software.run(wrong).unwrap_err().kind(), ErrorKind::NotFound);
    let report = load.report(ProcessUse::default());
    let (encrypt, erasure) = (report.functions["encrypt"], report.functions["erasure"]);
    assert_eq!((erasure.requests, erasure.bytes, erasure.queued), (1, 100_000, 0));
    assert!(erasure.cpu_ns > 0);
    assert_eq!((encrypt.requests, encrypt.bytes, encrypt.queued), (1, 0, 0));
}

proptest! {
    #[test]
    fn arbitrary_accounts_never_panic(text in "\\PC{0,80}|[0-9 ()]{0,80}") {
        cpu_ticks(&text);
        resident_pages(&text);
    }

    #[test]
    fn no_rate_panics(then: [u64; 4], now: [u64; 4], nanos: u64) {
        let [before, after] = [then, now].map(|[a, b, c, d]| report(a, b, c / 2, d));
        let rate = rate(&before, &after, Duration::from_nanos(nanos));
        prop_assert_eq!(rate.functions["encrypt"].queued, now[3]);
    }
}
