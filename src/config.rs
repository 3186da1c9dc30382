//! What a node is told by its configuration file. Unknown keys and senseless values are refused, with the line and
//! what is allowed.

use core::{fmt, str::FromStr, time::Duration};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use mesh_core::{
    Error,
    bluefield::Generation,
    id::NodeId,
    topology::{Code, Location},
};
use mesh_dpu_runtime::pin::{Cores, PinError};
use mesh_fronts::s3::check_domain;
use serde::{Deserialize, Serialize};

/// A node's configuration: `mesh.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node's number, 1 to 65,535, as its certificate has it.
    pub node: NodeNumber,
    /// Where the mesh listener is: QUIC, that is UDP. What the others dial.
    pub address: SocketAddr,
    /// Where metadata, identity and keyring are. Relative paths are relative to the configuration file.
    pub data: PathBuf,
    /// Makes a new cluster if the data folder holds none. Set on exactly one node.
    #[serde(default)]
    pub bootstrap: bool,
    /// Other members, to begin with; the rest is learned from them.
    #[serde(default, rename = "peer", skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerConfig>,
    /// Where the machine is: its rack, or its zone and its rack, such as `zone-a/rack-3`. No rack, and no zone, has more shards of
    /// an object than may be lost, where that is possible. What was said once stays until another is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// The S3 front end; none: this node serves no S3.
    #[serde(default)]
    pub s3: Option<S3Config>,
    /// What is counted and how the node is, for who watches it; none: nobody can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<WatchConfig>,
    /// The drives.
    #[serde(default, rename = "drive", skip_serializing_if = "Vec::is_empty")]
    pub drives: Vec<DriveConfig>,
    /// Set on a DPU; none: this node runs on a host.
    #[serde(default)]
    pub dpu: Option<DpuConfig>,
    /// The kinds of function that may run here, such as `["compress", "encrypt", "erasure"]`; none: all that this build has.
    #[serde(default)]
    pub functions: Option<Vec<String>>,
    /// The memory that chains may use on a DPU; none: half of the machine's. A chain is reckoned with 16 MiB. A host takes its
    /// own chains back whatever it has.
    #[serde(default)]
    pub memory: Option<Size>,
    /// The cores that `mesh serve` runs on, as Linux writes them (`0-3,8`); none: all that it is not kept from.
    #[serde(default)]
    pub cores: Option<CoresText>,
    /// What holds for the whole cluster; read only when it is made.
    #[serde(default)]
    pub cluster: ClusterConfig,
    /// Timing.
    #[serde(default)]
    pub timing: TimingConfig,
    /// Reading back.
    #[serde(default)]
    pub scrub: ScrubConfig,
    /// Repair.
    #[serde(default)]
    pub repair: RepairConfig,
}

/// Another member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Its number.
    pub node: NodeNumber,
    /// Its mesh listener.
    pub address: SocketAddr,
}

/// A node on a DPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpuConfig {
    /// The node of the host that the DPU is plugged into. It must be a member already.
    pub attached_to: NodeNumber,
    /// This is no DPU: the process stands for one of this generation (`bf1` to `bf4`). For development; shown wherever the
    /// node is shown.
    #[serde(default)]
    pub emulated: Option<Generation>,
}

/// The S3 front end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// Where it listens.
    pub address: SocketAddr,
    /// The domain that it goes by: `bucket.s3.example.com` is a bucket of `s3.example.com`. `bucket.localhost` and
    /// `bucket.s3.localhost` always are; path style works under any name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// What requests may hold of this node's memory, all together: bodies on their way in, answers on their way out, and
    /// what lies ready for the next. A tenant alone has three quarters of it at most. Requests that find no room wait for
    /// some seconds and are then told `SlowDown`; clients that take nothing meanwhile lose their connection.
    #[serde(default = "S3Config::default_memory")]
    pub memory: Size,
    /// HTTP although others than this machine can hear it: not asked for, S3 is not served there.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub plain_http: bool,
    /// HTTPS: without it, it speaks HTTP. A section, `[s3.tls]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
}

