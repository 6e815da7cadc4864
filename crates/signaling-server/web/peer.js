/**
 * The link to one peer: perfect negotiation, trickled candidates, the channels that a guest has,
 * one microphone out, everything the peer sends in.
 *
 * @typedef {{rtt_ms: number | null, packets_received: number,
 *   packets_lost: number, packets_sent: number, concealed: number, samples: number,
 *   energy: number, jitter_ms: number | null}} Summary
 */

/** Numbers of the links' channels (docs/protocols/links.md): a guest has these. */
const CONTROL = 0;
const APP = 4;
const APP_FAST = 5;

/** Close codes after which nobody minds another try: lost, slow consumer, heartbeat timeout. */
const PASSING = new Set([1, 5, 40]);

/** How long a goodbye may take to be sent. */
const FAREWELL_MS = 100;

/** The DTLS fingerprints in a description: another one means another endpoint. @param {string} sdp */
const fingerprints = (sdp) => [...new Set(sdp.match(/^a=fingerprint:.*$/gm) ?? [])].sort().join();

const randomId = () => crypto.getRandomValues(new Uint8Array(16))
  .reduce((text, byte) => text + byte.toString(16).padStart(2, '0'), '');

/**
 * Events: `change` (connection state), `message` (detail: {text, fast}), `track`
 * (detail: MediaStreamTrack), `closed` (detail: {code, reason}, said by the peer), `failed`.
 */
export class Peer extends EventTarget {
  /** Our side yields when offers cross. */ #polite;
  #signaling;
  #iceServers;
  /** @type {MediaStreamTrack | null} */ #microphone;
  /** @type {{connection: RTCPeerConnection, control: RTCDataChannel, app: RTCDataChannel,
   *   appFast: RTCDataChannel}} */ #link;
  /** The offer that candidates belong to. */ #requestId = '';
  #makingOffer = false;
  /** Our description is on its way, so candidates may follow. */ #described = false;
  /** @type {object[]} */ #unsent = [];
  /** @type {RTCIceCandidateInit[]} */ #held = [];
  /** One message at a time. @type {Promise<void>} */ #work = Promise.resolve();

  /**
   * @param {string} me
   * @param {string} name
   * @param {import('./signaling.js').Signaling} signaling
   * @param {RTCIceServer[]} iceServers
   * @param {MediaStreamTrack | null} microphone
   */
  constructor(me, name, signaling, iceServers, microphone) {
    super();
    this.name = name;
    this.#polite = me < name;
    this.#signaling = signaling;
    this.#iceServers = iceServers;
    this.#microphone = microphone;
    this.#link = this.#open();
  }

