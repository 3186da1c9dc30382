//! `mesh scrub`.

use core::time::Duration;
use std::{sync::Arc, time::SystemTime};

use clap::Args;
use mesh::config::Size;
use mesh_core::{
    Error,
    id::DriveId,
    op::{AdminOp, NodeReport, ScrubState},
    time::UnixMillis,
};
use serde::Serialize;

use super::{AdminConnect, drive::DriveName, placement::told, say, say_json};

/// Show how far each drive is with reading back everything that is on it, and how many of its shards are damaged; or, with
/// `--now`, have drives begin at once.
///
/// Drives do so all the time, at an even pace (`every` under `[scrub]`). A shard that is found damaged is never served; it is
/// rebuilt from the others of its stripe, within the rate of `[repair]`.
#[derive(Debug, Args)]
pub(crate) struct Scrub {
    #[command(flatten)]
    connect: AdminConnect,
    /// Begin anew at once, at `--rate`; see how it goes with `mesh scrub`.
    #[arg(long)]
    now: bool,
    /// Bytes a second that each drive reads for that at most.
    #[arg(long, default_value = "256MiB", requires = "now")]
    rate: Size,
    /// Only these drives, by their numbers in `mesh status`.
    #[arg(long = "drive", value_name = "DRIVE", requires = "now")]
    drives: Vec<DriveName>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Shown {
    drive: DriveId,
    node: String,
    damaged: u64,
    scrub: ScrubState,
}

impl Scrub {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let client = self.connect.client().await?;
        if self.now {
            let op = AdminOp::Scrub {
                drives: self.drives.into_iter().map(|DriveName(drive)| drive).collect(),
                rate: self.rate.0,
            };
            return told(&client.administer(op).await?, self.json);
        }
        let reports = client.status().await?;
        let shown: Vec<Shown> = reports.iter().flat_map(|report: &Arc<NodeReport>| shown(report)).collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if self.json { say_json(&shown) } else { say(&shown.iter().map(|one| line(one, now)).collect::<Vec<_>>()) }
    }
}

fn shown(report: &NodeReport) -> impl Iterator<Item = Shown> {
    report.drives.iter().map(|drive| Shown {
        drive: drive.drive,
        node: report.node.to_string(),
        damaged: drive.damaged,
        scrub: drive.scrub,
    })
}

/// `now`: since 1970.
fn line(shown: &Shown, now: Duration) -> String {
    let Shown { drive, node, damaged, scrub: ScrubState { at, of, ended, asked } } = shown;
    let how = if *asked { ", as asked" } else { "" };
    let ended = match ended {
        UnixMillis(0) => "everything has not been read back yet".to_owned(),
        UnixMillis(ended) => {
            let hours = now.saturating_sub(Duration::from_millis(*ended)).as_secs() / 3600;
            let ago = if hours < 1 { "less than an hour".to_owned() } else { format!("{hours} h") };
            format!("everything was read back {ago} ago")
        }
    };
    let damaged = match damaged {
        0 => "nothing known to be damaged".to_owned(),
        1 => "1 shard damaged".to_owned(),
        count => format!("{count} shards damaged"),
    };
    format!("{drive} on {node}: {damaged}; at segment {at} of {of}{how}; {ended}")
}

/// What came of `--now`.
pub(super) fn begun(drives: &[(DriveId, Option<String>)]) -> Vec<String> {
    let line = |(drive, why): &(DriveId, Option<String>)| match why {
        None => format!("{drive}: has begun"),
        Some(why) => format!("{drive}: has not begun: {why}"),
    };
    drives.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_is_one_line() {
        let scrub = ScrubState { at: 3, of: 8, ended: UnixMillis(0), asked: true };
        let now = Duration::from_secs(1_700_000_000);
        let shown = |damaged, scrub| line(&Shown { drive: DriveId(7), node: "node-1".into(), damaged, scrub }, now);
        assert_eq!(
            shown(2, scrub),
            "drive-7 on node-1: 2 shards damaged; at segment 3 of 8, as asked; everything has not been read back yet"
        );
        let ended =
            |ago_s: u64| ScrubState { ended: UnixMillis((1_700_000_000 - ago_s) * 1000), asked: false, ..scrub };
        let good = "drive-7 on node-1: nothing known to be damaged; at segment 3 of 8; everything was read back";
        assert_eq!(shown(0, ended(7_300)), format!("{good} 2 h ago"));
        assert_eq!(shown(0, ended(60)), format!("{good} less than an hour ago"));
        assert_eq!(
            begun(&[(DriveId(7), None), (DriveId(8), Some("it is down".into()))]),
            ["drive-7: has begun", "drive-8: has not begun: it is down"]
        );
    }
}
