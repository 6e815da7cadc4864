//! Wide-band PESQ (ITU-T P.862.2) by the Python package `pesq`, where it is installed.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Mutex,
    thread,
};

use crate::{
    figures::{self, Played},
    listen::Heard,
    trace::Trace,
};

/// What is compared at once: the standard's own length.
const PIECE_S: usize = 10;
/// Where the pieces begin: after the warm-up, one of each talker.
const PIECES_S: [usize; 3] = [10, 20, 30];

/// Taps of the low-pass filter before two of three samples are left out.
const TAPS: usize = 96;

/// Ten seconds as they were said and as they were heard: little-endian 16-bit samples at 16 kHz.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    said: Vec<u8>,
    heard: Vec<u8>,
}

/// What is to be judged of what was heard. The mean delay of each piece is taken out; what varies is for PESQ to judge.
pub(crate) fn pieces(
    said: &[f32],
    trace: &Trace,
    heard: &[f32],
    delays: &[(f64, f64)],
) -> Vec<Piece> {
    let least_ms = figures::CODEC_MS + trace.fastest.as_secs_f64() * 1000.0;
    let piece = |begin_s: usize| {
        let span = (begin_s as f64)..((begin_s + PIECE_S) as f64);
        let of_piece = delays.iter().filter(|(at, _)| span.contains(at));
        let of_piece: Vec<f64> = of_piece.map(|(_, ms)| *ms).collect();
        let mean_ms = of_piece.iter().sum::<f64>() / of_piece.len().max(1) as f64;
        let (from, len) = (begin_s * 48_000, PIECE_S * 48_000);
        let shifted = from + ((mean_ms + least_ms).max(0.0) * 48.0) as usize;
        Some(Piece {
            said: at_16_khz(said.get(from..from + len)?),
            heard: at_16_khz(heard.get(shifted..shifted + len)?),
        })
    };
    PIECES_S.into_iter().filter_map(piece).collect()
}

/// Rates everything that was heard, on all cores; says so and does nothing where `pesq` is missing.
pub(crate) fn rate(folder: &Path, played: &mut [Played]) -> io::Result<()> {
    let installed = Command::new("python3")
        .args(["-c", "import pesq"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !installed {
        eprintln!("SKIP: PESQ (pip install pesq)");
        return Ok(());
    }
    let heard = played.iter_mut().flat_map(|one| one.heard.values_mut());
    let queue: Mutex<Vec<&mut Heard>> = Mutex::new(heard.flatten().collect());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let queue = &queue;
        let threads: Vec<_> = (0..cores)
            .map(|core| scope.spawn(move || rate_all(&folder.join(format!("pesq-{core}")), queue)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            let joined = thread.join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// Takes one after the other, until none is left.
fn rate_all(folder: &Path, queue: &Mutex<Vec<&mut Heard>>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut rater = Rater::start()?;
    let next = || queue.lock().ok()?.pop();
    while let Some(heard) = next() {
        let pieces = std::mem::take(&mut heard.pieces);
        let ratings = pieces.iter().map(|piece| rater.compare(folder, piece));
        let ratings: Vec<f64> = ratings.collect::<io::Result<_>>()?;
        // Where nobody speaks there is nothing to rate.
        let rated: Vec<f64> = ratings
            .into_iter()
            .filter(|rating| rating.is_finite())
            .collect();
        let sum = rated.iter().sum::<f64>();
        heard.pesq = (!rated.is_empty()).then(|| sum / rated.len() as f64);
    }
    rater.stop()
}

/// The running interpreter.
struct Rater {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Rater {
    fn start() -> io::Result<Self> {
        let mut child = Command::new("python3")
            .args(["-c", include_str!("pesq.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let lost = || io::Error::other("python3 has no pipes");
        Ok(Self {
            input: child.stdin.take().ok_or_else(lost)?,
            output: BufReader::new(child.stdout.take().ok_or_else(lost)?),
            child,
        })
    }

    fn compare(&mut self, folder: &Path, piece: &Piece) -> io::Result<f64> {
        let paths = [folder.join("said.s16"), folder.join("heard.s16")];
        fs::write(&paths[0], &piece.said)?;
        fs::write(&paths[1], &piece.heard)?;
        writeln!(self.input, "{} {}", paths[0].display(), paths[1].display())?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().parse().unwrap_or(f64::NAN))
    }

    fn stop(self) -> io::Result<()> {
        let Self {
            mut child, input, ..
        } = self;
        drop(input);
        child.wait().map(|_| ())
    }
}

/// Little-endian 16-bit samples at 16 kHz of samples at 48 kHz.
fn at_16_khz(samples: &[f32]) -> Vec<u8> {
    let filter: [f32; TAPS] = std::array::from_fn(|i| {
        let x = (i as f32 - (TAPS - 1) as f32 / 2.0) * std::f32::consts::PI;
        let window = 0.5 - 0.5 * (std::f32::consts::TAU * (i as f32 + 0.5) / TAPS as f32).cos();
        let cutoff = 7_600.0 / 24_000.0;
        (x * cutoff).sin() / x * window
    });
    let wanted = |window: &[f32]| {
        window
            .iter()
            .zip(&filter)
            .map(|(x, tap)| x * tap)
            .sum::<f32>()
    };
    let silence = [0.0; TAPS / 2];
    let padded: Vec<f32> = silence
        .iter()
        .chain(samples)
        .chain(&silence)
        .copied()
        .collect();
    let thinned = padded.windows(TAPS).step_by(3).map(wanted);
    thinned
        .flat_map(|x| ((x.clamp(-1.0, 1.0) * 32_767.0) as i16).to_le_bytes())
        .collect()
}
