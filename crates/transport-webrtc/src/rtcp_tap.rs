//! Sees the RTCP of both directions (RFC 3550 §6). The core keeps inbound reports to itself, so an
//! interceptor next to the wire copies out what a link reports about itself.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use roundtable_core::{MediaClock, NtpTime};
use rtc::{
    interceptor::{Interceptor, Packet, StreamInfo, TaggedPacket},
    rtcp::{
        receiver_report::ReceiverReport, reception_report::ReceptionReport,
        sender_report::SenderReport,
    },
    sansio::Protocol,
    shared::error::Error,
};

/// Observations kept between two looks; more are dropped.
const MAX_OBSERVATIONS: usize = 64;

/// Something an RTCP packet said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Observation {
    /// The peer's sender report for its stream `ssrc`.
    Clock { ssrc: u32, clock: MediaClock },
    /// How the peer receives our stream `ssrc`: the share lost since its last report, in 1/256.
    Loss { ssrc: u32, fraction: u8 },
    /// The interarrival jitter that we report for the peer's stream `ssrc`, in timestamp units.
    Jitter { ssrc: u32, jitter: u32 },
}

/// The reading end of a [`RtcpTap`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Observations(Arc<Mutex<Vec<Observation>>>);

impl Observations {
    fn push(&self, observation: Observation) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MAX_OBSERVATIONS {
            all.push(observation);
        }
    }

    /// Everything seen since the last call.
    pub(crate) fn take(&self) -> Vec<Observation> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The interceptor. Passes everything on unchanged.
#[derive(Default)]
pub(crate) struct RtcpTap {
    observations: Observations,
    reads: VecDeque<TaggedPacket>,
    writes: VecDeque<TaggedPacket>,
}

impl RtcpTap {
    pub(crate) fn new(observations: Observations) -> Self {
        Self {
            observations,
            ..Self::default()
        }
    }
}

/// The report blocks of a sender or receiver report.
fn blocks(packet: &dyn rtc::rtcp::Packet) -> &[ReceptionReport] {
    let packet = packet.as_any();
    if let Some(report) = packet.downcast_ref::<ReceiverReport>() {
        &report.reports
    } else if let Some(report) = packet.downcast_ref::<SenderReport>() {
        &report.reports
    } else {
        &[]
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for RtcpTap {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = Error;
    type Time = Instant;

    fn handle_read(&mut self, message: TaggedPacket) -> Result<(), Error> {
        if let Packet::Rtcp(packets) = &message.message.packet {
            for packet in packets {
                if let Some(report) = packet.as_any().downcast_ref::<SenderReport>() {
                    self.observations.push(Observation::Clock {
                        ssrc: report.ssrc,
                        clock: MediaClock {
                            ntp: NtpTime(report.ntp_time),
                            timestamp: report.rtp_time,
                        },
                    });
                }
                for block in blocks(packet.as_ref()) {
                    self.observations.push(Observation::Loss {
                        ssrc: block.ssrc,
                        fraction: block.fraction_lost,
                    });
                }
            }
        }
        self.reads.push_back(message);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.reads.pop_front()
    }

    fn handle_write(&mut self, message: TaggedPacket) -> Result<(), Error> {
        if let Packet::Rtcp(packets) = &message.message.packet {
            for block in packets.iter().flat_map(|packet| blocks(packet.as_ref())) {
                self.observations.push(Observation::Jitter {
                    ssrc: block.ssrc,
                    jitter: block.jitter,
                });
            }
        }
        self.writes.push_back(message);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.writes.pop_front()
    }
}

impl Interceptor for RtcpTap {
    fn bind_local_stream(&mut self, _: &StreamInfo) {}
    fn unbind_local_stream(&mut self, _: &StreamInfo) {}
    fn bind_remote_stream(&mut self, _: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _: &StreamInfo) {}
}
