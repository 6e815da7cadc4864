//! How good the connection to a peer is, and why it is not better. Pure: it is told the time and what links have measured.
//!
//! The score is the rating factor R of the E-model (ITU-T G.107) with its defaults, for Opus with concealment, scaled so that a
//! line without delay and loss has 100: what people think of a talk, which is the most demanding thing that a room carries.

use std::{collections::VecDeque, time::Duration};

use roundtable_core::{Bitrate, LinkStats, Timestamp, TransportKind};

/// How far apart samples are, and how many are remembered: a minute.
pub(crate) const SAMPLE_EVERY: Duration = Duration::from_secs(1);
const HISTORY: usize = 60;
/// How many samples in a row must agree on another level before the user is told; silence is told at once.
const AGREE: u32 = 3;
/// Fewer packets than these in a second say nothing of loss; what was known of it before counts for some time.
const MIN_PACKETS: u64 = 10;
const LOSS_COUNTS_FOR: Duration = Duration::from_secs(5);
/// Points that an impairment costs before it is named as a reason.
const NAMED_FROM: f32 = 2.0;

/// R of a line without delay and loss (G.107, defaults).
const BEST: f32 = 93.2;
/// How robust Opus with concealment is against loss: Bpl, the packet-loss robustness factor, and the impairment that loss tends
/// to (G.107 §3.5).
const LOSS_ROBUSTNESS: f32 = 20.0;
const LOSS_LIMIT: f32 = 95.0;
/// What capture, frames and playing take beside the network.
const ENDS_MS: f32 = 40.0;

/// How a connection is, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QualityLevel {
    /// The peer does not answer, and is looked for.
    Silent,
    /// Below 60: talks are an effort.
    Poor,
    /// From 60: some will complain.
    Fair,
    /// From 80: most are content.
    Good,
}

impl QualityLevel {
    /// `"silent"`, `"poor"`, `"fair"` or `"good"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Poor => "poor",
            Self::Fair => "fair",
            Self::Good => "good",
        }
    }

    const fn of(score: u8) -> Self {
        match score {
            80.. => Self::Good,
            60.. => Self::Fair,
            _ => Self::Poor,
        }
    }
}

/// What makes a connection worse than it could be.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum QualityReason {
    /// The peer does not answer.
    Silent,
    /// Packets are lost: this share, 0 to 1.
    Loss(f32),
    /// Packets take long: the round-trip time.
    Delay(Duration),
    /// Packets take unevenly long, and are played later for it: the interarrival jitter.
    Jitter(Duration),
    /// The link leads over a TURN server. Costs no points by itself; a direct one is looked for.
    Relayed,
}

/// How the connection to a peer was during one second.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionQuality {
    /// 0 (unusable, or silent) to 100 (perfect).
    pub score: u8,
    /// The score in a word.
    pub level: QualityLevel,
    /// What costs points, the dearest first; empty where nothing is worth a word.
    pub reasons: Vec<QualityReason>,
    /// The kind of link that is sent on.
    pub transport: TransportKind,
    /// Round-trip time, smoothed.
    pub rtt: Option<Duration>,
    /// Interarrival jitter of received media.
    pub jitter: Option<Duration>,
    /// Share of packets lost, 0 to 1, during this second, or of voice (over WebRTC of video, too) by the peer's last report, if that is
    /// more. What cannot be measured any more is forgotten: after 5 s in which too little was sent, and 10 s without a report.
    pub loss: f32,
    /// How much the link could send, as far as its transport tells.
    pub bandwidth: Option<Bitrate>,
    /// What was sent and received during this second, all packets counted.
    pub sent: Bitrate,
    /// See `sent`.
    pub received: Bitrate,
}

/// What a link shows at the time of a sample.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Which link: counters of another one are not compared with its.
    pub(crate) link: u64,
    pub(crate) transport: TransportKind,
    pub(crate) silent: bool,
    pub(crate) stats: LinkStats,
}

/// The last minute of one connection.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<ConnectionQuality>,
    last: Option<(Timestamp, u64, LinkStats)>,
    /// Share of packets lost in the last second that said something of it, and when that was.
    lost: Option<(Timestamp, f32)>,
    /// The level that the user knows of, and how many samples in a row have had another.
    told: Option<QualityLevel>,
    differing: (Option<QualityLevel>, u32),
}

