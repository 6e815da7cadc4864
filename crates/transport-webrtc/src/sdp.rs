//! What we look at in a session description ourselves, before the core parses it.

use roundtable_core::{Channel, ChannelBinding};
use roundtable_signaling_protocol::IceCandidate;
use rtc::{ice::candidate::unmarshal_candidate, peer_connection::transport::RTCIceCandidateInit};

use crate::error::{ConnectError, MAX_CANDIDATE_LEN, MAX_CANDIDATES, MAX_SDP_LEN};

/// Context of the channel binding's hash.
const BINDING_CONTEXT: &[u8] = b"roundtable/webrtc-binding/v1";

/// A SHA-256 certificate fingerprint (RFC 8122 §5).
pub(crate) type Fingerprint = [u8; 32];

/// Checks a remote description's size, fingerprint, ICE credentials and number of candidates, which it returns.
pub(crate) fn check(sdp: &str) -> Result<usize, ConnectError> {
    if sdp.len() > MAX_SDP_LEN {
        return Err(ConnectError::SdpTooLarge(sdp.len()));
    }
    if !is_plain(sdp) {
        return Err(ConnectError::Sdp);
    }
    fingerprint(sdp)?;
    // They are in the checks that we send to where the peer wants them, so they must not be just any text.
    if !are_ice_chars(sdp, "a=ice-ufrag:", 4) || !are_ice_chars(sdp, "a=ice-pwd:", 22) {
        return Err(ConnectError::Sdp);
    }
    let candidates = attributes(sdp, "candidate:").count();
    if candidates > MAX_CANDIDATES {
        return Err(ConnectError::TooManyCandidates);
    }
    Ok(candidates)
}

/// Whether every parser sees the same attributes: the core forgives spaces and stray carriage
/// returns in front of a name, so a description with such would show it a fingerprint that we,
/// and so the channel binding, do not see.
fn is_plain(sdp: &str) -> bool {
    sdp.split('\n').all(|line| {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let mut chars = line.chars();
        match (chars.next(), chars.next()) {
            (None, _) => true,
            (Some('a'), Some('=')) => {
                let name = line[2..].split(':').next().unwrap_or_default();
                let token = |c: char| c.is_ascii_graphic() && !c.is_ascii_uppercase();
                !line.contains('\r') && name.chars().all(token)
            }
            (Some(kind), Some('=')) => kind.is_ascii_lowercase() && !line.contains('\r'),
            _ => false,
        }
    })
}

/// Whether the values of every such line are of `least` to 256 characters for ICE (RFC 8839 §5.4).
fn are_ice_chars(sdp: &str, start: &str, least: usize) -> bool {
    let is_ice = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let mut values = sdp.lines().filter_map(|line| line.strip_prefix(start));
    values.all(|value| (least..=256).contains(&value.len()) && value.bytes().all(is_ice))
}

/// The hash function that counts.
const HASH: &str = "sha-256";

/// The one SHA-256 fingerprint of a description. Those of other hash functions may stand beside it (RFC 8122 §5) and do
/// not count.
pub(crate) fn fingerprint(sdp: &str) -> Result<Fingerprint, ConnectError> {
    let all = attributes(sdp, "fingerprint:").map(str::to_ascii_lowercase);
    let (mut ours, others): (Vec<_>, Vec<_>) = all.partition(|one| one.starts_with(HASH));
    ours.sort_unstable();
    ours.dedup();
    match ours.as_slice() {
        [one] => parse_fingerprint(one).ok_or(ConnectError::FingerprintFormat),
        [] if !others.is_empty() => Err(ConnectError::FingerprintFormat),
        _ => Err(ConnectError::Fingerprints(ours.len())),
    }
}

/// A description as the core may see it: without the fingerprints that do not count. The core takes any certificate that
/// one of them fits, so that the channel binding would vouch for another than the one that was shown.
pub(crate) fn for_core(sdp: &str) -> String {
    let counts = |line: &&str| {
        let value = line.strip_prefix("a=fingerprint:");
        value.is_none_or(|value| value.to_ascii_lowercase().starts_with(HASH))
    };
    sdp.split_inclusive('\n').filter(counts).collect()
}

