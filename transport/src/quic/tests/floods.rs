//! Those who want more than their share, with a certificate or without.

use mesh_core::{
    id::{DriveId, ShardId, StripeId, WriteId},
    limits::PAYLOAD_BYTES_MAX,
    op::ShardOp,
};
use tokio::net::UdpSocket;

use super::*;

/// What begins a handshake, as anybody can make it, for so many connections.
async fn first_packets(many: usize) -> Vec<Vec<u8>> {
    let sink = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = sink.local_addr().unwrap();
    let raw = Raw::new(&identity(&authority(), &node(2)));
    let name = tls::dial_name(Expected::AnyNode, cluster());
    let (mut packets, mut begun, mut connecting) = (Vec::new(), BTreeSet::new(), Vec::new());
    let mut packet = [0; 2048];
    for _ in 0..many {
        connecting.push(raw.endpoint.connect_with(raw.config.clone(), address, &name).unwrap());
        let known = begun.len();
        while begun.len() == known {
            let bytes = soon(sink.recv(&mut packet)).await.unwrap();
            // The id of the connection lies behind its length. What is repeated meanwhile is of others.
            begun.insert(packet[6..6 + usize::from(packet[5])].to_vec());
            packets.push(packet[..bytes].to_vec());
        }
    }
    packets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_hold_few_handshakes_open_and_keep_nobody_out() {
    let authority = authority();
    let (one, address) = serve(&authority, 1, echo());
    let (two, _) = serve(&authority, 2, echo());
    two.set_peer(NodeId(1), address);
    until_up(&two, 1, true).await;
    let packets = first_packets(600).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let before = one.shared.endpoint.open_connections();
    for (at, packet) in packets.iter().enumerate() {
        stranger.send_to(packet, address).await.unwrap();
        if at % 100 == 99 {
            // Behind all that was sent so far.
            assert!(call(&two, 1, request(Lane::Control, Buf::empty())).await.is_ok());
        }
    }
    // One that comes new, from the same address as the flood.
    let (client, met) = soon(QuicLink::client(config(&authority, &alice()), address)).await.unwrap();
    assert_eq!(met, NodeId(1));
    assert!(call(&client, 1, request(Lane::Interactive, Buf::empty())).await.is_ok());
    let open = one.shared.endpoint.open_connections() - before;
    assert!(open <= door::UNPROVEN_MAX + 2, "{open} connections are held open");
    assert!(two.peers()[&NodeId(1)].up);
}

/// Answers with as much as an answer may have.
struct Generous(Arc<AtomicUsize>);

impl Inbound for Generous {
    fn deliver(&self, _: &Role, _: Envelope, done: Completion<Outcome>) -> CallGuard {
        self.0.fetch_add(1, Ordering::AcqRel);
        done(Ok(Response { answer: Answer::Done, payload: Buf::zeroed(PAYLOAD_BYTES_MAX) }));
        CallGuard::none()
    }
}

/// A read of a shard.
fn read() -> Envelope {
    let mut envelope = request(Lane::Bulk, Buf::empty());
    envelope.header.actor = ActorId::drive(DriveId(1));
    let stripe = StripeId { write: WriteId(1), stripe: 0, attempt: 0 };
    envelope.header.body = Body::Request(ShardOp::Read { id: ShardId { stripe, shard: 0 } }.into());
    envelope
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_its_answers_is_served_no_more_and_others_are() {
    let authority = authority();
    let served = Arc::new(AtomicUsize::new(0));
    let (_one, address) = serve(&authority, 1, Arc::new(Generous(served.clone())));
    let idle = Raw::new(&identity(&authority, &node(2)));
    let room = guests::NODE_BYTES_MAX / PAYLOAD_BYTES_MAX;
    let mut unread = Vec::new();
    for _ in 0..2 {
        let connection = idle.greeted(address, 2).await;
        for id in 1..=room as u64 {
            let mut envelope = read();
            envelope.header.id = id;
            let (mut send, recv) = connection.open_bi().await.unwrap();
            send.write_all(&envelope.encode().unwrap()).await.unwrap();
            send.finish().unwrap();
            unread.push((connection.clone(), recv));
        }
    }
    until(|| served.load(Ordering::Acquire) >= room).await;
    let (three, _) = serve(&authority, 3, echo());
    three.set_peer(NodeId(1), address);
    assert_eq!(call(&three, 1, read()).await.unwrap().payload.len(), PAYLOAD_BYTES_MAX);
    assert_eq!(served.load(Ordering::Acquire), room + 1, "on all its connections together");
    // What was read makes room for as much.
    let (_connection, recv) = &mut unread[0];
    soon(recv.read_to_end(2 * PAYLOAD_BYTES_MAX)).await.unwrap();
    until(|| served.load(Ordering::Acquire) == room + 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_a_clock_does_not_fit_is_complained_about_in_words() {
    let authority = authority();
    let now = watch().wall();
    let later = Validity { from: UnixMillis(now.0 + 7_200_000), until: UnixMillis(now.0 + 72_000_000) };
    let ahead = |number| QuicConfig {
        identity: authority.issue(&node(number), later).unwrap(),
        ..config(&authority, &node(number))
    };
    let (one, address) = serve(&authority, 1, echo());
    assert_eq!(one.complaint(), None);
    let two = QuicLink::bind(ahead(2), Some(echo())).unwrap();
    // Of its own it knows without asking anybody.
    let own = two.complaint().unwrap().to_string();
    assert!(own.contains("set the clock") && own.contains("clock=20") && own.contains("begins=20"), "{own}");
    // The other, whose clock it does not fit, says so of it; and it hears that of itself.
    one.set_peer(NodeId(2), two.local_address().unwrap());
    until(|| one.complaint().is_some()).await;
    let theirs = one.complaint().unwrap().to_string();
    assert!(theirs.contains("the peer's certificate is not valid by this machine's clock"), "{theirs}");
    let refused = soon(two.meet(address)).await.unwrap_err().to_string();
    assert!(refused.contains("this node's certificate is not valid by the peer's clock"), "{refused}");
}
