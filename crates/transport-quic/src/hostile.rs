//! Peers that break the rules, over real sockets: raw QUIC connections with a valid key.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use quinn::{Connection, ConnectionError, SendStream};
use roundtable_core::{Channel, CloseCode, Frame};
use roundtable_transport::{Closed, Link};

use crate::{AcceptError, ConnectError, QuicConfig, QuicEndpoint, QuicLink, driver, tls::Identity};

const MALLORY: u8 = 66;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn config() -> QuicConfig {
    QuicConfig::default().with_bind("127.0.0.1:0".parse().unwrap())
}

fn endpoint(seed: u8) -> QuicEndpoint {
    QuicEndpoint::bind(config(), &key(seed)).unwrap()
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A QUIC connection to `to` as `identity`, with none of our own code behind it.
async fn dial(identity: &Identity, to: &QuicEndpoint) -> Result<Connection, ConnectionError> {
    let (tls, _) = identity.client(to.author()).unwrap();
    let raw = quinn::Endpoint::client(any_port()).unwrap();
    let client = quinn::ClientConfig::new(Arc::new(tls));
    let connecting = raw.connect_with(client, to.local_address(), "x").unwrap();
    connecting.await
}

/// A link of `victim` whose other end is a raw connection with its control stream open.
async fn infiltrate(victim: &QuicEndpoint) -> (QuicLink, Connection, SendStream) {
    let identity = Identity::new(&key(MALLORY)).unwrap();
    let raw = async {
        let connection = dial(&identity, victim).await.unwrap();
        let control = driver::open_stream(&connection, Channel::Control).await;
        (connection, control.unwrap())
    };
    let (link, (connection, control)) = tokio::join!(victim.accept_from(identity.author), raw);
    (link.unwrap(), connection, control)
}

/// What a hostile peer does once the link is up.
enum Attack {
    /// Bytes on the control stream.
    Control(&'static [u8]),
    /// Bytes on a stream of their own, which is then finished.
    Stream(&'static [u8]),
    Datagram(Vec<u8>),
}

async fn commit(attack: Attack, connection: &Connection, control: &mut SendStream) {
    match attack {
        Attack::Control(bytes) => control.write_all(bytes).await.unwrap(),
        Attack::Stream(bytes) => {
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream.finish().unwrap();
        }
        Attack::Datagram(bytes) => connection.send_datagram(bytes.into()).unwrap(),
    }
}

fn attacks() -> Vec<(&'static str, Attack, CloseCode)> {
    use Attack::{Control, Datagram, Stream};
    const PROTOCOL: CloseCode = CloseCode::PROTOCOL;
    vec![
        ("unknown channel", Stream(&[9]), PROTOCOL),
        ("datagram channel as a stream", Stream(&[3]), PROTOCOL),
        ("second control stream", Stream(&[0]), PROTOCOL),
        ("stream without a channel", Stream(&[]), PROTOCOL),
        ("unknown kind", Control(&[7, 0, 0, 0, 0]), PROTOCOL),
        ("text off App", Control(&[1, 1, 0, 0, 0, b'x']), PROTOCOL),
        ("not UTF-8", Stream(&[4, 1, 1, 0, 0, 0, 0xff]), PROTOCOL),
        ("cut-off header", Stream(&[4, 0, 1]), PROTOCOL),
        ("cut-off message", Stream(&[4, 0, 9, 0, 0, 0, 1]), PROTOCOL),
        (
            "endless message",
            Control(&[0, 0xff, 0xff, 0xff, 0xff]),
            CloseCode::TOO_LARGE,
        ),
        ("empty datagram", Datagram(vec![]), PROTOCOL),
        (
            "stream channel as a datagram",
            Datagram(vec![1, 1]),
            PROTOCOL,
        ),
        ("AppFast without kind", Datagram(vec![5]), PROTOCOL),
        ("text that is none", Datagram(vec![5, 1, 0xff]), PROTOCOL),
        ("no RTP", Datagram(vec![6, 1, 2, 3]), PROTOCOL),
        ("cut-off RTCP", Datagram(vec![7, 0x80, 200, 0, 9]), PROTOCOL),
        (
            "large datagram",
            Datagram([&[3][..], &[0; 1101]].concat()),
            CloseCode::TOO_LARGE,
        ),
    ]
}

#[tokio::test]
async fn malformed_bytes_cost_a_peer_its_link_and_nobody_else_theirs() {
    let (alice, bob) = (endpoint(1), endpoint(2));
    let addresses = [bob.local_address()];
    let (to_bob, to_alice) = tokio::join!(
        alice.connect(&addresses, bob.author()),
        bob.accept_from(alice.author()),
    );
    let (to_bob, to_alice) = (to_bob.unwrap(), to_alice.unwrap());
    for (name, attack, code) in attacks() {
        let (link, connection, mut control) = infiltrate(&bob).await;
        commit(attack, &connection, &mut control).await;
        let closed = link.recv().await.unwrap_err();
        assert_eq!((closed.code, closed.by_remote), (code, false), "{name}");
        let told = driver::why(connection.closed().await);
        assert_eq!(told, Closed::new(code, &closed.reason, true), "{name}");

        to_bob.send(Frame::text(Channel::App, name)).await.unwrap();
        assert_eq!(to_alice.recv().await, Ok(Frame::text(Channel::App, name)));
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_or_stopped_breaks_the_link() {
    let bob = endpoint(2);
    let (link, _connection, mut control) = infiltrate(&bob).await;
    control.reset(0_u32.into()).unwrap();
    assert_eq!(link.recv().await.unwrap_err().code, CloseCode::PROTOCOL);

    let (link, connection, _control) = infiltrate(&bob).await;
    let mut stream = connection.accept_uni().await.unwrap();
    stream.stop(0_u32.into()).unwrap();
    loop {
        // The writer meets the refusal with its next message.
        let sent = link.try_send(Frame::binary(Channel::Control, vec![1]));
        if sent.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(link.recv().await.unwrap_err().code, CloseCode::PROTOCOL);
}

#[tokio::test]
async fn media_of_an_unknown_codec_is_dropped_and_counted() {
    let bob = endpoint(2);
    let (link, connection, mut control) = infiltrate(&bob).await;
    let payload_type_5 = [6, 0x80, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0xaa];
    connection
        .send_datagram(Bytes::copy_from_slice(&payload_type_5))
        .unwrap();
    while link.stats().channel(Channel::Voice).dropped_frames == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    control.write_all(&[0, 1, 0, 0, 0, 42]).await.unwrap();
    let frame = link.recv().await;
    assert_eq!(frame, Ok(Frame::binary(Channel::Control, vec![42])));
}

#[tokio::test]
async fn a_stolen_public_key_is_worth_nothing() {
    let accept = config().with_accept_deadline(Duration::from_millis(500));
    let bob = QuicEndpoint::bind(accept, &key(2)).unwrap();
    let alice = Identity::new(&key(1)).unwrap();
    let thief = Identity::new(&key(MALLORY))
        .unwrap()
        .pretending_to_be(&alice);
    let theft = async {
        let connection = dial(&thief, &bob).await?;
        Err::<(), _>(connection.closed().await)
    };
    let (theft, accepted) = tokio::join!(theft, bob.accept_from(alice.author));
    assert!(
        matches!(theft, Err(ConnectionError::ConnectionClosed(_))),
        "TLS itself ends it: {theft:?}"
    );
    assert_eq!(accepted.unwrap_err(), AcceptError::Timeout);
}

#[tokio::test]
async fn a_first_stream_other_than_control_is_refused() {
    let bob = endpoint(2);
    let identity = Identity::new(&key(MALLORY)).unwrap();
    let connection = dial(&identity, &bob).await.unwrap();
    driver::open_stream(&connection, Channel::App)
        .await
        .unwrap();
    let closed = driver::why(connection.closed().await);
    assert_eq!((closed.code, closed.by_remote), (CloseCode::PROTOCOL, true));
}

#[tokio::test]
async fn another_version_of_the_protocol_is_told_apart() {
    let future = Identity::new(&key(9)).unwrap();
    let tls = future.server_of_the_future();
    let server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let server = quinn::Endpoint::server(server, any_port()).unwrap();
    let address = server.local_addr().unwrap();
    let accepting = async { server.accept().await.unwrap().await };
    let alice = endpoint(1);
    let addresses = [address];
    let (dialled, _) = tokio::join!(alice.connect(&addresses, future.author), accepting);
    assert_eq!(dialled.unwrap_err(), ConnectError::Version);
}

#[tokio::test]
async fn strangers_fill_the_waiting_room_but_not_the_door() {
    const STRANGERS: u8 = 40;
    let bob = endpoint(2);
    let mut inside = Vec::new();
    for seed in 100..100 + STRANGERS {
        let stranger = Identity::new(&key(seed)).unwrap();
        let connection = dial(&stranger, &bob).await.unwrap();
        driver::open_stream(&connection, Channel::Control)
            .await
            .unwrap();
        inside.push(connection);
    }
    let held = async {
        loop {
            let open = inside.iter().filter(|c| c.close_reason().is_none()).count();
            if open <= 16 {
                return open;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let held = tokio::time::timeout(Duration::from_secs(4), held).await;
    assert_eq!(held, Ok(16), "strangers within the bound are held");
    let alice = endpoint(1);
    let addresses = [bob.local_address()];
    let (dialled, accepted) = tokio::join!(
        alice.connect(&addresses, bob.author()),
        bob.accept_from(alice.author()),
    );
    dialled.unwrap();
    accepted.unwrap();
}

#[tokio::test]
async fn a_mirror_of_ourselves_is_refused() {
    let bob = endpoint(2);
    let mirror = Identity::new(&key(2)).unwrap();
    let connection = dial(&mirror, &bob).await.unwrap();
    let closed = driver::why(connection.closed().await);
    assert_eq!(closed.code, CloseCode::HANDSHAKE_REFLECTED);
}
