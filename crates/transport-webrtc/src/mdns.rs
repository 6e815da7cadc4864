//! Names ending in `.local` in place of addresses (draft-ietf-mmusic-mdns-ice-candidates), looked up and
//! answered for by multicast DNS (RFC 6762), without sockets or clock.

mod message;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use message::Message;

/// Where multicast DNS is spoken (RFC 6762 §3). Names of IPv6 addresses are asked for there, too.
pub(crate) const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
pub(crate) const PORT: u16 = 5353;

/// Names that are looked up for one link at most; a browser has one for each of its addresses.
const MAX_WANTED: usize = 16;
/// Candidates with one name: over UDP, and two over TCP.
const MAX_PER_NAME: usize = 4;
/// Questions about one name: at once and after 1, 3 and 7 s (RFC 6762 §5.2).
const MAX_QUESTIONS: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// How often an answer is repeated at most (RFC 6762 §6).
const ANSWER_PAUSE: Duration = Duration::from_secs(1);

/// A name that a candidate of the peer's has in place of its address.
#[derive(Debug)]
struct Wanted {
    name: String,
    /// The candidates, with the name.
    candidates: Vec<String>,
    asked: u32,
    next: Instant,
}

/// A name of ours.
#[derive(Debug)]
struct Own {
    name: String,
    address: IpAddr,
    /// When it was last answered for.
    answered: Option<Instant>,
}

