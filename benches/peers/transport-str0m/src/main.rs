//! str0m, driven by the loop of its own examples: a thread for each end, one socket, one datagram a call.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a bench may fail loudly

use std::{
    collections::VecDeque,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use str0m::{
    Candidate, Event, Input, Output, Rtc,
    change::{SdpAnswer, SdpOffer},
    channel::ChannelId,
    net::{Protocol, Receive},
};
use transport_common::{CHUNK, Load, SMALL, SOCKET_BUFFER, WARM_UP};

fn main() {
    str0m::crypto::from_feature_flags().install_process_default();
    let load = Load::wanted();
    let (to_bob, from_alice) = channel();
    let (to_alice, from_bob) = channel();
    thread::scope(|scope| {
        scope.spawn(move || answer(&to_alice, &from_alice, load));
        scope.spawn(move || ask(&to_bob, &from_bob, load));
    });
}

struct End {
    rtc: Rtc,
    socket: UdpSocket,
    address: SocketAddr,
    channel: Option<ChannelId>,
    received: VecDeque<usize>,
    /// Received messages are only measured; this one is sent back.
    small: Vec<u8>,
    timeout: Option<Duration>,
    buffer: Vec<u8>,
    /// When the core wants to be called again.
    due: Instant,
}

impl End {
    fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .unwrap();
        let socket = UdpSocket::from(socket);
        let address = socket.local_addr().unwrap();
        let mut rtc = Rtc::builder().build(Instant::now());
        rtc.add_local_candidate(Candidate::host(address, "udp").unwrap());
        Self {
            rtc,
            socket,
            address,
            channel: None,
            received: VecDeque::new(),
            small: vec![7; SMALL],
            timeout: None,
            buffer: vec![0; 2048],
            due: Instant::now(),
        }
    }

    /// Sends and takes up everything that is ready.
    fn settle(&mut self) {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(due) => {
                    self.due = due;
                    return;
                }
                Output::Transmit(packet) => {
                    let _ = self.socket.send_to(&packet.contents, packet.destination);
                }
                Output::Event(Event::ChannelOpen(channel, _)) => self.channel = Some(channel),
                Output::Event(Event::ChannelData(data)) => self.received.push_back(data.data.len()),
                Output::Event(_) => {}
            }
        }
    }

    /// Waits for one datagram, or until the core wants to be called again.
    fn wait(&mut self) {
        let now = Instant::now();
        let wait = self
            .due
            .saturating_duration_since(now)
            .max(Duration::from_micros(1));
        // A call to the system, which nobody makes more often than he must.
        if self.timeout.is_none_or(|set| set > wait || set < wait / 2) {
            self.socket.set_read_timeout(Some(wait)).unwrap();
            self.timeout = Some(wait);
        }
        match self.socket.recv_from(&mut self.buffer) {
            Ok((len, from)) => {
                let packet = &self.buffer[..len];
                let input = Receive::new(Protocol::Udp, from, self.address, packet).unwrap();
                self.rtc
                    .handle_input(Input::Receive(Instant::now(), input))
                    .unwrap();
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                self.tick();
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn turn(&mut self) {
        if Instant::now() >= self.due {
            self.tick();
        } else {
            self.wait();
        }
        self.settle();
    }

    fn open(&mut self) {
        self.tick();
        self.settle();
        while self.channel.is_none() {
            self.turn();
        }
    }

    fn write(&mut self, message: &[u8]) -> bool {
        let mut channel = self.rtc.channel(self.channel.unwrap()).unwrap();
        let taken = channel.write(true, message).unwrap();
        self.settle();
        taken
    }

    fn tick(&mut self) {
        let now = Input::Timeout(Instant::now());
        self.rtc.handle_input(now).unwrap();
    }

    /// The length of the next message, or `None` once the other end is gone.
    fn read(&mut self) -> Option<usize> {
        loop {
            if let Some(len) = self.received.pop_front() {
                return Some(len);
            }
            if !self.rtc.is_alive() {
                return None;
            }
            self.turn();
        }
    }
}

fn begin(to: &Sender<String>, from: &Receiver<String>) -> End {
    let mut end = End::new();
    let mut change = end.rtc.sdp_api();
    change.add_channel("bench".into());
    let (offer, pending) = change.apply().unwrap();
    to.send(offer.to_sdp_string()).unwrap();
    let answer = SdpAnswer::from_sdp_string(&from.recv().unwrap()).unwrap();
    end.rtc.sdp_api().accept_answer(pending, answer).unwrap();
    end.open();
    end
}

fn ask(to: &Sender<String>, from: &Receiver<String>, load: Load) {
    let mut opens = Vec::new();
    for _ in 0..load.opens {
        let start = Instant::now();
        let _end = begin(to, from);
        from.recv().unwrap(); // open there, too
        opens.push(start.elapsed());
        to.send("over".into()).unwrap();
    }
    transport_common::print_opens("str0m", &mut opens);

    let mut end = begin(to, from);
    from.recv().unwrap();
    let small = vec![7; SMALL];
    let mut trips = Vec::new();
    for trip in 0..WARM_UP + load.trips {
        let start = Instant::now();
        assert!(end.write(&small));
        end.read().unwrap();
        if trip >= WARM_UP {
            trips.push(start.elapsed());
        }
    }
    transport_common::print_trips("str0m", &mut trips);

    let chunk = vec![7; CHUNK];
    let start = Instant::now();
    let mut left = load.bulk / CHUNK;
    while left > 0 {
        while left > 0 && end.write(&chunk) {
            left -= 1;
        }
        end.turn();
    }
    end.read().unwrap(); // all is there
    transport_common::print_bulk("str0m", load.bulk, start.elapsed());
    to.send("over".into()).unwrap();
}

fn answer(to: &Sender<String>, from: &Receiver<String>, load: Load) {
    for round in 0..=load.opens {
        let mut end = End::new();
        let offer = SdpOffer::from_sdp_string(&from.recv().unwrap()).unwrap();
        let answer = end.rtc.sdp_api().accept_offer(offer).unwrap();
        to.send(answer.to_sdp_string()).unwrap();
        end.open();
        to.send("open".into()).unwrap();
        if round < load.opens {
            // Opened only to be timed.
            from.recv().unwrap();
            continue;
        }
        let mut missing = load.bulk;
        let small = end.small.clone();
        loop {
            let Some(len) = end.read() else { return };
            if len == SMALL {
                assert!(end.write(&small));
                continue;
            }
            missing -= len;
            if missing == 0 {
                assert!(end.write(&small));
                // Until the other end says that it has heard: a lost packet is sent again.
                while from.try_recv().is_err() {
                    end.turn();
                }
                return;
            }
        }
    }
}