/// A listener's certificate: PEM files, read again within seconds once they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate, then those that vouch for it, but for the last one, which clients have.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl TlsConfig {
    /// Where a node's own certificate is.
    #[must_use]
    pub fn within(folder: &Path) -> Self {
        Self { certificate: folder.join("s3.crt"), key: folder.join("s3.key") }
    }
}

impl S3Config {
    /// A front end with the defaults.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self { address, domain: None, memory: Self::default_memory(), tls: None, plain_http: false }
    }

    const fn default_memory() -> Size {
        Size(512 << 20)
    }

    /// Whether somebody wants it to speak as it would: HTTP only where nobody else hears it, or if that was said.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        self.tls.is_some() || self.plain_http || self.address.ip().is_loopback()
    }
}

/// The listener of who watches a node: `/metrics`, `/healthz` and `/readyz`, by HTTP and for everybody who reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchConfig {
    /// Where it listens: this machine alone, or an address of a network that only operators reach. Not that of S3.
    pub listen: SocketAddr,
}

/// One drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveConfig {
    /// A folder, or a block device.
    pub path: PathBuf,
    /// How much of it to use; a folder needs it, a device is used whole by default.
    #[serde(default)]
    pub capacity: Option<Size>,
}

/// What holds for the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// Data and parity shards of a stripe, such as `2+1`.
    pub code: CodeText,
    /// Namespace groups, 1 to 64.
    pub namespaces: Namespaces,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self { code: CodeText(Code { data: 2, parity: 1 }), namespaces: Namespaces(1) }
    }
}

/// Timing. The defaults are conservative.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimingConfig {
    /// Between two heartbeats of a metadata leader.
    pub raft_heartbeat: Span,
    /// A follower waits at least so long for its leader before it stands for election itself.
    pub election_min: Span,
    /// And at most so long.
    pub election_max: Span,
    /// A peer that is silent for so long is down.
    pub silence: Span,
    /// A DPU that its host and the controller have not heard of for so long is down: its actors run elsewhere.
    pub dpu_silence: Span,
    /// Deleted and replaced data are kept for so long, by the clock of whoever reclaims them. A GET of what is deleted
    /// meanwhile may run for seven eighths of it and is broken off then; one of what is there still, as long as it takes.
    pub reclaim_grace: Span,
}

/// How shards are brought to their homes when drives have come or gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepairConfig {
    /// Bytes that this node reads and writes for that in a second at most, for the metadata groups that it leads.
    pub rate: Size,
    /// All shards are counted so often: what is missing is rebuilt, and what lies where nobody looks is deleted.
    pub census: Span,
    /// Drives that have been away for so long go out by themselves, and what they held is rebuilt elsewhere; 0s: never. That of
    /// the node counts that leads the control group.
    #[serde(deserialize_with = "span_or_never")]
    pub out_after: Span,
}

/// How drives read back what is on them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScrubConfig {
    /// Each drive of this node reads everything back in so long, at an even pace.
    pub every: Span,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self { every: Span(Duration::from_hours(7 * 24)) }
    }
}

impl Default for RepairConfig {
    fn default() -> Self {
        let (census, out_after) = (Duration::from_hours(7 * 24), Duration::from_mins(10));
        Self { rate: Size(64 << 20), census: Span(census), out_after: Span(out_after) }
    }
}

impl Default for TimingConfig {
    fn default() -> Self {
        Self {
            raft_heartbeat: Span(Duration::from_millis(500)),
            election_min: Span(Duration::from_millis(3000)),
            election_max: Span(Duration::from_millis(6000)),
            silence: Span(mesh_core::limits::HEARTBEAT_SILENCE_MAX),
            dpu_silence: Span(mesh_core::limits::DPU_SILENCE_MAX),
            reclaim_grace: Span(Duration::from_secs(900)),
        }
    }
}

impl Config {
    /// A host's node without drives, front end or peers, with the defaults for all the rest.
    #[must_use]
    pub fn new(node: NodeNumber, address: SocketAddr, data: PathBuf) -> Self {
        Self {
            node,
            address,
            data,
            bootstrap: false,
            peers: Vec::new(),
            location: None,
            s3: None,
            watch: None,
            drives: Vec::new(),
            dpu: None,
            functions: None,
            memory: None,
            cores: None,
            cluster: ClusterConfig::default(),
            timing: TimingConfig::default(),
            scrub: ScrubConfig::default(),
            repair: RepairConfig::default(),
        }
    }