impl Own {
    /// The foundation (RFC 8445 §5.1.1.3) of the candidates with this name. The core's is a checksum of the address,
    /// from which that is found in a moment; the random name says nothing but itself.
    fn foundation(&self, transport: &str) -> String {
        let random = self.name.split(['-', '.']).next().unwrap_or_default();
        let is_tcp = transport.eq_ignore_ascii_case("tcp");
        format!("{random}{}", u8::from(is_tcp))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Names {
    wanted: Vec<Wanted>,
    own: Vec<Own>,
    transmits: Vec<Vec<u8>>,
    /// Nothing is asked or answered.
    is_quiet: bool,
    /// Nothing is ever asked.
    is_mute: bool,
}

impl Names {
    /// Takes names for our own addresses, instead of those before.
    pub(crate) fn hide(&mut self, names: Vec<(IpAddr, String)>) {
        let own = names.into_iter().map(|(address, name)| Own {
            name,
            address,
            answered: None,
        });
        self.own = own.collect();
    }

    /// A name that nobody else has, from a random number: a UUID of version 4 (RFC 9562 §5.4).
    pub(crate) fn name(random: u128) -> String {
        let version = (random & !(0xf << 76) & !(3 << 62)) | 4 << 76 | 2 << 62;
        let hex = format!("{version:032x}");
        let parts = [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ];
        parts.join("-") + ".local"
    }

    /// Whether our addresses have names.
    pub(crate) fn is_hiding(&self) -> bool {
        !self.own.is_empty()
    }

    /// A candidate of ours as others may see it: by its name, and without its related address and the core's foundation,
    /// which would tell what the name hides.
    pub(crate) fn masked(&self, candidate: &str) -> String {
        if !self.is_hiding() {
            return candidate.to_owned();
        }
        let mut words: Vec<&str> = candidate.split(' ').collect();
        let address = words.get(4).and_then(|word| word.parse().ok());
        let name = address.and_then(|ip: IpAddr| self.own.iter().find(|own| own.address == ip));
        let foundation = name.map(|name| {
            let prefix = words[0].rfind(':').map_or("", |at| &words[0][..=at]);
            prefix.to_owned() + &name.foundation(words[2])
        });
        if let (Some(name), Some(foundation)) = (name, &foundation) {
            (words[0], words[4]) = (foundation, &name.name);
        }
        for at in 1..words.len() {
            match words[at - 1] {
                "raddr" => {
                    words[at] = if words[at].contains(':') {
                        "::"
                    } else {
                        "0.0.0.0"
                    }
                }
                "rport" => words[at] = "0",
                _ => {}
            }
        }
        words.join(" ")
    }

    /// A description of ours as others may see it.
    pub(crate) fn masked_description(&self, sdp: String) -> String {
        if !self.is_hiding() {
            return sdp;
        }
        let lines = sdp.split_inclusive("\r\n").map(|line| {
            match line.strip_suffix("\r\n").unwrap_or(line) {
                candidate if candidate.starts_with("a=candidate:") => {
                    self.masked(candidate) + "\r\n"
                }
                other => other.to_owned() + "\r\n",
            }
        });
        lines.collect()
    }

    /// Takes a candidate of the peer's that has a name for an address; its address comes with
    /// [`handle_packet`](Self::handle_packet). False if it has none. Other names than those of the draft
    /// (§3.2.1: one label before `.local`) are taken and never resolved, and so are too many, those that
    /// come when the link has found its way, and all while [`mute`](Self::mute) says so.
    pub(crate) fn want(&mut self, now: Instant, candidate: &str) -> bool {
        let Some(name) = name_of(candidate) else {
            return false;
        };
        // Everything is multiplexed onto the first component.
        if candidate.split(' ').nth(1) != Some("1") {
            return true;
        }
        if let Some(wanted) = self.wanted.iter_mut().find(|wanted| wanted.name == name) {
            let is_new = wanted.candidates.iter().all(|known| known != candidate);
            if is_new && wanted.candidates.len() < MAX_PER_NAME {
                wanted.candidates.push(candidate.to_owned());
            }
        } else if !self.is_quiet
            && !self.is_mute
            && self.wanted.len() < MAX_WANTED
            && message::is_local_name(&name)
        {
            self.wanted.push(Wanted {
                name,
                candidates: vec![candidate.to_owned()],
                asked: 0,
                next: now,
            });
        }
        true
    }

    /// Takes a packet of the group's. Returns the candidates whose address it tells.
    pub(crate) fn handle_packet(
        &mut self,
        now: Instant,
        from: SocketAddr,
        packet: &[u8],
    ) -> Vec<String> {
        match Message::parse(packet) {
            Some(Message::Query(names)) => {
                for name in names {
                    self.answer(now, &name);
                }
                Vec::new()
            }
            // RFC 6762 §6: answers from elsewhere are no answers.
            Some(Message::Response(answers)) if from.port() == PORT => {
                let resolved = answers.iter().map(|(name, ip)| self.resolved(name, *ip));
                resolved.flatten().collect()
            }
            _ => Vec::new(),
        }
    }

    fn answer(&mut self, now: Instant, name: &str) {
        let own = self.own.iter_mut().find(|own| own.name == name);
        let is_due = |at: Option<Instant>| at.is_none_or(|at| now >= at + ANSWER_PAUSE);
        if let Some(own) = own.filter(|own| is_due(own.answered)) {
            own.answered = Some(now);
            self.transmits
                .extend(message::answer(&own.name, own.address));
        }
    }

    /// The first address that is named counts (§3.2.2 of the draft); whose it really is, the checks tell.
    fn resolved(&mut self, name: &str, ip: IpAddr) -> Vec<String> {
        let wanted = self.wanted.iter().position(|wanted| wanted.name == name);
        let Some(wanted) = wanted.filter(|_| !ip.is_unspecified() && !ip.is_multicast()) else {
            return Vec::new();
        };
        let found = self.wanted.swap_remove(wanted);
        let ip = ip.to_string();
        let with_address = |candidate: String| {
            let mut words: Vec<&str> = candidate.split(' ').collect();
            words[4] = &ip;
            words.join(" ")
        };
        found.candidates.into_iter().map(with_address).collect()
    }

    /// Packets for the group.
    pub(crate) fn transmits(&mut self) -> &mut Vec<Vec<u8>> {
        &mut self.transmits
    }

    /// Whether the group is to be listened to.
    pub(crate) fn is_listening(&self) -> bool {
        !self.is_quiet && (self.is_hiding() || !self.wanted.is_empty())
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.wanted.iter().map(|wanted| wanted.next).min()
    }

    /// Asks what is due to be asked.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.wanted
            .retain(|wanted| wanted.next > now || wanted.asked < MAX_QUESTIONS);
        for wanted in &mut self.wanted {
            if wanted.next <= now {
                self.transmits.extend(message::question(&wanted.name));
                wanted.next = now + FIRST_WAIT * (1 << wanted.asked);
                wanted.asked += 1;
            }
        }
    }

    /// Whether nothing is to be asked: the question goes out from our addresses, and by the name in it the peer who thought
    /// it up knows us.
    pub(crate) fn mute(&mut self, is_mute: bool) {
        self.is_mute = is_mute;
        if is_mute {
            self.wanted.clear();
        }
    }

    /// The link looks for a way, again or for the first time.
    pub(crate) fn wake(&mut self) {
        self.is_quiet = false;
    }

    /// The link has found its way: nothing more is asked or answered. Our addresses stay hidden.
    pub(crate) fn rest(&mut self) {
        self.is_quiet = true;
        self.wanted.clear();
        self.transmits.clear();
    }
}

/// The `.local` name that a candidate has in place of an address (RFC 8839 §5.1), in lower case.
fn name_of(candidate: &str) -> Option<String> {
    let name = candidate.split(' ').nth(4)?.to_ascii_lowercase();
    name.ends_with(".local").then_some(name)
}

#[cfg(test)]
mod tests {
    use roundtable_core::Clock;
    use roundtable_transport::SystemClock;

