#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod audio;
#[cfg(feature = "opus")]
mod opus;

pub use audio::{
    AudioDecoder, AudioEncoder, AudioFormat, AudioFrame, CodecConfigError, DecodeError, EncodeError,
};
#[cfg(feature = "opus")]
pub use opus::{
    __fuzz_opus_decode, MAX_OPUS_FRAME_MS, OpusConfig, OpusDecoder, OpusEncoder, OpusUse,
};