    /// Reads a file; relative paths become relative to its folder.
    ///
    /// # Errors
    /// `Invalid` with the line and what is allowed; `NotFound` if there is no such file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::new(mesh_core::ErrorKind::NotFound, "the configuration cannot be read")
                .with("file", path.display())
                .caused_by(error)
        })?;
        let mut config = Self::parse(&text).map_err(|error| error.with("file", path.display()))?;
        let base = path.parent().unwrap_or_else(|| Path::new("."));
        config.data = base.join(&config.data);
        if let Some(tls) = config.s3.as_mut().and_then(|s3| s3.tls.as_mut()) {
            tls.certificate = base.join(&tls.certificate);
            tls.key = base.join(&tls.key);
        }
        for drive in &mut config.drives {
            drive.path = base.join(&drive.path);
        }
        Ok(config)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// `Invalid` with the line and what is allowed.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let config: Self = toml::from_str(text).map_err(|error| {
            Error::invalid(format!("the configuration is refused: {}", error.to_string().trim_end()))
        })?;
        config.check()?;
        Ok(config)
    }

    /// Checks what no single value shows.
    ///
    /// # Errors
    /// `Invalid` with what is allowed.
    pub fn check(&self) -> Result<(), Error> {
        if self.address.ip().is_unspecified() {
            return Err(Error::invalid("address must be one that the other nodes can dial, not 0.0.0.0 or [::]"));
        }
        if self.timing.silence.0 < 3 * mesh_core::limits::HEARTBEAT_INTERVAL {
            return Err(Error::invalid("timing.silence must be at least three heartbeats: 1500ms"));
        }
        if self.timing.dpu_silence.0 < 3 * mesh_core::limits::DPU_HEARTBEAT_INTERVAL {
            return Err(Error::invalid("timing.dpu_silence must be at least three heartbeats of a DPU: 150ms"));
        }
        if let Some(dpu) = &self.dpu {
            if dpu.attached_to == self.node {
                return Err(Error::invalid("dpu.attached_to is the number of the host's node, not the DPU's own"));
            }
            if self.bootstrap {
                return Err(Error::invalid("a DPU cannot make a cluster: set bootstrap on a host"));
            }
            if self.s3.is_some() {
                return Err(Error::invalid("a DPU serves no S3 yet: take the [s3] section out, its host serves"));
            }
        }
        if let Some(domain) = self.s3.as_ref().and_then(|s3| s3.domain.as_deref()) {
            check_domain(domain)?;
        }
        if let Some(s3) = &self.s3
            && !(S3_MEMORY_MIN..=S3_MEMORY_MAX).contains(&s3.memory.0)
        {
            return Err(Error::invalid("s3.memory must be 64MiB to 1TiB").with("memory", s3.memory));
        }
        if self.s3.as_ref().is_some_and(|s3| s3.tls.is_some() && s3.plain_http) {
            let what = "s3.plain_http and [s3.tls] exclude each other: a listener speaks HTTP or HTTPS";
            return Err(Error::invalid(what));
        }
        if let (Some(watch), Some(s3)) = (&self.watch, &self.s3)
            && watch.listen == s3.address
            && watch.listen.port() != 0
        {
            return Err(Error::invalid("watch.listen is the address of S3: give it another port"));
        }
        if self.repair.rate.0 < REPAIR_RATE_MIN {
            return Err(Error::invalid("repair.rate must be at least 1MiB, a second").with("rate", self.repair.rate));
        }
        if self.scrub.every.0 < CENSUS_MIN {
            return Err(Error::invalid("scrub.every must be at least 60s").with("every", self.scrub.every));
        }
        if self.repair.census.0 < CENSUS_MIN {
            return Err(Error::invalid("repair.census must be at least 60s").with("census", self.repair.census));
        }
        if (Duration::from_nanos(1)..OUT_AFTER_MIN).contains(&self.repair.out_after.0) {
            let text = "repair.out_after must be at least 1s, or 0s: a node that restarts is not away for long";
            return Err(Error::invalid(text).with("out_after", self.repair.out_after));
        }
        if self.timing.reclaim_grace.0 < RECLAIM_GRACE_MIN {
            return Err(Error::invalid(
                "timing.reclaim_grace must be at least 1s: a GET of what is deleted meanwhile is broken off after seven eighths of it",
            ));
        }
        if let Some(drive) = self.drives.iter().find(|drive| drive.capacity.is_some_and(|size| size.0 < CAPACITY_MIN)) {
            return Err(Error::invalid("a drive has at least 256MiB").with("path", drive.path.display()));
        }
        if self.timing.election_min.0 < 2 * self.timing.raft_heartbeat.0 {
            return Err(Error::invalid("timing.election_min must be at least twice timing.raft_heartbeat"));
        }
        if self.timing.election_max.0 <= self.timing.election_min.0 {
            return Err(Error::invalid("timing.election_max must be greater than timing.election_min"));
        }
        if self.drives.len() > DRIVES_MAX {
            return Err(Error::invalid(format!("a node has at most {DRIVES_MAX} drives")));
        }
        for (at, drive) in self.drives.iter().enumerate() {
            if self.drives.iter().take(at).any(|other| other.path == drive.path) {
                return Err(Error::invalid("two drives have the same path").with("path", drive.path.display()));
            }
        }
        if self.peers.iter().any(|peer| peer.node == self.node) {
            return Err(Error::invalid("a node is not its own peer: remove its number from [[peer]]"));
        }
        Ok(())
    }

    /// A new configuration has a front end that speaks HTTP where others can hear it only if somebody wants that.
    ///
    /// # Errors
    /// `Invalid` with what may be said instead.
    pub fn expect_asked_for(&self) -> Result<(), Error> {
        match self.s3.as_ref().filter(|s3| !s3.is_asked_for()) {
            Some(s3) => {
                let what = "S3 would be HTTP where others can hear it: give it --s3-certificate and --s3-key, join by an \
                            invitation that was made with --s3-name, or say --s3-plain-http if something in front of it speaks TLS";
                Err(Error::invalid(what).with("address", s3.address))
            }
            None => Ok(()),
        }
    }

    /// Where this node and those that it knows of listen.
    #[must_use]
    pub fn dialled(&self) -> Vec<SocketAddr> {
        [self.address].into_iter().chain(self.peers.iter().map(|peer| peer.address)).collect()
    }

    /// The text of this configuration.
    ///
    /// # Errors
    /// `Bug`: every configuration can be written.
    pub fn to_text(&self) -> Result<String, Error> {
        toml::to_string(self).map_err(|error| Error::bug("a configuration cannot be written").with("why", error))
    }
}

