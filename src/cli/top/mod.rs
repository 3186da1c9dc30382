//! `mesh top`: the terminal, its keys, and who is asked when. What is shown of the answers is the [`model`]'s, how it looks
//! [`draw`]'s.

mod asks;
mod draw;
mod model;
#[cfg(test)]
mod sample;

use core::time::Duration;
use std::{
    io::IsTerminal as _,
    time::{Instant, SystemTime},
};

use asks::Asks;
use clap::Args;
use draw::{Section, View};
use mesh::{Client, config::Span};
use mesh_core::{Error, ErrorKind};
use model::Model;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{AdminConnect, say, told_to_stop};

/// Follow the mesh in one picture, drawn every second: nodes with the DPUs below their hosts, how much S3 front ends, chains
/// and drives do and how long that takes, where each tenant's chains run and which of them move, what is being repaired,
/// scrubbed and drained, and what has happened.
///
/// Keys: q ends it; Tab goes to the next part, the arrows move in it; d shows what drives do instead of chains; ? explains.
///
/// Who is up is as the node that answers sees it. Rates are what a node has counted more than a moment before, by its own clock:
/// the figures of `/metrics`, which it is asked for by way of the node that answers. One that is up and has not said them
/// for three seconds is `late`. A percentile is the upper bound of the bucket that it is in: within twice of what it was.
#[derive(Debug, Args)]
pub(crate) struct Top {
    #[command(flatten)]
    connect: AdminConnect,
    /// Draw a picture so often: 250ms to 60s.
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = pace)]
    every: Span,
    /// Print one picture as text, after having looked for `--every`, and end.
    #[arg(long)]
    once: bool,
}

fn pace(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if (EVERY_MIN..=EVERY_MAX).contains(&span.0) { Ok(span) } else { Err("a picture comes every 250ms to 60s".into()) }
}

impl Top {
    pub(crate) async fn run(self) -> Result<(), Error> {
        if self.once {
            let client = self.connect.client().await?;
            return say(&once(&client, self.every.0).await?);
        }
        if !std::io::stdout().is_terminal() {
            let what = "a picture that is drawn again and again needs a terminal: say --once for one picture as text, or use \
                        `mesh status` and `mesh watch`, whose --json is for programs";
            return Err(Error::invalid(what));
        }
        let client = self.connect.client().await?;
        // Gives the terminal back when it is dropped, however this ends.
        let _given_back = Screen;
        let terminal = ratatui::try_init().map_err(broken)?;
        tokio::select! {
            followed = follow(terminal, &client, self.every.0) => followed,
            told = told_to_stop() => told,
        }
    }
}

/// The terminal, while it is ours.
struct Screen;

impl Drop for Screen {
    fn drop(&mut self) {
        // A panic has given it back before it said anything. Once more would put the cursor back, on what was said.
        if std::thread::panicking() {
            return;
        }
        if let Err(error) = ratatui::try_restore() {
            eprintln!("mesh: the terminal cannot be given back, type `reset`: {error}");
        }
    }
}

/// One picture, as lines of text.
async fn once(client: &Client, every: Duration) -> Result<Vec<String>, Error> {
    let began = Instant::now();
    let (mut model, mut asks) = (Model::new(every), Asks::default());
    // Who is there; what each of them has counted; and that again.
    for pause in [Duration::ZERO, Duration::ZERO, every] {
        tokio::time::sleep(pause).await;
        asks.begin(client, &mut model, began.elapsed());
        while let Some(heard) = asks.next().await? {
            model.hear(heard, began.elapsed());
        }
    }
    if let Some(why) = model.trouble() {
        return Err(Error::new(ErrorKind::Unreachable, format!("nobody says how the mesh is: {why}")));
    }
    let picture = model.picture(began.elapsed());
    draw::text(&picture, &time_of_day())
}

/// Draws pictures until a key ends it.
async fn follow(mut terminal: DefaultTerminal, client: &Client, every: Duration) -> Result<(), Error> {
    let began = Instant::now();
    let (mut model, mut asks, mut view) = (Model::new(every), Asks::default(), View::default());
    let mut keys = keys();
    let mut ticks = interval(every);
    // After a machine was asleep one picture is enough.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_drawn = tokio::select! {
            _ = ticks.tick() => {
                asks.begin(client, &mut model, began.elapsed());
                true
            }
            heard = asks.next(), if !asks.is_empty() => {
                if let Some(heard) = heard? {
                    model.hear(heard, began.elapsed());
                }
                // Not with each of many answers: with the last of them, or when the next picture is due.
                asks.is_empty()
            }
            event = keys.recv() => match event {
                Some(event) => {
                    if !view.obey(event.map_err(broken)?) {
                        return Ok(());
                    }
                    true
                }
                None => return Err(Error::new(ErrorKind::DriveFailed, "the terminal says nothing any more")),
            },
        };
        if is_drawn {
            let picture = model.picture(began.elapsed());
            view.fit(&picture);
            terminal.draw(|frame| draw::draw(frame, &picture, &view, &time_of_day())).map_err(broken)?;
        }
    }
}

