//! RTP and RTCP packets.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(rtp_packet);
