//! Writes recordings on a thread of their own, so that a slow disk never delays voice.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::JoinHandle,
};

use super::clip::Recorder;

/// Blocks of 5 ms that may wait for the disk: two seconds with ten tracks.
const QUEUE: usize = 4096;

enum Job {
    Open {
        track: usize,
        path: PathBuf,
        channels: usize,
    },
    Write {
        track: usize,
        samples: Vec<f32>,
    },
    Finish {
        track: usize,
    },
}

/// A handle on the recording thread. Dropping it without [`finish`](Self::finish) lets the thread
/// close the files by itself.
pub(super) struct Recordings {
    jobs: SyncSender<Job>,
    thread: JoinHandle<()>,
    opened: usize,
    /// What the disk was too slow for: blocks, and if ever whole tracks.
    dropped: u64,
}

impl Recordings {
    pub(super) fn start() -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("recorder".into())
            .spawn(move || run(&queue))?;
        Ok(Self {
            jobs,
            thread,
            opened: 0,
            dropped: 0,
        })
    }

    /// Begins a track of 1 or 2 interleaved channels.
    pub(super) fn open(&mut self, path: PathBuf, channels: usize) -> usize {
        self.opened += 1;
        let track = self.opened;
        self.push(Job::Open {
            track,
            path,
            channels,
        });
        track
    }

    /// Queues a block; when the disk is more than two seconds behind, the block is dropped.
    pub(super) fn write(&mut self, track: usize, samples: &[f32]) {
        self.push(Job::Write {
            track,
            samples: samples.to_vec(),
        });
    }

    pub(super) fn close(&mut self, track: usize) {
        self.push(Job::Finish { track });
    }

    fn push(&mut self, job: Job) {
        if let Err(TrySendError::Full(_)) = self.jobs.try_send(job) {
            self.dropped = self.dropped.wrapping_add(1);
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Waits until everything is on disk. Blocks.
    pub(super) fn finish(self) {
        drop(self.jobs);
        if self.thread.join().is_err() {
            tracing::error!("the recording thread failed");
        }
    }
}

fn run(queue: &Receiver<Job>) {
    let mut files = HashMap::new();
    while let Ok(job) = queue.recv() {
        let failed = match job {
            Job::Open {
                track,
                path,
                channels,
            } => match Recorder::create(&path, channels) {
                Ok(recorder) => {
                    files.insert(track, recorder);
                    None
                }
                Err(error) => Some((track, error)),
            },
            Job::Write { track, samples } => files
                .get_mut(&track)
                .and_then(|file| file.write(&samples).err())
                .map(|error| (track, error)),
            Job::Finish { track } => files
                .remove(&track)
                .and_then(|file| file.finish().err())
                .map(|error| (track, error)),
        };
        if let Some((track, error)) = failed {
            tracing::warn!(%error, "a recording stopped");
            files.remove(&track);
        }
    }
    for file in files.into_values() {
        if let Err(error) = file.finish() {
            tracing::warn!(%error, "a recording was not closed properly");
        }
    }
}
