#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

use std::{collections::BTreeMap, time::Duration};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use roundtable_core::{Bitrate, Timestamp};

/// Most times that one message of a stream is lost in a row.
const MAX_LOSSES: u32 = 16;

/// What a network does to what it carries. The default is a perfect one without delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conditions {
    /// How long every message takes at least. Default 0.
    pub delay: Duration,
    /// How much longer it may take, evenly spread. Default 0. Larger than the time between
    /// datagrams, it puts them out of order.
    pub jitter: Duration,
    /// How many in a thousand are lost. Default 0; 1000 and more lose every datagram.
    pub loss_per_mille: u16,
    /// How many datagrams in a thousand arrive twice. Default 0.
    pub duplicate_per_mille: u16,
    /// How many datagrams in a thousand overtake all others, by taking no time. Default 0.
    pub reorder_per_mille: u16,
    /// How much passes in a second; `None`, the default, is no limit.
    pub rate: Option<Bitrate>,
    /// How long a datagram may wait for its turn at that rate. Default 200 ms.
    pub max_queue: Duration,
    /// Datagrams that are lost in bursts, beside those that are lost by themselves. Default none.
    pub bursts: Option<BurstLoss>,
    /// Whether datagrams keep their order: one that takes longer holds up those behind it, as it does
    /// in a queue. Default no.
    pub in_order: bool,
}

/// Loss that comes in bursts: the model of Gilbert and Elliott, a chain of two states that moves with
/// each datagram. Outside a burst, [`Conditions::loss_per_mille`] are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BurstLoss {
    /// How many in a thousand datagrams begin a burst.
    pub begin_per_mille: u16,
    /// How many in a thousand datagrams of a burst end it.
    pub end_per_mille: u16,
    /// How many in a thousand datagrams of a burst are lost.
    pub loss_per_mille: u16,
}

impl BurstLoss {
    /// Bursts in which everything is lost (Gilbert's model), of `length` datagrams in the mean, so that
    /// `loss_per_mille` in a thousand are lost in all. Both are held to what the model can do: lengths
    /// from 1, losses to 900.
    pub fn gilbert(loss_per_mille: u16, length: u16) -> Self {
        let end_per_mille = 1000 / length.max(1);
        let loss = u32::from(loss_per_mille.min(900));
        let begin = u32::from(end_per_mille) * loss / (1000 - loss);
        Self {
            begin_per_mille: u16::try_from(begin).unwrap_or(u16::MAX),
            end_per_mille,
            loss_per_mille: 1000,
        }
    }
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            reorder_per_mille: 0,
            rate: None,
            max_queue: Duration::from_millis(200),
            bursts: None,
            in_order: false,
        }
    }
}

impl Conditions {
    /// How long a message of this length occupies the line.
    fn transmission(&self, len: usize) -> Duration {
        let bits = u64::try_from(len).unwrap_or(u64::MAX).saturating_mul(8);
        self.rate.map_or(Duration::ZERO, |rate| {
            let micros = bits.saturating_mul(1_000_000) / u64::from(rate.bps().max(1));
            Duration::from_micros(micros)
        })
    }

    /// How long it takes a reliable sender to find out about a loss and send again.
    fn retransmission(&self) -> Duration {
        (self.delay + self.jitter) * 2 + Duration::from_millis(25)
    }
}

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flow {
    /// At most once, unless duplicated; in any order.
    Datagram,
    /// Once, in order with the others of the stream with this number.
    Stream(u8),
}

#[derive(Debug)]
struct Parcel<T> {
    flow: Flow,
    len: usize,
    message: T,
}

/// One direction of a network.
#[derive(Debug)]
pub struct Netem<T> {
    conditions: Conditions,
    rng: ChaCha8Rng,
    /// By arrival, then by when it was sent.
    in_flight: BTreeMap<(Timestamp, u64), Parcel<T>>,
    /// What streams will send again once the network is mended; `None` while it is whole.
    parked: Option<Vec<Parcel<T>>>,
    /// When the last message of each stream arrives.
    streams: BTreeMap<u8, Timestamp>,
    /// Until when the line is occupied.
    busy_until: Timestamp,
    /// Whether datagrams are being lost in a burst.
    in_burst: bool,
    /// When the last datagram of those that keep their order arrives.
    last_in_order: Timestamp,
    sent: u64,
}

