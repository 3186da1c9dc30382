//! The project's own sources as text, without comments.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Every `.rs` file below some folders, without comments.
pub(crate) struct Sources(Vec<(String, String)>);

impl Sources {
    /// Reads them. `target`, hidden folders and what is not ours are left out; a folder that is not there is empty.
    pub(crate) fn under(root: &Path, folders: &[&str]) -> Self {
        let mut files = Vec::new();
        for folder in folders {
            collect(&root.join(folder), &mut files);
        }
        files.sort();
        let read = |path: PathBuf| {
            let name = path.strip_prefix(root).unwrap_or(&path).components().as_path().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).expect("a source can be read");
            (name.trim_start_matches("./").to_owned(), without_comments(&text))
        };
        Self(files.into_iter().map(read).collect())
    }

    /// Each line with its place (`path:line`).
    pub(crate) fn lines(&self) -> impl Iterator<Item = (String, &str)> {
        self.0.iter().flat_map(|(name, text)| {
            text.lines().enumerate().map(move |(at, line)| (format!("{name}:{}", at + 1), line.trim()))
        })
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.expect("a folder can be read").path()) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, files);
            }
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
}

/// The text with its comments blanked, line for line. Knows strings, so that `"http://"` stays.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let (mut in_string, mut depth) = (false, 0_u32);
    while let Some(c) = chars.next() {
        let next = chars.peek().copied();
        match (c, next) {
            ('\n', _) => out.push('\n'),
            ('/', Some('*')) if !in_string => {
                depth += 1;
                chars.next();
            }
            ('*', Some('/')) if depth > 0 => {
                depth -= 1;
                chars.next();
            }
            _ if depth > 0 => {}
            ('/', Some('/')) if !in_string => while chars.next_if(|c| *c != '\n').is_some() {},
            ('\'', Some('"')) if !in_string => {
                // The character '"', which begins no string.
                out.push(c);
                out.extend(chars.next());
            }
            ('\'', Some('\\')) if !in_string => {
                out.extend([Some(c), chars.next(), chars.next()].into_iter().flatten());
            }
            ('\\', Some(escaped)) if in_string => {
                out.extend([c, escaped]);
                chars.next();
            }
            ('"', _) => {
                in_string = !in_string;
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out
}

#[test]
fn comments_are_left_out_and_strings_are_not() {
    let text = "a // b\n/* c\n/* d */ e */ f(\"//g \\\" /*\", '\"', '\\\"') /// h\n//! i\nj";
    assert_eq!(without_comments(text), "a \n\n f(\"//g \\\" /*\", '\"', '\\\"') \n\nj");
}
