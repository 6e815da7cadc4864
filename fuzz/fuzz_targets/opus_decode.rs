//! Packets for the Opus decoder.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(opus_decode);
