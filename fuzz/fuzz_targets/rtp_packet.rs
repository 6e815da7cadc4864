//! RTP packets, redundant audio (RFC 2198), and RTCP among them.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(rtp_packet);
