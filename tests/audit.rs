//! The audit log, by the command line: what administrators order is in it, and what was changed of it is found.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dev;

use std::{
    fs,
    io::Write as _,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use dev::Dev;

const MESH: &str = env!("CARGO_BIN_EXE_mesh");

#[test]
fn what_is_ordered_is_in_the_log_and_what_is_changed_there_is_found() {
    let mut dev = Dev::start(&[]);
    until_it_begins(&dev);
    let file = dev.folder().join("audit.log");
    let path = file.to_str().unwrap().to_owned();
    let path = path.as_str();

    let begun = lines(&ok(&dev, &["audit", "list", "--json"]));
    for order in [
        &["tenant", "create", "acme", "--quota", "1GiB"][..],
        &["key", "create", "acme", "ann", "--allow", "*=read"],
        &["tenant", "rotate-key", "acme"],
        &["prefer", "host-only"],
        &["prefer", "--undo"],
        &["key", "revoke", "acme", "--user", "ann"],
        &["metadata", "backup", dev.folder().join("backup").to_str().unwrap()],
    ] {
        ok(&dev, order);
    }
    // What is refused, and what only asks, leaves nothing.
    refused(&dev, &["tenant", "create", "acme"], "there is a tenant of this name");
    refused(&dev, &["tenant", "limit", "acme", "--rate", "0"], "a rate is 1 a second");
    ok(&dev, &["tenant", "list"]);
    let said = ok(&dev, &["audit", "list", "--from", &(begun.len() + 1).to_string()]);
    let said: Vec<String> = lines(&said).iter().map(|line| line.split_once(": ").unwrap().1.to_owned()).collect();
    let access = said[2].rsplit(' ').next().unwrap();
    let expected = [
        "tenant-2 was made: acme; quota 1 GiB, any number of requests, any rate".to_owned(),
        "ann of tenant-2 may do: *=read".to_owned(),
        format!("ann of tenant-2 has access key {access}"),
        "tenant-2 encrypts under key-4294967297".to_owned(),
        "every chain is to run host-only".to_owned(),
        "every chain is to run where placement says".to_owned(),
        "ann of tenant-2 is no more".to_owned(),
        "a backup of group-0 was begun".to_owned(),
    ];
    assert_eq!(said, expected);

    let told = ok(&dev, &["audit", "export", path]);
    let exported = lines(&fs::read_to_string(&file).unwrap());
    assert_eq!(exported.len(), begun.len() + expected.len());
    assert!(exported.iter().skip(begun.len()).all(|line| line.contains(r#""by":{"administrator":{"name":"#)));
    // By other hands than ours: each line says what the one before it is.
    let mut before = "0".repeat(64);
    for line in &exported {
        assert!(line.contains(&format!(r#""before":"{before}""#)), "{line} is not behind {before}");
        before = sha256(line);
    }
    assert!(told.contains(&before), "the head is {before}: {told}");
    assert!(ok(&dev, &["audit", "verify", path]).contains(&before));

    // It goes on behind what is there, over a kill of all.
    ok(&dev, &["key", "create", "acme", "ben", "--allow", "*=all"]);
    assert!(Command::new("kill").args(["-9", &dev.pid().to_string()]).status().unwrap().success());
    dev.start_again();
    until_it_begins(&dev);
    assert!(ok(&dev, &["audit", "export", path]).contains("2 new entries"));
    assert!(ok(&dev, &["audit", "export", path]).contains("0 new entries"));
    let whole = fs::read_to_string(&file).unwrap();
    let all = lines(&whole);
    assert_eq!(all[..exported.len()], exported[..]);

    // Whoever changes what was exported is found, with the place; and nothing is put behind it.
    let bad = dev.folder().join("bad.log");
    let joined = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let each: Vec<&str> = all.iter().map(String::as_str).collect();
    let (last, at) = (each.len() - 1, begun.len());
    let mut swapped = each.clone();
    swapped.swap(at, at + 1);
    let mut short = each.clone();
    short.remove(at + 2);
    for (text, why) in [
        (
            whole.replacen("*=read", "*=all", 1).replacen(
                r#""read":true,"write":false"#,
                r#""read":true,"write":true"#,
                1,
            ),
            "TAMPERED",
        ),
        (joined(&swapped), "TAMPERED"),
        (joined(&short), "TAMPERED"),
        (whole.trim_end().to_owned(), "in the middle of an entry"),
        (joined(&each[..last]) + &each[last].replacen(r#""number":"#, r#""number": "#, 1) + "\n", "ANOTHER ENTRY"),
        ("hello\n".to_owned(), "no entry of an audit log"),
    ] {
        assert_ne!(text, whole);
        fs::write(&bad, &text).unwrap();
        for verb in ["verify", "export", "forget"] {
            if verb != "forget" || why != "ANOTHER ENTRY" {
                refused(&dev, &["audit", verb, bad.to_str().unwrap()], why);
            }
        }
        assert_eq!(fs::read_to_string(&bad).unwrap(), text);
    }

    // A file that has not all of what is to go is not enough.
    fs::write(&bad, joined(&each[at..])).unwrap();
    refused(&dev, &["audit", "forget", bad.to_str().unwrap()], "older than those of the file");

    // What is kept elsewhere goes, and is there for whoever has the file.
    ok(&dev, &["audit", "forget", path]);
    let left = lines(&ok(&dev, &["audit", "list", "--json"]));
    assert_eq!((left.len(), left[0].as_str()), (2, each[last]), "the newest of the file, and that it was done");
    ok(&dev, &["audit", "verify", path]);
    assert!(ok(&dev, &["audit", "export", path]).contains("1 new entries"));
    ok(&dev, &["audit", "verify", path]);

    // What the mesh does about an order is there, too.
    ok(&dev, &["tenant", "delete", "acme"]);
    let until = Instant::now() + Duration::from_secs(60);
    while !ok(&dev, &["audit", "list"]).contains("nothing of tenant-2 is left in metadata") {
        assert!(Instant::now() < until, "{}", ok(&dev, &["tenant", "list"]));
    }
    refused(&dev, &["tenant", "usage", "acme"], "there is no such tenant");
    refused(&dev, &["tenant", "create", "acme"], "choose another name");

    // A tenant's user is told nothing of it.
    let asked = format!(". \"$0\" && MESH_ADMIN_IDENTITY=\"$MESH_IDENTITY\" exec {MESH} audit list");
    let asked = Command::new("sh").args(["-c", &asked]).arg(dev.folder().join("dev.env")).output().unwrap();
    assert!(!asked.status.success() && asked.stdout.is_empty());
    assert!(String::from_utf8_lossy(&asked.stderr).contains("administrator"), "{asked:?}");
    dev.stop();
}

/// The mesh keeps a log once all nodes have said that they can.
fn until_it_begins(dev: &Dev) {
    let until = Instant::now() + Duration::from_secs(60);
    while !dev.sourced(&[MESH, "audit", "list"]).status.success() {
        assert!(Instant::now() < until, "{:?}", dev.sourced(&[MESH, "audit", "list"]));
    }
}

fn run(dev: &Dev, arguments: &[&str]) -> Output {
    dev.sourced(&[&[MESH], arguments].concat())
}

fn ok(dev: &Dev, arguments: &[&str]) -> String {
    let output = run(dev, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(dev: &Dev, arguments: &[&str], why: &str) {
    let output = run(dev, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(why), "{arguments:?} is to be refused for {why:?}: {output:?}");
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn sha256(line: &str) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}
