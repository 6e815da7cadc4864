// One end of a link as docs/protocols/links.md describes it for a guest, over any RTCPeerConnection: in a browser and in
// Node.js. It is told what to do by messages, and answers with messages:
//
//   {do: "offer"} -> {offer}    {answer}            {offer} -> {answer}
//   {do: "restart"} -> {offer}  {do: "report"} -> {report: {packets, energy}}
//
// What comes on App and AppFast it sends back as it is. Of {"close"} on Control it says {closed: code}.

const CHANNELS = {
  control: { negotiated: true, id: 0 },
  app: { negotiated: true, id: 4 },
  'app-fast': { negotiated: true, id: 5, ordered: false, maxRetransmits: 0 },
};

export class Peer {
  /**
   * `microphone` returns a track with sound on it, `ear(track)` listens to one, and `heard(connection)` says how much of it
   * came: packets, and any measure of loudness.
   */
  constructor({ Connection, microphone, ear, heard, say }) {
    this.connection = new Connection();
    this.microphone = microphone;
    this.heard = heard;
    this.say = say;
    this.connection.ontrack = ({ track }) => {
      if (track.kind === 'audio') ear(track);
    };
    for (const [label, init] of Object.entries(CHANNELS)) {
      const channel = this.connection.createDataChannel(label, init);
      channel.binaryType = 'arraybuffer';
      channel.onmessage = ({ data }) => {
        if (label === 'control') say({ closed: JSON.parse(data).close.code });
        else channel.send(data);
      };
    }
  }

  async handle(message) {
    const { connection } = this;
    if (message.do === 'offer') {
      connection.addTrack(this.microphone());
      connection.addTransceiver('video', { direction: 'sendrecv' });
      await this.describe('offer', await connection.createOffer());
    } else if (message.do === 'restart') {
      await this.describe('offer', await connection.createOffer({ iceRestart: true }));
    } else if (message.do === 'report') {
      this.say({ report: await this.heard(connection) });
    } else if (message.answer) {
      await connection.setRemoteDescription({ type: 'answer', sdp: message.answer });
    } else if (message.offer) {
      const isFirst = !connection.remoteDescription;
      await connection.setRemoteDescription({ type: 'offer', sdp: message.offer });
      if (isFirst) connection.addTrack(this.microphone());
      await this.describe('answer', await connection.createAnswer());
    }
  }

  /** Says it once all candidates are in it. */
  async describe(type, description) {
    const { connection } = this;
    const gathered = new Promise((resolve) => {
      connection.onicecandidate = ({ candidate }) => candidate ?? resolve();
    });
    await connection.setLocalDescription(description);
    await gathered;
    this.say({ [type]: connection.localDescription.sdp });
  }
}
