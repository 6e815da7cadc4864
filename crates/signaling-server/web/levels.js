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

/** One for the page: browsers allow only a few. @type {AudioContext | undefined} */
let context;

/** Measures a track, ours or a peer's. @param {MediaStreamTrack} track @returns {() => number} its level, 0 to 1 */
export function meter(track) {
  context ??= new AudioContext();
  const audio = context;
  const analyser = audio.createAnalyser();
  analyser.fftSize = 1024;
  audio.createMediaStreamSource(new MediaStream([track])).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  return () => {
    // Before the first click on the page the browser may hold it back.
    if (audio.state === 'suspended') audio.resume().catch(() => {});
    analyser.getFloatTimeDomainData(samples);
    return Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
  };
}

/**
 * The level that a peer's packets tell of themselves (RFC 6464), 0 to 1: for as long as nothing may
 * be measured. @param {RTCRtpReceiver | undefined} receiver
 */
export function toldLevel(receiver) {
  const sources = receiver?.getSynchronizationSources() ?? [];
  return Math.max(0, ...sources.map((source) => source.audioLevel ?? 0));
}
