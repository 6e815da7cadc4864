//! The in-memory link is held against what every link must do.

use roundtable_core::AuthorId;
use roundtable_transport::{Link, MemoryLink, conformance_tests};

async fn pair() -> (MemoryLink, MemoryLink) {
    MemoryLink::pair(None, None)
}

conformance_tests!(pair);

#[test]
fn each_end_reports_the_author_of_the_other() {
    let author = |byte| Some(AuthorId::from_bytes([byte; 32]));
    let (a, b) = MemoryLink::pair(author(1), author(2));
    assert_eq!(a.remote_author(), author(2));
    assert_eq!(b.remote_author(), author(1));
}
