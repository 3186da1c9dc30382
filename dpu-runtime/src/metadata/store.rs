//! The one database of a node, what it promises, and whether it still holds that.
//!
//! Owns the files under `<dir>`. sled's own flush leaves data in the drive's cache and the file's length in the
//! kernel; so durability here is sled's flush, then `fsync` of the database's file through a descriptor of our own,
//! then the mark (see [`super::mark`], [`super::flush`]). The directories are synced once, when the files are made.
//! Small values only: see [`super::chunks`].
//!
//! ```text
//! <dir>/mark             see super::mark
//! <dir>/db/              sled's files
//!   tree "meta"          'n'                      the node whose files these are
//!                        'g' group:8 'v'          Raft's vote
//!                        'g' group:8 'p'          the log is purged up to here
//!                        'g' group:8 's'          the generation of the state tree in use
//!                        'g' group:8 'x'          the replica that is being removed: see [`Store::forget`]
//!                        'g' group:8 'f'          what the replica is becoming: see super::force
//!                                                 each: value, encoded; crc:4, CRC-32C of key and value
//!   tree "log/<group>"   see super::log
//!   tree "state/<group>/<generation>"             see super::rows
//!   tree "aside/<group>/<number>"                 see super::image
//! <dir>/mark.older       the mark of a store that is an older copy: see [`Store::disown`]
//! <dir>/db.damaged-<n>, <dir>/mark.damaged-<n>    set aside by [`Store::renew_all`], n from 1 to SET_ASIDE_MAX
//! ```
//!
//! All that is encoded here is of one format ([`mesh_core::meta::FORMAT`]), which the mark names. A store of another one is
//! refused before anything else of it is read, and left as it is.
//!
//! When it is opened, each group is judged against the mark (see [`super::judge`]). Damage does not keep the store
//! from opening: groups that are sound go on, and [`Store::health`] names the others, which neither vote nor serve.
//! Nothing of a damaged store is deleted, and its mark claims on what it did: it stays damaged until it is renewed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh_core::{
    Error, ErrorKind,
    id::{GroupId, NodeId, ReplicaId},
    meta::FORMAT,
    op::Waits,
    wire::crc32c,
};
use openraft::storage::IOFlushed;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;

use super::{
    files::cannot_be_used_now,
    flush::{Durable, Flusher, guarded, lock},
    home::{Database, Home, Medium},
    image, judge, log, machine,
    mark::{Claim, Claims, Found, GROUPS_MAX, Mark},
    runtime::Dice,
    trees::{Batch, Tree, Trees},
    types::{Types, decode, encode},
};

/// Which value of a group stands in the `meta` tree.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Slot {
    Vote = b'v',
    Purged = b'p',
    Generation = b's',
    Gone = b'x',
    Forced = b'f',
    /// Of the control group: all were restored from a backup, and have not gone on since.
    Restored = b'r',
}

impl Slot {
    const ALL: [Self; 6] = [Self::Vote, Self::Purged, Self::Generation, Self::Gone, Self::Forced, Self::Restored];
}

/// What is known of a group's files.
#[derive(Clone, Debug)]
pub(super) enum Health {
    /// They hold what was promised.
    Sound,
    /// Nothing was ever kept there.
    New,
    /// They hold less, or something else; `Corrupt`, and what is missing.
    Damaged(Error),
}

/// A node's metadata on its drive.
pub(super) struct Store {
    home: Home,
    node: NodeId,
    /// For the numbers of replicas.
    dice: Dice,
    /// None if it cannot be used.
    database: RwLock<Option<Database>>,
    claims: Arc<Mutex<Claims>>,
    damage: Mutex<Damage>,
    flusher: Flusher,
    /// How often the mark was written durably.
    marked: Arc<AtomicU64>,
}

#[derive(Default)]
struct Damage {
    /// Of everything.
    whole: Option<Error>,
    groups: BTreeMap<GroupId, Error>,
    /// Those of which that was found when it was opened, on the medium itself.
    judged: BTreeSet<GroupId>,
    /// Of everything; but only because it could not be read: the next start may find it as it was.
    may_pass: bool,
    /// Those that are not damaged, and wait until they may go on alone; and for what.
    held: BTreeSet<GroupId>,
    waits: Option<Waits>,
}

/// The real steps to durability.
struct Steps {
    trees: Trees,
    medium: Medium,
    mark: Mutex<Mark>,
    marked: Arc<AtomicU64>,
}

