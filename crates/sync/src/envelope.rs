//! The line under a cloud of transits: how fast two clocks part, though every packet comes late.
//!
//! A packet's *transit* is its arrival on our clock minus its media time. Jitter only ever adds to it, so
//! what the clocks do shows in the lowest transits alone. The least of every few dozen packets lies
//! above the true line by an amount that is distributed exponentially, near enough, whatever the
//! jitter is like (the limit law of minima). For that noise the likelihood of a slope `b` is known in
//! closed form: with `S(b)` the mean height of the points above the highest line of slope `b` that
//! lies under them all, and the line's height and the noise's mean integrated out, it is
//! `S(b)^-(n - 1)`. `S` is made of straight pieces, one for each vertex of the points' lower convex
//! hull, so that every quantile of the slope follows by summing a few integrals.
//!
//! Where the least delay is rare, minima are less scattered than that, and the line through the midst
//! of them is the better one: least squares.

use std::collections::VecDeque;

/// Packets of which the lowest one counts, at first.
const PACKETS_PER_POINT: u32 = 32;
/// And at last: with 50 packets a second the window is then 22 minutes.
const MAX_PACKETS_PER_POINT: u32 = 256;
/// Points kept. When full, neighbours are merged; then the oldest go.
const MAX_POINTS: usize = 256;
/// Points before there is a fit.
const MIN_POINTS: usize = 10;
/// So many points in a row above the line are a longer path, not congestion.
const RISEN: usize = 8;
/// A point this far above the line was held up; this far below it, the path got shorter.
const STEP_S: f64 = 0.01;
/// The same in means of the noise: one in 160,000 points is so far off by chance.
const STEP_MEANS: f64 = 12.0;
/// What a line may be off after a gap, per second of it: crystals change with the temperature.
const WANDER: f64 = 10e-6;
/// Share of the likelihood beyond either end of the interval. 2.5 % would do if the minima were exactly
/// exponential.
const TAIL: f64 = 0.015;
/// Scatter of the heights, in means, below which they are not exponential: for those it is 1.
const EXPONENTIAL: f64 = 0.75;
/// Heights are no finer than this: ticks and microseconds are rounded.
const RESOLUTION_S: f64 = 5e-6;

/// A transit, in seconds, both coordinates relative to the first packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) media_s: f64,
    pub(crate) transit_s: f64,
}

/// A slope, in seconds of transit a second of media, with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Slope {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// A line that lies under points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fit {
    pub(crate) slope: Slope,
    /// A point on the line.
    at: Point,
    /// Mean height of the points above the line.
    noise_s: f64,
}

impl Fit {
    fn height(&self, point: Point) -> f64 {
        point.transit_s - self.at.transit_s - self.slope.value * (point.media_s - self.at.media_s)
    }
}

/// Keeps the lowest transits and fits the line under them.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    points: VecDeque<Point>,
    packets_per_point: u32,
    open: Option<(Point, u32)>,
    /// Points in a row that lie above the line.
    above: Vec<Point>,
    fit: Option<Fit>,
    work: Work,
}

/// Room for fitting, taken once.
#[derive(Debug, Clone, Default)]
struct Work {
    /// The points by media time.
    points: Vec<Point>,
    /// Their lower hull, and its edges' slopes.
    hull: Vec<Point>,
    edges: Vec<f64>,
    pieces: Vec<Piece>,
}

impl Work {
    fn new() -> Self {
        Self {
            points: Vec::with_capacity(MAX_POINTS),
            hull: Vec::with_capacity(MAX_POINTS),
            edges: Vec::with_capacity(MAX_POINTS),
            pieces: Vec::with_capacity(MAX_POINTS),
        }
    }
}

/// What a packet did to the envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    /// Nothing that shows.
    Kept,
    /// The line was fitted anew.
    Fitted,
    /// The path has changed: what was before is forgotten.
    Restarted,
}

impl Envelope {
    pub(crate) fn new() -> Self {
        Self {
            points: VecDeque::with_capacity(MAX_POINTS),
            packets_per_point: PACKETS_PER_POINT,
            open: None,
            above: Vec::with_capacity(RISEN),
            fit: None,
            work: Work::new(),
        }
    }

    pub(crate) fn fit(&self) -> Option<&Fit> {
        self.fit.as_ref()
    }

