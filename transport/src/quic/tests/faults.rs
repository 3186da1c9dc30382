use tokio::runtime::Runtime;

use super::*;

/// Short enough to wait for, long enough not to come by itself on a busy machine.
const SILENCE: Duration = Duration::from_secs(2);

/// A node in a runtime of its own, so that it can be killed without a word.
struct Victim {
    runtime: Option<Runtime>,
    link: Option<Arc<QuicLink>>,
    address: SocketAddr,
}

impl Victim {
    fn start(authority: &Authority, address: SocketAddr, incarnation: u64, host: Arc<dyn Inbound>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = QuicConfig {
            address,
            idle_timeout: SILENCE,
            incarnation: Incarnation(incarnation),
            ..config(authority, &node(1))
        };
        let link = {
            let _inside = runtime.enter();
            QuicLink::bind(config, Some(host)).unwrap()
        };
        let address = link.local_address().unwrap();
        Self { runtime: Some(runtime), link: Some(link), address }
    }

    /// No packet leaves any more: first the tasks end, then the socket is closed.
    fn kill(&mut self) {
        let (runtime, link) = (self.runtime.take().unwrap(), self.link.take());
        let killer = std::thread::spawn(move || {
            runtime.shutdown_timeout(LONG);
            drop(link);
        });
        killer.join().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn survivor(authority: &Authority) -> Arc<QuicLink> {
    QuicLink::bind(QuicConfig { idle_timeout: SILENCE, ..config(authority, &node(2)) }, Some(echo())).unwrap()
}

/// Passes packets on between one dialler and one node, until it is told not to.
struct Relay {
    address: SocketAddr,
    open: Arc<AtomicBool>,
}

impl Relay {
    async fn to(node: SocketAddr) -> Self {
        let near = Arc::new(tokio::net::UdpSocket::bind(anywhere()).await.unwrap());
        let far = Arc::new(tokio::net::UdpSocket::bind(anywhere()).await.unwrap());
        far.connect(node).await.unwrap();
        let (address, open) = (near.local_addr().unwrap(), Arc::new(AtomicBool::new(true)));
        let passes = open.clone();
        tokio::spawn(async move {
            let (mut there, mut back) = (vec![0; 1 << 16], vec![0; 1 << 16]);
            let mut dialler = None;
            loop {
                // A datagram that cannot be passed on is a lost one.
                tokio::select! {
                    Ok((len, from)) = near.recv_from(&mut there) => {
                        dialler = Some(from);
                        if passes.load(Ordering::Relaxed) {
                            far.send(&there[..len]).await.ok();
                        }
                    }
                    Ok(len) = far.recv(&mut back) => {
                        if let Some(dialler) = dialler.filter(|_| passes.load(Ordering::Relaxed)) {
                            near.send_to(&back[..len], dialler).await.ok();
                        }
                    }
                }
            }
        });
        Self { address, open }
    }
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_peer_is_noticed_and_found_again_when_it_returns() {
    let authority = authority();
    let (host, mut events) = hold();
    let mut victim = Victim::start(&authority, anywhere(), 1, host);
    let two = survivor(&authority);
    two.set_peer(NodeId(1), victim.address);
    let (_guard, in_flight) = send(&two, 1, request(Lane::Interactive, Buf::empty()));
    let Seen::Request(_, _, _done) = next(&mut events).await else { panic!() };
    until_up(&two, 1, true).await;
    victim.kill();
    let killed = std::time::Instant::now();
    let error = soon(in_flight).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LinkLost);
    assert!(killed.elapsed() < SILENCE * 3, "it took {:?}", killed.elapsed());
    until_up(&two, 1, false).await;
    let state = two.peers().remove(&NodeId(1)).unwrap();
    assert!(!state.up && state.failures > 0 && state.reason.is_some(), "{state:?}");
    // While it is down, nobody waits.
    let (_guard, mut refused) = send(&two, 1, request(Lane::Bulk, Buf::empty()));
    assert_eq!(refused.try_recv().unwrap().unwrap_err().kind(), ErrorKind::Unreachable);

    let _again = Victim::start(&authority, victim.address, 2, echo());
    until_up(&two, 1, true).await;
    assert!(call(&two, 1, request(Lane::Interactive, Buf::empty())).await.is_ok());
    assert_eq!(two.peers()[&NodeId(1)].incarnation, Incarnation(2));
    assert!(two.stats().reconnects >= 1 && two.stats().links_lost >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_dials_us_is_dialled_without_waiting() {
    let authority = authority();
    let spare = std::net::UdpSocket::bind(anywhere()).unwrap();
    let address = spare.local_addr().unwrap();
    let two = survivor(&authority);
    two.set_peer(NodeId(1), address);
    let error = call(&two, 1, request(Lane::Interactive, Buf::empty())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "nobody is there: {error}");
    drop(spare);
    let victim = Victim::start(&authority, address, 1, echo());
    victim.link.as_ref().unwrap().set_peer(NodeId(2), two.local_address().unwrap());
    until_up(&two, 1, true).await;
    until_up(victim.link.as_ref().unwrap(), 2, true).await;
    assert!(call(&two, 1, request(Lane::Interactive, Buf::empty())).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_or_removed_peer_is_unreachable() {
    let authority = authority();
    let (host, mut events) = hold();
    let (_one, address) = serve(&authority, 1, host);
    let two = survivor(&authority);
    let error = call(&two, 1, request(Lane::Interactive, Buf::empty())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    two.set_peer(NodeId(1), address);
    let (_guard, in_flight) = send(&two, 1, request(Lane::Interactive, Buf::empty()));
    let Seen::Request(_, _, _done) = next(&mut events).await else { panic!() };
    two.remove_peer(NodeId(1));
    assert_eq!(soon(in_flight).await.unwrap().unwrap_err().kind(), ErrorKind::LinkLost);
    until_up(&two, 1, false).await;
    assert!(two.peers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_moves_is_reached_at_its_new_address() {
    let authority = authority();
    let (_old, first) = serve(&authority, 1, echo());
    let two = survivor(&authority);
    two.set_peer(NodeId(1), first);
    assert!(call(&two, 1, request(Lane::Interactive, Buf::empty())).await.is_ok());
    let (new, second) = serve(&authority, 1, echo());
    two.set_peer(NodeId(1), second);
    assert!(call(&two, 1, request(Lane::Interactive, Buf::empty())).await.is_ok());
    assert_eq!(new.stats().requests_served, 1);
    assert_eq!(two.peers()[&NodeId(1)].address, second);
    until_up(&two, 1, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_link_completes_its_calls() {
    let authority = authority();
    let (host, mut events) = hold();
    let (_one, address) = serve(&authority, 1, host);
    let two = survivor(&authority);
    two.set_peer(NodeId(1), address);
    let (_guard, in_flight) = send(&two, 1, request(Lane::Interactive, Buf::empty()));
    let Seen::Request(_, _, _done) = next(&mut events).await else { panic!() };
    drop(two);
    assert_eq!(soon(in_flight).await.unwrap().unwrap_err().kind(), ErrorKind::LinkLost);
    assert!(matches!(next(&mut events).await, Seen::Cancelled), "the other end is told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_wire_is_noticed_at_both_ends_and_used_again_when_it_heals() {
    let authority = authority();
    let (host, mut events) = hold();
    let one = QuicConfig { idle_timeout: SILENCE, ..config(&authority, &node(1)) };
    let one = QuicLink::bind(one, Some(host)).unwrap();
    let relay = Relay::to(one.local_address().unwrap()).await;
    let two = survivor(&authority);
    two.set_peer(NodeId(1), relay.address);
    let (_guard, in_flight) = send(&two, 1, request(Lane::Interactive, Buf::empty()));
    let Seen::Request(_, _, _done) = next(&mut events).await else { panic!() };
    relay.open.store(false, Ordering::Relaxed);
    assert_eq!(soon(in_flight).await.unwrap().unwrap_err().kind(), ErrorKind::LinkLost);
    assert!(matches!(next(&mut events).await, Seen::Cancelled), "who serves is told, too");
    until_up(&two, 1, false).await;
    relay.open.store(true, Ordering::Relaxed);
    until_up(&two, 1, true).await;
    let (_guard, answered) = send(&two, 1, request(Lane::Interactive, Buf::empty()));
    let Seen::Request(_, _, done) = next(&mut events).await else { panic!() };
    done(Ok(Response::new(Answer::Done)));
    assert!(soon(answered).await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_is_noticed_when_it_is_heard_of_not_after_the_silence() {
    let authority = authority();
    let (host, mut events) = hold();
    let mut victim = Victim::start(&authority, anywhere(), 1, host);
    // Its silence would be noticed after the test has failed.
    let patient = QuicConfig { idle_timeout: LONG * 10, ..config(&authority, &node(2)) };
    let two = QuicLink::bind(patient, Some(echo())).unwrap();
    two.set_peer(NodeId(1), victim.address);
    let (_guard, in_flight) = send(&two, 1, request(Lane::Interactive, Buf::empty()));
    let Seen::Request(_, _, _done) = next(&mut events).await else { panic!() };
    victim.kill();
    let again = Victim::start(&authority, victim.address, 2, echo());
    again.link.as_ref().unwrap().set_peer(NodeId(2), two.local_address().unwrap());
    assert_eq!(soon(in_flight).await.unwrap().unwrap_err().kind(), ErrorKind::LinkLost);
    let mut states = two.up();
    soon(async {
        while two.peers()[&NodeId(1)].incarnation != Incarnation(2) {
            states.changed().await.unwrap();
        }
    })
    .await;
    until_up(&two, 1, true).await;
    // Both connections to the earlier start are gone: what is sent goes to the present one.
    until(|| two.stats().links_lost == 2).await;
    assert!(call(&two, 1, request(Lane::Interactive, Buf::empty())).await.is_ok());
}