impl History {
    /// Takes a sample. Says whether the level has changed.
    pub(crate) fn sample(&mut self, now: Timestamp, shown: Shown) -> bool {
        let quality = self.judge(now, &shown);
        let level = quality.level;
        self.last = Some((now, shown.link, shown.stats));
        if self.samples.len() == HISTORY {
            self.samples.pop_front();
        }
        self.samples.push_back(quality);
        self.changes_to(level)
    }

    /// The last sample.
    pub(crate) fn now(&self) -> Option<&ConnectionQuality> {
        self.samples.back()
    }

    /// All samples of the last minute, the oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &ConnectionQuality> {
        self.samples.iter()
    }

    fn changes_to(&mut self, level: QualityLevel) -> bool {
        let silence = [Some(level), self.told].contains(&Some(QualityLevel::Silent));
        self.differing = match self.differing {
            _ if self.told == Some(level) => (None, 0),
            (Some(other), times) if other == level => (Some(level), times + 1),
            _ => (Some(level), 1),
        };
        let agreed = self.differing.1 >= AGREE || (silence && self.differing.1 > 0);
        if agreed {
            self.told = Some(level);
            self.differing = (None, 0);
        }
        agreed
    }

    fn judge(&mut self, now: Timestamp, shown: &Shown) -> ConnectionQuality {
        let stats = &shown.stats;
        let before = self
            .last
            .as_ref()
            .filter(|(_, link, _)| *link == shown.link);
        let passed = before.map(|(at, ..)| now.saturating_since(*at));
        let packets = before.map(|(.., earlier)| stats.packets.since(&earlier.packets));
        let packets = packets.unwrap_or_default();
        if before.is_none() {
            self.lost = None;
        } else if packets.sent >= MIN_PACKETS {
            self.lost = Some((now, share(packets.lost, packets.sent)));
        }
        let counts = |(at, _): &(Timestamp, f32)| now <= *at + LOSS_COUNTS_FOR;
        self.lost = self.lost.filter(counts);
        let counted = self.lost.map_or(0.0, |(_, share)| share);
        let reported = match shown.transport {
            // It counts no lost packets by itself; of all else this is a mean over the link's life.
            TransportKind::WebRtc => stats.loss,
            _ => stats.voice_loss.unwrap_or(0.0),
        };
        let loss = counted.max(reported);
        let impairments = Impairments::of(stats.rtt, stats.jitter, loss);
        let relayed = stats.path.is_some_and(|path| path.is_relayed());
        let (score, level, mut reasons) = if shown.silent {
            (0, QualityLevel::Silent, vec![QualityReason::Silent])
        } else {
            let score = impairments.score();
            (score, QualityLevel::of(score), impairments.reasons())
        };
        reasons.extend(relayed.then_some(QualityReason::Relayed));
        ConnectionQuality {
            score,
            level,
            reasons,
            transport: shown.transport,
            rtt: stats.rtt,
            jitter: stats.jitter,
            loss,
            bandwidth: stats.bandwidth,
            sent: rate(packets.sent_bytes, passed),
            received: rate(packets.received_bytes, passed),
        }
    }
}

/// What each thing costs, in points of R.
#[derive(Debug)]
struct Impairments([(f32, QualityReason); 3]);

impl Impairments {
    fn of(rtt: Option<Duration>, jitter: Option<Duration>, loss: f32) -> Self {
        let (rtt, jitter) = (rtt.unwrap_or_default(), jitter.unwrap_or_default());
        let ms = |time: Duration| time.as_secs_f32() * 1000.0;
        // A jitter buffer holds back about what nearly all packets need: two to three times the mean deviation.
        let (network, buffer) = (ms(rtt) / 2.0 + ENDS_MS, 2.5 * ms(jitter));
        let late = delay_impairment(network);
        let uneven = delay_impairment(network + buffer) - late;
        let percent = loss.clamp(0.0, 1.0) * 100.0;
        let lossy = LOSS_LIMIT * percent / (percent + LOSS_ROBUSTNESS);
        Self([
            (lossy, QualityReason::Loss(loss)),
            (late - delay_impairment(ENDS_MS), QualityReason::Delay(rtt)),
            (uneven, QualityReason::Jitter(jitter)),
        ])
    }

