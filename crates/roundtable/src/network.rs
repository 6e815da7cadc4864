//! Watches the addresses of this machine's interfaces.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

/// How often the interfaces are looked at. The list is a system call of some microseconds.
const EVERY: Duration = Duration::from_millis(500);

/// Where this machine is found, and whether that has changed.
#[derive(Debug)]
pub(crate) struct Network {
    ticks: tokio::time::Interval,
    known: BTreeSet<IpAddr>,
}

impl Network {
    /// From what there is now.
    pub(crate) fn watch() -> Self {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            ticks,
            known: addresses(),
        }
    }

    /// Returns once this machine has other addresses than before, and any at all. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        loop {
            self.ticks.tick().await;
            if self.learn(addresses()) {
                return;
            }
        }
    }

    /// Whether links should be moved now that these are the addresses.
    fn learn(&mut self, now: BTreeSet<IpAddr>) -> bool {
        // Without an address there is nowhere to move to; the next one will differ from the last.
        if now.is_empty() || now == self.known {
            return false;
        }
        self.known = now;
        true
    }
}

/// Those that lead anywhere: neither loopback nor link-local.
fn addresses() -> BTreeSet<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::debug!(%error, "cannot list the network interfaces");
        Vec::new()
    });
    let leads_anywhere = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let addresses = interfaces.iter().map(if_addrs::Interface::ip);
    addresses.filter(leads_anywhere).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(last: impl IntoIterator<Item = u8>) -> BTreeSet<IpAddr> {
        last.into_iter().map(|n| [10, 0, 0, n].into()).collect()
    }

    #[tokio::test]
    async fn another_address_is_a_change_but_none_at_all_is_not_yet() {
        let mut network = Network::watch();
        network.known = set([1]);
        assert!(!network.learn(set([1])), "nothing new");
        assert!(!network.learn(set([])), "no network");
        assert!(!network.learn(set([1])), "back where it was");
        assert!(network.learn(set([2])), "moved");
        assert!(network.learn(set([2, 3])), "one more way");
        assert!(network.learn(set([3])), "one less");
    }
}
