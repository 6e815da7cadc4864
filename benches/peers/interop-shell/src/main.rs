//! The `webrtc` shell as a foreign peer: the same messages on stdin and stdout as `xtask/interop/peer.mjs`. It has no codec,
//! so that it sends the voice that it hears back instead of speaking itself.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // its failures are reported by whoever runs it

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rtc::{
    media_stream::MediaStreamTrack,
    peer_connection::configuration::{RTCOfferOptions, media_engine::MIME_TYPE_OPUS},
    rtp_transceiver::rtp_sender::{
        RTCRtpCodec, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};
use webrtc::{
    data_channel::{DataChannel, DataChannelEvent, RTCDataChannelInit},
    media_stream::{
        track_local::{TrackLocal, static_rtp::TrackLocalStaticRTP},
        track_remote::{TrackRemote, TrackRemoteEvent},
    },
    peer_connection::{
        MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler,
        RTCIceGatheringState, RTCSessionDescription, Registry, register_default_interceptors,
    },
    runtime::TokioRuntime,
};

const SSRC: u32 = 1;
/// Gathering takes a moment; after a restart it may not begin anew.
const GATHERING: Duration = Duration::from_secs(2);

/// What came of the voice.
#[derive(Default)]
struct Heard {
    packets: AtomicUsize,
    bytes: AtomicUsize,
}

struct Handler {
    gathered: UnboundedSender<()>,
    voice: Arc<TrackLocalStaticRTP>,
    heard: Arc<Heard>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            let _ = self.gathered.send(());
        }
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        if track.kind().await != RtpCodecKind::Audio {
            return;
        }
        let (voice, heard) = (self.voice.clone(), self.heard.clone());
        tokio::spawn(async move {
            while let Some(event) = track.poll().await {
                if let TrackRemoteEvent::OnRtpPacket(mut packet) = event {
                    heard.packets.fetch_add(1, Ordering::Relaxed);
                    heard
                        .bytes
                        .fetch_add(packet.payload.len(), Ordering::Relaxed);
                    packet.header.ssrc = SSRC;
                    if let Err(error) = voice.write_rtp(packet).await {
                        eprintln!("voice: {error}");
                    }
                }
            }
        });
    }
}

struct Peer {
    connection: Arc<dyn PeerConnection>,
    gathered: UnboundedReceiver<()>,
    voice: Arc<TrackLocalStaticRTP>,
    heard: Arc<Heard>,
    has_voice: bool,
}

fn say(message: &Value) {
    println!("{message}");
}

fn voice() -> TrackLocalStaticRTP {
    let encoding = RTCRtpEncodingParameters {
        rtp_coding_parameters: RTCRtpCodingParameters {
            ssrc: Some(SSRC),
            ..Default::default()
        },
        codec: RTCRtpCodec {
            mime_type: MIME_TYPE_OPUS.to_owned(),
            clock_rate: 48_000,
            channels: 2,
            ..Default::default()
        },
        ..Default::default()
    };
    let name = || "voice".to_owned();
    let kind = RtpCodecKind::Audio;
    TrackLocalStaticRTP::new(MediaStreamTrack::new(
        name(),
        name(),
        name(),
        kind,
        vec![encoding],
    ))
}

impl Peer {
    async fn new() -> Self {
        let mut media = MediaEngine::default();
        media.register_default_codecs().unwrap();
        let registry = register_default_interceptors(Registry::new(), &mut media).unwrap();
        let (done, gathered) = unbounded_channel();
        let (voice, heard) = (Arc::new(voice()), Arc::new(Heard::default()));
        let handler = Handler {
            gathered: done,
            voice: voice.clone(),
            heard: heard.clone(),
        };
        let connection = PeerConnectionBuilder::new()
            .with_media_engine(media)
            .with_interceptor_registry(registry)
            .with_handler(Arc::new(handler))
            .with_runtime(Arc::new(TokioRuntime))
            .with_udp_addrs(vec!["127.0.0.1:0".to_owned()])
            .build()
            .await
            .unwrap();
        for (label, id, reliable) in [
            ("control", 0, true),
            ("app", 4, true),
            ("app-fast", 5, false),
        ] {
            let init = RTCDataChannelInit {
                ordered: reliable,
                max_retransmits: (!reliable).then_some(0),
                negotiated: Some(id),
                ..Default::default()
            };
            let channel = connection
                .create_data_channel(label, Some(init))
                .await
                .unwrap();
            tokio::spawn(echo(label, channel));
        }
        Self {
            connection: Arc::new(connection),
            gathered,
            voice,
            heard,
            has_voice: false,
        }
    }

    async fn handle(&mut self, message: &Value) {
        let connection = self.connection.clone();
        match message["do"].as_str() {
            Some("offer") => {
                self.speak().await;
                let kind = RtpCodecKind::Video;
                connection
                    .add_transceiver_from_kind(kind, None)
                    .await
                    .unwrap();
                let offer = connection.create_offer(None).await.unwrap();
                self.describe("offer", offer).await;
            }
            Some("restart") => {
                let options = RTCOfferOptions {
                    ice_restart: true,
                    ..Default::default()
                };
                let offer = connection.create_offer(Some(options)).await.unwrap();
                self.describe("offer", offer).await;
            }
            Some("report") => {
                let packets = self.heard.packets.load(Ordering::Relaxed);
                // Nobody decodes it here: that it is longer than silence must do.
                let energy = self.heard.bytes.load(Ordering::Relaxed) > 20 * packets;
                say(&json!({ "report": { "packets": packets, "energy": u8::from(energy) } }));
            }
            _ => self.negotiate(message).await,
        }
    }

    async fn negotiate(&mut self, message: &Value) {
        let connection = self.connection.clone();
        if let Some(answer) = message["answer"].as_str() {
            let answer = RTCSessionDescription::answer(answer.to_owned()).unwrap();
            connection.set_remote_description(answer).await.unwrap();
        }
        if let Some(offer) = message["offer"].as_str() {
            let offer = RTCSessionDescription::offer(offer.to_owned()).unwrap();
            connection.set_remote_description(offer).await.unwrap();
            self.speak().await;
            let answer = connection.create_answer(None).await.unwrap();
            self.describe("answer", answer).await;
        }
    }

    async fn speak(&mut self) {
        if !std::mem::replace(&mut self.has_voice, true) {
            self.connection.add_track(self.voice.clone()).await.unwrap();
        }
    }

    async fn describe(&mut self, kind: &str, description: RTCSessionDescription) {
        self.connection
            .set_local_description(description)
            .await
            .unwrap();
        let _ = timeout(GATHERING, self.gathered.recv()).await;
        let description = self.connection.local_description().await.unwrap();
        say(&json!({ kind: description.sdp }));
    }
}

/// Sends back what comes; what comes on Control says why the link closes.
async fn echo(label: &str, channel: Arc<dyn DataChannel>) {
    while let Some(event) = channel.poll().await {
        let DataChannelEvent::OnMessage(message) = event else {
            continue;
        };
        if label == "control" {
            let goodbye: Value = serde_json::from_slice(&message.data).unwrap();
            say(&json!({ "closed": goodbye["close"]["code"] }));
        } else if message.is_string {
            let text = String::from_utf8(message.data.to_vec()).unwrap();
            channel.send_text(&text).await.unwrap();
        } else {
            channel.send(message.data).await.unwrap();
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut peer = Peer::new().await;
    say(&json!({ "ready": "webrtc 0.21.1" }));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        peer.handle(&serde_json::from_str(&line).unwrap()).await;
    }
}
