//! How a call is going: for an overlay, for metrics, for a person who asks why it sounds so.

use std::fmt;

use roundtable_core::{Bitrate, MetricsVisitor, Observe, PeerId};

use crate::{VoiceSenderStats, VoiceStats};

/// Where the time goes between a mouth and an ear, in milliseconds. What only the speaker knows is taken
/// to be as it is with us.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LatencyBreakdown {
    /// Capture: a block of the device.
    pub capture_ms: f32,
    /// A whole frame must be spoken before it can be sent.
    pub frame_ms: f32,
    /// The codec looks ahead.
    pub codec_ms: f32,
    /// The network: half a round trip.
    pub network_ms: f32,
    /// The jitter buffer.
    pub buffer_ms: f32,
    /// What waits to be played: a block, and the device's queue.
    pub playout_ms: f32,
}

impl LatencyBreakdown {
    /// All of it, in milliseconds.
    pub fn total_ms(&self) -> f32 {
        let Self {
            capture_ms,
            frame_ms,
            codec_ms,
            network_ms,
            buffer_ms,
            playout_ms,
        } = *self;
        capture_ms + frame_ms + codec_ms + network_ms + buffer_ms + playout_ms
    }

    /// Every stage by name, in the order of the way.
    pub fn stages(&self) -> [(&'static str, f32); 6] {
        [
            ("capture", self.capture_ms),
            ("frame", self.frame_ms),
            ("codec", self.codec_ms),
            ("network", self.network_ms),
            ("buffer", self.buffer_ms),
            ("playout", self.playout_ms),
        ]
    }
}

/// One remote voice.
#[derive(Debug, Clone, PartialEq)]
pub struct SpeakerDiagnostics {
    /// Who.
    pub peer: PeerId,
    /// What its receiver has seen so far.
    pub stats: VoiceStats,
    /// What came in the last second, payload only.
    pub bitrate: Bitrate,
    /// Where the time goes.
    pub latency: LatencyBreakdown,
    /// How loud it is played, 1 as it came: this user's volume times the room's.
    pub volume: f32,
    /// Packets dropped because it sent too many. Wraps at 2^64.
    pub flooded: u64,
    /// Whether it is muted for that now.
    pub muted_for_flood: bool,
    /// The share of our own voice that it reports lost, 0 to 1, smoothed.
    pub reported_loss: f32,
}

/// A room's voice at a moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VoiceDiagnostics {
    /// What is sent.
    pub sender: VoiceSenderStats,
    /// What was sent in the last second, payload only, to each listener.
    pub sent_bitrate: Bitrate,
    /// Everyone who was heard, by name.
    pub speakers: Vec<SpeakerDiagnostics>,
    /// Packets dropped because the voice task was behind. Wraps at 2^64.
    pub dropped: u64,
    /// Blocks that no recording has, as the disk was more than two seconds behind. Wraps at 2^64.
    pub recording_dropped: u64,
    /// How loud the mix is, in dB of full scale, root mean square; -200 for silence.
    pub mix_dbfs: f32,
}

impl VoiceDiagnostics {
    /// Those who speak now.
    pub fn active(&self) -> impl Iterator<Item = &SpeakerDiagnostics> {
        self.speakers.iter().filter(|speaker| speaker.stats.active)
    }
}

