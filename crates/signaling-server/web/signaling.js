/**
 * The signaling protocol over a WebSocket: join, ask, be told, come back.
 *
 * @typedef {{peer_id: string, capabilities: string[], user_data?: unknown}} PeerInfo
 * @typedef {{peer_id: string, room: string, resumed?: boolean, resume: string,
 *   ice_servers: RTCIceServer[], ice_ttl_ms?: number, peers: PeerInfo[], max_peers: number, servers?: string[]}} Joined
 * @typedef {{socket: WebSocket, server: number, joined: Joined, early: string[]}} Place
 */

const REQUEST_TIMEOUT_MS = 10_000;
/** How long a server may take to accept a connection: a network that swallows what is sent to it says nothing. */
const CONNECT_TIMEOUT_MS = 3000;
const FIRST_BACKOFF_MS = 250;
const MAX_BACKOFF_MS = 30_000;
/** How long a server that is left may take to send what it still has for us. */
const LAST_WORDS_MS = 1000;
/** Servers of a cluster that are kept in mind. */
const MAX_SERVERS = 16;
/** The server pings below the surface, so the page asks by itself whether it is still there. */
const PING_INTERVAL_MS = 15_000;

/** PeerIdTaken, RoomFull, RateLimited, Unavailable, Internal: may pass. */
const PASSING = new Set([-32001, -32005, -32007, -32011, -32603]);

const UNAUTHORIZED = -32006;

