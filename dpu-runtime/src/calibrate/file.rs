//! A calibration as a file. It is a cache: one that is damaged, or of another format, is measured again.
//!
//! ```text
//! mesh calibration 1                     format; another number is another format
//! machine <fingerprint>
//! cost <name> <ns_per_request> <ps_per_byte>       a line each, at most 64
//! crc32c <8 hexadecimal digits>          of all bytes before this line
//! ```

use std::{
    collections::BTreeMap,
    fs, io,
    io::{Read as _, Write as _},
    path::Path,
};

use mesh_core::wire::crc32c;

use super::{Calibration, Cost};

/// # Errors
/// In words, why there is none to be had.
pub(super) fn load(path: &Path) -> Result<Calibration, String> {
    let mut bytes = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)) {
        Ok(_) => decode(&bytes).ok_or_else(|| "the file is damaged, or of another format".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err("nothing was measured before".to_owned()),
        Err(error) => Err(format!("the file cannot be read: {error}")),
    }
}

/// Replaces the file at once, so that no reader sees a part of it. It is not synced: a lost cache is measured again.
pub(super) fn keep(path: &Path, calibration: &Calibration) -> io::Result<()> {
    let partial = path.with_extension(format!("partial-{}", std::process::id()));
    let kept = fs::File::create(&partial)
        .and_then(|mut file| file.write_all(encode(calibration).as_bytes()))
        .and_then(|()| fs::rename(&partial, path));
    if kept.is_err() && partial.exists() {
        fs::remove_file(&partial)?;
    }
    kept
}

fn encode(calibration: &Calibration) -> String {
    let mut text = format!("{HEAD}\nmachine {}\n", line(&calibration.machine));
    for (at, Cost { ns_per_request, ps_per_byte }) in calibration.costs.iter().take(COSTS_MAX) {
        text.push_str(&format!("cost {} {ns_per_request} {ps_per_byte}\n", name(at)));
    }
    let check = crc32c(text.as_bytes());
    text.push_str(&format!("crc32c {check:08x}\n"));
    text
}

fn decode(bytes: &[u8]) -> Option<Calibration> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return None;
    }
    let text = core::str::from_utf8(bytes).ok()?;
    let (content, check) = text.rsplit_once("crc32c ")?;
    if check != format!("{:08x}\n", crc32c(content.as_bytes())) {
        return None;
    }
    let mut lines = content.lines();
    if lines.next()? != HEAD {
        return None;
    }
    let machine = lines.next()?.strip_prefix("machine ")?.to_owned();
    let mut costs = BTreeMap::new();
    for line in lines {
        let mut words = line.strip_prefix("cost ")?.split(' ');
        let (name, ns, ps) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() || costs.len() == COSTS_MAX {
            return None;
        }
        let cost = Cost { ns_per_request: ns.parse().ok()?, ps_per_byte: ps.parse().ok()? };
        costs.insert(name.to_owned(), cost);
    }
    Some(Calibration { machine, costs })
}

/// As it stands on a line: bounded, without line ends.
pub(super) fn line(text: &str) -> String {
    text.chars().take(LINE_CHARS_MAX).map(|shown| if shown.is_control() { ' ' } else { shown }).collect()
}

/// As it stands between spaces.
pub(super) fn name(text: &str) -> String {
    text.chars().take(NAME_CHARS_MAX).map(|shown| if shown.is_ascii_graphic() { shown } else { '_' }).collect()
}

const HEAD: &str = "mesh calibration 1";
const FILE_BYTES_MAX: u64 = 16 << 10;
const COSTS_MAX: usize = 64;
const LINE_CHARS_MAX: usize = 256;
const NAME_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn calibration() -> Calibration {
        let cost = |ns_per_request, ps_per_byte| Cost { ns_per_request, ps_per_byte };
        let costs = [("encrypt.seal", cost(1_830, 101)), ("policy", cost(420, 0))];
        Calibration {
            machine: "A Processor; x86_64; software; mesh 0.1.0 release".to_owned(),
            costs: costs.map(|(name, cost)| (name.to_owned(), cost)).into(),
        }
    }

    #[test]
    fn the_format_is_as_drawn() {
        let text = "mesh calibration 1\nmachine A Processor; x86_64; software; mesh 0.1.0 release\n\
                    cost encrypt.seal 1830 101\ncost policy 420 0\n";
        let expected = format!("{text}crc32c {:08x}\n", crc32c(text.as_bytes()));
        assert_eq!(encode(&calibration()), expected);
        assert_eq!(decode(expected.as_bytes()), Some(calibration()));
    }

    #[test]
    fn another_format_is_not_read() {
        let text = encode(&calibration());
        let (content, _) = text.rsplit_once("crc32c ").unwrap();
        let newer = content.replace("calibration 1", "calibration 2");
        let newer = format!("{newer}crc32c {:08x}\n", crc32c(newer.as_bytes()));
        assert_eq!(decode(newer.as_bytes()), None);
        let more = format!("{content}cost x 1 2 3\n");
        assert_eq!(decode(format!("{more}crc32c {:08x}\n", crc32c(more.as_bytes())).as_bytes()), None);
    }

    proptest! {
        #[test]
        fn no_damage_is_read(at: proptest::sample::Index, flip in 1_u8.., cut: proptest::sample::Index) {
            let whole = encode(&calibration()).into_bytes();
            let mut damaged = whole.clone();
            damaged[at.index(whole.len())] ^= flip;
            prop_assert_eq!(decode(&damaged), None);
            prop_assert_eq!(decode(&whole[..cut.index(whole.len())]), None);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, lines in "(cost [a-z] [0-9]{0,25} [0-9]{0,3}\n|machine x\n|.\n){0,9}") {
            prop_assert_eq!(decode(&bytes), None);
            let content = format!("{HEAD}\nmachine y\n{lines}");
            decode(format!("{content}crc32c {:08x}\n", crc32c(content.as_bytes())).as_bytes());
        }

        #[test]
        fn any_calibration_survives(machine: String, costs in proptest::collection::btree_map("[a-z.]{1,12}", (any::<u64>(), any::<u64>()), 0..9)) {
            let costs = costs.into_iter().map(|(name, (ns_per_request, ps_per_byte))| (name, Cost { ns_per_request, ps_per_byte }));
            let calibration = Calibration { machine: line(&machine), costs: costs.collect() };
            prop_assert_eq!(decode(encode(&calibration).as_bytes()), Some(calibration));
        }
    }
}