impl Durable for Steps {
    fn flush(&self) -> io::Result<()> {
        self.trees.flush()
    }

    fn sync(&self) -> io::Result<()> {
        self.medium.sync()
    }

    fn mark(&self, claims: &Claims) -> io::Result<()> {
        let mut mark = lock(&self.mark);
        mark.write(claims)?;
        self.marked.store(mark.count(), Ordering::Release);
        Ok(())
    }
}

impl Store {
    /// Opens a node's metadata, or makes them, and judges them. Damage is no error: see [`Store::health`].
    ///
    /// # Errors
    /// `DriveFailed` if they cannot be used now (another process has them, no permission, no space), `Conflict` if
    /// they are another node's, `Unsupported` if they are of another format or hold what this build cannot read. Nothing is deleted.
    pub(super) fn open(home: impl Into<Home>, node: NodeId, dice: Dice) -> Result<Self, Error> {
        Self::open_over(home, node, dice, |steps| steps)
    }

    /// As [`Store::open`], with something put between the store and its files.
    pub(super) fn open_over(
        home: impl Into<Home>,
        node: NodeId,
        dice: Dice,
        over: impl FnOnce(Arc<dyn Durable>) -> Arc<dyn Durable>,
    ) -> Result<Self, Error> {
        let home = home.into();
        let failed = |error: io::Error| cannot_use(&home).caused_by(error);
        let there = home.has_database().map_err(failed)?;
        let (mark, claims) = match home.read_mark().map_err(failed)? {
            Found::Whole(mark, claims) => (mark, claims),
            Found::Nothing if !there => {
                let claims = Claims { node, groups: BTreeMap::new() };
                (home.make_mark(&claims).map_err(failed)?, claims)
            }
            Found::Nothing => {
                let why = "there is a database, but no mark of what it promised beside it";
                return Ok(Self::unusable(home, dice, Claims { node, ..Claims::default() }, 0, damaged(why), false));
            }
            Found::OfFormat(format) => {
                let what = "the metadata store is of another format than this build's, and is left as it is: run the \
                            build that wrote it";
                return Err(Error::new(ErrorKind::Unsupported, what)
                    .with("path", &home)
                    .with("format", format)
                    .with("supported", FORMAT));
            }
            Found::OfAnotherBuild(error) => return Err(of_another_build(&home, error)),
            Found::Damaged(why) => {
                return Ok(Self::unusable(home, dice, Claims { node, ..Claims::default() }, 0, damaged(why), false));
            }
        };
        if claims.node != node {
            return Err(Error::new(ErrorKind::Conflict, "these metadata files are another node's")
                .with("path", home.database())
                .with("owner", claims.node)
                .with("node", node));
        }
        if !there {
            // A store that is made has its mark first; then nothing is claimed yet.
            if !claims.groups.values().all(Claim::is_empty) {
                let why = damaged("the database is missing").with("path", home.database());
                return Ok(Self::unusable(home, dice, claims, mark.count(), why, false));
            }
            home.make_database(node).map_err(failed)?;
        }
        let database = match home.open_database(node) {
            Ok(database) => database,
            Err(error) if cannot_be_used_now(&error) => return Err(failed(error)),
            Err(error) => {
                let may_pass = !judge::is_proven(&error);
                let why = damaged("the database cannot be read").with("path", home.database()).caused_by(error);
                return Ok(Self::unusable(home, dice, claims, mark.count(), why, may_pass));
            }
        };
        let groups = judge::groups(&database.trees, &claims).map_err(|error| of_another_build(&home, error))?;
        let medium = home.settle(&database).map_err(failed)?;
        let marked = Arc::new(AtomicU64::new(mark.count()));
        let steps =
            Steps { trees: database.trees.clone(), medium, mark: Mutex::new(mark), marked: Arc::clone(&marked) };
        let steps = over(Arc::new(steps));
        let claims = Arc::new(Mutex::new(claims));
        let flusher = match &home {
            Home::Folder(_) => Flusher::start(steps, Arc::clone(&claims)).map_err(failed)?,
            Home::Memory(memory) => Flusher::in_task(steps, Arc::clone(&claims), memory.latency()),
        };
        let opened = Self {
            home,
            node,
            dice,
            database: RwLock::new(Some(database)),
            claims,
            damage: Mutex::default(),
            flusher,
            marked,
        };
        let judged = groups.iter().filter(|(_, flaw)| flaw.is_proven).map(|(group, _)| *group);
        lock(&opened.damage).judged = judged.collect();
        for (group, flaw) in groups {
            opened.note(group, &flaw.why);
        }
        opened.go_on_forgetting();
        Ok(opened)
    }

