//! How a picture looks: parts below one another, each with as many lines as there is room for.
//!
//! ```text
//! head            who says so, how many nodes there are, what a loss would cost
//! NODE      ...   hosts, and their DPUs below them
//! FRONT     ...   S3 front ends, all of them together first
//! TENANT    ...   chains, those that move first
//! UPKEEP    ...   repair, scrub, drain, and who is in trouble
//! HAPPENED  ...   the newest first
//! keys
//! ```

use core::time::Duration;

use mesh_core::{Error, id::NodeId};
use ratatui::{
    Frame, Terminal,
    backend::TestBackend,
    layout::{Alignment, Constraint, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Cell, Clear, Paragraph, Row, Table},
};

use super::model::{ChainRow, FrontRow, Head, Moving, NodeRow, Picture, Rate, Sight, Step, Took};

/// What is looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) section: Section,
    pub(super) has_help: bool,
    /// Nodes show what their drives do, and not their chains.
    pub(super) of_drives: bool,
    /// Rows of each part that are above what is shown.
    above: [usize; Section::ALL.len()],
}

/// A part of the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Section {
    #[default]
    Nodes,
    Fronts,
    Chains,
    Upkeep,
    Happened,
}

impl Section {
    pub(super) const ALL: [Self; 5] = [Self::Nodes, Self::Fronts, Self::Chains, Self::Upkeep, Self::Happened];

    /// The one so many further on, round and round.
    pub(super) fn next(self, by: usize) -> Self {
        Self::ALL[(self as usize + by) % Self::ALL.len()]
    }

    fn rows(self, picture: &Picture) -> usize {
        match self {
            Self::Nodes => picture.nodes.len(),
            Self::Fronts => picture.fronts.len(),
            Self::Chains => picture.chains.len(),
            Self::Upkeep => picture.upkeep.len(),
            Self::Happened => picture.happened.len(),
        }
    }
}

impl View {
    pub(super) fn offset(&self, section: Section) -> usize {
        self.above[section as usize]
    }

    /// Moves in the part that is looked at.
    pub(super) fn scroll(&mut self, to: impl FnOnce(usize) -> usize) {
        let above = &mut self.above[self.section as usize];
        *above = to(*above);
    }

    /// Keeps to what there is: one row of each part is shown at least.
    pub(super) fn fit(&mut self, picture: &Picture) {
        for section in Section::ALL {
            let above = &mut self.above[section as usize];
            *above = (*above).min(section.rows(picture).saturating_sub(1));
        }
    }
}

/// A picture as lines of text, in full.
pub(super) fn text(picture: &Picture, time: &str) -> Result<Vec<String>, Error> {
    let rows: usize = Section::ALL.iter().map(|section| 1 + section.rows(picture)).sum();
    let lines = u16::try_from(HEAD_LINES + rows + 1).unwrap_or(u16::MAX).min(TEXT_LINES_MAX);
    let failed = |error| Error::bug("a picture cannot be drawn").caused_by(error);
    let mut terminal = Terminal::new(TestBackend::new(TEXT_COLUMNS, lines)).map_err(failed)?;
    let view = View::default();
    terminal.draw(|frame| draw(frame, picture, &view, time)).map_err(failed)?;
    let mut lines = written(terminal.backend());
    // Nobody types here.
    lines.pop();
    Ok(lines)
}

/// What a backend in memory has, a line each, without what is empty at its end.
pub(super) fn written(backend: &TestBackend) -> Vec<String> {
    let buffer = backend.buffer();
    let line = |cells: &[ratatui::buffer::Cell]| {
        let (mut text, mut hidden) = (String::new(), 0);
        for cell in cells {
            // A wide character hides the cells behind it.
            if hidden == 0 {
                text.push_str(cell.symbol());
                hidden = Span::raw(cell.symbol()).width().max(1);
            }
            hidden -= 1;
        }
        text.truncate(text.trim_end().len());
        text
    };
    buffer.content().chunks(usize::from(buffer.area.width).max(1)).map(line).collect()
}

