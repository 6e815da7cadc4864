//! Opus (RFC 6716) by libopus, with in-band FEC (§2.1.7) and packet loss concealment (§4.4).

use std::time::Duration;

use opus::{Application, Bitrate as LibBitrate, Channels, Decoder, Encoder, ErrorCode, Signal};
use roundtable_core::{Bitrate, MediaCodec};

use crate::{
    AudioDecoder, AudioEncoder, AudioFormat, CodecConfigError, DecodeError, EncodeError, LastFrame,
};

/// The longest that one Opus packet lasts, in milliseconds (RFC 6716 §3.2.5).
pub const MAX_OPUS_FRAME_MS: usize = 120;

/// The largest packet that is ever made, in bytes: what one datagram of a link takes.
const MAX_PACKET_LEN: usize = 1100;

/// What the encoder should be best at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OpusUse {
    /// Intelligible speech. The codec itself delays by 6.5 ms.
    #[default]
    Voice,
    /// Faithful sound of any kind. The codec itself delays by 6.5 ms.
    Music,
    /// The codec delays by 2.5 ms only; FEC is not available, and speech needs a higher bit rate.
    LowDelay,
}

/// How to encode.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OpusConfig {
    /// See [`with_format`](Self::with_format).
    pub format: AudioFormat,
    /// See [`with_frame_duration`](Self::with_frame_duration).
    pub frame_duration: Duration,
    /// See [`with_bitrate`](Self::with_bitrate).
    pub bitrate: Bitrate,
    /// See [`with_complexity`](Self::with_complexity).
    pub complexity: u8,
    /// See [`with_fec`](Self::with_fec).
    pub fec: bool,
    /// See [`with_expected_loss`](Self::with_expected_loss).
    pub expected_loss: f32,
    /// See [`with_dtx`](Self::with_dtx).
    pub dtx: bool,
    /// See [`with_vbr`](Self::with_vbr).
    pub vbr: bool,
    /// See [`with_use`](Self::with_use).
    pub purpose: OpusUse,
}

impl Default for OpusConfig {
    fn default() -> Self {
        Self {
            format: AudioFormat::VOICE,
            frame_duration: Duration::from_millis(20),
            bitrate: Bitrate::from_kbps(32),
            complexity: 9,
            fec: true,
            expected_loss: 0.0,
            dtx: false,
            vbr: true,
            purpose: OpusUse::Voice,
        }
    }
}

impl OpusConfig {
    /// For playing music together and for games: frames of 10 ms and the codec's shortest delay, 48 kbit/s.
    pub fn low_latency() -> Self {
        Self::default()
            .with_use(OpusUse::LowDelay)
            .with_frame_duration(Duration::from_millis(10))
            .with_bitrate(Bitrate::from_kbps(48))
    }

    /// For thin lines: frames of 60 ms at 16 kbit/s, so that headers add little.
    pub fn low_bandwidth() -> Self {
        Self::default()
            .with_frame_duration(Duration::from_millis(60))
            .with_bitrate(Bitrate::from_kbps(16))
    }

    /// For instruments and recordings: sound of any kind at 96 kbit/s.
    pub fn music() -> Self {
        Self::default()
            .with_use(OpusUse::Music)
            .with_bitrate(Bitrate::from_kbps(96))
    }

    /// The samples' format. Default 48 kHz mono; 8, 12, 16, 24 or 48 kHz, one or two channels.
    #[must_use]
    pub fn with_format(mut self, format: AudioFormat) -> Self {
        self.format = format;
        self
    }

    /// How much goes into a packet. Default 20 ms; 10, 20, 40 or 60 ms. It delays by itself;
    /// halving it adds about 10 kbit/s of headers.
    #[must_use]
    pub fn with_frame_duration(mut self, duration: Duration) -> Self {
        self.frame_duration = duration;
        self
    }

    /// The bit rate aimed at, without headers. Default 32 kbit/s; 6 to 510 kbit/s.
    #[must_use]
    pub fn with_bitrate(mut self, bitrate: Bitrate) -> Self {
        self.bitrate = bitrate;
        self
    }

    /// How hard the encoder tries. Default 9; 0 to 10. CPU time about doubles over the range.
    #[must_use]
    pub fn with_complexity(mut self, complexity: u8) -> Self {
        self.complexity = complexity;
        self
    }

    /// Whether a packet also carries the one before it, coarsely, while loss is expected. Default
    /// on. It takes its bits from the same bit rate, so on a clean line it costs quality.
    #[must_use]
    pub fn with_fec(mut self, fec: bool) -> Self {
        self.fec = fec;
        self
    }

