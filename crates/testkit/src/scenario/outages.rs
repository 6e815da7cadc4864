//! What befalls links and machines.

use std::time::Duration;

use super::life::{Life, conditions};

/// Most links that two peers have at a time.
const MAX_LINKS: usize = 2;

impl Life {
    fn any_link(&mut self) -> Option<u64> {
        let links: Vec<u64> = self.world.cables.keys().copied().collect();
        self.world.dice.pick(&links)
    }

    pub(super) fn unplug(&mut self) {
        if let Some(link) = self.any_link() {
            self.world.note(format!("link {link} breaks"));
            self.world.unplug(link);
        }
    }

    pub(super) fn silence(&mut self) {
        if let Some(link) = self.any_link() {
            self.world.note(format!("link {link} goes silent"));
            self.world.silence(link);
        }
    }

    /// A peer is in another network from one moment to the next.
    pub(super) fn readdress(&mut self) {
        let running = self.world.running();
        if let Some(number) = self.world.dice.pick(&running) {
            self.moves += 1;
            self.world.note(format!("p{number} has another address"));
            self.world.readdress(number);
        }
    }

    /// A second link between two peers that have one.
    pub(super) fn double(&mut self) {
        let Some([a, b]) = self
            .any_link()
            .and_then(|link| Some(self.world.cables.get(&link)?.ends))
        else {
            return;
        };
        let members = [a, b].map(|number| self.world.session(number).is_some());
        let cut = self.world.partitioned && self.world.peers[a].side != self.world.peers[b].side;
        let links = self.world.cables.values().filter(|cable| cable.joins(a, b));
        if members == [true; 2] && !cut && links.count() < MAX_LINKS {
            let kind = self.world.any_kind();
            self.world.note(format!("p{a} and p{b} have one more link"));
            self.world.link(a, b, kind);
        }
    }

    pub(super) fn partition(&mut self) {
        if self.world.partitioned {
            return;
        }
        for number in 0..self.world.peers.len() {
            self.world.peers[number].side = self.world.dice.chance(50);
        }
        let lasts = self.world.dice.millis(500, 9000);
        self.mend_at = Some(self.world.now + lasts);
        self.partitions += 1;
        let sides = self.world.numbers(|peer| peer.side);
        self.world
            .note(format!("{sides:?} are cut off for {lasts:?}"));
        self.world.partition();
    }

    /// A peer dies and will return, or another does in its place, with a key of its own.
    pub(super) fn crash(&mut self) {
        let honest = self.world.honest();
        if honest.len() < 3 {
            return;
        }
        let number = self.any_honest();
        let silently = self.world.dice.chance(50);
        self.crashes += 1;
        self.world
            .note(format!("p{number} crashes, silently: {silently}"));
        self.world.crash(number, silently);
        if number > 0 && self.world.dice.chance(20) {
            self.world.peers[number].gone = true;
            self.join();
        } else {
            let returns = self.world.now + self.world.dice.millis(50, 6000);
            self.down.push((number, returns));
        }
    }

    /// A peer dies, and comes back with an older backup of its disk. Whoever it meets then may speak
    /// first, but somebody who holds all that it had signed is there, and the network is quick.
    pub(super) fn restore_backup(&mut self) {
        let honest = self.world.honest();
        let number = self.any_honest();
        let author = self.world.author(number);
        let head = |peer: usize| self.world.session(peer)?.log()?.head(author);
        let own = head(number);
        let known = honest
            .iter()
            .any(|peer| *peer != number && head(*peer) == own);
        if self.world.partitioned || !self.down.is_empty() || !known || own.is_none() {
            return;
        }
        let frames = self.world.peers[number].store.own.len();
        let kept = self.world.dice.index(frames).unwrap_or_default();
        self.rollbacks += 1;
        self.world.note(format!(
            "p{number} is back with {kept} of {frames} own frames"
        ));
        let before = self.world.conditions();
        self.world.set_conditions(conditions(5, 10, 0));
        self.world.run_for(Duration::from_secs(1));
        self.world.crash(number, false);
        self.world.roll_back(number, kept);
        self.world.run_for(Duration::from_millis(300));
        self.start(number);
        self.world.run_for(Duration::from_secs(4));
        self.world.set_conditions(before);
    }
}