/// Draws it.
pub(super) fn draw(frame: &mut Frame<'_>, picture: &Picture, view: &View, time: &str) {
    let area = frame.area();
    let line = |y: u16, height: u16| Rect { y, height, ..area }.intersection(area);
    frame.render_widget(Paragraph::new(head(&picture.head, time)), line(area.y, HEAD_LINES as u16));
    let wanted = Section::ALL.map(|section| 1 + section.rows(picture));
    let room = usize::from(area.height).saturating_sub(HEAD_LINES + 1);
    let mut y = area.y.saturating_add(HEAD_LINES as u16);
    for (section, height) in Section::ALL.into_iter().zip(heights(room, wanted)) {
        let height = u16::try_from(height).unwrap_or(u16::MAX);
        part(frame, line(y, height), section, picture, view);
        y = y.saturating_add(height);
    }
    let keys = Line::styled(KEYS, Style::new().add_modifier(Modifier::DIM));
    frame.render_widget(keys, line(area.bottom().saturating_sub(1), 1));
    if view.has_help {
        help(frame);
    }
}

/// How many lines each part has: first some for everybody, then one after the other to who still wants any, those above first.
fn heights(room: usize, wanted: [usize; 5]) -> [usize; 5] {
    let mut heights = [0; 5];
    let mut left = room;
    for limits in [LINES_LEAST, [usize::MAX; 5]] {
        loop {
            let before = left;
            for at in 0..heights.len() {
                if left > 0 && heights[at] < wanted[at].min(limits[at]) {
                    heights[at] += 1;
                    left -= 1;
                }
            }
            if left == before {
                break;
            }
        }
    }
    heights
}

fn part(frame: &mut Frame<'_>, area: Rect, section: Section, picture: &Picture, view: &View) {
    if area.is_empty() {
        return;
    }
    let (above, shown) = (view.offset(section), usize::from(area.height) - 1);
    let below = section.rows(picture).saturating_sub(above + shown);
    let more = match (above, below) {
        (0, 0) => String::new(),
        (above, below) => format!(" {above} above, {below} below"),
    };
    match section {
        Section::Nodes => {
            let rows = picture.nodes.iter().map(|row| node(row, view.of_drives));
            let work = if view.of_drives { "DRIVES/S" } else { "CHAINS/S" };
            let heads = [
                "NODE", "KIND", "STATE", "LV", "CPU%", "MEM", "DRIVES", "USED", "OPEN", work, "IN MB/S", "OUT MB/S",
                "P50 MS", "P99 MS",
            ];
            table(frame, area, (heads, NODE_COLUMNS), rows.skip(above), 3);
        }
        Section::Fronts => {
            let heads = ["S3 FRONT", "REQ/S", "5XX/S", "IN MB/S", "OUT MB/S", "P50 MS", "P99 MS", "OPEN"];
            table(frame, area, (heads, FRONT_COLUMNS), picture.fronts.iter().map(front).skip(above), 1);
        }
        Section::Chains => {
            let heads = ["TENANT", "CHAIN", "RUNS ON", "MOVES", "LAST MOVE (UTC), WAIT", "FUNCTIONS"];
            table(frame, area, (heads, CHAIN_COLUMNS), picture.chains.iter().map(chain).skip(above), heads.len());
        }
        Section::Upkeep => {
            let style = |grave| if grave { Style::new().fg(Color::Red) } else { Style::new() };
            let line = |line: &super::model::Line| Line::styled(line.text.clone(), style(line.is_grave));
            listed(frame, area, "UPKEEP", picture.upkeep.iter().map(line).skip(above));
        }
        Section::Happened => {
            let line = |text: &String| Line::raw(text.clone());
            listed(frame, area, "HAPPENED (UTC)", picture.happened.iter().map(line).skip(above));
        }
    }
    let has_focus = view.section == section;
    let bar = Rect { height: 1, ..area };
    let modifiers = if has_focus { Modifier::BOLD.union(Modifier::REVERSED) } else { Modifier::BOLD };
    frame.buffer_mut().set_style(bar, Style::new().add_modifier(modifiers));
    if !more.is_empty() {
        let width = u16::try_from(more.len()).unwrap_or(u16::MAX).min(bar.width);
        frame.render_widget(Line::raw(more), Rect { x: bar.right() - width, width, ..bar });
    }
}

