//! A link between two peers: one simulated network for each direction.

use bytes::Bytes;
use roundtable_command_log::{FrameReader, GenesisHash, UnverifiedFrame};
use roundtable_core::{Channel, Delivery, Frame, Payload, Timestamp};
use roundtable_netem::{Conditions, Flow, Netem};

/// The stream of the message that says that a link was closed.
const CLOSE_STREAM: u8 = u8::MAX;

#[derive(Debug, Clone)]
pub(crate) enum Parcel {
    Frame {
        frame: Frame,
        /// What it carries, if it is a command frame that can be read.
        command: Option<Box<UnverifiedFrame>>,
    },
    Closed,
}

pub(crate) struct Cable {
    /// The peers at its ends; the first made the offer.
    pub(crate) ends: [usize; 2],
    /// Whether each end still has it.
    pub(crate) up: [bool; 2],
    /// By receiving end.
    nets: [Netem<Parcel>; 2],
    /// What is needed to read the frames to each end.
    taps: [FrameReader; 2],
}

impl Cable {
    pub(crate) fn new(ends: [usize; 2], seed: u64, conditions: Conditions) -> Self {
        let net = |end| Netem::new(seed ^ end, conditions);
        Self {
            ends,
            up: [true; 2],
            nets: [net(0), net(1)],
            taps: Default::default(),
        }
    }

    pub(crate) fn joins(&self, a: usize, b: usize) -> bool {
        self.ends == [a, b] || self.ends == [b, a]
    }

    /// Which end is this peer's.
    pub(crate) fn end_of(&self, peer: usize) -> usize {
        usize::from(self.ends[1] == peer)
    }

    /// Whether both ends have it and messages get through.
    pub(crate) fn works(&self) -> bool {
        self.up == [true; 2] && !self.is_cut()
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.up == [false; 2]
    }

    pub(crate) fn send(&mut self, now: Timestamp, to: usize, parcel: Parcel) {
        let (flow, len) = match &parcel {
            Parcel::Closed => (Flow::Stream(CLOSE_STREAM), 1),
            Parcel::Frame { frame, .. } => (flow(frame.channel), frame.payload_len()),
        };
        self.nets[to].send(now, flow, len, parcel);
    }

    /// The command frame that a frame to an end carries, in whatever form.
    pub(crate) fn read(
        &mut self,
        to: usize,
        frame: &Frame,
        genesis: &GenesisHash,
    ) -> Option<Box<UnverifiedFrame>> {
        match (frame.channel, &frame.payload) {
            (Channel::Command, Payload::Binary(bytes)) => self.taps[to]
                .read(bytes.clone(), genesis)
                .ok()
                .map(Box::new),
            _ => None,
        }
    }

    pub(crate) fn poll(&mut self, now: Timestamp, end: usize) -> Option<Parcel> {
        self.nets[end].poll(now)
    }

    pub(crate) fn next_timeout(&self) -> Option<Timestamp> {
        self.nets.iter().filter_map(Netem::next_timeout).min()
    }

    pub(crate) fn cut(&mut self) {
        self.nets.iter_mut().for_each(Netem::cut);
    }

    pub(crate) fn mend(&mut self, now: Timestamp) {
        self.nets.iter_mut().for_each(|net| net.mend(now));
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.nets[0].is_cut()
    }

    pub(crate) fn set_conditions(&mut self, conditions: Conditions) {
        for net in &mut self.nets {
            net.set_conditions(conditions);
        }
    }

    /// The command frames that are still under way to an end.
    pub(crate) fn commands_under_way(&mut self, end: usize) -> Vec<Bytes> {
        self.nets[end].mend(Timestamp::ZERO);
        let forever = Timestamp::from_micros(u64::MAX);
        let parcels = std::iter::from_fn(|| self.nets[end].poll(forever));
        let command = |parcel| match parcel {
            Parcel::Frame { command, .. } => Some(command?.bytes().clone()),
            Parcel::Closed => None,
        };
        parcels.filter_map(command).collect()
    }
}

fn flow(channel: Channel) -> Flow {
    match channel.delivery() {
        Delivery::ReliableOrdered => Flow::Stream(channel.number()),
        Delivery::UnreliableUnordered => Flow::Datagram,
    }
}
