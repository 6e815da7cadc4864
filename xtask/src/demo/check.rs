//! `cargo xtask demo --check`: the whole demo without a screen, judged by what came of it.

use std::{fs, path::Path, time::Duration};

use crate::{
    clock,
    demo::{
        browser::{self, Browser},
        room::{LATE, NATIVES, Native, PATIENCE, Room, RoomError, Setting},
        speech::{self, Sound, Speaker},
        state::State,
        verdict::Report,
    },
    step::Outcome,
    workspace::Workspace,
};

/// Fewer commands than this, and peers did not really write: a third of what should come together
/// in the seconds below, so that a busy machine is no failure.
const LEAST_COMMANDS: u64 = 480;
/// After this long the late peer joins.
const UNTIL_LATE: Duration = Duration::from_secs(6);
/// Then everyone is listened to for this long.
const LISTENING: Duration = Duration::from_secs(10);
/// How to check.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Drive the browser page as well.
    pub(crate) browser: bool,
    /// Fail if something had to be skipped.
    pub(crate) strict: bool,
    /// Do not say what is going on.
    pub(crate) quiet: bool,
}

/// Runs the check, prints its report, and returns whether all is well.
pub(crate) fn run(workspace: &Workspace, setting: Setting, options: Options) -> bool {
    let report = examine(workspace, setting, options);
    match serde_json::to_string_pretty(&report) {
        Ok(text) => println!("{text}"),
        Err(error) => eprintln!("the report cannot be printed: {error}"),
    }
    report.ok
}

/// The check as a step: what the browser could not do is a skip.
pub(crate) fn outcome(workspace: &Workspace, setting: Setting) -> Outcome {
    let options = Options {
        browser: true,
        strict: false,
        quiet: false,
    };
    let report = examine(workspace, setting, options);
    if !report.ok {
        Outcome::Failed(report.failures.join("; "))
    } else if report.skipped.is_empty() {
        Outcome::Ok
    } else {
        Outcome::Skipped(report.skipped.join("; "))
    }
}

fn examine(workspace: &Workspace, setting: Setting, options: Options) -> Report {
    let mut report = Report::default();
    let browser = options.browser.then(|| browser::prepare(workspace));
    let browser = browser.and_then(|prepared| {
        prepared
            .map_err(|why| report.skipped.push(format!("browser: {why}")))
            .ok()
    });
    let folder = setting.folder.clone();
    let scene = Scene {
        options,
        browser,
        folder: &folder,
    };
    if let Err(error) = scene.play(setting, &mut report) {
        report.fail(error.to_string());
    }
    report.conclude(options.strict);
    for failure in &report.failures {
        scene.say(&format!("FAILED: {failure}"));
    }
    if report.ok {
        let _ = fs::remove_dir_all(&folder);
    } else {
        scene.say(&format!("logs and recordings are in {}", folder.display()));
    }
    report
}

/// What happens in the room during a check.
struct Scene<'a> {
    options: Options,
    browser: Option<Browser>,
    folder: &'a Path,
}

impl Scene<'_> {
    fn say(&self, what: &str) {
        if !self.options.quiet {
            eprintln!("    {what}");
        }
    }

    fn play(&self, setting: Setting, report: &mut Report) -> Result<(), RoomError> {
        let started = clock::now();
        let assets = setting.assets.clone();
        let mut room = Room::open(setting)?;
        self.say("the signaling server answers");
        if let Some(browser) = &self.browser {
            let page = room.page(browser::NAME);
            room.add(browser::NAME, &mut browser.command(&page))?;
            room.wait_until("the browser has started", browser::PATIENCE, |room| {
                let browser = room.state.peer(browser::NAME);
                browser.is_some_and(|browser| browser.ready)
            })?;
        }
        let everyone = [NATIVES.as_slice(), &[LATE]].concat();
        for native in NATIVES {
            self.enter(&mut room, native)?;
        }
        wait_linked(&mut room, &NATIVES)?;
        self.say("alice, bob and carol are linked");
        if self.browser.is_some() {
            room.signal(browser::NAME, "USR2");
            room.wait_joined(browser::NAME, browser::PATIENCE)?;
            self.say("the browser has opened the page");
        }
        room.listen(UNTIL_LATE)?;
        self.enter(&mut room, LATE)?;
        wait_linked(&mut room, &everyone)?;
        self.say("dave has come late and is linked");
        room.listen(LISTENING)?;
        report.judge_links(&room.state, &everyone);
        report.cpu_seconds = room.cpu_time().map(|time| time.as_secs_f64());
        report.seconds = clock::now().duration_since(started).as_secs_f64();
        let (state, ended) = room.close();
        self.say("everyone has left");
        report.judge_log(&state, &everyone, LEAST_COMMANDS);
        report.judge_ends(&ended);
        judge_voices(report, &state, &everyone, &assets);
        if let Some(browser) = &self.browser {
            browser.judge(report, &state, &NATIVES);
        }
        Ok(())
    }

    fn enter(&self, room: &mut Room, native: Native) -> Result<(), RoomError> {
        let records = self.folder.join(native.name);
        let records = records.to_string_lossy();
        room.join(native, &["--record", &*records])?;
        room.wait_joined(native.name, PATIENCE)
    }
}

fn wait_linked(room: &mut Room, natives: &[Native]) -> Result<(), RoomError> {
    let names: Vec<&str> = natives.iter().map(|native| native.name).collect();
    room.wait_until("everyone is linked with everyone", PATIENCE, |room| {
        room.state.all_linked(&names)
    })
}

/// Judges every recording that every peer made of every speaker.
fn judge_voices(report: &mut Report, state: &State, listeners: &[Native], assets: &Path) {
    let mut speakers = Vec::new();
    for native in NATIVES {
        let peer = state.peer(native.name);
        let Some(since) = peer.and_then(|peer| peer.speaking_since_us) else {
            report.fail(format!("{}: never spoke", native.name));
            continue;
        };
        match Sound::read(&assets.join(format!("{}.wav", native.name)), since) {
            Ok(words) => speakers.push(Speaker {
                name: native.name.into(),
                words,
            }),
            Err(error) => report.fail(error.to_string()),
        }
    }
    let mut delays = Vec::new();
    for listener in listeners {
        for speaker in speakers
            .iter()
            .filter(|speaker| speaker.name != listener.name)
        {
            let others: Vec<&Speaker> = speakers
                .iter()
                .filter(|other| other.name != speaker.name && other.name != listener.name)
                .collect();
            match listen(state, listener.name, speaker, &others) {
                Ok(found) => {
                    report.judge_voice(&speaker.name, listener.name, &found);
                    delays.extend(found.delays_ms);
                }
                Err(why) => {
                    let (speaker, listener) = (&speaker.name, listener.name);
                    report.fail(format!("{speaker} as heard by {listener}: {why}"));
                }
            }
        }
    }
    report.mouth_to_ear_p50_ms = speech::percentile(&delays, 50);
    report.mouth_to_ear_p95_ms = speech::percentile(&delays, 95);
}

/// Compares one peer's recording of a speaker with what was said, or says why it cannot.
fn listen(
    state: &State,
    listener: &str,
    speaker: &Speaker,
    others: &[&Speaker],
) -> Result<speech::Comparison, String> {
    let peer = state.peer(listener);
    let remote = peer.and_then(|peer| peer.remotes.get(&speaker.name));
    let (path, since) = remote
        .and_then(|remote| remote.recording.as_ref())
        .ok_or("there is no recording")?;
    let recording = Sound::read(path, *since).map_err(|error| error.to_string())?;
    speech::compare(&recording, speaker, others).map_err(|error| error.to_string())
}
