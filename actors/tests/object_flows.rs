//! Whole flows through Object and Policy in one chain, without failures.

mod object_host;

use core::time::Duration;
use std::collections::BTreeMap;

use mesh_core::{
    Answer, ErrorKind,
    id::WriteId,
    limits::PART_BYTES_MIN,
    meta::{Attributes, Precondition},
    op::{Destination, ObjectOp},
};

use object_host::{GRACE, Host, content, whole};

fn delete(key: &str) -> ObjectOp {
    ObjectOp::Delete { bucket: "photos".into(), key: key.into(), precondition: Precondition::default() }
}

#[test]
fn what_is_put_is_read_back_whole_and_in_ranges() {
    let mut host = Host::new(100);
    for len in [0, 1, 99, 100, 101, 250, 10_000] {
        let (key, bytes) = (format!("a/{len}"), content(len, 1));
        assert!(host.put(&key, whole(), &bytes, "e").is_ok());
        assert_eq!(host.get(&key, None).as_deref(), Ok(&bytes[..]), "{len} bytes");
        for (offset, part) in [(0, 1), (len / 3, len / 2), (len.saturating_sub(1), 1)] {
            if offset + part <= len {
                let range = host.get(&key, Some((offset as u64, part as u64)));
                assert_eq!(range.as_deref(), Ok(&bytes[offset..offset + part]), "{part} from {offset} of {len}");
            }
        }
    }
    let list = |after: &str, limit| ObjectOp::List {
        bucket: "photos".into(),
        prefix: "a/".into(),
        delimiter: None,
        after: after.into(),
        limit,
    };
    let Ok(Answer::Listing(page)) = host.run(list("", 5)).map(|response| response.answer) else { panic!("no list") };
    let keys: Vec<&str> = page.entries.iter().map(|entry| &*entry.key).collect();
    assert_eq!(keys, ["a/0", "a/1", "a/100", "a/10000", "a/101"]);
    assert_eq!(page.next.as_deref(), Some("a/101"));
    host.assert_at_rest();
}

#[test]
fn what_is_deleted_or_replaced_is_reclaimed_after_the_grace_and_nothing_else_is() {
    let mut host = Host::new(100);
    for (key, seed) in [("kept", 1), ("gone", 2), ("replaced", 3), ("replaced", 4)] {
        host.put(key, whole(), &content(450, seed), "e").expect("put");
    }
    assert_eq!(host.stripes.len(), 20);
    assert_eq!(host.run(delete("gone")), Ok(Answer::Done.into()));
    assert_eq!(host.get("gone", None).map_err(|error| error.kind()), Err(ErrorKind::NotFound));
    host.wait(GRACE - Duration::from_secs(1));
    assert_eq!(host.stripes.len(), 20, "a reader may still be at it");
    host.wait(Duration::from_secs(10));
    assert_eq!((host.stripes.len(), host.metadata.garbage.len()), (10, 0));
    assert_eq!(host.get("kept", None), Ok(content(450, 1)));
    assert_eq!(host.get("replaced", None), Ok(content(450, 4)));
    host.assert_at_rest();
}

#[test]
fn an_aborted_write_leaves_nothing() {
    let mut host = Host::new(100);
    let begin = ObjectOp::Begin { bucket: "photos".into(), key: "k".into(), destination: whole() };
    let Ok(Answer::Begun { write, .. }) = host.run(begin).map(|response| response.answer) else { panic!("not begun") };
    for stripe in 0..3 {
        let payload = mesh_core::Buf::zeroed(100);
        let id = host.ask(ObjectOp::Append { write, stripe }, payload);
        assert!(host.answer_of(id).is_ok());
    }
    // One is under way when the write is dropped.
    let id = host.ask(ObjectOp::Append { write, stripe: 3 }, mesh_core::Buf::zeroed(100));
    assert_eq!(host.run(ObjectOp::Abort { write }), Ok(Answer::Done.into()));
    assert_eq!(host.answer_of(id).map_err(|error| error.kind()), Err(ErrorKind::NotFound));
    assert_eq!(host.stripes.len(), 4);
    host.wait(Duration::from_secs(10));
    assert_eq!(host.stripes.len(), 0);
    host.assert_at_rest();
}

fn create_upload(host: &mut Host, key: &str) -> WriteId {
    let attributes = Attributes::default();
    let create = ObjectOp::CreateUpload { bucket: "photos".into(), key: key.into(), attributes };
    match host.run(create).map(|response| response.answer) {
        Ok(Answer::Upload(row)) => row.upload,
        other => panic!("no upload: {other:?}"),
    }
}