/// Rows in columns, of which those from `numbers` on are flush right.
fn table<const N: usize>(
    frame: &mut Frame<'_>,
    area: Rect,
    (heads, columns): ([&'static str; N], [u16; N]),
    rows: impl Iterator<Item = ([String; N], Style)>,
    numbers: usize,
) {
    let cell = |(at, text): (usize, String)| {
        let side = if at < numbers { Alignment::Left } else { Alignment::Right };
        Cell::from(Line::raw(text).alignment(side))
    };
    let row = |texts: [String; N]| Row::new(texts.into_iter().enumerate().map(cell));
    let rows = rows.take(usize::from(area.height)).map(|(texts, style)| row(texts).style(style));
    let columns = fitting(&columns, area.width).into_iter().map(Constraint::Length);
    let table = Table::new(rows, columns).header(row(heads.map(str::to_owned)));
    frame.render_widget(table, area);
}

/// The first columns, as far as there is room with a space between two; the last of them may be cut. (Left to itself, a table that
/// has too little room makes all of them narrower.)
fn fitting(columns: &[u16], mut room: u16) -> Vec<u16> {
    let mut widths = Vec::new();
    for column in columns {
        if room == 0 {
            break;
        }
        let width = room.min(*column);
        widths.push(width);
        room = room.saturating_sub(width + 1);
    }
    widths
}

fn listed<'a>(frame: &mut Frame<'_>, area: Rect, title: &'static str, lines: impl Iterator<Item = Line<'a>>) {
    let lines: Vec<Line<'a>> = core::iter::once(Line::raw(title)).chain(lines).take(usize::from(area.height)).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

fn head(head: &Head, time: &str) -> Vec<Line<'static>> {
    let [alive, drains, late, gone] = head.nodes;
    let mut nodes = format!("{alive} alive");
    for (count, word) in [(drains, "draining"), (late, "late"), (gone, "gone")] {
        if count > 0 {
            nodes += &format!(", {count} {word}");
        }
    }
    let by = head.by.map_or_else(|| "nobody".to_owned(), |node| node.to_string());
    let first = format!("mesh top  {time} UTC  nodes: {nodes}  level {}  as {by} says", head.level);
    let (text, color) = match (&head.stale, head.survives) {
        (Some((age, why)), _) => (format!("NOBODY HAS ANSWERED FOR {}: {why}", ago(*age)), Color::Red),
        (None, Some((true, true))) => ("safe against the loss of any one more node".to_owned(), Color::Green),
        (None, Some((reads, writes))) => {
            let go = |goes: bool| if goes { "go on" } else { "fail" };
            (format!("NOT SAFE against the loss of a node: reads {}, writes {}", go(reads), go(writes)), Color::Red)
        }
        (None, None) => ("what a loss would cost is not known: there is no layout yet".to_owned(), Color::Yellow),
    };
    vec![Line::styled(first, Style::new().add_modifier(Modifier::BOLD)), Line::styled(text, Style::new().fg(color))]
}

fn node(row: &NodeRow, of_drives: bool) -> ([String; 14], Style) {
    let (state, style) = match row.sight {
        Sight::Alive => ("alive", Style::new()),
        Sight::Drains => ("drains", Style::new().fg(Color::Cyan)),
        Sight::Late => ("late", Style::new().fg(Color::Yellow)),
        Sight::Gone => ("gone", Style::new().fg(Color::Red)),
    };
    let (up, all) = row.drives;
    let [requests, _, received, sent, p50, p99] =
        rates(if of_drives { row.drive_work.as_ref() } else { row.chain_work.as_ref() });
    let or_none = |text: Option<String>| text.unwrap_or_else(none);
    let cells = [
        format!("{}{}", if row.is_under_host { "└ " } else { "" }, row.node),
        row.kind.clone(),
        state.to_owned(),
        row.level.to_string(),
        or_none(row.cpu_percent.map(|percent| percent.to_string())),
        or_none(row.memory_bytes.map(size)),
        if all == 0 { none() } else { format!("{up}/{all}") },
        or_none(row.used_percent.map(|percent| format!("{percent}%"))),
        or_none(row.open.map(|open| open.to_string())),
        requests,
        received,
        sent,
        p50,
        p99,
    ];
    (cells, style)
}

fn front(row: &FrontRow) -> ([String; 8], Style) {
    let [requests, failed, received, sent, p50, p99] = rates(row.work.as_ref());
    let name = row.node.map_or_else(|| "all".to_owned(), |node| node.to_string());
    let has_failed = row.work.as_ref().is_some_and(|work| work.failed > 0.0);
    let style = if has_failed { Style::new().fg(Color::Yellow) } else { Style::new() };
    ([name, requests, failed, received, sent, p50, p99, row.open.to_string()], style)
}

fn chain(row: &ChainRow) -> ([String; 6], Style) {
    let name = |node: Option<NodeId>| node.map_or_else(|| "?".to_owned(), |node| node.to_string());
    let moving = row.moving.as_ref().map(|(Moving { from, to, step }, age)| {
        let step = match step {
            Step::Copies => "copies",
            Step::Frozen => "frozen",
            Step::Retires => "retires",
        };
        format!("{} -> {} {step} {}", name(*from), name(*to), ago(*age))
    });
    let style = if moving.is_some() { Style::new().fg(Color::Cyan) } else { Style::new() };
    let cells = [
        row.tenant.clone(),
        row.name.clone(),
        row.at.map_or_else(none, |node| node.to_string()),
        moving.unwrap_or_else(none),
        row.last.clone(),
        row.functions.clone(),
    ];
    (cells, style)
}

/// Requests, failures, megabytes in and out, percentiles.
fn rates(work: Option<&Rate>) -> [String; 6] {
    let Some(work) = work else { return core::array::from_fn(|_| none()) };
    let took = |took: Option<Took>| match took {
        None => none(),
        Some(Took::Within(span)) => millis(span),
        Some(Took::Longer(span)) => format!(">{}", millis(span)),
    };
    [
        number(work.requests),
        number(work.failed),
        number(work.received_bytes / 1e6),
        number(work.sent_bytes / 1e6),
        took(work.p50),
        took(work.p99),
    ]
}

/// What is not known.
fn none() -> String {
    "-".to_owned()
}

/// A number in seven characters at most.
fn number(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        ..0.005 => "0.00".to_owned(),
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        ..999_999.5 => format!("{value:.0}"),
        _ => format!("{:.1}M", (value / 1e6).min(99_999.0)),
    }
}

