//! Tests of multipart uploads: what does not need a server.

use mesh_core::{
    id::LayoutId,
    meta::{Compression, Extent},
    time::UnixMillis,
};
use s3s::S3ErrorCode;

use super::*;

fn upload(key: &str, number: u64) -> Arc<UploadRow> {
    Arc::new(UploadRow {
        upload: WriteId(number),
        key: key.into(),
        attributes: Attributes::default(),
        created: UnixMillis(0),
        principal: "ann".into(),
    })
}

fn part(number: u32, len: u64, crc32: &str) -> (u32, Arc<PartRow>) {
    let extent = Extent {
        write: WriteId(number.into()),
        len,
        stripe_bytes: 4096,
        layout: LayoutId(1),
        key: None,
        runs: vec![],
        compression: Compression::Off,
        code: None,
    };
    let row = PartRow {
        number,
        offset: 0,
        etag: format!("etag-{number}"),
        checksums: [("crc32".to_owned(), crc32.to_owned())].into(),
        modified: UnixMillis(0),
        extent,
    };
    (number, Arc::new(row))
}

fn named(number: u32, etag: &str) -> Named {
    Named { number, etag: etag.into(), sums: BTreeMap::new() }
}

fn begun(scope: Scope) -> UploadRow {
    let mut row = UploadRow::clone(&upload("k", 1));
    Plan { algorithm: Algorithm::Crc32, scope }.keep(&mut row.attributes);
    row
}

#[test]
fn plans_have_the_defaults_of_s3_and_survive() {
    let read = |algorithm: &'static str, scope: Option<&'static str>| {
        let algorithm = ChecksumAlgorithm::from_static(algorithm);
        Plan::read(Some(&algorithm), scope.map(ChecksumType::from_static).as_ref())
    };
    for (algorithm, asked, scope) in [
        ("CRC32", None, Scope::Composite),
        ("CRC32C", Some("FULL_OBJECT"), Scope::Full),
        ("CRC64NVME", None, Scope::Full),
        ("SHA256", Some("COMPOSITE"), Scope::Composite),
    ] {
        let plan = read(algorithm, asked).expect("offered").expect("a plan");
        assert_eq!(plan.scope, scope, "{algorithm}");
        let mut attributes = Attributes::default();
        plan.keep(&mut attributes);
        assert_eq!(Plan::of(&attributes), Some(plan));
    }
    assert!(read("SHA1", Some("FULL_OBJECT")).is_err());
    assert!(read("CRC64NVME", Some("COMPOSITE")).is_err());
    assert!(read("CRC32", Some("HALF")).is_err());
    assert!(Plan::read(None, Some(&ChecksumType::from_static("FULL_OBJECT"))).is_err());
    assert_eq!(Plan::read(None, None).ok(), Some(None));
}

#[test]
fn parts_must_ascend_and_be_complete() {
    let parts = |numbers: &[i32]| {
        let parts = numbers.iter().map(|&number| CompletedPart {
            part_number: Some(number),
            e_tag: Some(ETag::Strong("e".into())),
            ..Default::default()
        });
        named_parts(parts.collect()).map(|named| named.len()).map_err(|error| error.code().as_str().to_owned())
    };
    assert_eq!(parts(&[1, 3, 10_000]), Ok(3));
    assert_eq!(parts(&[2, 1]), Err("InvalidPartOrder".into()));
    assert_eq!(parts(&[1, 1]), Err("InvalidPartOrder".into()));
    assert_eq!(parts(&[]), Err("MalformedXML".into()));
    assert_eq!(parts(&[0]), Err("InvalidArgument".into()));
    assert_eq!(parts(&[10_001]), Err("InvalidArgument".into()));
}

#[test]
fn a_claim_is_compared_with_what_is_stored() {
    let stored: BTreeMap<_, _> = [part(1, 5, "AAAAAA=="), part(2, 7, "AAAAAQ==")].into();
    let both = [named(1, "etag-1"), named(2, "etag-2")];
    let full = begun(Scope::Full);
    let check =
        |claimed: Claimed, named: &[Named]| claimed.check(&full, named, &stored).map_err(|error| error.code().clone());
    let sums = check(Claimed::default(), &both).expect("agrees");
    assert_eq!(sums.keys().collect::<Vec<_>>(), ["crc32"]);
    assert_eq!(check(Claimed { len: Some(12), ..Claimed::default() }, &both), Ok(sums.clone()));
    assert_eq!(check(Claimed { len: Some(13), ..Claimed::default() }, &both), Err(S3ErrorCode::InvalidRequest));
    let claim = |sum: &str| Claimed { sums: [(Algorithm::Crc32, sum.to_owned())].into(), ..Claimed::default() };
    assert_eq!(check(claim(&sums["crc32"]), &both), Ok(sums));
    assert_eq!(check(claim("AAAAAA=="), &both), Err(S3ErrorCode::BadDigest));
    assert_eq!(check(Claimed::default(), &[named(1, "other")]), Err(S3ErrorCode::InvalidPart));
    assert_eq!(check(Claimed::default(), &[named(3, "etag-3")]), Err(S3ErrorCode::InvalidPart));
    let scope = Claimed { scope: Some("COMPOSITE".into()), ..Claimed::default() };
    assert_eq!(check(scope, &both), Err(S3ErrorCode::InvalidRequest));
    let mut differing = [named(1, "etag-1")];
    differing[0].sums.insert(Algorithm::Crc32, "AAAAAQ==".into());
    assert_eq!(check(Claimed::default(), &differing), Err(S3ErrorCode::InvalidPart));
}

#[test]
fn a_composite_claim_may_lack_its_count() {
    let stored: BTreeMap<_, _> = [part(1, 5, "AAAAAA==")].into();
    let row = begun(Scope::Composite);
    let sums = Claimed::default().check(&row, &[named(1, "etag-1")], &stored).expect("agrees");
    let (plain, count) = sums["crc32"].split_once('-').expect("a count");
    assert_eq!(count, "1");
    let claim = Claimed { sums: [(Algorithm::Crc32, plain.to_owned())].into(), ..Claimed::default() };
    assert!(claim.check(&row, &[named(1, "etag-1")], &stored).is_ok());
}

#[test]
fn uploads_are_rolled_up_across_pages_without_telling_a_prefix_twice() {
    let rows = [upload("a/1", 1), upload("a/2", 2), upload("b", 3), upload("c/1", 4), upload("c/2", 5)];
    let mut first = RolledUp::new(String::new(), Some("/".into()), "", 2);
    let taken = rows.iter().take_while(|row| first.take(row)).count();
    assert_eq!((taken, first.prefixes.as_slice(), first.uploads.len()), (3, &["a/".to_owned()][..], 1));
    let mut second = RolledUp::new(String::new(), Some("/".into()), "a/1", 2);
    let taken = rows[1..].iter().take_while(|row| second.take(row)).count();
    assert_eq!((taken, second.prefixes.as_slice(), second.uploads.len()), (4, &["c/".to_owned()][..], 1));
}
