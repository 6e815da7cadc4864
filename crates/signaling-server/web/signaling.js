/**
 * The signaling protocol over a WebSocket: join, ask, be told, come back.
 *
 * @typedef {{peer_id: string, capabilities: string[], user_data?: unknown}} PeerInfo
 * @typedef {{peer_id: string, room: string, resumed?: boolean, resume: string,
 *   ice_servers: RTCIceServer[], peers: PeerInfo[], max_peers: number}} Joined
 */

const REQUEST_TIMEOUT_MS = 10_000;
const MAX_BACKOFF_MS = 30_000;
/** The server pings below the surface, so the page asks by itself whether it is still there. */
const PING_INTERVAL_MS = 15_000;

/** PeerIdTaken, RoomFull, RateLimited, Unavailable, Internal: may pass. */
const PASSING = new Set([-32001, -32005, -32007, -32011, -32603]);

const UNAUTHORIZED = -32006;

/** An error that the server answered with. */
export class RefusedError extends Error {
  /** @param {{code: number, message: string}} error */
  constructor(error) {
    super(error.message);
    this.code = error.code;
  }
}

/**
 * Events: `joined` (detail: Joined), `notification` (detail: {method, params}),
 * `reconnecting` (detail: {attempt, delay}), `ended` (detail: Error).
 */
export class Signaling extends EventTarget {
  /** @type {WebSocket | null} */ #socket = null;
  /** @type {Map<number, {resolve: (result: any) => void, reject: (error: Error) => void}>} */
  #pending = new Map();
  #lastId = 0;
  #attempt = 0;
  #left = false;
  /** @type {string | undefined} */ #resume;
  /** The room's secret, for a closed server. @type {string | null} */ #invite;

  /**
   * @param {string} url
   * @param {{room: string, peer_id: string, capabilities: string[], user_data?: unknown}} announce
   * @param {string | null} [invite] what a closed server exchanges for grants
   */
  constructor(url, announce, invite = null) {
    super();
    this.url = url;
    this.announce = announce;
    this.#invite = invite;
    // A network that comes back is no reason to wait out the delay.
    addEventListener('online', () => this.#wake?.());
  }

  /** Joins for the first time. @returns {Promise<Joined>} */
  async join() {
    const joined = await this.#connect();
    this.#attempt = 0;
    return joined;
  }

  /**
   * Asks the server. @param {string} method @param {object} params @returns {Promise<any>}
   */
  call(method, params) {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      if (!this.#send({ jsonrpc: '2.0', id, method, params })) {
        reject(new Error('not connected'));
        return;
      }
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        reject(new Error('the server did not answer in time'));
      }, REQUEST_TIMEOUT_MS);
      this.#pending.set(id, {
        resolve: (result) => { clearTimeout(timer); resolve(result); },
        reject: (error) => { clearTimeout(timer); reject(error); },
      });
    });
  }

  /** Tells the server, without an answer. @param {string} method @param {object} params */
  notify(method, params) {
    this.#send({ jsonrpc: '2.0', method, params });
  }

  /** Leaves the room for good. The close code says so, even while the page goes away. */
  leave() {
    this.#left = true;
    this.#wake?.();
    this.#socket?.close(1000, 'left');
  }

  /** @param {object} message */
  #send(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /**
   * Exchanges the invite for a grant; without an invite there is none. The secret goes in the body, never in a URL.
   * @returns {Promise<string | undefined>}
   */
  async #grant() {
    if (!this.#invite) return undefined;
    const url = new URL(`/v1/rooms/${this.announce.room}/grants`, this.url.replace(/^ws/, 'http'));
    const body = JSON.stringify({ peer_id: this.announce.peer_id, invite: this.#invite });
    const answer = await fetch(url, { method: 'POST', body, signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) });
    // An open server gives no grants and wants none.
    if (answer.status === 404) return undefined;
    if (answer.status === 403) {
      throw new RefusedError({ code: UNAUTHORIZED, message: 'this invite is not, or no longer, good for this room' });
    }
    if (!answer.ok) throw new Error(`the server gave no grant (HTTP ${answer.status})`);
    return (await answer.json()).token;
  }

  /** Goes on with a new grant before the present one ends. */
  async #refresh() {
    try {
      const token = await this.#grant();
      if (token) await this.call('session.refresh', { token });
    } catch (error) {
      // When the grant has ended the server closes, and coming back tells what is wrong.
      console.warn('the grant was not renewed', error);
    }
  }

  /** @returns {Promise<Joined>} */
  async #connect() {
    const token = await this.#grant();
    const socket = new WebSocket(this.url);
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = socket.onclose = () => reject(new Error('the server cannot be reached'));
    });
    this.#socket = socket;
    socket.onmessage = (event) => this.#onMessage(event.data);
    try {
      /** @type {Joined} */
      const joined = await this.call('peer.announce', {
        protocol: 1, ...this.announce, ...(token && { token }), ...(this.#resume && { resume: this.#resume }),
      });
      this.#resume = joined.resume;
      const pings = setInterval(() => this.call('ping', {}).catch(() => socket.close()), PING_INTERVAL_MS);
      socket.onerror = null;
      socket.onclose = (event) => { clearInterval(pings); this.#onClose(event); };
      return joined;
    } catch (error) {
      socket.onclose = null;
      socket.close();
      throw error;
    }
  }

  /** @param {string} text */
  #onMessage(text) {
    const message = JSON.parse(text);
    if (message.method) {
      const { method, params } = message;
      if (method === 'session.expiring') this.#refresh();
      this.dispatchEvent(new CustomEvent('notification', { detail: { method, params } }));
      return;
    }
    const waiting = this.#pending.get(message.id);
    this.#pending.delete(message.id);
    if (message.error) waiting?.reject(new RefusedError(message.error));
    else waiting?.resolve(message.result);
  }

  /** @param {CloseEvent} event */
  async #onClose(event) {
    for (const { reject } of this.#pending.values()) reject(new Error('the connection was lost'));
    this.#pending.clear();
    if (this.#left) return this.#end(new Error('you left'));
    if (event.code === 4409) return this.#end(new Error('you joined from elsewhere'));
    while (!this.#left) {
      this.#attempt += 1;
      const bound = Math.min(1000 * 2 ** (this.#attempt - 1), MAX_BACKOFF_MS);
      const delay = Math.random() * bound;
      this.dispatchEvent(new CustomEvent('reconnecting', { detail: { attempt: this.#attempt, delay } }));
      await this.#pause(delay);
      if (this.#left) break;
      try {
        const joined = await this.#connect();
        this.#attempt = 0;
        this.dispatchEvent(new CustomEvent('joined', { detail: joined }));
        return undefined;
      } catch (error) {
        if (error instanceof RefusedError && !PASSING.has(error.code)) return this.#end(error);
      }
    }
    return this.#end(new Error('you left'));
  }

  /** @type {(() => void) | undefined} */ #wake;

  /** @param {number} delay */
  #pause(delay) {
    return new Promise((resolve) => {
      this.#wake = () => resolve(undefined);
      setTimeout(resolve, delay);
    });
  }

  /** @param {Error} error */
  #end(error) {
    this.dispatchEvent(new CustomEvent('ended', { detail: error }));
  }
}
