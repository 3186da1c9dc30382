//! What is just within a limit is taken, and one more is not.

use std::collections::BTreeMap;

use mesh_core::{
    id::{DriveId, KeyId, NodeId},
    limits::{COMMAND_BYTES_MAX, GROUP_DRIVES_MAX, LAYOUT_GROUPS_MAX, PART_BYTES_MAX, PARTS_MAX, WRITE_BLOCK},
    meta::{AccessKeyRow, Grant, PrincipalRow, Run, WrappedKey},
    topology::{Code, Layout},
};

use super::{
    control::{furnished, node},
    *,
};
use crate::metadata::{Change, keys};

fn text(bytes: usize) -> String {
    "x".repeat(bytes)
}

fn principal(name: usize, grants: usize, pattern: usize) -> MeshCommand {
    let grant = Grant { bucket: text(pattern), ..Grant::all() };
    MeshCommand::PutPrincipal(PrincipalRow { tenant: TENANT, name: text(name), grants: vec![grant; grants] })
}

#[test]
fn of_principals_and_their_keys() {
    let mut group = furnished();
    for (name, grants, pattern, is_well) in [
        (128, 256, 128, true),
        (129, 256, 128, false),
        (128, 257, 128, false),
        (128, 256, 129, false),
        (0, 1, 1, false),
        (1, 257, 1, false),
        (1, 1, 129, false),
    ] {
        let answer = group.apply(&principal(name, grants, pattern));
        assert_eq!(answer.is_ok(), is_well, "{name} {grants} {pattern}: {answer:?}");
    }
    for (bytes, kind) in [(256, None), (257, Some(ErrorKind::Invalid))] {
        let secret = WrappedKey { key: KeyId(0), nonce: [1; 12], sealed: vec![1; bytes] };
        let key = AccessKeyRow { access: format!("AK{bytes}"), secret, tenant: TENANT, principal: text(128) };
        assert_eq!(group.apply(&MeshCommand::PutAccessKey(key)).err(), kind);
    }
}

#[test]
fn of_addresses_and_layouts() {
    let mut group = furnished();
    for (bytes, kind) in [(300, None), (301, Some(ErrorKind::Invalid))] {
        let node = mesh_core::topology::NodeInfo { address: text(bytes), ..node(4, 1) };
        assert_eq!(group.apply(&MeshCommand::PutNode(node)).err(), kind);
    }
    let drives = 1..=GROUP_DRIVES_MAX as u64 + 1;
    for drive in drives.clone().skip(3).map(DriveId) {
        let put = MeshCommand::PutDrive { drive, node: NodeId(1), capacity_bytes: 10 };
        assert!(group.once(&put).is_ok());
    }
    let layout = |id: u64, drives: usize, groups: usize| {
        let group: Vec<DriveId> = (1..=drives as u64).map(DriveId).collect();
        let domains: BTreeMap<DriveId, NodeId> = group.iter().map(|drive| (*drive, NodeId(1))).collect();
        let code = Code { data: 2, parity: 1 };
        MeshCommand::PutLayout(
            Layout {
                id: LayoutId(id),
                code,
                groups: vec![group; groups],
                domains,
                line: 0,
                others: Vec::new(),
                places: mesh_core::topology::Places::default(),
                rule: mesh_core::topology::Rule::default(),
            }
            .into(),
        )
    };
    assert_eq!(group.apply(&layout(1, GROUP_DRIVES_MAX + 1, 1)), Err(ErrorKind::Invalid));
    assert_eq!(group.apply(&layout(1, GROUP_DRIVES_MAX, 1)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&layout(2, 3, LAYOUT_GROUPS_MAX + 1)), Err(ErrorKind::Invalid));
    assert_eq!(group.apply(&layout(2, 3, LAYOUT_GROUPS_MAX)), Ok(MetaAnswer::Done));
}

#[test]
fn of_manifests() {
    let mut group = Group::namespace();
    let first = group.open_block(1);
    let mut next = 0;
    let mut takes = |change: &dyn Fn(&mut ObjectRow)| {
        next += 1;
        let mut row = object(after(first, next), 10, 1);
        change(&mut row);
        group.apply(&put("a", row)).map(drop)
    };
    assert_eq!(takes(&|row| row.etag = text(128)), Ok(()));
    assert_eq!(takes(&|row| row.etag = text(129)), Err(ErrorKind::Invalid));
    let user = |bytes: usize| move |row: &mut ObjectRow| drop(row.attributes.user.insert("n".into(), text(bytes - 1)));
    assert_eq!(takes(&user(2048)), Ok(()));
    assert_eq!(takes(&user(2049)), Err(ErrorKind::TooLarge));
    // Headers and checksums together.
    let headers = |one: usize, other: usize| {
        move |row: &mut ObjectRow| {
            drop(row.attributes.headers.insert("n".into(), text(one - 1)));
            drop(row.attributes.checksums.insert("n".into(), text(other - 1)));
        }
    };
    assert_eq!(takes(&headers(8192, 8192)), Ok(()));
    assert_eq!(takes(&headers(8193, 8192)), Err(ErrorKind::TooLarge));
    assert_eq!(takes(&headers(8192, 8193)), Err(ErrorKind::TooLarge));
    let stripes = |len: u64| {
        move |row: &mut ObjectRow| {
            row.len = len;
            row.body = Body::Whole(Extent { stripe_bytes: 0, ..extent(row.version, len) });
        }
    };
    assert_eq!(takes(&stripes(0)), Ok(()), "what has no bytes has no stripes");
    assert_eq!(takes(&stripes(1)), Err(ErrorKind::Invalid));
}

