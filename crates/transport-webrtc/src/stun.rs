//! What we read in, and add to, STUN messages of TURN beside the core's client (RFC 8489 §5, §14).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::BytesMut;
use rtc::{
    crypto::{HashAlgorithm, HmacAlgorithm, RTCCrypto},
    stun::message::TransactionId,
};

use crate::ice_server::Credentials;

const HEADER: usize = 20;

/// Allocate request, success and error response (RFC 8656 §18.1).
const ALLOCATE: [u8; 2] = [0x00, 0x03];
const ALLOCATED: [u8; 2] = [0x01, 0x03];
const ALLOCATE_ERROR: [u8; 2] = [0x01, 0x13];

const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const REALM: u16 = 0x0014;
const XOR_RELAYED_ADDRESS: u16 = 0x0016;
/// ADDITIONAL-ADDRESS-FAMILY (RFC 8656 §18.10), asking for IPv6 beside IPv4; and the same under the number that
/// drafts of the RFC gave it, by which coturn 4.6 knows it. A server ignores what it does not know.
const ADD_IPV6: [u8; 16] = [0x80, 0x00, 0, 4, 2, 0, 0, 0, 0x80, 0x32, 0, 4, 2, 0, 0, 0];

/// The transaction that a STUN message belongs to.
pub(crate) fn transaction(packet: &[u8]) -> Option<TransactionId> {
    let header = packet.first_chunk::<HEADER>()?;
    (header[0] < 4).then(|| TransactionId(std::array::from_fn(|i| header[8 + i])))
}

/// Whether a STUN message is a request (RFC 8489 §5).
pub(crate) fn is_request(packet: &[u8]) -> bool {
    matches!(packet, [a, b, ..] if *a < 4 && a & 1 == 0 && b & 0x10 == 0)
}

/// The attributes of a message, each with its type, where it begins and its value; up to the first that
/// is cut off.
fn attributes(packet: &[u8]) -> impl Iterator<Item = (u16, usize, &[u8])> {
    let mut at = HEADER;
    std::iter::from_fn(move || {
        let &[a, b, high, low] = packet.get(at..)?.first_chunk()?;
        let len = usize::from(u16::from_be_bytes([high, low]));
        let begin = at;
        let value = packet.get(at + 4..at + 4 + len)?;
        at += 4 + len.next_multiple_of(4);
        Some((u16::from_be_bytes([a, b]), begin, value))
    })
}

fn find(packet: &[u8], kind: u16) -> Option<(usize, &[u8])> {
    let mut all = attributes(packet);
    all.find_map(|(of, at, value)| (of == kind).then_some((at, value)))
}

/// The code of an Allocate error response (RFC 8489 §14.8), if the packet is one.
pub(crate) fn allocate_error(packet: &[u8]) -> Option<u16> {
    if !packet.starts_with(&ALLOCATE_ERROR) {
        return None;
    }
    let (_, value) = find(packet, ERROR_CODE)?;
    let &[_, _, class, number] = value.first_chunk()?;
    Some(u16::from(class & 7) * 100 + u16::from(number))
}

/// The relayed addresses of an Allocate success response, at most one of each family; none, if the packet
/// is something else.
pub(crate) fn relayed_addresses(packet: &[u8]) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    if !packet.starts_with(&ALLOCATED) {
        return found;
    }
    for (kind, _, value) in attributes(packet) {
        if kind == XOR_RELAYED_ADDRESS
            && let Some(address) = xor_address(packet, value)
            && !found
                .iter()
                .any(|known| known.is_ipv4() == address.is_ipv4())
        {
            found.push(address);
        }
    }
    found
}

