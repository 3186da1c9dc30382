//! The floors of the house: a crate may depend only on crates of lower floors.
//!
//! ```text
//! 4  mesh-chaos-tests
//! 3  mesh
//! 2  mesh-dpu-runtime
//! 1  mesh-actors | mesh-fronts | mesh-placement | mesh-transport    siblings, blind to each other
//! 0  mesh-core
//! ```

mod sources;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use serde_json::Value;
use sources::Sources;

/// The floor of each crate of the workspace. A new crate gets its line here.
const FLOORS: [(&str, u8); 8] = [
    ("mesh-core", 0),
    ("mesh-actors", 1),
    ("mesh-fronts", 1),
    ("mesh-placement", 1),
    ("mesh-transport", 1),
    ("mesh-dpu-runtime", 2),
    ("mesh", 3),
    ("mesh-chaos-tests", 4),
];

/// What decides without doing anything, and what it does without: runtimes, links, stores.
const PURE: [&str; 3] = ["mesh-core", "mesh-actors", "mesh-placement"];
/// See [`PURE`].
const NOT_PURE: [&str; 5] = ["tokio", concat!("rac", "tor"), "quinn", "openraft", "sled"];

/// What the deterministic floors never call: the world's time, its threads, its dice.
const NOT_DETERMINISTIC: [&str; 4] = ["Instant::now", "SystemTime::now", "tokio::spawn", "thread_rng"];

/// Where the deterministic floors are.
const DETERMINISTIC: [&str; 3] = ["mesh-core/src", "actors/src", "placement/src"];

/// One crate, and those that it depends on to be built: not those of its tests.
type Crates = BTreeMap<String, BTreeSet<String>>;

/// Every arrow that does not go down, and every crate that has no floor, in words.
fn violations(floors: &[(&str, u8)], crates: &Crates) -> Vec<String> {
    let floor = |name: &str| floors.iter().find(|(known, _)| *known == name).map(|(_, floor)| *floor);
    let mut violations = Vec::new();
    for (name, dependencies) in crates {
        let Some(from) = floor(name) else {
            violations.push(format!("{name} has no floor: give it a floor in tests/floors.rs"));
            continue;
        };
        for dependency in dependencies.iter().filter(|dependency| crates.contains_key(*dependency)) {
            match floor(dependency) {
                Some(to) if to < from => {}
                Some(to) if to == from => violations.push(format!(
                    "{name} depends on {dependency} beside it, on floor {to}: let them meet through a port of mesh-core"
                )),
                Some(to) => {
                    violations.push(format!("{name} on floor {from} depends on {dependency} above it, on floor {to}"));
                }
                // Said where the crate itself is looked at.
                None => {}
            }
        }
    }
    violations
}

/// What `cargo metadata` says of the workspace.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--no-deps"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs, for it runs this");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo speaks JSON");
    metadata["packages"].as_array().expect("a workspace has packages").clone()
}

/// The crates, with their dependencies of the kinds that `wanted` takes.
fn workspace(wanted: impl Fn(Option<&str>) -> bool) -> Crates {
    let text = |value: &Value| value.as_str().expect("a name is text").to_owned();
    let dependencies = |package: &Value| {
        let all = package["dependencies"].as_array().expect("a package has a list of dependencies");
        all.iter().filter(|one| wanted(one["kind"].as_str())).map(|one| text(&one["name"])).collect()
    };
    packages().iter().map(|package| (text(&package["name"]), dependencies(package))).collect()
}

fn crates(arrows: &[(&str, &[&str])]) -> Crates {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    arrows.iter().map(|(name, dependencies)| ((*name).to_owned(), names(dependencies))).collect()
}

/// README's first command names no binary.
#[test]
fn cargo_run_knows_its_one_binary() {
    let named: Vec<Value> = packages().into_iter().map(|package| package["default_run"].clone()).collect();
    let named: Vec<&str> = named.iter().filter_map(Value::as_str).collect();
    assert_eq!(named, ["mesh"]);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn arrows_between_crates_go_down() {
    let crates = workspace(|kind| matches!(kind, None | Some("build")));
    for (name, _) in FLOORS {
        assert!(crates.contains_key(name), "{name} has a floor and is no crate of the workspace");
    }
    assert!(crates["mesh"].contains("mesh-core"), "an arrow that is known to be there is not seen");
    assert_eq!(violations(&FLOORS, &crates), [""; 0]);
}

#[test]
fn an_arrow_up_is_found() {
    let crates = crates(&[("mesh-core", &["mesh-actors", "bytes"]), ("mesh-actors", &[])]);
    assert_eq!(violations(&FLOORS, &crates), ["mesh-core on floor 0 depends on mesh-actors above it, on floor 1"]);
}

#[test]
fn an_arrow_sideways_is_found() {
    let crates =
        crates(&[("mesh-core", &[]), ("mesh-actors", &["mesh-core", "mesh-transport"]), ("mesh-transport", &[])]);
    let expected = "mesh-actors depends on mesh-transport beside it, on floor 1: \
                    let them meet through a port of mesh-core";
    assert_eq!(violations(&FLOORS, &crates), [expected]);
}

#[test]
fn a_crate_without_a_floor_is_found() {
    let crates = crates(&[("mesh-core", &[]), ("mesh-cellar", &["mesh-core"])]);
    assert_eq!(violations(&FLOORS, &crates), ["mesh-cellar has no floor: give it a floor in tests/floors.rs"]);
}

#[test]
fn what_decides_knows_no_runtime_no_link_and_no_store() {
    let crates = workspace(|_| true);
    assert!(crates["mesh-core"].contains("bytes"), "a dependency that is known to be there is not seen");
    for (pure, name) in PURE.into_iter().flat_map(|pure| NOT_PURE.map(|name| (pure, name))) {
        assert!(!crates[pure].contains(name), "{pure} depends on {name}");
    }
}

#[test]
fn the_actor_library_is_named_only_in_the_shell() {
    let word = NOT_PURE[1];
    let sources = Sources::under(root(), &["."]);
    let mut in_shell = 0;
    for (place, line) in sources.lines() {
        let names = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|name| name == word);
        let shell = place.starts_with("dpu-runtime/src/shell/") || place.starts_with("dpu-runtime/src/shell.rs");
        in_shell += usize::from(names && shell);
        assert!(!names || shell, "{place} names {word}; only dpu-runtime/src/shell may: {line}");
    }
    // While the shell is not there, nobody names it.
    let shell_is_there = sources.lines().filter(|(place, _)| place.starts_with("dpu-runtime/src/shell/")).count() > 10;
    assert!(!shell_is_there || in_shell > 0, "the shell is not found");
}

#[test]
fn deterministic_floors_take_nothing_from_the_world() {
    let sources = Sources::under(root(), &DETERMINISTIC);
    assert!(sources.lines().count() > 1000, "the sources are not found");
    let found: Vec<String> = sources
        .lines()
        .filter(|(_, line)| NOT_DETERMINISTIC.iter().any(|word| line.contains(word)))
        .map(|(place, line)| format!("{place}: {line}"))
        .collect();
    assert_eq!(found, [""; 0], "time, tasks and randomness come through Cx");
}