  get connectionState() { return this.#link.connection.connectionState; }

  /** The audio receiver, if there is one yet. */
  get receiver() {
    return this.#link.connection.getReceivers().find((receiver) => receiver.track.kind === 'audio');
  }

  /** Offers a link: what a newcomer does with everyone it finds. */
  offer() {
    // A transceiver or a microphone that comes later needs no second negotiation.
    const source = this.#microphone ?? 'audio';
    this.#link.connection.addTransceiver(source, { direction: 'sendrecv' });
    // That makes negotiation needed, and so an offer.
  }

  /** @param {MediaStreamTrack | null} track */
  setMicrophone(track) {
    this.#microphone = track;
    for (const { sender, receiver } of this.#link.connection.getTransceivers()) {
      if (receiver.track.kind === 'audio') sender.replaceTrack(track).catch(console.warn);
    }
  }

  /** @param {string} text @param {boolean} fast @returns {boolean} whether it is on its way */
  send(text, fast = false) {
    const channel = fast ? this.#link.appFast : this.#link.app;
    if (channel.readyState !== 'open') return false;
    channel.send(text);
    return true;
  }

  /** Ends the link. The peer is told, unless `reason` is empty. */
  close(reason = 'left') {
    const connection = this.#link.connection;
    connection.onconnectionstatechange = null;
    if (!reason || this.#link.control.readyState !== 'open') {
      connection.close();
      return;
    }
    this.#link.control.send(JSON.stringify({ close: { code: 0, reason } }));
    setTimeout(() => connection.close(), FAREWELL_MS);
  }

  /** A notification from the server about this peer. @param {string} method @param {any} params */
  hear(method, params) {
    const handlers = {
      'peer.offer': () => this.#onOffer(params),
      'peer.answer': () => this.#onAnswer(params),
      'peer.ice_candidate': () => this.#onCandidate(params),
      'peer.offer_expired': () => this.#onExpired(params),
    };
    const handler = handlers[/** @type {keyof typeof handlers} */ (method)];
    if (handler) this.#work = this.#work.then(handler).catch((error) => this.#fail(error));
  }

  #open() {
    const connection = new RTCPeerConnection({ iceServers: this.#iceServers });
    const channel = (/** @type {string} */ label, /** @type {number} */ id, /** @type {object} */ how = {}) => {
      const made = connection.createDataChannel(label, { negotiated: true, id, ...how });
      made.binaryType = 'arraybuffer';
      return made;
    };
    const control = channel('control', CONTROL);
    const app = channel('app', APP);
    const appFast = channel('app-fast', APP_FAST, { ordered: false, maxRetransmits: 0 });
    control.onmessage = ({ data }) => this.#onControl(data);
    for (const [made, fast] of /** @type {const} */ ([[app, false], [appFast, true]])) {
      made.onmessage = ({ data }) => {
        if (typeof data === 'string') this.#tell('message', { text: data, fast });
      };
    }
    app.onopen = () => this.#tell('change');
    connection.onnegotiationneeded = () => this.#makeOffer();
    connection.onicecandidate = ({ candidate }) => this.#trickle(candidate);
    connection.ontrack = ({ track }) => this.#tell('track', track);
    connection.onconnectionstatechange = () => {
      this.#tell('change');
      if (connection.connectionState === 'failed') this.#fail(new Error('no path to the peer'));
    };
    return { connection, control, app, appFast };
  }

  /** Forgets the connection: the peer is a new endpoint under the same name. */
  #reopen() {
    this.close('');
    this.#requestId = '';
    this.#described = this.#makingOffer = false;
    this.#unsent = [];
    this.#held = [];
    this.#link = this.#open();
  }

  async #makeOffer() {
    const connection = this.#link.connection;
    const isCurrent = () => connection === this.#link.connection;
    try {
      this.#makingOffer = true;
      this.#described = false;
      await connection.setLocalDescription();
      if (!isCurrent() || connection.signalingState !== 'have-local-offer') return;
      this.#requestId = randomId();
      this.#held = [];
      const sent = this.#describe('peer.offer', connection);
      this.#makingOffer = false;
      await sent;
    } catch (error) {
      if (isCurrent()) this.#fail(error);
    } finally {
      if (isCurrent()) this.#makingOffer = false;
    }
  }

  /** @param {{request_id: string, kind?: string, sdp: string}} offer */
  async #onOffer({ request_id, kind = 'webrtc', sdp }) {
    if (kind !== 'webrtc') return;
    const remote = this.#link.connection.remoteDescription;
    if (remote && fingerprints(remote.sdp) !== fingerprints(sdp)) this.#reopen();
    const collision = this.#makingOffer || this.#link.connection.signalingState !== 'stable';
    if (collision && !this.#polite) return;
    // Before there was a link, starting anew is cleaner than a rollback, which would leave our
    // transceiver behind beside the one that their offer brings.
    if (collision && !this.#link.connection.currentRemoteDescription) this.#reopen();
    const connection = this.#link.connection;
    // If offers crossed on a living link, this rolls ours back, and only then theirs counts.
    await connection.setRemoteDescription({ type: 'offer', sdp });
    this.#requestId = request_id;
    this.#described = false;
    this.#held = [];
    for (const transceiver of connection.getTransceivers()) {
      if (transceiver.receiver.track.kind === 'audio' && transceiver.direction !== 'stopped') {
        transceiver.direction = 'sendrecv';
        await transceiver.sender.replaceTrack(this.#microphone);
      }
    }
    await connection.setLocalDescription();
    await this.#describe('peer.answer', connection);
    await this.#releaseHeld();
  }

  /** @param {{request_id: string, sdp: string}} answer */
  async #onAnswer({ request_id, sdp }) {
    if (request_id !== this.#requestId || this.#link.connection.signalingState !== 'have-local-offer') return;
    await this.#link.connection.setRemoteDescription({ type: 'answer', sdp });
    await this.#releaseHeld();
  }

  /** @param {any} message */
  async #onCandidate({ request_id, candidate, sdp_mid, sdp_m_line_index, username_fragment }) {
    if (request_id !== this.#requestId) return;
    const init = {
      candidate, sdpMid: sdp_mid ?? null, sdpMLineIndex: sdp_m_line_index ?? null,
      ...(username_fragment && { usernameFragment: username_fragment }),
    };
    if (init.sdpMid === null && init.sdpMLineIndex === null) init.sdpMLineIndex = 0;
    if (this.#link.connection.signalingState === 'stable') await this.#apply(init);
    else if (this.#held.length < 64) this.#held.push(init);
  }

  /** @param {{request_id: string}} expired */
  async #onExpired({ request_id }) {
    if (request_id === this.#requestId && this.#link.connection.signalingState === 'have-local-offer') {
      await this.#makeOffer();
    }
  }

  /** Sends the local description, and then the candidates that came before it could be. */
  #describe(/** @type {string} */ method, /** @type {RTCPeerConnection} */ connection) {
    const sent = this.#signaling.call(method, {
      to: this.name, request_id: this.#requestId, kind: 'webrtc', sdp: connection.localDescription?.sdp,
    });
    this.#described = true;
    for (const params of this.#unsent.splice(0)) this.#sendCandidate(params);
    return sent;
  }

  /** @param {RTCIceCandidate | null} candidate */
  #trickle(candidate) {
    const params = {
      candidate: candidate?.candidate ?? '',
      sdp_mid: candidate?.sdpMid ?? null,
      sdp_m_line_index: candidate?.sdpMLineIndex ?? null,
      username_fragment: candidate?.usernameFragment ?? null,
    };
    if (this.#described) this.#sendCandidate(params);
    else this.#unsent.push(params);
  }

  /** @param {object} params */
  #sendCandidate(params) {
    this.#signaling.notify('peer.ice_candidate', { to: this.name, request_id: this.#requestId, ...params });
  }