    /// A store of which nothing can be used.
    fn unusable(home: Home, dice: Dice, claims: Claims, marked: u64, why: Error, may_pass: bool) -> Self {
        tracing::error!(path = %home, error = %why, "{IS_DAMAGED}");
        Self {
            home,
            node: claims.node,
            dice,
            database: RwLock::new(None),
            claims: Arc::new(Mutex::new(claims)),
            damage: Mutex::new(Damage { whole: Some(why), may_pass, ..Damage::default() }),
            flusher: Flusher::closed(),
            marked: Arc::new(AtomicU64::new(marked)),
        }
    }

    /// What is known of a group's files. Sound ones may turn out damaged later.
    pub(super) fn health(&self, group: GroupId) -> Health {
        let damage = lock(&self.damage);
        match damage.whole.as_ref().or_else(|| damage.groups.get(&group)) {
            Some(why) => Health::Damaged(why.clone()),
            None if lock(&self.claims).groups.get(&group).is_none_or(Claim::is_empty) => Health::New,
            None => Health::Sound,
        }
    }

    /// Whether a group was found damaged by what is on the medium: the next start finds it so too.
    pub(super) fn was_damaged(&self, group: GroupId) -> bool {
        let damage = lock(&self.damage);
        (damage.whole.is_some() && !damage.may_pass) || damage.judged.contains(&group)
    }

    /// A group's files are as they are to be, and are not opened until somebody says that they may be: see `force`.
    pub(super) fn hold(&self, group: GroupId, why: Error, waits: Waits) {
        let mut damage = lock(&self.damage);
        if damage.whole.is_none() && !damage.groups.contains_key(&group) {
            tracing::warn!(%group, path = %self.home, %why, "a replica of a metadata group waits");
            damage.groups.insert(group, why);
            damage.held.insert(group);
            damage.waits = Some(waits);
        }
    }

    /// What those wait for.
    pub(super) fn waits(&self) -> Option<Waits> {
        let damage = lock(&self.damage);
        damage.waits.clone().filter(|_| !damage.held.is_empty())
    }

    /// The groups that wait.
    pub(super) fn held(&self) -> BTreeSet<GroupId> {
        lock(&self.damage).held.clone()
    }

    /// A group waits no more.
    pub(super) fn release(&self, group: GroupId) {
        let mut damage = lock(&self.damage);
        if damage.held.remove(&group) {
            damage.groups.remove(&group);
        }
    }

    /// Whether nothing of it can be used.
    pub(super) fn is_unusable(&self) -> bool {
        lock(&self.damage).whole.is_some()
    }

    /// The groups that this store keeps, or kept, a replica of, with their numbers; as far as it is known.
    pub(super) fn replicas(&self) -> BTreeMap<GroupId, ReplicaId> {
        lock(&self.claims).groups.iter().map(|(group, claim)| (*group, claim.replica)).collect()
    }

