//! The first exchange on every connection, without I/O: versions, cluster, and who is who.
//!
//! ```text
//!   dialler                                    acceptor
//!      | -- Hello {versions, cluster, node} -->   |   answer(): the certificate's role must bear it out
//!      | <-- Welcome {version, node, credits} --  |
//!      |      or Failure {reason}, then close     |
//!  accept_welcome()
//! ```

use mesh_core::{
    Error, ErrorKind, Lane,
    envelope::{Body, Hello, Welcome},
    id::{ClusterId, Incarnation, NodeId},
    limits::{LINK_BYTES_MAX, LINK_JOBS_MAX},
    port::Role,
    wire,
};

use crate::session::Terms;

/// Who we are, as every Hello and Welcome of ours says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Our cluster.
    pub cluster: ClusterId,
    /// Our node number; 0 for a client.
    pub node: NodeId,
    /// Our start.
    pub incarnation: Incarnation,
    /// What we can do: bits.
    pub capabilities: u64,
    /// Our build, for people; at most [`SOFTWARE_BYTES_MAX`] are sent.
    pub software: String,
}

/// Whom a dialler expects at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This node and no other.
    Node(NodeId),
    /// Any node of the cluster: the first contact of a client or of a joining node.
    AnyNode,
}

/// The first message of a connection for `lane`.
#[must_use]
pub fn hello(local: &Local, lane: Lane) -> Hello {
    Hello {
        version_min: VERSION_MIN,
        version_max: wire::VERSION,
        cluster: local.cluster,
        node: local.node,
        incarnation: local.incarnation,
        capabilities: local.capabilities,
        software: clipped(&local.software),
        lane,
    }
}

/// The acceptor's answer to a connection's first message, given what the certificate says.
///
/// # Errors
/// Tell the other end and close: `Invalid` for something else than a Hello, `Unsupported` if there is no common
/// version, `Denied` for another cluster or a name that the certificate does not bear out.
pub fn answer(local: &Local, role: &Role, first: &Body) -> Result<(Hello, Welcome), Error> {
    let hello = match first {
        Body::Hello(hello) => hello,
        Body::Unread(error) => return Err(error.clone()),
        _ => return Err(Error::invalid("the first message of a connection must be a Hello")),
    };
    if hello.cluster != local.cluster {
        return Err(Error::new(ErrorKind::Denied, "this node belongs to another cluster: check the address")
            .with("asked", hello.cluster)
            .with("here", local.cluster));
    }
    let version = hello.version_max.min(wire::VERSION);
    if version < hello.version_min || version < VERSION_MIN {
        return Err(Error::new(ErrorKind::Unsupported, "no common wire version: upgrade the older side")
            .with("theirs", format!("{}..={}", hello.version_min, hello.version_max))
            .with("ours", format!("{VERSION_MIN}..={}", wire::VERSION)));
    }
    let certified = role.node().unwrap_or(NodeId(0));
    if hello.node != certified {
        return Err(Error::new(ErrorKind::Denied, "the certificate is of another node than the Hello says")
            .with("hello", hello.node)
            .with("certificate", certified));
    }
    let terms = terms(role);
    let welcome = Welcome {
        version,
        node: local.node,
        incarnation: local.incarnation,
        capabilities: local.capabilities,
        software: clipped(&local.software),
        jobs_max: u32::try_from(terms.jobs_max).unwrap_or(u32::MAX),
        bytes_max: terms.bytes_max as u64,
    };
    Ok((hello.clone(), welcome))
}

