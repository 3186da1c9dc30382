//! `mesh-chaos`: runs seeds of the simulator.
//!
//! Standard output is the same from run to run: one line a seed, in their order. Times go to standard error.

use std::{io::Write as _, process::ExitCode, time::Instant};

use mesh_chaos_tests::{
    harness::runner::{Lost, PATIENCE, each},
    nodes::{self, plan::Plan, run::Planted},
    planted::Bug,
    run::{
        Figures, run,
        sweep::{Victim, run_move},
    },
    shrink::shrink,
    sweep::sweep,
};

const USAGE: &str = "\
usage:
  mesh-chaos seeds A..B [--bug NAME] [--trace SEED]   run the seeds from A to before B; one line each; 1 on a violation
  mesh-chaos replay SEED [--bug NAME] [--log]         run one seed; --log prints every event
  mesh-chaos shrink SEED [--bug NAME]                 the fewest faults that still show the violation
  mesh-chaos sweep [VICTIM] [--seed S] [--bug NAME] [--every N]  one move under load, with each fault, or this one, at each
                                                      (N-th) of its events; one line a fault; 1 on a violation
  mesh-chaos move [VICTIM:EVENT] [--seed S] [--bug NAME] [--log]  one run of the sweep
  mesh-chaos bugs                                     the names of the planted bugs
  mesh-chaos nodes A..B [--bug NAME] [--quic | --bereft]  whole nodes, with the real Raft: as `seeds`; --quic: over the real
                                                      QUIC; --bereft: that lose most of those that vote, for good
  mesh-chaos node SEED [--bug NAME] [--quic | --bereft] [--log]  one of these; --log prints every message and what nodes say";

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Order {
    Seeds { from: u64, to: u64, bug: Option<Bug>, trace: Option<u64> },
    Replay { seed: u64, bug: Option<Bug>, log: bool },
    Shrink { seed: u64, bug: Option<Bug> },
    Sweep { victims: Vec<Victim>, seed: u64, bug: Option<Bug>, every: usize },
    Move { seed: u64, fault: Option<(Victim, u64)>, bug: Option<Bug>, log: bool },
    Bugs,
    Nodes { from: u64, to: u64, bug: Option<Planted>, draw: Draw },
    Node { seed: u64, bug: Option<Planted>, draw: Draw, log: bool },
}

/// What seeds of whole nodes draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Draw {
    Memory,
    Quic,
    Bereft,
}

impl Draw {
    fn plan(self, seed: u64) -> Plan {
        match self {
            Self::Memory => Plan::of(seed),
            Self::Quic => Plan::over_quic(seed),
            Self::Bereft => Plan::bereft(seed),
        }
    }
}

fn parse(arguments: &[String]) -> Result<Order, String> {
    let mut words = arguments.iter().map(String::as_str);
    let command = words.next().ok_or("no command")?;
    let (mut draw, mut place, mut named, mut trace, mut log, mut move_seed, mut every) =
        (Draw::Memory, None, None, None, false, 1, 1);
    while let Some(word) = words.next() {
        match word {
            "--bug" => named = Some(words.next().ok_or("--bug needs a name")?),
            "--trace" => trace = Some(number(words.next().ok_or("--trace needs a seed")?)?),
            "--seed" => move_seed = number(words.next().ok_or("--seed needs a number")?)?,
            "--every" => every = number(words.next().ok_or("--every needs a number")?)?.max(1),
            "--log" => log = true,
            "--quic" => draw = Draw::Quic,
            "--bereft" => draw = Draw::Bereft,
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            word if place.is_none() => place = Some(word),
            word => return Err(format!("{word:?} is too much")),
        }
    }
    let unknown = |name: &str| format!("there is no planted bug {name:?} here; see mesh-chaos bugs");
    let of_nodes = matches!(command, "nodes" | "node");
    let bug = |name: &str| Bug::named(name).ok_or_else(|| unknown(name));
    let bug = named.filter(|_| !of_nodes).map(bug).transpose()?;
    let planted = |name: &str| Planted::named(name).ok_or_else(|| unknown(name));
    let planted = named.filter(|_| of_nodes).map(planted).transpose()?;
    let seed = || number(place.ok_or("which seed?")?);
    let range = || {
        let (from, to) = place.and_then(|range| range.split_once("..")).ok_or("which seeds? A..B")?;
        match (number(from)?, number(to)?) {
            (from, to) if from < to => Ok((from, to)),
            (from, to) => Err(format!("{from}..{to} has no seeds")),
        }
    };
    match command {
        "seeds" => range().map(|(from, to)| Order::Seeds { from, to, bug, trace }),
        "nodes" => range().map(|(from, to)| Order::Nodes { from, to, bug: planted, draw }),
        "node" => Ok(Order::Node { seed: seed()?, bug: planted, draw, log }),
        "replay" => Ok(Order::Replay { seed: seed()?, bug, log }),
        "shrink" => Ok(Order::Shrink { seed: seed()?, bug }),
        "sweep" => {
            let victims = place.map(victim).transpose()?.map_or_else(|| Victim::ALL.to_vec(), |one| vec![one]);
            let every = usize::try_from(every).map_err(|error| error.to_string())?;
            Ok(Order::Sweep { victims, seed: move_seed, bug, every })
        }
        "move" => Ok(Order::Move { seed: move_seed, fault: place.map(fault).transpose()?, bug, log }),
        "bugs" => Ok(Order::Bugs),
        other => Err(format!("unknown command {other:?}")),
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word:?} is no number"))
}

