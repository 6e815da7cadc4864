//! Pushing, popping and skipping in a jitter buffer.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(jitter_ops);