/// What a dialler makes of the answer: the Welcome and the credits it grants.
///
/// # Errors
/// Close the connection: the Failure's own kind if it is one; `Invalid` for something else; `Denied` if another node
/// answers than the certificate and the dialler say; `Unsupported` for a version that was not offered.
pub fn accept_welcome(expected: Expected, role: &Role, answer: Body) -> Result<(Welcome, Terms), Error> {
    let welcome = match answer {
        Body::Welcome(welcome) => welcome,
        Body::Failure(error) | Body::Unread(error) => return Err(error),
        _ => return Err(Error::invalid("a Hello was answered by something else than a Welcome")),
    };
    let Some(certified) = role.node() else {
        return Err(Error::new(ErrorKind::Denied, "a client's certificate cannot serve"));
    };
    let expected = match expected {
        Expected::Node(node) => node,
        Expected::AnyNode => certified,
    };
    if welcome.node != certified || certified != expected {
        return Err(Error::new(ErrorKind::Denied, "another node answers at this address")
            .with("expected", expected)
            .with("certificate", certified)
            .with("welcome", welcome.node));
    }
    if !(VERSION_MIN..=wire::VERSION).contains(&welcome.version) {
        return Err(Error::new(ErrorKind::Unsupported, "the peer chose a version that was not offered")
            .with("version", welcome.version));
    }
    let granted = Terms {
        jobs_max: usize::try_from(welcome.jobs_max).unwrap_or(usize::MAX).min(LINK_JOBS_MAX),
        bytes_max: usize::try_from(welcome.bytes_max).unwrap_or(usize::MAX).min(LINK_BYTES_MAX),
    };
    Ok((welcome, granted))
}

/// What a role may have in flight on one connection: a client less than a node, for there are many clients.
#[must_use]
pub const fn terms(role: &Role) -> Terms {
    match role {
        Role::Node(_) | Role::Dpu { .. } => Terms { jobs_max: LINK_JOBS_MAX, bytes_max: LINK_BYTES_MAX },
        Role::Client(_) => Terms { jobs_max: LINK_JOBS_MAX / 4, bytes_max: LINK_BYTES_MAX / 4 },
    }
}

fn clipped(software: &str) -> String {
    let end = software.floor_char_boundary(SOFTWARE_BYTES_MAX);
    software[..end].to_owned()
}

/// A Hello or a Welcome at most, header only; neither has a payload.
pub const GREETING_BYTES_MAX: usize = 1024;
/// The name of a build at most.
pub const SOFTWARE_BYTES_MAX: usize = 256;
/// The oldest wire version that this build still speaks.
pub const VERSION_MIN: u16 = 4;

const _: () = {
    assert!(VERSION_MIN <= wire::VERSION);
    assert!(GREETING_BYTES_MAX >= SOFTWARE_BYTES_MAX + 128);
};

#[cfg(test)]
mod tests {
    use mesh_core::{Principal, id::TenantId};

    use super::*;

    fn local(node: u64) -> Local {
        Local {
            cluster: ClusterId([1; 16]),
            node: NodeId(node),
            incarnation: Incarnation(5),
            capabilities: 3,
            software: "mesh 0.1".into(),
        }
    }

    fn client() -> Role {
        Role::Client(Principal::User { tenant: TenantId(1), name: "a".into() })
    }

    #[test]
    fn two_nodes_agree_on_version_and_credits() {
        let hello = hello(&local(2), Lane::Bulk);
        let (seen, welcome) = answer(&local(1), &Role::Node(NodeId(2)), &Body::Hello(hello.clone())).unwrap();
        assert_eq!(seen, hello);
        let (kept, terms) =
            accept_welcome(Expected::Node(NodeId(1)), &Role::Node(NodeId(1)), Body::Welcome(welcome.clone())).unwrap();
        assert_eq!(kept, welcome);
        let said = (welcome.version, welcome.node, welcome.incarnation);
        assert_eq!(said, (wire::VERSION, NodeId(1), Incarnation(5)));
        assert_eq!(terms, Terms { jobs_max: LINK_JOBS_MAX, bytes_max: LINK_BYTES_MAX });
    }

    #[test]
    fn refuses_what_the_certificate_does_not_bear_out() {
        let cases = [
            (Role::Node(NodeId(3)), 2, ErrorKind::Denied),
            (client(), 2, ErrorKind::Denied),
            (Role::Dpu { node: NodeId(11), host: NodeId(2) }, 2, ErrorKind::Denied),
            (Role::Node(NodeId(2)), 0, ErrorKind::Denied),
        ];
        for (role, said, kind) in cases {
            let hello = Body::Hello(hello(&local(said), Lane::Control));
            assert_eq!(answer(&local(1), &role, &hello).unwrap_err().kind(), kind, "{role:?} says {said}");
        }
        assert!(answer(&local(1), &client(), &Body::Hello(hello(&local(0), Lane::Control))).is_ok());
        let dpu = Role::Dpu { node: NodeId(11), host: NodeId(2) };
        assert!(answer(&local(1), &dpu, &Body::Hello(hello(&local(11), Lane::Control))).is_ok());
    }

