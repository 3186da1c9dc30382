use std::process::{Child, Command};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{find::hierarchy, *};

const QUOTA: CpuQuota = CpuQuota { quota_us: 2_500, period_us: 10_000 };
const NAME: &str = "mesh-test";

/// A machine's control groups, as far as plain folders can show them.
struct Tree(TempDir);

impl Tree {
    fn new(mountinfo: &str, own: &str) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.file("proc/self/mountinfo", mountinfo);
        tree.file("proc/self/cgroup", own);
        tree
    }

    /// `cpu` and `cpuacct` mounted apart, version 2 beside them without controllers.
    fn version_1() -> Self {
        let tree = Self::new(
            "23 1 0:20 / / rw - ext4 /dev/vda rw\n\
             32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n\
             33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct\n\
             34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
            "3:cpuset:/\n2:cpuacct:/\n1:cpu:/own\n0::/\n",
        );
        tree.folder("sys/fs/cgroup/cpu/own");
        tree.folder("sys/fs/cgroup/cpuacct");
        tree
    }

    fn version_2(own: &str) -> Self {
        let tree = Self::new(
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup rw,nsdelegate\n",
            &format!("0::{own}\n"),
        );
        tree.file("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory\n");
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn folder(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// A group as if the system had filled its folders.
    fn group(&self, version: Version, folders: &[&str], controls: &[&str]) -> Cgroup {
        for folder in folders {
            for control in controls {
                self.file(&format!("{folder}/{control}"), "");
            }
        }
        Cgroup { version, folders: folders.iter().map(|folder| self.path(folder)).collect(), removed: false }
    }
}

#[test]
fn version_1_is_found_with_its_two_mounts() {
    let tree = Tree::version_1();
    let expected =
        Hierarchy::One { cpu: tree.path("sys/fs/cgroup/cpu/own"), cpuacct: Some(tree.path("sys/fs/cgroup/cpuacct")) };
    assert_eq!(hierarchy(tree.0.path()).unwrap(), expected);
}

#[test]
fn version_1_in_one_mount_is_found_once() {
    let tree = Tree::new(
        "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
        "4:cpu,cpuacct:/docker/abc/inner\n",
    );
    let cpu = tree.path("sys/fs/cgroup/cpu,cpuacct/inner");
    assert_eq!(hierarchy(tree.0.path()).unwrap(), Hierarchy::One { cpu, cpuacct: None });
}

#[test]
fn version_2_is_found_with_the_groups_above() {
    let tree = Tree::version_2("/user.slice/a\u{20}b");
    let candidates = ["sys/fs/cgroup/user.slice/a b", "sys/fs/cgroup/user.slice", "sys/fs/cgroup"];
    let candidates = candidates.map(|path| tree.path(path)).into();
    assert_eq!(hierarchy(tree.0.path()).unwrap(), Hierarchy::Two { candidates });
}

#[test]
fn odd_mounts_are_read() {
    let tree = Tree::new("1 1 0:1 / /a\\040b\\134\\9 rw master:1 x:2 - cgroup2 none rw\n", "0::/../../etc\n");
    let candidates = vec![tree.path("a b\\\\9")];
    assert_eq!(hierarchy(tree.0.path()).unwrap(), Hierarchy::Two { candidates }, "a path upwards is not followed");
}

#[test]
fn says_so_where_none_are_mounted() {
    let tree = Tree::new("23 1 0:20 / / rw - ext4 /dev/vda rw\n", "0::/\n");
    let error = Cgroup::create(tree.0.path(), NAME, QUOTA).unwrap_err();
    assert!(matches!(error, CgroupError::NotMounted), "{error}");
    let nothing = tempfile::tempdir().unwrap();
    let error = Cgroup::create(nothing.path(), NAME, QUOTA).unwrap_err();
    assert!(matches!(&error, CgroupError::Unknown { path, .. } if path.ends_with("proc/self/mountinfo")), "{error}");
    // Version 2 is mounted, and another has the controller.
    let tree = Tree::version_2("/");
    tree.file("sys/fs/cgroup/cgroup.controllers", "memory\n");
    assert!(matches!(Cgroup::create(tree.0.path(), NAME, QUOTA), Err(CgroupError::NotMounted)));
}

#[test]
fn a_failed_creation_leaves_nothing_behind() {
    // The folders can be made, and plain folders have no controls.
    let tree = Tree::version_1();
    let error = Cgroup::create(tree.0.path(), NAME, QUOTA).unwrap_err();
    assert!(matches!(&error, CgroupError::Control { path, .. } if path.ends_with("cpu.cfs_quota_us")), "{error}");
    for folder in ["sys/fs/cgroup/cpu/own", "sys/fs/cgroup/cpuacct"] {
        assert!(!tree.path(folder).join(NAME).exists());
    }
}

#[test]
fn a_name_stays_inside_its_folder() {
    for name in ["", ".", "..", ".hidden", "a/b", "a b", "ä", &"x".repeat(65)] {
        assert!(matches!(Cgroup::create(Path::new("/nonexistent"), name, QUOTA), Err(CgroupError::Name)), "{name}");
    }
}

#[test]
fn a_name_in_use_is_refused() {
    let tree = Tree::version_1();
    tree.file(&format!("sys/fs/cgroup/cpu/own/{NAME}/inner/cgroup.procs"), "1\n");
    assert!(matches!(Cgroup::create(tree.0.path(), NAME, QUOTA), Err(CgroupError::Create { .. })));
}

#[test]
fn version_1_writes_quota_and_members_and_reads_its_accounts() {
    let tree = Tree::version_1();
    let (cpu, accounts) = ("sys/fs/cgroup/cpu/own/g", "sys/fs/cgroup/cpuacct/g");
    let controls = ["cpu.cfs_quota_us", "cpu.cfs_period_us", "cgroup.procs", "cpuacct.usage"];
    let mut group = tree.group(Version::One, &[cpu, accounts], &controls);
    group.set_quota(QUOTA).unwrap();
    group.add(4711).unwrap();
    assert_eq!(tree.text(&format!("{cpu}/cpu.cfs_period_us")), "10000");
    // The files of a real group take each value apart: here "-1" was overwritten from its start.
    assert_eq!(tree.text(&format!("{cpu}/cpu.cfs_quota_us")), "2500");
    assert_eq!(tree.text(&format!("{cpu}/cgroup.procs")), "4711");
    assert_eq!(tree.text(&format!("{accounts}/cgroup.procs")), "4711");
    tree.file(&format!("{accounts}/cpuacct.usage"), "123456789\n");
    assert_eq!(group.cpu_time().unwrap(), Duration::from_nanos(123_456_789));
    tree.file(&format!("{accounts}/cpuacct.usage"), "rubbish\n");
    assert!(matches!(group.cpu_time(), Err(CgroupError::Control { .. })));
    let error = group.remove().unwrap_err();
    assert!(matches!(&error, CgroupError::Remove { .. }), "plain folders with files in them stay: {error}");
}

#[test]
fn version_2_writes_quota_and_members_and_reads_its_accounts() {
    let tree = Tree::version_2("/");
    let folder = "sys/fs/cgroup/g";
    let mut group = tree.group(Version::Two, &[folder], &["cpu.max", "cgroup.procs"]);
    group.set_quota(QUOTA).unwrap();
    group.add(4711).unwrap();
    assert_eq!(tree.text(&format!("{folder}/cpu.max")), "2500 10000");
    assert_eq!(tree.text(&format!("{folder}/cgroup.procs")), "4711");
    assert!(matches!(group.cpu_time(), Err(CgroupError::Control { .. })));
    tree.file(&format!("{folder}/cpu.stat"), "usage_usec 987654\nuser_usec 1\nsystem_usec 2\n");
    assert_eq!(group.cpu_time().unwrap(), Duration::from_micros(987_654));
    tree.file(&format!("{folder}/cpu.stat"), "user_usec 1\n");
    assert!(matches!(group.cpu_time(), Err(CgroupError::Control { .. })));
}

#[test]
fn version_2_takes_the_first_group_that_gives_its_children_the_controller() {
    let tree = Tree::version_2("/a/b");
    let candidates: Vec<PathBuf> =
        ["sys/fs/cgroup/a/b", "sys/fs/cgroup/a", "sys/fs/cgroup"].map(|path| tree.path(path)).into();
    // Nobody can: no such file to switch it on.
    let error = find::delegated(&candidates).unwrap_err();
    assert!(matches!(&error, CgroupError::NotDelegated { tried } if tried.matches("; ").count() == 2), "{error}");
    // One can be switched on.
    tree.file("sys/fs/cgroup/cgroup.subtree_control", "memory\n");
    assert_eq!(find::delegated(&candidates).unwrap(), tree.path("sys/fs/cgroup"));
    assert!(tree.text("sys/fs/cgroup/cgroup.subtree_control").starts_with("+cpu"));
    // One below it has it already.
    tree.file("sys/fs/cgroup/a/cgroup.subtree_control", "cpu memory\n");
    assert_eq!(find::delegated(&candidates).unwrap(), tree.path("sys/fs/cgroup/a"));
    assert_eq!(tree.text("sys/fs/cgroup/a/cgroup.subtree_control"), "cpu memory\n");
}

/// Kills what it holds.
struct Busy(Child);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.kill().expect("a child can be killed");
        self.0.wait().expect("a child can be waited for");
    }
}