/// A stripe and its parity in some seconds, at the least.
const REPAIR_RATE_MIN: u64 = 1 << 20;
const CENSUS_MIN: Duration = Duration::from_secs(60);
const RECLAIM_GRACE_MIN: Duration = Duration::from_secs(1);
const OUT_AFTER_MIN: Duration = Duration::from_secs(1);
/// Bytes that a drive has at least.
pub const CAPACITY_MIN: u64 = 256 << 20;
/// Any request fits, beside those of other tenants.
const S3_MEMORY_MIN: u64 = 64 << 20;
const S3_MEMORY_MAX: u64 = 1 << 40;

/// Drives of one node at most: their numbers are `node * 1000 + n`.
pub const DRIVES_MAX: usize = 64;

macro_rules! text {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub $inner);

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

text!(
    /// Bytes, such as `64GiB`, `500GB`, `4096`.
    #[derive(Copy)]
    Size(u64)
);
text!(
    /// A time, such as `500ms`, `3s`, `15m`, `2h`.
    #[derive(Copy)]
    Span(Duration)
);
text!(
    /// A code, such as `2+1`.
    #[derive(Copy)]
    CodeText(Code)
);
text!(
    /// Cores, as Linux writes them: `0-3,8`.
    CoresText(Cores)
);

impl FromStr for CoresText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: PinError| error.to_string())
    }
}