/// A few lines for a corner of the screen.
impl fmt::Display for VoiceDiagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sender = &self.sender;
        let state = match (sender.muted, sender.speaking) {
            (true, _) => "muted",
            (false, true) => "speaking",
            (false, false) => "silent",
        };
        let protection = match (sender.redundancy, sender.fec) {
            (0, false) => String::new(),
            (0, true) => ", FEC".to_owned(),
            (frames, _) => format!(", repeats {frames}"),
        };
        writeln!(
            f,
            "voice: {} of {} speak, we are {state} ({:.0} dB), {}{protection}",
            self.active().count(),
            self.speakers.len(),
            sender.level_dbfs.max(-99.0),
            self.sent_bitrate,
        )?;
        if self.recording_dropped > 0 {
            writeln!(f, "recordings miss {} blocks", self.recording_dropped)?;
        }
        for speaker in &self.speakers {
            let stats = &speaker.stats;
            let drift = stats.drift.map_or(0.0, |drift| drift.ppm);
            let note = match (speaker.muted_for_flood, stats.active) {
                (true, _) => " FLOODS",
                (false, true) => " *",
                (false, false) => "",
            };
            writeln!(
                f,
                "{}{note}: {}, {:.1} % lost, {} made up, jitter {:.0} ms, buffer {:.0} of {:.0} ms, \
                 drift {drift:+.0} ppm, {:.0} dB, {:.0} ms mouth to ear",
                speaker.peer,
                speaker.bitrate,
                stats.loss * 100.0,
                stats.concealed,
                stats.jitter_ms,
                stats.delay_ms,
                stats.target_ms,
                stats.level_dbfs.max(-99.0),
                speaker.latency.total_ms(),
            )?;
        }
        Ok(())
    }
}

impl Observe for VoiceDiagnostics {
    #[allow(clippy::cast_precision_loss)] // gauges are for people
    fn observe(&self, visitor: &mut dyn MetricsVisitor) {
        let sender = &self.sender;
        visitor.counter("voice_sent_packets", &[], sender.packets);
        visitor.counter("voice_sent_bytes", &[], sender.bytes);
        visitor.counter("voice_dropped_packets", &[], self.dropped);
        visitor.counter(
            "voice_recording_dropped_blocks",
            &[],
            self.recording_dropped,
        );
        visitor.gauge("voice_sent_level_dbfs", &[], sender.level_dbfs.into());
        visitor.gauge(
            "voice_expected_loss_ratio",
            &[],
            sender.expected_loss.into(),
        );
        visitor.gauge("voice_repeated_frames", &[], sender.redundancy as f64);
        visitor.gauge("voice_speaking", &[], f64::from(u8::from(sender.speaking)));
        visitor.gauge("voice_muted", &[], f64::from(u8::from(sender.muted)));
        visitor.gauge("voice_mix_level_dbfs", &[], self.mix_dbfs.into());
        visitor.gauge("voice_active_speakers", &[], self.active().count() as f64);
        for speaker in &self.speakers {
            speaker.observe(visitor);
        }
    }
}

