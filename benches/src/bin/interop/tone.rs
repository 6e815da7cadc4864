//! A tone as a voice, and whether one is heard.

use std::{f32::consts::TAU, time::Duration};

use roundtable_core::{Channel, Frame, MediaCodec, MediaPacket};
use roundtable_media_codec::{
    AudioDecoder, AudioEncoder, AudioFormat, OpusConfig, OpusDecoder, OpusEncoder,
};
use roundtable_transport::Link;

use crate::Outcome;

const RATE: u16 = 48_000;
/// 20 ms.
const FRAME: u16 = 960;
const HERTZ: f32 = 440.0;
/// Of one second, at least so much is to be heard.
const PACKETS_PER_SECOND: u64 = 40;
/// Mean square of samples between -1 and 1; silence has none.
const AUDIBLE: f32 = 1e-5;

/// Speaks for so long. How many packets went out.
pub(crate) async fn speak(link: &impl Link, time: Duration) -> u64 {
    let mut encoder = OpusEncoder::new(&OpusConfig::default()).unwrap();
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let packets = u64::try_from(time.as_millis() / 20).unwrap();
    let mut out = [0; 1100];
    for (number, sequence) in (0..packets).zip(0_u16..) {
        tick.tick().await;
        // The tone has whole waves in each 10 ms, more or less: nobody judges its beauty.
        let sample = |at| 0.25 * (TAU * HERTZ * f32::from(at) / f32::from(RATE)).sin();
        let samples: Vec<f32> = (0..FRAME).map(sample).collect();
        let len = encoder.encode(&samples, &mut out).unwrap();
        let packet = MediaPacket {
            sequence,
            timestamp: u32::from(sequence) * u32::from(FRAME),
            marker: number == 0,
            codec: MediaCodec::Opus,
            payload: out[..len].to_vec().into(),
        };
        if link
            .send(Frame::media(Channel::Voice, packet))
            .await
            .is_err()
        {
            return number;
        }
    }
    packets
}

/// Counts what is heard, and how loud it is.
pub(crate) struct Ear {
    decoder: OpusDecoder,
    packets: u64,
    energy: f32,
}

impl Default for Ear {
    fn default() -> Self {
        Self {
            decoder: OpusDecoder::new(AudioFormat::VOICE).unwrap(),
            packets: 0,
            energy: 0.0,
        }
    }
}

impl Ear {
    pub(crate) fn listen(&mut self, packet: &MediaPacket) {
        let mut samples = [0.0; FRAME as usize];
        if packet.codec == MediaCodec::Opus
            && self.decoder.decode(&packet.payload, &mut samples).is_ok()
        {
            self.packets += 1;
            let squares: f32 = samples.iter().map(|sample| sample * sample).sum();
            self.energy += squares / f32::from(FRAME);
        }
    }

    /// Whether it was a voice, over so long a time.
    #[allow(clippy::cast_precision_loss)] // there are hundreds
    pub(crate) fn verdict(&self, time: Duration) -> Outcome<String> {
        let mean = self.energy / self.packets.max(1) as f32;
        let detail = format!("{} packets, mean square {mean:.5}", self.packets);
        if self.packets >= PACKETS_PER_SECOND * time.as_secs() && mean > AUDIBLE {
            Ok(detail)
        } else {
            Err(detail.into())
        }
    }
}
