//! A link whose other end knows the handshake and does not keep to it.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(handshake);
