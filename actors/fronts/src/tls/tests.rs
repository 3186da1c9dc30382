//! Over TCP on loopback, with certificates made here.

use std::{fs, path::PathBuf, time::Duration};

use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A pair in a folder, and the trust of clients in all that was ever put there.
struct Bench {
    folder: TempDir,
    roots: RootCertStore,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self { folder: tempfile::tempdir().expect("a folder"), roots: RootCertStore::empty() };
        bench.put(&bench.pair("one"));
        bench
    }

    fn pair(&self, name: &str) -> (String, String, CertificateDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned(), "localhost".to_owned()]).expect("names");
        let certificate = params.self_signed(&key).expect("a certificate");
        (certificate.pem(), key.serialize_pem(), certificate.der().clone())
    }

    fn put(&mut self, (certificate, key, der): &(String, String, CertificateDer<'static>)) {
        self.write("crt", certificate);
        self.write("key", key);
        self.roots.add(der.clone()).expect("a certificate");
    }

    /// As tools do that never leave half of a file.
    fn write(&self, what: &str, text: &str) {
        let new = self.path("new");
        fs::write(&new, text).expect("written");
        fs::rename(new, self.path(what)).expect("renamed");
    }

    fn path(&self, what: &str) -> PathBuf {
        self.folder.path().join(what)
    }

    fn load(&self) -> Result<Tls, Error> {
        Tls::load(&self.path("crt"), &self.path("key"))
    }

    fn client(&self, protocols: &[&[u8]]) -> TlsConnector {
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

/// Sends back what comes, on every connection.
async fn serve(tls: &Tls) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut listener = tls.over(Box::new(listener));
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = core::future::poll_fn(|cx| listener.poll_accept(cx)).await.expect("accepted");
            tokio::spawn(async move {
                stream.prepare().expect("it was");
                let (mut from, mut to) = tokio::io::split(stream);
                let copied = tokio::io::copy(&mut from, &mut to).await;
                // Whoever went without goodbye is gone, too.
                if copied.is_ok() {
                    to.shutdown().await.expect("said goodbye");
                }
            });
        }
    });
    (address, task)
}

async fn connect(bench: &Bench, address: SocketAddr, protocols: &[&[u8]]) -> io::Result<client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    timeout(PATIENCE, bench.client(protocols).connect(name, stream)).await.expect("in time")
}

async fn is_sent_back(stream: &mut client::TlsStream<TcpStream>, bytes: &[u8]) {
    stream.write_all(bytes).await.expect("sent");
    stream.flush().await.expect("sent");
    let mut back = vec![0; bytes.len()];
    timeout(PATIENCE, stream.read_exact(&mut back)).await.expect("in time").expect("read");
    assert!(back == bytes, "other bytes");
}

#[tokio::test]
async fn what_is_sent_comes_back_and_protocols_are_agreed_on() {
    let bench = Bench::new();
    let (address, served) = serve(&bench.load().expect("a pair")).await;
    for (offered, agreed) in
        [(&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])), (&[b"http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        let stream = connect(&bench, address, offered).await.expect("connected");
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
        // More than a record, and than what waits in between.
        let bytes: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        let (mut from, mut to) = tokio::io::split(stream);
        let sent = bytes.clone();
        let sending = tokio::spawn(async move {
            to.write_all(&sent).await.expect("sent");
            to.shutdown().await.expect("sent");
        });
        let mut back = Vec::new();
        timeout(PATIENCE, from.read_to_end(&mut back)).await.expect("in time").expect("read to its end");
        sending.await.expect("sent");
        assert!(back == bytes, "other bytes");
    }
    served.abort();
}

/// Somebody who says nothing keeps nobody else from a connection.
#[tokio::test]
async fn a_handshake_that_does_not_go_on_holds_up_no_other() {
    let bench = Bench::new();
    let (address, served) = serve(&bench.load().expect("a pair")).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        // A record that has begun.
        stream.write_all(&[0x16, 3, 1]).await.expect("sent");
        silent.push(stream);
    }
    let mut stream = connect(&bench, address, &[]).await.expect("connected");
    is_sent_back(&mut stream, b"hello").await;
    served.abort();
}

