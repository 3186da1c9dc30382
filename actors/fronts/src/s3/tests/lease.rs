//! Responses that take longer than deleted bytes are kept.

use std::sync::atomic::AtomicU64;

use futures_util::StreamExt as _;
use mesh_core::{
    Answer, Buf, Error, ErrorKind, Lane,
    meta::Attributes,
    op::{Destination, ObjectOp},
};

use super::*;
use crate::s3::{
    caller::Caller,
    credit::Credit,
    outflow::{self, Source},
    via::Via,
};

const GRACE: Duration = Duration::from_secs(40);
const STRIPES: u32 = 20;

/// A clock that goes on when it is told to, by seconds.
#[derive(Default)]
struct ByHand(AtomicU64);

impl Clock for ByHand {
    fn now(&self) -> Instant {
        Instant::default() + Duration::from_secs(self.0.load(Relaxed))
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(self.0.load(Relaxed) * 1000)
    }
}

/// Reads an object of which every piece takes 5 s, and which is deleted meanwhile or not: how many pieces came, how the
/// response ended, and when the last piece was read.
async fn read_slowly(deleted: bool) -> (usize, Option<Error>, Duration) {
    let clock = Arc::new(ByHand::default());
    let model = Arc::new(Model::new(4096, clock.clone()));
    let caller = Caller {
        ingress: model.clone(),
        clock: clock.clone(),
        tenant: TenantId(1),
        name: "access".into(),
        grace: GRACE,
        credit: Credit::new(64 << 20, Pool::default()),
        via: Via::here(),
    };
    let (bucket, key): (Arc<str>, Arc<str>) = ("bucket".into(), "key".into());
    caller.done(ObjectOp::CreateBucket { bucket: bucket.clone() }).await.expect("made");
    let destination = Destination::Object { attributes: Attributes::default(), precondition: Default::default() };
    let begin = ObjectOp::Begin { bucket: bucket.clone(), key: key.clone(), destination };
    let Ok(Answer::Begun { write, .. }) = caller.answer(begin).await else { panic!("not begun") };
    for stripe in 0..STRIPES {
        let append = ObjectOp::Append { write, stripe };
        caller.ask(append, Buf::zeroed(4096), Lane::Interactive).await.expect("stored");
    }
    let len = u64::from(STRIPES) * 4096;
    let finish = ObjectOp::Finish { write, len, etag: "\"e\"".into(), checksums: Default::default() };
    caller.answer(finish).await.expect("finished");
    let asked = clock.now();
    let object = caller.object(&bucket, &key).await.expect("an object");
    let last = Arc::new(AtomicU64::new(0));
    let (hand, read) = (clock.clone(), last.clone());
    model.fail(move |op| match op {
        ObjectOp::Read { .. } => {
            read.store(hand.0.load(Relaxed), Relaxed);
            hand.0.fetch_add(5, Relaxed);
            None
        }
        ObjectOp::Head { .. } if deleted => Some(Error::new(ErrorKind::NotFound, "it was deleted")),
        _ => None,
    });
    let mut pieces = outflow::read(caller, Source { bucket, key, object, offset: 0, len, asked });
    let (mut count, mut end) = (0, None);
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(_) => count += 1,
            Err(error) => {
                end = Some(error);
                break;
            }
        }
    }
    (count, end, Duration::from_secs(last.load(Relaxed)))
}

#[tokio::test]
async fn a_response_of_what_was_deleted_ends_with_the_reason_before_the_bytes_may_be_gone() {
    let (count, end, last) = read_slowly(true).await;
    let end = end.expect("it is broken off");
    assert_eq!(end.kind(), ErrorKind::Conflict);
    assert!(end.to_string().contains("deleted or replaced while it was read"), "{end}");
    // What is read ahead takes 20 s more.
    assert!((1..STRIPES as usize).contains(&count) && last < GRACE + Duration::from_secs(15), "{count}, {last:?}");
}

#[tokio::test]
async fn a_response_of_what_is_there_takes_as_long_as_it_takes() {
    let (count, end, last) = read_slowly(false).await;
    assert_eq!((count, end), (STRIPES as usize, None));
    assert!(last > 2 * GRACE, "{last:?}");
}
