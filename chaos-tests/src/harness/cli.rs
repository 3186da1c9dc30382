//! The command line of a program's harness.

use std::{io::Write as _, process::ExitCode, sync::Arc, time::Instant};

use super::{
    Program,
    runner::{Figures, PATIENCE, Room, each, once, twice},
};

const USAGE: &str = "\
usage:
  seeds A..B [--twice]    runs the seeds from A to before B in the world; one line each; 1 on a violation
  nodes A..B [--twice]    the same with whole nodes and the real Raft
  replay SEED [--log]     runs one seed in the world; --log prints every event
  node SEED [--log]       runs one seed with whole nodes; --log prints every message and what nodes say
Every sixteenth seed is run twice, or every one with --twice: whether it comes to the same.";

/// Of so many seeds one is run twice.
const TWICE: u64 = 16;

#[derive(Debug, PartialEq, Eq)]
enum Order {
    Seeds { room: Room, from: u64, to: u64, twice: bool },
    One { room: Room, seed: u64, log: bool },
}

fn parse(words: &[String]) -> Result<Order, String> {
    let (mut all_twice, mut log, mut plain) = (false, false, Vec::new());
    for word in words {
        match word.as_str() {
            "--twice" => all_twice = true,
            "--log" => log = true,
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            word => plain.push(word),
        }
    }
    let number = |word: &str| word.parse::<u64>().map_err(|_| format!("{word:?} is no number"));
    let seeds = |room, range: &str| {
        let (from, to) = range.split_once("..").ok_or("which seeds? A..B")?;
        match (number(from)?, number(to)?) {
            (from, to) if from < to => Ok(Order::Seeds { room, from, to, twice: all_twice }),
            (from, to) => Err(format!("{from}..{to} has no seeds")),
        }
    };
    match plain[..] {
        ["seeds", range] if !log => seeds(Room::World, range),
        ["nodes", range] if !log => seeds(Room::Nodes, range),
        ["replay", seed] if !all_twice => Ok(Order::One { room: Room::World, seed: number(seed)?, log }),
        ["node", seed] if !all_twice => Ok(Order::One { room: Room::Nodes, seed: number(seed)?, log }),
        [] => Err("no command".to_owned()),
        _ => Err(format!("{:?} is not understood", words.join(" "))),
    }
}

/// The whole of a harness's `main`: runs what the command line says of the program that `make` makes for each seed, and prints
/// a line a seed, the same from run to run, on standard output. Ends with 0; 1 if something is wrong; 2 if the command line
/// is.
///
/// ```no_run
/// use mesh_chaos_tests::harness::{self, Deed, Dice, Make, Program, Workload};
/// use mesh_core::spec::CustomSpec;
///
/// /// Clients that write and read books; it has no function of its own.
/// struct Library;
///
/// impl Program for Library {
///     fn functions(&self) -> Vec<(String, Make)> {
///         Vec::new()
///     }
///     fn stages(&self) -> Vec<CustomSpec> {
///         Vec::new()
///     }
///     fn workload(&self, _client: usize) -> Box<dyn Workload> {
///         Box::new(Reader)
///     }
/// }
///
/// struct Reader;
///
/// impl Workload for Reader {
///     fn next(&mut self, dice: &mut Dice) -> Option<Deed> {
///         let key = format!("book-{}", dice.below(8));
///         Some(if dice.chance(300) {
///             Deed::Put { key, bytes: dice.bits().to_le_bytes().to_vec() }
///         } else {
///             Deed::Get { key }
///         })
///     }
/// }
///
/// fn main() -> std::process::ExitCode {
///     harness::main(|_seed| Library)
/// }
/// ```
pub fn main<P: Program + 'static>(make: impl Fn(u64) -> P + Send + Sync + 'static) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let make: Arc<dyn Fn(u64) -> Box<dyn Program> + Send + Sync> = Arc::new(move |seed| Box::new(make(seed)));
    let done = match parse(&arguments) {
        Ok(Order::Seeds { room, from, to, twice }) => seeds(room, from..to, twice, make),
        Ok(Order::One { room, seed, log }) => one(room, seed, log, make),
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("standard output: {error}");
            ExitCode::from(2)
        }
    }
}

type Maker = Arc<dyn Fn(u64) -> Box<dyn Program> + Send + Sync>;

/// Whether all is well.
fn seeds(room: Room, seeds: core::ops::Range<u64>, all_twice: bool, make: Maker) -> std::io::Result<bool> {
    let (begun, count) = (Instant::now(), seeds.end - seeds.start);
    let (mut figures, mut wrong) = (Figures::default(), Vec::new());
    let mut out = std::io::stdout().lock();
    let run = move |seed: u64| {
        if all_twice || seed.is_multiple_of(TWICE) {
            return twice(room, seed, &*make);
        }
        once(room, seed, &*make, false)
    };
    each(seeds, PATIENCE, run, |came| {
        match came {
            Ok(verdict) => {
                figures += verdict.figures;
                wrong.extend(verdict.violation.iter().map(|_| verdict.seed));
                writeln!(out, "{verdict}")?;
            }
            Err(lost) => {
                wrong.push(lost.seed);
                writeln!(out, "{lost}")?;
            }
        }
        out.flush()
    })?;
    let (real, simulated) = (begun.elapsed().as_secs_f64(), figures.simulated.as_secs_f64());
    eprintln!(
        "{count} seeds, {} violations; {} events, {} operations well and {} failed, {} crashes; {simulated:.0} s simulated \
         in {real:.1} s",
        wrong.len(),
        figures.events,
        figures.well,
        figures.failed,
        figures.crashes
    );
    if let Some(first) = wrong.first() {
        let command = if room == Room::World { "replay" } else { "node" };
        eprintln!("the first violation is of seed {first}: {command} {first} --log");
    }
    Ok(wrong.is_empty())
}

fn one(room: Room, seed: u64, log: bool, make: Maker) -> std::io::Result<bool> {
    let mut is_well = false;
    let mut out = std::io::stdout().lock();
    each(
        seed..seed + 1,
        PATIENCE,
        move |seed| once(room, seed, &*make, log),
        |came| {
            match came {
                Ok(verdict) => {
                    is_well = verdict.violation.is_none();
                    for line in &verdict.log {
                        writeln!(out, "{line}")?;
                    }
                    writeln!(out, "{verdict}")?;
                }
                Err(lost) => writeln!(out, "{lost}")?,
            }
            out.flush()
        },
    )?;
    Ok(is_well)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Order, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn reads_its_orders() {
        let order = |room, from, to, twice| Ok(Order::Seeds { room, from, to, twice });
        assert_eq!(parsed("seeds 3..9"), order(Room::World, 3, 9, false));
        assert_eq!(parsed("nodes 3..9 --twice"), order(Room::Nodes, 3, 9, true));
        assert_eq!(parsed("replay 7 --log"), Ok(Order::One { room: Room::World, seed: 7, log: true }));
        assert_eq!(parsed("node 7"), Ok(Order::One { room: Room::Nodes, seed: 7, log: false }));
    }

    #[test]
    fn refuses_nonsense() {
        for line in
            ["", "seeds", "seeds 9..3", "nodes 1..x", "node", "node 1 2", "seeds 1..2 --log", "dance 1", "node 1 --x"]
        {
            assert!(parsed(line).is_err(), "{line:?}");
        }
    }
}
