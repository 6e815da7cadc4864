//! Several server processes that NATS joins to one, and what happens when one of them, or NATS, goes
//! away.
#![allow(clippy::unwrap_used)] // these are tests
#![allow(clippy::disallowed_methods)] // how long things take is printed, and nothing depends on it

mod common;
#[path = "common/nats.rs"]
mod nats;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use common::Serve;
use futures_util::{FutureExt, StreamExt};
use nats::{
    Nats, closed_node, config, free_port, hears, metric, node, node_at, nodes, peer, soon,
    terminate,
};
use roundtable::Room;
use roundtable_core::PeerId;
use roundtable_signaling_client::{
    AnswerBody, ClientConfig, ErrorCode, Event, EventStream, IceCandidate, JoinError, LeaveReason,
    OfferBody, RequestError, RequestId, SignalingClient,
};
use serde_json::Value;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep},
};

fn offer() -> OfferBody {
    OfferBody::WebRtc { sdp: "v=0".into() }
}

async fn join(server: &Serve, room: &str, name: &str) -> (SignalingClient, EventStream) {
    let (client, _, events) = SignalingClient::join(config(&[server], room, name))
        .await
        .unwrap();
    (client, events)
}

/// Prints what was measured, as `cargo xtask bench` reads it. Nothing fails for being slow.
fn figure<T: PartialOrd + std::fmt::Display>(id: &str, value: T, unit: &str, target: T) {
    let met = value <= target;
    println!(
        "{{\"id\":\"{id}\",\"value\":{value},\"unit\":\"{unit}\",\"target\":{target},\"met\":{met}}}"
    );
}

#[tokio::test]
async fn who_is_told_that_a_server_is_ready_is_admitted_there() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    for n in 0..4 {
        let server = node(&nats, "").await;
        let joined = SignalingClient::join(config(&[&server], "room", &format!("p{n}"))).await;
        joined.map(drop).unwrap();
    }
}

#[tokio::test]
async fn peers_of_different_servers_meet_negotiate_and_part() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let [one, two, _] = nodes(&nats, "").await;
    let (alice, mut alice_hears) = join(&one, "room", "alice").await;
    let (bob, joined, mut bob_hears) = SignalingClient::join(config(&[&two], "room", "bob"))
        .await
        .unwrap();
    assert_eq!(joined.peers[0].peer_id, peer("alice"));
    let heard = hears(&mut alice_hears).await;
    assert!(matches!(heard, Event::PeerAnnounced(info) if info.peer_id == peer("bob")));

    // A pair's signals keep their order.
    for round in 0..20 {
        let id = alice.offer(&peer("bob"), offer()).await.unwrap();
        for n in 0..10 {
            let candidate = IceCandidate {
                candidate: format!("candidate {round} {n}"),
                ..IceCandidate::default()
            };
            alice.candidate(&peer("bob"), &id, candidate).await.unwrap();
        }
        let heard = hears(&mut bob_hears).await;
        assert!(matches!(heard, Event::Offer { request_id, .. } if request_id == id));
        for n in 0..10 {
            match hears(&mut bob_hears).await {
                Event::Candidate { candidate, .. } => {
                    assert_eq!(candidate.candidate, format!("candidate {round} {n}"));
                }
                other => panic!("{other:?}"),
            }
        }
        let body = AnswerBody::WebRtc { sdp: "v=0".into() };
        bob.answer(&peer("alice"), &id, body.clone()).await.unwrap();
        let heard = hears(&mut alice_hears).await;
        assert!(matches!(heard, Event::Answer { request_id, .. } if request_id == id));
        match bob.answer(&peer("alice"), &id, body).await {
            Err(RequestError::Refused(error)) => assert_eq!(error.code, ErrorCode::OfferExpired),
            other => panic!("{other:?}"),
        }
    }
    bob.leave().await;
    let heard = hears(&mut alice_hears).await;
    let reason = LeaveReason::Left;
    assert!(
        matches!(heard, Event::PeerLeft { reason: r, .. } if r == reason),
        "{heard:?}"
    );
    match alice.offer(&peer("bob"), offer()).await {
        Err(RequestError::Refused(error)) => assert_eq!(error.code, ErrorCode::PeerNotFound),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_never_takes_more_peers_or_one_name_twice_whichever_servers_they_come_to() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let servers = nodes(&nats, "--max-peers 10").await;
    for room in 0..5 {
        let mut joining = JoinSet::new();
        for n in 0..60 {
            // Each name comes twice, to two servers.
            let (server, name) = (&servers[n % 3], format!("p{}", n / 2));
            let config = config(&[server], &format!("room{room}"), &name);
            joining.spawn(async move { (name, SignalingClient::join(config).await) });
        }
        let mut inside = Vec::new();
        while let Some(joined) = joining.join_next().await {
            match joined.unwrap() {
                (name, Ok(joined)) => inside.push((name, joined)),
                (_, Err(JoinError::PeerIdTaken | JoinError::RoomFull { max: 10 })) => {}
                (name, Err(other)) => panic!("{name}: {other}"),
            }
        }
        let names: BTreeSet<_> = inside.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!((inside.len(), names.len()), (10, 10));
    }
    let conflicts: usize = servers
        .iter()
        .map(|s| metric(&s.address, "bus_conflicts_total"))
        .sum();
    println!("{conflicts} conflicts");
    assert!(conflicts > 0, "the servers did not compete");
}

