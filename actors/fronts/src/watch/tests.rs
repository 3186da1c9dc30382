use core::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::*;

/// Ready or not, as it is told.
#[derive(Default)]
struct Toy(AtomicBool);

impl Watched for Toy {
    fn metrics(&self) -> BoxFuture<'static, Result<String, String>> {
        let told = if self.0.load(Relaxed) { Ok("mesh_up 1\n".to_owned()) } else { Err("it starts".to_owned()) };
        core::future::ready(told).boxed()
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    fn readiness(&self) -> Result<(), Vec<String>> {
        if self.0.load(Relaxed) { Ok(()) } else { Err(vec!["no drives".to_owned(), "no leader".to_owned()]) }
    }
}

async fn toy() -> (Arc<Toy>, SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, toy) = (listener.local_addr().unwrap(), Arc::new(Toy::default()));
    let (stop, told) = oneshot::channel();
    let watched: Arc<dyn Watched> = toy.clone();
    let serving = serve(Box::new(listener), watched, async move { told.await.unwrap_or_default() });
    (toy, address, stop, tokio::spawn(serving))
}

/// The status, the head and the body of an answer.
async fn ask(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_owned(), body.to_owned())
}

async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await
}

#[tokio::test]
async fn three_paths_are_answered_and_nothing_else() {
    let (toy, address, _stop, _serving) = toy().await;
    assert_eq!(get(address, "/metrics").await.0, 503);
    let (status, _, body) = get(address, "/readyz").await;
    assert_eq!((status, body.as_str()), (503, "no drives\nno leader\n"));
    assert_eq!(get(address, "/healthz").await.0, 200);
    toy.0.store(true, Relaxed);
    let (status, head, body) = get(address, "/metrics?x=1").await;
    assert_eq!((status, body.as_str()), (200, "mesh_up 1\n"));
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(get(address, "/readyz").await.0, 200);
    assert_eq!(get(address, "/").await.0, 404);
    assert_eq!(get(address, "/metrics/../etc").await.0, 404);
    let (status, head, _) = ask(address, "POST /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(status, 405, "{head}");
    let (status, head, body) = ask(address, "HEAD /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!((status, body.as_str()), (200, ""), "{head}");
}

#[tokio::test]
async fn a_head_without_an_end_is_refused() {
    let (_toy, address, _stop, _serving) = toy().await;
    let long = "x".repeat(2 * BUFFER_BYTES);
    let (status, ..) = ask(address, &format!("GET /metrics HTTP/1.1\r\nhost: a\r\nlong: {long}\r\n\r\n")).await;
    assert_eq!(status, 431);
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_there_is_room_again() {
    let (_toy, address, _stop, _serving) = toy().await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut further = TcpStream::connect(address).await.unwrap();
    let mut unread = [0; 1];
    // Closed or reset, and nothing said.
    assert!(matches!(further.read(&mut unread).await, Ok(0) | Err(_)));
    drop(silent);
    loop {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut answer = String::new();
        if asked.is_ok() && stream.read_to_string(&mut answer).await.is_ok() && answer.starts_with("HTTP/1.1 200") {
            break;
        }
    }
}

#[tokio::test]
async fn told_to_stop_it_ends_whatever_is_open() {
    let (_toy, address, stop, serving) = toy().await;
    let _silent = TcpStream::connect(address).await.unwrap();
    get(address, "/healthz").await;
    drop(stop);
    serving.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
