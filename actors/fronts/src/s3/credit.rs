//! The credit of requests: permits for memory that travel with it and drop with it. [`Account`] decides; here is who
//! waits, and for how long.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh_core::{Error, ErrorKind, Pool, id::TenantId};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout, timeout_at},
};

use super::{
    account::{Account, Admission, Change, Holder, MIDDLING_BYTES_MAX},
    roster::{Cut, Link},
    turns::{Turn, Turns},
};

/// The credit that all requests of a node share. Clones share it.
#[derive(Clone)]
pub(super) struct Credit(Arc<Shared>);

struct Shared {
    pool: Pool,
    /// The turns of large reads, so that small ones are not behind all of them.
    turns: Turns,
    /// The same of middling ones.
    middling: Reads,
    /// What the pool keeps for the work below, outside the account.
    below: usize,
    state: Mutex<State>,
}

struct State {
    account: Account,
    /// Who waits, and how it is told.
    waiting: BTreeMap<Holder, oneshot::Sender<()>>,
    /// The connections of those that hold something.
    links: BTreeMap<Holder, Link>,
}

impl Credit {
    /// A credit of so many bytes; what lies idle in `pool` counts, and gives way to whoever asks.
    pub(super) fn new(limit: usize, pool: Pool) -> Self {
        // More of them at once than the cores can work on are no faster, and small requests wait behind them all.
        let cores = std::thread::available_parallelism().map_or(1, core::num::NonZero::get);
        let reads = (limit / 16).min(cores * READS_BYTES_CORE).clamp(READS_BYTES_MIN, READS_BYTES_MAX);
        // What is worked on below, shards and the stripes made of them, is no request's and has to have room.
        let account = Account::new(limit.saturating_sub(2 * (reads + READS_BYTES_MIN)));
        let below = (limit.saturating_sub(account.limit()) / 2).min(reads + READS_BYTES_MIN);
        let state = State { account, waiting: BTreeMap::new(), links: BTreeMap::new() };
        let (turns, middling) = (Turns::new(reads), Reads::new(READS_BYTES_MIN));
        Self(Arc::new(Shared { pool, turns, below, middling, state: Mutex::new(state) }))
    }

    /// Bytes held, and bytes that may be.
    pub(super) fn held(&self) -> (usize, usize) {
        let state = self.lock();
        (state.account.held(), state.account.limit())
    }

    /// The turn of a large read of so many bytes. Reads have what they hold already, and end by themselves.
    pub(super) async fn turn_to_read(&self, tenant: TenantId, bytes: usize) -> TurnToRead {
        if bytes <= MIDDLING_BYTES_MAX {
            TurnToRead::Middling { _permit: self.0.middling.turn(bytes).await }
        } else {
            TurnToRead::Large(self.0.turns.turn(tenant, bytes).await)
        }
    }

    /// Somebody asks for something small: large reads give way as long as this node is late.
    pub(super) fn small(&self) {
        self.0.turns.small();
    }

    /// How often that was.
    #[cfg(test)]
    pub(super) fn small_ones(&self) -> usize {
        self.0.turns.small_ones()
    }

    /// Gives up those whose client has been stopped for too long.
    pub(super) fn look(&self, stall_max: Duration, now: Instant) {
        self.apply(|account| account.stalled(now, stall_max));
    }

    /// Takes what a request needs to get through, waiting for a bounded time.
    ///
    /// # Errors
    /// `Overloaded`.
    pub(super) async fn admit(&self, tenant: TenantId, bytes: usize, link: Link) -> Result<Purse, Error> {
        if bytes <= MIDDLING_BYTES_MAX {
            self.small();
        }
        let (told, granted) = oneshot::channel();
        let admission = {
            let mut state = self.lock();
            let admission = state.account.admit(tenant, bytes);
            match admission {
                Admission::Granted(holder) => drop(state.links.insert(holder, link)),
                Admission::Waits(holder) => {
                    state.links.insert(holder, link);
                    state.waiting.insert(holder, told);
                }
                Admission::Refused => {}
            }
            admission
        };
        let overloaded = || {
            Error::new(ErrorKind::Overloaded, "this node holds as much for its clients as it may; send again later")
                .with("bytes", bytes)
        };
        match admission {
            Admission::Refused => Err(overloaded()),
            Admission::Granted(holder) => Ok(self.purse(holder, bytes)),
            Admission::Waits(holder) => {
                // From here on, whatever happens, its end gives back what it may have been granted.
                let purse = self.purse(holder, bytes);
                if self.granted(granted).await { Ok(purse) } else { Err(overloaded()) }
            }
        }
    }

    /// Waits to be told; makes those give way who have stopped meanwhile.
    async fn granted(&self, mut told: oneshot::Receiver<()>) -> bool {
        let until = Instant::now() + WAIT_MAX;
        let waiting = async {
            // Who has stopped already gives way at once.
            self.apply(|account| account.tick(Instant::now()));
            loop {
                match timeout(TICK, &mut told).await {
                    Ok(told) => return told.is_ok(),
                    Err(_) => self.apply(|account| account.tick(Instant::now())),
                }
            }
        };
        timeout_at(until, waiting).await.unwrap_or(false)
    }