#[test]
fn of_parts() {
    let mut group = Group::namespace();
    let upload = group.open_block(1);
    assert_eq!(group.apply(&create_upload(upload, "film")), Ok(MetaAnswer::Done));
    let put = |count: u64, len| put_part(upload, part(1, after(upload, count), len));
    assert_eq!(group.apply(&put(1, PART_BYTES_MAX)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&put(2, PART_BYTES_MAX + 1)), Err(ErrorKind::TooLarge));
    let named = |count| (1..=count).map(|number| (number, upload)).collect::<Vec<_>>();
    assert_eq!(group.apply(&complete(upload, "film", &named(PARTS_MAX))), Err(ErrorKind::InvalidPart), "none is there");
    assert_eq!(group.apply(&complete(upload, "film", &named(PARTS_MAX + 1))), Err(ErrorKind::Invalid));
    let none = Query::Parts { bucket: bucket(), upload, after: 0, limit: 0 };
    assert_eq!(group.query(&none), Ok(MetaAnswer::Parts(Vec::new(), false)), "who wants none is not told of more");
    let none = Query::Uploads { bucket: bucket(), prefix: String::new(), after: None, limit: 0 };
    assert_eq!(group.query(&none), Ok(MetaAnswer::Uploads(Vec::new(), false)));
}

/// Whoever asks for as many as there may be gets what fits into one answer, and that is most of one.
#[test]
fn of_pages_of_large_rows() {
    let fits = |answer: &MetaAnswer, rows: usize, more: bool| {
        let bytes = mesh_core::meta::encode(answer).expect("it fits").len();
        assert!(more && bytes > COMMAND_BYTES_MAX / 3, "{rows} rows, {bytes} bytes, more: {more}");
    };
    let mut group = Group::namespace();
    let upload = group.open_block(1);
    let many: BTreeMap<String, String> = (0..1000).map(|count| (format!("{count:03}"), text(10))).collect();
    for count in 0..120 {
        let row = UploadRow {
            upload: after(upload, count),
            key: format!("{count:03}{}", text(1000)),
            attributes: Attributes { headers: many.clone(), ..Attributes::default() },
            created: UnixMillis(5),
            principal: text(128),
        };
        let create = ObjectCommand::CreateUpload { proposer: proposer(1), row: row.into() };
        assert_eq!(group.apply(&Command::Object(bucket(), create)), Ok(MetaAnswer::Done));
    }
    let all = Query::Uploads { bucket: bucket(), prefix: String::new(), after: None, limit: 1000 };
    match group.query(&all) {
        Ok(answer @ MetaAnswer::Uploads(..)) => {
            let MetaAnswer::Uploads(rows, more) = &answer else { unreachable!("uploads") };
            fits(&answer, rows.len(), *more);
        }
        other => panic!("{other:?}"),
    }
    let avoid: Vec<DriveId> = (0..60).map(|drive| DriveId(u64::MAX - drive)).collect();
    for number in 1..=120_u32 {
        let mut row = part(number, after(upload, 200 + u64::from(number)), 1);
        let run = |first| Run { first, count: 1, attempt: 1, avoid: avoid.clone(), shared: false };
        row.extent.runs = (0..64).map(run).collect();
        assert_eq!(group.apply(&put_part(upload, row)), Ok(MetaAnswer::Done));
    }
    match group.query(&Query::Parts { bucket: bucket(), upload, after: 0, limit: 1000 }) {
        Ok(answer @ MetaAnswer::Parts(..)) => {
            let MetaAnswer::Parts(rows, more) = &answer else { unreachable!("parts") };
            fits(&answer, rows.len(), *more);
        }
        other => panic!("{other:?}"),
    }
}

/// The rows of a page have three quarters of an answer: the first one that does not fit begins the next page.
const PAGE_BYTES: usize = COMMAND_BYTES_MAX / 4 * 3;

