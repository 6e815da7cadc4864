//! How a home's router translates addresses (RFC 4787), as rules for `nft`.

use std::net::Ipv4Addr;

/// What stands between a host and the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Nat {
    /// A router that translates nothing.
    None,
    /// One outer port for each inner port; lets everybody in (endpoint-independent filtering).
    FullCone,
    /// The same mapping; lets in the addresses that were sent to (address-dependent filtering).
    Restricted,
    /// The same mapping; lets in the addresses and ports that were sent to.
    PortRestricted,
    /// Another outer port for each destination; lets in that destination only.
    Symmetric,
    /// Translates TCP and drops UDP, as some offices do.
    NoUdp,
}

impl Nat {
    /// The four that hosts are commonly behind.
    pub(super) const COMMON: [Self; 4] = [
        Self::FullCone,
        Self::Restricted,
        Self::PortRestricted,
        Self::Symmetric,
    ];

    /// As the page calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::FullCone => "full-cone",
            Self::Restricted => "restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::NoUdp => "no-udp",
        }
    }

    /// Whether two hosts that know their outer addresses reach each other without a relay (RFC 5128 §3.3).
    pub(super) const fn punches(self, other: Self) -> bool {
        use Nat::{NoUdp, PortRestricted, Symmetric};
        !matches!(
            (self, other),
            (NoUdp, _)
                | (_, NoUdp)
                | (Symmetric, Symmetric | PortRestricted)
                | (PortRestricted, Symmetric)
        )
    }

    /// The rules of a router with the interfaces `wan` and `lan` and one host behind it; none where nothing
    /// is translated.
    pub(super) fn rules(self, outer: Ipv4Addr, host: Ipv4Addr) -> Option<String> {
        // UDP has one mapping for each port of the host; what is let in by it is what differs.
        let cone = |seen: &str, key: (&str, &str)| {
            let (sent_to, came_from) = key;
            format!(
                "table ip lab {{
                    set seen {{ type {seen}; flags dynamic,timeout; timeout 2m; }}
                    chain inward {{ type nat hook prerouting priority dstnat;
                        iifname wan meta l4proto udp dnat to {host}; }}
                    chain outward {{ type nat hook postrouting priority srcnat;
                        oifname wan snat to {outer}; }}
                    chain filtering {{ type filter hook forward priority filter; policy accept;
                        iifname lan meta l4proto udp update @seen {{ {sent_to} }}
                        iifname wan meta l4proto udp {came_from} @seen accept
                        iifname wan meta l4proto udp drop; }}
                }}"
            )
        };
        match self {
            Self::None => None,
            Self::FullCone => Some(format!(
                "table ip lab {{
                    chain inward {{ type nat hook prerouting priority dstnat;
                        iifname wan meta l4proto udp dnat to {host}; }}
                    chain outward {{ type nat hook postrouting priority srcnat;
                        oifname wan snat to {outer}; }}
                }}"
            )),
            Self::Restricted => Some(cone("ipv4_addr", ("ip daddr", "ip saddr"))),
            Self::PortRestricted => Some(cone(
                "ipv4_addr . inet_service",
                ("ip daddr . udp dport", "ip saddr . udp sport"),
            )),
            // What comes unasked must not make the router remember a flow that a later one would collide with.
            Self::Symmetric => Some(
                "table ip lab {
                    chain outward { type nat hook postrouting priority srcnat;
                        oifname wan masquerade fully-random; }
                    chain unasked { type filter hook input priority filter;
                        iifname wan meta l4proto udp drop; }
                }"
                .into(),
            ),
            Self::NoUdp => Some(
                "table ip lab {
                    chain outward { type nat hook postrouting priority srcnat;
                        oifname wan masquerade; }
                    chain filtering { type filter hook forward priority filter; policy accept;
                        meta l4proto udp drop; }
                }"
                .into(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symmetric_router_needs_a_relay_beside_those_that_look_at_ports() {
        use Nat::{FullCone, NoUdp, PortRestricted, Restricted, Symmetric};
        let relayed: Vec<_> = Nat::COMMON
            .iter()
            .flat_map(|a| Nat::COMMON.iter().map(move |b| (*a, *b)))
            .filter(|(a, b)| !a.punches(*b))
            .collect();
        let expected = [
            (PortRestricted, Symmetric),
            (Symmetric, PortRestricted),
            (Symmetric, Symmetric),
        ];
        assert_eq!(relayed, expected);
        assert!(Restricted.punches(Symmetric) && !FullCone.punches(NoUdp));
    }
}
