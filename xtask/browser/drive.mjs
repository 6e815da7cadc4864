// Starts Chromium with a file for a microphone, opens the page at SIGUSR2 (starting a browser takes so
// much of a small machine that those who speak meanwhile would stutter), stays until SIGINT, and then
// prints what getStats counted. Speaks as `roundtable join --json` does: one event a line.
//
//   node drive.mjs PAGE SPEECH.wav CHROMIUM
//
// The page is not asked how it does: every RTCPeerConnection that it makes is watched from outside.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { chromium } from 'playwright-core';

const [page, speech, executablePath] = process.argv.slice(2);

/** How often the connections are looked at: those that end in between are remembered. */
const LOOK_MS = 500;

/** Runs in the page before its own scripts: remembers every connection. */
function watchConnections() {
  const made = [];
  const Original = globalThis.RTCPeerConnection;
  globalThis.RTCPeerConnection = class extends Original {
    constructor(...args) {
      super(...args);
      made.push(this);
    }
  };
  globalThis.watchedConnections = made;
}

/** Runs in the page: the audio streams of every connection, as getStats counts them. */
async function audioStreams() {
  const streams = [];
  for (const [index, connection] of globalThis.watchedConnections.entries()) {
    for (const stats of (await connection.getStats()).values()) {
      if (stats.kind !== 'audio') continue;
      if (stats.type === 'inbound-rtp' || stats.type === 'outbound-rtp') {
        streams.push({
          id: `${index} ${stats.id}`,
          inbound: stats.type === 'inbound-rtp',
          packets: stats.packetsReceived ?? stats.packetsSent ?? 0,
          lost: stats.packetsLost ?? 0,
          energy: stats.totalAudioEnergy ?? 0,
        });
      }
    }
  }
  return streams;
}

function say(event, fields) {
  console.log(JSON.stringify({ event, at_ms: Date.now(), ...fields }));
}

async function launch(profile) {
  return chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    handleSIGINT: false,
    permissions: ['microphone'],
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--autoplay-policy=no-user-gesture-required',
      '--use-fake-ui-for-media-stream',
      '--use-fake-device-for-media-stream',
      `--use-file-for-fake-audio-capture=${speech}`,
    ],
  });
}

async function attend(context, interrupted) {
  const errors = [];
  const tab = await context.newPage();
  tab.on('pageerror', (error) => errors.push(error.message));
  await tab.addInitScript(watchConnections);
  say('ready', {});
  await invited;
  await tab.goto(page);
  say('joined', {});
  const streams = new Map();
  while (!interrupted.aborted) {
    for (const { id, ...stream } of await tab.evaluate(audioStreams)) streams.set(id, stream);
    await tab.waitForTimeout(LOOK_MS);
  }
  const all = [...streams.values()];
  const inbound = all.filter((stream) => stream.inbound);
  const sent = all.filter((stream) => !stream.inbound);
  say('browser', {
    inbound: inbound.map(({ packets, lost, energy }) => ({ packets, lost, energy })),
    packets_sent: sent.reduce((sum, { packets }) => sum + packets, 0),
    errors,
  });
}

const interruption = new AbortController();
const invited = new Promise((resolve) => {
  process.once('SIGUSR2', resolve);
  interruption.signal.addEventListener('abort', resolve);
});
process.on('SIGINT', () => interruption.abort());
const profile = await mkdtemp(path.join(tmpdir(), 'roundtable-browser-'));
try {
  const context = await launch(profile);
  try {
    await attend(context, interruption.signal);
  } finally {
    await context.close();
  }
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await rm(profile, { recursive: true, force: true });
}