    /// The share of packets expected to be lost until
    /// [`set_expected_loss`](AudioEncoder::set_expected_loss) says better. Default 0; 0 to 1.
    /// At 0 no bits go into FEC.
    #[must_use]
    pub fn with_expected_loss(mut self, loss: f32) -> Self {
        self.expected_loss = loss;
        self
    }

    /// Whether the encoder itself may fall silent (discontinuous transmission): packets of 2 bytes or less need not be sent then.
    /// Default off: a voice activity detector decides.
    #[must_use]
    pub fn with_dtx(mut self, dtx: bool) -> Self {
        self.dtx = dtx;
        self
    }

    /// Whether a packet's size follows its content. Default on.
    #[must_use]
    pub fn with_vbr(mut self, vbr: bool) -> Self {
        self.vbr = vbr;
        self
    }

    /// What the encoder should be best at. Default [`OpusUse::Voice`].
    #[must_use]
    pub fn with_use(mut self, purpose: OpusUse) -> Self {
        self.purpose = purpose;
        self
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`CodecConfigError`] names the first setting that is out of range.
    pub fn validate(&self) -> Result<(), CodecConfigError> {
        channels(self.format)?;
        if ![10, 20, 40, 60]
            .map(Duration::from_millis)
            .contains(&self.frame_duration)
        {
            return Err(CodecConfigError::FrameDuration(self.frame_duration));
        }
        if self.complexity > 10 {
            return Err(CodecConfigError::Complexity(self.complexity));
        }
        if !(0.0..=1.0).contains(&self.expected_loss) {
            return Err(CodecConfigError::ExpectedLoss);
        }
        lib_bitrate(self.bitrate).map(|_| ())
    }
}

fn channels(format: AudioFormat) -> Result<Channels, CodecConfigError> {
    if ![8_000, 12_000, 16_000, 24_000, 48_000].contains(&format.sample_rate_hz) {
        return Err(CodecConfigError::SampleRate(format.sample_rate_hz));
    }
    match format.channels {
        1 => Ok(Channels::Mono),
        2 => Ok(Channels::Stereo),
        other => Err(CodecConfigError::Channels(other)),
    }
}

fn lib_bitrate(bitrate: Bitrate) -> Result<LibBitrate, CodecConfigError> {
    match i32::try_from(bitrate.bps()) {
        Ok(bps @ 6_000..=510_000) => Ok(LibBitrate::Bits(bps)),
        _ => Err(CodecConfigError::Bitrate(bitrate)),
    }
}

/// Encodes Opus. About 0.2 ms of CPU for 20 ms of speech.
#[derive(Debug)]
pub struct OpusEncoder {
    encoder: Encoder,
    config: OpusConfig,
    frame_len: usize,
    /// The next packet follows one of another encoder, from which it cannot be predicted.
    joins: bool,
}

impl OpusEncoder {
    /// Sets up an encoder.
    ///
    /// # Errors
    /// [`CodecConfigError`] names the setting that is out of range.
    pub fn new(config: &OpusConfig) -> Result<Self, CodecConfigError> {
        config.validate()?;
        let encoder = Self::configured(config).map_err(|_| CodecConfigError::Library)?;
        let mut this = Self {
            encoder,
            config: config.clone(),
            frame_len: config.format.samples_in(config.frame_duration),
            joins: false,
        };
        this.set_bitrate(config.bitrate)?;
        this.set_expected_loss(config.expected_loss);
        Ok(this)
    }

    /// What it is set up for. Bit rate and expected loss are as last set.
    pub fn config(&self) -> &OpusConfig {
        &self.config
    }

    /// Goes on with other settings from the next frame. The decoder notices nothing but the change itself:
    /// where it takes a fresh encoder (another format or use), that one first hears `recent`, the
    /// last samples in the new format, so that there is no hole where it begins; a whole new frame of them serves best, none
    /// is allowed. Such a change allocates.
    ///
    /// # Errors
    /// [`CodecConfigError`] names the setting that is out of range; the old ones then stay.
    pub fn reconfigure(
        &mut self,
        config: &OpusConfig,
        recent: &[f32],
    ) -> Result<(), CodecConfigError> {
        config.validate()?;
        if (config.format, config.purpose) != (self.config.format, self.config.purpose) {
            let mut fresh = Self::new(config)?;
            fresh.hear(recent);
            *self = fresh;
            return Ok(());
        }
        Self::adjust(&mut self.encoder, config).map_err(|_| CodecConfigError::Library)?;
        self.config = config.clone();
        self.frame_len = config.format.samples_in(config.frame_duration);
        self.set_bitrate(config.bitrate)?;
        self.set_expected_loss(config.expected_loss);
        Ok(())
    }