fn complete(key: &str, upload: WriteId, parts: &[(u32, String)]) -> ObjectOp {
    ObjectOp::CompleteUpload {
        bucket: "photos".into(),
        key: key.into(),
        upload,
        parts: parts.to_vec(),
        checksums: BTreeMap::new(),
        precondition: Precondition::default(),
    }
}

#[test]
fn an_upload_of_many_parts_becomes_one_object() {
    let mut host = Host::new(1 << 20);
    let upload = create_upload(&mut host, "big");
    let least = PART_BYTES_MIN as usize;
    let sizes = [(1, least), (3, least + 12_345), (7, least), (10_000, 0)];
    let mut all = Vec::new();
    let mut parts = Vec::new();
    for (number, len) in sizes {
        let bytes = content(len, u64::from(number));
        let etag = format!("{number:032x}");
        // Sent twice: the first becomes garbage.
        for sent in [&bytes[..len / 2], &bytes[..]] {
            host.put("big", Destination::Part { upload, number }, sent, &etag).expect("a part");
        }
        parts.push((number, format!("\"{etag}\"")));
        all.extend_from_slice(&bytes);
    }
    host.put("big", Destination::Part { upload, number: 5 }, b"not used", "x").expect("a part");
    let again = complete("big", upload, &parts);
    let committed = host.run(again.clone());
    let Ok(Answer::Committed { version, etag }) = committed.clone().map(|response| response.answer) else {
        panic!("not completed: {committed:?}")
    };
    assert_eq!((version, etag.ends_with("-4")), (upload, true));
    assert_eq!(host.run(again), committed, "the same again has the same answer");
    assert_eq!(host.get("big", None), Ok(all.clone()));
    let range = host.get("big", Some((least as u64 - 10, 100)));
    assert_eq!(range.as_deref(), Ok(&all[least - 10..least + 90]));

    host.wait(GRACE + Duration::from_secs(10));
    host.assert_nothing_is_missing();
    assert_eq!(host.stripes.len(), host.metadata.stripes(true).len(), "parts not used are reclaimed");
    assert_eq!(host.get("big", None), Ok(all));
    assert_eq!(host.run(delete("big")), Ok(Answer::Done.into()));
    host.wait(GRACE + Duration::from_secs(10));
    assert_eq!(host.stripes.len(), 0);
    host.assert_at_rest();
}

#[test]
fn an_aborted_upload_leaves_nothing() {
    let mut host = Host::new(100);
    let upload = create_upload(&mut host, "k");
    host.put("k", Destination::Part { upload, number: 1 }, &content(250, 1), "e").expect("a part");
    let op = || ObjectOp::HeadUpload { bucket: "photos".into(), upload };
    assert!(host.run(op()).is_ok());
    assert_eq!(host.run(ObjectOp::AbortUpload { bucket: "photos".into(), upload }), Ok(Answer::Done.into()));
    assert_eq!(host.run(op()).map_err(|error| error.kind()), Err(ErrorKind::NoSuchUpload));
    host.wait(GRACE + Duration::from_secs(10));
    assert_eq!(host.stripes.len(), 0);
}

#[test]
fn a_bucket_is_deleted_only_when_it_is_empty_and_can_be_made_again() {
    let mut host = Host::new(100);
    let delete_bucket = || ObjectOp::DeleteBucket { bucket: "photos".into() };
    let create = || ObjectOp::CreateBucket { bucket: "photos".into() };
    host.put("k", whole(), b"bytes", "e").expect("put");
    assert_eq!(host.run(create()).map_err(|error| error.kind()), Err(ErrorKind::BucketExists));
    assert_eq!(host.run(delete_bucket()).map_err(|error| error.kind()), Err(ErrorKind::BucketNotEmpty));
    host.put("k", whole(), b"others", "e").expect("it takes writes as before");
    assert_eq!(host.run(delete("k")), Ok(Answer::Done.into()));
    assert_eq!(host.run(delete_bucket()), Ok(Answer::Done.into()));
    assert_eq!(host.get("k", None).map_err(|error| error.kind()), Err(ErrorKind::NoSuchBucket));
    assert_eq!(host.run(create()), Ok(Answer::Done.into()));
    host.put("k", whole(), b"anew", "e").expect("put");
    assert_eq!(host.get("k", None).as_deref(), Ok(&b"anew"[..]));
    host.assert_at_rest();
}