impl Observe for SpeakerDiagnostics {
    fn observe(&self, visitor: &mut dyn MetricsVisitor) {
        let labels = [("peer", self.peer.as_str())];
        let stats = &self.stats;
        for (name, value) in [
            ("voice_received_packets", stats.packets),
            ("voice_received_bytes", stats.bytes),
            ("voice_lost_packets", stats.lost),
            ("voice_late_packets", stats.late),
            ("voice_duplicate_packets", stats.duplicates),
            ("voice_displaced_packets", stats.displaced),
            ("voice_recovered_packets", stats.recovered),
            ("voice_malformed_packets", stats.malformed),
            ("voice_flood_packets", self.flooded),
            ("voice_concealed_frames", stats.concealed),
            ("voice_quiet_frames", stats.quiet),
            ("voice_stretched_frames", stats.stretched),
        ] {
            visitor.counter(name, &labels, value);
        }
        for (name, value) in [
            ("voice_loss_ratio", stats.loss),
            ("voice_reported_loss_ratio", self.reported_loss),
            ("voice_jitter_ms", stats.jitter_ms),
            ("voice_playout_delay_ms", stats.delay_ms),
            ("voice_target_delay_ms", stats.target_ms),
            ("voice_level_dbfs", stats.level_dbfs),
            ("voice_volume_ratio", self.volume),
        ] {
            visitor.gauge(name, &labels, value.into());
        }
        visitor.gauge("voice_playout_rate_ratio", &labels, stats.rate);
        if let Some(drift) = stats.drift {
            visitor.gauge("voice_drift_ppm", &labels, drift.ppm);
        }
        for (stage, ms) in self.latency.stages() {
            let labels = [("peer", self.peer.as_str()), ("stage", stage)];
            visitor.gauge("voice_latency_ms", &labels, ms.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> VoiceDiagnostics {
        let stats = VoiceStats {
            packets: 100,
            lost: 3,
            concealed: 2,
            quiet: 7,
            duplicates: 5,
            displaced: 4,
            rate: 1.005,
            loss: 0.03,
            delay_ms: 25.0,
            active: true,
            ..VoiceStats::default()
        };
        let speaker = |name: &str, active| SpeakerDiagnostics {
            peer: name.parse().unwrap(),
            stats: VoiceStats { active, ..stats },
            bitrate: Bitrate::from_kbps(32),
            latency: LatencyBreakdown {
                capture_ms: 10.0,
                frame_ms: 20.0,
                codec_ms: 6.5,
                network_ms: 15.0,
                buffer_ms: 25.0,
                playout_ms: 30.0,
            },
            volume: 1.0,
            flooded: 0,
            muted_for_flood: false,
            reported_loss: 0.0,
        };
        VoiceDiagnostics {
            sender: VoiceSenderStats {
                muted: true,
                ..VoiceSenderStats::default()
            },
            speakers: vec![speaker("alice", true), speaker("bob", false)],
            ..VoiceDiagnostics::default()
        }
    }

    #[test]
    fn telemetry_overlay_displays_active_speakers() {
        let text = call().to_string();
        assert!(
            text.starts_with("voice: 1 of 2 speak, we are muted"),
            "{text}"
        );
        let alice = text.lines().nth(1).unwrap();
        for part in [
            "alice *:",
            "3.0 % lost",
            "2 made up",
            "buffer 25",
            "106 ms mouth to ear",
        ] {
            assert!(alice.contains(part), "{part}: {alice}");
        }
        assert!(text.lines().nth(2).unwrap().starts_with("bob: "));
    }

    #[test]
    fn a_recording_with_holes_says_so() {
        assert!(!call().to_string().contains("recordings"));
        let call = VoiceDiagnostics {
            recording_dropped: 3,
            ..call()
        };
        let text = call.to_string();
        assert_eq!(text.lines().nth(1), Some("recordings miss 3 blocks"));
    }

    #[test]
    fn voice_metrics_track_packet_loss_correctly() {
        #[derive(Default)]
        struct Seen(Vec<(String, f64)>);
        impl MetricsVisitor for Seen {
            fn counter(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: u64) {
                self.gauge(name, labels, value as f64);
            }
            fn gauge(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
                let labels: Vec<&str> = labels.iter().map(|(_, value)| *value).collect();
                self.0.push((format!("{name}/{}", labels.join("/")), value));
            }
        }
        let mut seen = Seen::default();
        call().observe(&mut seen);
        let value = |name: &str| {
            seen.0
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, v)| *v)
        };
        assert_eq!(value("voice_lost_packets/alice"), Some(3.0));
        assert_eq!(value("voice_received_packets/bob"), Some(100.0));
        assert!((value("voice_loss_ratio/alice").unwrap() - 0.03).abs() < 1e-6);
        assert_eq!(value("voice_latency_ms/alice/codec"), Some(6.5));
        assert_eq!(value("voice_active_speakers/"), Some(1.0));
        assert_eq!(value("voice_quiet_frames/alice"), Some(7.0));
        assert_eq!(value("voice_duplicate_packets/alice"), Some(5.0));
        assert_eq!(value("voice_displaced_packets/alice"), Some(4.0));
        assert_eq!(value("voice_playout_rate_ratio/alice"), Some(1.005));
        assert_eq!(value("voice_muted/"), Some(1.0));
        assert_eq!(value("voice_speaking/"), Some(0.0));
    }
}