impl<T: Clone> Netem<T> {
    /// A network that has carried nothing yet.
    pub fn new(seed: u64, conditions: Conditions) -> Self {
        Self {
            conditions,
            rng: ChaCha8Rng::seed_from_u64(seed),
            in_flight: BTreeMap::new(),
            parked: None,
            streams: BTreeMap::new(),
            busy_until: Timestamp::ZERO,
            in_burst: false,
            last_in_order: Timestamp::ZERO,
            sent: 0,
        }
    }

    /// Changes the network for what is sent from here on.
    pub const fn set_conditions(&mut self, conditions: Conditions) {
        self.conditions = conditions;
    }

    /// Sends a message that is `len` bytes long on the line.
    pub fn send(&mut self, now: Timestamp, flow: Flow, len: usize, message: T) {
        let parcel = Parcel { flow, len, message };
        match (&mut self.parked, flow) {
            (Some(parked), Flow::Stream(_)) => parked.push(parcel),
            (Some(_), Flow::Datagram) => {}
            (None, Flow::Stream(stream)) => self.send_reliably(now, stream, parcel),
            (None, Flow::Datagram) => self.send_datagram(now, parcel),
        }
    }

    /// The next message that has arrived by `now`.
    pub fn poll(&mut self, now: Timestamp) -> Option<T> {
        let first = self.in_flight.first_entry()?;
        (first.key().0 <= now).then(|| first.remove().message)
    }

