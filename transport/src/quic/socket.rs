//! The UDP socket and QUIC's own settings. Packet count, not cryptography, is what QUIC costs: so packets are as large
//! as the path takes, and the kernel cuts them (GSO).

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use mesh_core::{
    Error,
    limits::{HEARTBEAT_INTERVAL, LINK_JOBS_MAX},
};
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustix::net::sockopt;

/// Batches of ten packets must stay below the 64 KiB that one GSO send takes.
const MTU_MAX: u16 = 6500;
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Before anything was measured. A machine room, not the Internet: a lost first packet is repeated after 3 of these.
const RTT_INITIAL: Duration = Duration::from_millis(50);

const _: () = assert!(MTU_MAX as usize * 10 < 64 << 10);

/// A socket with room for bursts; with what room the kernel gives, if it does not give that much.
pub(super) fn bind(address: SocketAddr) -> Result<UdpSocket, Error> {
    let socket = UdpSocket::bind(address).map_err(|error| {
        Error::invalid("cannot bind this address: is another process there?").with("address", address).caused_by(error)
    })?;
    let widened = sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES))
        .and_then(|()| {
            sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER_BYTES)
                .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES))
        });
    match widened.and_then(|()| sockopt::socket_recv_buffer_size(&socket)) {
        Ok(bytes) if bytes >= SOCKET_BUFFER_BYTES => {}
        Ok(bytes) => {
            tracing::info!(
                bytes,
                wanted = SOCKET_BUFFER_BYTES,
                "small socket buffers: raise net.core.rmem_max and wmem_max"
            );
        }
        Err(error) => tracing::info!(%error, "socket buffers cannot be widened"),
    }
    Ok(socket)
}

/// What holds for the whole endpoint. What it leaves to chance (which packet numbers it skips, say) comes of the seed.
pub(super) fn endpoint(seed: [u8; 32]) -> Result<EndpointConfig, Error> {
    let mut config = EndpointConfig::default();
    config
        .rng_seed(Some(seed))
        .max_udp_payload_size(MTU_MAX)
        .map_err(|error| Error::bug("QUIC refuses our packet size").caused_by(error))?;
    Ok(config)
}

/// What holds for a connection. Only the side that `accepts` takes streams.
pub(super) fn connection(idle_timeout: Duration, accepts: bool) -> Result<Arc<TransportConfig>, Error> {
    let idle = IdleTimeout::try_from(idle_timeout)
        .map_err(|error| Error::invalid("an idle timeout that QUIC cannot express").caused_by(error))?;
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_MAX);
    let mut config = TransportConfig::default();
    let streams = if accepts { LINK_JOBS_MAX as u32 } else { 0 };
    // One side's is enough: its packets keep the other awake, and the acknowledgements itself.
    let keep_alive = (!accepts).then(|| HEARTBEAT_INTERVAL.min(idle_timeout / 4));
    config
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .initial_rtt(RTT_INITIAL)
        .mtu_discovery_config(Some(discovery))
        .keep_alive_interval(keep_alive)
        .max_idle_timeout(Some(idle));
    Ok(Arc::new(config))
}

/// An endpoint on a socket of the operating system's.
pub(super) fn os_socket(address: SocketAddr) -> Result<Arc<dyn quinn::AsyncUdpSocket>, Error> {
    let socket = bind(address)?;
    quinn::Runtime::wrap_udp_socket(&quinn::TokioRuntime, socket).map_err(|error: io::Error| {
        Error::invalid("this socket cannot be used for QUIC").with("address", address).caused_by(error)
    })
}
