//! `mesh-chaos`: runs seeds of the simulator.
//!
//! Standard output is the same from run to run: one line a seed, in their order. Times go to standard error.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::ExitCode,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use mesh_chaos_tests::{
    planted::Bug,
    run::{
        Figures, Verdict, run,
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
  mesh-chaos bugs                                     the names of the planted bugs";

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Order {
    Seeds { from: u64, to: u64, bug: Option<Bug>, trace: Option<u64> },
    Replay { seed: u64, bug: Option<Bug>, log: bool },
    Shrink { seed: u64, bug: Option<Bug> },
    Sweep { victims: Vec<Victim>, seed: u64, bug: Option<Bug>, every: usize },
    Move { seed: u64, fault: Option<(Victim, u64)>, bug: Option<Bug>, log: bool },
    Bugs,
}

fn parse(arguments: &[String]) -> Result<Order, String> {
    let mut words = arguments.iter().map(String::as_str);
    let command = words.next().ok_or("no command")?;
    let (mut place, mut bug, mut trace, mut log, mut move_seed, mut every) = (None, None, None, false, 1, 1);
    while let Some(word) = words.next() {
        match word {
            "--bug" => {
                let name = words.next().ok_or("--bug needs a name")?;
                bug = Some(
                    Bug::named(name).ok_or_else(|| format!("there is no planted bug {name:?}; see mesh-chaos bugs"))?,
                );
            }
            "--trace" => trace = Some(number(words.next().ok_or("--trace needs a seed")?)?),
            "--seed" => move_seed = number(words.next().ok_or("--seed needs a number")?)?,
            "--every" => every = number(words.next().ok_or("--every needs a number")?)?.max(1),
            "--log" => log = true,
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            word if place.is_none() => place = Some(word),
            word => return Err(format!("{word:?} is too much")),
        }
    }
    let seed = || number(place.ok_or("which seed?")?);
    match command {
        "seeds" => {
            let (from, to) = place.and_then(|range| range.split_once("..")).ok_or("which seeds? A..B")?;
            let (from, to) = (number(from)?, number(to)?);
            if from >= to {
                return Err(format!("{from}..{to} has no seeds"));
            }
            Ok(Order::Seeds { from, to, bug, trace })
        }
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

/// Lines that came too early wait for those before them.
struct Lines {
    next: u64,
    early: BTreeMap<u64, Verdict>,
}

fn seeds(from: u64, to: u64, bug: Option<Bug>, trace: Option<u64>) -> std::io::Result<ExitCode> {
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(from);
    let lines = Mutex::new(Lines { next: from, early: BTreeMap::new() });
    let ready = Condvar::new();
    let mut figures = Figures::default();
    let mut violations: Vec<u64> = Vec::new();
    let mut out = std::io::stdout().lock();
    std::thread::scope(|scope| -> std::io::Result<()> {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let verdict = run(seed, bug, trace == Some(seed));
                    lines.lock().unwrap_or_else(PoisonError::into_inner).early.insert(seed, verdict);
                    ready.notify_one();
                }
            });
        }
        let mut held = lines.lock().unwrap_or_else(PoisonError::into_inner);
        while held.next < to {
            let seed = held.next;
            let Some(verdict) = held.early.remove(&seed) else {
                held = ready.wait(held).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            held.next += 1;
            drop(held);
            figures += verdict.figures;
            if verdict.violation.is_some() {
                violations.push(verdict.seed);
            }
            for line in &verdict.log {
                writeln!(out, "{line}")?;
            }
            writeln!(out, "{verdict}")?;
            held = lines.lock().unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    })?;
    out.flush()?;
    report(to - from, &violations, figures, begun);
    Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
        Ok(Order::Bugs) => {
            Bug::ALL.iter().for_each(|(name, _)| println!("{name}"));
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
