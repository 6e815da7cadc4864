#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod clock;
mod config;
mod error;
mod event;
mod grant;
mod reconnect;
mod socket;
mod task;
mod token;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use roundtable_core::PeerId;
use roundtable_signaling_protocol::Request;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::timeout,
};

pub use config::{Backoff, ClientConfig, ConfigError};
pub use error::{EndReason, JoinError, RequestError};
pub use event::{ClientState, Event, EventStream};
pub use roundtable_signaling_protocol::{
    AnswerBody, Capabilities, Capability, Description, ErrorCode, IceCandidate, IceServer, Joined,
    Kind, LeaveReason, OfferBody, PeerInfo, RequestId,
};
pub use token::{TokenError, TokenSource};

use crate::task::{COMMAND_QUEUE, Channels, Command, Task};

/// How long a request may take, time spent reconnecting included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A peer's place in a room on a signaling server. Cheap to clone; one task owns the socket. The
/// task ends, and leaves the room, once every clone is dropped.
#[derive(Debug, Clone)]
pub struct SignalingClient {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<ClientState>,
    ice_servers: watch::Receiver<Vec<IceServer>>,
    hints: Arc<Hints>,
}

/// What the application knows about the network.
#[derive(Debug, Default)]
struct Hints {
    /// It may be there again.
    reconnect: Notify,
    /// It is another one.
    network: Notify,
    /// Somebody waits for it.
    urgent: AtomicBool,
}

impl Hints {
    fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Relaxed)
    }
}

impl SignalingClient {
    /// Connects and enters the room. From then on the client reconnects by itself and tells of it
    /// in the event stream.
    ///
    /// # Errors
    /// [`JoinError`] says what to do about it. Nothing is left running then.
    pub async fn join(config: ClientConfig) -> Result<(Self, Joined, EventStream), JoinError> {
        let first = task::random() as usize % config.urls().len();
        let (socket, joined, server) = socket::join_any(&config, first).await?;
        let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
        let (event_queue, events) = mpsc::channel(event::QUEUE);
        let (state_writer, state) = watch::channel(ClientState::Connected);
        let (ice_writer, ice_servers) = watch::channel(joined.ice_servers.clone());
        let hints = Arc::new(Hints::default());
        let channels = Channels {
            commands: command_queue,
            events: event_queue,
            state: state_writer,
            ice_servers: ice_writer,
            hints: Arc::clone(&hints),
        };
        let task = Task::new(config, &joined, server, channels);
        tokio::spawn(task.run(socket));
        let client = Self {
            commands,
            state: state.clone(),
            ice_servers,
            hints,
        };
        Ok((client, joined, EventStream::new(events, state)))
    }

    /// Offers a link to `to`. Returns the id that the answer, the candidates and
    /// [`Event::OfferExpired`] will carry, as soon as the server has passed the offer on.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn offer(&self, to: &PeerId, body: OfferBody) -> Result<RequestId, RequestError> {
        let request_id = random_request_id()?;
        let request = Request::Offer {
            to: to.clone(),
            request_id: request_id.clone(),
            body,
        };
        self.call(request).await?;
        Ok(request_id)
    }

    /// Answers the offer `request_id` of `to`.
    ///
    /// # Errors
    /// [`RequestError`]; `OfferExpired` if it came too late or was answered before.
    pub async fn answer(
        &self,
        to: &PeerId,
        request_id: &RequestId,
        body: AnswerBody,
    ) -> Result<(), RequestError> {
        let request = Request::Answer {
            to: to.clone(),
            request_id: request_id.clone(),
            body,
        };
        self.call(request).await
    }

    /// Trickles a candidate of the negotiation `request_id`. Returns once it is written; the server
    /// does not acknowledge candidates.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn candidate(
        &self,
        to: &PeerId,
        request_id: &RequestId,
        candidate: IceCandidate,
    ) -> Result<(), RequestError> {
        let request = Request::Candidate {
            to: to.clone(),
            request_id: request_id.clone(),
            candidate,
        };
        self.call(request).await
    }

    /// Ends every negotiation with `to`, who is told `reason` (at most 200 bytes).
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn disconnect(&self, to: &PeerId, reason: &str) -> Result<(), RequestError> {
        let request = Request::Disconnect {
            to: Some(to.clone()),
            reason: reason.to_owned(),
        };
        self.call(request).await
    }

    /// Says that the network may have changed: a pending reconnect is tried at once, and a live
    /// connection is asked for a sign of life within 5 s, or 1 s while it is [urgent](Self::set_urgent).
    pub fn hint_reconnect_now(&self) {
        self.hints.reconnect.notify_one();
    }

    /// Says whether somebody waits for the connection, such as a user whose links are silent. While it is lost then, it is
    /// tried every 500 ms, and an attempt that does not get through is replaced rather than waited for; otherwise pauses
    /// grow ([`Backoff`]). A server that asks for patience gets it either way. Not urgent at first; to be said for a minute
    /// at most, as many may be in the same hurry.
    pub fn set_urgent(&self, urgent: bool) {
        self.hints.urgent.store(urgent, Ordering::Relaxed);
    }

    /// Says that this machine is on another network now, as when it changes from one wireless network
    /// to the next: a new connection is made at once, and takes the place of the old one, which may
    /// hang there for long.
    pub fn network_changed(&self) {
        self.hints.network.notify_one();
    }

    /// The client's state, to be looked at or waited on.
    pub fn state(&self) -> watch::Receiver<ClientState> {
        self.state.clone()
    }

    /// The STUN and TURN servers to gather candidates with now, to be looked at or waited on. Credentials are renewed at
    /// some moment of their life's third quarter, by a new connection that takes the place of the old one ([`Event::Resumed`]); while no server can be reached the last ones stay. Connections that relay already go on with what
    /// they have.
    pub fn ice_servers(&self) -> watch::Receiver<Vec<IceServer>> {
        self.ice_servers.clone()
    }

    /// Leaves the room and returns when the socket and the task are gone, at most 2 s later. The
    /// other clones' requests fail from then on.
    pub async fn leave(self) {
        let (done, gone) = oneshot::channel();
        if self.commands.send(Command::Leave { done }).await.is_ok() {
            // Fails when the task had ended by itself: just as well.
            let _ = gone.await;
        }
    }

    async fn call(&self, request: Request) -> Result<(), RequestError> {
        let (done, answer) = oneshot::channel();
        let exchange = async {
            let command = Command::Call { request, done };
            let sent = self.commands.send(command).await;
            sent.map_err(|_| RequestError::Ended)?;
            answer.await.map_err(|_| RequestError::Ended)?
        };
        let answer = timeout(REQUEST_TIMEOUT, exchange).await;
        answer.map_err(|_| RequestError::Timeout)?
    }
}

fn random_request_id() -> Result<RequestId, RequestError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| RequestError::NoRandomness)?;
    Ok(RequestId::from_random(bytes))
}