    use super::*;

    const NAME: &str = "1f4712db-ea17-4bcf-a596-105139dfd8bf.local";

    fn start() -> Instant {
        SystemClock::instant(SystemClock.now())
    }

    fn host(address: &str) -> String {
        format!("candidate:1 1 udp 2130706431 {address} 5000 typ host")
    }

    /// What others see of it where it is hidden behind [`NAME`].
    fn hidden(address: &str) -> String {
        host(address).replacen(":1 ", ":1f4712db0 ", 1)
    }

    fn from(port: u16) -> SocketAddr {
        SocketAddr::new([192, 0, 2, 7].into(), port)
    }

    /// Carries everything between two sides until nothing moves.
    fn talk(now: Instant, asking: &mut Names, answering: &mut Names) -> Vec<String> {
        asking.handle_timeout(now);
        for packet in std::mem::take(asking.transmits()) {
            assert!(answering.handle_packet(now, from(PORT), &packet).is_empty());
        }
        let answers = std::mem::take(answering.transmits());
        let found = answers
            .iter()
            .map(|packet| asking.handle_packet(now, from(PORT), packet));
        found.flatten().collect()
    }

    #[test]
    fn a_name_becomes_the_address_that_its_owner_tells() {
        for address in ["192.0.2.1", "2001:db8::1"] {
            let now = start();
            let (mut alice, mut bob) = (Names::default(), Names::default());
            bob.hide(vec![(address.parse().unwrap(), NAME.into())]);
            let shown = bob.masked(&host(address));
            assert_eq!(shown, hidden(NAME));
            assert!(!alice.want(now, &host("192.0.2.9")));
            // However it is written.
            let upper = |text: String| text.replace("1f47", "1F47");
            assert!(alice.want(now, &upper(shown)));
            let found = [upper(hidden(address))];
            assert_eq!(talk(now, &mut alice, &mut bob), found);
            assert!(!alice.is_listening() && bob.is_listening());
        }
    }

    #[test]
    fn what_a_description_would_tell_is_hidden_as_well() {
        let mut names = Names::default();
        let plain = "v=0\r\na=candidate:1 1 udp 9 10.0.0.1 5 typ host\r\n\
            a=candidate:2 1 udp 9 192.0.2.1 6 typ srflx raddr 10.0.0.1 rport 5\r\na=x\r\n";
        assert_eq!(names.masked_description(plain.into()), plain);
        names.hide(vec![([10, 0, 0, 1].into(), NAME.into())]);
        let shown = names.masked_description(plain.into());
        assert!(!shown.contains("10.0.0.1"), "{shown}");
        assert!(
            shown.contains(&format!("udp 9 {NAME} 5 typ host\r\n")),
            "{shown}"
        );
        assert!(
            shown.contains("raddr 0.0.0.0 rport 0\r\na=x\r\n"),
            "{shown}"
        );
    }

