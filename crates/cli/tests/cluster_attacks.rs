//! What attackers try who come to a cluster by several of its servers at once, or reach what joins them; and a
//! server that stands still.
#![allow(clippy::unwrap_used)] // these are tests

mod common;
#[path = "common/nats.rs"]
mod nats;
#[path = "common/raw.rs"]
mod raw;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use common::Serve;
use nats::{Nats, config, hears, nodes, peer, signal, soon};
use raw::Client;
use roundtable_signaling_client::{Event, JoinError, LeaveReason, OfferBody, SignalingClient};
use serde_json::{Value, json};
use tokio::time::sleep;

const TAKEN: i64 = -32001;

fn code(answer: &Value) -> i64 {
    answer["error"]["code"].as_i64().unwrap_or(0)
}

fn offer_to(to: &str, id: &str) -> Value {
    json!({"to": to, "request_id": id, "sdp": "v=0"})
}

/// What each of these servers answers to somebody who shows this token.
fn resume_at(servers: &[&Serve], name: &str, token: &Value) -> Vec<i64> {
    let resume = |serve: &&Serve| code(&Client::connect(serve).announce("room", name, token));
    servers.iter().map(resume).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_not_stolen_by_way_of_another_server() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let [one, two, three] = nodes(&nats, "").await;
    let all = [&one, &two, &three];
    let mut alice = Client::connect(&one);
    let first = alice.announce("room", "alice", &Value::Null)["result"]["resume"].clone();
    let mallory = Client::connect(&two).announce("room", "mallory", &Value::Null);
    let namesake = Client::connect(&three).announce("elsewhere", "alice", &Value::Null);
    let (its_own, foreign) = (&mallory["result"]["resume"], &namesake["result"]["resume"]);
    let guess = json!("00112233445566778899aabbccddeeff");
    for token in [&guess, its_own, foreign, &json!("")] {
        assert_eq!(resume_at(&all, "alice", token), [TAKEN; 3], "{token}");
    }
    // She moves twice, and what she showed the first time is worth nothing any more.
    let second = Client::connect(&two).announce("room", "alice", &first)["result"].clone();
    assert_eq!(second["resumed"], true, "{second}");
    let mut alice = Client::connect(&three);
    let third = alice.announce("room", "alice", &second["resume"])["result"].clone();
    assert_eq!(third["resumed"], true, "{third}");
    assert_eq!(resume_at(&all, "alice", &first), [TAKEN; 3]);
    // Nor is it while her socket is lost.
    drop(alice);
    for token in [&guess, its_own, foreign, &first] {
        assert_eq!(resume_at(&all, "alice", token), [TAKEN; 3], "{token}");
    }
    let back = Client::connect(&one).announce("room", "alice", &third["resume"]);
    assert_eq!(back["result"]["resumed"], true, "{back}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_had_by_one_peer_on_whichever_server_others_try_for_it() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let servers = nodes(&nats, "").await;
    let mut tries = tokio::task::JoinSet::new();
    for n in 0..60 {
        let config = config(&[&servers[n % 3]], "room", "alice");
        tries.spawn(SignalingClient::join(config));
    }
    let mut inside = Vec::new();
    while let Some(tried) = tries.join_next().await {
        match tried.unwrap() {
            Ok(joined) => inside.push(joined),
            Err(JoinError::PeerIdTaken) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(inside.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn from_is_what_the_server_knows_on_the_other_server_too_and_a_third_peer_has_no_part() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let [one, two, three] = nodes(&nats, "").await;
    let mut alice = Client::member(&one, "room", "alice");
    let mut bob = Client::member(&two, "room", "bob");
    let mut mallory = Client::member(&three, "room", "mallory");
    let mut stranger = Client::member(&three, "elsewhere", "mallory");
    for name in ["bob", "mallory"] {
        assert_eq!(alice.hears("peer.announced").unwrap()["peer_id"], name);
    }
    let mut forged = offer_to("alice", "forged");
    forged["from"] = json!("bob");
    let answer = mallory.call("peer.offer", &forged).unwrap();
    assert_eq!(answer["result"]["status"], "forwarded", "{answer}");
    assert_eq!(alice.hears("peer.offer").unwrap()["from"], "mallory");
    // An offer from Alice to Bob is nobody else's to answer, or to add to.
    alice.call("peer.offer", &offer_to("bob", "o")).unwrap();
    assert_eq!(bob.hears("peer.offer").unwrap()["from"], "alice");
    let candidate = json!({"to": "alice", "request_id": "o", "candidate": "c", "from": "bob"});
    for (method, params) in [
        ("peer.answer", &offer_to("alice", "o")),
        ("peer.ice_candidate", &candidate),
    ] {
        let answer = mallory.call(method, params).unwrap();
        assert_eq!(code(&answer), -32009, "{method}: {answer}");
        let answer = stranger.call(method, params).unwrap();
        assert_eq!(code(&answer), -32000, "{method}: {answer}");
    }
    let answer = bob.call("peer.answer", &offer_to("alice", "o")).unwrap();
    assert_eq!(answer["result"]["status"], "forwarded", "{answer}");
    assert_eq!(alice.hears("peer.answer").unwrap()["from"], "bob");
}

/// Somebody who has got to the NATS server.
struct Intruder(BufReader<TcpStream>);

impl Intruder {
    fn at(nats: &Nats) -> Self {
        let stream = TcpStream::connect(nats.address()).unwrap();
        let timeout = Some(Duration::from_secs(30));
        stream.set_read_timeout(timeout).unwrap();
        let mut intruder = Self(BufReader::new(stream));
        intruder.say("CONNECT {\"verbose\":false}\r\n".as_bytes());
        intruder
    }

    fn say(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn publish(&mut self, subject: &str, payload: &[u8]) {
        let head = format!("PUB {subject} intruder.reply {}\r\n", payload.len());
        self.say(&[head.as_bytes(), payload, b"\r\n"].concat());
    }

    /// The servers' names, which they tell each second.
    fn servers(&mut self, count: usize) -> Vec<String> {
        self.say(b"SUB roundtable.lease 1\r\n");
        let (mut names, mut line) = (Vec::new(), String::new());
        while names.len() < count {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            let Some(head) = line.strip_prefix("MSG roundtable.lease ") else {
                continue;
            };
            let len: usize = head.split_whitespace().last().unwrap().parse().unwrap();
            let mut payload = vec![0; len + 2];
            self.0.read_exact(&mut payload).unwrap();
            let name = String::from_utf8_lossy(&payload[..16]).into_owned();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        self.say(b"UNSUB 1\r\n");
        names
    }

    /// Returns when NATS has taken all that was said.
    fn finish(&mut self) {
        self.say(b"PING\r\n");
        let mut line = String::new();
        while !line.starts_with("PONG") {
            line.clear();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "NATS closed");
        }
    }
}

/// Nothing that a server would write.
fn garbage() -> Vec<Vec<u8>> {
    let noise = |seed: u32, len: u32| {
        let byte = |n: u32| seed.wrapping_mul(n).wrapping_add(n >> 3).to_le_bytes()[1];
        (0..len).map(byte).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = (1..40).map(|n| noise(n * 2_654_435, n * 17)).collect();
    all.push(noise(7, 900_000));
    let deep = "[".repeat(50_000).into_bytes();
    let texts = [
        "",
        "{}",
        "null",
        r#"{"signal":{}}"#,
        r#"{"take":{"peer":"alice","seat":"zz","to":"x"}}"#,
        r#"{"take":{"peer":"alice","seat":"0","to":"mallory"}}"#,
        r#"{"take":{"peer":"../..","seat":"0","to":"mallory"}}"#,
        r#"{"signal":{"revision":18446744073709551615,"forwarded":false,"parcel":{"from":"bob","from_seat":"0","to_seat":"0","message":"{}"}}}"#,
        r#"{"signal":{"revision":0,"forwarded":true,"parcel":{"from":"bob","from_seat":"0","to_seat":"0","message":"{\"jsonrpc\":\"2.0\",\"method\":\"peer.offer\",\"params\":{\"to\":\"alice\",\"request_id\":\"x\",\"sdp\":\"v=0\"}}"}}}"#,
        r#"{"revision":18446744073709551615}"#,
        r#"{"revision":-1}"#,
        r#"{"rooms":[{"room":"..","invite":"","creator":"","ends_ms":0}]}"#,
        "ghost",
        "a name with spaces",
    ];
    all.push(deep);
    all.extend(texts.iter().map(|text| text.as_bytes().to_vec()));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_bus_harms_nobody() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let [one, two, three] = nodes(&nats, "").await;
    let mut alice = Client::member(&one, "room", "alice");
    let mut bob = Client::member(&two, "room", "bob");
    alice.hears("peer.announced").unwrap();
    let mut intruder = Intruder::at(&nats);
    let names = intruder.servers(3);
    for payload in garbage() {
        for name in &names {
            for room in ["room", "elsewhere", "*", "a.b"] {
                intruder.publish(&format!("roundtable.node.{name}.{room}"), &payload);
            }
        }
        for subject in [
            "lease",
            "notice",
            "changed.room",
            "changed.nobody",
            "changed.a.b",
        ] {
            intruder.publish(&format!("roundtable.{subject}"), &payload);
        }
        // A record, of a room that nobody is in.
        intruder.publish("$KV.roundtable_rooms.ruined", &payload);
    }
    for n in 0..5000 {
        intruder.publish("roundtable.lease", format!("ghost{n}").as_bytes());
    }
    intruder.finish();
    // Who has been there goes on, and others come.
    for round in 0..20 {
        let id = format!("o{round}");
        let answer = alice.call("peer.offer", &offer_to("bob", &id)).unwrap();
        assert_eq!(answer["result"]["status"], "forwarded", "{answer}");
        assert_eq!(bob.hears("peer.offer").unwrap()["request_id"], id);
        let answer = bob.call("peer.answer", &offer_to("alice", &id)).unwrap();
        assert_eq!(answer["result"]["status"], "forwarded", "{answer}");
        assert_eq!(alice.hears("peer.answer").unwrap()["request_id"], id);
    }
    let joined = Client::connect(&three).announce("room", "carol", &Value::Null);
    let peers = joined["result"]["peers"].as_array().unwrap();
    assert_eq!(peers.len(), 2, "{joined}");
    // A record that cannot be read is not written over: its room has to wait.
    let refused = Client::connect(&three).announce("ruined", "dave", &Value::Null);
    assert_eq!(code(&refused), -32011, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_is_done_without_and_harms_nobody_when_it_wakes() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let [one, two, three] = nodes(&nats, "").await;
    let join = async |server: &Serve, name: &str| {
        let joined = SignalingClient::join(config(&[server], "room", name)).await;
        let (client, _, events) = joined.unwrap();
        (client, events)
    };
    let body = || OfferBody::WebRtc { sdp: "v=0".into() };
    let (alice, _alice_hears) = join(&one, "alice").await;
    let (bob, mut bob_hears) = join(&two, "bob").await;
    let (_carol, mut carol_hears) = join(&three, "carol").await;
    let heard = hears(&mut bob_hears).await;
    assert!(matches!(heard, Event::PeerAnnounced(_)), "{heard:?}");

    signal(&one, "-STOP");
    // The others are served, and newcomers enter the room, though one server of it says nothing.
    bob.offer(&peer("carol"), body()).await.unwrap();
    let heard = hears(&mut carol_hears).await;
    assert!(matches!(heard, Event::Offer { .. }), "{heard:?}");
    let (_dave, _dave_hears) = join(&three, "dave").await;
    let heard = hears(&mut bob_hears).await;
    assert!(
        matches!(&heard, Event::PeerAnnounced(info) if info.peer_id == peer("dave")),
        "{heard:?}"
    );
    let heard = hears(&mut bob_hears).await;
    let lost = Event::PeerLeft {
        peer_id: peer("alice"),
        reason: LeaveReason::Lost,
    };
    assert_eq!(heard, lost);
    // Long enough for all leases of the others to have run out, were they judged by the clock.
    sleep(Duration::from_secs(4)).await;

    signal(&one, "-CONT");
    // Alice has not noticed: she is there again, and nobody else has gone.
    let heard = hears(&mut bob_hears).await;
    assert!(
        matches!(&heard, Event::PeerAnnounced(info) if info.peer_id == peer("alice")),
        "{heard:?}"
    );
    soon("an offer across", async {
        while alice.offer(&peer("bob"), body()).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let heard = hears(&mut bob_hears).await;
    assert!(matches!(heard, Event::Offer { .. }), "{heard:?}");
}
