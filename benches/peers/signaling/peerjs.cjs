// PeerJS's server on a free port, with nothing changed but how many may connect.
const { PeerServer } = require('peer');

const options = { host: '127.0.0.1', port: 0, path: '/', concurrent_limit: 20_000 };
PeerServer(options, (server) => console.log(`listening on http://127.0.0.1:${server.address().port}/`));
