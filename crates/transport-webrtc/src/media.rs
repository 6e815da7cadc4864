//! Voice and video as RTP: the tracks, their payload types, and sender reports built from capture
//! time (RFC 3550 §6.4.1).

use std::time::Instant;

use bytes::Bytes;
use roundtable_core::{Channel, MediaClock, MediaCodec, MediaPacket};
use roundtable_wire::rtp::{PayloadTypes, red_primary};
use rtc::{
    interceptor::{
        NackGeneratorBuilder, NackResponderBuilder, ReceiverReportBuilder, Registry, Slot,
    },
    media_stream::MediaStreamTrack,
    peer_connection::{
        RTCPeerConnection,
        configuration::{interceptor_registry::configure_twcc, media_engine::MediaEngine},
    },
    rtcp::{
        sender_report::SenderReport,
        source_description::{
            SdesType, SourceDescription, SourceDescriptionChunk, SourceDescriptionItem,
        },
    },
    rtp_transceiver::{
        RTCRtpSenderId,
        rtp_sender::{
            RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters,
            RTCRtpEncodingParameters, RtpCodecKind,
        },
    },
    shared::error::Error,
};

use crate::rtcp_tap::{Observations, RtcpTap};

/// The stream id that both tracks share, so that a browser plays them in sync.
const STREAM: &str = "roundtable";
/// Where the tap sits in the interceptor chain: next to the wire.
const TAP_SLOT: usize = 500;

/// Video packets that are kept to be sent again (RFC 4585 §6.2.1), a power of 2: a second of video of 2.5 Mbit/s, longer than a
/// repetition is of use. The core sets room for all of them aside, 140 bytes each, and by itself for four times as many.
const REPEATABLE: u16 = 256;

/// A codec as it is offered.
struct Offered {
    codec: MediaCodec,
    mime: &'static str,
    payload_type: u8,
    fmtp: &'static str,
}

/// The codecs we offer, preferred first. No RTX: the core unwraps it behind its NACK generator,
/// which then keeps asking for packets that were repaired long ago.
const OFFERED: [Offered; 5] = [
    Offered {
        codec: MediaCodec::Opus,
        mime: "audio/opus",
        payload_type: 111,
        fmtp: "minptime=10;useinbandfec=1",
    },
    Offered {
        codec: MediaCodec::OpusRed,
        mime: "audio/red",
        payload_type: 63,
        fmtp: "111/111",
    },
    Offered {
        codec: MediaCodec::Vp8,
        mime: "video/VP8",
        payload_type: 96,
        fmtp: "",
    },
    Offered {
        codec: MediaCodec::Vp9,
        mime: "video/VP9",
        payload_type: 98,
        fmtp: "profile-id=0",
    },
    Offered {
        codec: MediaCodec::H264,
        mime: "video/H264",
        payload_type: 102,
        fmtp: "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
    },
];

impl Offered {
    fn kind(&self) -> RtpCodecKind {
        match channel_of(self.codec) {
            Channel::Voice => RtpCodecKind::Audio,
            _ => RtpCodecKind::Video,
        }
    }

    fn parameters(&self) -> RTCRtpCodec {
        RTCRtpCodec {
            mime_type: self.mime.into(),
            clock_rate: self.codec.clock_rate_hz(),
            channels: if self.kind() == RtpCodecKind::Audio {
                2
            } else {
                0
            },
            sdp_fmtp_line: self.fmtp.into(),
            rtcp_feedback: vec![],
        }
    }
}

/// The codecs and the interceptors: NACK (video only; for voice a retransmission comes too late),
/// transport-wide feedback, receiver reports and our tap. Sender reports are ours: the built-in ones
/// stand for the time of sending.
pub(crate) fn engine(observations: Observations) -> Result<(MediaEngine, Registry), Error> {
    let mut media = MediaEngine::default();
    for offered in &OFFERED {
        let codec = RTCRtpCodecParameters {
            rtp_codec: offered.parameters(),
            payload_type: offered.payload_type,
        };
        media.register_codec(codec, offered.kind())?;
    }
    for parameter in ["", "pli"] {
        let feedback = RTCPFeedback {
            typ: "nack".into(),
            parameter: parameter.into(),
        };
        media.register_feedback(feedback, RtpCodecKind::Video);
    }
    let repeats = NackResponderBuilder::new().with_size(REPEATABLE).build();
    let registry = Registry::new()
        .with(Slot::NackResponder, repeats)
        .with(Slot::NackGenerator, NackGeneratorBuilder::new().build());
    let registry = configure_twcc(registry, &mut media)?
        .with(Slot::ReceiverReport, ReceiverReportBuilder::new().build())
        .with(Slot::from(TAP_SLOT), RtcpTap::new(observations));
    Ok((media, registry))
}

