//! A network between two machines in virtual time, which carries the datagrams of real links.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use roundtable_core::{Clock, Timestamp};
use roundtable_netem::{Conditions, Flow, Netem};
use roundtable_transport::{DatagramSocket, Network, NetworkHandle, SystemClock};
use tokio::{sync::Notify, task::AbortHandle};

/// Bytes that may wait in a socket; more are lost, as in a system's.
const SOCKET_BUFFER: usize = 2 << 20;
/// What IPv4 and UDP put before a datagram on the line.
const HEADERS: usize = 28;
/// The first port that is handed out.
const FIRST_PORT: u16 = 1024;

/// Two machines, a simulated network for each direction, and sockets on both. Lives in the runtime that it
/// was made in, whose clock is paused; ends when dropped.
#[derive(Debug)]
pub struct Duct {
    lines: Arc<Lines>,
    /// None once detached.
    pump: Option<AbortHandle>,
}

#[derive(Debug)]
struct Lines {
    state: Mutex<State>,
    /// Something was sent that may arrive before all else.
    sent: Notify,
    seed: u64,
    began: Timestamp,
}

#[derive(Debug)]
struct State {
    /// By receiving end.
    nets: [Netem<Packet>; 2],
    machines: [Machine; 2],
    /// How many datagrams were sent, and what names their times and directions.
    sent: u64,
    digest: blake3::Hasher,
    /// Numbers of datagrams that are lost whatever the conditions.
    lost: BTreeSet<u64>,
}

#[derive(Debug)]
struct Machine {
    address: Ipv4Addr,
    /// A muted machine sends nothing and hears nothing.
    muted: bool,
    next_port: u16,
    sockets: BTreeMap<u16, Inbox>,
}

#[derive(Debug, Default)]
struct Inbox {
    packets: VecDeque<(SocketAddr, Bytes)>,
    bytes: usize,
    reader: Option<Waker>,
}

#[derive(Debug, Clone)]
struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    payload: Bytes,
}

/// One machine of a duct, as links see it.
#[derive(Debug)]
struct End {
    lines: Arc<Lines>,
    end: usize,
}

#[derive(Debug)]
struct Socket {
    lines: Arc<Lines>,
    end: usize,
    bound: SocketAddr,
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Duct {
    /// Two machines with one network of these conditions each way.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(seed: u64, conditions: Conditions) -> Self {
        let net = |end: u64| Netem::new(seed ^ end, conditions);
        let machine = |number| Machine {
            address: Ipv4Addr::new(10, 0, number, 1),
            muted: false,
            next_port: FIRST_PORT,
            sockets: BTreeMap::new(),
        };
        let state = State {
            nets: [net(0), net(1)],
            machines: [machine(0), machine(1)],
            sent: 0,
            digest: blake3::Hasher::new(),
            lost: BTreeSet::new(),
        };
        let lines = Arc::new(Lines {
            state: Mutex::new(state),
            sent: Notify::new(),
            seed,
            began: SystemClock.now(),
        });
        let pump = tokio::spawn(pump(lines.clone())).abort_handle();
        Self {
            lines,
            pump: Some(pump),
        }
    }

    /// The network as the machine `end` (0 or 1) sees it.
    pub fn end(&self, end: usize) -> NetworkHandle {
        let lines = self.lines.clone();
        NetworkHandle::new(Arc::new(End { lines, end }))
    }

    /// Lets it go on until its runtime ends.
    pub fn detach(mut self) {
        self.pump = None;
    }

    /// Changes the network for what is sent from here on.
    pub fn set_conditions(&self, conditions: Conditions) {
        for net in &mut self.lines.lock().nets {
            net.set_conditions(conditions);
        }
    }

    /// Loses the datagrams of these numbers, in the order in which they are sent in both directions, from 1.
    pub fn lose(&self, numbers: impl IntoIterator<Item = u64>) {
        self.lines.lock().lost.extend(numbers);
    }

    /// Nothing gets through any more.
    pub fn cut(&self) {
        self.lines.lock().nets.iter_mut().for_each(Netem::cut);
    }

    /// Everything gets through again; what was lost stays lost.
    pub fn mend(&self) {
        let now = SystemClock.now();
        for net in &mut self.lines.lock().nets {
            net.mend(now);
        }
    }

    /// A machine falls silent for ever, as one does whose power is cut.
    pub fn mute(&self, end: usize) {
        self.lines.lock().machines[end].muted = true;
    }

