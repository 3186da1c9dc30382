//! What a node has counted of its work, as few sums: [`NodeFigures`]. Two of them of the same start say how much it does, and how
//! long that takes.
//!
//! They are the same figures that the node tells who watches it; those have more, and tell them apart by tenant and operation.

use serde::{Deserialize, Serialize};

use crate::{
    figures::{Page, Value},
    id::{Incarnation, NodeId},
};

/// What a node has counted since its process began. What only grows does so until the node starts again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFigures {
    /// Who.
    pub node: NodeId,
    /// Which start.
    pub incarnation: Incarnation,
    /// When that was, on a clock of this start that never goes back; in nanoseconds.
    pub at_ns: u64,
    /// CPU time that the process has used, which may run several nodes; in nanoseconds.
    pub cpu_ns: u64,
    /// Memory that the process has in RAM now.
    pub resident_bytes: u64,
    /// S3 requests; none: it has no front end.
    pub front: Option<Work>,
    /// S3 requests that have no whole answer yet.
    pub front_open: u64,
    /// What data chains, and ends of such, have answered here.
    pub chains: Work,
    /// What drives have answered here.
    pub drives: Work,
    /// Drives of the mesh that are being emptied, or are out because they were away, as the node knows.
    pub leaving_drives: u64,
}

/// What was asked of one kind of thing, and answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Requests that were answered, with an error or without.
    pub requests: u64,
    /// Those of them that failed: of a front end by a 5xx status, else by any error.
    pub failed: u64,
    /// Bytes that came with them.
    pub received_bytes: u64,
    /// Bytes that went with answers.
    pub sent_bytes: u64,
    /// How often one took as long as each [bucket](crate::figures::bucket_bound) says.
    pub took: Vec<u64>,
}

impl NodeFigures {
    /// The sums of all that a node has counted.
    #[must_use]
    pub fn of(page: &Page, (node, incarnation): (NodeId, Incarnation), at_ns: u64) -> Self {
        let number = |name: &str| whole(page, name, &[]);
        let front = Work {
            requests: number("mesh_s3_requests"),
            failed: whole(page, "mesh_s3_requests", &[("status", "5xx")]),
            received_bytes: number("mesh_s3_received_bytes"),
            sent_bytes: number("mesh_s3_sent_bytes"),
            took: spread(page, "mesh_s3_request_seconds", &[]),
        };
        let functions = |kind: &str| {
            let of = [("function", kind)];
            Work {
                requests: whole(page, "mesh_function_requests", &of),
                failed: whole(page, "mesh_function_errors", &of),
                received_bytes: whole(page, "mesh_function_received_bytes", &of),
                sent_bytes: whole(page, "mesh_function_sent_bytes", &of),
                took: spread(page, "mesh_function_request_seconds", &of),
            }
        };
        Self {
            node,
            incarnation,
            at_ns,
            cpu_ns: number("mesh_process_cpu_seconds"),
            resident_bytes: number("mesh_process_resident_memory_bytes"),
            // A front end tells how long its requests took, also before the first one.
            front: Some(front).filter(|front| !front.took.is_empty()),
            front_open: number("mesh_s3_requests_under_way"),
            chains: functions("chain"),
            drives: functions("drive"),
            leaving_drives: number("mesh_seen_leaving_drives"),
        }
    }
}

/// Numbers of a family together; time in nanoseconds. 0: there are none.
fn whole(page: &Page, name: &str, labels: &[(&str, &str)]) -> u64 {
    match page.together(name, labels) {
        Some(Value::Whole(number) | Value::Nanos(number)) => number,
        Some(Value::Spread { .. }) | None => 0,
    }
}

fn spread(page: &Page, name: &str, labels: &[(&str, &str)]) -> Vec<u64> {
    match page.together(name, labels) {
        Some(Value::Spread { buckets, .. }) => buckets,
        Some(Value::Whole(_) | Value::Nanos(_)) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{Kind, Labels};

    fn add(page: &mut Page, name: &'static str, labels: Labels, value: Value) {
        page.family(
            name,
            "for a test",
            if matches!(value, Value::Spread { .. }) { Kind::Histogram } else { Kind::Gauge },
        )
        .add(labels, value);
    }

    #[test]
    fn sums_are_of_the_front_of_chains_and_of_drives_apart() {
        let mut page = Page::default();
        let of = |name, what: &str| Labels::default().text("tenant", "acme").text(name, what);
        for (status, number) in [("2xx", 7), ("5xx", 2)] {
            add(&mut page, "mesh_s3_requests", of("status", status), Value::Whole(number));
        }
        add(&mut page, "mesh_s3_received_bytes", Labels::default(), Value::Whole(70));
        add(&mut page, "mesh_s3_sent_bytes", Labels::default(), Value::Whole(71));
        add(&mut page, "mesh_s3_requests_under_way", Labels::default(), Value::Whole(3));
        for operation in ["PutObject", "GetObject"] {
            let took = Value::Spread { buckets: vec![1, 2, 3], sum_ns: 9 };
            add(&mut page, "mesh_s3_request_seconds", of("operation", operation), took);
        }
        for (kind, number) in [("chain", 10), ("drive", 20), ("object", 40)] {
            add(&mut page, "mesh_function_requests", of("function", kind), Value::Whole(number));
            add(&mut page, "mesh_function_errors", of("function", kind), Value::Whole(number + 1));
            add(&mut page, "mesh_function_received_bytes", of("function", kind), Value::Whole(number + 2));
            add(&mut page, "mesh_function_sent_bytes", of("function", kind), Value::Whole(number + 3));
            let took = Value::Spread { buckets: vec![number], sum_ns: 9 };
            add(&mut page, "mesh_function_request_seconds", of("function", kind), took);
        }
        add(&mut page, "mesh_process_cpu_seconds", Labels::default(), Value::Nanos(5));
        add(&mut page, "mesh_process_resident_memory_bytes", Labels::default(), Value::Whole(6));
        add(&mut page, "mesh_seen_leaving_drives", Labels::default(), Value::Whole(1));
        let work = |first: u64| Work {
            requests: first,
            failed: first + 1,
            received_bytes: first + 2,
            sent_bytes: first + 3,
            took: vec![first],
        };
        let front = Work { requests: 9, failed: 2, received_bytes: 70, sent_bytes: 71, took: vec![2, 4, 6] };
        let all = NodeFigures {
            node: NodeId(2),
            incarnation: Incarnation(3),
            at_ns: 4,
            cpu_ns: 5,
            resident_bytes: 6,
            front: Some(front),
            front_open: 3,
            chains: work(10),
            drives: work(20),
            leaving_drives: 1,
        };
        assert_eq!(NodeFigures::of(&page, (NodeId(2), Incarnation(3)), 4), all);
        let none = NodeFigures::of(&Page::default(), (NodeId(2), Incarnation(3)), 4);
        assert_eq!((none.front, none.chains), (None, Work::default()));
    }
}
