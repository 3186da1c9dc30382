use core::time::Duration;

use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::cli::top::sample::mesh;

const NOW: Duration = Duration::from_secs(2);

fn drawn(picture: &Picture, view: &View, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, picture, view, "01:02:05")).unwrap();
    written(terminal.backend())
}

#[test]
fn a_picture_of_a_hundred_columns_and_thirty_lines_has_all_of_it() {
    let lines = drawn(&mesh().picture(NOW), &View::default(), 100, 30);
    assert_eq!(lines.join("\n"), include_str!("picture.txt").trim_end());
}

#[test]
fn what_is_printed_has_every_row_and_no_keys() {
    let mut picture = mesh().picture(NOW);
    let row = picture.nodes[0].clone();
    picture.nodes = (1..=300).map(|node| NodeRow { node: NodeId(node), ..row.clone() }).collect();
    let lines = text(&picture, "01:02:05").unwrap();
    for node in ["node-1 ", "node-300 "] {
        assert_eq!(lines.iter().filter(|line| line.starts_with(node) && line.contains("host")).count(), 1, "{node}");
    }
    assert!(!lines.iter().any(|line| line.contains("q quit")), "{lines:?}");
    assert!(lines.last().is_some_and(|line| line.contains("moved chain-1-2")), "{lines:?}");
}

#[test]
fn names_that_are_wide_or_odd_move_nothing_and_say_nothing() {
    let mut picture = mesh().picture(NOW);
    let place = |lines: &[String]| {
        let line = lines.iter().find(|line| line.contains("chain-2-2")).expect("the chain is there").clone();
        let before: String = line.chars().take_while(|c| *c != 'c').collect();
        Line::raw(before).width()
    };
    let usual = drawn(&picture, &View::default(), 100, 30);
    // Also where nobody has made it plain.
    for name in
        ["", "日本語日本語日本語日本語", "a\u{301}\u{301}\u{301}", "\u{1b}[2J\u{1b}]0;x\u{7}", "\u{202e}\u{200d}x"]
    {
        picture.chains.last_mut().expect("the chain is there").tenant = name.to_owned();
        let lines = drawn(&picture, &View::default(), 100, 30);
        assert_eq!(place(&lines), place(&usual), "{name:?}: {lines:?}");
        assert!(lines.concat().chars().all(|c| !c.is_control()), "{name:?}: {lines:?}");
        assert!(lines.iter().all(|line| Line::raw(&**line).width() <= 100), "{name:?}: {lines:?}");
    }
}

#[test]
fn a_part_that_has_no_room_says_how_much_is_not_shown_and_is_scrolled() {
    let picture = mesh().picture(NOW);
    let mut view = View { section: Section::Upkeep, ..View::default() };
    let lines = drawn(&picture, &view, 100, 24);
    assert!(lines.iter().any(|line| line.starts_with("UPKEEP") && line.ends_with("0 above, 2 below")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("drive-2002")), "{lines:?}");
    view.scroll(|at| at + 100);
    view.fit(&picture);
    assert_eq!(view.offset(Section::Upkeep), picture.upkeep.len() - 1);
    let lines = drawn(&picture, &view, 100, 24);
    assert!(lines.iter().any(|line| line.starts_with("UPKEEP") && line.ends_with("6 above, 0 below")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("drain: node-2")), "{lines:?}");
}

#[test]
fn drives_are_shown_in_the_place_of_chains() {
    let view = View { of_drives: true, ..View::default() };
    let lines = drawn(&mesh().picture(NOW), &view, 100, 30);
    let words = |begins: &str| {
        let line = lines.iter().find(|line| line.starts_with(begins)).expect("a line");
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(words("NODE").contains(&"DRIVES/S".to_owned()), "{lines:?}");
    assert_eq!(words("node-1 ")[9..], ["100", "10.0", "5.00", "0.51", "0.51"]);
}

#[test]
fn any_size_of_a_terminal_is_drawn_on_and_the_help_is_on_top() {
    let picture = mesh().picture(NOW);
    for (width, height) in [(1, 1), (3, 2), (20, 4), (74, 12), (100, 30), (300, 90)] {
        for has_help in [false, true] {
            let view = View { has_help, ..View::default() };
            assert_eq!(drawn(&picture, &view, width, height).len(), usize::from(height));
        }
    }
    let view = View { has_help: true, ..View::default() };
    let lines = drawn(&picture, &view, 100, 30);
    assert!(HELP.iter().all(|help| lines.iter().any(|line| line.contains(help))), "{lines:?}");
    let lines = drawn(&Picture::default(), &View::default(), 100, 30);
    assert!(lines[0].ends_with("0 alive  level 0  as nobody says"), "{lines:?}");
}

#[test]
fn lines_are_given_to_all_and_then_to_who_wants_more() {
    assert_eq!(heights(100, [5, 3, 4, 2, 9]), [5, 3, 4, 2, 9]);
    assert_eq!(heights(27, [50, 50, 50, 50, 50]), [8, 5, 6, 5, 3]);
    assert_eq!(heights(27, [50, 1, 2, 50, 1]), [13, 1, 2, 10, 1]);
    assert_eq!(heights(3, [5, 5, 5, 5, 5]), [1, 1, 1, 0, 0]);
    assert_eq!(heights(0, [5, 5, 5, 5, 5]), [0; 5]);
}

#[test]
fn numbers_keep_to_their_columns() {
    let numbers = [0.0, 0.001, 0.1234, 9.994, 9.996, 99.94, 99.96, 1234.5, 999_999.0, 1e6, 1e300, f64::NAN].map(number);
    let expected =
        ["0", "0.00", "0.12", "9.99", "10.0", "99.9", "100", "1234", "999999", "1.0M", "99999.0M", "99999.0M"];
    assert_eq!(numbers, expected);
    let sizes = [0, 999, 1000, 1 << 20, 1536 << 20, 10 << 30, u64::MAX].map(size);
    assert_eq!(sizes, ["0B", "999B", "1.0K", "1.0M", "1.5G", "10G", "16E"]);
    let spans = [64, 512, 1024, 8192, 16_384, 33_554_432].map(|micros| millis(Duration::from_micros(micros)));
    assert_eq!(spans, ["0.06", "0.51", "1.0", "8.2", "16", "33554"]);
    assert_eq!(
        [0, 119, 120, 7199, 7200].map(|seconds| ago(Duration::from_secs(seconds))),
        ["0 s", "119 s", "2 min", "119 min", "2 h"]
    );
}
