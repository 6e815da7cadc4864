//! RTCP compound packets.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(rtcp_packet);
