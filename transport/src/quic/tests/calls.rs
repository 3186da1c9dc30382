use futures_util::FutureExt as _;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_of_every_size_come_back_on_every_lane() {
    let authority = authority();
    let (_one, address) = serve(&authority, 1, echo());
    let (two, _) = serve(&authority, 2, echo());
    two.set_peer(NodeId(1), address);
    for lane in [Lane::Control, Lane::Interactive, Lane::Bulk, Lane::Bulk] {
        for size in [0, 1, 4095, 4 << 20] {
            let bytes: Vec<u8> = (0..size).map(|at: u32| at.wrapping_mul(31) as u8).collect();
            let outcome = call(&two, 1, request(lane, Buf::copy_of(&bytes))).await.unwrap();
            assert_eq!(outcome.answer, Answer::Done);
            assert!(outcome.payload[..] == bytes[..], "{size} B on {lane:?}");
        }
    }
    let (stats, state) = (two.stats(), two.peers().remove(&NodeId(1)).unwrap());
    assert_eq!((stats.requests_sent, stats.handshakes, stats.bad_frames), (16, 4, 0));
    assert_eq!((state.up, state.connections, state.incarnation), (true, 4, Incarnation(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_each_get_their_own_answer() {
    let authority = authority();
    let (_one, address) = serve(&authority, 1, echo());
    let (two, _) = serve(&authority, 2, echo());
    two.set_peer(NodeId(1), address);
    let sent: Vec<_> =
        (0..500u32).map(|at| send(&two, 1, request(Lane::Bulk, Buf::copy_of(&at.to_le_bytes())))).collect();
    for (at, (_guard, answered)) in sent.into_iter().enumerate() {
        let response = soon(answered).await.unwrap().unwrap();
        assert_eq!(response.payload[..], (at as u32).to_le_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_comes_back_with_its_kind_and_redirect() {
    let authority = authority();
    let (host, mut events) = hold();
    let (_one, address) = serve(&authority, 1, host);
    let (two, _) = serve(&authority, 2, echo());
    two.set_peer(NodeId(1), address);
    let (_guard, answered) = send(&two, 1, request(Lane::Interactive, Buf::empty()));
    let Seen::Request(from, envelope, done) = next(&mut events).await else { panic!() };
    assert_eq!((from, envelope.header.principal), (node(2), Principal::System));
    assert!(envelope.header.budget_us > 0 && envelope.header.budget_us <= LONG.as_micros() as u64);
    let moved = Error::new(ErrorKind::StaleEpoch, "moved")
        .redirect_to(mesh_core::Redirect { node: Some(NodeId(3)), ..Default::default() });
    done(Err(moved.clone()));
    assert_eq!(soon(answered).await.unwrap().unwrap_err(), moved);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_learns_who_answers_and_speaks_in_its_own_name() {
    let authority = authority();
    let (host, mut events) = hold();
    let (one, address) = serve(&authority, 1, host);
    let (client, met) = soon(QuicLink::client(config(&authority, &alice()), address)).await.unwrap();
    assert_eq!(met, NodeId(1));
    let (_guard, answered) = send(&client, 1, request(Lane::Interactive, Buf::empty()));
    let Seen::Request(from, envelope, done) = next(&mut events).await else { panic!() };
    assert_eq!((&from, Role::Client(envelope.header.principal)), (&alice(), alice()));
    done(Ok(Response::new(Answer::Done)));
    assert!(soon(answered).await.unwrap().is_ok());
    // The connection of the first contact is the one that is used.
    assert_eq!((one.stats().handshakes, client.stats().handshakes), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_reaches_the_other_end() {
    let authority = authority();
    let (host, mut events) = hold();
    let (_one, address) = serve(&authority, 1, host);
    let (two, _) = serve(&authority, 2, echo());
    two.set_peer(NodeId(1), address);
    let (guard, answered) = send(&two, 1, request(Lane::Interactive, Buf::zeroed(100)));
    let Seen::Request(_, _, done) = next(&mut events).await else { panic!() };
    drop(guard);
    assert_eq!(soon(answered).await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(matches!(next(&mut events).await, Seen::Cancelled));
    done(Ok(Response::new(Answer::Done)));
    let (_guard, answered) = send(&two, 1, request(Lane::Interactive, Buf::empty()));
    let Seen::Request(_, _, done) = next(&mut events).await else { panic!("the link lives on") };
    done(Ok(Response::new(Answer::Done)));
    assert!(soon(answered).await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_the_call_at_both_ends() {
    let authority = authority();
    let (host, mut events) = hold();
    let (_one, address) = serve(&authority, 1, host);
    let (two, _) = serve(&authority, 2, echo());
    two.set_peer(NodeId(1), address);
    until_up(&two, 1, true).await;
    let mut envelope = request(Lane::Control, Buf::empty());
    envelope.header.budget_us = 50_000;
    let (_guard, answered) = send(&two, 1, envelope);
    assert_eq!(soon(answered).await.unwrap().unwrap_err().kind(), ErrorKind::Timeout);
    // It may have been late already when it came; if it was delivered, it was also given up.
    if let Ok(Some(Seen::Request(..))) = tokio::time::timeout(LONG, events.recv()).await {
        assert!(matches!(next(&mut events).await, Seen::Cancelled));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_credit_a_call_is_refused_at_once() {
    let authority = authority();
    let (host, mut events) = hold();
    let (_one, address) = serve(&authority, 1, host);
    let (client, _) = soon(QuicLink::client(config(&authority, &alice()), address)).await.unwrap();
    let granted = LINK_JOBS_MAX / 4;
    let held: Vec<_> = (0..granted).map(|_| send(&client, 1, request(Lane::Interactive, Buf::empty()))).collect();
    let (_guard, mut refused) = send(&client, 1, request(Lane::Interactive, Buf::empty()));
    assert_eq!(refused.try_recv().unwrap().unwrap_err().kind(), ErrorKind::Overloaded, "without waiting");
    assert_eq!(client.stats().overloads, 1);
    for _ in 0..granted {
        let Seen::Request(_, _, done) = next(&mut events).await else { panic!() };
        done(Ok(Response::new(Answer::Done)));
    }
    for (_guard, answered) in held {
        assert!(soon(answered).await.unwrap().is_ok());
    }
    let (_guard, answered) = send(&client, 1, request(Lane::Interactive, Buf::empty()));
    let Seen::Request(_, _, done) = next(&mut events).await else { panic!("credit has come back") };
    done(Ok(Response::new(Answer::Done)));
    assert!(soon(answered).await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sending_works_from_threads_without_a_runtime() {
    let authority = authority();
    let (_one, address) = serve(&authority, 1, echo());
    let (two, _) = serve(&authority, 2, echo());
    two.set_peer(NodeId(1), address);
    let answered = std::thread::spawn(move || {
        let (guard, answered) = send(&two, 1, request(Lane::Interactive, Buf::zeroed(9)));
        guard.forget();
        (answered, two)
    });
    let (answered, _two) = answered.join().unwrap();
    assert_eq!(soon(answered).await.unwrap().unwrap().payload.len(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polite_close_lets_what_is_in_flight_end() {
    let authority = authority();
    let (host, mut events) = hold();
    let (one, address) = serve(&authority, 1, host);
    let (two, _) = serve(&authority, 2, echo());
    two.set_peer(NodeId(1), address);
    let (_first_guard, first) = send(&two, 1, request(Lane::Interactive, Buf::empty()));
    let Seen::Request(_, _, done) = next(&mut events).await else { panic!() };
    let closing = tokio::spawn(async move { one.close(LONG).await });
    // Once the closing has begun, new requests are turned away.
    let refused = soon(async {
        loop {
            let (guard, answered) = send(&two, 1, request(Lane::Interactive, Buf::empty()));
            tokio::select! {
                outcome = answered => break outcome.unwrap().unwrap_err(),
                seen = events.recv() => {
                    let Some(Seen::Request(_, _, done)) = seen else { panic!() };
                    done(Ok(Response::new(Answer::Done)));
                }
            }
            guard.forget();
        }
    });
    assert_eq!(refused.await.kind(), ErrorKind::Draining);
    done(Ok(Response { answer: Answer::Done, payload: Buf::copy_of(b"last words") }));
    assert_eq!(&soon(first).await.unwrap().unwrap().payload[..], b"last words");
    soon(closing).await.unwrap();
    until_up(&two, 1, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closing_node_may_ask_to_finish_what_it_serves() {
    let authority = authority();
    let (host, mut events) = hold();
    let (one, address) = serve(&authority, 1, host);
    let (two, second) = serve(&authority, 2, echo());
    two.set_peer(NodeId(1), address);
    one.set_peer(NodeId(2), second);
    let (_guard, first) = send(&two, 1, request(Lane::Interactive, Buf::empty()));
    let Seen::Request(_, _, done) = next(&mut events).await else { panic!() };
    let mut closing = Box::pin(one.close(LONG));
    assert!((&mut closing).now_or_never().is_none(), "a request is in flight");
    assert!(call(&one, 2, request(Lane::Interactive, Buf::empty())).await.is_ok());
    done(Ok(Response::new(Answer::Done)));
    assert!(soon(first).await.unwrap().is_ok());
    soon(closing).await;
    let error = call(&one, 2, request(Lane::Interactive, Buf::empty())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
}
