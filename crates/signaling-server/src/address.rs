//! Where connections come from: how many each address may hold, and whom to believe about it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::{HeaderMap, HeaderName};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A range of addresses, such as `10.0.0.0/8`, `::1` or `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    prefix: u32,
}

/// Why a text is no [`AddressRange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("give an address such as 10.1.2.3, or a range such as 10.0.0.0/8")]
pub struct NotARange;

impl AddressRange {
    /// Whether the range has this address in it. An IPv4 address mapped to IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let significant = |address: IpAddr| -> Option<u128> {
            match address {
                IpAddr::V4(v4) => u32::from(v4).checked_shr(32 - self.prefix).map(u128::from),
                IpAddr::V6(v6) => u128::from(v6).checked_shr(128 - self.prefix),
            }
        };
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && significant(address) == significant(self.first)
    }
}

impl FromStr for AddressRange {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        let (first, prefix) = match text.split_once('/') {
            Some((first, prefix)) => (first, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = first.parse().map_err(|_| NotARange)?;
        let longest = if first.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), str::parse);
        let prefix = prefix.ok().filter(|prefix| *prefix <= longest);
        let prefix = prefix.ok_or(NotARange)?;
        Ok(Self { first, prefix })
    }
}

/// Who sends a request that came from `peer`: a trusted proxy is believed about whom it had it from.
/// The rightmost address that is no trusted proxy's counts, since everything to its left may have
/// been made up by the client.
pub(crate) fn client_address(
    peer: IpAddr,
    headers: &HeaderMap,
    trusted: &[AddressRange],
) -> IpAddr {
    let is_trusted = |address| trusted.iter().any(|range| range.contains(address));
    let mut client = peer.to_canonical();
    let lines = headers.get_all(FORWARDED_FOR).into_iter().rev();
    let hops = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    for hop in hops {
        if !is_trusted(client) {
            break;
        }
        match hop.trim().parse::<IpAddr>() {
            Ok(address) => client = address.to_canonical(),
            Err(_) => break,
        }
    }
    client
}

/// How many connections each address holds.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    max: usize,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One of an address's places; given back when dropped.
#[derive(Debug)]
pub(crate) struct AddressSlot {
    key: IpAddr,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Addresses {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            counts: Arc::default(),
        }
    }

    /// A place for one more connection from `address`, if it has one left.
    pub(crate) fn take(&self, address: IpAddr) -> Option<AddressSlot> {
        let key = holder(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(AddressSlot {
            key,
            counts: Arc::clone(&self.counts),
        })
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

/// Who holds an address: with IPv6 whoever has it has the whole /64.
fn holder(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_holds_what_shares_its_prefix() {
        for (text, within, without) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.1.2.3", "::ffff:10.1.2.3", "10.1.2.4"),
            ("fd00::/8", "fdff::1", "fe80::1"),
            ("::1", "::1", "::2"),
            ("0.0.0.0/0", "255.1.1.1", "::1"),
            ("::/0", "ffff::", "1.1.1.1"),
        ] {
            assert!(range(text).contains(ip(within)), "{text} {within}");
            assert!(!range(text).contains(ip(without)), "{text} {without}");
        }
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "localhost",
        ] {
            assert_eq!(text.parse::<AddressRange>(), Err(NotARange), "{text}");
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_only_about_their_own_clients() {
        let trusted = [range("10.0.0.0/8")];
        let client = |peer: &str, lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, line.parse().unwrap());
            }
            client_address(ip(peer), &headers, &trusted).to_string()
        };
        assert_eq!(client("10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(client("9.9.9.9", &["1.2.3.4"]), "9.9.9.9", "no proxy");
        assert_eq!(
            client("10.0.0.1", &["6.6.6.6, 1.2.3.4"]),
            "1.2.3.4",
            "made up"
        );
        assert_eq!(
            client("10.0.0.1", &["6.6.6.6", "1.2.3.4, 10.0.0.2"]),
            "1.2.3.4"
        );
        assert_eq!(client("10.0.0.1", &["nonsense"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn an_address_holds_so_many_places_and_gets_them_back() {
        let addresses = Addresses::new(2);
        let first = addresses.take(ip("1.2.3.4")).unwrap();
        let second = addresses.take(ip("::ffff:1.2.3.4")).unwrap();
        assert!(addresses.take(ip("1.2.3.4")).is_none());
        let other = addresses.take(ip("1.2.3.5")).unwrap();
        drop(first);
        let third = addresses.take(ip("1.2.3.4")).unwrap();
        drop((second, third, other));
        assert!(addresses.counts.lock().unwrap().is_empty());
        let _network: Vec<_> = ["2001:db8::1", "2001:db8::2"]
            .map(|a| addresses.take(ip(a)))
            .into();
        assert!(addresses.take(ip("2001:db8::3")).is_none());
        assert!(addresses.take(ip("2001:db8:0:1::3")).is_some());
    }
}
