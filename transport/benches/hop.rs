//! A hop over QUIC against a hop over plain TCP, both on the loopback interface, in turns in one run:
//!
//! - the median round trip of a 4 KiB request that is answered with 4 KiB,
//! - GB per CPU-second (both ends, this whole process) of 1 MiB requests, 16 in flight.
//!
//! Ratios are what counts; absolute numbers belong to the machine.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_core::{
    Answer, Buf, Lane, Op, Outcome, Pool, Principal, Response,
    envelope::Envelope,
    function::Entropy,
    id::{ActorId, ClusterId, Epoch, Incarnation, NodeId},
    op::NodeOp,
    port::{CallGuard, Clock, Completion, Inbound, Outbound as _, Role},
    time::UnixMillis,
};
use mesh_transport::{Authority, QuicConfig, QuicLink, Validity};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};

const SMALL: usize = 4 << 10;
const LARGE: usize = 1 << 20;
const ROUNDS: usize = 5;
const TRIPS: usize = 2_000;
const REQUESTS: usize = 1_000;
const IN_FLIGHT: usize = 16;

struct Watch(Instant);

impl Clock for Watch {
    fn now(&self) -> mesh_core::time::Instant {
        mesh_core::time::Instant(u64::try_from(self.0.elapsed().as_nanos()).expect("less than 500 years"))
    }

    fn wall(&self) -> UnixMillis {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
        UnixMillis(u64::try_from(since.as_millis()).expect("before the end of time"))
    }
}

struct Fixed;

impl Entropy for Fixed {
    fn fill(&mut self, target: &mut [u8]) {
        target.fill(7);
    }
}

/// Gives small payloads back and swallows large ones.
struct Host;

impl Inbound for Host {
    fn deliver(&self, _: &Role, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        let payload = if envelope.payload.len() > SMALL { Buf::empty() } else { envelope.payload };
        done(Ok(Response { answer: Answer::Done, payload }));
        CallGuard::none()
    }
}

fn cpu() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(spent.tv_sec).unwrap_or(0), u32::try_from(spent.tv_nsec).unwrap_or(0))
}

fn link(authority: &Authority, node: u64, inbound: Option<Arc<dyn Inbound>>) -> Arc<QuicLink> {
    let clock = Arc::new(Watch(Instant::now()));
    let validity = Validity::starting(clock.wall(), Duration::from_secs(3600));
    let identity = authority.issue(&Role::Node(NodeId(node)), validity).expect("a certificate");
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = QuicConfig::new(address, identity, Incarnation(1), clock, Box::new(Fixed));
    config.idle_timeout = Duration::from_secs(30);
    QuicLink::bind(config, inbound).expect("a link")
}

async fn over_quic(link: Arc<QuicLink>, lane: Lane, payload: Buf) {
    let op = Op::Node(Box::new(NodeOp::Status));
    let budget = Duration::from_secs(30);
    let envelope = Envelope::request(ActorId::NODE, Epoch(0), op, payload, Principal::System, lane, budget);
    let (answer, answered) = oneshot::channel();
    let guard = link.send(NodeId(1), envelope, Box::new(move |outcome| drop(answer.send(outcome))));
    answered.await.expect("an answer").expect("a good answer");
    guard.forget();
}

/// Length, then bytes; answered in kind.
async fn serve_tcp(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let pool = Pool::default();
    loop {
        let len = stream.read_u32().await? as usize;
        let mut payload = pool.take(len, 0);
        stream.read_exact(payload.make_mut()).await?;
        let answer = if len > SMALL { &[][..] } else { &payload[..] };
        stream.write_u32(u32::try_from(answer.len()).expect("small")).await?;
        stream.write_all(answer).await?;
    }
}