/// What is typed, read by a thread of its own until nobody listens.
fn keys() -> mpsc::Receiver<std::io::Result<Event>> {
    let (typed, keys) = mpsc::channel(KEYS_MAX);
    let read = move || {
        while !typed.is_closed() {
            let event = match event::poll(KEY_WAIT) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let has_failed = event.is_err();
            if typed.blocking_send(event).is_err() || has_failed {
                return;
            }
        }
    };
    // Who listens is told that it has ended, however it ends.
    drop(tokio::task::spawn_blocking(read));
    keys
}

impl View {
    /// Does what was typed; whether to go on.
    fn obey(&mut self, event: Event) -> bool {
        // What else there is (a window of another size) is drawn, and nothing more.
        let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press | KeyEventKind::Repeat, .. }) = event
        else {
            return true;
        };
        match code {
            KeyCode::Char('c' | 'd') if modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Esc if self.has_help => self.has_help = false,
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => return false,
            KeyCode::Char('?' | 'h') => self.has_help = !self.has_help,
            KeyCode::Char('d') => self.of_drives = !self.of_drives,
            KeyCode::Tab | KeyCode::Right => self.section = self.section.next(1),
            KeyCode::BackTab | KeyCode::Left => self.section = self.section.next(Section::ALL.len() - 1),
            KeyCode::Down => self.scroll(|at| at.saturating_add(1)),
            KeyCode::Up => self.scroll(|at| at.saturating_sub(1)),
            KeyCode::PageDown => self.scroll(|at| at.saturating_add(PAGE_ROWS)),
            KeyCode::PageUp => self.scroll(|at| at.saturating_sub(PAGE_ROWS)),
            KeyCode::Home => self.scroll(|_| 0),
            _ => {}
        }
        true
    }
}

/// In UTC, as `mesh watch` tells it.
fn time_of_day() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}", now / 3600, now / 60 % 60, now % 60)
}

fn broken(error: std::io::Error) -> Error {
    Error::new(ErrorKind::DriveFailed, "the terminal cannot be used; say --once for one picture as text")
        .caused_by(error)
}

const EVERY_MIN: Duration = Duration::from_millis(250);
const EVERY_MAX: Duration = Duration::from_secs(60);
/// Keys that wait to be obeyed at most.
const KEYS_MAX: usize = 16;
/// How long the thread that reads keys goes on when nobody listens.
const KEY_WAIT: Duration = Duration::from_millis(100);
/// Rows that a page goes.
const PAGE_ROWS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn press(view: &mut View, code: KeyCode) -> bool {
        view.obey(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    #[test]
    fn keys_go_from_part_to_part_and_end_it() {
        let mut view = View::default();
        assert!(press(&mut view, KeyCode::BackTab) && view.section == Section::Happened);
        assert!(press(&mut view, KeyCode::Tab) && view.section == Section::Nodes);
        assert!(press(&mut view, KeyCode::PageDown) && press(&mut view, KeyCode::Up));
        assert_eq!(view.offset(Section::Nodes), PAGE_ROWS - 1);
        assert!(press(&mut view, KeyCode::Home) && press(&mut view, KeyCode::Up));
        assert_eq!(view.offset(Section::Nodes), 0);
        assert!(press(&mut view, KeyCode::Char('d')) && view.of_drives);
        // Esc closes the help first.
        assert!(press(&mut view, KeyCode::Char('?')) && view.has_help);
        assert!(press(&mut view, KeyCode::Esc) && !view.has_help);
        assert!(!press(&mut view, KeyCode::Esc) && !press(&mut view, KeyCode::Char('q')));
        assert!(!view.obey(Event::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL))));
        assert!(view.obey(Event::Resize(10, 10)));
    }

    #[test]
    fn a_picture_comes_neither_all_the_time_nor_never() {
        for (text, is_taken) in
            [("250ms", true), ("1s", true), ("1m", true), ("249ms", false), ("61s", false), ("1", false)]
        {
            assert_eq!(pace(text).is_ok(), is_taken, "{text}");
        }
    }
}
