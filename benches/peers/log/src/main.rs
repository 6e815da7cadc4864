//! p2panda-core: what it costs to create an operation, and to validate one that came as bytes, per core.
//!
//! An operation is what a frame of one command is to us: signed, numbered, chained by hash. Payloads are those of
//! our own bench: 8 bytes of key, 24 of value.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a bench may fail loudly

use std::{hint::black_box, time::Instant};

use p2panda_core::{
    Body, Header, SigningKey, Timestamp,
    operation::{Operation, validate_backlink, validate_operation},
};

const OPERATIONS: usize = 2048;
const ROUNDS: usize = 20;

/// An operation as it travels: the encoded header, and the body.
type Encoded = (Vec<u8>, Vec<u8>);

fn main() {
    let key = SigningKey::from_bytes(&[1; 32]);
    let log = create(&key);
    print_figure("p2panda_create", &|| drop(black_box(create(&key))));
    print_figure("p2panda_validate", &|| validate(&log));
}

fn payload(number: usize) -> String {
    format!("key-{:04}{number:024}", number % 1000)
}

fn create(key: &SigningKey) -> Vec<Encoded> {
    let mut backlink = None;
    let mut next = |number: usize| {
        let body = Body::new(payload(number).as_bytes());
        let mut header = Header {
            version: 1,
            verifying_key: key.verifying_key(),
            signature: None,
            payload_size: body.size(),
            payload_hash: Some(body.hash()),
            timestamp: Timestamp::now(),
            seq_num: number as u64,
            backlink,
            extensions: (),
        };
        header.sign(key);
        backlink = Some(header.hash());
        (header.to_bytes(), body.to_bytes())
    };
    (0..OPERATIONS).map(&mut next).collect()
}

fn validate(log: &[Encoded]) {
    let mut previous: Option<Header> = None;
    for (header, body) in log {
        let header = Header::try_from(header.as_slice()).unwrap();
        let operation = Operation {
            hash: header.hash(),
            header,
            body: Some(Body::new(body)),
        };
        validate_operation(&operation).unwrap();
        if let Some(previous) = &previous {
            validate_backlink(previous, &operation.header).unwrap();
        }
        previous = Some(operation.header);
    }
    black_box(previous);
}

/// Prints how many operations a second `work` does: those of the fastest round.
#[allow(clippy::cast_precision_loss)]
fn print_figure(id: &str, work: &dyn Fn()) {
    let round = || {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    let seconds = (1..ROUNDS).fold(round(), |fastest, _| round().min(fastest));
    let rate = OPERATIONS as f64 / seconds;
    println!(r#"{{"id":"{id}","value":{rate},"unit":"operations/s"}}"#);
}
