//! What a session wants done, in order.

use std::collections::VecDeque;

use roundtable_core::{Channel, Frame};
use roundtable_wire::session::Control;

use crate::{
    event::{Event, LinkId, Output},
    handshake::Refusal,
};

/// The outputs of the inputs so far. The shell empties it after each input, so it holds no more
/// than one input makes.
#[derive(Default)]
pub(crate) struct Outbox(VecDeque<Output>);

impl Outbox {
    pub(crate) fn pop(&mut self) -> Option<Output> {
        self.0.pop_front()
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.0.push_back(Output::Event(event));
    }

    pub(crate) fn transmit(&mut self, link: LinkId, frame: Frame) {
        self.0.push_back(Output::Transmit { link, frame });
    }

    pub(crate) fn control(&mut self, link: LinkId, message: &Control) {
        self.transmit(link, Frame::binary(Channel::Control, message.encode()));
    }

    pub(crate) fn close(&mut self, link: LinkId, refusal: Refusal) {
        let Refusal { code, reason } = refusal;
        self.0.push_back(Output::Close { link, code, reason });
    }
}
