//! What a WebRTC peer and a TURN server say before anyone is known.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(sdp_and_candidates);
