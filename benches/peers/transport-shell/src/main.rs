//! The shell that comes with the core that our links drive by themselves: its own driver, and socket buffers as ours have
//! them (with the system's its throughput is a tenth). Two ends, each on a thread of its own with a runtime of one thread.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a bench may fail loudly

mod runtime;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use transport_common::{CHUNK, Load, SMALL, WARM_UP};
use webrtc::{
    data_channel::{DataChannel, DataChannelEvent, RTCDataChannelInit},
    peer_connection::{
        PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState,
        RTCSessionDescription,
    },
};

use crate::runtime::BigBuffers;

/// What is handed to the core at most before it is acknowledged; as our links have it.
const IN_FLIGHT: usize = 512 << 10;

fn main() {
    let load = Load::wanted();
    let (to_bob, from_alice) = unbounded_channel();
    let (to_alice, from_bob) = unbounded_channel();
    thread::scope(|scope| {
        scope.spawn(|| on_one_thread(answer(to_alice, from_alice, load)));
        scope.spawn(|| on_one_thread(ask(to_bob, from_bob, load)));
    });
}

fn on_one_thread(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(work);
}

struct Gathered(UnboundedSender<()>);

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Gathered {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            let _ = self.0.send(());
        }
    }
}

struct End {
    connection: Arc<dyn PeerConnection>,
    channel: Arc<dyn DataChannel>,
    gathered: UnboundedReceiver<()>,
}

impl End {
    async fn new() -> Self {
        let (done, gathered) = unbounded_channel();
        let connection = PeerConnectionBuilder::new()
            .with_handler(Arc::new(Gathered(done)))
            .with_runtime(Arc::new(BigBuffers::default()))
            .with_udp_addrs(vec!["127.0.0.1:0".to_owned()])
            .with_data_channel_send_buffer_limit(IN_FLIGHT)
            .build()
            .await
            .unwrap();
        let init = RTCDataChannelInit {
            negotiated: Some(0),
            ..Default::default()
        };
        let channel = connection
            .create_data_channel("bench", Some(init))
            .await
            .unwrap();
        Self {
            connection: Arc::new(connection),
            channel,
            gathered,
        }
    }

    async fn describe(&mut self, description: RTCSessionDescription) -> String {
        self.connection
            .set_local_description(description)
            .await
            .unwrap();
        self.gathered.recv().await.unwrap();
        self.connection.local_description().await.unwrap().sdp
    }

    async fn opened(&self) {
        while !matches!(self.channel.poll().await.unwrap(), DataChannelEvent::OnOpen) {}
    }

    async fn write(&self, message: BytesMut) {
        self.channel.send(message).await.unwrap();
    }

    async fn read(&self) -> Option<usize> {
        loop {
            match self.channel.poll().await? {
                DataChannelEvent::OnMessage(message) => return Some(message.data.len()),
                DataChannelEvent::OnClose | DataChannelEvent::OnClosing => return None,
                _ => {}
            }
        }
    }
}

fn message(len: usize) -> BytesMut {
    BytesMut::from(&vec![7; len][..])
}

async fn begin(to: &UnboundedSender<String>, from: &mut UnboundedReceiver<String>) -> End {
    let mut end = End::new().await;
    let offer = end.connection.create_offer(None).await.unwrap();
    to.send(end.describe(offer).await).unwrap();
    let answer = RTCSessionDescription::answer(from.recv().await.unwrap()).unwrap();
    end.connection.set_remote_description(answer).await.unwrap();
    end.opened().await;
    end
}

async fn ask(to: UnboundedSender<String>, mut from: UnboundedReceiver<String>, load: Load) {
    let mut opens = Vec::new();
    // Each takes half a second.
    for _ in 0..load.opens.min(20) {
        let start = Instant::now();
        let end = begin(&to, &mut from).await;
        from.recv().await.unwrap(); // open there, too
        opens.push(start.elapsed());
        end.connection.close().await.unwrap();
        to.send("closed".into()).unwrap();
    }
    transport_common::print_opens("shell", &mut opens);

    let end = begin(&to, &mut from).await;
    from.recv().await.unwrap();
    let mut trips: Vec<Duration> = Vec::new();
    for trip in 0..WARM_UP + load.trips {
        let small = message(SMALL);
        let start = Instant::now();
        end.write(small).await;
        end.read().await.unwrap();
        if trip >= WARM_UP {
            trips.push(start.elapsed());
        }
    }
    transport_common::print_trips("shell", &mut trips);

    let chunk = message(CHUNK);
    let start = Instant::now();
    for _ in 0..load.bulk / CHUNK {
        end.write(chunk.clone()).await;
    }
    end.read().await.unwrap(); // all is there
    transport_common::print_bulk("shell", load.bulk, start.elapsed());
    to.send("closed".into()).unwrap();
    end.connection.close().await.unwrap();
}

async fn answer(to: UnboundedSender<String>, mut from: UnboundedReceiver<String>, load: Load) {
    loop {
        // The asking end is done when it says nothing more.
        let Some(offer) = from.recv().await else {
            return;
        };
        let mut end = End::new().await;
        let offer = RTCSessionDescription::offer(offer).unwrap();
        end.connection.set_remote_description(offer).await.unwrap();
        let answer = end.connection.create_answer(None).await.unwrap();
        to.send(end.describe(answer).await).unwrap();
        end.opened().await;
        to.send("open".into()).unwrap();
        let mut missing = load.bulk;
        loop {
            let len = tokio::select! {
                biased;
                _ = from.recv() => break, // it is closed there
                len = end.read() => len,
            };
            let Some(len) = len else {
                from.recv().await;
                break;
            };
            if len == SMALL {
                end.write(message(SMALL)).await;
                continue;
            }
            missing -= len;
            if missing == 0 {
                end.write(message(SMALL)).await;
            }
        }
        let _ = end.connection.close().await;
    }
}