/// What a watched client tells of.
enum Seen {
    Back(Instant),
    /// Something that it should not have noticed.
    Noticed(Event),
}

/// Clients that stay in their rooms; each tells when it is back after its connection was lost.
struct Watched {
    /// Who lets go of one leaves.
    _clients: Vec<SignalingClient>,
    seen: mpsc::UnboundedReceiver<Seen>,
    _watching: JoinSet<()>,
}

impl Watched {
    /// `peers` clients in each of `rooms` rooms, who know all these servers.
    async fn join(servers: &[&Serve], rooms: usize, peers: usize) -> Self {
        let mut joining = JoinSet::new();
        for room in 0..rooms {
            let config = move |servers: &[&Serve], n| {
                config(servers, &format!("room{room}"), &format!("p{n}"))
            };
            let configs: Vec<_> = (0..peers).map(|n| config(servers, n)).collect();
            joining.spawn(async move {
                let mut inside = Vec::new();
                for config in configs {
                    inside.push(SignalingClient::join(config).await.unwrap());
                }
                // Everybody has heard of everybody before anything happens.
                for (n, (_, _, events)) in inside.iter_mut().enumerate() {
                    for _ in n + 1..peers {
                        let heard = soon("a peer", events.next()).await.unwrap();
                        assert!(matches!(heard, Event::PeerAnnounced(_)), "{heard:?}");
                    }
                }
                inside
            });
        }
        let (tell, seen) = mpsc::unbounded_channel();
        let (mut clients, mut watching) = (Vec::new(), JoinSet::new());
        while let Some(inside) = joining.join_next().await {
            for (client, _, mut events) in inside.unwrap() {
                clients.push(client);
                let tell = tell.clone();
                watching.spawn(async move {
                    while let Some(event) = events.next().await {
                        let seen = match event {
                            Event::Reconnecting { .. } | Event::Draining => continue,
                            Event::Resumed(_) => Seen::Back(Instant::now()),
                            other => Seen::Noticed(other),
                        };
                        // The test may be over.
                        let _ = tell.send(seen);
                    }
                });
            }
        }
        Self {
            _clients: clients,
            seen,
            _watching: watching,
        }
    }

    /// Waits until so many are back; gives the milliseconds since `start` within which 99 of 100 were.
    async fn back_p99_ms(&mut self, count: usize, start: Instant) -> u128 {
        let mut times = Vec::new();
        while times.len() < count {
            match soon("a client that is back", self.seen.recv())
                .await
                .unwrap()
            {
                Seen::Back(at) => times.push(at.duration_since(start).as_millis()),
                Seen::Noticed(event) => panic!("a client noticed: {event:?}"),
            }
        }
        times.sort_unstable();
        times[(times.len() * 99).div_ceil(100) - 1]
    }