    #[test]
    fn the_foundation_of_a_hidden_candidate_does_not_come_from_its_address() {
        let shown = |random: u128, candidate: &str| {
            let mut names = Names::default();
            names.hide(vec![([10, 0, 0, 1].into(), Names::name(random))]);
            let masked = names.masked(candidate);
            masked.split(' ').next().unwrap().to_owned()
        };
        let udp = host("10.0.0.1").replace(":1 ", ":1427115490 ");
        let tcp = udp.replace(" udp ", " tcp ");
        assert_eq!(shown(u128::MAX, &udp), "candidate:ffffffff0");
        assert_eq!(shown(u128::MAX, &tcp), "candidate:ffffffff1");
        assert_eq!(shown(0, &format!("a={udp}")), "a=candidate:000000000");
        // What has no name keeps its own: it is seen anyway.
        let relay = udp.replace("10.0.0.1", "192.0.2.1");
        assert_eq!(shown(0, &relay), "candidate:1427115490");
    }

    #[test]
    fn a_mute_link_asks_nothing_whatever_the_peer_names() {
        let now = start();
        let mut names = Names::default();
        names.want(now, &host(NAME));
        names.mute(true);
        // It is a name nevertheless, with which the core could do nothing.
        assert!(names.want(now, &host(NAME)));
        names.wake();
        assert!(names.want(now, &host("other.local")));
        assert_eq!(names.poll_timeout(), None);
        assert!(!names.is_listening());
        names.mute(false);
        names.want(now, &host(NAME));
        assert!(names.is_listening());
    }

    #[test]
    fn a_link_that_has_found_its_way_asks_and_answers_no_more_but_hides_on() {
        let now = start();
        let mut names = Names::default();
        let name = Names::name(u128::MAX);
        assert_eq!(name, "ffffffff-ffff-4fff-bfff-ffffffffffff.local");
        names.hide(vec![([10, 0, 0, 1].into(), name.clone())]);
        names.want(now, &host(NAME));
        names.rest();
        names.want(now, &host(NAME));
        assert!(!names.is_listening());
        assert_eq!(names.poll_timeout(), None);
        assert_eq!(
            names.masked(&host("10.0.0.1")),
            host(&name).replace(":1 ", ":ffffffff0 ")
        );
        names.wake();
        assert!(names.is_listening());
    }

    #[test]
    fn unanswered_questions_are_repeated_and_end() {
        let now = start();
        let mut names = Names::default();
        names.want(now, &host(NAME));
        let mut asked = Vec::new();
        while let Some(due) = names.poll_timeout() {
            names.handle_timeout(due);
            if !names.transmits().is_empty() {
                asked.push(due.saturating_duration_since(now).as_secs());
                names.transmits().clear();
            }
        }
        assert_eq!(asked, [0, 1, 3, 7]);
        assert!(!names.is_listening());
    }

    #[test]
    fn strangers_answers_and_floods_of_names_change_nothing() {
        let now = start();
        let mut names = Names::default();
        for number in 0..100 {
            names.want(now, &host(&format!("{number}.local")));
            names.want(now, &host("a.b.local"));
        }
        assert_eq!(names.wanted.len(), MAX_WANTED);
        let answer = |name: &str, ip: [u8; 4]| message::answer(name, ip.into()).unwrap();
        for (port, packet) in [
            (4000, answer("1.local", [192, 0, 2, 1])),
            (PORT, answer("never-asked.local", [192, 0, 2, 1])),
            (PORT, answer("1.local", [0; 4])),
            (PORT, answer("1.local", [224, 0, 0, 1])),
        ] {
            assert!(names.handle_packet(now, from(port), &packet).is_empty());
        }
        let good = answer("1.local", [192, 0, 2, 1]);
        assert_eq!(names.handle_packet(now, from(PORT), &good).len(), 1);
        assert!(names.handle_packet(now, from(PORT), &good).is_empty());
    }

    #[test]
    fn a_flood_of_questions_is_answered_once_a_second() {
        let now = start();
        let mut names = Names::default();
        names.hide(vec![([10, 0, 0, 1].into(), NAME.into())]);
        let question = message::question(NAME).unwrap();
        for ms in 0..1500 {
            names.handle_packet(now + Duration::from_millis(ms), from(4000), &question);
        }
        assert_eq!(names.transmits().len(), 2);
    }
}