    fn score(&self) -> u8 {
        let cost: f32 = self.0.iter().map(|(points, _)| points).sum();
        let score = ((BEST - cost) / BEST * 100.0).clamp(0.0, 100.0).round();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 100
        let score = score as u8;
        score
    }

    fn reasons(mut self) -> Vec<QualityReason> {
        self.0.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let named = self
            .0
            .into_iter()
            .filter(|(points, _)| *points >= NAMED_FROM);
        named.map(|(_, reason)| reason).collect()
    }
}

/// Id of the E-model, for echo-free lines (the usual approximation of G.107 §3.4): little up to 177 ms in one direction, and
/// steeper from there.
fn delay_impairment(ms: f32) -> f32 {
    0.024 * ms + 0.11 * (ms - 177.3).max(0.0)
}

#[allow(clippy::cast_precision_loss)] // a share
fn share(part: u64, whole: u64) -> f32 {
    (part as f32 / whole.max(1) as f32).min(1.0)
}

fn rate(bytes: u64, passed: Option<Duration>) -> Bitrate {
    let millis = passed.map_or(0, |passed| passed.as_millis());
    let bits = u128::from(bytes) * 8 * 1000;
    let bps = bits.checked_div(millis).unwrap_or(0);
    Bitrate::from_bps(u32::try_from(bps).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use roundtable_core::{CandidateType, LinkPath, PacketStats, PathProtocol};

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn stats(rtt_ms: u64, jitter_ms: u64) -> LinkStats {
        LinkStats {
            rtt: Some(Duration::from_millis(rtt_ms)),
            jitter: Some(Duration::from_millis(jitter_ms)),
            ..LinkStats::default()
        }
    }

    fn shown(stats: LinkStats) -> Shown {
        Shown {
            link: 1,
            transport: TransportKind::Quic,
            silent: false,
            stats,
        }
    }

    fn judged(stats: LinkStats) -> ConnectionQuality {
        History::default().judge(at(0), &shown(stats))
    }

    #[test]
    fn the_score_says_what_is_wrong_and_how_bad_it_is() {
        let perfect = judged(stats(0, 0));
        assert_eq!((perfect.score, perfect.reasons), (100, vec![]));
        assert!(judged(stats(40, 3)).level == QualityLevel::Good);

        let far = judged(stats(600, 5));
        assert!(far.level < QualityLevel::Good, "{far:?}");
        assert!(matches!(far.reasons[0], QualityReason::Delay(_)));

        let uneven = judged(stats(40, 120));
        assert!(
            matches!(uneven.reasons[..], [QualityReason::Jitter(_)]),
            "{uneven:?}"
        );

        let lossy = LinkStats {
            voice_loss: Some(0.2),
            ..stats(300, 0)
        };
        let lossy = judged(lossy);
        assert_eq!(lossy.level, QualityLevel::Poor);
        assert!(
            matches!(
                lossy.reasons[..],
                [QualityReason::Loss(_), QualityReason::Delay(_)]
            ),
            "{lossy:?}"
        );

        let relayed = LinkStats {
            path: Some(LinkPath {
                local: CandidateType::Host,
                remote: CandidateType::Relay,
                protocol: PathProtocol::Udp,
            }),
            ..stats(10, 1)
        };
        assert_eq!(judged(relayed).reasons, [QualityReason::Relayed]);
    }

    #[test]
    fn worse_measurements_never_raise_the_score() {
        let score = |rtt, jitter, loss: f32| {
            let stats = LinkStats {
                voice_loss: Some(loss),
                ..stats(rtt, jitter)
            };
            judged(stats).score
        };
        for step in 0..50_u8 {
            let (ms, loss) = (u64::from(step) * 20, f32::from(step) / 50.0);
            assert!(score(ms + 20, 0, 0.0) <= score(ms, 0, 0.0));
            assert!(score(40, ms + 20, 0.0) <= score(40, ms, 0.0));
            assert!(score(40, 5, loss + 0.02) <= score(40, 5, loss));
        }
        assert_eq!(score(5000, 1000, 1.0), 0);
    }

    #[test]
    fn loss_and_rates_are_of_the_last_second_whatever_the_counters_are_at() {
        let mut history = History::default();
        let counted = |seconds: u64| LinkStats {
            packets: PacketStats {
                sent: (u64::MAX - 70).wrapping_add(seconds * 50),
                sent_bytes: (u64::MAX - 100).wrapping_add(seconds * 5000),
                received: 0,
                received_bytes: (u64::MAX - 4000).wrapping_add(seconds * 2500),
                lost: u64::MAX.wrapping_add(seconds.saturating_sub(1) * 5),
            },
            ..stats(10, 1)
        };
        for seconds in 0..3 {
            history.sample(at(seconds), shown(counted(seconds)));
        }
        let quality = history.now().unwrap();
        assert_eq!(quality.sent, Bitrate::from_kbps(40));
        assert_eq!(quality.received, Bitrate::from_kbps(20));
        assert!((quality.loss - 0.1).abs() < 0.001, "{quality:?}");
        // Another link counts from zero.
        let other = Shown {
            link: 2,
            ..shown(LinkStats::default())
        };
        history.sample(at(3), other);
        let quality = history.now().unwrap();
        assert_eq!((quality.sent, quality.score), (Bitrate::from_bps(0), 100));
    }

    #[test]
    fn loss_is_forgotten_when_too_little_is_sent_to_say_more_of_it() {
        let mut history = History::default();
        let counted = |sent, lost| LinkStats {
            packets: PacketStats {
                sent,
                lost,
                ..PacketStats::default()
            },
            ..stats(10, 1)
        };
        history.sample(at(0), shown(counted(0, 0)));
        history.sample(at(1), shown(counted(100, 30)));
        for second in 2..20 {
            history.sample(at(second), shown(counted(100 + second, 30)));
            let loss = history.now().unwrap().loss;
            assert_eq!(loss > 0.0, second <= 6, "{loss} in second {second}");
        }
    }

    #[test]
    fn over_webrtc_loss_of_video_counts() {
        let video = |transport| {
            let stats = LinkStats {
                loss: 0.2,
                ..stats(10, 1)
            };
            let shown = Shown {
                transport,
                ..shown(stats)
            };
            History::default().judge(at(0), &shown).loss
        };
        assert!(video(TransportKind::WebRtc) > 0.1);
        assert!(video(TransportKind::Quic) < 0.1, "of all its life");
    }

    #[test]
    fn a_minute_is_remembered_and_no_more() {
        let mut history = History::default();
        for second in 0..10_000 {
            history.sample(at(second), shown(stats(second, 0)));
        }
        let first = Some(Duration::from_millis(9940));
        assert_eq!(history.all().count(), 60);
        assert_eq!(history.all().next().unwrap().rtt, first);
    }

    #[test]
    fn the_user_hears_of_levels_that_last_and_of_silence_at_once() {
        let mut history = History::default();
        let mut changes = Vec::new();
        let mut second = 0;
        let mut run = |history: &mut History, stats: LinkStats, silent, times: u64| {
            for _ in 0..times {
                let silent = Shown {
                    silent,
                    ..shown(stats.clone())
                };
                if history.sample(at(second), silent) {
                    changes.push((second, history.now().unwrap().level));
                }
                second += 1;
            }
        };
        let (good, bad) = (stats(20, 2), stats(1500, 50));
        run(&mut history, good.clone(), false, 5);
        // Two bad seconds, then ten.
        run(&mut history, bad.clone(), false, 2);
        run(&mut history, good.clone(), false, 3);
        run(&mut history, bad, false, 10);
        run(&mut history, good.clone(), true, 2);
        run(&mut history, good, false, 5);
        let expected = [
            (2, QualityLevel::Good),
            (12, QualityLevel::Poor),
            (20, QualityLevel::Silent),
            (22, QualityLevel::Good),
        ];
        assert_eq!(changes, expected);
    }
}
