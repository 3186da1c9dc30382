//! What the nodes of a room say. A panic anywhere, and everything that asks to be reported, fails the run.

use core::{cell::RefCell, fmt::Write as _};
use std::{panic::PanicHookInfo, sync::Arc};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
};

use super::{machine::Life, time::RoomTime};

thread_local! {
    static HEARD: RefCell<Option<Heard>> = const { RefCell::new(None) };
    /// The process that lives its window just now.
    static SPEAKER: RefCell<Option<Arc<Life>>> = const { RefCell::new(None) };
}

/// What was said on this thread.
struct Heard {
    time: Arc<RoomTime>,
    /// Kept if somebody wants to read it.
    lines: Option<Vec<String>>,
    /// What is no error any more, for somebody has brought it about.
    expected: Vec<&'static str>,
    /// The first thing that must never be said.
    broken: Option<String>,
}

/// Errors that the faults of a room bring about. Whatever else is said as an error must never be said.
const EXPECTED: [&str; 3] = [PLANTED, "the actor is given up", "an actor cannot be hosted"];

/// What a panic says that a run plants.
pub(super) const PLANTED: &str = "planted:";

/// Runs a room, and hears what its nodes say. With `wanted`, keeps it.
pub(super) fn hearing<T>(time: Arc<RoomTime>, wanted: bool, run: impl FnOnce() -> T) -> T {
    crate::panics::install();
    HEARD.set(Some(Heard { time, lines: wanted.then(Vec::new), expected: EXPECTED.to_vec(), broken: None }));
    let level = if wanted { Level::DEBUG } else { Level::ERROR };
    let subscriber = tracing_subscriber::registry().with(Ears(level));
    let result = tracing::subscriber::with_default(subscriber, run);
    HEARD.set(None);
    result
}

/// Whether the panic was of a room.
pub(crate) fn note_panic(info: &PanicHookInfo<'_>) -> bool {
    let heard = HEARD.try_with(|heard| heard.try_borrow_mut().is_ok_and(|mut heard| note(heard.as_mut(), info)));
    heard.unwrap_or(false)
}

fn note(heard: Option<&mut Heard>, info: &PanicHookInfo<'_>) -> bool {
    let Some(heard) = heard else { return false };
    let said = info.payload_as_str().unwrap_or("something");
    if !said.starts_with(PLANTED) {
        let place = info.location().map_or_else(String::new, ToString::to_string);
        heard.say(&format!("PANIC at {place}: {said}"));
        heard.broken.get_or_insert_with(|| format!("a panic at {place}: {said}"));
    }
    true
}

/// Runs a process for a while. One that dies in the midst of that says nothing more: what its disks and links no longer
/// answer it may take for a fault of theirs.
pub(super) fn spoken_by<T>(life: &Arc<Life>, run: impl FnOnce() -> T) -> T {
    /// Also after a panic nobody is taken for who spoke last.
    struct Silence;
    impl Drop for Silence {
        fn drop(&mut self) {
            SPEAKER.set(None);
        }
    }
    SPEAKER.set(Some(life.clone()));
    let _silence = Silence;
    run()
}

/// Whether who speaks is a process that has died.
fn is_dead() -> bool {
    SPEAKER.with_borrow(|speaker| speaker.as_ref().is_some_and(|life| !life.is_alive()))
}

/// From now on this may be said.
pub(super) fn expect(what: &'static str) {
    HEARD.with_borrow_mut(|heard| heard.iter_mut().for_each(|heard| heard.expected.push(what)));
}

/// Adds a line, if lines are kept.
pub(super) fn say(line: impl FnOnce() -> String) {
    HEARD.with_borrow_mut(|heard| {
        if let Some(heard) = heard.as_mut().filter(|heard| heard.lines.is_some()) {
            heard.say(&line());
        }
    });
}

/// The first thing that must never be said.
pub(super) fn broken() -> Option<String> {
    HEARD.with_borrow(|heard| heard.as_ref().and_then(|heard| heard.broken.clone()))
}

/// Takes the lines.
pub(super) fn take_lines() -> Vec<String> {
    HEARD
        .with_borrow_mut(|heard| heard.as_mut().and_then(|heard| heard.lines.as_mut()).map(core::mem::take))
        .unwrap_or_default()
}

impl Heard {
    fn say(&mut self, line: &str) {
        let now = self.time.windows();
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>4}.{:03} {line}", now / 1000, now % 1000));
        }
    }
}

struct Ears(Level);

impl<S: Subscriber> Layer<S> for Ears {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.is_event() && *metadata.level() <= self.0 && metadata.target().starts_with("mesh")
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line(format!("{} {}:", event.metadata().level(), event.metadata().target()));
        event.record(&mut line);
        HEARD.with_borrow_mut(|heard| {
            let Some(heard) = heard else { return };
            heard.say(&line.0);
            let is_error = *event.metadata().level() == Level::ERROR;
            if is_error && !is_dead() && !heard.expected.iter().any(|expected| line.0.contains(expected)) {
                heard.broken.get_or_insert(line.0);
            }
        });
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn core::fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        debug_assert!(written.is_ok(), "text can be written to");
    }
}
