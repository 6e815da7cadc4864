//! The browser page's way to a place and away from it, where networks swallow and people leave at odd moments: its
//! signaling module, run by Node, with the browser's end of each WebSocket in the test's hands.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

use common::has_tool;

const MODULE: &str = include_str!("../web/signaling.js");

/// A browser whose connections do what the test says.
const BROWSER: &str = "
import assert from 'node:assert';
globalThis.addEventListener = () => {};
globalThis.CloseEvent ??= class extends Event {
  constructor(type, init) { super(type); this.code = init.code; }
};
console.warn = () => {};
const wires = [];
const woken = [];
/** The connection of this number, once there is one. */
const wire = async (number) => {
  while (wires.length <= number) await new Promise((resolve) => { woken.push(resolve); });
  return wires[number];
};
globalThis.WebSocket = class extends EventTarget {
  static OPEN = 1;
  static CLOSED = 3;
  readyState = 0;
  sent = [];
  constructor(url) {
    super();
    this.url = url;
    wires.push(this);
    woken.splice(0).forEach((wake) => wake());
  }
  send(text) {
    this.sent.push(JSON.parse(text));
    woken.splice(0).forEach((wake) => wake());
  }
  /** Waits for a request and answers it. */
  async answer(method, result) {
    const asked = await this.asked(method);
    this.hear({ jsonrpc: '2.0', id: asked.id, result });
  }
  async asked(method) {
    for (;;) {
      const asked = this.sent.find((message) => message.method === method);
      if (asked) return asked;
      await new Promise((resolve) => { woken.push(resolve); });
    }
  }
  hear(message) { this.onmessage?.({ data: JSON.stringify(message) }); }
  open() {
    this.readyState = 1;
    this.onopen?.();
  }
  close(code, reason) {
    this.closedWith ??= code;
    this.end(code ?? 1005);
  }
  end(code) {
    if (this.readyState === 3) return;
    this.readyState = 3;
    setTimeout(() => {
      const event = new CloseEvent('close', { code });
      this.onclose?.(event);
      this.dispatchEvent(event);
    });
  }
};
const { Signaling } = await import(process.argv[1]);
const page = (url) => new Signaling(url, { room: 'room', peer_id: 'page', capabilities: [] });
const joined = (more) => ({ peer_id: 'page', room: 'room', resume: 'token', ice_servers: [], peers: [], max_peers: 9, ...more });
const ended = (signaling) => new Promise((resolve) => {
  signaling.addEventListener('ended', (event) => resolve(event.detail.message));
});
/** A page that is in the room. */
const inside = async (url, more) => {
  const signaling = page(url);
  const joining = signaling.join();
  const first = await wire(0);
  first.open();
  await first.answer('peer.announce', joined(more));
  await joining;
  return signaling;
};
const drain = (wire, params) => wire.hear({ jsonrpc: '2.0', method: 'server.draining', params });
";

fn holds(scenario: &str) {
    if !has_tool("node", "nodejs") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let module = dir.path().join("signaling.mjs");
    std::fs::write(&module, MODULE).unwrap();
    // What is waited for and never comes would leave Node with nothing to do, and content.
    let script = format!("{BROWSER}{scenario}\nconsole.log('held');\nprocess.exit(0);");
    let output = Command::new("node")
        .args(["--input-type=module", "-e", &script])
        .arg(module)
        .output()
        .unwrap();
    let (told, wrong) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&told).trim(), "held", "{wrong}");
}

#[test]
fn who_leaves_while_the_page_comes_back_is_gone_for_good() {
    // Before the connection stands, and after it was asked for a place.
    for opens in ["", "second.open(); await second.asked('peer.announce');"] {
        holds(&format!(
            "const signaling = await inside('ws://one/v1/ws');
            const end = ended(signaling);
            wires[0].end(1006);
            const second = await wire(1);
            {opens}
            signaling.leave();
            assert.equal(await end, 'you left');
            assert.equal(second.closedWith, 1000);
            assert.equal(wires.length, 2);"
        ));
    }
}

#[test]
fn who_leaves_when_the_place_is_given_again_is_gone_for_good() {
    holds(
        "const signaling = await inside('ws://one/v1/ws');
        const end = ended(signaling);
        signaling.addEventListener('joined', () => assert.fail('it left'));
        wires[0].end(1006);
        const second = await wire(1);
        second.open();
        await second.answer('peer.announce', joined());
        signaling.leave();
        assert.equal(await end, 'you left');
        assert.equal(second.closedWith, 1000);",
    );
}

#[test]
fn who_leaves_while_the_page_moves_to_another_server_is_gone_for_good() {
    for at in [
        "",
        "second.open(); await second.asked('peer.announce');",
        "second.open(); await second.answer('peer.announce', joined());",
    ] {
        holds(&format!(
            "const signaling = await inside('ws://one/v1/ws');
            const end = ended(signaling);
            drain(wires[0], {{ reconnect_after_ms: 0, url: 'ws://two' }});
            await wires[0].answer('ping', {{}});
            const second = await wire(1);
            {at}
            signaling.leave();
            assert.equal(await end, 'you left');
            assert.deepEqual([wires[0].closedWith, second.closedWith], [1000, 1000]);"
        ));
    }
}

#[test]
fn a_server_that_accepts_no_connection_is_not_waited_for() {
    holds(
        "const signaling = await inside('ws://one/v1/ws', { servers: ['ws://two'] });
        wires[0].end(1006);
        const tried = [await wire(1), await wire(2)].map((wire) => wire.url);
        assert.deepEqual(tried, ['ws://two/v1/ws', 'ws://one/v1/ws']);
        assert.equal(wires[1].readyState, 3, 'given up');",
    );
}

#[test]
fn fresh_credentials_come_from_the_same_server() {
    holds(
        "await inside('ws://one/v1/ws', { servers: ['ws://two', 'ws://three'], ice_ttl_ms: 1 });
        const second = await wire(1);
        assert.equal(wires[0].closedWith, 4000);
        assert.equal(second.url, 'ws://one/v1/ws');",
    );
}

#[test]
fn a_page_moves_to_the_very_server_that_is_named() {
    holds(
        "await inside('ws://host:8181/v1/ws', { servers: ['ws://host:8282'] });
        drain(wires[0], { reconnect_after_ms: 0, url: 'ws://host:81' });
        await wires[0].answer('ping', {});
        assert.equal((await wire(1)).url, 'ws://host:81/v1/ws');",
    );
}