fn fault(word: &str) -> Result<(Victim, u64), String> {
    let (name, at) = word.split_once(':').ok_or("a fault is VICTIM:EVENT")?;
    Ok((victim(name)?, number(at)?))
}

fn victim(name: &str) -> Result<Victim, String> {
    let known = || Victim::ALL.map(Victim::key).join(", ");
    let named = Victim::ALL.into_iter().find(|victim| victim.key() == name);
    named.ok_or_else(|| format!("there is no victim {name:?}, but {}", known()))
}

fn seeds(from: u64, to: u64, bug: Option<Bug>, trace: Option<u64>) -> std::io::Result<ExitCode> {
    let begun = Instant::now();
    let mut figures = Figures::default();
    let mut violations: Vec<u64> = Vec::new();
    let mut out = std::io::stdout().lock();
    each(
        from..to,
        PATIENCE,
        move |seed| run(seed, bug, trace == Some(seed)),
        |came| {
            let verdict = match came {
                Ok(verdict) => verdict,
                Err(lost) => return lose(&mut out, &mut violations, &lost),
            };
            figures += verdict.figures;
            violations.extend(verdict.violation.iter().map(|_| verdict.seed));
            for line in &verdict.log {
                writeln!(out, "{line}")?;
            }
            writeln!(out, "{verdict}")
        },
    )?;
    out.flush()?;
    report(to - from, &violations, figures, begun);
    Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Of a seed of which nothing came.
fn lose(out: &mut impl std::io::Write, violations: &mut Vec<u64>, lost: &Lost) -> std::io::Result<()> {
    violations.push(lost.seed);
    writeln!(out, "{lost}")?;
    out.flush()
}

/// Seeds of whole nodes.
fn whole_nodes(from: u64, to: u64, bug: Option<Planted>, draw: Draw) -> std::io::Result<ExitCode> {
    let begun = Instant::now();
    let mut figures = nodes::run::Figures::default();
    let mut violations: Vec<u64> = Vec::new();
    let mut out = std::io::stdout().lock();
    each(
        from..to,
        PATIENCE,
        move |seed| nodes::run::run_plan(seed, &draw.plan(seed), bug, false),
        |came| {
            let verdict = match came {
                Ok(verdict) => verdict,
                Err(lost) => return lose(&mut out, &mut violations, &lost),
            };
            figures += verdict.figures;
            violations.extend(verdict.violation.iter().map(|_| verdict.seed));
            writeln!(out, "{verdict}")?;
            out.flush()
        },
    )?;
    let real = begun.elapsed().as_secs_f64();
    let simulated = figures.windows as f64 / 1e3;
    eprintln!(
        "{} seeds, {} violations; {} messages, {} operations well, {} refused and {} unknown, {} crashes; {simulated:.0} s \
         simulated in {real:.1} s, {:.0} times real time",
        to - from,
        violations.len(),
        figures.messages,
        figures.tally.well,
        figures.tally.refused,
        figures.tally.unknown,
        figures.crashes,
        simulated / real.max(1e-9)
    );
    if let Some(first) = violations.first() {
        eprintln!("the first violation is of seed {first}: mesh-chaos node {first} --log");
    }
    Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn whole_node(seed: u64, bug: Option<Planted>, draw: Draw, log: bool) -> std::io::Result<ExitCode> {
    let verdict = nodes::run::run_plan(seed, &draw.plan(seed), bug, log);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in &verdict.log {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{verdict}")?;
    out.flush()?;
    Ok(if verdict.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(seeds: u64, violations: &[u64], figures: Figures, begun: Instant) {
    let real = begun.elapsed().as_secs_f64();
    let Figures { steps, virtual_ns, succeeded, failed, duplicates, crashes, .. } = figures;
    let Figures { moves, stays, takeovers, changes, wishes, wishes_refused, .. } = figures;
    let simulated = virtual_ns as f64 / 1e9;
    eprintln!(
        "{seeds} seeds, {} violations; {steps} events, {succeeded} tasks well and {failed} failed, {crashes} crashes, \
         {duplicates} copies of requests dropped; {moves} moves, {stays} taken back, {takeovers} chains taken over, \
         {changes} changes of their states; {wishes} wishes granted, {wishes_refused} not; {simulated:.0} s simulated in {real:.1} s, {:.0} times real time",
        violations.len(),
        simulated / real.max(1e-9)
    );
    if let Some(first) = violations.first() {
        eprintln!("the first violation is of seed {first}: mesh-chaos replay {first} --log");
    }
}

fn replay(seed: u64, bug: Option<Bug>, log: bool) -> std::io::Result<ExitCode> {
    let begun = Instant::now();
    let verdict = run(seed, bug, log);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in &verdict.log {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{verdict}")?;
    out.flush()?;
    let violations: Vec<u64> = verdict.violation.iter().map(|_| seed).collect();
    report(1, &violations, verdict.figures, begun);
    Ok(if verdict.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn shrunk(seed: u64, bug: Option<Bug>) -> ExitCode {
    match shrink(seed, bug) {
        Some(shrunk) => {
            println!("seed {seed} VIOLATION {}", shrunk.violation.replace('\n', " "));
            for (at, fault) in &shrunk.swarm.faults {
                println!("  at {at:?}: {fault:?}");
            }
            eprintln!("{} faults left after {} runs", shrunk.swarm.faults.len(), shrunk.runs);
            ExitCode::FAILURE
        }
        None => {
            println!("seed {seed} ok");
            ExitCode::SUCCESS
        }
    }
}

fn sweep_move(victims: &[Victim], seed: u64, bug: Option<Bug>, every: usize) -> ExitCode {
    let begun = Instant::now();
    let report = sweep(seed, bug, every, victims);
    println!("seed {seed}: {} events from the beginning of the move to its end", report.events);
    for (victim, tally) in &report.tallies {
        println!(
            "{}: {} runs, {} arrived, {} taken back, {} taken over, {} changes acknowledged, {} violations",
            victim.name(),
            tally.runs,
            tally.arrived,
            tally.stayed,
            tally.taken_over,
            tally.changes,
            tally.violations.len()
        );
    }
    for (victim, at, why) in report.violations().take(10) {
        println!("{}:{at} VIOLATION {}", victim.key(), why.replace('\n', " "));
    }
    eprintln!("{} runs in {:.1} s", report.runs(), begun.elapsed().as_secs_f64());
    match report.violations().next() {
        None => ExitCode::SUCCESS,
        Some((victim, at, _)) => {
            eprintln!("to see the first: mesh-chaos move {}:{at} --seed {seed} --log", victim.key());
            ExitCode::FAILURE
        }
    }
}

fn one_move(seed: u64, fault: Option<(Victim, u64)>, bug: Option<Bug>, log: bool) -> std::io::Result<ExitCode> {
    let outcome = run_move(seed, fault, bug, log);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in &outcome.verdict.log {
        writeln!(out, "{line}")?;
    }
    let (ends, changes) = (outcome.ends, outcome.changes);
    writeln!(out, "{}; {} events, {ends:?}, {changes} changes", outcome.verdict, outcome.events)?;
    out.flush()?;
    Ok(if outcome.verdict.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match parse(&arguments) {
        Ok(Order::Seeds { from, to, bug, trace }) => seeds(from, to, bug, trace),
        Ok(Order::Replay { seed, bug, log }) => replay(seed, bug, log),
        Ok(Order::Shrink { seed, bug }) => Ok(shrunk(seed, bug)),
        Ok(Order::Sweep { victims, seed, bug, every }) => Ok(sweep_move(&victims, seed, bug, every)),
        Ok(Order::Move { seed, fault, bug, log }) => one_move(seed, fault, bug, log),
        Ok(Order::Nodes { from, to, bug, draw }) => whole_nodes(from, to, bug, draw),
        Ok(Order::Node { seed, bug, draw, log }) => whole_node(seed, bug, draw, log),
        Ok(Order::Bugs) => {
            Bug::ALL.iter().for_each(|(name, _)| println!("{name}"));
            Planted::ALL.iter().for_each(|(name, _)| println!("{name} (in nodes)"));
            Ok(ExitCode::SUCCESS)
        }
        Err(why) => {
            eprintln!("mesh-chaos: {why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("mesh-chaos: standard output: {error}");
        ExitCode::from(2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Order, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn reads_its_orders() {
        let bug = Some(Bug::SkipCrc);
        assert_eq!(parsed("seeds 3..9 --bug skip-crc"), Ok(Order::Seeds { from: 3, to: 9, bug, trace: None }));
        let victims = vec![Victim::Rival];
        assert_eq!(parsed("sweep rival --every 5"), Ok(Order::Sweep { victims, seed: 1, bug: None, every: 5 }));
        assert_eq!(parsed("replay 7 --log"), Ok(Order::Replay { seed: 7, bug: None, log: true }));
    }

    #[test]
    fn refuses_nonsense() {
        for line in
            ["", "seeds", "seeds 9..3", "seeds 1..x", "replay", "replay 1 2", "replay 1 --bug no", "sweep x", "dance"]
        {
            assert!(parsed(line).is_err(), "{line:?}");
        }
    }
}