    /// Encodes the end of `recent` for nobody.
    fn hear(&mut self, recent: &[f32]) {
        let len = self.frame_len * usize::from(self.config.format.channels);
        for frame in recent[recent.len() % len..].chunks_exact(len) {
            // A frame that fails leaves the encoder as fresh as it was.
            let _ = self.encode(frame, &mut [0; MAX_PACKET_LEN]);
        }
        self.joins = self.encoder.set_prediction_disabled(true).is_ok();
    }

    fn configured(config: &OpusConfig) -> opus::Result<Encoder> {
        let application = match config.purpose {
            OpusUse::Voice => Application::Voip,
            OpusUse::Music => Application::Audio,
            OpusUse::LowDelay => Application::LowDelay,
        };
        let channels = if config.format.channels == 2 {
            Channels::Stereo
        } else {
            Channels::Mono
        };
        let mut encoder = Encoder::new(config.format.sample_rate_hz, channels, application)?;
        Self::adjust(&mut encoder, config)?;
        Ok(encoder)
    }

    /// The settings that may change at any time, but for bit rate and loss.
    fn adjust(encoder: &mut Encoder, config: &OpusConfig) -> opus::Result<()> {
        encoder.set_signal(match config.purpose {
            OpusUse::Voice => Signal::Voice,
            OpusUse::Music | OpusUse::LowDelay => Signal::Auto,
        })?;
        encoder.set_complexity(i32::from(config.complexity))?;
        encoder.set_vbr(config.vbr)?;
        encoder.set_dtx(config.dtx)
    }
}

impl AudioEncoder for OpusEncoder {
    fn codec(&self) -> MediaCodec {
        MediaCodec::Opus
    }

    fn format(&self) -> AudioFormat {
        self.config.format
    }

    fn frame_len(&self) -> usize {
        self.frame_len
    }

    fn encode(&mut self, samples: &[f32], packet: &mut [u8]) -> Result<usize, EncodeError> {
        let expected = self.frame_len * usize::from(self.config.format.channels);
        if samples.len() != expected {
            return Err(EncodeError::Length {
                expected,
                actual: samples.len(),
            });
        }
        let room = packet.len().min(MAX_PACKET_LEN);
        let encoded = self.encoder.encode_float(samples, &mut packet[..room]);
        if std::mem::take(&mut self.joins) {
            let _ = self.encoder.set_prediction_disabled(false);
        }
        encoded.map_err(|error| match error.code() {
            ErrorCode::BufferTooSmall | ErrorCode::BadArg => EncodeError::BufferTooSmall,
            _ => EncodeError::Library,
        })
    }

    fn set_bitrate(&mut self, bitrate: Bitrate) -> Result<(), CodecConfigError> {
        let rate = lib_bitrate(bitrate)?;
        self.encoder
            .set_bitrate(rate)
            .map_err(|_| CodecConfigError::Library)?;
        self.config.bitrate = bitrate;
        Ok(())
    }

    fn set_expected_loss(&mut self, loss: f32) {
        let loss = if loss.is_nan() {
            0.0
        } else {
            loss.clamp(0.0, 1.0)
        };
        self.config.expected_loss = loss;
        #[allow(clippy::cast_possible_truncation)] // at most 100
        let percent = (loss * 100.0).round() as i32;
        // Both calls only fail on an argument out of range.
        let _ = self.encoder.set_packet_loss_perc(percent);
        let _ = self.encoder.set_inband_fec(self.config.fec && percent > 0);
    }
}

/// Decodes Opus. About 0.06 ms of CPU for 20 ms of speech.
#[derive(Debug)]
pub struct OpusDecoder {
    decoder: Decoder,
    format: AudioFormat,
}

impl OpusDecoder {
    /// Sets up a decoder that gives `format`, whatever the packets were made from.
    ///
    /// # Errors
    /// [`CodecConfigError::SampleRate`] or [`CodecConfigError::Channels`].
    pub fn new(format: AudioFormat) -> Result<Self, CodecConfigError> {
        let decoder = Decoder::new(format.sample_rate_hz, channels(format)?)
            .map_err(|_| CodecConfigError::Library)?;
        Ok(Self { decoder, format })
    }

    fn run(&mut self, packet: &[u8], out: &mut [f32], fec: bool) -> Result<usize, DecodeError> {
        self.decoder
            .decode_float(packet, out, fec)
            .map_err(|error| decode_error(error.code()))
    }

