// libwebrtc, through @roamhq/wrtc: two ends, each a process of its own, with the messages that our WebRTC links are
// measured with. Prints one figure a line.
//
//   node duel.cjs [--quick]

'use strict';

const { fork } = require('node:child_process');
const { once } = require('node:events');
const { RTCPeerConnection } = require('@roamhq/wrtc');

const CHUNK = 16 << 10;
const SMALL = 64;
const WARM_UP = 200;
/** What waits to be sent, at most; a browser's page would do no better. */
const BUFFERED = 512 << 10;

const quick = process.argv.includes('--quick');
const load = quick ? { bulk: 64 << 20, trips: 1000, opens: 20 } : { bulk: 128 << 20, trips: 4000, opens: 60 };

/** Messages that have come and that nobody has asked for. */
class Inbox {
  #waiting = [];
  #asked = null;

  push(message) {
    if (this.#asked) {
      const asked = this.#asked;
      this.#asked = null;
      asked(message);
    } else {
      this.#waiting.push(message);
    }
  }

  next() {
    if (this.#waiting.length > 0) return Promise.resolve(this.#waiting.shift());
    return new Promise((resolve) => (this.#asked = resolve));
  }
}

function end() {
  const connection = new RTCPeerConnection();
  const channel = connection.createDataChannel('bench', { negotiated: true, id: 0 });
  channel.binaryType = 'arraybuffer';
  const open = new Promise((resolve) => (channel.onopen = resolve));
  return { connection, channel, open };
}

/** Candidates follow as they are found. */
function trickle(connection, say) {
  connection.onicecandidate = ({ candidate }) => {
    if (candidate) say({ candidate: candidate.toJSON() });
  };
}

async function begin(signaling, say) {
  const { connection, channel, open } = end();
  trickle(connection, say);
  await connection.setLocalDescription(await connection.createOffer());
  say({ description: connection.localDescription.toJSON() });
  let isOpenThere = false;
  const negotiated = (async () => {
    while (!isOpenThere) {
      const message = await signaling.next();
      if (message.description) await connection.setRemoteDescription(message.description);
      if (message.candidate) await connection.addIceCandidate(message.candidate);
      isOpenThere = Boolean(message.open);
    }
  })();
  await Promise.all([open, negotiated]);
  return { connection, channel };
}

function figure(id, value, unit) {
  console.log(JSON.stringify({ id, value, unit }));
}

function quantile(times, percent) {
  times.sort((a, b) => a - b);
  return times[Math.floor(((times.length - 1) * percent) / 100)];
}

async function ask() {
  const other = fork(__filename, ['--answer', ...(quick ? ['--quick'] : [])]);
  const signaling = new Inbox();
  other.on('message', (message) => signaling.push(message));
  const say = (message) => other.send(message);

  const opens = [];
  for (let i = 0; i < load.opens; i += 1) {
    const start = performance.now();
    const { connection } = await begin(signaling, say);
    opens.push(performance.now() - start);
    connection.close();
    say({ closed: true });
  }
  figure('libwebrtc_open_p50_ms', quantile(opens, 50), 'ms');
  figure('libwebrtc_open_p95_ms', quantile(opens, 95), 'ms');

  const { connection, channel } = await begin(signaling, say);
  const received = new Inbox();
  channel.onmessage = ({ data }) => received.push(data);
  const small = new Uint8Array(SMALL).fill(7);
  const trips = [];
  for (let i = 0; i < WARM_UP + load.trips; i += 1) {
    const start = performance.now();
    channel.send(small);
    await received.next();
    if (i >= WARM_UP) trips.push((performance.now() - start) * 1000);
  }
  figure('libwebrtc_rtt_p50_us', quantile(trips, 50), 'µs');
  figure('libwebrtc_rtt_p99_us', quantile(trips, 99), 'µs');

  const chunk = new Uint8Array(CHUNK).fill(7);
  const start = performance.now();
  for (let i = 0; i < load.bulk / CHUNK; i += 1) {
    // It counts what waits only between two turns of the event loop.
    if (i % 8 === 0) await new Promise(setImmediate);
    while (channel.bufferedAmount > BUFFERED) await new Promise(setImmediate);
    channel.send(chunk);
  }
  await received.next(); // all is there
  figure('libwebrtc_throughput', load.bulk / (performance.now() - start) / 1000, 'MB/s');
  say({ over: true });
  await once(other, 'exit');
  connection.close();
}

/** Sends small messages back, and one when the bulk is complete. */
async function answer() {
  const say = (message) => process.send(message);
  let connection = null;
  const handle = async (message) => {
    if (message.over) process.exit(0);
    if (message.closed) connection.close();
    if (message.candidate) await connection.addIceCandidate(message.candidate);
    if (!message.description) return;
    const made = end();
    connection = made.connection;
    trickle(connection, say);
    let missing = load.bulk;
    made.channel.onmessage = ({ data }) => {
      if (data.byteLength === SMALL) {
        made.channel.send(data);
        return;
      }
      missing -= data.byteLength;
      if (missing === 0) made.channel.send(new Uint8Array(SMALL));
    };
    made.open.then(() => say({ open: true }));
    await connection.setRemoteDescription(message.description);
    await connection.setLocalDescription(await connection.createAnswer());
    say({ description: connection.localDescription.toJSON() });
  };
  // One after the other: a candidate must not overtake the description that it belongs to.
  let before = Promise.resolve();
  process.on('message', (message) => (before = before.then(() => handle(message))));
}

const run = process.argv.includes('--answer') ? answer : ask;
run().then(
  () => run === ask && process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
