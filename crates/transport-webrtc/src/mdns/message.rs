//! The little of DNS (RFC 1035 §4) that names of addresses take.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Records of one packet that are looked at.
const MAX_RECORDS: usize = 32;
/// The longest name, as it is written with dots.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

const A: u16 = 1;
const AAAA: u16 = 28;
const ANY: u16 = 255;
const INTERNET: u16 = 1;
/// In the class of an answer: others of this name are outdated; of a question: answer me alone
/// (RFC 6762 §10.2, §5.4).
const TOP_BIT: u16 = 0x8000;
/// An authoritative answer (RFC 6762 §18).
const RESPONSE: u16 = 0x8400;
/// RFC 6762 §10: of records that name an address, in seconds.
const TTL: u32 = 120;

/// What a packet says, as far as it concerns us. Names are in lower case.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Whose addresses are asked for.
    Query(Vec<String>),
    /// Which names have which addresses.
    Response(Vec<(String, IpAddr)>),
}

/// Whether this is one label and `.local`.
pub(super) fn is_local_name(name: &str) -> bool {
    let label = name.strip_suffix(".local").unwrap_or_default();
    (1..=MAX_LABEL).contains(&label.len()) && !label.contains('.') && label.is_ascii()
}

/// A question for the addresses of a name.
pub(super) fn question(name: &str) -> Option<Vec<u8>> {
    let mut packet = header(0, 2, 0);
    for kind in [A, AAAA] {
        write_name(&mut packet, name)?;
        packet.extend_from_slice(&kind.to_be_bytes());
        packet.extend_from_slice(&INTERNET.to_be_bytes());
    }
    Some(packet)
}

/// Says that a name has an address.
pub(super) fn answer(name: &str, address: IpAddr) -> Option<Vec<u8>> {
    let mut packet = header(RESPONSE, 0, 1);
    write_name(&mut packet, name)?;
    let (kind, bytes) = match address {
        IpAddr::V4(ip) => (A, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AAAA, ip.octets().to_vec()),
    };
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&(INTERNET | TOP_BIT).to_be_bytes());
    packet.extend_from_slice(&TTL.to_be_bytes());
    packet.extend_from_slice(&u16::try_from(bytes.len()).ok()?.to_be_bytes());
    packet.extend_from_slice(&bytes);
    Some(packet)
}

fn header(flags: u16, questions: u16, answers: u16) -> Vec<u8> {
    let words = [0, flags, questions, answers, 0, 0];
    words.into_iter().flat_map(u16::to_be_bytes).collect()
}

fn write_name(packet: &mut Vec<u8>, name: &str) -> Option<()> {
    for label in name.split('.') {
        let len = u8::try_from(label.len()).ok()?;
        if !(1..=MAX_LABEL).contains(&label.len()) {
            return None;
        }
        packet.push(len);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    Some(())
}

/// A place in a packet.
struct Reader<'a> {
    packet: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let bytes = self.packet.get(self.at..self.at + len)?;
        self.at += len;
        Some(bytes)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(*self.bytes(2)?.first_chunk()?))
    }

    /// A name, perhaps with its end somewhere before (RFC 1035 §4.1.4). Each jump leads further back,
    /// so there is an end.
    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let mut at = self.at;
        let mut after = None;
        let mut limit = self.at;
        loop {
            let len = *self.packet.get(at)?;
            match len {
                0 => break,
                1..=63 => {
                    let label = self.packet.get(at + 1..at + 1 + usize::from(len))?;
                    if !name.is_empty() {
                        name.push('.');
                    }
                    // Names that are no ASCII are none of ours.
                    name.extend(
                        label
                            .iter()
                            .map(|byte| char::from(byte.to_ascii_lowercase())),
                    );
                    if name.len() > MAX_NAME {
                        return None;
                    }
                    at += 1 + usize::from(len);
                }
                0xc0.. => {
                    after.get_or_insert(at + 2);
                    let low = *self.packet.get(at + 1)?;
                    at = usize::from(u16::from_be_bytes([len & 0x3f, low]));
                    if at >= limit {
                        return None;
                    }
                    limit = at;
                }
                _ => return None,
            }
        }
        self.at = after.unwrap_or(at + 1);
        Some(name)
    }
}

impl Message {
    /// Reads a packet; of one that is cut off or malformed, what comes before that.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        let mut reader = Reader { packet, at: 0 };
        let [_, flags, questions, answers] = [
            reader.word()?,
            reader.word()?,
            reader.word()?,
            reader.word()?,
        ];
        reader.bytes(4)?;
        let mut asked = Vec::new();
        for _ in 0..usize::from(questions).min(MAX_RECORDS) {
            let name = reader.name()?;
            let (kind, class) = (reader.word()?, reader.word()?);
            if matches!(kind, A | AAAA | ANY) && class & !TOP_BIT == INTERNET {
                asked.push(name);
            }
        }
        if flags & 0x8000 == 0 {
            return Some(Self::Query(asked));
        }
        let mut told = Vec::new();
        if usize::from(questions) <= MAX_RECORDS {
            for _ in 0..usize::from(answers).min(MAX_RECORDS) {
                match record(&mut reader) {
                    Some(Some(answer)) => told.push(answer),
                    Some(None) => {}
                    None => break,
                }
            }
        }
        Some(Self::Response(told))
    }
}

/// The next record, if it is whole, and the address that it names.
fn record(reader: &mut Reader<'_>) -> Option<Option<(String, IpAddr)>> {
    let name = reader.name()?;
    let (kind, class) = (reader.word()?, reader.word()?);
    reader.bytes(4)?;
    let len = usize::from(reader.word()?);
    let data = reader.bytes(len)?;
    let ip = match kind {
        A => <[u8; 4]>::try_from(data)
            .ok()
            .map(|ip| Ipv4Addr::from(ip).into()),
        AAAA => <[u8; 16]>::try_from(data)
            .ok()
            .map(|ip| Ipv6Addr::from(ip).into()),
        _ => None,
    };
    let ip = ip.filter(|_| class & !TOP_BIT == INTERNET);
    Some(ip.map(|ip| (name, ip)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let asked = Message::parse(&question("abc.local").unwrap());
        let name = || "abc.local".to_owned();
        assert_eq!(asked, Some(Message::Query(vec![name(), name()])));
        for address in ["192.0.2.1", "2001:db8::1"] {
            let ip: IpAddr = address.parse().unwrap();
            let told = Message::parse(&answer("abc.local", ip).unwrap());
            assert_eq!(told, Some(Message::Response(vec![(name(), ip)])));
        }
        assert!(is_local_name("abc.local"));
        for bad in ["local", ".local", "a.b.local", "abc.example"] {
            assert!(!is_local_name(bad), "{bad}");
        }
    }

    #[test]
    fn names_may_end_where_others_did_but_not_in_a_circle() {
        let mut packet = answer("abc.local", [192, 0, 2, 1].into()).unwrap();
        // A second record, whose name is `x` and the end of the first's.
        packet[7] = 2;
        packet.extend_from_slice(&[
            1, b'X', 0xc0, 16, 0, 1, 0x80, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 1,
        ]);
        let told = Message::parse(&packet).unwrap();
        let expected = [
            ("abc.local".to_owned(), IpAddr::from([192, 0, 2, 1])),
            ("x.local".to_owned(), IpAddr::from([10, 0, 0, 1])),
        ];
        assert_eq!(told, Message::Response(expected.to_vec()));
        let circle = [&header(0, 1, 0)[..], &[0xc0, 12, 0, 1, 0, 1]].concat();
        assert_eq!(Message::parse(&circle), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Message::parse(&packet);
        }
    }
}