  async #releaseHeld() {
    for (const candidate of this.#held.splice(0)) await this.#apply(candidate);
  }

  /** One candidate that does not fit is no reason to give up. @param {RTCIceCandidateInit} candidate */
  #apply(candidate) {
    return this.#link.connection.addIceCandidate(candidate).catch(console.debug);
  }

  /** @param {unknown} data */
  #onControl(data) {
    if (typeof data !== 'string') return;
    try {
      const { close } = JSON.parse(data);
      if (!close) return;
      const [code, reason] = [Number(close.code), String(close.reason ?? '')];
      if (PASSING.has(code)) this.#fail(new Error(reason));
      else this.#tell('closed', { code, reason });
    } catch {
      // Nothing else is said to guests in text.
    }
  }

  /** @param {unknown} error */
  #fail(error) {
    console.warn(`link to ${this.name}:`, error);
    this.#tell('failed', error);
  }

  /** @param {string} type @param {unknown} [detail] */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** What matters of getStats. @returns {Promise<Summary>} */
  async stats() {
    /** @type {Summary} */
    const summary = {
      rtt_ms: null, packets_received: 0, packets_lost: 0, packets_sent: 0,
      concealed: 0, samples: 0, energy: 0, jitter_ms: null,
    };
    for (const report of (await this.#link.connection.getStats()).values()) {
      if (report.type === 'candidate-pair' && report.nominated && report.currentRoundTripTime !== undefined) {
        summary.rtt_ms = report.currentRoundTripTime * 1000;
      } else if (report.type === 'inbound-rtp' && report.kind === 'audio') {
        summary.packets_received += report.packetsReceived ?? 0;
        summary.packets_lost += Math.max(report.packetsLost ?? 0, 0);
        summary.concealed += report.concealedSamples ?? 0;
        summary.samples += report.totalSamplesReceived ?? 0;
        summary.energy += report.totalAudioEnergy ?? 0;
        if (report.jitter !== undefined) summary.jitter_ms = report.jitter * 1000;
      } else if (report.type === 'outbound-rtp' && report.kind === 'audio') {
        summary.packets_sent += report.packetsSent ?? 0;
      }
    }
    return summary;
  }
}

/**
 * The share of packets lost between two summaries, `null` where none were due.
 * @param {Summary | undefined} before @param {Summary} now
 */
export function lossBetween(before, now) {
  const received = now.packets_received - (before?.packets_received ?? 0);
  const lost = Math.max(now.packets_lost - (before?.packets_lost ?? 0), 0);
  return received + lost > 0 ? lost / (received + lost) : null;
}
