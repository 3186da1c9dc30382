use mesh_core::{op::ShardOp, wire::VERSION};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_is_refused_both_ways() {
    let (ours, theirs) = (authority(), authority());
    let (one, address) = serve(&ours, 1, echo());
    let stranger = QuicLink::bind(config(&theirs, &node(2)), None).unwrap();
    let error = soon(stranger.meet(address)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "it does not trust us either: {error}");
    // One that trusts everybody, so that it is the server who refuses.
    let raw = Raw {
        endpoint: quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap(),
        config: credulous(Some(&identity(&theirs, &node(2)))),
    };
    refused_by_tls(&raw, address).await;
    until(|| one.stats().handshake_refusals == 2).await;
    assert_eq!((one.stats().handshakes, one.stats().requests_served), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_comes_in_without_a_certificate() {
    let ours = authority();
    let (one, address) = serve(&ours, 1, echo());
    let raw = Raw {
        endpoint: quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap(),
        config: credulous(None),
    };
    refused_by_tls(&raw, address).await;
    until(|| one.stats().handshake_refusals == 1).await;
    assert_eq!(one.stats().handshakes, 0);
}

/// TLS 1.3 lets the client finish first: the refusal comes with the handshake or right behind it.
async fn refused_by_tls(raw: &Raw, address: SocketAddr) {
    let connecting = raw.endpoint.connect_with(raw.config.clone(), address, "localhost").unwrap();
    let reason = match soon(connecting).await {
        Ok(connection) => soon(connection.closed()).await,
        Err(reason) => reason,
    };
    assert!(matches!(reason, quinn::ConnectionError::ConnectionClosed(_)), "{reason}");
}

/// A client that takes any server.
fn credulous(identity: Option<&Identity>) -> quinn::ClientConfig {
    #[derive(Debug)]
    struct Credulous;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};

    impl ServerCertVerifier for Credulous {
        fn verify_server_cert(
            &self,
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &[rustls::pki_types::CertificateDer<'_>],
            _: &rustls::pki_types::ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256, rustls::SignatureScheme::ED25519]
        }
    }

    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    let mut config = match identity {
        Some(identity) => config.with_client_auth_cert(identity.chain(), identity.key()).unwrap(),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"mesh/1".to_vec()];
    quinn::ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_cannot_answer_for_another() {
    let authority = authority();
    let (four, address) = serve(&authority, 4, echo());
    let (two, _) = serve(&authority, 2, echo());
    two.set_peer(NodeId(3), address);
    let error = call(&two, 3, request(Lane::Interactive, Buf::empty())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(!two.peers()[&NodeId(3)].up);
    assert_eq!(four.stats().requests_served, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_in_the_name_of_another_node_is_refused_with_the_reason() {
    let authority = authority();
    let (one, address) = serve(&authority, 1, echo());
    let raw = Raw::new(&identity(&authority, &node(2)));
    let connection = raw.connect(address).await;
    let hello = Envelope::of(0, Lane::Control, Body::Hello(Raw::hello(3)), Buf::empty());
    let answer = exchange(&connection, &hello.encode().unwrap()).await.unwrap();
    let Body::Failure(error) = answer.header.body else { panic!() };
    assert_eq!(error.kind(), ErrorKind::Denied);
    let (code, reason) = closed(&connection).await;
    assert!(code == REFUSED && reason.contains("certificate"), "{code} {reason}");
    assert_eq!(one.stats().handshake_refusals, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_not_common_is_refused_with_the_reason() {
    let authority = authority();
    let (_one, address) = serve(&authority, 1, echo());
    let raw = Raw::new(&identity(&authority, &node(2)));
    let connection = raw.connect(address).await;
    let hello = mesh_core::envelope::Hello { version_min: VERSION + 1, version_max: VERSION + 2, ..Raw::hello(2) };
    let hello = Envelope::of(0, Lane::Control, Body::Hello(hello), Buf::empty());
    let answer = exchange(&connection, &hello.encode().unwrap()).await.unwrap();
    let Body::Failure(error) = answer.header.body else { panic!() };
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let (code, reason) = closed(&connection).await;
    assert!(code == REFUSED && reason.contains("version"), "{code} {reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_of_another_wire_version_is_refused_with_the_reason() {
    let authority = authority();
    let (one, address) = serve(&authority, 1, echo());
    let raw = Raw::new(&identity(&authority, &node(2)));
    let connection = raw.connect(address).await;
    let mut hello = Envelope::of(0, Lane::Control, Body::Hello(Raw::hello(2)), Buf::empty()).encode().unwrap();
    // As the build before wrote it: the version is of the whole frame, not only in what is said.
    hello[4..6].copy_from_slice(&(VERSION - 1).to_le_bytes());
    let crc = mesh_core::wire::crc32c(&hello[..20]);
    hello[20..24].copy_from_slice(&crc.to_le_bytes());
    let answer = exchange(&connection, &hello).await;
    assert!(answer.is_err() || matches!(answer.unwrap().header.body, Body::Failure(_)));
    let (code, reason) = closed(&connection).await;
    let said = format!("version={} supported={VERSION}", VERSION - 1);
    assert!(code == REFUSED && reason.contains(&said), "{code} {reason}");
    assert_eq!((one.stats().handshake_refusals, one.stats().requests_served), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_not_address_a_drive() {
    let authority = authority();
    let (one, address) = serve(&authority, 1, echo());
    let (client, _) = soon(QuicLink::client(config(&authority, &alice()), address)).await.unwrap();
    let mut envelope = request(Lane::Interactive, Buf::empty());
    envelope.header.actor = ActorId::drive(mesh_core::id::DriveId(1));
    envelope.header.body = Body::Request(ShardOp::Stat.into());
    assert_eq!(call(&client, 1, envelope).await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(call(&client, 1, request(Lane::Interactive, Buf::empty())).await.is_ok(), "the link lives on");
    assert_eq!((one.stats().denials, one.stats().requests_served), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_closes_its_connection_and_nothing_else() {
    let authority = authority();
    let (one, address) = serve(&authority, 1, echo());
    let raw = Raw::new(&identity(&authority, &node(2)));
    let good = request(Lane::Interactive, Buf::copy_of(b"payload"));
    let whole = good.encode().unwrap();
    let flip = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let longer = [&whole[..], b"x"].concat();
    let greeting = Envelope::of(7, Lane::Control, Body::Hello(Raw::hello(2)), Buf::empty()).encode().unwrap();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("noise", vec![0x5a; 300]),
        ("nothing", Vec::new()),
        ("a false length", flip(16)),
        ("a false version", flip(4)),
        ("a false header", flip(30)),
        ("a false payload", flip(whole.len() - 1)),
        ("an early end", whole[..whole.len() - 1].to_vec()),
        ("a late end", longer),
        ("a second greeting", greeting),
    ];
    let count = cases.len() as u64;
    for (what, bytes) in cases {
        let connection = raw.greeted(address, 2).await;
        exchange(&connection, &bytes).await.expect_err(what);
        let (code, reason) = closed(&connection).await;
        assert!(code == BAD_FRAME && !reason.is_empty(), "{what}: {code} {reason}");
    }
    assert_eq!((one.stats().bad_frames, one.stats().requests_served), (count, 0));
    let connection = raw.greeted(address, 2).await;
    let answer = exchange(&connection, &whole).await.unwrap();
    assert_eq!(&answer.payload[..], b"payload");
}

/// A whole frame without payload, of a build that has more operations and answers than this one.
fn newer(header: &[u8]) -> Vec<u8> {
    let mut frame = b"MESH".to_vec();
    frame.extend_from_slice(&VERSION.to_le_bytes());
    frame.extend_from_slice(&[0; 2]);
    frame.extend_from_slice(&u32::try_from(header.len()).unwrap().to_le_bytes());
    frame.extend_from_slice(&mesh_core::wire::crc32c(header).to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    let crc = mesh_core::wire::crc32c(&frame);
    frame.extend_from_slice(&crc.to_le_bytes());
    [&frame, header].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_known_here_is_answered_and_the_connection_goes_on() {
    let authority = authority();
    let (one, address) = serve(&authority, 1, echo());
    let connection = Raw::new(&identity(&authority, &node(2))).greeted(address, 2).await;
    // Request 5: no body that is known; request 6: an operation of Object of a later build.
    let later = [&[0x08, 6, 0x82, 0x02, 2, mesh_core::meta::FORMAT], &[99][..]].concat();
    for (id, header) in [(5, vec![0x08, 5]), (6, later)] {
        let answer = exchange(&connection, &newer(&header)).await.unwrap();
        assert_eq!(answer.header.id, id);
        let Body::Failure(error) = answer.header.body else { panic!("{:?}", answer.header.body) };
        assert_eq!((error.kind(), error.certainty()), (ErrorKind::Unsupported, mesh_core::Certainty::NotProcessed));
        assert!(error.message().starts_with("a newer build "), "{error}");
    }
    let mut good = request(Lane::Interactive, Buf::copy_of(b"payload"));
    good.header.id = 7;
    let answer = exchange(&connection, &good.encode().unwrap()).await.unwrap();
    assert_eq!(&answer.payload[..], b"payload");
    let stats = one.stats();
    assert_eq!((stats.unread, stats.bad_frames, stats.denials, stats.requests_served), (2, 0, 0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_not_known_here_is_unread_and_the_link_goes_on() {
    let authority = authority();
    let client = QuicLink::bind(config(&authority, &alice()), None).unwrap();
    client.set_peer(NodeId(1), impostor(&authority, newer(&[0x08, 1])));
    let error = call(&client, 1, request(Lane::Interactive, Buf::empty())).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (ErrorKind::Unread, mesh_core::Certainty::MaybeProcessed));
    let stats = client.stats();
    assert_eq!((stats.unread, stats.bad_frames, stats.links_lost), (1, 0, 0));
    until_up(&client, 1, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_instead_of_a_greeting_is_refused() {
    let authority = authority();
    let (one, address) = serve(&authority, 1, echo());
    let raw = Raw::new(&identity(&authority, &node(2)));
    for bytes in [vec![0xff; 100], request(Lane::Control, Buf::zeroed(1 << 20)).encode().unwrap()] {
        let connection = raw.connect(address).await;
        // It may be told why, or be cut off while it still sends.
        let answer = exchange(&connection, &bytes).await;
        assert!(answer.is_err() || matches!(answer.unwrap().header.body, Body::Failure(_)));
        assert_eq!(closed(&connection).await.0, REFUSED);
    }
    assert_eq!((one.stats().handshake_refusals, one.stats().requests_served), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_twice_is_served_once() {
    let authority = authority();
    let (one, address) = serve(&authority, 1, echo());
    let connection = Raw::new(&identity(&authority, &node(2))).greeted(address, 2).await;
    let mut envelope = request(Lane::Interactive, Buf::empty());
    envelope.header.id = 5;
    let bytes = envelope.encode().unwrap();
    assert!(exchange(&connection, &bytes).await.is_ok());
    exchange(&connection, &bytes).await.expect_err("the second is dropped");
    envelope.header.id = 6;
    assert!(exchange(&connection, &envelope.encode().unwrap()).await.is_ok(), "the connection lives on");
    assert_eq!((one.stats().duplicates, one.stats().requests_served), (1, 2));
}

#[tokio::test]
async fn a_link_is_not_opened_with_another_nodes_identity_or_a_client_serving() {
    let authority = authority();
    let other = QuicConfig { node: NodeId(5), ..config(&authority, &node(4)) };
    assert_eq!(QuicLink::bind(other, None).unwrap_err().kind(), ErrorKind::Invalid);
    let client = config(&authority, &alice());
    assert_eq!(QuicLink::bind(client, Some(echo())).unwrap_err().kind(), ErrorKind::Invalid);
}

/// A node that greets well and then answers every request with the same bytes.
fn impostor(authority: &Authority, answer: Vec<u8>) -> SocketAddr {
    let identity = identity(authority, &node(1));
    let server = quinn::ServerConfig::with_crypto(Arc::new(tls::server(&identity, &watch()).unwrap()));
    let endpoint = quinn::Endpoint::server(server, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let connection = incoming.await.unwrap();
                let welcome = mesh_core::envelope::Welcome {
                    version: VERSION,
                    node: NodeId(1),
                    incarnation: Incarnation(1),
                    capabilities: 0,
                    software: String::new(),
                    jobs_max: 10,
                    bytes_max: 1 << 20,
                };
                let mut next = Envelope::of(0, Lane::Control, Body::Welcome(welcome), Buf::empty()).encode().unwrap();
                while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                    recv.read_to_end(1 << 20).await.unwrap();
                    send.write_all(&next).await.unwrap();
                    send.finish().unwrap();
                    next = answer.clone();
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_the_rules_closes_the_link_and_the_call_is_lost() {
    let authority = authority();
    let other = Envelope::answer(77, Lane::Interactive, Ok(Response::new(Answer::Done))).encode().unwrap();
    let none = request(Lane::Interactive, Buf::empty()).encode().unwrap();
    let mut elsewhere = Envelope::answer(1, Lane::Interactive, Ok(Response::new(Answer::Done)));
    elsewhere.header.region = Some(mesh_core::envelope::Region { address: 1, rkey: 2, length: 3 });
    let elsewhere = elsewhere.encode().unwrap();
    for answer in [vec![0x5a; 100], Vec::new(), other, none, elsewhere] {
        let client = QuicLink::bind(config(&authority, &alice()), None).unwrap();
        client.set_peer(NodeId(1), impostor(&authority, answer));
        let error = call(&client, 1, request(Lane::Interactive, Buf::empty())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LinkLost, "it may have been processed: {error}");
        assert_eq!(client.stats().bad_frames, 1);
        until_up(&client, 1, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_refused_on_either_side() {
    let authority = authority();
    let past = Validity { from: UnixMillis(1_000_000_000_000), until: UnixMillis(1_000_000_001_000) };
    let expired = |role: &Role| {
        let identity = authority.issue(role, past).unwrap();
        QuicConfig { identity, ..config(&authority, role) }
    };
    let (one, good) = serve(&authority, 1, echo());
    let old_server = QuicLink::bind(expired(&node(2)), Some(echo())).unwrap();
    let client = QuicLink::bind(config(&authority, &alice()), None).unwrap();
    let error = soon(client.meet(old_server.local_address().unwrap())).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unreachable && error.to_string().contains("xpired"), "{error}");
    let old_client = QuicLink::bind(expired(&alice()), None).unwrap();
    let error = soon(old_client.meet(good)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    until(|| one.stats().handshake_refusals == 1).await;
    assert!(soon(client.meet(good)).await.is_ok());
}