#[test]
fn of_the_bytes_of_a_page_of_keys() {
    let mut group = Group::namespace();
    let first = group.open_block(1);
    // A line counts as its text, and 64 bytes more.
    let names: Vec<String> =
        (0..=PAGE_BYTES / 1024).map(|count| format!("{count:03}{}", text(1024 - 64 - 3))).collect();
    for (count, name) in names.iter().enumerate() {
        assert!(group.once(&put(name, object(after(first, count as u64), 1, 1))).is_ok());
    }
    let page = |after: &str| {
        let (prefix, after) = (String::new(), after.to_owned());
        match group.query(&Query::List { bucket: bucket(), prefix, delimiter: None, after, limit: 1000 }) {
            Ok(MetaAnswer::Listing(page)) => {
                (page.entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>(), page.next.clone())
            }
            other => panic!("{other:?}"),
        }
    };
    let (fits, [more]) = names.split_at(PAGE_BYTES / 1024) else { panic!("one more than fits") };
    assert_eq!(page(""), (fits.to_vec(), fits.last().cloned()));
    assert_eq!(page(&fits[fits.len() - 1]), (vec![more.clone()], None));
}

#[test]
fn of_the_bytes_of_a_page_of_uploads() {
    let mut group = Group::namespace();
    let upload = group.open_block(1);
    // An upload counts as its texts, 4 bytes more for each attribute, and 128.
    let one = |name: &str, bytes: usize| BTreeMap::from([(name.to_owned(), text(bytes - 4 - name.len()))]);
    let named = |count: u64| format!("{count:03}{}", text(997));
    for count in 0..=PAGE_BYTES as u64 / 4096 {
        let row = UploadRow {
            upload: after(upload, count),
            key: named(count),
            attributes: Attributes {
                headers: one("content-type", 1000),
                user: one("title", 1000),
                checksums: one("sha256", 840),
            },
            created: UnixMillis(5),
            principal: text(4096 - 128 - 3840),
        };
        let create = ObjectCommand::CreateUpload { proposer: proposer(1), row: row.into() };
        assert_eq!(group.once(&Command::Object(bucket(), create)), Ok(MetaAnswer::Done));
    }
    let page =
        |after| match group.query(&Query::Uploads { bucket: bucket(), prefix: String::new(), after, limit: 1000 }) {
            Ok(MetaAnswer::Uploads(rows, more)) => {
                (rows.iter().map(|row| row.upload.0 - upload.0).collect::<Vec<_>>(), more)
            }
            other => panic!("{other:?}"),
        };
    let fits = PAGE_BYTES as u64 / 4096;
    assert_eq!(page(None), ((0..fits).collect(), true));
    assert_eq!(page(Some((named(fits - 1), after(upload, fits - 1)))), (vec![fits], false));
}

#[test]
fn of_the_bytes_of_a_page_of_parts() {
    let mut group = Group::namespace();
    let upload = group.open_block(1);
    assert_eq!(group.apply(&create_upload(upload, "film")), Ok(MetaAnswer::Done));
    // A part counts as 24 bytes for each exception and 10 for each drive in one, 32 and what is sealed for its key, the
    // texts of its checksums and 4 bytes more for each, and 128.
    let run = Run { first: 7, count: 1, attempt: 1, avoid: (0..28).map(DriveId).collect(), shared: false };
    let key = Arc::new(WrappedKey { key: KeyId(1), nonce: [1; 12], sealed: vec![1; 48] });
    let checksums: BTreeMap<String, String> = (0..24).map(|count| (format!("sum-{count:02}"), text(16))).collect();
    assert_eq!(10 * (24 + 10 * 28) + (32 + 48) + 24 * (6 + 16 + 4) + 128 + 224, 4096);
    for number in 1..=PAGE_BYTES as u32 / 4096 + 1 {
        let mut row = part(number, after(upload, u64::from(number)), 1);
        row.extent.runs = vec![run.clone(); 10];
        row.extent.key = Some(Arc::clone(&key));
        row.checksums = checksums.clone();
        drop(row.checksums.insert("more".into(), text(224 - 4 - 4)));
        assert_eq!(group.once(&put_part(upload, row)), Ok(MetaAnswer::Done));
    }
    let page = |after| match group.query(&Query::Parts { bucket: bucket(), upload, after, limit: 1000 }) {
        Ok(MetaAnswer::Parts(rows, more)) => (rows.iter().map(|row| row.number).collect::<Vec<_>>(), more),
        other => panic!("{other:?}"),
    };
    let fits = PAGE_BYTES as u32 / 4096;
    assert_eq!(page(0), ((1..=fits).collect(), true));
    assert_eq!(page(fits), (vec![fits + 1], false));
}

/// Writes are counted in 48 bits.
#[test]
fn of_the_writes_of_a_group() {
    let mut group = Group::namespace();
    let blocks = (1_u64 << 48) / WRITE_BLOCK;
    let granted = Some(mesh_core::meta::encode(&(blocks - 1)).expect("a number"));
    group.table.commit(vec![Change { key: keys::granted(), value: granted }]);
    assert_eq!(group.open_block(1), WriteId::new(NAMESPACE, (1 << 48) - WRITE_BLOCK), "the last one");
    let open = Command::Upkeep(NAMESPACE, UpkeepCommand::OpenBlock { proposer: proposer(1) });
    assert_eq!(group.apply(&open), Err(ErrorKind::NoSpace));
}
