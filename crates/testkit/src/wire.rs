//! Real links between simulated peers: QUIC and WebRTC over a duct, in a runtime whose clock is the world's.

use std::{collections::BTreeMap, sync::Arc};

use ed25519_dalek::SigningKey;
use roundtable_core::{
    AuthorId, Channel, ChannelBinding, Clock, CloseCode, Delivery, Frame, Timestamp, TransportKind,
};
use roundtable_netem::Conditions;
use roundtable_transport::{Link, SystemClock};
use tokio::{
    runtime::{Handle, Runtime},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use crate::{
    dial::{DialError, WireLink, dial},
    duct::Duct,
    setup::virtual_runtime,
};

/// The runtime in which a world's links live, and what they report.
pub(crate) struct Ether {
    runtime: Runtime,
    /// World time and the runtime's when it began.
    began: (Timestamp, Timestamp),
    noted: mpsc::UnboundedReceiver<Noted>,
    notes: mpsc::UnboundedSender<Noted>,
}

/// Something that happened at one end of a link.
pub(crate) struct Noted {
    pub(crate) cable: u64,
    pub(crate) end: usize,
    pub(crate) what: What,
}

pub(crate) enum What {
    Up(TransportKind, ChannelBinding, Option<AuthorId>),
    Frame(Frame),
    /// The link ended, or never came about.
    Down,
}

impl Ether {
    /// A runtime that begins now, at the world's `now`.
    pub(crate) fn new(now: Timestamp) -> std::io::Result<Self> {
        let runtime = virtual_runtime()?;
        let (notes, noted) = mpsc::unbounded_channel();
        let start = runtime.block_on(async { SystemClock.now() });
        Ok(Self {
            runtime,
            began: (now, start),
            noted,
            notes,
        })
    }

    /// Lets the links live until `until`, or until one has something to say, whichever comes first;
    /// returns the time. A timer ticks every millisecond, so it may be a little later.
    pub(crate) fn run_until(&mut self, until: Timestamp) -> (Timestamp, Option<Noted>) {
        let (world, start) = self.began;
        let due = SystemClock::instant(start + until.saturating_since(world));
        let noted = &mut self.noted;
        self.runtime.block_on(async {
            let noted = tokio::select! {
                biased;
                noted = noted.recv() => noted,
                () = tokio::time::sleep_until(due.into()) => None,
            };
            (world + SystemClock.now().saturating_since(start), noted)
        })
    }

    /// Two peers begin to dial, the first offering.
    pub(crate) fn dial(
        &self,
        cable: u64,
        kind: TransportKind,
        keys: [SigningKey; 2],
        (seed, conditions): (u64, Conditions),
    ) -> Wire {
        let _inside = self.runtime.enter();
        let duct = Duct::new(seed, conditions);
        let (offerer, answerer) = dial(kind, [duct.end(0), duct.end(1)], keys);
        let [near, far] = [0, 1].map(|end| {
            let (orders, queue) = mpsc::unbounded_channel();
            let notes = Notes {
                cable,
                end,
                notes: self.notes.clone(),
            };
            (orders, (queue, notes))
        });
        let tasks = [
            tokio::spawn(live(offerer, near.1)).abort_handle(),
            tokio::spawn(live(answerer, far.1)).abort_handle(),
        ];
        Wire {
            duct,
            tasks,
            orders: [near.0, far.0],
            undecided: [true; 2],
            is_cut: false,
            handle: self.runtime.handle().clone(),
        }
    }
}

/// A link, or the attempt at one. When dropped, both ends are gone at once.
pub(crate) struct Wire {
    duct: Duct,
    tasks: [AbortHandle; 2],
    orders: [mpsc::UnboundedSender<Order>; 2],
    /// Which ends have neither a link nor given up.
    pub(crate) undecided: [bool; 2],
    is_cut: bool,
    handle: Handle,
}

/// What a peer asks of its end.
enum Order {
    Send(Frame),
    Close(CloseCode, String),
}

impl Wire {
    pub(crate) fn send(&self, from: usize, frame: Frame) {
        // An end that is gone has said so.
        let _ = self.orders[from].send(Order::Send(frame));
    }

    pub(crate) fn close(&self, end: usize, code: CloseCode, reason: &str) {
        let _ = self.orders[end].send(Order::Close(code, reason.to_owned()));
    }

    /// An end dies without a word.
    pub(crate) fn kill(&mut self, end: usize) {
        self.duct.mute(end);
        self.tasks[end].abort();
        self.undecided[end] = false;
    }

    pub(crate) fn cut(&mut self) {
        self.is_cut = true;
        self.duct.cut();
    }

    pub(crate) fn mend(&mut self) {
        let _inside = self.handle.enter();
        self.is_cut = false;
        self.duct.mend();
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(crate) fn readdress(&self, end: usize) {
        self.duct.readdress(end);
    }

    pub(crate) fn set_conditions(&self, conditions: Conditions) {
        self.duct.set_conditions(conditions);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Where one end reports.
struct Notes {
    cable: u64,
    end: usize,
    notes: mpsc::UnboundedSender<Noted>,
}

impl Notes {
    fn tell(&self, what: What) {
        let (cable, end) = (self.cable, self.end);
        // An error means that the world has ended.
        let _ = self.notes.send(Noted { cable, end, what });
    }
}

/// One end of a link, from the dial until it closes.
async fn live(
    dialling: impl Future<Output = Result<WireLink, DialError>>,
    (mut orders, notes): (mpsc::UnboundedReceiver<Order>, Notes),
) {
    let link = match dialling.await {
        Ok(link) => Arc::new(link),
        Err(_) => return notes.tell(What::Down),
    };
    notes.tell(What::Up(link.kind(), link.binding(), link.remote_author()));
    let mut writers = Writers::default();
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Send(frame)) => writers.send(&link, frame),
                Some(Order::Close(code, reason)) => return link.close(code, &reason).await,
                None => return,
            },
            received = link.recv() => match received {
                Ok(frame) => notes.tell(What::Frame(frame)),
                Err(_) => return notes.tell(What::Down),
            },
        }
    }
}

/// A queue for each reliable channel, so that none waits for another. They end when this is dropped.
#[derive(Default)]
struct Writers {
    queues: BTreeMap<u8, mpsc::UnboundedSender<Frame>>,
    tasks: JoinSet<()>,
}

impl Writers {
    fn send(&mut self, link: &Arc<WireLink>, frame: Frame) {
        let channel: Channel = frame.channel;
        if channel.delivery() == Delivery::UnreliableUnordered {
            // What finds no room is as good as lost, and so is what a hostile peer may not send.
            let _ = link.try_send(frame);
            return;
        }
        let tasks = &mut self.tasks;
        let queue = self.queues.entry(channel.number()).or_insert_with(|| {
            let (sender, mut queue) = mpsc::unbounded_channel();
            let link = link.clone();
            tasks.spawn(async move {
                while let Some(frame) = queue.recv().await {
                    // The link's own end says why.
                    let _ = link.send(frame).await;
                }
            });
            sender
        });
        let _ = queue.send(frame);
    }
}
