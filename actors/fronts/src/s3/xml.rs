//! XML as it travels. Requests: the forms that writers of XML may choose and s3s does not read (CDATA, comments, a byte
//! order mark) are brought into the one that it does, and what no S3 request has (document types, so entities) is
//! refused. So is what has more elements than any request: a parser makes a hundred bytes of each, and would make them
//! of all before anybody could say that they are too many. Responses: characters that a parser would change or refuse
//! are written as references.

use bytes::Bytes;
use s3s::{S3Error, S3Result, s3_error};

/// What a document may have at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// What its root is a list of, for whoever sent too many.
    pub(super) what: &'static str,
    /// So many of them.
    pub(super) items: usize,
}

/// Elements that were seen of a document.
#[derive(Default)]
struct Count {
    all: usize,
    items: usize,
}

impl Count {
    /// Counts the element that begins with `tag`, which lies `depth` deep.
    fn begins(&mut self, tag: &str, depth: usize, limit: Limit) -> S3Result<()> {
        let Limit { what, items } = limit;
        self.all += 1;
        let all = ITEM_ELEMENTS_MAX * (items + 1);
        if self.all > all {
            return Err(malformed(&format!("such a document has at most {all} elements")));
        }
        let name = tag.trim_start_matches('<').split([' ', '\t', '\r', '\n', '/']).next();
        // Beside a second root there is nothing that a list has; that is for the parser to say.
        if depth <= 1 && self.all > 1 && name != Some("Quiet") {
            self.items += 1;
        }
        if self.items > items {
            return Err(malformed(&format!("a request has at most {items} {what}")));
        }
        Ok(())
    }
}

/// Brings a document into the form that s3s reads: elements and text, and of them no more than `limit`.
///
/// # Errors
/// `MalformedXML`.
pub(super) fn plain(document: &[u8], limit: Limit) -> S3Result<Bytes> {
    // What is quoted may grow, but no request is made of nothing else.
    let bytes_max = 2 * document.len() + TAG_BYTES_MAX;
    let document = core::str::from_utf8(document).map_err(|_| malformed("it is not UTF-8"))?;
    let mut rest = document.trim_start_matches('\u{feff}');
    let mut plain = String::with_capacity(rest.len());
    let (mut depth, mut count) = (0_usize, Count::default());
    while let Some(at) = rest.find('<') {
        let (text, markup) = rest.split_at(at);
        plain.push_str(text);
        if let Some(comment) = markup.strip_prefix("<!--") {
            rest = behind(comment, "-->")?.1;
        } else if let Some(data) = markup.strip_prefix("<![CDATA[") {
            let (data, behind) = behind(data, "]]>")?;
            if plain.len() + escaped_len(data) > bytes_max {
                return Err(malformed("there is too much that must be escaped"));
            }
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
            if tag.len() > TAG_BYTES_MAX {
                return Err(malformed(&format!("a tag is longer than {TAG_BYTES_MAX} bytes")));
            }
            if tag.starts_with("</") {
                depth = depth.saturating_sub(1);
            } else {
                count.begins(tag, depth, limit)?;
                depth += usize::from(!tag.ends_with('/'));
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

/// How long [`escape`] makes it.
fn escaped_len(data: &str) -> usize {
    let more = data.bytes().map(|byte| match byte {
        b'<' | b'>' => 3,
        b'&' => 4,
        _ => 0,
    });
    data.len() + more.sum::<usize>()
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
    s3_error!(
        MalformedXML,
        "The XML you provided was not well-formed or did not validate against our published schema: {why}"
    )
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
/// Elements for each item of a list, itself included: a part with its number, its ETag and every checksum has 8.
const ITEM_ELEMENTS_MAX: usize = 8;
/// A tag with its attributes: those of S3 name a schema or two.
const TAG_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Limit = Limit { what: "Part elements", items: 100 };

    fn of(document: &str) -> Option<String> {
        plain(document.as_bytes(), LIMIT).ok().map(|plain| String::from_utf8(plain.to_vec()).expect("text"))
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
        assert!(plain(&[0xff], LIMIT).is_err());
        assert!(of(&"<a></a>".repeat(101)).is_some());
    }

    #[test]
    fn what_has_more_than_any_request_is_refused_however_it_is_arranged() {
        let why = |inner: String| {
            let refused = plain(format!("<List>{inner}</List>").as_bytes(), LIMIT).err()?;
            refused.message()?.split_once("schema: ").map(|(_, why)| why.to_owned())
        };
        let items = Some("a request has at most 100 Part elements".to_owned());
        let elements = Some("such a document has at most 808 elements".to_owned());
        assert_eq!(why("<Part a=\"1\"/>".repeat(100) + "<Quiet>true</Quiet>"), None);
        assert_eq!(why("<Part/>".repeat(101)), items);
        assert_eq!(why("<Part></Part>".repeat(101)), items);
        assert_eq!(why("<x/>".repeat(101)), items);
        assert_eq!(why("</List>".to_owned() + &"<Part/>".repeat(101)), items);
        assert_eq!(why(format!("<Part>{}</Part>", "<a/>".repeat(806))), None);
        assert_eq!(why(format!("<Part>{}</Part>", "<a/>".repeat(807))), elements);
        assert_eq!(why("<Quiet/>".repeat(808)), elements);
        assert_eq!(why("<Part b=\"/>\"><c/></Part>".repeat(51)), items);
        assert!(why(format!("<Part a=\"{}\"/>", "x".repeat(TAG_BYTES_MAX))).is_some());
        assert_eq!(why(format!("<![CDATA[{}]]>", "&".repeat(800))), None);
        assert!(why(format!("<![CDATA[{}]]>", "&".repeat(8000))).is_some());
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
                prop_assert!(plain.len() <= 2 * document.len() + TAG_BYTES_MAX);
            }
        }
    }
}
