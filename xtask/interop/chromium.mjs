// Chromium, without a screen and with a microphone that beeps.
//
//   node chromium.mjs CHROMIUM

import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { chromium } from 'playwright-core';
import { listen, say } from './stdio.mjs';

const [executablePath] = process.argv.slice(2);
/** Nobody is asked for it; but a page without an origin gets no microphone. */
const PAGE = 'https://interop.invalid/';

/** Runs in the page. */
async function setUp() {
  const { Peer } = globalThis.interop;
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const [track] = stream.getAudioTracks();
  const microphone = () => track;
  const ear = (remote) => {
    const audio = new Audio();
    audio.srcObject = new MediaStream([remote]);
    audio.play();
  };
  const heard = async (connection) => {
    const all = [...(await connection.getStats()).values()];
    const audio = all.find(({ type, kind }) => type === 'inbound-rtp' && kind === 'audio');
    return { packets: audio?.packetsReceived ?? 0, energy: audio?.totalAudioEnergy ?? 0 };
  };
  const say = globalThis.say;
  const peer = new Peer({ Connection: RTCPeerConnection, microphone, ear, heard, say });
  globalThis.handle = (message) => peer.handle(message);
}

const profile = await mkdtemp(path.join(tmpdir(), 'roundtable-interop-'));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
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
  ],
});
try {
  const page = await browser.newPage();
  page.on('pageerror', (error) => console.error(error));
  await page.route(`${PAGE}**`, (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html>' }));
  await page.goto(PAGE);
  await page.exposeFunction('say', say);
  const module = await readFile(new URL('peer.mjs', import.meta.url), 'utf8');
  await page.addScriptTag({ content: `${module}\nglobalThis.interop = { Peer };`, type: 'module' });
  await page.evaluate(setUp);
  say({ ready: `Chromium ${browser.browser()?.version() ?? (await page.evaluate(() => navigator.userAgent))}` });
  await listen((message) => page.evaluate((inner) => globalThis.handle(inner), message));
} finally {
  await browser.close();
  await rm(profile, { recursive: true, force: true });
}
