//! What attackers can make the real server take of the machine's memory, and that others are served meanwhile.
//! That they get nothing else for it is in `crates/signaling-server/tests`.

#![allow(clippy::unwrap_used)] // these are tests
#![cfg(target_os = "linux")] // which tells what a process takes

mod common;
#[path = "common/raw.rs"]
mod raw;

use std::{
    any::Any,
    io::Write,
    net::TcpStream,
    sync::atomic::{AtomicUsize, Ordering},
};

use common::Serve;
use raw::Client;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

/// Resident memory in bytes.
fn resident(serve: &Serve) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", serve.process.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}

/// A room that nobody has been in.
fn fresh_room() -> String {
    static ROOMS: AtomicUsize = AtomicUsize::new(0);
    format!("room-{}", ROOMS.fetch_add(1, Ordering::Relaxed))
}

/// Two strangers to the attack find each other and exchange an offer.
fn others_are_served(serve: &Serve) {
    let room = fresh_room();
    let _alice = Client::member(serve, &room, "alice");
    let mut bob = Client::member(serve, &room, "bob");
    let offer = json!({"to": "alice", "request_id": "r", "sdp": "v=0"});
    let answer = bob.call("peer.offer", &offer).unwrap();
    assert_eq!(answer["result"]["status"], "forwarded", "{answer}");
}

/// Runs an attack twice, so that what the server makes once and for all is not counted, and gives
/// by how much it grew the second time.
fn growth(serve: &Serve, attack: impl Fn() -> u64) -> u64 {
    attack();
    others_are_served(serve);
    let before = resident(serve);
    let most = attack();
    others_are_served(serve);
    most.saturating_sub(before)
}

/// What so many connections, begun like this and then left alone, add to a server: bytes for each.
fn cost(name: &str, begin: impl Fn(&Serve) -> Box<dyn Any>) {
    const CONNECTIONS: usize = 400;
    // One of its own, for what earlier connections have given back would serve the next.
    let serve = Serve::with("--open");
    others_are_served(&serve);
    let before = resident(&serve);
    let _held: Vec<_> = (0..CONNECTIONS).map(|_| begin(&serve)).collect();
    others_are_served(&serve);
    let grown = resident(&serve).saturating_sub(before) / CONNECTIONS as u64;
    eprintln!("{name}: {grown} bytes a connection");
    assert!(grown <= 16 * 1024, "{name}: {grown} bytes a connection");
}

#[test]
fn a_connection_that_proves_nothing_costs_16_kb_at_most() {
    cost("silent", |serve| {
        Box::new(TcpStream::connect(&serve.address).unwrap())
    });
    cost("half a header", |serve| {
        let mut stream = TcpStream::connect(&serve.address).unwrap();
        let half = b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nX: ";
        stream.write_all(half).unwrap();
        Box::new(stream)
    });
    cost("not announced", |serve| Box::new(Client::connect(serve)));
}

#[test]
fn a_peer_that_does_not_read_costs_256_kb_at_most_and_is_put_out() {
    const READERS: usize = 20;
    let serve = Serve::with("--open --max-connections-per-address 10000 --message-burst 10000");
    let sdp = "x".repeat(30 * 1024);
    let attack = || {
        let pairs = |_| {
            let room = fresh_room();
            let sloth = Client::member(&serve, &room, "sloth");
            (sloth, Client::member(&serve, &room, "sender"))
        };
        let mut pairs: Vec<_> = (0..READERS).map(pairs).collect();
        let mut most = 0;
        let mut open: Vec<usize> = (0..READERS).collect();
        // All at once, so that as much as can be is held at the same time.
        for round in 0..2000 {
            let offer = json!({"to": "sloth", "request_id": format!("r{round}"), "sdp": sdp});
            open.retain(|n| {
                let answer = pairs[*n].1.call("peer.offer", &offer).unwrap();
                answer["error"].is_null()
            });
            most = most.max(resident(&serve));
            if open.is_empty() {
                return most;
            }
        }
        panic!("{} readers are still there", open.len());
    };
    let grown = growth(&serve, attack) / READERS as u64;
    eprintln!("{grown} bytes a reader");
    assert!(grown <= 256 * 1024, "{grown} bytes a reader");
}

