/** The page. What others call themselves or say only ever becomes text, never markup. */

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);

/** A hue that stays with a name. @param {string} name */
const hue = (name) => [...name].reduce((sum, c) => (sum * 31 + c.charCodeAt(0)) % 360, 7);

/** @param {string} tag @param {string} className @param {string} [text] */
function element(tag, className, text = '') {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** Most lines that the chat keeps. */
const MAX_LINES = 500;

/** @type {Map<string, {card: HTMLElement, face: HTMLElement, detail: HTMLElement, audio: HTMLAudioElement}>} */
const cards = new Map();

export const view = {
  $,

  /** @param {string} name @param {boolean} isMe @param {string} [about] */
  addPeer(name, isMe, about = isMe ? 'you' : 'connecting…') {
    if (cards.has(name)) return;
    const card = element('li', 'peer');
    const face = element('span', 'face', name.slice(0, 2).toUpperCase());
    face.ariaHidden = 'true';
    face.style.setProperty('--hue', String(hue(name)));
    const detail = element('span', 'detail', about);
    const audio = new Audio();
    audio.autoplay = true;
    card.append(face, element('span', 'name', isMe ? `${name} (you)` : name), detail);
    cards.set(name, { card, face, detail, audio });
    if (isMe) $('roster').prepend(card);
    else $('roster').append(card);
    $('count').textContent = `(${cards.size})`;
  },

  /** @param {string} name */
  removePeer(name) {
    const gone = cards.get(name);
    if (!gone) return;
    gone.audio.srcObject = null;
    gone.card.remove();
    cards.delete(name);
    $('count').textContent = `(${cards.size})`;
  },

  clear() {
    for (const name of [...cards.keys()]) this.removePeer(name);
  },

  /** @param {string} name @param {string} text */
  setDetail(name, text) {
    const detail = cards.get(name)?.detail;
    if (detail && detail.textContent !== text) detail.textContent = text;
  },

  /** @param {string} name @param {{level: number, speaking: boolean}} voice */
  setVoice(name, { level, speaking }) {
    const shown = cards.get(name);
    if (!shown) return;
    shown.face.style.setProperty('--level', speaking ? Math.min(Math.sqrt(level), 1).toFixed(2) : '0');
    shown.card.classList.toggle('speaking', speaking);
  },

  /** Plays what a peer sends. @param {string} name @param {MediaStreamTrack} track */
  play(name, track) {
    const audio = cards.get(name)?.audio;
    if (!audio) return;
    audio.srcObject = new MediaStream([track]);
    audio.play().catch(() => { $('sound').hidden = false; });
  },

  /** After a click, the browser lets every peer be heard. */
  playAll() {
    $('sound').hidden = true;
    for (const { audio } of cards.values()) if (audio.srcObject) audio.play().catch(console.warn);
  },

  /** @param {string} who empty for a note of the page itself @param {string} text */
  addLine(who, text) {
    const line = element('li', who ? '' : 'note', who ? '' : text);
    if (who) line.append(element('span', 'who', who), text);
    const log = $('log');
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    log.append(line);
    while (log.children.length > MAX_LINES) log.firstChild.remove();
    if (atEnd) log.scrollTop = log.scrollHeight;
  },

  /** @param {'idle' | 'connecting' | 'connected' | 'reconnecting' | 'ended'} state @param {string} [banner] */
  setConnection(state, banner = '') {
    $('connection').dataset.state = state;
    $('connection').textContent = state;
    $('banner').textContent = banner;
    $('banner').hidden = !banner;
  },

  /** @param {'none' | 'on' | 'muted'} microphone */
  setMicrophone(microphone) {
    const labels = { none: 'No microphone', on: 'Mute', muted: 'Unmute' };
    $('mute').disabled = microphone === 'none';
    $('mute').ariaPressed = String(microphone === 'muted');
    $('mute').textContent = labels[microphone];
  },

  /** @param {boolean} inRoom @param {string} [room] @param {string} [invite] */
  enter(inRoom, room = '', invite = '') {
    $('lobby').hidden = inRoom;
    $('table').hidden = !inRoom;
    $('room-label').hidden = !inRoom;
    $('room-name').textContent = room;
    $('invite').value = invite;
  },

  /** @param {string} text */
  setJoinError(text) {
    $('join-error').textContent = text;
    $('join-error').hidden = !text;
  },
};
