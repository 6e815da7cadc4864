/** The browser client: a guest with voice and chat. */

import { meter, toldLevel, Voice } from './levels.js';
import { lossBetween, Peer } from './peer.js';
import { Signaling } from './signaling.js';
import { view } from './view.js';

const { $ } = view;

/** A link that failed is tried again after up to this long. */
const RETRY_MS = 3000;
/** How long to wait for the microphone before joining without it; it may still come later. */
const MICROPHONE_WAIT_MS = 4000;

/**
 * What tests and curious people may read.
 * @type {{room: string, name: string, connection: string, microphone: 'none' | 'on' | 'muted',
 *   peers: Record<string, {state: string, level: number, speaking: boolean, rtt_ms: number | null,
 *   loss: number | null}>, messages: {from: string, text: string, fast: boolean}[]}}
 */
const state = { room: '', name: '', connection: 'idle', microphone: 'none', peers: {}, messages: [] };

/** @type {Map<string, Peer>} */ const peers = new Map();
/** Everyone whom the server says is in the room. @type {Set<string>} */ const present = new Set();
/** @type {Map<string, Voice>} */ const voices = new Map();
/** @type {Signaling | null} */ let signaling = null;
/** @type {RTCIceServer[]} */ let iceServers = [];
/** @type {MediaStreamTrack | null} */ let microphone = null;
/** What measures each voice, ours too. @type {Map<string, () => number>} */ const meters = new Map();

/** @param {'connecting' | 'connected' | 'reconnecting' | 'ended'} connection @param {string} [banner] */
function setConnection(connection, banner) {
  state.connection = connection;
  view.setConnection(connection, banner);
}

/** @param {string} name @returns {Peer} the link to this peer, made if there is none */
function link(name) {
  const known = peers.get(name);
  if (known) return known;
  const peer = new Peer(state.name, name, /** @type {Signaling} */ (signaling), iceServers, microphone);
  peers.set(name, peer);
  voices.set(name, new Voice());
  state.peers[name] = { state: 'new', level: 0, speaking: false, rtt_ms: null, loss: null };
  view.addPeer(name, false);
  peer.addEventListener('change', () => {
    if (peers.get(name) !== peer) return;
    state.peers[name].state = peer.connectionState;
    view.setDetail(name, peer.connectionState);
  });
  peer.addEventListener('track', (event) => {
    const track = /** @type {CustomEvent} */ (event).detail;
    if (track.kind !== 'audio' || peers.get(name) !== peer) return;
    view.play(name, track);
    meters.set(name, meter(track));
  });
  peer.addEventListener('message', (event) => {
    const { text, fast } = /** @type {CustomEvent} */ (event).detail;
    state.messages.push({ from: name, text, fast });
    if (state.messages.length > 1000) state.messages.shift();
    view.addLine(name, text);
  });
  peer.addEventListener('closed', (event) => {
    if (peers.get(name) !== peer) return;
    const { code, reason } = /** @type {CustomEvent} */ (event).detail;
    if (code) view.addLine('', `${name} closed the link: ${reason || 'no reason given'} (code ${code})`);
    unlink(name);
    if (present.has(name)) view.addPeer(name, false, `no link: ${reason || `code ${code}`}`);
  });
  peer.addEventListener('failed', () => {
    if (peers.get(name) !== peer) return;
    unlink(name);
    view.addPeer(name, false, 'no link, trying again…');
    setTimeout(() => { if (present.has(name) && !peers.has(name)) link(name).offer(); }, Math.random() * RETRY_MS);
  });
  return peer;
}

/** @param {string} name */
function unlink(name) {
  peers.get(name)?.close();
  peers.delete(name);
  voices.delete(name);
  meters.delete(name);
  delete state.peers[name];
  view.removePeer(name);
}

/** @param {import('./signaling.js').Joined} joined */
function onJoined(joined) {
  setConnection('connected');
  iceServers = joined.ice_servers ?? [];
  // What happened while we were away is told next, in order.
  if (joined.resumed) return;
  present.clear();
  for (const { peer_id } of joined.peers) present.add(peer_id);
  for (const [name, peer] of peers) {
    if (!present.has(name) && peer.connectionState !== 'connected') unlink(name);
  }
  // The newcomer offers; links that live on need nothing.
  for (const name of present) if (!peers.has(name)) link(name).offer();
}

/** @param {string} method @param {any} params */
function onNotification(method, params) {
  const name = params.from ?? params.to ?? params.peer_id;
  switch (method) {
    case 'peer.announced':
      present.add(name);
      view.addPeer(name, false);
      view.addLine('', `${name} is here`);
      break;
    case 'peer.left':
      present.delete(name);
      view.addLine('', `${name} left`);
      // A link outlives the other's trouble with the server.
      if (params.reason !== 'lost' || peers.get(name)?.connectionState !== 'connected') unlink(name);
      break;
    case 'peer.disconnected':
      view.addLine('', `${name} disconnected${params.reason ? `: ${params.reason}` : ''}`);
      unlink(name);
      break;
    case 'peer.offer':
      link(name).hear(method, params);
      break;
    case 'server.draining':
      setConnection('reconnecting', 'The server is restarting. Voices go on meanwhile.');
      break;
    default:
      peers.get(name)?.hear(method, params);
  }
}

async function openMicrophone() {
  try {
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
    [microphone] = stream.getAudioTracks();
    meters.set(state.name, meter(microphone));
    state.microphone = 'on';
    for (const peer of peers.values()) peer.setMicrophone(microphone);
  } catch (error) {
    view.addLine('', `No microphone (${error instanceof Error ? error.message : error}): you can listen and write.`);
  }
  view.setMicrophone(state.microphone);
}

