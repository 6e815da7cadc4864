/** Who speaks, and how loudly. */

/** A level above this counts as speech, and goes on doing so for a while. */
const SPEAKING = 0.02;
const HOLD_MS = 400;

/** Turns levels into "speaks", without flicker. */
export class Voice {
  level = 0;
  #until = 0;

  /** @param {number} level 0 to 1, linear @param {number} now in ms */
  update(level, now) {
    this.level = level;
    if (level > SPEAKING) this.#until = now + HOLD_MS;
    this.speaking = now < this.#until;
  }

  speaking = false;
}

/** The level of what a peer sends, 0 to 1. @param {RTCRtpReceiver | undefined} receiver */
export function remoteLevel(receiver) {
  const sources = receiver?.getSynchronizationSources() ?? [];
  return Math.max(0, ...sources.map((source) => source.audioLevel ?? 0));
}

/** Measures a local track. @param {MediaStreamTrack} track @returns {() => number} its level, 0 to 1 */
export function localMeter(track) {
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  analyser.fftSize = 1024;
  context.createMediaStreamSource(new MediaStream([track])).connect(analyser);
  track.addEventListener('ended', () => context.close());
  const samples = new Float32Array(analyser.fftSize);
  return () => {
    // Without a click on the page the browser may hold the context back.
    if (context.state === 'suspended') context.resume().catch(() => {});
    analyser.getFloatTimeDomainData(samples);
    return Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
  };
}
