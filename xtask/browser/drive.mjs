// Opens the page in Chromium with a file for a microphone, waits, and prints what getStats counted.
//
//   node drive.mjs PAGE SPEECH.wav SECONDS CHROMIUM
//
// The page is not asked how it does: every RTCPeerConnection that it makes is watched from outside.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { chromium } from 'playwright-core';

const [page, speech, seconds, executablePath] = process.argv.slice(2);

/** How long the page may take until the first voice arrives, in milliseconds. */
const PATIENCE_MS = 30_000;

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

/** Runs in the page: sums up what the connections carried. */
async function countMedia() {
  const inbound = [];
  let packetsSent = 0;
  for (const connection of globalThis.watchedConnections) {
    for (const stats of (await connection.getStats()).values()) {
      if (stats.kind !== 'audio') continue;
      if (stats.type === 'inbound-rtp') {
        inbound.push({
          packets: stats.packetsReceived ?? 0,
          lost: stats.packetsLost ?? 0,
          energy: stats.totalAudioEnergy ?? 0,
        });
      } else if (stats.type === 'outbound-rtp') {
        packetsSent += stats.packetsSent ?? 0;
      }
    }
  }
  return { inbound, packets_sent: packetsSent };
}

async function drive(profile) {
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
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
  try {
    const errors = [];
    const tab = await context.newPage();
    tab.on('pageerror', (error) => errors.push(error.message));
    await tab.addInitScript(watchConnections);
    await tab.goto(page);
    // A page that was given a room and a name may still want to be told to join.
    const join = tab.getByRole('button', { name: /^join/i });
    await join.click({ timeout: 1_000 }).catch(() => {});
    const until = Date.now() + PATIENCE_MS;
    while (!(await tab.evaluate(countMedia)).inbound.some((stream) => stream.energy > 0)) {
      if (Date.now() > until) throw new Error(`no voice arrived. ${errors.join(' ')}`);
      await tab.waitForTimeout(200);
    }
    await tab.waitForTimeout(Number(seconds) * 1_000);
    return { ...(await tab.evaluate(countMedia)), errors };
  } finally {
    await context.close();
  }
}

const profile = await mkdtemp(path.join(tmpdir(), 'roundtable-browser-'));
try {
  console.log(JSON.stringify(await drive(profile)));
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await rm(profile, { recursive: true, force: true });
}