/// Decodes a XOR-MAPPED-ADDRESS (RFC 8489 §14.2), whose mask is the cookie and the transaction id.
fn xor_address(packet: &[u8], value: &[u8]) -> Option<SocketAddr> {
    let mask = packet.get(4..HEADER)?;
    let (&[_, family, high, low], address) = value.split_first_chunk()?;
    let port = u16::from_be_bytes([high ^ mask[0], low ^ mask[1]]);
    let bytes: Vec<u8> = address.iter().zip(mask).map(|(a, b)| a ^ b).collect();
    let ip = match family {
        1 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        2 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// An Allocate request that asks for an IPv6 address beside the IPv4 one (RFC 8656 §7.1), which the
/// core's client has no words for: the attribute goes where integrity covers it, and what proves the
/// message is computed anew. Anything else is left as it is.
pub(crate) fn with_both_families(
    packet: BytesMut,
    credentials: &Credentials,
    crypto: &dyn RTCCrypto,
) -> BytesMut {
    if !packet.starts_with(&ALLOCATE) {
        return packet;
    }
    rewritten(&packet, credentials, crypto).unwrap_or(packet)
}

fn rewritten(packet: &[u8], credentials: &Credentials, crypto: &dyn RTCCrypto) -> Option<BytesMut> {
    const FINGERPRINT: u16 = 0x8028;
    let integrity = find(packet, MESSAGE_INTEGRITY).map(|(at, _)| at);
    let fingerprint = find(packet, FINGERPRINT).map(|(at, _)| at);
    let end = integrity.or(fingerprint).unwrap_or(packet.len());
    let mut new = BytesMut::from(packet.get(..end)?);
    new.extend_from_slice(&ADD_IPV6);
    if integrity.is_some() {
        let (_, realm) = find(packet, REALM)?;
        let (user, password) = (&credentials.username, &credentials.password);
        let long_term = [user.as_bytes(), realm, password.as_bytes()].join(&b':');
        // RFC 8489 §9.2.2.
        let key = crypto.hash(HashAlgorithm::Md5, &long_term).ok()?;
        set_length(&mut new, 24)?;
        let mut value = [0; 20];
        let mut mac = crypto.new_hmac(HmacAlgorithm::Sha1, &key).ok()?;
        mac.sign(&[&new[..]], &mut value).ok()?;
        new.extend_from_slice(&[0, 8, 0, 20]);
        new.extend_from_slice(&value);
    }
    // The fingerprint is optional (RFC 8489 §14.7) and of no use between client and server.
    set_length(&mut new, 0)?;
    Some(new)
}

/// Writes the header's length: what is there, and `more` bytes that follow.
fn set_length(message: &mut BytesMut, more: usize) -> Option<()> {
    let len = u16::try_from(message.len() - HEADER + more).ok()?;
    message.get_mut(2..4)?.copy_from_slice(&len.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use rtc::{
        crypto::default_provider,
        stun::{
            attributes::{ATTR_NONCE, ATTR_REALM, ATTR_USERNAME, AttrType},
            integrity::MessageIntegrity,
            message::{
                CLASS_REQUEST, CLASS_SUCCESS_RESPONSE, METHOD_ALLOCATE, Message, MessageType,
                Setter,
            },
            textattrs::TextAttribute,
            xoraddr::XorMappedAddress,
        },
    };

    use super::*;

    fn built(kind: MessageType, setters: Vec<Box<dyn Setter + '_>>) -> Vec<u8> {
        let mut message = Message::new();
        message
            .build(&[Box::new(TransactionId([7; 12])), Box::new(kind)])
            .unwrap();
        for setter in setters {
            setter.add_to(&mut message).unwrap();
        }
        message.raw
    }

    #[test]
    fn the_error_code_is_read_from_an_allocate_error_only() {
        let header = |kind: [u8; 2]| [&kind[..], &[0, 16], &[7; 16]].concat();
        let attributes = [
            &[0x80, 0x22, 0, 3, b'a', b'b', b'c', 0][..],
            &[0, 9, 0, 4, 0, 0, 4, 86],
        ]
        .concat();
        let error = [header([1, 0x13]), attributes.clone()].concat();
        assert_eq!(allocate_error(&error), Some(486));
        assert_eq!(allocate_error(&[header([1, 3]), attributes].concat()), None);
        for len in 0..error.len() {
            assert_eq!(allocate_error(&error[..len]), None, "{len}");
        }
    }

    #[test]
    fn both_relayed_addresses_are_read_and_a_third_is_not() {
        struct Relayed(SocketAddr);
        impl Setter for Relayed {
            fn add_to(&self, message: &mut Message) -> rtc::shared::error::Result<()> {
                let (ip, port) = (self.0.ip(), self.0.port());
                let attribute = AttrType(XOR_RELAYED_ADDRESS);
                XorMappedAddress { ip, port }.add_to_as(message, attribute)
            }
        }
        let [four, six, other] = ["192.0.2.1:5", "[2001:db8::1]:6", "192.0.2.2:7"]
            .map(|address| address.parse::<SocketAddr>().unwrap());
        let kind = MessageType::new(METHOD_ALLOCATE, CLASS_SUCCESS_RESPONSE);
        let packet = built(
            kind,
            vec![
                Box::new(Relayed(four)),
                Box::new(Relayed(six)),
                Box::new(Relayed(other)),
            ],
        );
        assert_eq!(relayed_addresses(&packet), [four, six]);
        // However much of it comes, nothing panics, and only whole attributes count.
        for len in 0..packet.len() {
            assert!(relayed_addresses(&packet[..len]).len() <= 2);
        }
    }

    #[test]
    fn an_allocate_request_asks_for_both_families_and_proves_so() {
        let provider = default_provider().unwrap();
        let crypto = provider.crypto();
        let credentials = Credentials {
            username: "alice".into(),
            password: "wonder".into(),
        };
        let key = MessageIntegrity::long_term_integrity_key(
            "alice".into(),
            "lab".into(),
            "wonder".into(),
            crypto,
        );
        let key = key.unwrap();
        let text = |attr, text: &str| Box::new(TextAttribute::new(attr, text.into()));
        let request = built(
            MessageType::new(METHOD_ALLOCATE, CLASS_REQUEST),
            vec![
                text(ATTR_USERNAME, "alice"),
                text(ATTR_REALM, "lab"),
                text(ATTR_NONCE, "once"),
                Box::new(MessageIntegrity::new_raw_integrity_with_provider(
                    key.clone(),
                    crypto,
                )),
            ],
        );
        let sent = with_both_families(BytesMut::from(&request[..]), &credentials, crypto);
        let mut message = Message {
            raw: sent.to_vec(),
            ..Message::default()
        };
        message.decode().unwrap();
        assert_eq!(message.get(AttrType(0x8000)).unwrap(), [2, 0, 0, 0]);
        MessageIntegrity::check(&mut message, &key, crypto).unwrap();
        // Without credentials there is nothing to prove; and other messages stay as they are.
        let bare = built(MessageType::new(METHOD_ALLOCATE, CLASS_REQUEST), vec![]);
        let sent = with_both_families(BytesMut::from(&bare[..]), &credentials, crypto);
        assert_eq!(sent[HEADER..], ADD_IPV6);
        let other = BytesMut::from(&[0, 1, 0, 0][..]);
        assert_eq!(
            with_both_families(other.clone(), &credentials, crypto),
            other
        );
    }
}
