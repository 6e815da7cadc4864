//! Snapshots of the command log: damaged ones, and such as hostile writers sign.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(snapshot);