#[test]
fn a_real_group_limits_a_real_process() {
    let name = format!("mesh-test-{}", std::process::id());
    let group = match Cgroup::create(Path::new("/"), &name, QUOTA) {
        Ok(group) => group,
        Err(error) => {
            println!("SKIPPED: no control group on this machine: {error}");
            return;
        }
    };
    let folder = group.path().to_owned();
    let busy = Busy(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap());
    group.add(busy.0.id()).unwrap();
    let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap();
    assert_eq!(members.trim(), busy.0.id().to_string());

    // A quarter of a core: to use 50 ms of CPU time takes it about 200 ms, and never less than the 19 periods that the
    // quota must be refilled in. A slow machine makes it longer.
    let start = group.cpu_time().unwrap();
    let began = std::time::Instant::now();
    while group.cpu_time().unwrap() - start < Duration::from_millis(50) {
        assert!(began.elapsed() < Duration::from_secs(60), "it makes no progress");
        std::thread::yield_now();
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(120), "50 ms of CPU time at a quarter of a core took {took:?}");

    drop(busy);
    group.remove().unwrap();
    assert!(!folder.exists());
}

proptest! {
    #[test]
    fn arbitrary_tables_never_panic_and_never_leave_the_root(
        mounts in "(1 1 0:1 /[a./]{0,4} /[a./\\\\0-9]{0,9} rw|\\PC{0,20})( - cgroup2? x rw,cpu)?\n{0,1}",
        own in "([0-9]:cpu:|0::)[a./]{0,9}|\\PC{0,20}",
    ) {
        let tree = Tree::new(&mounts, &own);
        if let Ok(found) = hierarchy(tree.0.path()) {
            let paths = match found {
                Hierarchy::One { cpu, cpuacct } => core::iter::once(cpu).chain(cpuacct).collect(),
                Hierarchy::Two { candidates } => candidates,
            };
            for path in paths {
                let upwards = path.components().any(|part| part == std::path::Component::ParentDir);
                prop_assert!(path.starts_with(tree.0.path()) && !upwards, "{path:?}");
            }
        }
    }
}