    /// Adds a packet's transit.
    pub(crate) fn add(&mut self, packet: Point) -> Added {
        let (lowest, count) = self.open.unwrap_or((packet, 0));
        let lowest = if packet.transit_s < lowest.transit_s {
            packet
        } else {
            lowest
        };
        if count + 1 < self.packets_per_point {
            self.open = Some((lowest, count + 1));
            return Added::Kept;
        }
        self.open = None;
        self.close(lowest)
    }

    /// Takes the lowest packet of a few dozen.
    fn close(&mut self, point: Point) -> Added {
        if let Some(fit) = self.fit {
            let height = fit.height(point);
            let last = self.points.back().map_or(point.media_s, |p| p.media_s);
            let gap = (point.media_s - last).max(0.0);
            let reach = (WANDER + fit.slope.high - fit.slope.low) * gap;
            let bound = STEP_S.max(STEP_MEANS * fit.noise_s) + reach;
            if height > bound {
                self.above.push(point);
                if self.above.len() < RISEN {
                    return Added::Kept;
                }
                self.points.clear();
                self.points.extend(self.above.drain(..));
                return self.restart();
            }
            if height < -bound {
                self.points.clear();
                self.points.push_back(point);
                return self.restart();
            }
        }
        self.above.clear();
        if self.points.len() == MAX_POINTS {
            self.make_room();
        }
        self.points.push_back(point);
        self.refit();
        Added::Fitted
    }

    /// Begins a new line from the points that are left.
    fn restart(&mut self) -> Added {
        self.above.clear();
        self.open = None;
        self.fit = None;
        Added::Restarted
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.points.clear();
        self.packets_per_point = PACKETS_PER_POINT;
        self.restart();
    }

    /// Merges neighbours, or lets the oldest go once points stand for many packets each.
    fn make_room(&mut self) {
        if self.packets_per_point >= MAX_PACKETS_PER_POINT {
            self.points.pop_front();
            return;
        }
        self.packets_per_point *= 2;
        let points = self.points.make_contiguous();
        let pairs = points.len() / 2;
        for pair in 0..pairs {
            let (a, b) = (points[2 * pair], points[2 * pair + 1]);
            points[pair] = if b.transit_s < a.transit_s { b } else { a };
        }
        self.points.truncate(pairs);
    }

    fn refit(&mut self) {
        if self.points.len() >= MIN_POINTS {
            let points = &mut self.work.points;
            points.clear();
            points.extend(&self.points);
            points.sort_unstable_by(|a, b| a.media_s.total_cmp(&b.media_s));
            self.fit = fit(&mut self.work);
        }
    }
}

/// A stretch of slopes over which one vertex of the hull holds the line up: `S` is straight there. It
/// goes away from the end where the likelihood is greater.
#[derive(Debug, Clone, Copy)]
struct Piece {
    begin: f64,
    /// 1 to greater slopes, -1 to lesser ones.
    direction: f64,
    /// How far it goes; infinite for the two outermost.
    length: f64,
    /// `S` at the beginning, and its growth a unit of slope.
    height: f64,
    lean: f64,
    /// The likelihood at the beginning, relative to its maximum.
    weight: f64,
    /// Exponent of the likelihood's integral: n - 2.
    power: f64,
}

impl Piece {
    /// The integral of the likelihood.
    fn mass(&self) -> f64 {
        if self.lean == 0.0 {
            return self.weight * self.length;
        }
        let growth = (self.lean * self.length / self.height).ln_1p();
        let share = -(-self.power * growth).exp_m1();
        self.weight * self.height / (self.lean * self.power) * share
    }

    /// How far from the beginning the integral reaches `mass`.
    fn reach(&self, mass: f64) -> f64 {
        if self.lean == 0.0 {
            return mass / self.weight;
        }
        let share = mass * self.lean * self.power / (self.weight * self.height);
        let growth = -(-share).ln_1p() / self.power;
        self.height * growth.exp_m1() / self.lean
    }
}

