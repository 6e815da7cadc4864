// The least that a signaling server can be: whoever connects has a name, and messages go to the name in `to`.
const { WebSocketServer } = require('ws');

const clients = new Map();
const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
server.on('connection', (socket, request) => {
  const id = new URL(request.url, 'http://localhost').searchParams.get('id');
  clients.set(id, socket);
  socket.on('close', () => clients.delete(id));
  socket.on('message', (data) => {
    const message = JSON.parse(data);
    message.from = id;
    clients.get(message.to)?.send(JSON.stringify(message));
  });
});
server.on('listening', () => console.log(`listening on http://127.0.0.1:${server.address().port}/`));
