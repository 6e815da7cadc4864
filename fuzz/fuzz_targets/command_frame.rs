//! Frames and genesis documents of the command log.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(command_frame);