/// One outgoing stream.
#[derive(Debug)]
struct Track {
    sender: RTCRtpSenderId,
    ssrc: u32,
    /// Counters for sender reports; they wrap at 2^32 by definition.
    packets: u32,
    octets: u32,
}

/// Both outgoing streams and what was negotiated for them.
#[derive(Debug)]
pub(crate) struct Media {
    voice: Track,
    video: Track,
    /// The peer's streams, as announced or seen.
    remote: Vec<(u32, Channel)>,
    codecs: Codecs,
}

/// Which payload type stands for which codec, once negotiated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Codecs(Vec<(MediaCodec, u8)>);

impl Codecs {
    /// Whether media in this codec may be sent, if need be without its redundancy.
    pub(crate) fn takes(&self, codec: MediaCodec) -> bool {
        self.has(codec) || (codec == MediaCodec::OpusRed && self.has(MediaCodec::Opus))
    }

    /// Whether media in exactly this codec may be sent.
    pub(crate) fn has(&self, codec: MediaCodec) -> bool {
        self.payload_type(codec).is_some()
    }

    /// Blocks of redundant audio name their codec by number. Where the peer has another number for Opus
    /// than the one that is in them, it is sent without redundancy.
    fn check_redundancy(&mut self) {
        if self.payload_type(MediaCodec::Opus) != Some(PayloadTypes::default().opus) {
            self.0.retain(|(codec, _)| *codec != MediaCodec::OpusRed);
        }
    }

    /// Whether a channel has any codec at all.
    pub(crate) fn serves(&self, channel: Channel) -> bool {
        self.0
            .iter()
            .any(|(codec, _)| channel_of(*codec) == channel)
    }

    fn payload_type(&self, codec: MediaCodec) -> Option<u8> {
        let found = self.0.iter().find(|(known, _)| *known == codec);
        found.map(|(_, payload_type)| *payload_type)
    }

    fn codec(&self, payload_type: u8) -> Option<MediaCodec> {
        let found = self.0.iter().find(|(_, known)| *known == payload_type);
        found.map(|(codec, _)| *codec)
    }
}

/// The channel that a codec's packets travel on.
pub(crate) const fn channel_of(codec: MediaCodec) -> Channel {
    match codec {
        MediaCodec::Opus | MediaCodec::OpusRed => Channel::Voice,
        _ => Channel::Video,
    }
}

impl Media {
    /// Adds a voice and a video track, so that no renegotiation is ever needed.
    pub(crate) fn add_to(pc: &mut RTCPeerConnection, ssrcs: [u32; 2]) -> Result<Self, Error> {
        let mut add = |ssrc, offered: &Offered| {
            let encoding = RTCRtpEncodingParameters {
                rtp_coding_parameters: RTCRtpCodingParameters {
                    ssrc: Some(ssrc),
                    ..Default::default()
                },
                codec: offered.parameters(),
                ..Default::default()
            };
            let name = channel_of(offered.codec).name().to_owned();
            let kind = offered.kind();
            let track =
                MediaStreamTrack::new(STREAM.into(), name.clone(), name, kind, vec![encoding]);
            Ok::<_, Error>(Track {
                sender: pc.add_track(track)?,
                ssrc,
                packets: 0,
                octets: 0,
            })
        };
        let voice = add(ssrcs[0], &OFFERED[0])?;
        let video = add(ssrcs[1], &OFFERED[2])?;
        // Else only the codec that a track was added with is offered.
        let transceivers: Vec<_> = pc.get_transceivers().collect();
        for id in transceivers {
            if let Some(mut transceiver) = pc.rtp_transceiver(id) {
                transceiver.set_codec_preferences(vec![])?;
            }
        }
        Ok(Self {
            voice,
            video,
            remote: Vec::new(),
            codecs: Codecs::default(),
        })
    }

    /// Reads what both descriptions settled on.
    pub(crate) fn negotiated(&mut self, pc: &mut RTCPeerConnection, remote: Vec<(u32, Channel)>) {
        self.remote = remote;
        self.codecs.0.clear();
        for track in [&self.voice, &self.video] {
            let Some(mut sender) = pc.rtp_sender(track.sender) else {
                continue;
            };
            for codec in &sender.get_parameters().rtp_parameters.codecs {
                let mime = &codec.rtp_codec.mime_type;
                let offered = OFFERED.iter().find(|o| o.mime.eq_ignore_ascii_case(mime));
                if let Some(offered) = offered
                    && !self.codecs.has(offered.codec)
                {
                    self.codecs.0.push((offered.codec, codec.payload_type));
                }
            }
        }
        self.codecs.check_redundancy();
    }

