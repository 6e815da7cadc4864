//! quinn as it is: one stream in each direction, a message being a length and so many bytes. Two ends, each on a thread of
//! its own with a runtime of one thread, TLS 1.3 by ring with a certificate, socket buffers as our links have them.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a bench may fail loudly

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use quinn::{
    ClientConfig, Endpoint, EndpointConfig, RecvStream, SendStream, ServerConfig, TokioRuntime,
};
use rustls::{RootCertStore, pki_types::PrivatePkcs8KeyDer};
use socket2::{Domain, Protocol, Socket, Type};
use transport_common::{CHUNK, Load, SMALL, SOCKET_BUFFER, WARM_UP};

const ALPN: &[u8] = b"bench";

fn main() {
    let load = Load::wanted();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let server = ServerConfig::with_crypto(Arc::new(tls));
    let (address, bound) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || on_one_thread(answer(server, address, load)));
        scope.spawn(move || on_one_thread(ask(roots, bound.recv().unwrap(), load)));
    });
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn on_one_thread(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(work);
}

fn endpoint(server: Option<ServerConfig>) -> Endpoint {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    let runtime = Arc::new(TokioRuntime);
    Endpoint::new(EndpointConfig::default(), server, socket.into(), runtime).unwrap()
}

async fn ask(roots: RootCertStore, to: SocketAddr, load: Load) {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = endpoint(None);
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(tls)));
    let connect = async || {
        let connection = endpoint.connect(to, "localhost").unwrap().await.unwrap();
        let mut send = connection.open_uni().await.unwrap();
        write(&mut send, &[7; SMALL]).await;
        let receive = connection.accept_uni().await.unwrap();
        (connection, send, receive)
    };
    let mut opens = Vec::new();
    let mut buffer = vec![0; CHUNK];
    for _ in 0..load.opens {
        let start = Instant::now();
        let (connection, _send, mut receive) = connect().await;
        read(&mut receive, &mut buffer).await;
        opens.push(start.elapsed());
        connection.close(0_u32.into(), b"");
    }
    transport_common::print_opens("quinn", &mut opens);

    let (connection, mut send, mut receive) = connect().await;
    read(&mut receive, &mut buffer).await;
    let mut trips: Vec<Duration> = Vec::new();
    for trip in 0..WARM_UP + load.trips {
        let start = Instant::now();
        write(&mut send, &[7; SMALL]).await;
        read(&mut receive, &mut buffer).await;
        if trip >= WARM_UP {
            trips.push(start.elapsed());
        }
    }
    transport_common::print_trips("quinn", &mut trips);

    let chunk = vec![7; CHUNK];
    let start = Instant::now();
    for _ in 0..load.bulk / CHUNK {
        write(&mut send, &chunk).await;
    }
    read(&mut receive, &mut buffer).await; // all is there
    transport_common::print_bulk("quinn", load.bulk, start.elapsed());
    connection.close(0_u32.into(), b"");
    endpoint.wait_idle().await;
}

async fn answer(server: ServerConfig, address: mpsc::Sender<SocketAddr>, load: Load) {
    let endpoint = endpoint(Some(server));
    address.send(endpoint.local_addr().unwrap()).unwrap();
    let mut buffer = vec![0; CHUNK];
    for _ in 0..=load.opens {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let mut receive = connection.accept_uni().await.unwrap();
        let mut send = connection.open_uni().await.unwrap();
        let mut missing = load.bulk;
        while let Some(len) = read(&mut receive, &mut buffer).await {
            if len == SMALL {
                write(&mut send, &buffer[..len]).await;
                continue;
            }
            missing -= len;
            if missing == 0 {
                write(&mut send, &[7; SMALL]).await;
            }
        }
    }
}

async fn write(stream: &mut SendStream, message: &[u8]) {
    let len = u32::try_from(message.len()).unwrap();
    stream.write_all(&len.to_le_bytes()).await.unwrap();
    stream.write_all(message).await.unwrap();
}

/// The length of the next message, or `None` at the end.
async fn read(stream: &mut RecvStream, buffer: &mut [u8]) -> Option<usize> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).await.ok()?;
    let len = u32::from_le_bytes(len) as usize;
    stream.read_exact(&mut buffer[..len]).await.ok()?;
    Some(len)
}