/// The ICE user fragment (RFC 8839 §5.4), which is another after a restart.
pub(crate) fn ufrag(sdp: &str) -> Option<String> {
    attributes(sdp, "ice-ufrag:").next().map(str::to_owned)
}

/// The candidates of a description, without `a=candidate:` (RFC 8839 §5.1).
pub(crate) fn candidates(sdp: &str) -> impl Iterator<Item = &str> {
    attributes(sdp, "candidate:")
}

/// Whether the side that wrote this answer awaits the DTLS handshake (RFC 8842 §5.2).
pub(crate) fn is_passive(answer: &str) -> bool {
    attributes(answer, "setup:").next() == Some("passive")
}

/// An answer that says which part we have in the DTLS session that goes on: the core says the one
/// that it would take in a new session.
pub(crate) fn with_dtls_role(answer: String, is_client: bool) -> String {
    match is_client {
        true => answer.replace("a=setup:passive\r\n", "a=setup:active\r\n"),
        false => answer,
    }
}

/// Checks a candidate of the peer's; `None` for the end of candidates.
pub(crate) fn candidate(
    candidate: &IceCandidate,
) -> Result<Option<RTCIceCandidateInit>, ConnectError> {
    if candidate.is_end() {
        return Ok(None);
    }
    let text = candidate.candidate.as_str();
    if text.len() > MAX_CANDIDATE_LEN {
        return Err(ConnectError::CandidateTooLarge(text.len()));
    }
    let value = text.strip_prefix("candidate:").unwrap_or(text);
    unmarshal_candidate(value).map_err(|_| ConnectError::Candidate)?;
    Ok(Some(RTCIceCandidateInit {
        candidate: text.to_owned(),
        ..Default::default()
    }))
}

/// Parses `sha-256 aa:bb:…`.
fn parse_fingerprint(text: &str) -> Option<Fingerprint> {
    let pairs = text.strip_prefix("sha-256 ")?.split(':');
    let bytes: Vec<u8> = pairs
        .map(|pair| {
            let hex = pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u8::from_str_radix(pair, 16).ok())?
        })
        .collect::<Option<_>>()?;
    bytes.try_into().ok()
}

/// The SSRCs that a description announces, with the channel they belong to (RFC 5576 §4.1).
pub(crate) fn ssrcs(sdp: &str) -> Vec<(u32, Channel)> {
    let mut section = None;
    let mut found = Vec::new();
    for line in sdp.lines() {
        if let Some(media) = line.strip_prefix("m=") {
            section = match media.split(' ').next() {
                Some("audio") => Some(Channel::Voice),
                Some("video") => Some(Channel::Video),
                _ => None,
            };
        } else if let (Some(rest), Some(channel)) = (line.strip_prefix("a=ssrc:"), section)
            && let Some(Ok(ssrc)) = rest.split(' ').next().map(str::parse)
            && !found.contains(&(ssrc, channel))
        {
            found.push((ssrc, channel));
        }
    }
    found
}

/// What both ends of a link derive from the two certificates, whoever offered.
pub(crate) fn binding(a: Fingerprint, b: Fingerprint) -> ChannelBinding {
    let mut hasher = blake3::Hasher::new();
    hasher.update(BINDING_CONTEXT);
    hasher.update(&a.min(b));
    hasher.update(&a.max(b));
    ChannelBinding::from_bytes(*hasher.finalize().as_bytes())
}

