//! Operations on two signaling rooms, held against a model of each.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(room_ops);