    /// What was negotiated.
    pub(crate) fn codecs(&self) -> &Codecs {
        &self.codecs
    }

    fn track_mut(&mut self, channel: Channel) -> &mut Track {
        match channel {
            Channel::Video => &mut self.video,
            _ => &mut self.voice,
        }
    }

    /// The channel of one of our own streams.
    pub(crate) fn local_channel(&self, ssrc: u32) -> Option<Channel> {
        match ssrc {
            _ if ssrc == self.voice.ssrc => Some(Channel::Voice),
            _ if ssrc == self.video.ssrc => Some(Channel::Video),
            _ => None,
        }
    }

    /// The channel of one of the peer's streams.
    pub(crate) fn remote_channel(&self, ssrc: u32) -> Option<Channel> {
        let found = self.remote.iter().rfind(|(known, _)| *known == ssrc);
        found.map(|(_, channel)| *channel)
    }

    /// Sends one packet.
    pub(crate) fn send(
        &mut self,
        pc: &mut RTCPeerConnection,
        now: Instant,
        channel: Channel,
        mut packet: MediaPacket,
    ) -> Result<(), Error> {
        if packet.codec == MediaCodec::OpusRed && !self.codecs.has(packet.codec) {
            let primary = red_primary(&packet.payload);
            packet.payload = primary.map_err(|_| Error::ErrRTPTransceiverCodecUnsupported)?;
            packet.codec = MediaCodec::Opus;
        }
        let codec = (channel_of(packet.codec) == channel).then_some(packet.codec);
        let payload_type = codec
            .and_then(|codec| self.codecs.payload_type(codec))
            .ok_or(Error::ErrRTPTransceiverCodecUnsupported)?;
        let track = self.track_mut(channel);
        let octets = u32::try_from(packet.payload.len()).unwrap_or(u32::MAX);
        let header = rtc::rtp::Header {
            version: 2,
            marker: packet.marker,
            payload_type,
            sequence_number: packet.sequence,
            timestamp: packet.timestamp,
            ssrc: track.ssrc,
            ..Default::default()
        };
        let payload = packet.payload;
        pc.rtp_sender(track.sender)
            .ok_or(Error::ErrSenderWithNoSSRCs)?
            .write_rtp(now, rtc::rtp::Packet { header, payload })?;
        track.packets = track.packets.wrapping_add(1);
        track.octets = track.octets.wrapping_add(octets);
        Ok(())
    }

    /// Sends a sender report with the CNAME that both streams share.
    pub(crate) fn send_clock(
        &mut self,
        pc: &mut RTCPeerConnection,
        now: Instant,
        channel: Channel,
        clock: MediaClock,
    ) -> Result<(), Error> {
        let cname = format!("{:08x}", self.voice.ssrc);
        let track = self.track_mut(channel);
        let report = SenderReport {
            ssrc: track.ssrc,
            ntp_time: clock.ntp.0,
            rtp_time: clock.timestamp,
            packet_count: track.packets,
            octet_count: track.octets,
            ..Default::default()
        };
        let name = SourceDescription {
            chunks: vec![SourceDescriptionChunk {
                source: track.ssrc,
                items: vec![SourceDescriptionItem {
                    sdes_type: SdesType::SdesCname,
                    text: Bytes::from(cname),
                }],
            }],
        };
        pc.rtp_sender(track.sender)
            .ok_or(Error::ErrSenderWithNoSSRCs)?
            .write_rtcp(now, vec![Box::new(report), Box::new(name)])
    }

    /// Takes a packet from the peer. `None` if its payload type was not negotiated.
    pub(crate) fn receive(&mut self, packet: rtc::rtp::Packet) -> Option<(Channel, MediaPacket)> {
        let codec = self.codecs.codec(packet.header.payload_type)?;
        let channel = channel_of(codec);
        let ssrc = packet.header.ssrc;
        if self.remote_channel(ssrc).is_none() {
            // Never announced: the newest stream of a channel replaces the one before.
            self.remote.retain(|(_, known)| *known != channel);
            self.remote.push((ssrc, channel));
        }
        let packet = MediaPacket {
            sequence: packet.header.sequence_number,
            timestamp: packet.header.timestamp,
            marker: packet.header.marker,
            codec,
            payload: packet.payload,
        };
        Some((channel, packet))
    }
}