/** A socket that is closed for another, whose announce brings fresh credentials. Not 1000: who closes with that leaves. */
const RENEWING = 4000;
const MIN_RENEWAL_MS = 1000;
/** A longer timer goes off at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

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
  /** The last one by which a place was sought. @type {WebSocket | null} */ #entering = null;
  /** The cluster's servers as far as they are known, the page's own first. @type {string[]} */ #urls;
  /** Which of them has our place. */ #server = 0;
  /** While another server is to take our place over from the present one. */ #moving = false;
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
    this.#urls = [new URL(url).href];
    this.announce = announce;
    this.#invite = invite;
    // A network that comes back is no reason to wait out the delay.
    addEventListener('online', () => this.#wake?.());
  }

  /** Joins for the first time. @returns {Promise<Joined>} */
  async join() {
    const place = await this.#enter(0);
    this.#take(place);
    return place.joined;
  }

  /**
   * Asks the server. @param {string} method @param {object} params @returns {Promise<any>}
   */
  call(method, params) {
    return this.#ask(this.#socket, method, params);
  }

  /** @param {WebSocket | null} socket @param {string} method @param {object} params @returns {Promise<any>} */
  #ask(socket, method, params) {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      if (!send(socket, { jsonrpc: '2.0', id, method, params })) {
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
    send(this.#socket, { jsonrpc: '2.0', method, params });
  }

  /** Leaves the room for good, be it that another place is being sought. The close code says so, even while the page goes away. */
  leave() {
    this.#left = true;
    this.#wake?.();
    this.#socket?.close(1000, 'left');
    this.#entering?.close(1000, 'left');
  }

  /**
   * Exchanges the invite for a grant; without an invite there is none. The secret goes in the body, never in a URL.
   * @param {number} server @returns {Promise<string | undefined>}
   */
  async #grant(server) {
    if (!this.#invite) return undefined;
    const url = new URL(`/v1/rooms/${this.announce.room}/grants`, this.#urls[server].replace(/^ws/, 'http'));
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
      const token = await this.#grant(this.#server);
      if (token) await this.call('session.refresh', { token });
    } catch (error) {
      // When the grant has ended the server closes, and coming back tells what is wrong.
      console.warn('the grant was not renewed', error);
    }
  }

  /**
   * A server's address as it is kept in mind; none that is not reached as the page's own is, by TLS or without.
   * @param {string} text @returns {string | undefined}
   */
  #address(text) {
    if (!URL.canParse(text)) return undefined;
    const url = new URL(text);
    if (url.pathname === '/') url.pathname = '/v1/ws';
    return url.protocol === new URL(this.#urls[0]).protocol ? url.href : undefined;
  }

  /** Takes note of other servers of the cluster. @param {string[]} urls */
  #learn(urls) {
    for (const url of urls) {
      const address = this.#address(url);
      const isNew = address && !this.#urls.includes(address);
      if (isNew && this.#urls.length < MAX_SERVERS) this.#urls.push(address);
    }
  }

  /** Gets a place in the room from a server, by its number. @param {number} server @returns {Promise<Place>} */
  async #enter(server) {
    const token = await this.#grant(server);
    if (this.#left) throw new Error('you left');
    const socket = new WebSocket(this.#urls[server]);
    this.#entering = socket;
    /** @type {Promise<never>} */
    const lost = new Promise((_, reject) => {
      socket.onerror = socket.onclose = () => reject(new Error('the server cannot be reached'));
    });
    /** What comes before the place is ours. @type {string[]} */
    const early = [];
    socket.onmessage = (event) => {
      if (JSON.parse(event.data).method) early.push(event.data);
      else this.#onMessage(event.data);
    };
    try {
      await Promise.race([opened(socket), lost]);
      const asked = this.#ask(socket, 'peer.announce', {
        protocol: 1, ...this.announce, ...(token && { token }), ...(this.#resume && { resume: this.#resume }),
      });
      /** @type {Joined} */
      const joined = await Promise.race([asked, lost]);
      return { socket, server, joined, early };
    } catch (error) {
      socket.onerror = socket.onclose = null;
      socket.close();
      throw this.#left ? new Error('you left') : error;
    }
  }

  /** Goes on with a place that was got. @param {Place} place */
  #take({ socket, server, joined, early }) {
    this.#socket = socket;
    this.#server = server;
    this.#attempt = 0;
    this.#resume = joined.resume;
    this.#learn(joined.servers ?? []);
    const pings = setInterval(() => this.call('ping', {}).catch(() => socket.close()), PING_INTERVAL_MS);
    // TURN credentials end before the page does. Many may have come at once.
    const { ice_ttl_ms: life } = joined;
    const after = Math.min(Math.max((life ?? 0) * (0.5 + Math.random() / 4), MIN_RENEWAL_MS), MAX_TIMER_MS);
    const renewal = life === undefined ? undefined : setTimeout(() => socket.close(RENEWING, 'renewing'), after);
    socket.onerror = null;
    socket.onclose = (event) => {
      clearInterval(pings);
      clearTimeout(renewal);
      // While another takes its place, its end is what was asked for.
      if (this.#socket === socket && !this.#moving) this.#onClose(event);
    };
    socket.onmessage = (event) => this.#onMessage(event.data);
    early.forEach((text) => this.#onMessage(text));
    if (socket.readyState === WebSocket.CLOSED) socket.onclose(new CloseEvent('close', { code: 1006 }));
  }

  /**
   * Leaves a server that stops for another, and hears the first out: nothing is lost then.
   * @param {{reconnect_after_ms: number, url?: string}} draining
   */
  async #move({ reconnect_after_ms, url }) {
    this.#learn(url ? [url] : []);
    const named = this.#urls.findIndex((known) => url && known === this.#address(url));
    const next = named >= 0 ? named : (this.#server + 1) % this.#urls.length;
    const old = this.#socket;
    await this.#pause(reconnect_after_ms);
    if (this.#left || this.#socket !== old || old?.readyState !== WebSocket.OPEN) return;
    this.#moving = true;
    try {
      // What was sent before this is answered is read by then.
      await this.call('ping', {});
      const place = await this.#enter(next);
      await closed(old, LAST_WORDS_MS);
      // Then the old one's end is the end.
      if (this.#left) throw new Error('you left');
      old.onmessage = null;
      this.dispatchEvent(new CustomEvent('joined', { detail: place.joined }));
      this.#take(place);
    } catch (error) {
      console.warn('no other server yet', error);
      if (old.readyState === WebSocket.CLOSED) this.#onClose(new CloseEvent('close', { code: 1001 }));
    } finally {
      this.#moving = false;
    }
  }

  /** @param {string} text */
  #onMessage(text) {
    const message = JSON.parse(text);
    if (message.method) {
      const { method, params } = message;
      if (method === 'session.expiring') this.#refresh();
      if (method === 'server.draining') this.#move(params);
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
    // A server that was left for fresh credentials, and said goodbye, is there. Any other may not be.
    const first = event.code === RENEWING ? this.#server : this.#server + 1;
    /** @type {RefusedError | null} */ let refused = null;
    while (!this.#left) {
      this.#attempt += 1;
      const delay = Math.random() * this.#bound();
      this.dispatchEvent(new CustomEvent('reconnecting', { detail: { attempt: this.#attempt, delay } }));
      await this.#pause(delay);
      if (this.#left) break;
      const servers = this.#urls.length;
      try {
        const place = await this.#enter((first + this.#attempt - 1) % servers);
        if (this.#left) break;
        this.dispatchEvent(new CustomEvent('joined', { detail: place.joined }));
        return this.#take(place);
      } catch (error) {
        if (error instanceof RefusedError && !PASSING.has(error.code)) refused ??= error;
        // Another server may think otherwise.
        if (refused && this.#attempt % servers === 0) return this.#end(refused);
      }
    }
    return this.#end(new Error('you left'));
  }

  /** The longest pause before the present attempt: each server is tried before it grows. */
  #bound() {
    const round = Math.floor((this.#attempt - 1) / this.#urls.length);
    return round === 0 ? FIRST_BACKOFF_MS : Math.min(1000 * 2 ** (round - 1), MAX_BACKOFF_MS);
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

/** @param {WebSocket | null} socket @param {object} message @returns {boolean} whether it is on its way */
function send(socket, message) {
  if (socket?.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(message));
  return true;
}

/** Waits until a socket is open, but not for ever. @param {WebSocket} socket */
function opened(socket) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('the server does not answer')), CONNECT_TIMEOUT_MS);
    socket.onopen = () => { clearTimeout(timer); resolve(undefined); };
  });
}

/** Waits until a socket is closed, or so long. @param {WebSocket} socket @param {number} most_ms */
function closed(socket, most_ms) {
  if (socket.readyState === WebSocket.CLOSED) return Promise.resolve();
  return new Promise((resolve) => {
    socket.addEventListener('close', () => resolve(undefined), { once: true });
    setTimeout(resolve, most_ms);
  });
}