/// The values of every `a=` line that starts with `name`, at any level.
fn attributes<'a>(sdp: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    sdp.lines().filter_map(move |line| {
        let value = line.strip_prefix("a=")?.strip_prefix(name)?;
        Some(value.trim_end())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(byte: u8) -> String {
        let hex = vec![format!("{byte:02X}"); 32].join(":");
        format!("a=fingerprint:sha-256 {hex}\r\n")
    }

    #[test]
    fn one_fingerprint_may_be_repeated_but_not_joined_by_another() {
        let twice = format!("{}{}", line(0xab), line(0xab).to_ascii_lowercase());
        assert_eq!(fingerprint(&twice), Ok([0xab; 32]));
        let two = format!("{}{}", line(1), line(2));
        assert_eq!(fingerprint(&two), Err(ConnectError::Fingerprints(2)));
        assert_eq!(fingerprint(""), Err(ConnectError::Fingerprints(0)));
    }

    #[test]
    fn fingerprints_of_other_hash_functions_neither_count_nor_reach_the_core() {
        // As aiortc writes them: all of one certificate, it says.
        let others = "a=fingerprint:sha-384 AA:BB\r\na=fingerprint:SHA-512 CC:DD\r\n";
        let sdp = format!("v=0\r\n{}{others}a=setup:active\r\n", line(7));
        assert_eq!(fingerprint(&sdp), Ok([7; 32]));
        assert!(check(&sdp).is_ok());
        let expected = format!("v=0\r\n{}a=setup:active\r\n", line(7));
        assert_eq!(for_core(&sdp), expected);
        assert_eq!(fingerprint(others), Err(ConnectError::FingerprintFormat));
    }

    #[test]
    fn a_fingerprint_that_only_the_core_would_see_is_refused() {
        assert!(check(&line(1)).is_ok());
        let hidden = line(2).replace("a=", "");
        for disguise in ["a= ", "a=\t", "\ra=", "a=\r", " a=", "A=", "a =", "a=x\ra="] {
            let sdp = format!("v=0\r\n{disguise}{hidden}{}", line(1));
            assert_eq!(check(&sdp), Err(ConnectError::Sdp), "{disguise:?}");
        }
        let upper = hidden.replace("fingerprint", "Fingerprint");
        let sdp = format!("a={upper}{}", line(1));
        assert_eq!(check(&sdp), Err(ConnectError::Sdp));
    }

    #[test]
    fn credentials_are_of_ice_characters() {
        let with = |name: &str, value: &str| check(&format!("{}a={name}:{value}\r\n", line(1)));
        for (name, least) in [("ice-ufrag", 4), ("ice-pwd", 22)] {
            for good in ["aZ09+/".repeat(5), "a".repeat(least), "a".repeat(256)] {
                assert_eq!(with(name, &good), Ok(0), "{good}");
            }
            let spaced = "flush_all ".repeat(5);
            let behind = "a".repeat(22) + " ";
            for bad in [
                String::new(),
                "a".repeat(least - 1),
                "a".repeat(257),
                spaced,
                behind,
            ] {
                assert_eq!(with(name, &bad), Err(ConnectError::Sdp), "{bad}");
            }
        }
    }

    #[test]
    fn only_well_formed_sha_256_counts() {
        for bad in ["sha-1 AA:BB", "sha-256 AA:BB", "sha-256 +1:00", "sha-256"] {
            let sdp = format!("a=fingerprint:{bad}\r\n");
            assert_eq!(fingerprint(&sdp), Err(ConnectError::FingerprintFormat));
        }
    }

    #[test]
    fn bombs_are_refused_before_they_are_parsed() {
        let long = "a".repeat(MAX_SDP_LEN + 1);
        assert_eq!(check(&long).err(), Some(ConnectError::SdpTooLarge(32_769)));
        let many = line(1) + &"a=candidate:x\r\n".repeat(65);
        assert_eq!(check(&many).err(), Some(ConnectError::TooManyCandidates));
    }

    #[test]
    fn the_binding_does_not_depend_on_who_offered() {
        assert_eq!(binding([1; 32], [2; 32]), binding([2; 32], [1; 32]));
        assert_ne!(binding([1; 32], [2; 32]), binding([1; 32], [3; 32]));
    }

    #[test]
    fn announced_ssrcs_know_their_channel() {
        let sdp =
            "m=audio 9 x\r\na=ssrc:7 cname:a\r\na=ssrc:7 msid:b\r\nm=video 9 x\r\na=ssrc:9 c\r\n";
        assert_eq!(ssrcs(sdp), [(7, Channel::Voice), (9, Channel::Video)]);
    }
}