#[test]
fn a_peer_that_comes_back_and_does_not_read_costs_256_kb_at_most_too() {
    const READERS: usize = 20;
    let serve = Serve::with("--open --max-connections-per-address 10000 --message-burst 10000");
    let sdp = "x".repeat(15 * 1024);
    let send = |sender: &mut Client, n: usize| {
        let offer = json!({"to": "sloth", "request_id": format!("r{n}"), "sdp": sdp});
        sender.call("peer.offer", &offer).unwrap()
    };
    let attack = || {
        let mut trios: Vec<_> = (0..READERS)
            .map(|_| {
                let room = fresh_room();
                let mut sloth = Client::connect(&serve);
                let joined = sloth.announce(&room, "sloth", &json!(null));
                let senders = ["one", "two"].map(|name| Client::member(&serve, &room, name));
                (
                    room,
                    Some(sloth),
                    joined["result"]["resume"].clone(),
                    senders,
                )
            })
            .collect();
        for (room, sloth, resume, senders) in &mut trios {
            // As much waits as can, of which no sender has more than half.
            *sloth = None;
            for sender in senders.iter_mut() {
                let sent = (0..1000).take_while(|n| send(sender, *n)["error"]["code"] != -32011);
                assert!(sent.count() < 1000);
            }
            let mut back = Client::connect(&serve);
            let joined = back.announce(room, "sloth", resume);
            assert_eq!(joined["result"]["resumed"], true, "{joined}");
            *sloth = Some(back);
        }
        let mut most = resident(&serve);
        let mut open: Vec<usize> = (0..READERS).collect();
        for round in 1000..5000 {
            open.retain(|n| send(&mut trios[*n].3[0], round)["error"].is_null());
            most = most.max(resident(&serve));
            if open.is_empty() {
                return most;
            }
        }
        panic!("{} readers are still there", open.len());
    };
    let grown = growth(&serve, attack) / READERS as u64;
    eprintln!("{grown} bytes a reader that came back");
    assert!(grown <= 256 * 1024, "{grown} bytes a reader that came back");
}

#[test]
fn large_messages_to_nobody_leave_nothing_behind() {
    let serve = Serve::with("--open --max-connections-per-address 10000 --message-burst 10000");
    let bomb = "x".repeat(1 << 20);
    let beyond_the_bound = || {
        for _ in 0..400 {
            let mut client = Client::connect(&serve);
            let offer = json!({"jsonrpc": "2.0", "id": 1, "method": "peer.offer",
                "params": {"to": "nobody", "request_id": "r", "sdp": bomb}});
            // The server closes while we still write.
            let _ = client.socket.send(Message::text(offer.to_string()));
        }
        resident(&serve)
    };
    let grown = growth(&serve, beyond_the_bound);
    eprintln!("400 messages of 1 MiB: {grown} bytes");
    assert!(grown <= 4 << 20, "400 messages of 1 MiB: {grown} bytes");

    let sdp = "x".repeat(32 * 1024);
    let within_it = || {
        let mut mallory = Client::member(&serve, &fresh_room(), "mallory");
        for n in 0..400 {
            let offer = json!({"to": "nobody", "request_id": format!("r{n}"), "sdp": sdp});
            let answer = mallory.call("peer.offer", &offer).unwrap();
            assert_eq!(answer["error"]["code"], -32000, "{answer}");
        }
        resident(&serve)
    };
    let grown = growth(&serve, within_it);
    eprintln!("400 descriptions of 32 KiB: {grown} bytes");
    assert!(
        grown <= 4 << 20,
        "400 descriptions of 32 KiB: {grown} bytes"
    );
}

#[test]
fn descriptions_and_candidates_by_the_thousand_are_bounded_for_sender_and_target() {
    let serve = Serve::with("--open --max-connections-per-address 10000");
    let attack = || {
        // The target's socket is lost, and its place waits for it: what is sent is kept, and not for ever.
        let room = fresh_room();
        drop(Client::member(&serve, &room, "target"));
        let mut mallory = Client::member(&serve, &room, "mallory");
        let mut closed = false;
        for n in 0..3000 {
            let (method, params) = match n % 2 {
                0 => (
                    "peer.offer",
                    json!({"to": "target", "request_id": format!("r{n}"), "sdp": "x".repeat(8192)}),
                ),
                _ => (
                    "peer.ice_candidate",
                    json!({"to": "target", "request_id": format!("r{}", n - 1),
                    "candidate": "x".repeat(1024)}),
                ),
            };
            if mallory.call(method, &params).is_none() {
                closed = true;
                break;
            }
        }
        assert!(closed, "who does not slow down is closed");
        resident(&serve)
    };
    let grown = growth(&serve, attack);
    eprintln!("offers and candidates by the thousand: {grown} bytes");
    assert!(grown <= 2 << 20, "{grown} bytes");
}
