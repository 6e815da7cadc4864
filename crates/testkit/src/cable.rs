//! A link between two peers: one simulated network for each direction, or a real link.

use bytes::Bytes;
use roundtable_command_log::{FrameReader, GenesisHash, UnverifiedFrame};
use roundtable_core::{Channel, CloseCode, Delivery, Frame, Payload, Timestamp};
use roundtable_netem::{Conditions, Flow, Netem};

use crate::wire::Wire;

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
    medium: Medium,
    /// When the next message of a model arrives: asked for far more often than it changes.
    due: Option<Timestamp>,
    /// What is needed to read the frames to each end.
    taps: [FrameReader; 2],
}

enum Medium {
    /// A model of a link, whole messages at a time; by receiving end.
    Nets(Box<[Netem<Parcel>; 2]>),
    Wire(Wire),
}

impl Cable {
    /// A model of a link, which both ends have from the start.
    pub(crate) fn new(ends: [usize; 2], seed: u64, conditions: Conditions) -> Self {
        let net = |end| Netem::new(seed ^ end, conditions);
        Self {
            ends,
            up: [true; 2],
            medium: Medium::Nets(Box::new([net(0), net(1)])),
            due: None,
            taps: Default::default(),
        }
    }

    /// A real link, which neither end has yet.
    pub(crate) fn wired(ends: [usize; 2], wire: Wire) -> Self {
        Self {
            ends,
            up: [false; 2],
            medium: Medium::Wire(wire),
            due: None,
            taps: Default::default(),
        }
    }

    /// An end has got a real link, or never will; says whether that was still open.
    pub(crate) fn decide(&mut self, end: usize) -> bool {
        match &mut self.medium {
            Medium::Nets(_) => false,
            Medium::Wire(wire) => std::mem::take(&mut wire.undecided[end]),
        }
    }

    /// Whether an end is still waiting for a real link.
    fn is_undecided(&self, end: usize) -> bool {
        matches!(&self.medium, Medium::Wire(wire) if wire.undecided[end])
    }

    pub(crate) fn joins(&self, a: usize, b: usize) -> bool {
        self.ends == [a, b] || self.ends == [b, a]
    }

    /// Which end is this peer's.
    pub(crate) fn end_of(&self, peer: usize) -> usize {
        usize::from(self.ends[1] == peer)
    }

    /// Whether both ends have it, or may get it yet, and messages get through.
    pub(crate) fn works(&self) -> bool {
        [0, 1].map(|end| self.up[end] || self.is_undecided(end)) == [true; 2] && !self.is_cut()
    }

    pub(crate) fn is_dead(&self) -> bool {
        [0, 1].map(|end| self.up[end] || self.is_undecided(end)) == [false; 2]
    }

    /// An end closes it; the other is told as the medium does.
    pub(crate) fn close(&mut self, now: Timestamp, end: usize, (code, reason): (CloseCode, &str)) {
        self.up[end] = false;
        match &self.medium {
            Medium::Nets(_) => self.send(now, 1 - end, Parcel::Closed),
            Medium::Wire(wire) => wire.close(end, code, reason),
        }
    }

    /// An end dies without a word.
    pub(crate) fn kill(&mut self, end: usize) {
        self.up[end] = false;
        if let Medium::Wire(wire) = &mut self.medium {
            wire.kill(end);
        }
    }

    /// An end's machine gets another address; a model has none.
    pub(crate) fn readdress(&self, end: usize) {
        if let Medium::Wire(wire) = &self.medium {
            wire.readdress(end);
        }
    }

    pub(crate) fn send(&mut self, now: Timestamp, to: usize, parcel: Parcel) {
        let (flow, len) = match &parcel {
            Parcel::Closed => (Flow::Stream(CLOSE_STREAM), 1),
            Parcel::Frame { frame, .. } => (flow(frame.channel), frame.payload_len()),
        };
        match (&mut self.medium, parcel) {
            (Medium::Nets(nets), parcel) => nets[to].send(now, flow, len, parcel),
            (Medium::Wire(wire), Parcel::Frame { frame, .. }) => wire.send(1 - to, frame),
            (Medium::Wire(_), Parcel::Closed) => {}
        }
        self.look();
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
        let parcel = match &mut self.medium {
            Medium::Nets(nets) => nets[end].poll(now),
            Medium::Wire(_) => None,
        };
        self.look();
        parcel
    }

    /// When the next message of a model arrives; a real link says so by itself.
    pub(crate) const fn next_timeout(&self) -> Option<Timestamp> {
        self.due
    }

    /// Looks when that is, for it may have changed.
    fn look(&mut self) {
        self.due = match &self.medium {
            Medium::Nets(nets) => nets.iter().filter_map(Netem::next_timeout).min(),
            Medium::Wire(_) => None,
        };
    }

    pub(crate) fn cut(&mut self) {
        match &mut self.medium {
            Medium::Nets(nets) => nets.iter_mut().for_each(Netem::cut),
            Medium::Wire(wire) => wire.cut(),
        }
        self.look();
    }

    pub(crate) fn mend(&mut self, now: Timestamp) {
        match &mut self.medium {
            Medium::Nets(nets) => nets.iter_mut().for_each(|net| net.mend(now)),
            Medium::Wire(wire) => wire.mend(),
        }
        self.look();
    }

    pub(crate) fn is_cut(&self) -> bool {
        match &self.medium {
            Medium::Nets(nets) => nets[0].is_cut(),
            Medium::Wire(wire) => wire.is_cut(),
        }
    }

    pub(crate) fn set_conditions(&mut self, conditions: Conditions) {
        match &mut self.medium {
            Medium::Nets(nets) => nets
                .iter_mut()
                .for_each(|net| net.set_conditions(conditions)),
            Medium::Wire(wire) => wire.set_conditions(conditions),
        }
        self.look();
    }

    /// The command frames that are still under way to an end of a model.
    pub(crate) fn commands_under_way(&mut self, end: usize) -> Vec<Bytes> {
        let Medium::Nets(nets) = &mut self.medium else {
            return Vec::new();
        };
        nets[end].mend(Timestamp::ZERO);
        let forever = Timestamp::from_micros(u64::MAX);
        let parcels = std::iter::from_fn(|| nets[end].poll(forever));
        let command = |parcel| match parcel {
            Parcel::Frame { command, .. } => Some(command?.bytes().clone()),
            Parcel::Closed => None,
        };
        let commands = parcels.filter_map(command).collect();
        self.look();
        commands
    }
}

fn flow(channel: Channel) -> Flow {
    match channel.delivery() {
        Delivery::ReliableOrdered => Flow::Stream(channel.number()),
        Delivery::UnreliableUnordered => Flow::Datagram,
    }
}
