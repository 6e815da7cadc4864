//! What links take apart: QUIC streams and datagrams, messages of WebRTC data channels.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(link_frame);
