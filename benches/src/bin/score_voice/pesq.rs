//! Wide-band PESQ (ITU-T P.862.2) by the Python package `pesq`, where it is installed.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::{
    figures::{self, Listener, Played},
    listen::Heard,
};

/// What is compared at once: the standard's own length.
const PIECE_S: usize = 10;
/// Where the pieces begin: after the warm-up, one of each talker.
const PIECES_S: [usize; 3] = [10, 20, 30];

/// Taps of the low-pass filter before two of three samples are left out.
const TAPS: usize = 96;

/// Rates everything that was heard; says so and does nothing where `pesq` is missing.
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
    let mut rater = Rater::start()?;
    for one in played {
        let ratings = one.heard.iter().map(|(listener, heard)| {
            let rated = rater.rate(folder, one, &heard[0])?;
            Ok(rated.map(|pesq| (*listener, pesq)))
        });
        let ratings: Vec<Option<(Listener, f64)>> = ratings.collect::<io::Result<_>>()?;
        one.pesq = ratings.into_iter().flatten().collect();
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

    /// The mean over the pieces in which somebody speaks.
    fn rate(&mut self, folder: &Path, played: &Played, heard: &Heard) -> io::Result<Option<f64>> {
        let delays = &heard.delays;
        let least_ms = figures::CODEC_MS + played.traces[0].fastest.as_secs_f64() * 1000.0;
        let mut ratings = Vec::new();
        for begin_s in PIECES_S {
            // The mean delay is taken out; what varies is for PESQ to judge.
            let piece = (begin_s as f64)..((begin_s + PIECE_S) as f64);
            let of_piece: Vec<f64> = delays
                .iter()
                .filter(|(at, _)| piece.contains(at))
                .map(|(_, ms)| *ms)
                .collect();
            let mean_ms = of_piece.iter().sum::<f64>() / of_piece.len().max(1) as f64;
            let (from, len) = (begin_s * 48_000, PIECE_S * 48_000);
            let shifted = from + ((mean_ms + least_ms).max(0.0) * 48.0) as usize;
            let (Some(said), Some(heard)) = (
                played.said.get(from..from + len),
                heard.samples.get(shifted..shifted + len),
            ) else {
                continue;
            };
            let rating = self.compare(folder, said, heard)?;
            ratings.extend(rating.is_finite().then_some(rating));
        }
        let count = ratings.len() as f64;
        Ok((count > 0.0).then(|| ratings.iter().sum::<f64>() / count))
    }

    fn compare(&mut self, folder: &Path, said: &[f32], heard: &[f32]) -> io::Result<f64> {
        let paths = [folder.join("said.s16"), folder.join("heard.s16")];
        fs::write(&paths[0], at_16_khz(said))?;
        fs::write(&paths[1], at_16_khz(heard))?;
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
