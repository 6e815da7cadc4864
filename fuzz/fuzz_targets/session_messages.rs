//! What members and strangers send to a session.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(session_messages);