    /// The number of this node's replica of a group. Made at random, and durable, when it is first asked for. Blocks.
    ///
    /// # Errors
    /// `InvalidData` if the store is damaged and the number is not known; `InvalidInput` for a node whose number is
    /// too large, or too many groups.
    pub(super) fn replica(&self, group: GroupId) -> io::Result<ReplicaId> {
        if let Some(claim) = lock(&self.claims).groups.get(&group) {
            return Ok(claim.replica);
        }
        self.make_room(group)?;
        self.sound(group)?;
        let replica = self.mint()?;
        let minted = {
            let mut claims = lock(&self.claims);
            if claims.groups.len() >= GROUPS_MAX {
                let many = "this node has replicas of too many metadata groups";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, many));
            }
            claims.groups.entry(group).or_insert_with(|| Claim { replica, ..Claim::default() }).replica
        };
        // Into both halves of the mark: if one is damaged, the other still knows the number.
        self.flusher.finish()?;
        self.flusher.finish()?;
        Ok(minted)
    }

    /// A number that no replica had before.
    pub(super) fn mint(&self) -> io::Result<ReplicaId> {
        if self.node.0 >= ReplicaId::NODES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a node of so large a number cannot have replicas",
            ));
        }
        let mut bytes = [0; 8];
        while u64::from_le_bytes(bytes) == 0 {
            self.dice.fill(&mut bytes[..6]);
        }
        Ok(ReplicaId::new(self.node, u64::from_le_bytes(bytes)))
    }

    /// Where it is.
    pub(super) fn home(&self) -> Home {
        self.home.clone()
    }

    /// Whether there is a name left under which this store could be set aside.
    ///
    /// # Errors
    /// `Conflict` if too many damaged stores are kept already.
    pub(super) fn expect_room_aside(&self) -> Result<(), Error> {
        self.home.number_aside().map(drop)
    }

    /// Forgets this store for good: its files are set aside under other names, and a new store is made in its place in
    /// which every group has a new number and is [`Health::New`]. All groups at once: a database that lost one thing
    /// is not trusted with another.
    ///
    /// For whoever knows that another replica leads each of [`Store::replicas`]: what was only here is lost. The groups
    /// must have been shut down; this waits a little for their last user. This store is closed, whatever comes of it.
    ///
    /// # Errors
    /// `Conflict` if somebody still uses it, or if too many damaged stores are kept already; `DriveFailed`. Nothing is
    /// deleted; it may be tried again by opening the store anew.
    pub(super) fn renew_all(&self) -> Result<Self, Error> {
        let failed = |error: io::Error| cannot_use(&self.home).caused_by(error);
        self.close();
        let taken = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        guarded(|| {
            drop(taken);
            Ok(())
        })
        .map_err(failed)?;
        self.home.wait_for_last_user()?;
        let number = self.home.number_aside()?;
        let mut groups = BTreeMap::new();
        for group in lock(&self.claims).groups.keys() {
            groups.insert(*group, Claim { replica: self.mint().map_err(failed)?, ..Claim::default() });
        }
        let aside = self.home.set_aside(number).map_err(failed)?;
        drop(self.home.make_mark(&Claims { node: self.node, groups }).map_err(failed)?);
        tracing::warn!(aside, "a damaged metadata store was set aside; a new one takes its place");
        Self::open(self.home.clone(), self.node, self.dice.clone())
    }

    /// Removes this node's replica of a group for good, with its number: another one that begins here later has another.
    ///
    /// For whoever knows that it is no member of the group any more, and that it answers nothing meanwhile: what others count on
    /// is not theirs to lose. The group must have been shut down. Blocks.
    ///
    /// ```text
    ///   'x' names the replica: durable   a crash: it is there as it was
    ///   the mark does not claim it       a crash: opening goes on from here
    ///   its trees, then its rows and 'x' are removed
    /// ```
    ///
    /// # Errors
    /// `InvalidData` if it is damaged: then it is renewed with all others. Or it cannot be written: where it was half removed
    /// by then it is damaged from now on, for what is left must not become its successor's.
    pub(super) fn forget(&self, group: GroupId, replica: ReplicaId) -> io::Result<()> {
        if lock(&self.claims).groups.get(&group).is_none_or(|claim| claim.replica != replica) {
            return Ok(());
        }
        self.write(group, Slot::Gone, &replica)?;
        self.flusher.finish()?;
        lock(&self.claims).groups.retain(|known, _| *known != group);
        // From both halves of the mark: what one of them still claims must be there.
        let unmarked = self.flusher.finish().and_then(|()| self.flusher.finish());
        let cleared = unmarked.and_then(|()| self.clear(group));
        cleared.inspect_err(|error| self.note(group, &format!("a replica was removed in part: {error}")))
    }

    fn clear(&self, group: GroupId) -> io::Result<()> {
        let database = self.database()?;
        let is_of_group = |name: &String| trees_of(name) == Some(group);
        for name in database.trees.names().iter().filter(|name| is_of_group(name)) {
            guarded(|| database.trees.remove(name))?;
        }
        let mut rows = Batch::default();
        Slot::ALL.into_iter().for_each(|slot| rows.remove(&slot_key(group, slot)));
        guarded(|| database.meta.apply(rows))?;
        self.flusher.finish()
    }

    /// Removes what is left of a replica that was removed in part, before another one begins.
    fn make_room(&self, group: GroupId) -> io::Result<()> {
        let database = self.database()?;
        if !groups_with(&database.meta, Slot::Gone)?.contains(&group) {
            return Ok(());
        }
        self.clear(group)?;
        lock(&self.damage).groups.remove(&group);
        Ok(())
    }

    /// Finishes what [`Store::forget`] had begun; where the mark still claims the replica, it was not begun. A group of which
    /// that fails is damaged: what is left of it must not become another replica's.
    fn go_on_forgetting(&self) {
        let Ok(database) = self.database() else { return };
        // Where these rows cannot be read no group is sound.
        for group in groups_with(&database.meta, Slot::Gone).unwrap_or_default() {
            let cleared = if lock(&self.claims).groups.contains_key(&group) {
                self.remove(group, Slot::Gone)
            } else {
                self.clear(group)
            };
            if let Err(error) = cleared {
                self.note(group, &format!("a replica that was to be removed is still there: {error}"));
            }
        }
    }

    /// Refuses a group that is damaged.
    ///
    /// # Errors
    /// `InvalidData`, with what is known of the damage.
    pub(super) fn sound(&self, group: GroupId) -> io::Result<()> {
        match self.health(group) {
            Health::Damaged(why) => Err(io::Error::new(io::ErrorKind::InvalidData, why)),
            Health::Sound | Health::New => Ok(()),
        }
    }

    /// How often it has said durably what it promises. Only ever grows while the store has the same replicas.
    pub(super) fn marked(&self) -> u64 {
        self.marked.load(Ordering::Acquire)
    }

    /// Whoever remembers more says that this store is an older copy: every group is damaged from now on. Whether that is
    /// news: then it is to be made durable with [`Store::keep_disowned`].
    pub(super) fn disown(&self, why: &str) -> bool {
        let mut damage = lock(&self.damage);
        if damage.whole.is_some() {
            return false;
        }
        tracing::error!(path = %self.home, why, "{IS_DAMAGED}");
        damage.whole = Some(damaged(format!("these metadata were put back from an older copy: {why}")));
        true
    }

    /// Takes the mark away from beside the database, under another name, so that the store stays damaged when it is
    /// opened again. Blocks.
    pub(super) fn keep_disowned(&self) -> io::Result<()> {
        self.home.disown()
    }

    /// Passes an outcome on; if it tells of damage, the group is damaged from now on.
    pub(super) fn heed<T>(&self, group: GroupId, outcome: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &outcome
            && error.kind() == io::ErrorKind::InvalidData
        {
            self.note(group, &error.to_string());
        }
        outcome
    }

    /// A group is damaged: it stops, and says so once.
    pub(super) fn note(&self, group: GroupId, why: &str) {
        let mut damage = lock(&self.damage);
        if damage.whole.is_some() || damage.groups.contains_key(&group) {
            return;
        }
        tracing::error!(%group, path = %self.home, why, "{IS_DAMAGED}");
        damage.groups.insert(group, damaged(why.to_owned()).with("group", group));
    }

    /// Changes what is claimed of a group. To be called after what it claims was written; it reaches the mark with the
    /// next flush.
    pub(super) fn claim(&self, group: GroupId, change: impl FnOnce(&mut Claim)) {
        if let Some(claim) = lock(&self.claims).groups.get_mut(&group) {
            change(claim);
        }
    }

    fn database(&self) -> io::Result<Database> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.clone().ok_or_else(|| io::Error::new(io::ErrorKind::BrokenPipe, "the metadata store is closed"))
    }

    pub(super) fn tree(&self, name: &str) -> io::Result<Tree> {
        let database = self.database()?;
        guarded(|| database.trees.open(name))
    }

    pub(super) fn drop_tree(&self, name: &str) -> io::Result<()> {
        let database = self.database()?;
        guarded(|| database.trees.remove(name))
    }

    /// The names of all trees that begin so.
    pub(super) fn trees_under(&self, prefix: &str) -> Vec<String> {
        let names = self.database().map(|database| database.trees.names()).unwrap_or_default();
        names.into_iter().filter(|name| name.starts_with(prefix)).collect()
    }

    pub(super) fn read<T: DeserializeOwned>(&self, group: GroupId, slot: Slot) -> io::Result<Option<T>> {
        self.sound(group)?;
        self.peek(group, slot)
    }

    /// As [`Store::read`], also of a group that waits or is damaged.
    pub(super) fn peek<T: DeserializeOwned>(&self, group: GroupId, slot: Slot) -> io::Result<Option<T>> {
        let database = self.database()?;
        self.heed(group, read_slot(&database.meta, group, slot))
    }

    /// Writes a value; durable with the next flush.
    pub(super) fn write<T: Serialize>(&self, group: GroupId, slot: Slot, value: &T) -> io::Result<()> {
        self.sound(group)?;
        let (database, key) = (self.database()?, slot_key(group, slot));
        let mut bytes = encode(value)?;
        bytes.extend_from_slice(&slot_crc(&key, &bytes).to_le_bytes());
        guarded(|| database.meta.insert(key, bytes))
    }

    /// Removes a value; durable with the next flush.
    pub(super) fn remove(&self, group: GroupId, slot: Slot) -> io::Result<()> {
        let database = self.database()?;
        let mut rows = Batch::default();
        rows.remove(&slot_key(group, slot));
        guarded(|| database.meta.apply(rows))
    }

    /// The groups that have a value in this place; none where that cannot be read, for then no group is sound.
    pub(super) fn groups_with(&self, slot: Slot) -> BTreeSet<GroupId> {
        self.database().and_then(|database| groups_with(&database.meta, slot)).unwrap_or_default()
    }

    /// As [`Store::sync`], for who may block.
    pub(super) fn finish(&self) -> io::Result<()> {
        self.flusher.finish()
    }

    /// Comes back once everything written and claimed before is durable.
    pub(super) async fn sync(&self) -> io::Result<()> {
        let (done, flushed) = oneshot::channel();
        // Who asked may have gone; then nobody wants to know.
        self.flusher.tell(Box::new(move |outcome| drop(done.send(outcome))));
        flushed.await.map_err(|_| is_closed())?
    }

    /// Tells Raft once everything written and claimed before is durable. Calls are answered in order.
    pub(super) fn notify_when_durable(&self, callback: IOFlushed<Types>) {
        self.flusher.tell(Box::new(move |outcome| callback.io_completed(outcome)));
    }

    /// Flushes what is waiting and ends the flusher. Nothing becomes durable afterwards.
    pub(super) fn close(&self) {
        self.flusher.close();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

const IS_DAMAGED: &str = "the metadata store is damaged: this replica neither votes nor serves until it is rebuilt \
                          from the others; no file was removed";

/// Damage, in words.
fn damaged(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Corrupt, why)
}