    /// A machine gets another address. Its sockets go on under that, as those do that are bound to all
    /// addresses; what is sent to the old one is lost.
    pub fn readdress(&self, end: usize) {
        let machine = &mut self.lines.lock().machines[end];
        let [a, b, c, d] = machine.address.octets();
        machine.address = Ipv4Addr::new(a, b, c, d.wrapping_add(1).max(1));
    }

    /// How many datagrams were sent, and a hash of when and which way: equal for equal seeds, as long as no line has
    /// a rate. Sizes are not in it, as signatures in handshakes of WebRTC are of any of three lengths.
    pub fn sent(&self) -> (u64, [u8; 32]) {
        let state = self.lines.lock();
        (state.sent, *state.digest.finalize().as_bytes())
    }
}

impl Drop for Duct {
    fn drop(&mut self) {
        if let Some(pump) = &self.pump {
            pump.abort();
        }
    }
}

/// Hands over what arrives when it does.
async fn pump(lines: Arc<Lines>) {
    loop {
        let due = lines.lock().deliver();
        let sent = lines.sent.notified();
        match due {
            None => sent.await,
            Some(due) => {
                let due = tokio::time::Instant::from_std(SystemClock::instant(due));
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(due) => {}
                    () = sent => {}
                }
            }
        }
    }
}

impl State {
    /// Puts what has arrived into its sockets; returns when there will be more.
    fn deliver(&mut self) -> Option<Timestamp> {
        let now = SystemClock.now();
        let Self { nets, machines, .. } = self;
        for (net, machine) in nets.iter_mut().zip(machines) {
            while let Some(packet) = net.poll(now) {
                machine.take(packet);
            }
        }
        nets.iter().filter_map(Netem::next_timeout).min()
    }
}

impl Machine {
    fn take(&mut self, packet: Packet) {
        let here = packet.to.ip() == IpAddr::V4(self.address) && !self.muted;
        let Some(inbox) = self.sockets.get_mut(&packet.to.port()).filter(|_| here) else {
            return;
        };
        if inbox.bytes + packet.payload.len() > SOCKET_BUFFER {
            return;
        }
        inbox.bytes += packet.payload.len();
        inbox.packets.push_back((packet.from, packet.payload));
        if let Some(reader) = inbox.reader.take() {
            reader.wake();
        }
    }
}

impl Network for End {
    fn bind(&self) -> io::Result<Arc<dyn DatagramSocket>> {
        let mut state = self.lines.lock();
        let machine = &mut state.machines[self.end];
        let port = machine.next_port;
        machine.next_port = port.checked_add(1).ok_or(io::ErrorKind::AddrInUse)?;
        machine.sockets.insert(port, Inbox::default());
        Ok(Arc::new(Socket {
            lines: self.lines.clone(),
            end: self.end,
            bound: (machine.address, port).into(),
        }))
    }

    fn seed(&self) -> [u8; 32] {
        let end = u64::from(self.end != 0);
        *blake3::hash(&[self.lines.seed, end].map(u64::to_le_bytes).concat()).as_bytes()
    }
}

impl DatagramSocket for Socket {
    fn local_address(&self) -> SocketAddr {
        self.bound
    }

    fn send(&self, to: SocketAddr, payload: &[u8]) {
        let now = SystemClock.now();
        let mut state = self.lines.lock();
        let State {
            nets,
            machines,
            sent,
            digest,
            lost,
        } = &mut *state;
        let machine = &machines[self.end];
        if machine.muted {
            return;
        }
        let from = SocketAddr::new(machine.address.into(), self.bound.port());
        *sent += 1;
        let since = now.saturating_since(self.lines.began).as_micros();
        digest.update(&since.to_le_bytes());
        digest.update(&[u8::from(self.end != 0)]);
        if lost.remove(sent) {
            return;
        }
        let packet = Packet {
            from,
            to,
            payload: Bytes::copy_from_slice(payload),
        };
        let len = payload.len() + HEADERS;
        nets[1 - self.end].send(now, Flow::Datagram, len, packet);
        self.lines.sent.notify_one();
    }

    fn try_recv(&self) -> Option<(SocketAddr, Bytes)> {
        let mut state = self.lines.lock();
        let inbox = state.machines[self.end]
            .sockets
            .get_mut(&self.bound.port())?;
        let packet = inbox.packets.pop_front()?;
        inbox.bytes -= packet.1.len();
        Some(packet)
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lines.lock();
        let sockets = &mut state.machines[self.end].sockets;
        match sockets.get_mut(&self.bound.port()) {
            Some(inbox) if inbox.packets.is_empty() => {
                inbox.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut state = self.lines.lock();
        state.machines[self.end].sockets.remove(&self.bound.port());
    }
}
