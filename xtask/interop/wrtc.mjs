// libwebrtc, through @roamhq/wrtc.

import { createRequire } from 'node:module';
import wrtc from '@roamhq/wrtc';
import { Peer } from './peer.mjs';
import { listen, say } from './stdio.mjs';

const RATE = 48_000;
const HERTZ = 440;
const { RTCPeerConnection, nonstandard } = wrtc;
const { version } = createRequire(import.meta.url)('@roamhq/wrtc/package.json');

/** A tone, 10 ms at a time. */
function microphone() {
  const source = new nonstandard.RTCAudioSource();
  let time = 0;
  setInterval(() => {
    const samples = new Int16Array(RATE / 100);
    for (const index of samples.keys()) {
      samples[index] = 8000 * Math.sin((2 * Math.PI * HERTZ * (time + index)) / RATE);
    }
    time += samples.length;
    source.onData({ samples, sampleRate: RATE, bitsPerSample: 16, channelCount: 1, numberOfFrames: samples.length });
  }, 10);
  return source.createTrack();
}

let energy = 0;
function ear(track) {
  new nonstandard.RTCAudioSink(track).ondata = ({ samples }) => {
    for (const sample of samples) energy += (sample / 32768) ** 2 / RATE;
  };
}

async function heard(connection) {
  const all = [...(await connection.getStats()).values()];
  const audio = all.find(({ type, kind }) => type === 'inbound-rtp' && kind === 'audio');
  return { packets: audio?.packetsReceived ?? 0, energy };
}

const peer = new Peer({ Connection: RTCPeerConnection, microphone, ear, heard, say });
say({ ready: `@roamhq/wrtc ${version}` });
await listen((message) => peer.handle(message));
process.exit(0);