#[tokio::test]
async fn who_speaks_http_is_told_to_speak_https() {
    let bench = Bench::new();
    let (address, served) = serve(&bench.load().expect("a pair")).await;
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 400 ") && head.contains(&format!("content-length: {}", body.len())), "{answer}");
    assert!(body.contains("https://"), "{answer}");
    served.abort();
}

#[tokio::test]
async fn a_pair_that_is_replaced_is_that_of_the_next_handshakes_and_one_that_does_not_fit_is_not() {
    let mut bench = Bench::new();
    let tls = bench.load().expect("a pair");
    let (address, served) = serve(&tls).await;
    let peer = |stream: &client::TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
    let mut first = connect(&bench, address, &[]).await.expect("connected");
    let one = peer(&first);
    assert!(!tls.look().expect("nothing has changed"));

    let two = bench.pair("two");
    // Its certificate first: for a moment, the key is another's.
    bench.write("crt", &two.0);
    let refused = tls.look().expect_err("they do not fit");
    assert!(refused.message().contains("not that of its certificate"), "{refused}");
    assert!(!tls.look().expect("it was said"), "once");
    let second = connect(&bench, address, &[]).await.expect("connected");
    assert_eq!(peer(&second), one, "the old pair stays");
    bench.put(&two);
    assert!(tls.look().expect("they fit"));
    let third = connect(&bench, address, &[]).await.expect("connected");
    assert_eq!(peer(&third), Some(vec![two.2.clone()]));
    is_sent_back(&mut first, b"is as it was").await;

    // A file that is written as it was is no other pair.
    bench.put(&two);
    assert!(!tls.look().expect("they fit"));
    fs::remove_file(bench.path("key")).expect("removed");
    assert_eq!(tls.look().expect_err("it is gone").kind(), ErrorKind::NotFound);
    assert!(!tls.look().expect("it was said"));
    assert!(connect(&bench, address, &[]).await.is_ok());
    served.abort();
}

#[test]
fn the_end_of_a_certificate_is_known_before_it_comes() {
    let bench = Bench::new();
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 2, 1);
    bench.write("crt", &params.self_signed(&key).expect("a certificate").pem());
    bench.write("key", &key.serialize_pem());
    let tls = bench.load().expect("one that has ended is served, and spoken of");
    let day = |day: u64| UnixMillis((20_454 + day) * 86_400_000);
    for (at, end) in
        [(day(1), None), (day(30), None), (day(31), Some(day(31))), (day(400), Some(day(31))), (day(0), None)]
    {
        assert_eq!(tls.ends_before(UnixMillis(at.0 + 1000)), end, "{}", at.0 / 86_400_000);
    }
    assert_eq!(tls.ends_before(UnixMillis(0)), Some(UnixMillis(0)), "it has not begun");
}

#[test]
fn what_is_no_pair_is_refused_with_the_file() {
    let bench = Bench::new();
    let (certificate, key, _) = bench.pair("good");
    let refused = |what: &str, text: &str| {
        bench.write("crt", &certificate);
        bench.write("key", &key);
        bench.write(what, text);
        let error = bench.load().expect_err("it is no pair");
        assert!(error.to_string().contains(&format!("/{what}")), "{error}");
        error.message().to_owned()
    };
    assert!(refused("crt", "").contains("none in it"));
    assert!(refused("crt", &key).contains("none in it"));
    assert!(refused("key", "").contains("cannot be read"));
    assert!(refused("key", &certificate).contains("cannot be read"));
    let cut: String = certificate.lines().take(3).collect::<Vec<_>>().join("\n");
    assert!(refused("crt", &cut).contains("cannot be read"));
    assert!(refused("crt", &"x".repeat(2 << 20)).contains("far too long"));
    assert!(refused("key", &bench.pair("other").1).contains("not that of its certificate"));
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(refused("crt", junk).contains("cannot be used"));
}