    fn noticed_nothing(&mut self) {
        while let Ok(seen) = self.seen.try_recv() {
            if let Seen::Noticed(event) = seen {
                panic!("a client noticed: {event:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_server_is_killed_its_clients_are_back_on_others_and_nobody_notices() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let [mut one, two, three] = nodes(&nats, "").await;
    let mut watched = Watched::join(&[&one, &two, &three], 60, 5).await;
    let lost = metric(&one.address, "peers");
    assert!(lost > 30, "only {lost} of 300 came to this server");
    let start = Instant::now();
    one.process.kill().unwrap();
    let p99 = watched.back_p99_ms(lost, start).await;
    figure("killed_back_p99_ms", p99, "ms", 3000);
    // The killed server's lease has run out by then, and whoever it still had would be gone.
    sleep(Duration::from_secs(8)).await;
    watched.noticed_nothing();
    let now: usize = [&two, &three]
        .map(|s| metric(&s.address, "peers"))
        .iter()
        .sum();
    assert_eq!(now, 300);
    one.process.wait().unwrap();
}

#[tokio::test]
async fn who_does_not_come_back_from_a_killed_server_is_gone_in_ten_seconds() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let [mut one, two, three] = nodes(&nats, "").await;
    // These know no other server.
    let _stays = join(&one, "room", "lost").await;
    let _alone = join(&one, "nobody-else", "lost").await;
    let (_alice, mut alice_hears) = join(&two, "room", "alice").await;
    let start = Instant::now();
    one.process.kill().unwrap();
    let heard = hears(&mut alice_hears).await;
    figure(
        "presence_gone_ms",
        start.elapsed().as_millis(),
        "ms",
        10_000,
    );
    let reason = LeaveReason::Lost;
    assert!(
        matches!(heard, Event::PeerLeft { reason: r, .. } if r == reason),
        "{heard:?}"
    );
    // Also where nobody was left to notice: the name is free.
    soon("a name that is free", async {
        while SignalingClient::join(config(&[&three], "nobody-else", "lost"))
            .await
            .is_err()
        {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    one.process.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_nats_members_stay_and_nobody_enters_and_with_it_all_is_as_before() {
    let Some(mut nats) = Nats::start().await else {
        return;
    };
    let [one, two, three] = nodes(&nats, "").await;
    let mut watched = Watched::join(&[&one, &two, &three], 20, 5).await;
    let (alice, mut alice_hears) = join(&one, "pair", "alice").await;
    let (_bob, mut bob_hears) = join(&one, "pair", "bob").await;
    let (_carol, mut carol_hears) = join(&two, "pair", "carol").await;
    for _ in ["bob", "carol"] {
        let heard = hears(&mut alice_hears).await;
        assert!(matches!(heard, Event::PeerAnnounced(_)), "{heard:?}");
    }

    nats.kill();
    soon("a server that knows", async {
        while metric(&one.address, "bus_up") > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    alice.offer(&peer("bob"), offer()).await.unwrap();
    while !matches!(hears(&mut bob_hears).await, Event::Offer { .. }) {}
    match alice.offer(&peer("carol"), offer()).await {
        Err(RequestError::Refused(error)) => {
            assert_eq!(error.code, ErrorCode::Unavailable);
            assert!(error.retry_after().is_some());
        }
        other => panic!("{other:?}"),
    }
    match SignalingClient::join(config(&[&one], "pair", "dave")).await {
        Err(JoinError::Unavailable { retry_after }) => assert!(retry_after.is_some()),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("admitted without NATS"),
    }

    // It comes back, and has forgotten everything.
    nats.run().await;
    let start = Instant::now();
    soon("an offer to another server", async {
        while alice.offer(&peer("carol"), offer()).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    while !matches!(hears(&mut carol_hears).await, Event::Offer { .. }) {}
    let dave = soon("a newcomer", async {
        loop {
            match SignalingClient::join(config(&[&three], "pair", "dave")).await {
                Ok((_, joined, _)) => return joined,
                Err(JoinError::Unavailable { .. }) => sleep(Duration::from_millis(20)).await,
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await;
    figure(
        "nats_back_converged_ms",
        start.elapsed().as_millis(),
        "ms",
        5000,
    );
    let names: Vec<_> = dave.peers.iter().map(|p| p.peer_id.as_str()).collect();
    assert_eq!(names, ["alice", "bob", "carol"]);
    match SignalingClient::join(config(&[&three], "room0", "p0")).await {
        Err(JoinError::PeerIdTaken) => {}
        other => panic!("{:?}", other.map(drop)),
    }
    sleep(Duration::from_secs(8)).await;
    watched.noticed_nothing();
}

/// What was sent of one kind, and what of it has arrived.
#[derive(Default)]
struct Account {
    /// What the server said it had passed on; of candidates, what was written.
    sent: BTreeSet<RequestId>,
    received: BTreeSet<RequestId>,
}

/// Whose signals went where.
struct Ledger {
    /// Lets some join at a time, so that none runs out of time where the machine is busy.
    joining: Semaphore,
    offers: Mutex<Account>,
    answers: Mutex<Account>,
    candidates: Mutex<Account>,
    /// Why requests failed, and how often.
    refused: Mutex<BTreeMap<String, usize>>,
}

impl Ledger {
    fn new() -> Self {
        Self {
            joining: Semaphore::new(50),
            offers: Mutex::default(),
            answers: Mutex::default(),
            candidates: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    fn accounts(&self) -> [(&'static str, &Mutex<Account>); 3] {
        [
            ("offers", &self.offers),
            ("answers", &self.answers),
            ("candidates", &self.candidates),
        ]
    }

    /// Waits until every signal that was sent has arrived.
    async fn all_arrived(&self) {
        for (_, account) in self.accounts() {
            while {
                let account = account.lock().unwrap();
                account.sent.difference(&account.received).next().is_some()
            } {
                sleep(Duration::from_millis(200)).await;
            }
        }
    }

    fn sent(account: &Mutex<Account>, id: &RequestId) {
        account.lock().unwrap().sent.insert(id.clone());
    }

    fn received(account: &Mutex<Account>, id: RequestId) {
        account.lock().unwrap().received.insert(id);
    }

    /// Waits until a negotiation is complete, or long enough: the next offer to the same peer would end it.
    async fn completed(&self, id: &RequestId) {
        for _ in 0..60 {
            if self.candidates.lock().unwrap().received.contains(id) {
                return;
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    fn refused(&self, what: &str, error: &RequestError) {
        let why = format!("{what}: {error}");
        *self.refused.lock().unwrap().entry(why).or_default() += 1;
    }

    /// Answers an offer, and trickles a candidate.
    async fn answer(&self, client: &SignalingClient, from: &PeerId, id: &RequestId) {
        let body = AnswerBody::WebRtc { sdp: "v=0".into() };
        match client.answer(from, id, body).await {
            Ok(()) => Self::sent(&self.answers, id),
            // The offerer was told that its offer did not arrive, and makes another.
            Err(error) => return self.refused("answer", &error),
        }
        let candidate = IceCandidate::default();
        if client.candidate(from, id, candidate).await.is_ok() {
            Self::sent(&self.candidates, id);
        }
    }
}

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Joining,
    Offering,
    Listening,
}

/// Offers to the next peer of its room again and again, answers what it is offered, and notes what comes.
async fn negotiates(
    config: ClientConfig,
    next: PeerId,
    ledger: Arc<Ledger>,
    mut stage: watch::Receiver<Stage>,
) {
    let turn = ledger.joining.acquire().await.unwrap();
    let (client, _, mut events) = SignalingClient::join(config).await.unwrap();
    drop(turn);
    let listening = async {
        while let Some(event) = events.next().await {
            match event {
                Event::Offer {
                    from, request_id, ..
                } => {
                    ledger.answer(&client, &from, &request_id).await;
                    Ledger::received(&ledger.offers, request_id);
                }
                Event::Answer { request_id, .. } => Ledger::received(&ledger.answers, request_id),
                Event::Candidate { request_id, .. } => {
                    Ledger::received(&ledger.candidates, request_id);
                }
                Event::PeerLeft { .. } | Event::Rejoined(_) | Event::Ended(_) => {
                    panic!("noticed: {event:?}")
                }
                _ => {}
            }
        }
    };
    let offering = async {
        stage
            .wait_for(|stage| *stage != Stage::Joining)
            .await
            .unwrap();
        while *stage.borrow() == Stage::Offering {
            match client.offer(&next, offer()).await {
                Ok(id) => {
                    Ledger::sent(&ledger.offers, &id);
                    ledger.completed(&id).await;
                }
                Err(error) => ledger.refused("offer", &error),
            }
            sleep(Duration::from_secs(2)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = listening => panic!("the stream ended"),
        () = offering => {}
    }
}

/// A server drains that 2,000 clients are connected to, while each of them offers and answers again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drains_loses_no_offer_answer_or_candidate() {
    const ROOMS: usize = 200;
    const PEERS: usize = 10;
    let Some(nats) = Nats::start().await else {
        return;
    };
    let mut one = node(&nats, "").await;
    // Everybody comes to the first server: the others are not there yet.
    let later = [free_port(), free_port()];
    let urls = later.map(|port| format!("ws://127.0.0.1:{port}"));
    let ledger = Arc::new(Ledger::new());
    let (stage, stages) = watch::channel(Stage::Joining);
    let mut clients = JoinSet::new();
    for n in 0..ROOMS * PEERS {
        let (room, n) = (n / PEERS, n % PEERS);
        let config = config(&[&one], &format!("room{room}"), &format!("p{n}"));
        let config = config.with_more_urls(&urls).unwrap();
        let next = peer(&format!("p{}", (n + 1) % PEERS));
        let client = negotiates(config, next, Arc::clone(&ledger), stages.clone());
        clients.spawn(client);
    }
    let all = ROOMS * PEERS;
    soon("everybody's joining", async {
        while metric(&one.address, "peers") < all {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let others = [
        node_at(&nats, later[0], "").await,
        node_at(&nats, later[1], "").await,
    ];
    stage.send(Stage::Offering).unwrap();
    sleep(Duration::from_secs(2)).await;
    let start = Instant::now();
    terminate(&one);
    let status = soon(
        "the end of the drain",
        tokio::task::spawn_blocking(move || one.process.wait()),
    );
    assert!(status.await.unwrap().unwrap().success());
    println!("drained in {} ms", start.elapsed().as_millis());
    stage.send(Stage::Listening).unwrap();
    soon("everybody's coming back", async {
        let peers = |serve: &Serve| metric(&serve.address, "peers");
        while others.iter().map(peers).sum::<usize>() < all {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let arrived = tokio::time::timeout(nats::PATIENCE, ledger.all_arrived()).await;
    for (what, account) in ledger.accounts() {
        let account = account.lock().unwrap();
        let lost = account.sent.difference(&account.received).count();
        println!("{what}: {} sent, {lost} lost", account.sent.len());
        figure(&format!("drain_2000_{what}_lost"), lost, "count", 0);
    }
    println!("refused: {:?}", ledger.refused.lock().unwrap());
    assert!(arrived.is_ok(), "signals were lost");
    assert!(clients.try_join_next().is_none(), "a client gave up");
    // Without this their leaving would be noticed.
    clients.shutdown().await;
}

#[tokio::test]
async fn a_client_goes_to_the_server_that_a_draining_one_names_though_nobody_told_it_of_that() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let ports = [free_port(), free_port()];
    let public = ports.map(|port| format!("--public-url ws://127.0.0.1:{port}"));
    let mut one = node_at(&nats, ports[0], &public[0]).await;
    let two = node_at(&nats, ports[1], &public[1]).await;
    let (_alice, mut events) = join(&one, "room", "alice").await;
    terminate(&one);
    loop {
        match soon("another server", events.next()).await.unwrap() {
            Event::Draining => {}
            Event::Resumed(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(metric(&two.address, "peers"), 1);
    one.process.wait().unwrap();
}

/// Real peers, linked to each other, while a server of theirs is killed.
#[tokio::test(flavor = "multi_thread")]
async fn links_between_peers_outlive_their_server() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let [mut one, two, three] = nodes(&nats, "").await;
    let urls = [&one, &two, &three].map(|s| format!("ws://{}", s.address));
    let join = |name: &str| {
        Room::builder(&urls[0], "room", name)
            .more_servers(&urls)
            .join()
    };
    let mut rooms = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        rooms.push(join(name).await.unwrap());
    }
    let linked = async |rooms: &[Room]| {
        for room in rooms {
            while room.peers().await.len() + 1 < rooms.len() {
                sleep(Duration::from_millis(50)).await;
            }
        }
    };
    soon("links between all", linked(&rooms)).await;
    let mut events: Vec<_> = rooms.iter().map(Room::events).collect();
    let on_one = metric(&one.address, "peers");
    println!("{on_one} of 6 are connected to the server that is killed");
    one.process.kill().unwrap();
    one.process.wait().unwrap();
    // Longer than its lease.
    sleep(Duration::from_secs(9)).await;
    for events in &mut events {
        while let Some(Some(event)) = events.next().now_or_never() {
            let is_torn = matches!(event, roundtable::Event::Disconnected { .. });
            assert!(!is_torn, "{event:?}");
        }
    }
    // Everybody can still be found.
    rooms.push(join("g").await.unwrap());
    soon("links with the newcomer", linked(&rooms)).await;
    for room in rooms {
        room.leave().await;
    }
}

/// Makes a room, as the operator's own service does; gives the operator's interface's answer.
fn make_room(server: &Serve, key: &str) -> Value {
    let request = format!(
        "POST /v1/rooms HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    let response = nats::exchange(&server.address, &request);
    serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn a_room_of_a_closed_server_is_known_to_all_with_the_same_keys() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let [first, second] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let data = |dir: &tempfile::TempDir| format!("--data {}", dir.path().display());
    let one = closed_node(&nats, &data(&first)).await;
    for file in ["keys.json", "operator-key.json"] {
        // With the file's mode.
        std::fs::copy(first.path().join(file), second.path().join(file)).unwrap();
    }
    let key = std::fs::read_to_string(first.path().join("operator-key.json")).unwrap();
    let key: String = serde_json::from_str(&key).unwrap();
    let before = make_room(&one, &key);
    let two = closed_node(&nats, &data(&second)).await;
    let after = make_room(&one, &key);
    // The one it asks for, the other it is told of.
    for room in [before, after] {
        let text = |member: &str| room[member].as_str().unwrap();
        let enter = async |server: &Serve, name: &str| {
            let config = config(&[server], text("room"), name).with_invite(text("invite"));
            soon("a grant", async {
                loop {
                    match SignalingClient::join(config.clone()).await {
                        Ok(joined) => return joined,
                        Err(JoinError::NoToken { .. }) => sleep(Duration::from_millis(50)).await,
                        Err(other) => panic!("{other}"),
                    }
                }
            })
            .await
        };
        let (_alice, _, _alice_hears) = enter(&one, "alice").await;
        let (_bob, joined, _) = enter(&two, "bob").await;
        assert_eq!(joined.peers[0].peer_id, peer("alice"));
    }
}

/// What one server grants for an invite; the part of it that names the key.
fn header_of_a_grant(server: &Serve, room: &Value) -> String {
    let body = format!(r#"{{"peer_id":"x","invite":{}}}"#, room["invite"]);
    let request = format!(
        "POST /v1/rooms/{}/grants HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        room["room"].as_str().unwrap(),
        body.len()
    );
    let response = nats::exchange(&server.address, &request);
    let grant: Value = serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap();
    let token = grant["token"].as_str().unwrap();
    token.split_once('.').unwrap().0.to_owned()
}

#[tokio::test]
async fn keys_are_rotated_in_a_running_cluster_and_nobody_is_refused() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let keys = dirs.each_ref().map(|dir| dir.path().join("keys.json"));
    let data = |dir: &tempfile::TempDir| format!("--max-peers 20 --data {}", dir.path().display());
    let one = closed_node(&nats, &data(&dirs[0])).await;
    for file in ["keys.json", "operator-key.json"] {
        // With the file's mode.
        std::fs::copy(dirs[0].path().join(file), dirs[1].path().join(file)).unwrap();
    }
    let two = closed_node(&nats, &data(&dirs[1])).await;
    let operator = std::fs::read_to_string(dirs[0].path().join("operator-key.json")).unwrap();
    let room = make_room(&one, &serde_json::from_str::<String>(&operator).unwrap());
    let text = |member: &str| room[member].as_str().unwrap();
    let mut inside = Vec::new();
    let mut enter = async |name: String| {
        for server in [&one, &two] {
            let name = format!("{name}-{}", inside.len());
            let config = config(&[server], text("room"), &name).with_invite(text("invite"));
            let joined = soon("a grant", async {
                loop {
                    match SignalingClient::join(config.clone()).await {
                        Ok(joined) => return joined,
                        // It has not heard of the room yet.
                        Err(JoinError::NoToken { .. }) => sleep(Duration::from_millis(50)).await,
                        Err(other) => panic!("{name}: {other}"),
                    }
                }
            });
            inside.push(joined.await);
        }
    };
    enter("before".into()).await;
    let before = header_of_a_grant(&one, &room);
    // The new key comes second everywhere, then first.
    let mut file: Value = serde_json::from_slice(&std::fs::read(&keys[0]).unwrap()).unwrap();
    let old = file["seeds"][0].clone();
    let new = Value::from("A".repeat(43));
    for (step, seeds) in [("known", [&old, &new]), ("signing", [&new, &old])] {
        file["seeds"] = seeds.into_iter().cloned().collect();
        for (n, server) in [&one, &two].into_iter().enumerate() {
            std::fs::write(&keys[n], file.to_string()).unwrap();
            nats::signal(server, "-HUP");
            enter(format!("{step}-{n}")).await;
        }
    }
    for server in [&one, &two] {
        soon("the new key's grants", async {
            while header_of_a_grant(server, &room) == before {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }
    enter("after".into()).await;
    assert_eq!(
        [&one, &two]
            .map(|s| metric(&s.address, "peers"))
            .iter()
            .sum::<usize>(),
        12
    );
}