/// Whole, and of a build that has more, or that lacks what this one cannot do without.
fn of_another_build(home: &Home, error: io::Error) -> Error {
    let what = "the metadata store holds what another build wrote and this one cannot read, and is left as it is: run that build";
    Error::new(ErrorKind::Unsupported, what).with("path", home).caused_by(error)
}

fn cannot_use(home: &Home) -> Error {
    let what = "the metadata store cannot be used; no file was removed. Make room if there is none; if another process has it, \
                stop that one";
    Error::new(ErrorKind::DriveFailed, what).with("path", home.database())
}

fn is_closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the metadata store is closed")
}

/// The group whose tree has this name.
pub(super) fn trees_of(name: &str) -> Option<GroupId> {
    log::group_of(name).or_else(|| machine::group_of(name)).or_else(|| image::group_of(name))
}

/// The groups that have a value in this place.
pub(super) fn groups_with(meta: &Tree, slot: Slot) -> io::Result<BTreeSet<GroupId>> {
    let mut groups = BTreeSet::new();
    let mut rows = meta.rows();
    while let Some(row) = guarded(|| rows.next().transpose())? {
        if let [b'g', group @ .., last] = &*row.0
            && *last == slot as u8
            && let Ok(group) = group.try_into()
        {
            groups.insert(GroupId(u64::from_be_bytes(group)));
        }
    }
    Ok(groups)
}

fn slot_key(group: GroupId, slot: Slot) -> [u8; 10] {
    let mut key = [0; 10];
    key[0] = b'g';
    key[1..9].copy_from_slice(&group.0.to_be_bytes());
    key[9] = slot as u8;
    key
}

fn slot_crc(key: &[u8; 10], value: &[u8]) -> u32 {
    crc32c(&[key, value].concat())
}

/// Reads a value of a group.
pub(super) fn read_slot<T: DeserializeOwned>(meta: &Tree, group: GroupId, slot: Slot) -> io::Result<Option<T>> {
    let key = slot_key(group, slot);
    let Some(bytes) = guarded(|| meta.get(key))? else { return Ok(None) };
    match bytes.split_last_chunk::<4>() {
        Some((value, crc)) if u32::from_le_bytes(*crc) == slot_crc(&key, value) => decode(value).map(Some),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("the {slot:?} row fails its checksum"))),
    }
}
