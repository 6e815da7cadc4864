//! What was found out about keys and signatures, once for all the logs of a thread: for simulators, in which many peers
//! check the same frames. A verdict is a function of key, message and signature, so that nothing but time is saved.

use std::{cell::RefCell, collections::HashMap};

use roundtable_core::AuthorId;

use crate::{KeyError, PublicKey, SignatureError};

/// How many verdicts, and keys, are remembered. Full, all are forgotten.
const MAX_VERDICTS: usize = 1 << 16;
const MAX_KEYS: usize = 1 << 12;

/// A key, a hash of a message, and a signature.
pub(crate) type Case = [u8; 128];

#[derive(Default)]
struct Memo {
    keys: HashMap<AuthorId, Result<PublicKey, KeyError>>,
    verdicts: HashMap<Case, Result<(), SignatureError>>,
}

thread_local! {
    static MEMO: RefCell<Option<Memo>> = const { RefCell::new(None) };
}

/// Says whether this thread remembers from now on; what it remembers already is kept.
#[doc(hidden)]
pub fn __remember_verdicts(remember: bool) {
    MEMO.with_borrow_mut(|memo| {
        let known = memo.take().unwrap_or_default();
        *memo = remember.then_some(known);
    });
}

pub(crate) fn case(author: &AuthorId, digest: &[u8; 32], signature: &[u8; 64]) -> Case {
    let mut case = [0; 128];
    case[..32].copy_from_slice(author.as_bytes());
    case[32..64].copy_from_slice(digest);
    case[64..].copy_from_slice(signature);
    case
}

/// A key, checked unless it was before.
pub(crate) fn key(
    author: AuthorId,
    check: impl FnOnce() -> Result<PublicKey, KeyError>,
) -> Result<PublicKey, KeyError> {
    let known = MEMO.with_borrow(|memo| memo.as_ref()?.keys.get(&author).copied());
    known.unwrap_or_else(|| {
        let key = check();
        MEMO.with_borrow_mut(|memo| {
            let keys = &mut memo.as_mut()?.keys;
            if keys.len() == MAX_KEYS {
                keys.clear();
            }
            keys.insert(author, key)
        });
        key
    })
}

/// The verdicts on these; they are found only if one of them is not known.
pub(crate) fn verdicts(
    cases: &[Case],
    find: impl FnOnce() -> Vec<Result<(), SignatureError>>,
) -> Vec<Result<(), SignatureError>> {
    let known: Option<Vec<_>> = MEMO.with_borrow(|memo| {
        let known = &memo.as_ref()?.verdicts;
        cases.iter().map(|case| known.get(case).copied()).collect()
    });
    known.unwrap_or_else(|| {
        let found = find();
        MEMO.with_borrow_mut(|memo| {
            let known = &mut memo.as_mut()?.verdicts;
            if known.len() + cases.len() > MAX_VERDICTS {
                known.clear();
            }
            known.extend(cases.iter().copied().zip(found.iter().copied()));
            Some(())
        });
        found
    })
}
