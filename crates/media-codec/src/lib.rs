#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod audio;
#[cfg(feature = "opus")]
mod opus;

pub use audio::{
    AudioDecoder, AudioEncoder, AudioFormat, AudioFrame, CodecConfigError, DecodeError,
    EncodeError, LastFrame,
};
#[cfg(feature = "opus")]
pub use opus::{MAX_OPUS_FRAME_MS, OpusConfig, OpusDecoder, OpusEncoder, OpusUse};

#[cfg(all(feature = "opus", any(test, feature = "__fuzz")))]
pub use opus::__fuzz_opus_decode;
