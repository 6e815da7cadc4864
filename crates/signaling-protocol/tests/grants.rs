//! What passes for a grant, and everything that people have tried to pass for one.

#![allow(clippy::unwrap_used)] // helpers of tests, too

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use roundtable_core::{PeerId, RoomId, WallTime};
use roundtable_signaling_protocol::{
    Capabilities, Capability, Grant, GrantError, GrantKey, GrantVerifier, Media, MediaSet, Role,
    limits,
};
use serde_json::{Value, json};

const NOW_S: u64 = 1_800_000_000;
const SEED: [u8; 32] = [7; 32];

fn now() -> WallTime {
    WallTime::from_millis(NOW_S * 1000)
}

fn key() -> GrantKey {
    GrantKey::from_seed(&SEED)
}

fn verifier() -> GrantVerifier {
    GrantVerifier::new("here", "here", [key().public()])
}

fn grant() -> Grant {
    Grant {
        peer_id: PeerId::new("alice").unwrap(),
        room: RoomId::new("demo").unwrap(),
        role: Role::Editor,
        can: [Media::Data, Media::Audio].into_iter().collect(),
        expires: WallTime::from_millis((NOW_S + 600) * 1000),
    }
}

fn header() -> Value {
    json!({"alg": "EdDSA", "typ": "JWT", "kid": key().id()})
}

fn claims() -> Value {
    json!({"iss": "here", "aud": "here", "sub": "alice", "exp": NOW_S + 600, "room": "demo",
        "role": "editor", "can": ["data", "audio"]})
}

/// A token with the right key's signature over anything.
fn signed(header: &str, claims: &str) -> String {
    let parts = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    let signed = parts.join(".");
    let signature = SigningKey::from_bytes(&SEED).sign(signed.as_bytes());
    let signature = BASE64_URL_SAFE_NO_PAD.encode(signature.to_bytes());
    format!("{signed}.{signature}")
}

fn verdict(token: &str) -> Result<Grant, GrantError> {
    verifier().verify(now(), token).map(|(grant, _)| grant)
}

fn with(mut object: Value, member: &str, value: Value) -> String {
    object[member] = value;
    object.to_string()
}

#[test]
fn a_grant_survives_the_way_and_names_its_key() {
    let token = key().sign("here", "here", &grant());
    assert!(token.len() < limits::MAX_GRANT_LEN / 4, "{}", token.len());
    let (verified, id) = verifier().verify(now(), &token).unwrap();
    assert_eq!((verified, &id), (grant(), key().id()));
    assert!(verifier().knows(&id));
    // Written by hand, it is the same.
    assert_eq!(
        verdict(&signed(&header().to_string(), &claims().to_string())),
        Ok(grant())
    );
}

#[test]
fn no_other_algorithm_counts_and_no_signature_is_none() {
    let body = BASE64_URL_SAFE_NO_PAD.encode(claims().to_string());
    for (algorithm, expected) in [
        ("none", GrantError::Algorithm),
        ("None", GrantError::Algorithm),
        ("HS256", GrantError::Algorithm),
        ("eddsa", GrantError::Algorithm),
    ] {
        let head = with(header(), "alg", json!(algorithm));
        // Unsigned, and signed by the right key all the same.
        let unsigned = format!("{}.{body}.", BASE64_URL_SAFE_NO_PAD.encode(&head));
        assert_eq!(verdict(&unsigned), Err(expected), "{algorithm}");
        assert_eq!(
            verdict(&signed(&head, &claims().to_string())),
            Err(expected)
        );
    }
    let stripped = signed(&header().to_string(), &claims().to_string());
    let stripped = &stripped[..=stripped.rfind('.').unwrap()];
    assert_eq!(verdict(stripped), Err(GrantError::Signature));
}

#[test]
fn the_public_key_as_an_hmac_secret_opens_nothing() {
    // Key confusion: the verifier's public bytes used as the secret of HS256.
    use hmac::{Hmac, Mac};
    for algorithm in ["HS256", "EdDSA"] {
        let parts = [
            with(header(), "alg", json!(algorithm)),
            claims().to_string(),
        ];
        let text = parts
            .map(|part| BASE64_URL_SAFE_NO_PAD.encode(part))
            .join(".");
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(&key().public()).unwrap();
        mac.update(text.as_bytes());
        let tag = mac.finalize().into_bytes();
        let mut padded = [0; 64];
        padded[..tag.len()].copy_from_slice(&tag);
        for tag in [&tag[..], &padded] {
            let token = format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag));
            assert!(verdict(&token).is_err(), "{algorithm}");
        }
    }
}

#[test]
fn a_key_that_the_token_brings_along_is_not_looked_at() {
    let mallory = SigningKey::from_bytes(&[9; 32]);
    let jwk = json!({"kty": "OKP", "crv": "Ed25519",
        "x": BASE64_URL_SAFE_NO_PAD.encode(mallory.verifying_key().as_bytes())});
    for (member, value) in [
        ("jwk", jwk),
        ("jku", json!("https://mallory.example/keys")),
        ("x5c", json!([])),
        ("crit", json!(["b64"])),
        ("b64", json!(false)),
    ] {
        let token = signed(&with(header(), member, value), &claims().to_string());
        assert_eq!(verdict(&token), Err(GrantError::Malformed), "{member}");
    }
    let own = GrantKey::from_seed(&[9; 32]);
    let foreign = own.sign("here", "here", &grant());
    assert_eq!(verdict(&foreign), Err(GrantError::UnknownKey));
    // The same signature under our key's name.
    let (_, rest) = foreign.split_once('.').unwrap();
    let head = BASE64_URL_SAFE_NO_PAD.encode(header().to_string());
    assert_eq!(
        verdict(&format!("{head}.{rest}")),
        Err(GrantError::Signature)
    );
}

