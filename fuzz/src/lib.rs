//! The fuzz targets by name. Their bodies live in the crates, behind the feature `__fuzz`, where
//! they see what they need; here is only which bodies a target runs.
#![forbid(unsafe_code)]

/// A target: it must neither panic nor hang, whatever the bytes.
pub type Target = fn(&[u8]);

/// Every target, by the name of its file under `fuzz_targets` and of its folder under `corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("anti_entropy", anti_entropy),
    ("cluster_ops", cluster_ops),
    ("command_frame", command_frame),
    ("handshake", handshake),
    ("jitter_ops", jitter_ops),
    ("link_frame", link_frame),
    ("opus_decode", opus_decode),
    ("quic_stream", quic_stream),
    ("room_ops", room_ops),
    ("rtcp_packet", rtcp_packet),
    ("rtp_packet", rtp_packet),
    ("sdp_and_candidates", sdp_and_candidates),
    ("session_messages", session_messages),
    ("session_ops", session_ops),
    ("signaling_message", signaling_message),
    ("snapshot", snapshot),
    ("wire_envelope", wire_envelope),
];

pub use roundtable_command_log::__fuzz_frame as command_frame;
pub use roundtable_command_log::__fuzz_snapshot as snapshot;
pub use roundtable_media_codec::__fuzz_opus_decode as opus_decode;
pub use roundtable_session::__fuzz_anti_entropy as anti_entropy;
pub use roundtable_session::__fuzz_handshake as handshake;
pub use roundtable_session::__fuzz_session as session_messages;
pub use roundtable_session::__fuzz_session_ops as session_ops;
pub use roundtable_signaling_protocol::__fuzz_cluster_ops as cluster_ops;
pub use roundtable_signaling_protocol::__fuzz_message as signaling_message;
pub use roundtable_signaling_protocol::__fuzz_room_ops as room_ops;
pub use roundtable_sync::__fuzz_jitter_ops as jitter_ops;
pub use roundtable_transport_quic::__fuzz_quic as quic_stream;
pub use roundtable_transport_webrtc::__fuzz_sdp_and_candidates as sdp_and_candidates;
pub use roundtable_wire::__fuzz_rtcp as rtcp_packet;
pub use roundtable_wire::__fuzz_rtp as rtp_packet;

/// Everything of ours that comes in an envelope: control messages and the bodies of command frames.
pub fn wire_envelope(data: &[u8]) {
    roundtable_wire::__fuzz_commands(data);
    roundtable_wire::__fuzz_control(data);
}

/// What a link takes apart: a QUIC stream from end to end, a QUIC datagram, a message of a WebRTC data
/// channel. The first byte says which.
pub fn link_frame(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 3 {
        0 => roundtable_transport_quic::__fuzz_stream(rest),
        1 => roundtable_transport_quic::__fuzz_quic(rest),
        _ => roundtable_transport_webrtc::__fuzz_channel_message(rest),
    }
}

/// Makes a program of a target: under the fuzzer its entry point, otherwise one that runs the
/// target over the files named on the command line, so that a crash can be looked at in a debugger.
#[macro_export]
macro_rules! program {
    ($target:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::$target(data));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            for path in std::env::args_os().skip(1) {
                $crate::$target(&std::fs::read(path)?);
            }
            Ok(())
        }
    };
}
