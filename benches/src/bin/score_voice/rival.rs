//! The same packets through `neteq`, by a program of its own (`benches/peers/neteq`), in real time because the crate reads the
//! clock itself.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    figures::{Listener, Played},
    listen::Heard,
    trace,
};

/// Adds what `neteq` made of each scenario.
pub(crate) fn play(program: &Path, folder: &Path, played: &mut [Played]) -> io::Result<()> {
    let mut longest = 0;
    let mut command = Command::new(program);
    command.arg(folder).stderr(Stdio::inherit());
    for one in played.iter() {
        for (seed, trace) in one.traces.iter().enumerate() {
            let name = format!("{}-{seed}", one.name);
            trace::write(trace, folder, &name)?;
            command.arg(format!("{name}:{}", trace.phase.as_micros()));
            longest = longest.max(trace.end.as_micros() / 1_000_000);
        }
    }
    eprintln!("    neteq listens in real time, for {longest} s");
    let output = command.output()?;
    if !output.status.success() {
        return Err(io::Error::other("neteq's program failed"));
    }
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    for one in played {
        for seed in 0..one.traces.len() {
            let name = format!("{}-{seed}", one.name);
            let heard = heard(folder, &name, &lines)?;
            one.add(Listener::NetEq, seed, heard);
        }
    }
    Ok(())
}

/// What came of one trace: its line of counters, and its sound.
fn heard(folder: &Path, name: &str, lines: &str) -> io::Result<Heard> {
    let strange = || io::Error::other("neteq's program said something else");
    let mut lines = lines.lines();
    let counts = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let words = counts.ok_or_else(strange)?.split_whitespace();
    let counts: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
    let &[concealed, stretched, late] = counts.as_slice() else {
        return Err(strange());
    };
    let bytes = fs::read(folder.join(name).with_extension("f32"))?;
    let (floats, _) = bytes.as_chunks();
    Ok(Heard {
        samples: floats.iter().copied().map(f32::from_le_bytes).collect(),
        concealed,
        // A stretch of ours changes about 5 ms.
        stretched: stretched / 240,
        late,
        ..Heard::default()
    })
}
