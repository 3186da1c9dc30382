//! Ports for nodes of a test that are started, stopped and started again.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
};

/// Below the ports that the system gives to whoever names none: one of those may be somebody's before the node is there.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// So many addresses on the loopback that nobody has now; each is given once in this process, and other processes look
/// elsewhere.
pub(crate) fn free(count: usize) -> Vec<SocketAddr> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    let mut found = Vec::new();
    for _ in 0..COUNT {
        let next = start.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + next % COUNT).expect("below 65,536");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if UdpSocket::bind(address).is_ok() {
            found.push(address);
        }
        if found.len() == count {
            return found;
        }
    }
    panic!("there are no {count} free ports from {FIRST} on");
}
