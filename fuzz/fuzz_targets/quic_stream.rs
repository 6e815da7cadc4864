//! What a QUIC peer sends on streams and in datagrams.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(quic_stream);
