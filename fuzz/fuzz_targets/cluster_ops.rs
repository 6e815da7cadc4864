//! Operations on three signaling servers that share a room, and records and letters that anybody may have written.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(cluster_ops);
