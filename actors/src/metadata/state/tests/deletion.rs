//! Two deletions of one bucket, a put, a delete of an object, and a bucket of the same name made again: in every order,
//! with a copy of any of the commands at any later time. No object that was acknowledged is in a bucket that is gone, and
//! whoever sees the bucket can write to it, or is told that it is gone.

use super::*;

/// A step of somebody's: what it sends, and whether it goes on (`None`: it waits for nothing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    FirstDelete,
    SecondDelete,
    Put,
    Remove,
}

const ACTORS: [Actor; 4] = [Actor::FirstDelete, Actor::SecondDelete, Actor::Put, Actor::Remove];

/// Both groups, and how far everybody is.
#[derive(Clone)]
struct World {
    control: Group,
    keys: Group,
    bucket: BucketRef,
    write: WriteId,
    /// Commands sent so far, to be copied.
    sent: Vec<(Command, Result<MetaAnswer, ErrorKind>)>,
    /// Of the two deletions: the next step; 9: over.
    stages: [u8; 2],
    deleted: [bool; 2],
    put: Option<Result<MetaAnswer, ErrorKind>>,
    emptied: bool,
}

impl World {
    fn new() -> Self {
        let mut control = control::furnished();
        let make = BucketCommand::CreateBucket {
            proposer: Some(proposer(1)),
            name: "photos".into(),
            tenant: TENANT,
            created: UnixMillis(1),
            settings: BucketSettings::default(),
        };
        let Ok(MetaAnswer::Bucket(row)) = control.apply(&make) else { panic!("no bucket") };
        let bucket = row.bucket.clone();
        let mut keys = Group { table: MemoryTable::default(), id: bucket.group }.with_sessions();
        let write = keys.open_block(1);
        let mut world = Self {
            control,
            keys,
            bucket,
            write,
            sent: Vec::new(),
            stages: [0, 0],
            deleted: [false, false],
            put: None,
            emptied: false,
        };
        assert!(world.keys.apply(&world.object("old", 0)).is_ok());
        world
    }

    fn object(&self, key: &str, count: u64) -> Command {
        Command::Object(
            self.bucket.clone(),
            ObjectCommand::PutObject {
                proposer: proposer(1),
                key: key.into(),
                row: object(after(self.write, count), 1, 1).into(),
                precondition: Precondition::default(),
                quota_bytes: None,
            },
        )
    }

    fn send(&mut self, command: Command) -> Result<MetaAnswer, ErrorKind> {
        let group = if command.group() == GroupId::CONTROL { &mut self.control } else { &mut self.keys };
        let answer = group.apply(&command);
        self.sent.push((command, answer.clone()));
        answer
    }

    /// Somebody's next step; `false`: they are through.
    fn step(&mut self, actor: Actor) -> bool {
        match actor {
            Actor::FirstDelete => self.delete(0),
            Actor::SecondDelete => self.delete(1),
            Actor::Put if self.put.is_none() => {
                self.put = Some(self.send(self.object("new", 1)));
                true
            }
            Actor::Remove if !self.emptied => {
                self.emptied = true;
                let command = Command::Object(
                    self.bucket.clone(),
                    ObjectCommand::DeleteObject {
                        proposer: proposer(2),
                        key: "old".into(),
                        at: UnixMillis(3),
                        precondition: Precondition::default(),
                    },
                );
                self.send(command).is_ok()
            }
            _ => false,
        }
    }

    /// As `object/bucket.rs` does it.
    fn delete(&mut self, which: usize) -> bool {
        let proposer = proposer(1 + which as u64);
        let command = match self.stages[which] {
            0 => Command::Object(self.bucket.clone(), ObjectCommand::SealBucket { proposer }),
            1 => BucketCommand::RemoveBucket { bucket: self.bucket.id }.into(),
            _ => return false,
        };
        let answer = self.send(command);
        self.stages[which] = if answer.is_ok() { self.stages[which] + 1 } else { 9 };
        self.deleted[which] = self.stages[which] == 2;
        true
    }

    fn is_there(&self) -> bool {
        self.control.query(&Query::Bucket { name: "photos".into() }).is_ok()
    }

    fn check(&self) {
        let held = self.keys.table.rows().any(|(key, _)| key[0] == b'K');
        assert!(self.is_there() || !held, "an object outlives its bucket: {:?}", self.sent);
        if self.deleted.contains(&true) {
            assert!(!self.is_there(), "a deleted bucket is there: {:?}", self.sent);
        }
        if matches!(self.put, Some(Ok(_))) {
            let query = Query::Object { bucket: self.bucket.clone(), key: "new".into() };
            assert!(self.keys.query(&query).is_ok(), "an acknowledged object is gone: {:?}", self.sent);
        }
    }

    /// Every copy of what was sent gets the answer that the first one got, and has no effect.
    fn copies(&self) {
        for (command, answer) in &self.sent {
            let mut group = if command.group() == GroupId::CONTROL { self.control.clone() } else { self.keys.clone() };
            let table = group.table.clone();
            assert_eq!(group.once(command), *answer, "{command:?} behind {:?}", self.sent);
            assert_eq!(group.table, table, "{command:?} behind {:?}", self.sent);
        }
    }

    fn explore(&self, count: &mut usize) {
        *count += 1;
        self.check();
        self.copies();
        for actor in ACTORS {
            let mut next = self.clone();
            if next.step(actor) {
                next.explore(count);
            }
        }
        // And should everybody vanish here: whoever finds the bucket sealed takes its name away.
        let mut left = self.clone();
        if let Err(ErrorKind::NoSuchBucket) = left.send(left.object("later", 2)) {
            assert!(left.send(BucketCommand::RemoveBucket { bucket: left.bucket.id }.into()).is_ok());
            assert!(!left.is_there());
            let again = Command::Bucket(BucketCommand::CreateBucket {
                proposer: Some(proposer(1)),
                name: "photos".into(),
                tenant: TENANT,
                created: UnixMillis(9),
                settings: BucketSettings::default(),
            });
            assert!(matches!(left.send(again), Ok(MetaAnswer::Bucket(_))));
            for (command, _) in &self.sent {
                let group = if command.group() == GroupId::CONTROL { &mut left.control } else { &mut left.keys };
                // A copy of a deletion of the first bucket does nothing to the second.
                drop(group.once(command));
            }
            assert!(left.is_there());
        }
    }
}

#[test]
fn in_every_order_no_acknowledged_object_outlives_its_bucket_and_no_copy_has_an_effect() {
    let mut count = 0;
    World::new().explore(&mut count);
    assert!(count > 100, "{count}");
}
