//! What peers claim and deliver, in any order.
#![cfg_attr(fuzzing, no_main)]

roundtable_fuzz::program!(anti_entropy);
