//! Messages of the signaling protocol.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(signaling_message);