/// Milliseconds, with two digits that count.
fn millis(span: Duration) -> String {
    let millis = span.as_secs_f64() * 1e3;
    match millis {
        ..0.95 => format!("{millis:.2}"),
        ..9.95 => format!("{millis:.1}"),
        _ => format!("{millis:.0}"),
    }
}

/// Bytes in five characters at most.
fn size(bytes: u64) -> String {
    let (mut value, mut units) = (bytes as f64, "BKMGTPE".chars());
    let mut unit = units.next();
    while value >= 999.5 && unit != Some('E') {
        (value, unit) = (value / 1024.0, units.next());
    }
    let digits = usize::from(value < 9.95 && unit != Some('B'));
    format!("{value:.digits$}{}", unit.unwrap_or('E'))
}

/// How long something has been so.
fn ago(span: Duration) -> String {
    match span.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

fn help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let (width, height) = (HELP_COLUMNS.min(area.width), (HELP.len() as u16 + 2).min(area.height));
    let (x, y) = (area.x + (area.width - width) / 2, area.y + (area.height - height) / 2);
    let middle = Rect { x, y, width, height };
    frame.render_widget(Clear, middle);
    let lines: Vec<Line<'_>> = HELP.iter().map(|line| Line::raw(*line)).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" ? ")), middle);
}

const KEYS: &str = "q quit   Tab part   arrows move   d chains or drives   ? help";

const HELP: [&str; 17] = [
    "q, Ctrl-C   end                 Tab, left, right   another part",
    "up, down    move in it          Home               to its beginning",
    "d           what chains do, or what drives do",
    "?, Esc      this",
    "",
    "STATE   alive; drains: its actors leave it; late: it is up and does",
    "        not say what it counts; gone: down, as the node that answers",
    "        sees it",
    "CPU%    of one core, of the whole process",
    "DRIVES  that are up, of how many; USED: how full those are",
    "OPEN    requests that were taken and not answered",
    "P50/99  in ms: the upper bound of the bucket, within twice of it",
    "MOVES   copies: its state goes over while it runs; frozen: requests",
    "        wait; retires: it runs there, the source ends what it had.",
    "        The time is since it was seen here first",
    "-       not known (yet): rates take two answers of the same start",
    "        of a node",
];

/// Columns of what is printed as text.
const TEXT_COLUMNS: u16 = 100;
/// Lines of it at most.
const TEXT_LINES_MAX: u16 = 2000;
const HEAD_LINES: usize = 2;
/// Lines that every part has before any has more, if it wants them: its head among them.
const LINES_LEAST: [usize; 5] = [7, 4, 5, 5, 3];
const NODE_COLUMNS: [u16; 14] = [12, 7, 6, 2, 4, 5, 6, 4, 4, 8, 7, 8, 6, 6];
const FRONT_COLUMNS: [u16; 8] = [12, 8, 8, 8, 8, 8, 8, 6];
const CHAIN_COLUMNS: [u16; 6] = [12, 12, 8, 30, 34, 60];
const HELP_COLUMNS: u16 = 74;

#[cfg(test)]
mod tests;