    #[test]
    fn refuses_another_cluster_and_something_else_than_a_hello() {
        let other = Local { cluster: ClusterId([2; 16]), ..local(2) };
        let hello = Body::Hello(hello(&other, Lane::Control));
        assert_eq!(answer(&local(1), &Role::Node(NodeId(2)), &hello).unwrap_err().kind(), ErrorKind::Denied);
        let cancel = Body::Cancel(1);
        assert_eq!(answer(&local(1), &Role::Node(NodeId(2)), &cancel).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn refuses_when_no_version_is_common() {
        let role = Role::Node(NodeId(2));
        let (old, now, next) = (VERSION_MIN - 1, wire::VERSION, wire::VERSION + 1);
        let ranges = [(now, now, true), (old, next, true), (next, u16::MAX, false), (old, old, false), (0, 0, false)];
        for (min, max, ok) in ranges.into_iter().chain([(next, now, false)]) {
            let hello = Hello { version_min: min, version_max: max, ..hello(&local(2), Lane::Control) };
            match answer(&local(1), &role, &Body::Hello(hello)) {
                Ok((_, welcome)) => assert!(ok && welcome.version == wire::VERSION, "{min}..={max}"),
                Err(error) => assert!(!ok && error.kind() == ErrorKind::Unsupported, "{min}..={max}"),
            }
        }
    }

    #[test]
    fn a_dialler_takes_no_other_node_no_client_and_no_foreign_version() {
        let hello = Body::Hello(hello(&local(2), Lane::Control));
        let (_, welcome) = answer(&local(1), &Role::Node(NodeId(2)), &hello).unwrap();
        let welcome = |change: fn(&mut Welcome)| {
            let mut welcome = welcome.clone();
            change(&mut welcome);
            Body::Welcome(welcome)
        };
        let same: fn(&mut Welcome) = |_| {};
        let one = Role::Node(NodeId(1));
        let kind = |expected, role: &Role, body| accept_welcome(expected, role, body).map_err(|e| e.kind()).err();
        assert_eq!(kind(Expected::AnyNode, &one, welcome(same)), None);
        assert_eq!(kind(Expected::Node(NodeId(9)), &one, welcome(same)), Some(ErrorKind::Denied));
        assert_eq!(kind(Expected::AnyNode, &Role::Node(NodeId(4)), welcome(same)), Some(ErrorKind::Denied));
        assert_eq!(kind(Expected::AnyNode, &client(), welcome(same)), Some(ErrorKind::Denied));
        for version in [wire::VERSION - 1, wire::VERSION + 1] {
            let Body::Welcome(other) = welcome(same) else { panic!("a welcome") };
            let other = Body::Welcome(Welcome { version, ..other });
            assert_eq!(kind(Expected::AnyNode, &one, other), Some(ErrorKind::Unsupported));
        }
        assert_eq!(kind(Expected::AnyNode, &one, Body::Cancel(1)), Some(ErrorKind::Invalid));
        let refusal = Body::Failure(Error::new(ErrorKind::Draining, "going"));
        assert_eq!(kind(Expected::AnyNode, &one, refusal), Some(ErrorKind::Draining));
        let generous = accept_welcome(Expected::AnyNode, &one, welcome(|w| w.jobs_max = u32::MAX)).unwrap();
        assert_eq!(generous.1.jobs_max, LINK_JOBS_MAX, "our own limit holds whatever the peer grants");
    }

    #[test]
    fn a_long_build_name_is_clipped_between_characters() {
        let long = Local { software: "é".repeat(SOFTWARE_BYTES_MAX), ..local(1) };
        let hello = hello(&long, Lane::Control);
        assert_eq!(hello.software.len(), SOFTWARE_BYTES_MAX);
        let odd = Local { software: format!("x{}", "é".repeat(SOFTWARE_BYTES_MAX)), ..local(1) };
        assert_eq!(super::hello(&odd, Lane::Control).software.len(), SOFTWARE_BYTES_MAX - 1);
    }
}