/** @param {string} room @param {string} name */
async function join(room, name) {
  Object.assign(state, { room, name });
  const invite = new URL(location.href);
  invite.search = new URLSearchParams({ room }).toString();
  history.replaceState(null, '', `?${new URLSearchParams({ room, name })}${location.hash}`);
  view.setJoinError('');
  setConnection('connecting');
  const url = new URL('/v1/ws', location.href);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  url.hash = '';
  const asking = openMicrophone();
  await Promise.race([asking, new Promise((resolve) => { setTimeout(resolve, MICROPHONE_WAIT_MS); })]);
  const mine = new Signaling(url.href, {
    room, peer_id: name, capabilities: ['data', 'audio'], user_data: { name, client: 'browser' },
  }, new URLSearchParams(location.hash.slice(1)).get('invite'));
  mine.addEventListener('notification', (event) => {
    const { method, params } = /** @type {CustomEvent} */ (event).detail;
    onNotification(method, params);
  });
  mine.addEventListener('joined', (event) => onJoined(/** @type {CustomEvent} */ (event).detail));
  mine.addEventListener('reconnecting', (event) => {
    const { attempt } = /** @type {CustomEvent} */ (event).detail;
    setConnection('reconnecting', `The server is away; trying again (attempt ${attempt}). Voices go on meanwhile.`);
  });
  mine.addEventListener('ended', (event) => leave(/** @type {CustomEvent} */ (event).detail.message));
  try {
    const joined = await mine.join();
    signaling = mine;
    view.clear();
    view.enter(true, room, invite.href);
    view.addPeer(name, true);
    voices.set(name, new Voice());
    onJoined(joined);
    $('text').focus();
  } catch (error) {
    leave(error instanceof Error ? error.message : String(error));
  }
}

/** @param {string} why */
function leave(why) {
  signaling = null;
  for (const name of [...peers.keys()]) unlink(name);
  present.clear();
  voices.clear();
  meters.clear();
  view.clear();
  microphone?.stop();
  microphone = null;
  state.microphone = 'none';
  view.setMicrophone('none');
  view.enter(false);
  view.setJoinError(why);
  setConnection('ended');
}

/** @param {string} text @param {{fast?: boolean}} [how] @returns {number} how many peers it is sent to */
function send(text, { fast = false } = {}) {
  const sent = [...peers.values()].filter((peer) => peer.send(text, fast)).length;
  view.addLine(`${state.name} (you)`, sent ? text : `${text} — nobody was there to hear it`);
  return sent;
}

function updateLevels() {
  const now = performance.now();
  for (const [name, voice] of voices) {
    const told = toldLevel(peers.get(name)?.receiver);
    voice.update(Math.max(meters.get(name)?.() ?? 0, told), now);
    view.setVoice(name, voice);
    const shown = state.peers[name];
    if (shown) [shown.level, shown.speaking] = [voice.level, voice.speaking];
  }
}

/** What was measured last. @type {WeakMap<Peer, import('./peer.js').Summary>} */
const summaries = new WeakMap();

async function updateStats() {
  for (const [name, peer] of peers) {
    if (peer.connectionState !== 'connected') continue;
    const now = await peer.stats();
    const shown = state.peers[name];
    if (!shown) continue;
    const loss = lossBetween(summaries.get(peer), now);
    summaries.set(peer, now);
    const { rtt_ms } = now;
    Object.assign(shown, { rtt_ms, loss });
    const parts = [rtt_ms === null ? 'connected' : `${rtt_ms.toFixed(rtt_ms < 10 ? 1 : 0)} ms`];
    if (loss !== null) parts.push(`${(loss * 100).toFixed(1)} % lost`);
    view.setDetail(name, parts.join(' · '));
  }
}

$('join').addEventListener('submit', (/** @type {SubmitEvent} */ event) => {
  event.preventDefault();
  join($('room').value, $('name').value);
});
$('say').addEventListener('submit', (/** @type {SubmitEvent} */ event) => {
  event.preventDefault();
  send($('text').value);
  $('text').value = '';
});
$('mute').addEventListener('click', () => {
  if (!microphone) return;
  microphone.enabled = !microphone.enabled;
  state.microphone = microphone.enabled ? 'on' : 'muted';
  view.setMicrophone(state.microphone);
});
$('sound').addEventListener('click', () => view.playAll());
$('leave').addEventListener('click', () => signaling?.leave());
$('copy').addEventListener('click', async () => {
  $('invite').select();
  await navigator.clipboard?.writeText($('invite').value);
  $('copy').textContent = 'Copied';
  setTimeout(() => { $('copy').textContent = 'Copy'; }, 1500);
});
addEventListener('pagehide', () => signaling?.leave());
setInterval(updateLevels, 100);
setInterval(() => updateStats().catch(console.warn), 1000);

Object.assign(window, {
  roundtable: {
    state,
    send,
    /** getStats of every peer, in short. */
    async stats() {
      const entries = [...peers].map(async ([name, peer]) => [name, { state: peer.connectionState, ...await peer.stats() }]);
      return Object.fromEntries(await Promise.all(entries));
    },
  },
});

const query = new URLSearchParams(location.search);
$('room').value = query.get('room') ?? 'demo';
$('name').value = query.get('name') ?? `guest-${Math.floor(Math.random() * 10_000)}`;
if (query.get('room') && query.get('name')) $('join').requestSubmit();
