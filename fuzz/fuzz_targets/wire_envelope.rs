//! Envelopes of the wire.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(wire_envelope);
