//! Tests of digests.

use hyper::{HeaderMap, header::HeaderName};
use proptest::prelude::*;
use s3s::S3ErrorCode;

use super::*;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value")))
        .collect()
}

fn digested(bytes: &[u8], algorithms: &[Algorithm]) -> Digested {
    let mut digests = Digests::new(&algorithms.iter().copied().collect());
    digests.update(bytes);
    digests.finish()
}

#[test]
fn known_answers() {
    let came = digested(b"123456789", &Algorithm::ALL);
    assert_eq!(super::super::text::hex(&came.md5), "25f9e794323b453885f5181f1b624d0b");
    assert_eq!(came.sums[&Algorithm::Crc32], base64(&0xCBF4_3926_u32.to_be_bytes()));
    assert_eq!(came.sums[&Algorithm::Crc32c], base64(&0xE306_9283_u32.to_be_bytes()));
    assert_eq!(came.sums[&Algorithm::Crc64Nvme], base64(&0xAE8B_1486_0A79_9888_u64.to_be_bytes()));
    assert_eq!(came.sums[&Algorithm::Sha1], "98O8HYCOBHMq32eZZczDTKeuNEE=");
    assert_eq!(came.sums[&Algorithm::Sha256], "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=");
}

#[test]
fn a_matching_header_passes_and_any_other_is_a_bad_digest() {
    let came = digested(b"hello", &[Algorithm::Crc32]);
    let good = came.sums[&Algorithm::Crc32].clone();
    let declared = Declared::read(&headers(&[("x-amz-checksum-crc32", &good)])).expect("well formed");
    assert_eq!(declared.algorithms(), [Algorithm::Crc32].into());
    assert!(declared.check(&came, None).is_ok());
    let error = declared.check(&digested(b"hellp", &[Algorithm::Crc32]), None).expect_err("differs");
    assert_eq!(*error.code(), S3ErrorCode::BadDigest);
}

#[test]
fn a_trailer_is_checked_and_must_come_when_announced() {
    let came = digested(b"hello", &[Algorithm::Crc64Nvme]);
    let good = came.sums[&Algorithm::Crc64Nvme].clone();
    let declared = Declared::read(&headers(&[("x-amz-trailer", "x-amz-checksum-crc64nvme")])).expect("known");
    assert!(declared.check(&came, Some(&headers(&[("x-amz-checksum-crc64nvme", &good)]))).is_ok());
    let wrong = headers(&[("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")]);
    assert_eq!(*declared.check(&came, Some(&wrong)).expect_err("differs").code(), S3ErrorCode::BadDigest);
    for missing in [None, Some(&HeaderMap::new())] {
        let error = declared.check(&came, missing).expect_err("missing");
        assert_eq!(*error.code(), S3ErrorCode::InvalidRequest);
    }
}

#[test]
fn content_md5_is_checked() {
    let md5 = base64(&digested(b"hello", &[]).md5);
    let declared = Declared::read(&headers(&[("content-md5", &md5)])).expect("well formed");
    assert!(declared.check(&digested(b"hello", &[]), None).is_ok());
    let error = declared.check(&digested(b"other", &[]), None).expect_err("differs");
    assert_eq!(*error.code(), S3ErrorCode::BadDigest);
    let error = Declared::read(&headers(&[("content-md5", "not md5")])).expect_err("malformed");
    assert_eq!(*error.code(), S3ErrorCode::InvalidDigest);
}

#[test]
fn malformed_unknown_and_double_checksums_are_refused() {
    for bad in [
        &[("x-amz-checksum-crc32", "AAAA")][..],
        &[("x-amz-checksum-crc32", "%%%")],
        &[("x-amz-trailer", "x-amz-checksum-md5")],
        &[("x-amz-sdk-checksum-algorithm", "ROT13")],
        &[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-crc32c", "AAAAAA==")],
        &[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-trailer", "x-amz-checksum-sha1")],
    ] {
        let error = Declared::read(&headers(bad)).expect_err("refused");
        assert_eq!(*error.code(), S3ErrorCode::InvalidRequest, "{bad:?}");
    }
}

#[test]
fn without_a_declaration_the_default_is_computed() {
    assert_eq!(Declared::default().algorithms(), [Algorithm::Crc64Nvme].into());
    let asked = Declared::read(&headers(&[("x-amz-sdk-checksum-algorithm", "SHA256")])).expect("known");
    assert_eq!(asked.algorithms(), [Algorithm::Sha256].into());
}

#[test]
fn composite_checksums_are_those_of_the_parts_checksums() {
    let parts = [digested(b"one", &[Algorithm::Sha256]), digested(b"two", &[Algorithm::Sha256])];
    let joined: Vec<u8> =
        parts.iter().flat_map(|part| from_base64(&part.sums[&Algorithm::Sha256]).expect("ours")).collect();
    let expected = format!("{}-2", base64(&Algorithm::Sha256.of(&joined)));
    let sums = parts.iter().map(|part| (part.sums[&Algorithm::Sha256].as_str(), 3));
    assert_eq!(whole(Algorithm::Sha256, Scope::Composite, sums.clone()), Some(expected));
    assert_eq!(whole(Algorithm::Sha256, Scope::Full, sums), None);
    assert_eq!(whole(Algorithm::Crc32, Scope::Full, [("AAA=", 1)].into_iter()), None);
    assert_eq!(whole(Algorithm::Crc32, Scope::Full, core::iter::empty()), None);
}

#[test]
fn an_uploads_plan_is_not_shown_as_a_checksum() {
    let kept = BTreeMap::from([
        ("crc32".to_owned(), "COMPOSITE".to_owned()),
        ("sha1".to_owned(), "98O8HYCOBHMq32eZZczDTKeuNEE=".to_owned()),
    ]);
    let dto = to_dto(&kept);
    assert_eq!(dto.checksum_crc32, None);
    assert_eq!(dto.checksum_sha1.as_deref(), Some("98O8HYCOBHMq32eZZczDTKeuNEE="));
    assert_eq!(dto.checksum_type.map(|scope| scope.as_str().to_owned()).as_deref(), Some("FULL_OBJECT"));
}

proptest! {
    #[test]
    fn combined_checksums_are_those_of_the_whole(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 1..6)) {
        for one in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let sums: Vec<(String, u64)> =
                parts.iter().map(|part| (base64(&one.of(part)), part.len() as u64)).collect();
            let combined = whole(one, Scope::Full, sums.iter().map(|(sum, len)| (sum.as_str(), *len)));
            prop_assert_eq!(combined, Some(base64(&one.of(&parts.concat()))));
        }
    }

    #[test]
    fn no_header_makes_the_reader_panic(name in "content-md5|x-amz-checksum-(crc32|sha256)|x-amz-trailer|x-amz-sdk-checksum-algorithm", value in "[ -~]{0,60}") {
        let mut map = HeaderMap::new();
        if let Ok(value) = value.parse() {
            map.insert(name.parse::<HeaderName>().expect("a name"), value);
        }
        // Either way is fine: what is read must only never be wrong about its form.
        if let Ok(declared) = Declared::read(&map) {
            for (one, value) in &declared.sums {
                prop_assert_eq!(from_base64(value).map(|bytes| bytes.len()), Some(one.bytes()));
            }
        }
    }
}
