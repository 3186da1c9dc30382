use mesh_core::{
    Buf, Cx, Error, Event, Op, Response,
    figures::{Count, Level},
    id::NodeId,
    meta::Query,
    op::Answer,
    snapshot::{Mark, Snapshot},
    time::UnixMillis,
};

use super::*;

struct Hands(Mutex<u64>);

impl Clock for Hands {
    /// A millisecond goes by between two looks.
    fn now(&self) -> Instant {
        let mut hands = lock(&self.0);
        *hands += 1_000_000;
        Instant(*hands)
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
}

fn figures() -> HostFigures {
    HostFigures::new(NodeId(1), Arc::new(Hands(Mutex::new(0))))
}

fn has(page: &Page, line: &str) {
    let text = page.text(|_| None);
    assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
}

fn request(tenant: u64, bytes: usize) -> Request {
    let query = Op::Query { group: mesh_core::id::GroupId(1), query: Arc::new(Query::Repair) };
    let mut request = Request::system(query, Instant::NEVER);
    request.principal = mesh_core::Principal::User { tenant: TenantId(tenant), name: "ann".into() };
    request.payload = Buf::from(vec![0; bytes].as_slice());
    request
}

#[test]
fn a_request_is_counted_once_with_its_bytes_its_error_and_its_time() {
    let figures = figures();
    let kind = figures.of_kind("object");
    let mut brings = Response::new(Answer::Done);
    brings.payload = Buf::from([0; 10].as_slice());
    Meter::begin(kind.clone(), &request(1, 3)).end(&Ok(brings));
    Meter::begin(kind.clone(), &request(1, 4)).end(&Err(Error::new(ErrorKind::Timeout, "late")));
    Meter::begin(kind, &request(2, 5)).end(&Ok(Response::new(Answer::Done)));
    let page = figures.page();
    for line in [
        "mesh_function_requests_total{function=\"object\",tenant=\"tenant-1\"} 2",
        "mesh_function_requests_total{function=\"object\",tenant=\"tenant-2\"} 1",
        "mesh_function_received_bytes_total{function=\"object\",tenant=\"tenant-1\"} 7",
        "mesh_function_sent_bytes_total{function=\"object\",tenant=\"tenant-1\"} 10",
        "mesh_function_errors_total{function=\"object\",tenant=\"tenant-1\",kind=\"Timeout\",certainty=\"maybe_processed\"} 1",
        "mesh_function_request_seconds_count{function=\"object\",lane=\"interactive\"} 3",
        "mesh_function_request_seconds_sum{function=\"object\",lane=\"interactive\"} 0.003",
    ] {
        has(&page, line);
    }
}

#[test]
fn kinds_beyond_the_limit_are_counted_together() {
    let figures = figures();
    let kinds: Vec<_> = (0..2 * KINDS_MAX).map(|kind| figures.of_kind(&format!("kind-{kind}"))).collect();
    assert!(Arc::ptr_eq(kinds.last().unwrap(), &figures.of_kind("one-more")));
    assert_eq!(lock(&figures.kinds).len(), KINDS_MAX + 1);
}

#[test]
fn a_job_on_a_medium_is_counted_when_it_has_ended() {
    let figures = figures();
    let medium = figures.medium(DriveId(1001));
    let begin = |job| HostFigures::begin(Some(medium.clone()), &figures.clock, &job).unwrap();
    let write = begin(DiskJob::Write { at: 0, bufs: vec![Buf::zeroed(4096), Buf::zeroed(8192)] });
    begin(DiskJob::Read { at: 0, len: 4096 }).end(true);
    begin(DiskJob::Sync).end(false);
    has(&figures.page(), "mesh_drive_writes_total{drive=\"drive-1001\"} 0");
    write.end(false);
    let page = figures.page();
    for line in [
        "mesh_drive_writes_total{drive=\"drive-1001\"} 1",
        "mesh_drive_written_bytes_total{drive=\"drive-1001\"} 12288",
        "mesh_drive_read_bytes_total{drive=\"drive-1001\"} 4096",
        "mesh_drive_failures_total{drive=\"drive-1001\"} 1",
        "mesh_drive_sync_seconds_count{drive=\"drive-1001\"} 1",
    ] {
        has(&page, line);
    }
}

mesh_core::figures! {
    struct Own as "mesh_toy" {
        /// Turns.
        turns: Count,
        /// What lies there.
        heap: Level,
    }
}

impl StorageFunction for Own {
    fn on_event(&mut self, _: Event, _: &mut Cx<'_>) {
        self.turns.add(1);
    }

    fn figures(&self, labels: &Labels, page: &mut Page) {
        self.tell(labels, page);
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn snapshot(&mut self, _: Option<Mark>) -> Snapshot {
        Snapshot::default()
    }
}

#[test]
fn what_a_function_has_counted_outlives_it_and_what_it_has_does_not() {
    let figures = figures();
    let actor = ActorId::data(TenantId(3), NodeId(1));
    let own = |turns, heap| Own { turns: Count(turns), heap: Level(heap) };
    let (first, second) = (figures.cell(), figures.cell());
    figures.keep(first, actor, &own(5, 7));
    figures.keep(second, actor, &own(1, 1));
    has(&figures.page(), "mesh_toy_turns_total{tenant=\"tenant-3\"} 6");
    has(&figures.page(), "mesh_toy_heap{tenant=\"tenant-3\"} 8");
    figures.part(first, actor, &own(6, 7));
    has(&figures.page(), "mesh_toy_turns_total{tenant=\"tenant-3\"} 7");
    has(&figures.page(), "mesh_toy_heap{tenant=\"tenant-3\"} 1");
}