/// Fits the line under the points, which ascend in media time. `None` if they all have the same.
fn fit(work: &mut Work) -> Option<Fit> {
    let Work {
        points,
        hull,
        edges,
        pieces,
    } = work;
    let count = points.len() as f64;
    let mean_of = |part: fn(&Point) -> f64| points.iter().map(part).sum::<f64>() / count;
    let mean = Point {
        media_s: mean_of(|p| p.media_s),
        transit_s: mean_of(|p| p.transit_s),
    };
    lower_hull(points, hull);
    edges.clear();
    edges.extend(hull.windows(2).map(|pair| edge(pair[0], pair[1])));
    // The mean height above the line of slope `b` through `vertex`.
    let height = |vertex: &Point, b: f64| {
        mean.transit_s - vertex.transit_s + b * (vertex.media_s - mean.media_s) + RESOLUTION_S
    };
    let heights = hull
        .iter()
        .zip(edges.iter())
        .map(|(vertex, b)| height(vertex, *b));
    let least = heights.min_by(f64::total_cmp)?;
    let before = std::iter::once(f64::NEG_INFINITY).chain(edges.iter().copied());
    let after = edges.iter().copied().chain([f64::INFINITY]);
    let ranges = hull.iter().zip(before.zip(after));
    pieces.clear();
    pieces.extend(ranges.map(|(vertex, (low, high))| {
        let arm = vertex.media_s - mean.media_s;
        let (begin, direction) = if arm < 0.0 { (high, -1.0) } else { (low, 1.0) };
        Piece {
            begin,
            direction,
            length: high - low,
            height: height(vertex, begin),
            lean: arm.abs(),
            weight: (height(vertex, begin) / least).powf(1.0 - count),
            power: count - 2.0,
        }
    }));
    let slope = Slope {
        value: quantile(pieces, 0.5)?,
        low: quantile(pieces, TAIL)?,
        high: quantile(pieces, 1.0 - TAIL)?,
    };
    let under = |slope: Slope| {
        let vertex = edges.partition_point(|edge| *edge <= slope.value);
        let at = *hull.get(vertex)?;
        let noise_s = height(&at, slope.value);
        Some(Fit { slope, at, noise_s })
    };
    let fit = under(slope)?;
    let variance = points
        .iter()
        .map(|point| (fit.height(*point) - fit.noise_s).powi(2))
        .sum::<f64>()
        / count;
    if variance.sqrt() < EXPONENTIAL * fit.noise_s - RESOLUTION_S {
        return under(least_squares(points, RESOLUTION_S)?);
    }
    Some(fit)
}

/// The line through the midst of at least three points whose heights are no finer than `resolution_s`.
pub(crate) fn least_squares(points: &[Point], resolution_s: f64) -> Option<Slope> {
    let count = points.len() as f64;
    let freedom = count - 2.0;
    let mean_x = points.iter().map(|p| p.media_s).sum::<f64>() / count;
    let mean_y = points.iter().map(|p| p.transit_s).sum::<f64>() / count;
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for point in points {
        let (x, y) = (point.media_s - mean_x, point.transit_s - mean_y);
        xx += x * x;
        xy += x * y;
        yy += y * y;
    }
    if freedom < 1.0 || xx <= 0.0 {
        return None;
    }
    let value = xy / xx;
    let variance = ((yy - value * xy) / freedom).max(resolution_s * resolution_s);
    // Student's t at 97.5 %, within 1 % from three degrees of freedom on.
    let t = 1.96 + 2.4 / freedom + 3.6 / (freedom * freedom);
    let reach = t * (variance / xx).sqrt();
    Some(Slope {
        value,
        low: value - reach,
        high: value + reach,
    })
}

/// The slope below which this share of the likelihood lies.
fn quantile(pieces: &[Piece], share: f64) -> Option<f64> {
    let mut wanted = share * pieces.iter().map(Piece::mass).sum::<f64>();
    for piece in pieces {
        let mass = piece.mass();
        if wanted < mass {
            let part = if piece.direction < 0.0 {
                mass - wanted
            } else {
                wanted
            };
            return Some(piece.begin + piece.direction * piece.reach(part));
        }
        wanted -= mass;
    }
    None
}

fn edge(a: Point, b: Point) -> f64 {
    (b.transit_s - a.transit_s) / (b.media_s - a.media_s)
}

/// Writes the vertices of the lower convex hull into `hull`, from left to right, no two above each other.
fn lower_hull(points: &[Point], hull: &mut Vec<Point>) {
    hull.clear();
    for &point in points {
        if let Some(last) = hull.last()
            && last.media_s >= point.media_s
        {
            if last.transit_s <= point.transit_s {
                continue;
            }
            hull.pop();
        }
        while let [.., a, b] = hull[..]
            && edge(a, b) >= edge(b, point)
        {
            hull.pop();
        }
        hull.push(point);
    }
}