    fn purse(&self, holder: Holder, bytes: usize) -> Purse {
        // Idle memory counts as well: it makes room for what is taken now.
        let (held, limit) = self.held();
        // What the work below has just given back, it takes again at once.
        self.0.pool.keep(limit.saturating_sub(held).max(self.0.below));
        let grant = Arc::new(Grant { credit: self.clone(), holder });
        Purse { grant, base: Arc::new(Semaphore::new(1)), bytes }
    }

    /// Does something to the account, and tells those whom it concerns.
    fn apply(&self, change: impl FnOnce(&mut Account) -> Vec<Change>) {
        let mut cut = Vec::new();
        {
            let mut state = self.lock();
            for change in change(&mut state.account) {
                match change {
                    Change::Granted(holder) => {
                        let told = state.waiting.remove(&holder).map(|told| told.send(()));
                        if told != Some(Ok(())) {
                            // It gave up in this very moment; its purse gives back what it was granted.
                            tracing::trace!(holder, "nobody waits for what was granted");
                        }
                    }
                    Change::Cut(holder) => cut.extend(state.links.get(&holder).cloned()),
                }
            }
        }
        for link in cut {
            link.cut(Cut { why: "its client has stopped, and others wait for what it holds", at_once: true });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one request holds. Clones share it; it goes back when the last of them, and of its stakes, is dropped.
#[derive(Clone)]
pub(super) struct Purse {
    grant: Arc<Grant>,
    /// Whether the memory that was asked for is in use.
    base: Arc<Semaphore>,
    /// How much that is.
    bytes: usize,
}

struct Grant {
    credit: Credit,
    holder: Holder,
}

impl Drop for Grant {
    fn drop(&mut self) {
        {
            let mut state = self.credit.lock();
            state.links.remove(&self.holder);
            state.waiting.remove(&self.holder);
        }
        self.credit.apply(|account| account.close(self.holder));
    }
}

/// Permission to hold a piece of memory, for as long as it lives.
pub(super) enum Stake {
    /// What the request asked for.
    Base { _turn: OwnedSemaphorePermit, _purse: Purse },
    /// What it got beyond.
    Extra { purse: Purse, bytes: usize },
}

impl Drop for Stake {
    fn drop(&mut self) {
        if let Self::Extra { purse, bytes } = self {
            let (holder, bytes) = (purse.grant.holder, *bytes);
            purse.grant.credit.apply(|account| account.less(holder, bytes));
        }
    }
}

impl Purse {
    /// Permission for a piece of memory if there is any without waiting: what was asked for, or more.
    pub(super) fn at_once(&self, bytes: usize) -> Option<Stake> {
        if bytes <= self.bytes
            && let Ok(turn) = self.base.clone().try_acquire_owned()
        {
            return Some(Stake::Base { _turn: turn, _purse: self.clone() });
        }
        let more = self.grant.credit.lock().account.more(self.grant.holder, bytes);
        more.then(|| Stake::Extra { purse: self.clone(), bytes })
    }

    /// Permission for as much as was asked for, once nothing else uses it: it is this request's own, and comes back.
    pub(super) async fn base(&self) -> Stake {
        let turn = self.base.clone().acquire_owned().await.expect("the semaphore is never closed");
        Stake::Base { _turn: turn, _purse: self.clone() }
    }

    /// A second purse over the same grant, for `bytes` of it: whoever asked for both uses both.
    pub(super) fn beside(&self, bytes: usize) -> Self {
        Self { grant: self.grant.clone(), base: Arc::new(Semaphore::new(1)), bytes }
    }

    /// From now on it is the client that must do something.
    pub(super) fn waits_for_client(&self) {
        self.grant.credit.lock().account.waits_for_client(self.grant.holder, Instant::now());
    }

    /// The client has done something, or it is this node's turn.
    pub(super) fn moves(&self) {
        self.grant.credit.lock().account.moves(self.grant.holder);
    }
}

/// A read that is under way.
pub(super) enum TurnToRead {
    /// One of those that small ones hardly feel.
    Middling { _permit: OwnedSemaphorePermit },
    /// One that others may have to rest from.
    Large(Turn),
}

impl TurnToRead {
    /// The read has ended.
    pub(super) async fn end(self) {
        if let Self::Large(turn) = self {
            turn.end().await;
        }
    }
}

/// Reads under way, by their bytes.
struct Reads {
    turns: Arc<Semaphore>,
    units: usize,
}

impl Reads {
    fn new(bytes: usize) -> Self {
        let units = bytes / READ_UNIT_BYTES;
        Self { turns: Arc::new(Semaphore::new(units)), units }
    }

    async fn turn(&self, bytes: usize) -> OwnedSemaphorePermit {
        let units = u32::try_from(bytes.div_ceil(READ_UNIT_BYTES).min(self.units)).unwrap_or(u32::MAX);
        self.turns.clone().acquire_many_owned(units).await.expect("the semaphore is never closed")
    }
}

/// Bytes of large reads under way at most, and those of a node that has little memory for them.
const READS_BYTES_MAX: usize = 64 << 20;
const READS_BYTES_MIN: usize = 16 << 20;
/// For each core: two stripes.
const READS_BYTES_CORE: usize = 8 << 20;
const READ_UNIT_BYTES: usize = 4096;
/// A request waits for its credit at most so long.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// While one waits, it is looked so often who has stopped.
const TICK: Duration = Duration::from_millis(250);
/// A client that sent less than this has not moved.
pub(super) const PROGRESS_BYTES: usize = 64 << 10;