    /// When the next message arrives; `None` if none is under way.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        self.in_flight.keys().next().map(|(arrival, _)| *arrival)
    }

    /// Whether nothing gets through.
    pub const fn is_cut(&self) -> bool {
        self.parked.is_some()
    }

    /// Lets nothing begin its way before `until`, as when a radio is busy or a router thinks. What is
    /// sent meanwhile leaves at once then, unless it has to wait for longer than
    /// [`Conditions::max_queue`].
    pub fn stall(&mut self, until: Timestamp) {
        self.busy_until = self.busy_until.max(until);
    }

    /// Cuts the network: datagrams under way are lost, streams stand still.
    pub fn cut(&mut self) {
        let parked = self.parked.get_or_insert_default();
        let lost = std::mem::take(&mut self.in_flight).into_values();
        parked.extend(lost.filter(|parcel| parcel.flow != Flow::Datagram));
    }

    /// Ends a cut: streams send again what did not get through.
    pub fn mend(&mut self, now: Timestamp) {
        for parcel in self.parked.take().into_iter().flatten() {
            if let Flow::Stream(stream) = parcel.flow {
                self.send_reliably(now, stream, parcel);
            }
        }
    }

    fn send_datagram(&mut self, now: Timestamp, parcel: Parcel<T>) {
        let start = self.busy_until.max(now);
        let too_long = start.saturating_since(now) > self.conditions.max_queue;
        if too_long || self.is_lost() {
            return;
        }
        let departure = self.occupy(start, parcel.len);
        if self.happens(self.conditions.duplicate_per_mille) {
            let message = parcel.message.clone();
            let arrival = departure + self.travel();
            self.put(arrival, Parcel { message, ..parcel });
        }
        let overtakes = self.happens(self.conditions.reorder_per_mille);
        let travel = self.travel();
        let mut arrival = departure + if overtakes { Duration::ZERO } else { travel };
        if self.conditions.in_order {
            arrival = arrival.max(self.last_in_order);
            self.last_in_order = arrival;
        }
        self.put(arrival, parcel);
    }

    /// Whether the next datagram is lost.
    fn is_lost(&mut self) -> bool {
        let Some(bursts) = self.conditions.bursts else {
            return self.happens(self.conditions.loss_per_mille);
        };
        let moves = match self.in_burst {
            true => bursts.end_per_mille,
            false => bursts.begin_per_mille,
        };
        self.in_burst ^= self.happens(moves);
        self.happens(match self.in_burst {
            true => bursts.loss_per_mille,
            false => self.conditions.loss_per_mille,
        })
    }

    fn send_reliably(&mut self, now: Timestamp, stream: u8, parcel: Parcel<T>) {
        let mut departure = self.occupy(self.busy_until.max(now), parcel.len);
        for _ in 0..MAX_LOSSES {
            if !self.happens(self.conditions.loss_per_mille) {
                break;
            }
            departure = departure + self.conditions.retransmission();
        }
        let arrival = departure + self.travel();
        let last = self.streams.entry(stream).or_insert(arrival);
        *last = arrival.max(*last);
        let arrival = *last;
        self.put(arrival, parcel);
    }

    /// Occupies the line from `start`; returns until when.
    fn occupy(&mut self, start: Timestamp, len: usize) -> Timestamp {
        let end = start + self.conditions.transmission(len);
        if self.conditions.rate.is_some() {
            self.busy_until = end;
        }
        end
    }

    fn put(&mut self, arrival: Timestamp, parcel: Parcel<T>) {
        self.sent += 1;
        self.in_flight.insert((arrival, self.sent), parcel);
    }

    fn travel(&mut self) -> Duration {
        let jitter = u64::try_from(self.conditions.jitter.as_micros()).unwrap_or(u64::MAX);
        let extra = self.rng.next_u64() % jitter.saturating_add(1).max(1);
        self.conditions.delay + Duration::from_micros(extra)
    }

    fn happens(&mut self, per_mille: u16) -> bool {
        self.rng.next_u64() % 1000 < u64::from(per_mille)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: Flow = Flow::Stream(0);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Everything that comes out, with the time in milliseconds.
    fn run<T: Clone>(net: &mut Netem<T>) -> Vec<(u64, T)> {
        let mut out = Vec::new();
        while let Some(due) = net.next_timeout() {
            while let Some(message) = net.poll(due) {
                out.push((due.as_micros() / 1000, message));
            }
        }
        out
    }

    fn order<T: Clone>(net: &mut Netem<T>) -> Vec<T> {
        run(net).into_iter().map(|(_, message)| message).collect()
    }

    #[test]
    fn nothing_arrives_before_its_time() {
        let delay = millis(40);
        let mut net = Netem::new(
            1,
            Conditions {
                delay,
                ..Conditions::default()
            },
        );
        net.send(at(0), Flow::Datagram, 1, "hello");
        assert_eq!(net.next_timeout(), Some(at(40)));
        assert_eq!(net.poll(at(39)), None);
        assert_eq!(net.poll(at(40)), Some("hello"));
        assert_eq!(net.next_timeout(), None);
    }

    #[test]
    fn datagrams_are_lost_doubled_and_put_out_of_order() {
        let conditions = Conditions {
            delay: millis(20),
            jitter: millis(20),
            loss_per_mille: 100,
            duplicate_per_mille: 50,
            reorder_per_mille: 50,
            ..Conditions::default()
        };
        let mut net = Netem::new(2, conditions);
        for n in 0..1000_u64 {
            net.send(at(n), Flow::Datagram, 1, n);
        }
        let mut arrived = order(&mut net);
        assert!(!arrived.is_sorted());
        let total = arrived.len();
        arrived.sort_unstable();
        arrived.dedup();
        assert!((850..950).contains(&arrived.len()), "{}", arrived.len());
        assert!((20..80).contains(&(total - arrived.len())));
    }

    #[test]
    fn a_slow_line_delays_streams_and_drops_datagrams() {
        let conditions = Conditions {
            rate: Some(Bitrate::from_kbps(8)), // one byte each millisecond
            max_queue: millis(250),
            ..Conditions::default()
        };
        let mut net = Netem::new(3, conditions);
        for n in 0..5 {
            net.send(at(0), Flow::Datagram, 100, n);
        }
        assert_eq!(run(&mut net), [(100, 0), (200, 1), (300, 2)]);
        for n in 0..5 {
            net.send(at(1000), STREAM, 100, n);
        }
        let arrived = run(&mut net);
        assert_eq!(arrived.last(), Some(&(1500, 4)));
        assert_eq!(arrived.len(), 5);
    }

    #[test]
    fn losses_come_in_bursts_of_the_length_asked_for() {
        let conditions = Conditions {
            bursts: Some(BurstLoss::gilbert(100, 4)),
            ..Conditions::default()
        };
        assert_eq!(BurstLoss::gilbert(900, 1).begin_per_mille, 9_000, "held");
        let mut net = Netem::new(7, conditions);
        (0..20_000_u64).for_each(|n| net.send(at(n), Flow::Datagram, 1, n));
        let arrived = order(&mut net);
        let lost = 20_000 - arrived.len();
        assert!((1_600..2_400).contains(&lost), "{lost} of 20,000");
        let bursts = arrived.windows(2).filter(|pair| pair[1] > pair[0] + 1);
        let mean = lost as f64 / bursts.count() as f64;
        assert!((3.5..4.5).contains(&mean), "{mean} in a row");
    }

    #[test]
    fn a_queue_keeps_its_order_and_what_a_stall_held_up_comes_at_once() {
        let conditions = Conditions {
            delay: millis(10),
            jitter: millis(50),
            max_queue: millis(500),
            in_order: true,
            ..Conditions::default()
        };
        let mut net = Netem::new(8, conditions);
        (0..1_000_u64).for_each(|n| net.send(at(n * 5), Flow::Datagram, 1, n));
        let arrived = run(&mut net);
        assert_eq!(arrived.len(), 1_000);
        assert!(arrived.is_sorted_by_key(|(_, n)| *n));
        assert!(arrived.iter().any(|(at, n)| *at > n * 5 + 30), "jitter");
        net.set_conditions(Conditions {
            jitter: Duration::ZERO,
            ..conditions
        });
        net.stall(at(6_300));
        (0..5_u64).for_each(|n| net.send(at(6_000 + n), Flow::Datagram, 1, n));
        assert!(run(&mut net).iter().all(|(at, _)| *at == 6_310));
    }

    #[test]
    fn a_cut_loses_datagrams_and_holds_streams() {
        let mut net = Netem::new(
            4,
            Conditions {
                delay: millis(10),
                ..Conditions::default()
            },
        );
        net.send(at(0), STREAM, 1, "under way");
        net.send(at(0), Flow::Datagram, 1, "lost");
        net.cut();
        net.send(at(5), STREAM, 1, "held");
        net.send(at(5), Flow::Datagram, 1, "lost too");
        assert!(net.is_cut());
        assert_eq!(net.next_timeout(), None);
        net.mend(at(1000));
        assert_eq!(run(&mut net), [(1010, "under way"), (1010, "held")]);
    }

    #[test]
    fn streams_do_not_wait_for_each_other() {
        let conditions = Conditions {
            loss_per_mille: 500,
            ..Conditions::default()
        };
        let mut net = Netem::new(5, conditions);
        for n in 0..100_u8 {
            net.send(at(0), Flow::Stream(n % 2), 1, n);
        }
        let arrived = order(&mut net);
        assert!(!arrived.is_sorted());
        for stream in 0..2 {
            let of_stream = arrived.iter().filter(|n| **n % 2 == stream);
            assert!(of_stream.is_sorted());
        }
    }

    proptest! {
        #[test]
        fn a_stream_delivers_all_of_it_in_order(
            seed: u64,
            (delay, jitter) in (0..100_u64, 0..100_u64),
            loss_per_mille in 0..900_u16,
            steps in prop::collection::vec((0..50_u64, 0..8_u8), 1..60),
        ) {
            let (delay, jitter) = (millis(delay), millis(jitter));
            let conditions = Conditions { delay, jitter, loss_per_mille, ..Conditions::default() };
            let mut net = Netem::new(seed, conditions);
            let (mut now, mut arrived) = (at(0), Vec::new());
            for (n, (wait, what)) in steps.iter().enumerate() {
                now = now + millis(*wait);
                match what {
                    0 => net.cut(),
                    1 => net.mend(now),
                    _ => {}
                }
                net.send(now, STREAM, 1, n);
                arrived.extend(std::iter::from_fn(|| net.poll(now)));
            }
            net.mend(now);
            arrived.extend(order(&mut net));
            prop_assert_eq!(arrived, (0..steps.len()).collect::<Vec<_>>());
        }

        #[test]
        fn one_seed_is_one_network(seed: u64) {
            let conditions = Conditions {
                jitter: millis(50),
                loss_per_mille: 200,
                duplicate_per_mille: 100,
                ..Conditions::default()
            };
            let run_once = || {
                let mut net = Netem::new(seed, conditions);
                (0..50_u64).for_each(|n| net.send(at(n), Flow::Datagram, 1, n));
                run(&mut net)
            };
            prop_assert_eq!(run_once(), run_once());
        }
    }
}