impl fmt::Display for CoresText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let factor: u64 = match unit {
            "" | "B" => 1,
            "kB" | "KB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return Err(format!("`{text}` is no size: a number and B, KiB, MiB, GiB, TiB, KB, MB, GB or TB")),
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no size: a whole number and a unit, such as 64GiB"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 > 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(format!("`{text}` is no time: a number and ms, s, m or h")),
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(millis))
            .filter(|millis| (1..=7 * 24 * 3_600_000).contains(millis))
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(|| format!("`{text}` is no time: 1ms to 168h"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        match millis {
            _ if millis.is_multiple_of(60_000) => write!(f, "{}m", millis / 60_000),
            _ if millis.is_multiple_of(1000) => write!(f, "{}s", millis / 1000),
            _ => write!(f, "{millis}ms"),
        }
    }
}

impl FromStr for CodeText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let code = text.split_whitespace().collect::<String>().parse().map(Self);
        code.map_err(|_| format!("`{text}` is no code: data+parity shards, 1 to 16 and 0 to 8, such as 2+1"))
    }
}

impl fmt::Display for CodeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! ranged {
    ($(#[$doc:meta])* $name:ident($inner:ty), $range:expr, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "i64", into = "i64")]
        pub struct $name(pub $inner);

        impl TryFrom<i64> for $name {
            type Error = String;

            fn try_from(number: i64) -> Result<Self, String> {
                if $range.contains(&number) {
                    Ok(Self(number as $inner))
                } else {
                    Err(format!(concat!("{} is no ", $what, ": {} to {}"), number, $range.start(), $range.end()))
                }
            }
        }

        impl From<$name> for i64 {
            fn from(value: $name) -> Self {
                value.0 as Self
            }
        }
    };
}

ranged!(
    /// A node's number.
    #[derive(Copy)]
    NodeNumber(u64),
    (1..=65_535_i64),
    "node number"
);
ranged!(
    /// How many namespace groups.
    Namespaces(u16),
    (1..=64_i64),
    "number of namespace groups"
);

impl NodeNumber {
    /// As the rest of the mesh has it.
    #[must_use]
    pub const fn id(self) -> NodeId {
        NodeId(self.0)
    }
}

/// A span, or none at all.
fn span_or_never<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Span, D::Error> {
    let text = String::deserialize(from)?;
    match split(&text) {
        ("0", "ms" | "s" | "m" | "h") => Ok(Span(Duration::ZERO)),
        _ => text.parse().map_err(serde::de::Error::custom),
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    (number, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
node = 2
address = "127.0.0.1:7102"
data = "data"
bootstrap = false

[[peer]]
node = 1
address = "127.0.0.1:7101"

[s3]
address = "127.0.0.1:9002"
domain = "s3.example.com"

[[drive]]
path = "drive-a"
capacity = "64GiB"

[[drive]]
path = "/dev/nvme0n1"

[cluster]
code = "4+2"
namespaces = 4

[timing]
reclaim_grace = "30s"
"#;

    #[test]
    fn reads_what_it_writes() {
        let config = Config::parse(FULL).unwrap();
        assert_eq!(config.cluster.code.0, Code { data: 4, parity: 2 });
        assert_eq!(config.drives[0].capacity, Some(Size(64 << 30)));
        assert_eq!(config.timing.reclaim_grace.0, Duration::from_secs(30));
        assert_eq!(config.s3.as_ref().unwrap().memory, Size(512 << 20));
        assert_eq!(config.timing.election_min, TimingConfig::default().election_min);
        assert_eq!(Config::parse(&config.to_text().unwrap()).unwrap(), config);
        // Of one span it may be said that it never passes.
        let with = |after: &str| {
            Config::parse(&FULL.replace("[timing]", &format!("[repair]\nout_after = \"{after}\"\n\n[timing]")))
        };
        let never = with("0s").unwrap();
        assert_eq!(never.repair.out_after.0, Duration::ZERO);
        assert_eq!(Config::parse(&never.to_text().unwrap()).unwrap(), never);
        assert!(with("10ms").unwrap_err().message().contains("at least 1s, or 0s"));
        assert!(with("soon").unwrap_err().message().contains("is no time"));
    }

    #[test]
    fn a_front_end_speaks_https_where_others_hear_it_or_http_if_that_is_asked_for() {
        let with = |address: &str, more: &str| {
            let front = format!("[s3]\naddress = \"{address}\"\n{more}\n[cluster]");
            let rest = FULL.replace("\n[s3]\naddress = \"127.0.0.1:9002\"\ndomain = \"s3.example.com\"\n", "");
            Config::parse(&rest.replace("[cluster]", &front)).map(|config| config.s3.unwrap())
        };
        let tls = "[s3.tls]\ncertificate = \"s3.crt\"\nkey = \"s3.key\"\n";
        let plain = "plain_http = true\n";
        for address in ["127.0.0.1:9000", "[::1]:9000"] {
            assert!(with(address, "").unwrap().is_asked_for());
            assert!(with(address, tls).unwrap().is_asked_for());
        }
        for address in ["10.0.0.1:9000", "0.0.0.0:9000", "[::]:9000", "[fd00::1]:9000"] {
            assert!(!with(address, "").unwrap().is_asked_for(), "{address}");
            assert!(with(address, tls).unwrap().is_asked_for());
            assert!(with(address, plain).unwrap().is_asked_for());
        }
        let both = with("10.0.0.1:9000", &format!("{plain}{tls}")).unwrap_err();
        assert!(both.message().contains("exclude each other"), "{both}");
        let whole = Config { s3: Some(with("10.0.0.1:9000", tls).unwrap()), ..Config::parse(FULL).unwrap() };
        assert_eq!(Config::parse(&whole.to_text().unwrap()).unwrap(), whole);
    }

    #[test]
    fn what_is_not_there_is_not_written_so_that_it_can_be_added() {
        let bare = Config::parse("node = 2\naddress = \"127.0.0.1:7102\"\ndata = \"data\"").unwrap();
        let text = bare.to_text().unwrap();
        let more =
            format!("{text}\n[[drive]]\npath = \"/dev/nvme0n1\"\n\n[[peer]]\nnode = 1\naddress = \"127.0.0.1:7101\"\n");
        let more = Config::parse(&more).unwrap();
        assert_eq!((more.drives.len(), more.peers.len(), more.watch), (1, 1, None));
        let watched = Config::parse(&format!("{text}\n[watch]\nlisten = \"127.0.0.1:9600\"\n")).unwrap();
        assert_eq!(watched.watch.unwrap().listen.port(), 9600);
        assert_eq!(Config::parse(&watched.to_text().unwrap()).unwrap(), watched);
    }

    #[test]
    fn refuses_with_the_line_and_what_is_allowed() {
        let refused = |from: &str, to: &str| Config::parse(&FULL.replace(from, to)).unwrap_err().message().to_owned();
        let unknown = refused("bootstrap = false", "boostrap = false");
        assert!(unknown.contains("line 5") && unknown.contains("`bootstrap`"), "{unknown}");
        let size = refused("64GiB", "64 gigs");
        assert!(size.contains("line 17") && size.contains("TiB"), "{size}");
        let code = refused("4+2", "40+2");
        assert!(code.contains("line 23") && code.contains("1 to 16"), "{code}");
        let node = refused("node = 2", "node = 0");
        assert!(node.contains("line 2") && node.contains("1 to 65535"), "{node}");
        let card = refused("[cluster]", "[dpu]\nattached_to = 1\nemulated = \"bf9\"\n\n[cluster]");
        assert!(card.contains("line 24") && card.contains("bf9") && card.contains("bf4"), "{card}");
        let cores = refused("node = 2", "node = 2\ncores = \"0-x\"");
        assert!(cores.contains("line 3") && cores.contains("0-3,8"), "{cores}");
        let span = refused("30s", "0s");
        assert!(span.contains("1ms to 168h"), "{span}");
        let memory = refused("9002\"", "9002\"\nmemory = \"32MiB\"");
        assert!(memory.contains("64MiB to 1TiB"), "{memory}");
        let listens = refused("[cluster]", "[dpu]\nattached_to = 1\n\n[cluster]");
        assert!(listens.contains("take the [s3] section out"), "{listens}");
        let shared = refused("[cluster]", "[watch]\nlisten = \"127.0.0.1:9002\"\n\n[cluster]");
        assert!(shared.contains("give it another port"), "{shared}");
        let twins = refused("/dev/nvme0n1", "drive-a");
        assert!(twins.contains("same path"), "{twins}");
    }
}
