//! XML as it travels. Requests: the forms that writers of XML may choose and s3s does not read (CDATA, comments, a byte
//! order mark) are brought into the one that it does, and what no S3 request has (document types, so entities) is
//! refused. Responses: characters that a parser would change or refuse are written as references.

use bytes::Bytes;
use s3s::{S3Error, S3Result, s3_error};

/// Brings a document into the form that s3s reads: elements and text.
///
/// # Errors
/// `MalformedXML`.
pub(super) fn plain(document: &[u8]) -> S3Result<Bytes> {
    let document = core::str::from_utf8(document).map_err(|_| malformed("it is not UTF-8"))?;
    let mut rest = document.trim_start_matches('\u{feff}');
    let mut plain = String::with_capacity(rest.len());
    let mut depth = 0_usize;
    while let Some(at) = rest.find('<') {
        let (text, markup) = rest.split_at(at);
        plain.push_str(text);
        if let Some(comment) = markup.strip_prefix("<!--") {
            rest = behind(comment, "-->")?.1;
        } else if let Some(data) = markup.strip_prefix("<![CDATA[") {
            let (data, behind) = behind(data, "]]>")?;
            escape(data, &mut plain);
            rest = behind;
        } else if let Some(instruction) = markup.strip_prefix("<?") {
            rest = behind(instruction, "?>")?.1;
        } else if markup.starts_with("<!") {
            return Err(malformed("it declares a document type"));
        } else {
            let (tag, behind) = behind(markup, ">")?;
            if tag.rfind('<') != Some(0) {
                return Err(malformed("a tag is cut"));
            }
            if tag.starts_with("</") {
                depth = depth.saturating_sub(1);
            } else if !tag.ends_with('/') {
                depth += 1;
            }
            if depth > DEPTH_MAX {
                return Err(malformed("its elements are nested too deeply"));
            }
            plain.push_str(tag);
            plain.push('>');
            rest = behind;
        }
    }
    plain.push_str(rest);
    Ok(plain.into())
}

fn behind<'a>(text: &'a str, end: &str) -> S3Result<(&'a str, &'a str)> {
    text.split_once(end).ok_or_else(|| malformed("it is cut"))
}

fn escape(data: &str, into: &mut String) {
    for character in data.chars() {
        match character {
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '&' => into.push_str("&amp;"),
            other => into.push(other),
        }
    }
}

fn malformed(why: &str) -> S3Error {
    s3_error!(MalformedXML, "The XML you provided was not well-formed: {why}")
}

/// Whether XML 1.0 can carry a key at all.
pub(super) fn can_carry(key: &str) -> bool {
    !key.chars().any(|character| {
        (character < ' ' && !matches!(character, '\t' | '\n' | '\r')) || matches!(character, '\u{fffe}' | '\u{ffff}')
    })
}

/// Writes control characters of a response as references: a bare carriage return is a line feed to every parser, so a
/// key that has one would be read as another key. `None` if there are none.
pub(super) fn with_references(document: &[u8]) -> Option<Bytes> {
    let control = |byte: u8| byte < b' ' && !matches!(byte, b'\t' | b'\n');
    if !document.iter().any(|&byte| control(byte)) {
        return None;
    }
    let mut written = Vec::with_capacity(document.len() + 64);
    for &byte in document {
        if control(byte) {
            written.extend_from_slice(format!("&#{byte};").as_bytes());
        } else {
            written.push(byte);
        }
    }
    Some(written.into())
}

/// Deeper than any S3 request.
const DEPTH_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(document: &str) -> Option<String> {
        plain(document.as_bytes()).ok().map(|plain| String::from_utf8(plain.to_vec()).expect("text"))
    }

    #[test]
    fn every_form_becomes_elements_and_text() {
        let all = "\u{feff}<?xml version=\"1.0\"?>\r\n<A><!-- <B> --><C><![CDATA[\"<&]]></C>t&amp;<D/></A>\n";
        assert_eq!(of(all).as_deref(), Some("\r\n<A><C>\"&lt;&amp;</C>t&amp;<D/></A>\n"));
        assert_eq!(of("").as_deref(), Some(""));
        assert_eq!(of("hello").as_deref(), Some("hello"));
    }

    #[test]
    fn document_types_cuts_and_depths_are_refused() {
        let deep = "<a>".repeat(DEPTH_MAX + 1);
        for bad in ["<!DOCTYPE d [<!ENTITY a \"b\">]><A/>", "<A><!-- ", "<A><![CDATA[x", "<?xml", "<A", &deep] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert!(plain(&[0xff]).is_err());
        assert!(of(&"<a></a>".repeat(1000)).is_some());
    }

    #[test]
    fn control_characters_are_written_as_references() {
        assert_eq!(with_references(b"<K>a\rb\x01</K>").as_deref(), Some(&b"<K>a&#13;b&#1;</K>"[..]));
        assert_eq!(with_references("<K>a\tb\nc\u{85}</K>".as_bytes()), None);
        assert!(can_carry("tab\tcr\rlf\nnel\u{85}del\u{7f}"));
        assert!(!can_carry("a\u{1}") && !can_carry("esc\u{1b}") && !can_carry("\u{fffe}"));
    }

    proptest! {
        #[test]
        fn no_document_makes_the_reader_panic_or_keeps_declarations(document in "(<|!|--|\\[CDATA\\[|\\]\\]>|>|\\?|/|a|&){0,40}") {
            if let Some(plain) = of(&document) {
                prop_assert!(!plain.contains("<!") && !plain.contains("<?"));
            }
        }
    }
}