#[test]
fn every_changed_byte_spoils_a_token() {
    let token = key().sign("here", "here", &grant());
    for at in 0..token.len() {
        for byte in [b'A', b'B', b'.', b'-'] {
            let mut changed = token.clone().into_bytes();
            if changed[at] != byte {
                changed[at] = byte;
                let changed = String::from_utf8(changed).unwrap();
                assert!(verdict(&changed).is_err(), "byte {at}: {changed}");
            }
        }
    }
}

#[test]
fn each_claim_is_needed_once_and_right() {
    let refused = |member: &str, value: Value| {
        let token = signed(&header().to_string(), &with(claims(), member, value));
        verdict(&token).unwrap_err()
    };
    assert_eq!(refused("iss", json!("there")), GrantError::Issuer);
    assert_eq!(refused("aud", json!("there")), GrantError::Audience);
    assert_eq!(refused("aud", json!(["here"])), GrantError::Malformed);
    assert_eq!(refused("exp", json!(NOW_S)), GrantError::Expired);
    assert_eq!(refused("exp", json!(0)), GrantError::Expired);
    assert_eq!(refused("exp", json!(NOW_S + 631)), GrantError::TooLong);
    assert_eq!(refused("exp", json!(u64::MAX)), GrantError::TooLong);
    for value in [json!(-1), json!(1.9e9), json!("1900000000"), json!(null)] {
        assert_eq!(refused("exp", value), GrantError::Malformed);
    }
    assert_eq!(refused("sub", json!("a b")), GrantError::Malformed);
    assert_eq!(refused("role", json!("owner")), GrantError::Malformed);
    assert_eq!(refused("nbf", json!(0)), GrantError::Malformed);
    for member in ["iss", "aud", "sub", "exp", "room", "role", "can"] {
        let mut without = claims();
        without.as_object_mut().unwrap().remove(member);
        let token = signed(&header().to_string(), &without.to_string());
        assert_eq!(verdict(&token), Err(GrantError::Malformed), "{member}");
    }
    let twice = claims()
        .to_string()
        .replacen('{', r#"{"sub":"mallory","#, 1);
    let token = signed(&header().to_string(), &twice);
    assert_eq!(verdict(&token), Err(GrantError::Malformed));
}

#[test]
fn what_is_no_token_is_refused_whatever_it_is() {
    let long = "a".repeat(limits::MAX_GRANT_LEN + 1);
    let spaced = format!(" {}", key().sign("here", "here", &grant()));
    let padded = format!("{}=", key().sign("here", "here", &grant()));
    for token in [
        "", ".", "..", "...", "a.b.c", "e30.e30.", "W10.W10.", &long, &spaced, &padded,
    ] {
        assert_eq!(verdict(token), Err(GrantError::Malformed), "{token:.40}");
    }
}

#[test]
fn a_grant_covers_its_room_its_peer_and_what_it_allows() {
    let announce = |room: &str, name: &str, capability| {
        let (room, name) = (RoomId::new(room).unwrap(), PeerId::new(name).unwrap());
        let capabilities = Capabilities::from([Capability::Session, capability]);
        grant().covers(&room, &name, capabilities)
    };
    assert_eq!(announce("demo", "alice", Capability::Audio), Ok(()));
    assert_eq!(announce("demo", "alice", Capability::Quic), Ok(()));
    assert_eq!(
        announce("other", "alice", Capability::Data),
        Err(GrantError::WrongRoom)
    );
    assert_eq!(
        announce("demo", "bob", Capability::Data),
        Err(GrantError::WrongPeer)
    );
    let video = announce("demo", "alice", Capability::Video).unwrap_err();
    assert_eq!(video.to_string(), "the grant does not allow video");
}

#[test]
fn a_retired_key_counts_no_longer_and_weak_keys_never() {
    let next = GrantKey::from_seed(&[8; 32]);
    let token = key().sign("here", "here", &grant());
    let both = GrantVerifier::new("here", "here", [next.public(), key().public()]);
    assert!(both.verify(now(), &token).is_ok());
    let later = GrantVerifier::new("here", "here", [next.public()]);
    assert_eq!(
        later.verify(now(), &token).unwrap_err(),
        GrantError::UnknownKey
    );
    assert!(!later.knows(key().id()));
    // The neutral element: a signature under it verifies for many messages.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let weak = GrantVerifier::new("here", "here", [neutral]);
    let head = with(header(), "kid", json!("0100000000000000"));
    let token = signed(&head, &claims().to_string());
    assert_eq!(
        weak.verify(now(), &token).unwrap_err(),
        GrantError::UnknownKey
    );
}

#[test]
fn sets_of_media_are_what_their_names_say() {
    let none: MediaSet = [].into_iter().collect();
    assert_eq!(serde_json::to_value(none).unwrap(), json!([]));
    assert_eq!(
        serde_json::to_value(MediaSet::ALL).unwrap(),
        json!(["data", "audio", "video"])
    );
    assert!(!none.contains(Media::Data) && MediaSet::ALL.contains(Media::Video));
}
