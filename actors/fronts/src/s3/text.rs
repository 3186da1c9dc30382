//! Small encodings that S3 uses in headers and XML: base64, hexadecimal, percent-encoding, upload ids, times.

use std::time::{Duration, UNIX_EPOCH};

use mesh_core::{id::WriteId, time::UnixMillis};
use s3s::dto::Timestamp;

/// Standard base64 with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, &byte| (group << 8) | u32::from(byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            if digit <= chunk.len() {
                text.push(char::from(BASE64[(group >> (18 - 6 * digit)) as usize & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// Decodes standard base64 with padding; `None` for anything else, unused bits that are not zero included.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let last = (text.len() / 4).saturating_sub(1);
    for (at, chunk) in text.chunks(4).enumerate() {
        let padding = chunk.iter().rev().take_while(|&&byte| byte == b'=').count();
        if padding > 2 || (padding > 0 && at != last) {
            return None;
        }
        let mut group = 0_u32;
        for &byte in &chunk[..4 - padding] {
            group = (group << 6) | u32::from(from_digit64(byte)?);
        }
        group <<= 6 * padding;
        let kept = 3 - padding;
        if group & ((1 << (8 * padding)) - 1) != 0 {
            return None;
        }
        bytes.extend_from_slice(&group.to_be_bytes()[1..=kept]);
    }
    Some(bytes)
}

fn from_digit64(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        text.push(char::from(HEX[usize::from(byte >> 4)]));
        text.push(char::from(HEX[usize::from(byte & 15)]));
        text
    })
}

/// Percent-encodes all but unreserved characters and `/`: `encoding-type=url` of listings. A space becomes `%20`, which
/// every decoder of either convention understands.
pub(super) fn percent(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/') {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(char::from(HEX_UPPER[usize::from(byte >> 4)]));
            encoded.push(char::from(HEX_UPPER[usize::from(byte & 15)]));
        }
    }
    encoded
}

/// Undoes percent-encoding; `None` for a `%` that two digits do not follow.
pub(super) fn from_percent(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push((high << 4 | low) as u8);
    }
    Some(bytes)
}

/// The value of a query parameter, where a plus stands for a space too.
pub(super) fn from_form(value: &str) -> Option<String> {
    String::from_utf8(from_percent(&value.replace('+', " "))?).ok()
}

/// An upload's number as clients see it.
pub(super) fn upload_text(upload: WriteId) -> String {
    format!("{:016x}", upload.0)
}

/// Reads [`upload_text`].
pub(super) fn upload_from_text(text: &str) -> Option<WriteId> {
    let plain = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if plain { u64::from_str_radix(text, 16).ok().map(WriteId) } else { None }
}

/// A time as s3s writes it. Beyond the year 9999 it stays there.
pub(super) fn timestamp(at: UnixMillis) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_millis(at.0.min(YEAR_9999_MS)))
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const HEX: &[u8; 16] = b"0123456789abcdef";
const HEX_UPPER: &[u8; 16] = b"0123456789ABCDEF";
const YEAR_9999_MS: u64 = 253_370_764_800_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (plain, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")]
        {
            assert_eq!(base64(plain.as_bytes()), text);
            assert_eq!(from_base64(text).as_deref(), Some(plain.as_bytes()));
        }
        for bad in ["Z", "Zg", "Zg=", "Zg==Zg==", "Zh==", "Zm9=", "====", "Zm9v\n", "Z===", "Zm-_"] {
            assert_eq!(from_base64(bad), None, "{bad}");
        }
    }

    #[test]
    fn percent_encoding_keeps_slashes_and_encodes_plus_space_and_non_ascii() {
        assert_eq!(percent("a/b c+d%é~"), "a/b%20c%2Bd%25%C3%A9~");
    }

    #[test]
    fn percent_encoding_is_undone_and_half_of_it_is_refused() {
        assert_eq!(from_percent("a%2Fb%c3%A9+").as_deref(), Some("a/bé+".as_bytes()));
        for bad in ["%", "%2", "a%2", "%zz", "%+1"] {
            assert_eq!(from_percent(bad), None, "{bad}");
        }
        assert_eq!(from_form("a+b%2B").as_deref(), Some("a b+"));
        assert_eq!(from_form("%ff"), None);
    }

    #[test]
    fn upload_ids_survive_and_nothing_else_is_one() {
        let id = WriteId(0x0001_0000_0000_abcd);
        assert_eq!(upload_from_text(&upload_text(id)), Some(id));
        for bad in ["", "1", "000100000000ABCD", "+00100000000abcd", "000100000000abcdef"] {
            assert_eq!(upload_from_text(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn percent_encoding_survives(text in "\\PC{0,40}") {
            prop_assert_eq!(from_percent(&percent(&text)), Some(text.into_bytes()));
        }

        #[test]
        fn base64_survives(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(from_base64(&base64(&bytes)), Some(bytes));
        }

        #[test]
        fn whatever_decodes_encodes_to_itself(text in "[A-Za-z0-9+/=]{0,40}") {
            if let Some(bytes) = from_base64(&text) {
                prop_assert_eq!(base64(&bytes), text);
            }
        }
    }
}
