//! Operations on three sessions, which must agree in the end.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(session_ops);
