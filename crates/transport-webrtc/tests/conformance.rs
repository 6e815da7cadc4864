//! The suite that every link passes.

mod common;

use roundtable_transport::conformance_tests;

conformance_tests!(common::pair);