    /// Lost audio is made in steps of 2.5 ms.
    fn check_gap(&self, samples: usize) -> Result<(), DecodeError> {
        let channels = usize::from(self.format.channels);
        let step = self.format.samples_in(Duration::from_micros(2_500)) * channels;
        let steps = samples / step;
        let longest = MAX_OPUS_FRAME_MS * 2 / 5;
        if samples == steps * step && (1..=longest).contains(&steps) {
            Ok(())
        } else {
            Err(DecodeError::Length(samples))
        }
    }
}

fn decode_error(code: ErrorCode) -> DecodeError {
    match code {
        ErrorCode::BufferTooSmall => DecodeError::BufferTooSmall,
        ErrorCode::InvalidPacket | ErrorCode::BadArg => DecodeError::Malformed,
        _ => DecodeError::Library,
    }
}

impl AudioDecoder for OpusDecoder {
    fn format(&self) -> AudioFormat {
        self.format
    }

    fn decode(&mut self, packet: &[u8], samples: &mut [f32]) -> Result<usize, DecodeError> {
        if packet.is_empty() {
            return Err(DecodeError::Empty); // libopus would conceal
        }
        self.run(packet, samples, false)
    }

    fn recover(&mut self, next: &[u8], samples: &mut [f32]) -> Result<usize, DecodeError> {
        if next.is_empty() {
            return Err(DecodeError::Empty);
        }
        self.check_gap(samples.len())?;
        self.run(next, samples, true)
    }

    /// Reads the LBRR flags (RFC 6716 §4.2.4) of the first frame, which stand at a fixed place: the
    /// range coder writes even odds as plain bits. Packets of more than two frames are not looked
    /// into.
    fn last_in(&self, packet: &[u8]) -> LastFrame {
        let [toc, body @ ..] = packet else {
            return LastFrame::Impossible;
        };
        let (configuration, stereo, code) = (toc >> 3, toc & 4 != 0, toc & 3);
        let frame = match code {
            0 | 1 => body,
            2 if body.first().is_some_and(|len| *len < 252) => &body[1..],
            _ => return LastFrame::Impossible,
        };
        // SILK frames in an Opus frame of 10, 20, 40, 60 ms; hybrid ones have 10 or 20 ms.
        let silk_frames = match configuration {
            0..=11 => [1, 1, 2, 3][usize::from(configuration % 4)],
            12..=15 => 1,
            _ => return LastFrame::Impossible,
        };
        let flags = frame.first().copied().unwrap_or(0);
        let bit = |place: u8| flags << place & 0x80 != 0;
        if bit(silk_frames) || (stereo && bit(2 * silk_frames + 1)) {
            LastFrame::Carried
        } else {
            LastFrame::LeftOut
        }
    }

    fn conceal(&mut self, samples: &mut [f32]) -> Result<usize, DecodeError> {
        self.check_gap(samples.len())?;
        self.run(&[], samples, false)
    }

    fn packet_len(&self, packet: &[u8]) -> Result<usize, DecodeError> {
        if packet.is_empty() {
            return Err(DecodeError::Empty);
        }
        self.decoder
            .get_nb_samples(packet)
            .map_err(|error| decode_error(error.code()))
    }

    fn reset(&mut self) {
        // Fails only on a decoder that was never set up.
        let _ = self.decoder.reset_state();
    }
}

/// Body of the fuzz target `opus_decode`: packets cut from `data`, decoded, recovered and concealed
/// by one decoder.
#[cfg(any(test, feature = "__fuzz"))]
#[doc(hidden)]
pub fn __fuzz_opus_decode(data: &[u8]) {
    let Ok(mut decoder) = OpusDecoder::new(AudioFormat::VOICE) else {
        return;
    };
    let mut samples = [0.0; 48 * MAX_OPUS_FRAME_MS];
    let mut rest = data;
    while let [action, len, tail @ ..] = rest {
        let (packet, tail) = tail.split_at(tail.len().min(usize::from(*len) * 5));
        rest = tail;
        let result = match action % 4 {
            0 | 1 => decoder.decode(packet, &mut samples),
            2 => decoder.recover(packet, &mut samples[..960]),
            _ => {
                let gap = samples.len().min(usize::from(*len) * 120);
                decoder.conceal(&mut samples[..gap])
            }
        };
        if let Ok(count) = result {
            assert!(count <= samples.len());
            assert!(samples[..count].iter().all(|sample| sample.is_finite()));
        }
        let _ = decoder.packet_len(packet);
    }
}

#[cfg(test)]
mod tests;
