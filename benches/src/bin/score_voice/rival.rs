//! The same packets through `neteq`, by a program of its own (`benches/peers/neteq`), in real time because the crate reads the
//! clock itself.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    figures::{self, Listener, Played},
    listen::Heard,
    trace,
};

/// Adds what `neteq` made of each scenario's first seed.
pub(crate) fn play(program: &Path, folder: &Path, played: &mut [Played]) -> io::Result<()> {
    let mut longest = 0;
    for one in played.iter() {
        let trace = &one.traces[0];
        trace::write(trace, folder, &one.name)?;
        longest = longest.max(trace.end.as_micros() / 1_000_000);
    }
    eprintln!("    neteq listens in real time, for {longest} s");
    let names = played.iter().map(|one| &one.name);
    let output = Command::new(program)
        .arg(folder)
        .args(names)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other("neteq's program failed"));
    }
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let counts: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
        let one = played.iter_mut().find(|one| one.name == name);
        let (Some(one), &[concealed, stretched, late]) = (one, counts.as_slice()) else {
            return Err(io::Error::other("neteq's program said something else"));
        };
        let bytes = fs::read(folder.join(name).with_extension("f32"))?;
        let (floats, _) = bytes.as_chunks();
        let samples: Vec<f32> = floats.iter().copied().map(f32::from_le_bytes).collect();
        let heard = Heard {
            delays: figures::delays(&one.said, &one.traces[0], &samples),
            samples,
            concealed,
            // A stretch of ours changes about 5 ms.
            stretched: stretched / 240,
            late,
            course: Vec::new(),
        };
        one.heard.insert(Listener::NetEq, vec![heard]);
    }
    Ok(())
}