async fn over_tcp(stream: &mut TcpStream, payload: &[u8], answer: &mut [u8]) -> std::io::Result<()> {
    stream.write_u32(u32::try_from(payload.len()).expect("small")).await?;
    stream.write_all(payload).await?;
    let len = stream.read_u32().await? as usize;
    stream.read_exact(&mut answer[..len]).await?;
    Ok(())
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

async fn small_quic(link: &Arc<QuicLink>) -> f64 {
    let payload = Buf::zeroed(SMALL);
    let mut trips = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let begun = Instant::now();
        over_quic(link.clone(), Lane::Interactive, payload.clone()).await;
        trips.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    median(trips)
}

async fn small_tcp(stream: &mut TcpStream) -> std::io::Result<f64> {
    let (payload, mut answer) = (vec![0; SMALL], vec![0; SMALL]);
    let mut trips = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let begun = Instant::now();
        over_tcp(stream, &payload, &mut answer).await?;
        trips.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(trips))
}

/// GB per CPU-second, and GB per second.
fn rates(bytes: usize, cpu_spent: Duration, wall: Duration) -> (f64, f64) {
    (bytes as f64 / 1e9 / cpu_spent.as_secs_f64(), bytes as f64 / 1e9 / wall.as_secs_f64())
}

async fn large_quic(link: &Arc<QuicLink>) -> (f64, f64) {
    let payload = Buf::zeroed(LARGE);
    let (begun, cpu_before) = (Instant::now(), cpu());
    let mut running = JoinSet::new();
    for _ in 0..REQUESTS {
        if running.len() == IN_FLIGHT {
            running.join_next().await.expect("one runs").expect("it ends well");
        }
        running.spawn(over_quic(link.clone(), Lane::Bulk, payload.clone()));
    }
    running.join_all().await;
    rates(REQUESTS * LARGE, cpu() - cpu_before, begun.elapsed())
}

async fn large_tcp(address: SocketAddr) -> std::io::Result<(f64, f64)> {
    let mut streams = Vec::new();
    for _ in 0..IN_FLIGHT {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let (begun, cpu_before) = (Instant::now(), cpu());
    let mut running = JoinSet::new();
    for mut stream in streams {
        running.spawn(async move {
            let payload = vec![0; LARGE];
            for _ in 0..REQUESTS / IN_FLIGHT {
                over_tcp(&mut stream, &payload, &mut []).await?;
            }
            std::io::Result::Ok(())
        });
    }
    for end in running.join_all().await {
        end?;
    }
    Ok(rates(REQUESTS / IN_FLIGHT * IN_FLIGHT * LARGE, cpu() - cpu_before, begun.elapsed()))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let authority = Authority::create(ClusterId([1; 16])).expect("an authority");
    let one = link(&authority, 1, Some(Arc::new(Host)));
    let two = link(&authority, 2, None);
    two.set_peer(NodeId(1), one.local_address().expect("an address"));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // It ends with its client.
            tokio::spawn(async move { serve_tcp(stream).await.unwrap_or_default() });
        }
    });
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;

    // Connections, packet sizes and pools settle.
    small_quic(&two).await;
    large_quic(&two).await;
    small_tcp(&mut stream).await?;
    let (mut quic_trip, mut tcp_trip) = (Vec::new(), Vec::new());
    let (mut quic_rate, mut tcp_rate) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        quic_trip.push(small_quic(&two).await);
        tcp_trip.push(small_tcp(&mut stream).await?);
        let (quic, quic_wall) = large_quic(&two).await;
        let (tcp, tcp_wall) = large_tcp(address).await?;
        quic_rate.push(quic);
        tcp_rate.push(tcp);
        println!("round {round}: 1 MiB QUIC {quic_wall:.2} GB/s, TCP {tcp_wall:.2} GB/s");
    }
    let (quic, tcp) = (median(quic_trip), median(tcp_trip));
    println!("4 KiB round trip, p50:        QUIC {quic:7.1} us   TCP {tcp:7.1} us   ratio {:.2}", quic / tcp);
    let (quic, tcp) = (median(quic_rate), median(tcp_rate));
    println!("1 MiB, GB per CPU-second:     QUIC {quic:7.2}      TCP {tcp:7.2}      ratio {:.2}", quic / tcp);
    let stats = two.stats();
    println!("links lost {}, overloads {}", stats.links_lost, stats.overloads);
    Ok(())
}
